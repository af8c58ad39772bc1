"""K25 under a real agent: no thread to be had, no byte to be written in /run, /var read-only.

Policy is enforced all the time; what cannot be done is refused, told, and done when it can be.
"""

import re
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.e2e.live import LiveLab, running_lab
from tests.faults.test_agent import ISOLATE_B, OPEN_B

from tortie.kernel import netns
from tortie.lab import cluster, processes, workloads
from tortie.lab.description import Workload

PIDS = Path("/sys/fs/cgroup/pids")
LINES_OF_LOG = 60
"""That a scarcity may cost, at most: it is told, and not told all the time."""


@pytest.fixture(scope="module")
def lab() -> Iterator[LiveLab]:
    with running_lab("scr", hosts=1) as made:
        for name in ("a", "b"):
            made.add(name, "h1", role=name)
        yield made


def enforces(lab: LiveLab, folder: Path) -> None:
    """What is decided now is in force at once."""
    lab.apply(OPEN_B, folder)
    lab.eventually(lambda: lab.reaches("red/a", "red/b"), "b stays closed")
    lab.apply(ISOLATE_B, folder)
    assert not lab.reaches("red/a", "red/b")


@contextmanager
def quiet(lab: LiveLab) -> Iterator[None]:
    before = len(lab.agent_log("h1").splitlines())
    yield
    lines = lab.agent_log("h1").splitlines()[before:]
    assert len(lines) < LINES_OF_LOG, lines[-5:]
    assert not any("Traceback" in line for line in lines), lines


@contextmanager
def no_threads(pid: int) -> Iterator[None]:
    group = PIDS / f"tortie-{pid}"
    group.mkdir()
    try:
        (group / "cgroup.procs").write_text(str(pid))
        (group / "pids.max").write_text((group / "pids.current").read_text())
        yield
        refused = re.findall(r"max (\d+)", (group / "pids.events").read_text())
        assert int(refused[0]), "it wanted no thread"
    finally:
        if Path(f"/proc/{pid}").exists():
            (PIDS / "cgroup.procs").write_text(str(pid))
        group.rmdir()


def test_k25_no_thread_is_left(lab: LiveLab, tmp_path: Path) -> None:
    """What needs some waits for the one there is: a container that goes, and one that comes."""
    lab.stop_agent("h1")
    lab.start_agent("h1")  # with few threads yet
    pid = lab.agent_pid("h1")
    with quiet(lab), no_threads(pid):
        enforces(lab, tmp_path)
        come_and_go(lab, [Workload(f"t{number}", "red", "h1") for number in range(6)])
        enforces(lab, tmp_path)
    assert lab.agent_pid("h1") == pid
    enforces(lab, tmp_path)


def come_and_go(lab: LiveLab, many: list[Workload]) -> None:
    """All at once."""
    for one in many:
        netns.create_named(lab.lab.workload_namespace(one))
    try:
        with ThreadPoolExecutor(len(many)) as pool:
            made = list(pool.map(lambda one: workloads._attach(lab.lab, one, ()), many))
            assert all(one.addresses for one in made)
            list(pool.map(lambda one: workloads._detach(lab.lab, one, keep_addresses=False), made))
    finally:
        for one in many:
            netns.delete_named(lab.lab.workload_namespace(one))


@contextmanager
def read_only(directory: Path) -> Iterator[None]:
    subprocess.run(["mount", "--bind", str(directory), str(directory)], check=True)
    try:
        subprocess.run(
            ["mount", "-o", "remount,ro,bind", str(directory), str(directory)], check=True
        )
        with pytest.raises(OSError, match="Read-only"):
            (directory / "x").write_text("")
        yield
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


def test_k25_var_is_read_only(lab: LiveLab, tmp_path: Path) -> None:
    """No workload comes without a record of it; all else goes on, over a restart, too."""
    with quiet(lab), read_only(lab.lab.host_directory("h1") / "state"):
        enforces(lab, tmp_path)
        refused = lab.tortie(
            "lab", "workload", "add", "--name", lab.name, "c", "--host", "h1", "-n", "red"
        )
        assert refused.code != 0
        assert "Read-only" in refused.err, refused
        lab.stop_agent("h1")
        lab.start_agent("h1")
        enforces(lab, tmp_path)
    lab.add("c", "h1", role="c")
    lab.eventually(lambda: lab.reaches("red/b", "red/c"), "it comes when it can be written down")
    lab.remove("red/c")


@contextmanager
def full(directory: Path) -> Iterator[None]:
    """A file system of its own, and not a byte left in it."""
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs", str(directory)], check=True
    )
    try:
        rest = directory / "rest"
        written = subprocess.run(["dd", "if=/dev/zero", f"of={rest}"], stderr=subprocess.PIPE)
        assert b"No space left" in written.stderr
        yield
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


def test_k25_run_is_full(lab: LiveLab, tmp_path: Path) -> None:
    """An agent starts, and enforces, where nothing can be written. Nobody owns the tables then."""
    host = lab.lab.host("h1")
    directory = lab.lab.host_directory("h1")
    ours = [lab.agent_pid("h1"), *_keepers(lab)]
    processes.stop(ours, signal.SIGKILL)
    with full(directory):
        started = cluster.start_agent(lab.lab, host)
        cluster.wait_ready(lab.lab, {host: started})
        enforces(lab, tmp_path)
        (directory / "rest").unlink()
        enforces(lab, tmp_path)
        processes.stop([started, *_keepers(lab)], signal.SIGKILL)
    lab.start_agent("h1")
    enforces(lab, tmp_path)


def _keepers(lab: LiveLab) -> list[int]:
    inside = processes.inside([lab.lab.host_namespace("h1")])
    return [pid for pid in inside if b"keeper.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]
