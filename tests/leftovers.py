"""What a run of tests has left behind on the machine, once all of its fixtures are torn down.

Whatever a test starts inherits a mark in its environment, and pytest's own note of the test that
ran when it was started; what has a name bears this process' number in it. So another run beside
this one is never taken for ours, and one look at the end is enough.
"""

import glob
import os
import re
import signal
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from tortie.lab import processes

PATIENCE_SECONDS = 10.0
"""For what was told to end, and has not ended yet."""

MARK = f"TORTIE_TEST_RUN={uuid.uuid4().hex}"
"""In the environment, as `NAME=value`."""
_OWN_NAME = re.compile(rf"(?<!\d){os.getpid()}(?!\d)")
_NAMED = ("/run/netns/*", "/run/tortie/labs/*", "/sys/fs/cgroup/*", "/sys/fs/cgroup/*/*")


def mark() -> None:
    """Before the first test: everything that is started from now on is known as ours."""
    name, _, value = MARK.partition("=")
    os.environ[name] = value


def names() -> frozenset[str]:
    """Of network namespaces, labs and cgroups with this process' number in them."""
    return frozenset(
        path
        for place in _NAMED
        for path in glob.glob(place)
        if _OWN_NAME.search(os.path.basename(path))
    )


def end(before: frozenset[str]) -> list[str]:
    """Kill the processes that are left; what they were, and what else is left, a line each.

    Args:
        before: `names()` then; an earlier process had this one's number.
    """
    give_up = time.monotonic() + PATIENCE_SECONDS
    while (left := started_by_tests()) and time.monotonic() < give_up:
        time.sleep(0.1)
    processes.stop(list(left), signal.SIGKILL)
    return [*left.values(), *sorted(names() - before)]


def started_by_tests() -> dict[int, str]:
    """Command and test of each process that runs, by its id."""
    return dict(_started())


def _started() -> Iterator[tuple[int, str]]:
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            environment = (entry / "environ").read_bytes().split(b"\0")
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
        except OSError:
            continue  # it ended meanwhile
        # Who was only forked has the environment that we were started with.
        is_child = parent == str(os.getpid()) and state != "Z"
        if is_child or MARK.encode() in environment:
            tests = [text for text in environment if text.startswith(b"PYTEST_CURRENT_TEST=")]
            since = b"".join(tests).partition(b"=")[2] or b"some test"
            yield int(entry.name), f"{_text(command)} (started in {_text(since)})"


def is_running(pid: int) -> bool:
    """Is there such a process, and has it not ended? Its parent may be slow to notice."""
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace").strip()
