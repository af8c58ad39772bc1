"""Services end when they are asked to, and say what they failed of."""

import asyncio
import os
import signal

import pytest

from tortie.lib.errors import Unavailable
from tortie.lib.signals import until_signalled


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_work_in_order(number: signal.Signals) -> None:
    said: list[str] = []

    async def work() -> None:
        try:
            os.kill(os.getpid(), number)
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            said.append("ended")

    asyncio.run(until_signalled(work(), lambda: said.append("stopping")))
    assert said == ["stopping", "ended"]


def test_work_that_ends_by_itself_is_not_stopped() -> None:
    said: list[str] = []

    async def work() -> None:
        said.append("done")

    asyncio.run(until_signalled(work(), lambda: said.append("stopping")))
    assert said == ["done"]


def test_what_work_fails_of_is_told() -> None:
    async def work() -> None:
        raise Unavailable("away")

    with pytest.raises(Unavailable, match="away"):
        asyncio.run(until_signalled(work()))
