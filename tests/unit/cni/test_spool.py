"""Removals that have to wait, on disk."""

import asyncio
import os
from pathlib import Path

import pytest

from tortie.attach.cni.spool import Spool, spooled
from tortie.attach.requests import Cni
from tortie.lib.errors import InvalidInput, Unavailable


def removal(container: str, handle: int = -1) -> Cni:
    environment = {"CNI_CONTAINERID": container}
    return Cni(plugin="tortie-ipam", command="DEL", environment=environment, handle=handle)


class Doing:
    """Does removals; some of them never, or not yet."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.away: set[str] = set()
        self.at_once = self.most_at_once = 0

    async def __call__(self, request: Cni) -> None:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        container = request.environment["CNI_CONTAINERID"]
        if container in self.away:
            raise Unavailable("no answer")
        if container == "never":
            raise InvalidInput("nonsense")
        self.done.append(container)


def test_one_that_has_to_wait_stops_no_other(tmp_path: Path) -> None:
    act = Doing()
    directory = tmp_path / "deep" / "spool"

    async def go() -> None:
        spool = Spool(directory, act)
        assert await spool.work_off(), "nothing waits in a directory that is not there"
        for container in ("a", "never", "b", "a"):
            await spool.keep(removal(container, handle=7))
        assert len(list(directory.iterdir())) == 3, "the same one twice is one"
        act.away = {"a"}
        assert not await spool.work_off()
        assert (act.done, spool.waiting) == (["b"], frozenset("a"))
        act.away = set()
        again = Spool(directory, act)
        assert await again.work_off()
        assert (act.done, again.waiting) == (["b", "a"], frozenset())

    asyncio.run(go())
    assert list(directory.iterdir()) == []
    assert directory.stat().st_mode & 0o777 == 0o700


def test_what_is_kept_is_done_without_asking_and_once(tmp_path: Path) -> None:
    act = Doing()

    async def go() -> None:
        spool = Spool(tmp_path / "spool", act)
        running = asyncio.create_task(spool.run())
        await asyncio.sleep(0)
        await spool.keep(removal("a"))
        await asyncio.gather(*(spool.work_off() for _ in range(4)))
        async with asyncio.timeout(10):
            await spool.keep(removal("b"))
            while act.done != ["a", "b"]:
                await asyncio.sleep(0.01)
        running.cancel()

    asyncio.run(go())
    assert act.most_at_once == 1


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("in the way")

    with pytest.raises(Unavailable, match=str(tmp_path / "spool")):
        asyncio.run(Spool(tmp_path / "spool", Doing()).keep(removal("a")))


def test_what_its_plugin_takes_back_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent that comes back answers the plugin, which then deletes what it wrote."""
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text("{}")
    tmp_path.chmod(0o700)
    scan = os.scandir

    def and_then_one_goes(path: Path) -> object:
        found = scan(path)
        (tmp_path / "a.json").unlink()
        return found

    monkeypatch.setattr("tortie.attach.cni.spool.os.scandir", and_then_one_goes)
    assert spooled(tmp_path) == [tmp_path / "b.json"]
