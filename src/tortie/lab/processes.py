"""The lab's processes: started inside its namespaces, found again by them.

A process belongs to a lab exactly if it lives in one of the lab's network
namespaces. So nothing has to be remembered to stop them all, and a crash
half-way through `up` leaves nothing that `down` cannot find.
"""

import os
import select
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tortie.kernel import netns
from tortie.lab import topology

STOP_SECONDS = 5.0


def start(
    namespace: str,
    argv: Sequence[str],
    log: Path,
    *,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
) -> int:
    """Start a daemon in a namespace, its output to `log`; returns its process id.

    Args:
        environment: beside ours.
        directory: to run in; None means ours.
    """
    with open(log, "ab") as output:
        process = netns.spawn_in(
            netns.named_path(namespace),
            argv,
            stdout=output,
            stderr=output,
            cwd=None if directory is None else str(directory),
            env={**os.environ, **(environment or {})},
            own_session=True,
        )
    # It outlives us and nobody waits for it here: say so, or Popen warns.
    process.returncode = 0
    return process.pid


def inside(names: Sequence[str]) -> list[int]:
    """Process ids in any of the namespaces."""
    identities = {netns.identity(netns.named_path(name)) for name in names}
    return [pid for pid, identity in _namespaces_by_pid() if identity in identities]


def stop_all(lab_prefix: str) -> None:
    """Stop every process of a lab: a polite signal, then the other one."""
    names = topology.namespaces(lab_prefix)
    for number in (signal.SIGTERM, signal.SIGKILL):
        # More may have been started while we stopped others.
        for _ in range(3):
            pids = inside(names)
            if not pids:
                return
            stop(pids, number)


def stop(pids: Sequence[int], number: signal.Signals = signal.SIGTERM) -> None:
    """Signal processes and wait until they are gone, or `STOP_SECONDS` are over."""
    waiting = {}
    for pid in pids:
        try:
            descriptor = os.pidfd_open(pid)
            signal.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            continue
        waiting[descriptor] = pid
    poll = select.poll()
    for descriptor in waiting:
        poll.register(descriptor, select.POLLIN)
    give_up = time.monotonic() + STOP_SECONDS
    while waiting and (left_seconds := give_up - time.monotonic()) > 0:
        for descriptor, _ in poll.poll(left_seconds * 1000):
            poll.unregister(descriptor)
            os.close(descriptor)
            _reap(waiting.pop(descriptor))
    for descriptor in waiting:
        os.close(descriptor)


def alive(pid: int) -> bool:
    _reap(pid)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _reap(pid: int) -> None:
    """If it was a child of ours, take its exit status, so that no zombie stays."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return


def _namespaces_by_pid() -> Iterator[tuple[int, tuple[int, int]]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found = os.stat(entry / "ns" / "net")
            except OSError:
                continue  # it ended meanwhile
            yield int(entry.name), (found.st_dev, found.st_ino)
