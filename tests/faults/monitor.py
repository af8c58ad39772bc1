"""What always runs while something is broken: a verdict and a connection monitor; and what is
looked at behind it: the difference of states, and the census of what leaked.

Each probe is a new flow (its ports are its number), so that no connection that
was allowed once lets it through.
"""

import gc
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from tests.attacks.arena import Arena, packet_socket
from tests.attacks.packets import datagram

PAUSE_SECONDS = 0.0003
HEARTBEAT_SECONDS = 0.005
STALLED_SECONDS = 10.0
"""A connection without an answer for so long counts as broken. What is lost is sent again after
0.2 s, 0.4, 0.8 and so on: on a busy machine, with one fault upon another, that adds up."""
_QUIET_SECONDS = 0.05
_PATIENCE_SECONDS = 20.0
_FIRST_PROBES = 10
_MAGIC = b"\x9dmonitor"


class Seen:
    """Counts, complete when the monitor has stopped."""

    def __init__(self) -> None:
        self.forbidden = self.allowed = 0
        """Sent."""
        self.leaked = self.delivered = 0
        """Arrived: of the first kind none should, of the second nearly all."""
        self.heartbeats = 0
        self.longest_gap_seconds = 0.0
        """Between two answers on one TCP connection."""
        self.broken: OSError | None = None

    def __str__(self) -> str:
        return (
            f"{self.leaked} of {self.forbidden} forbidden and {self.delivered} of {self.allowed} "
            f"allowed arrived; {self.heartbeats} heartbeats, gap {self.longest_gap_seconds:.3f} s"
        )


@contextmanager
def monitored(field: Arena) -> Iterator[Seen]:
    """From the attacker: datagrams to `guarded` (forbidden) and to `open`, and a connection."""
    seen, stop = Seen(), threading.Event()
    threads = [
        threading.Thread(target=_probe, args=(field, seen, stop)),
        threading.Thread(target=_converse, args=(field, seen, stop)),
    ]
    for thread in threads:
        thread.start()
    try:
        give_up = time.monotonic() + _PATIENCE_SECONDS
        while seen.forbidden <= _FIRST_PROBES or not (seen.heartbeats or seen.broken):
            assert time.monotonic() < give_up, "the monitor itself does not run"
            time.sleep(0.005)
        yield seen
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _probe(field: Arena, seen: Seen, stop: threading.Event) -> None:
    guarded = packet_socket(field.guarded.namespace, "eth0")
    open_ = packet_socket(field.open.namespace, "eth0")
    source = field.attacker.ipv4.address_text
    ends = (field.guarded.ipv4.address_text, field.open.ipv4.address_text)
    with guarded, open_, packet_socket(field.attacker.namespace, "eth0") as wire:
        number = 0
        while not stop.is_set():
            for to in ends:
                ports = (1024 + number % 64000, 1024 + number // 64000)
                wire.send(field.frame(datagram(source, to, _MAGIC, ports=ports)))
            seen.forbidden += 1
            seen.allowed += 1
            number += 1
            seen.leaked += _count(guarded)
            seen.delivered += _count(open_)
            time.sleep(PAUSE_SECONDS)
        give_up, quiet_since = time.monotonic() + _PATIENCE_SECONDS, time.monotonic()
        # What is still on its way: a busy machine may let it wait.
        while time.monotonic() - quiet_since < _QUIET_SECONDS and time.monotonic() < give_up:
            leaked, delivered = _count(guarded), _count(open_)
            seen.leaked += leaked
            seen.delivered += delivered
            if leaked or delivered:
                quiet_since = time.monotonic()
            time.sleep(_QUIET_SECONDS / 10)


def _count(wire: socket.socket) -> int:
    found = 0
    while True:
        try:
            frame, (_, _, kind, *_) = wire.recvfrom(2048)
        except BlockingIOError:
            return found
        found += kind != socket.PACKET_OUTGOING and _MAGIC in frame and frame[23:24] == b"\x11"


def _converse(field: Arena, seen: Seen, stop: threading.Event) -> None:
    with (
        field.open.socket(4, socket.SOCK_STREAM) as server,
        field.attacker.socket(4, socket.SOCK_STREAM) as client,
    ):
        for one in (server, client):
            one.settimeout(STALLED_SECONDS)
        server.bind((field.open.ipv4.address_text, 7))
        server.listen()
        try:
            client.connect(server.getsockname())
            answering = server.accept()[0]
            answering.settimeout(STALLED_SECONDS)
            with answering:
                while not stop.is_set():
                    began = time.monotonic()
                    client.send(b"x")
                    answering.send(answering.recv(1))
                    client.recv(1)
                    gap = time.monotonic() - began
                    seen.heartbeats += 1
                    seen.longest_gap_seconds = max(seen.longest_gap_seconds, gap)
                    time.sleep(HEARTBEAT_SECONDS)
        except OSError as error:
            seen.broken = error


def converged(field: Arena) -> None:
    """The third monitor: what is in the kernel is what a dataplane that knows nothing would write.

    The one that has lived through the fault finds nothing to repair.
    """
    before = field.host.generation()
    field.host.resync()
    assert field.host.dataplane.in_sync
    assert field.host.dataplane.refused == {}
    assert field.host.generation() == before, "the tables differ from what is wanted"


class Census(NamedTuple):
    """The fourth: what a process may leave behind."""

    descriptors: Counter[str]
    threads: int

    @classmethod
    def take(cls) -> "Census":
        gc.collect()
        kinds: Counter[str] = Counter()
        for name in os.listdir("/proc/self/fd"):
            try:
                target = os.readlink(f"/proc/self/fd/{name}")
            except FileNotFoundError:
                continue  # the one that listed them
            kinds[target.partition(":")[0]] += 1
        return cls(kinds, threading.active_count())

    def leaked_since(self, before: "Census") -> dict[str, int]:
        """Kinds of descriptors, and threads, that have become more."""
        more = dict(self.descriptors - before.descriptors)
        return more | ({"threads": grown} if (grown := self.threads - before.threads) > 0 else {})
