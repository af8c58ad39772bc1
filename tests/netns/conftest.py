"""A private network namespace for each test that touches the kernel; an end for keepers; what is
around a `host`, which each module makes as it needs it.
"""

import ctypes
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.netns.dataplane_host import Host, Workload, workloads
from tests.netns.outside import Machine, machines

CLONE_NEWNET = 0x40000000

libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


@pytest.fixture
def netns() -> Iterator[None]:
    """Put this thread in an empty network namespace, and back at the end.

    The namespace has no name, so there is nothing to clean up: the kernel
    frees it with its last user, even when the test run is killed. Sockets and
    child processes made during the test belong to it.

    Without root this fails: a skipped kernel test is a test that nobody ran.
    """
    if os.geteuid() != 0:
        pytest.fail("needs root; run under `unshare --map-root-user --net`")
    with open("/proc/thread-self/ns/net") as home:
        _check(libc.unshare(CLONE_NEWNET))
        try:
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            yield
        finally:
            _check(libc.setns(home.fileno(), CLONE_NEWNET))


@pytest.fixture
def outside(host: Host) -> Iterator[Machine]:
    with machines(host, "up0") as made:
        yield made[0]


@pytest.fixture
def two(host: Host) -> Iterator[tuple[Machine, Machine]]:
    """Machines on two links, with this host between them."""
    with machines(host, "up0", "up1") as made:
        yield made[0], made[1]


@pytest.fixture
def workload(host: Host) -> Iterator[Workload]:
    """One that may do all that others let it do."""
    with workloads(host, 1) as made:
        host.endpoint(made[0])
        yield made[0]


@pytest.fixture
def run_directory(tmp_path: Path, netns: None) -> Iterator[Path]:
    """Where a keeper may be started, which outlives whoever did."""
    yield tmp_path
    for pid in keepers(tmp_path):
        os.kill(pid, signal.SIGKILL)


def keepers(directory: Path) -> list[int]:
    """Their process ids."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                arguments = (process / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if arguments[-2:-1] == [str(directory).encode()]:
                found.append(int(process.name))
    return found
