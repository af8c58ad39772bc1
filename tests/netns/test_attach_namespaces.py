"""The helper that opens sockets in other namespaces."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tortie.attach import namespaces
from tortie.attach.namespaces import Namespaces, Setting
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
    opened = helper.open(workload)
    try:
        assert [link.name for link in opened.rtnl.links()] == ["lo"]
        assert kernel_netns.identity(opened.descriptor) == kernel_netns.identity(workload)
        opened.rtnl.create_bridge("only-there")
    finally:
        opened.close()
    with Rtnl.open() as here:
        assert "only-there" not in [link.name for link in here.links()]


def test_sysctls_of_an_interface_inside(helper: Namespaces, workload: str) -> None:
    descriptor = helper.hold(workload)
    settings = [Setting("lo", 6, "accept_ra", "0"), Setting("lo", 6, "no_such_key", "1")]
    helper.enter(descriptor, settings).close()
    os.close(descriptor)
    read = kernel_netns.run_in(
        workload, lambda: Path("/proc/sys/net/ipv6/conf/lo/accept_ra").read_text()
    )
    assert read == "0\n"


def test_what_is_no_network_namespace_is_refused(helper: Namespaces, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in ("/etc/hostname", str(fifo), "/proc/self/ns/uts"):
        with pytest.raises(InvalidInput):
            helper.open(path)
    with pytest.raises(NotFound):
        helper.open(str(tmp_path / "missing"))
    with pytest.raises(InvalidInput):
        helper.open("/" + "x" * 20_000)


def test_no_descriptor_is_left_behind(helper: Namespaces, workload: str) -> None:
    helper.open(workload).close()
    ours, theirs = len(os.listdir("/proc/self/fd")), _descriptors_of(helper)
    for _ in range(5):
        helper.open(workload).close()
        with pytest.raises(InvalidInput):
            helper.open("/etc/hostname")
    assert len(os.listdir("/proc/self/fd")) == ours
    assert _descriptors_of(helper) == theirs


def _descriptors_of(helper: Namespaces) -> int:
    """While it waits for the next request: it has answered the last one before it is done."""
    process = Path(f"/proc/{helper.helper_pid}")
    while (process / "stat").read_text().rpartition(")")[2].split()[0] != "S":
        time.sleep(0.001)
    return len(os.listdir(process / "fd"))


def test_threads_may_ask_at_once(helper: Namespaces, workload: str) -> None:
    names: list[list[str]] = []

    def ask() -> None:
        opened = helper.open(workload)
        names.append([link.name for link in opened.rtnl.links()])
        opened.close()

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert names == [["lo"]] * 8


def test_a_dead_helper_is_reported(helper: Namespaces, workload: str) -> None:
    os.kill(helper.helper_pid, signal.SIGKILL)
    with pytest.raises(Unavailable, match="restart the agent"):
        helper.open(workload)


def test_the_helper_ends_with_the_agent(netns: None) -> None:
    reading, writing = os.pipe()
    agent = os.fork()
    if agent == 0:
        os.write(writing, str(namespaces.start().helper_pid).encode())
        os.kill(os.getpid(), signal.SIGKILL)
    helper_pid = int(os.read(reading, 64))
    os.waitpid(agent, 0)
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline and _is_alive(helper_pid):
        time.sleep(0.01)
    assert not _is_alive(helper_pid)


def _is_alive(pid: int) -> bool:
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
