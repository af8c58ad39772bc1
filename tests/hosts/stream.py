"""Packets from a workload to another while something happens to their hosts.

Three at once, each a thread: a TCP connection that echoes, datagrams at a
hundred a second that are echoed, and attempts at a port that policy forbids.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from tortie.kernel import netns

PORT, UDP_PORT, FORBIDDEN_PORT = 8080, 8081, 8082
INTERVAL_SECONDS = 0.01
PATIENCE_SECONDS = 10.0
"""Longer without an answer, and a connection counts as broken."""


class Seen(NamedTuple):
    echoes: int
    broken: str
    """Why the TCP connection ended; empty if it lives."""
    sent: int
    lost: int
    """Datagrams."""
    missing: str
    """Numbers of the lost ones, the first and the last of each row."""
    forbidden_tried: int
    forbidden_passed: int


class Stream:
    """
    Args:
        source, target: paths of the workloads' namespaces.
        address: the target's.
    """

    def __init__(self, source: str, target: str, address: str) -> None:
        self._stop = threading.Event()
        self._drained = threading.Event()
        self._echoes = self._sent = self._tried = self._passed = 0
        self._received: set[int] = set()
        self._broken = ""
        self._address = address
        self._open: list[socket.socket] = []
        self._tcp_server = self._listen(target, PORT)
        self._forbidden = self._listen(target, FORBIDDEN_PORT)
        self._udp_server = netns.open_socket_in(target, socket.AF_INET, socket.SOCK_DGRAM)
        self._udp_server.bind(("0.0.0.0", UDP_PORT))
        self._open.append(self._udp_server)
        self._tcp = netns.open_socket_in(source, socket.AF_INET)
        self._udp = netns.open_socket_in(source, socket.AF_INET, socket.SOCK_DGRAM)
        self._open += [self._tcp, self._udp]
        self._source = source
        self._tcp.settimeout(PATIENCE_SECONDS)
        self._tcp.connect((address, PORT))
        accepted, _ = self._tcp_server.accept()
        accepted.settimeout(PATIENCE_SECONDS)
        self._open.append(accepted)
        self._udp.connect((address, UDP_PORT))
        self._accepted = accepted
        # Joined before anything is closed; the one that echoes TCP ends with its connection.
        self._receivers = [_thread(self._serve), _thread(self._hear)]
        self._senders = [_thread(self._talk), _thread(self._ask), _thread(self._try)]
        for thread in (_thread(self._echo), *self._receivers, *self._senders):
            thread.start()

    def _listen(self, where: str, port: int) -> socket.socket:
        made = netns.open_socket_in(where, socket.AF_INET)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(("0.0.0.0", port))
        made.listen()
        made.settimeout(5)
        self._open.append(made)
        return made

    def _echo(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._accepted.recv(1):
                self._accepted.sendall(data)

    def _talk(self) -> None:
        try:
            while not self._stop.is_set():
                self._tcp.sendall(b"x")
                if self._tcp.recv(1) != b"x":
                    raise ConnectionError("closed by the other side")
                self._echoes += 1
                time.sleep(INTERVAL_SECONDS)
        except OSError as error:
            self._broken = str(error) or type(error).__name__

    def _serve(self) -> None:
        self._udp_server.settimeout(0.5)
        while not self._drained.is_set():
            with contextlib.suppress(TimeoutError):
                data, sender = self._udp_server.recvfrom(16)
                self._udp_server.sendto(data, sender)

    def _ask(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(OSError):
                self._udp.send(b"%d" % self._sent)
            self._sent += 1
            time.sleep(INTERVAL_SECONDS)

    def _hear(self) -> None:
        self._udp.settimeout(0.5)
        while not self._drained.is_set():
            try:
                number = int(self._udp.recv(16))
            except TimeoutError:
                continue
            except OSError:
                time.sleep(INTERVAL_SECONDS)
            else:
                self._received.add(number)

    def _try(self) -> None:
        while not self._stop.is_set():
            with netns.open_socket_in(self._source, socket.AF_INET) as one:
                one.settimeout(0.05)
                self._tried += 1
                with contextlib.suppress(OSError):
                    one.connect((self._address, FORBIDDEN_PORT))
                    self._passed += 1

    def stop(self) -> Seen:
        time.sleep(0.3)  # what happened last has effects too
        self._stop.set()
        for thread in self._senders:
            thread.join()
        # What is under way arrives, however late this machine gets round to it.
        give_up = time.monotonic() + PATIENCE_SECONDS / 2
        while len(self._received) < self._sent and time.monotonic() < give_up:
            time.sleep(0.05)
        self._drained.set()
        for thread in self._receivers:
            thread.join()
        for one in self._open:
            one.close()
        lost = sorted(set(range(self._sent)) - self._received)
        firsts = [number for number in lost if number - 1 in self._received or not number]
        lasts = [number for number in lost if number + 1 in self._received]
        rows = ", ".join(f"{first}-{last}" for first, last in zip(firsts, lasts, strict=False))
        return Seen(
            self._echoes, self._broken, self._sent, len(lost), rows, self._tried, self._passed
        )


def _thread(work: Callable[[], None]) -> threading.Thread:
    return threading.Thread(target=work, daemon=True)


@contextlib.contextmanager
def unharmed(source: str, target: str, address: str) -> Iterator[None]:
    """What happens in the block breaks no connection, loses no datagram, opens nothing."""
    stream = Stream(source, target, address)
    try:
        yield
    finally:
        seen = stream.stop()
    assert seen.broken == ""
    assert seen.lost == 0, seen
    assert seen.forbidden_passed == 0
    assert min(seen.echoes, seen.sent, seen.forbidden_tried) >= 3, seen
