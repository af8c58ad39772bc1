"""The helper that opens sockets in other namespaces."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.leftovers import is_running

from tortie.attach import namespaces
from tortie.attach.namespaces import Namespaces
from tortie.kernel import netns as kernel_netns
from tortie.kernel.rtnl.connection import Rtnl
from tortie.lib.errors import InvalidInput, NotFound, Unavailable


@pytest.fixture
def helper(netns: None) -> Iterator[Namespaces]:
    started = namespaces.start()
    yield started
    started.close()


@pytest.fixture
def workload() -> Iterator[str]:
    """Path of an empty namespace of its own."""
    descriptor = kernel_netns.create_anonymous()
    yield f"/proc/{os.getpid()}/fd/{descriptor}"
    os.close(descriptor)


def test_the_socket_lives_in_the_other_namespace(helper: Namespaces, workload: str) -> None:
    with Rtnl.open() as here:
        here.create_bridge("only-here")
    opened = asyncio.run(helper.open(workload))
    try:
        assert [link.name for link in opened.rtnl.links()] == ["lo"]
        assert kernel_netns.identity(opened.descriptor) == kernel_netns.identity(workload)
        opened.rtnl.create_bridge("only-there")
    finally:
        opened.close()
    with Rtnl.open() as here:
        assert "only-there" not in [link.name for link in here.links()]


def test_what_is_no_network_namespace_is_refused(helper: Namespaces, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in ("/etc/hostname", str(fifo), "/proc/self/ns/uts"):
        with pytest.raises(InvalidInput):
            asyncio.run(helper.open(path))
    with pytest.raises(NotFound):
        asyncio.run(helper.open(str(tmp_path / "missing")))
    with pytest.raises(InvalidInput):
        asyncio.run(helper.open("/" + "x" * 20_000))


def test_no_descriptor_is_left_behind(helper: Namespaces, workload: str) -> None:
    asyncio.run(helper.open(workload)).close()
    ours, theirs = len(os.listdir("/proc/self/fd")), _descriptors_of(helper)
    for _ in range(5):
        asyncio.run(helper.open(workload)).close()
        with pytest.raises(InvalidInput):
            asyncio.run(helper.open("/etc/hostname"))
    assert len(os.listdir("/proc/self/fd")) == ours
    assert _descriptors_of(helper) <= theirs, "it was born with some, which go"


def _descriptors_of(helper: Namespaces) -> int:
    """While it waits for the next request: it has answered the last one before it is done."""
    process = Path(f"/proc/{helper.helper_pid}")
    while (process / "stat").read_text().rpartition(")")[2].split()[0] != "S":
        time.sleep(0.001)
    return len(os.listdir(process / "fd"))


def test_many_ask_at_once_and_some_go_away(helper: Namespaces, workload: str) -> None:
    """Each gets its own answer, and what comes for those that are gone is closed."""
    asyncio.run(helper.open(workload)).close()
    before = len(os.listdir("/proc/self/fd"))

    async def names(path: str) -> list[str]:
        opened = await helper.open(path)
        try:
            return [link.name for link in opened.rtnl.links()]
        finally:
            opened.close()

    async def go() -> list[list[str] | BaseException]:
        paths = [workload if number % 2 else "/etc/hostname" for number in range(40)]
        asked = [asyncio.create_task(names(path)) for path in paths]
        await asyncio.sleep(0)
        for task in asked[5::14]:
            task.cancel()
        return await asyncio.gather(*asked, return_exceptions=True)

    for number, found in enumerate(asyncio.run(go())):
        if number % 14 == 5:
            assert isinstance(found, asyncio.CancelledError)
        elif number % 2:
            assert found == ["lo"]
        else:
            assert isinstance(found, InvalidInput)
    assert asyncio.run(names(workload)) == ["lo"]
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_dead_helper_is_reported(helper: Namespaces, workload: str) -> None:
    os.kill(helper.helper_pid, signal.SIGKILL)
    with pytest.raises(Unavailable, match="restart the agent"):
        asyncio.run(helper.open(workload))


def test_the_helper_ends_with_the_agent(netns: None) -> None:
    reading, writing = os.pipe()
    agent = os.fork()
    if agent == 0:
        os.write(writing, str(namespaces.start().helper_pid).encode())
        os.kill(os.getpid(), signal.SIGKILL)
    helper_pid = int(os.read(reading, 64))
    os.waitpid(agent, 0)
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline and is_running(helper_pid):
        time.sleep(0.01)
    assert not is_running(helper_pid)
