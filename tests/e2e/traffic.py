"""Traffic that goes on while something happens to the cluster."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

from tests.e2e.live import LiveLab

from tortie.kernel import netns
from tortie.lab import workloads

INTERVAL_SECONDS = 0.02
ANSWER_SECONDS = 5.0
"""Less than this is a gap; more is a connection that broke."""


class Seen(NamedTuple):
    echoes: int
    longest_gap_seconds: float
    problem: str
    """Empty, or why the connection broke."""


class Connection:
    """One TCP connection that echoes a byte every now and then, in a thread."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._stop = threading.Event()
        self._echoes = 0
        self._longest_gap_seconds = 0.0
        self._problem = ""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                began = time.monotonic()
                self._sock.sendall(b"x")
                if self._sock.recv(1) != b"x":
                    raise ConnectionError("closed by the other side")
                gap_seconds = time.monotonic() - began
                self._longest_gap_seconds = max(self._longest_gap_seconds, gap_seconds)
                self._echoes += 1
                time.sleep(INTERVAL_SECONDS)
        except OSError as error:
            self._problem = str(error) or type(error).__name__

    def stop(self) -> Seen:
        self._stop.set()
        self._thread.join()
        return Seen(self._echoes, self._longest_gap_seconds, self._problem)


@contextlib.contextmanager
def connection(live: LiveLab, source: str, target: str) -> Iterator[Connection]:
    """A connection that is established when the block begins."""
    lab = live.lab
    a, b = lab.workload(source), lab.workload(target)
    sock = netns.open_socket_in(live.path(a), socket.AF_INET)
    with sock:
        sock.settimeout(ANSWER_SECONDS)
        sock.connect((workloads.address_of(b).address_text, 80))
        made = Connection(sock)
        try:
            yield made
        finally:
            made.stop()
