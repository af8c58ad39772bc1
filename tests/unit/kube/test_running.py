"""The controllers' life, begun anew whenever it fails; what lives in it has its own tests."""

import asyncio
from typing import Any

import pytest

from tortie.kube import running
from tortie.kube.running import Running
from tortie.lib.errors import Unavailable
from tortie.lib.health import Health


class Failing(Running):
    """Every life ends as soon as it has begun."""

    async def _run_once(self) -> None:
        async def fail() -> None:
            await asyncio.sleep(0)
            raise Unavailable("the connection is lost")

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(fail())
            await asyncio.Event().wait()


@pytest.mark.parametrize("turns", range(8))
def test_it_ends_when_told_to_just_as_it_fails(turns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "RETRY_SECONDS", 0.0)
    nothing: Any = None

    async def go() -> None:
        task = asyncio.create_task(Failing(nothing, nothing, {}, Health()).run())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=2.0)
        assert done, "it went on"
        assert task.cancelled()

    asyncio.run(go())
