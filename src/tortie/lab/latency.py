"""How long from a commit in the datastore until packets feel it, seen from outside.

One loop in one process: write, then send a datagram every few microseconds
until one arrives. The clock starts before the write, so the datastore's own
work is counted. Every datagram is a new connection to the rules, because the
receiver never answers.
"""

import asyncio
import socket
import statistics
import time
from collections.abc import Sequence
from typing import NamedTuple

from tortie.datastore.client import Client
from tortie.kernel import netns
from tortie.lib.errors import Unavailable
from tortie.lib.ip import Network

GIVE_UP_SECONDS = 5.0
QUIET_SECONDS = 0.02
_PAUSE_SECONDS = 0.00003


class Change(NamedTuple):
    """One key with two values: one that closes a path, one that opens it."""

    key: str
    closing: bytes
    opening: bytes


class Path:
    """A UDP path between two namespaces. Use as a context manager."""

    def __init__(self, sender: str, receiver: str, destination: Network, port: int) -> None:
        family = socket.AF_INET if destination.family == 4 else socket.AF_INET6
        self._out = netns.open_socket_in(sender, family, socket.SOCK_DGRAM)
        self._in = netns.open_socket_in(receiver, family, socket.SOCK_DGRAM)
        self._in.bind((destination.address_text, port))
        self._in.setblocking(False)
        self._out.connect((destination.address_text, port))
        self._out.setblocking(False)

    def __enter__(self) -> "Path":
        return self

    def __exit__(self, *_: object) -> None:
        self._out.close()
        self._in.close()

    def passes(self) -> bool:
        """Send one datagram; whether it, or an earlier one, has arrived."""
        try:
            self._out.send(b"?")
            self._in.recv(16)
        except (BlockingIOError, ConnectionRefusedError, PermissionError):
            return False
        return True

    def drain(self) -> None:
        try:
            while True:
                self._in.recv(16)
        except BlockingIOError:
            return


async def commit_to_first_packet(
    client: Client, change: Change, path: Path, count: int
) -> list[float]:
    """Seconds from before the write until the first packet passes, `count` times.

    Raises:
        Unavailable: a change was not enforced within `GIVE_UP_SECONDS`.
    """
    found = []
    for _ in range(count):
        await client.put(change.key, change.closing)
        await _until_closed(path)
        began = time.perf_counter()
        await client.put(change.key, change.opening)
        while not path.passes():
            if time.perf_counter() - began > GIVE_UP_SECONDS:
                raise Unavailable("the change was not enforced")
            time.sleep(_PAUSE_SECONDS)  # noqa: ASYNC251 - a loop iteration would take longer
        found.append(time.perf_counter() - began)
    return found


async def _until_closed(path: Path) -> None:
    """Return when nothing has passed for a while."""
    began = quiet_since = time.perf_counter()
    while (now := time.perf_counter()) - quiet_since < QUIET_SECONDS:
        if path.passes():
            quiet_since = now
        if now - began > GIVE_UP_SECONDS:
            raise Unavailable("the path does not close")
        await asyncio.sleep(0.001)
    path.drain()


def summary(seconds: Sequence[float]) -> str:
    """`median 2.1 ms, worst 3.4 ms of 10 tries`."""
    median = statistics.median(seconds) * 1000
    return f"median {median:.1f} ms, worst {max(seconds) * 1000:.1f} ms of {len(seconds)} tries"
