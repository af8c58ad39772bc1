"""Who reaches whom, found out by real packets.

A socket belongs to the namespace in which it was opened, wherever it is used.
So this one process opens a socket in each workload and asks all at once:
TCP by connecting, UDP and ICMP by an echo. What is not answered in time was
dropped on the way there, or on the way back.
"""

import errno
import os
import select
import socket
import struct
import time
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from tortie.kernel import netns
from tortie.lib.errors import InvalidInput
from tortie.lib.ip import Network

WAIT_SECONDS = 0.5
AT_ONCE = 500
"""Sockets open at a time: well below the usual limit of 1,024."""

_ICMP_ECHO, _ICMP_ECHO_REPLY = 8, 0
_ICMPV6_ECHO, _ICMPV6_ECHO_REPLY = 128, 129
_ECHO = struct.Struct("!BBHHH")


class Port(NamedTuple):
    protocol: Literal["tcp", "udp", "icmp"]
    number: int = 0
    """0 for icmp."""

    def __str__(self) -> str:
        return self.protocol if self.protocol == "icmp" else f"{self.protocol}:{self.number}"


class Probe(NamedTuple):
    namespace: str
    """Path of the namespace that asks."""
    destination: Network
    port: Port
    source: Network | None = None
    """An address to ask from; None means the kernel's choice."""


def parse_port(text: str) -> Port:
    """`tcp:80`, `udp:53`, `icmp`.

    Raises:
        InvalidInput: none of these.
    """
    protocol, colon, number = text.lower().partition(":")
    if protocol == "icmp" and not colon:
        return Port("icmp")
    if protocol in ("tcp", "udp") and number.isdecimal() and 1 <= int(number) <= 65535:
        return Port("tcp" if protocol == "tcp" else "udp", int(number))
    raise InvalidInput(f"{text!r} is no port: say tcp:80, udp:53 or icmp")


def run(probes: Sequence[Probe], wait_seconds: float = WAIT_SECONDS) -> list[bool]:
    """Whether each is answered, in the order given."""
    results: list[bool] = []
    for start in range(0, len(probes), AT_ONCE):
        results.extend(_run_some(probes[start : start + AT_ONCE], wait_seconds))
    return results


def _run_some(probes: Sequence[Probe], wait_seconds: float) -> list[bool]:
    waiting: dict[int, tuple[int, Probe, socket.socket]] = {}
    # A flow that conntrack knows from an earlier probe would pass as established.
    first_identifier = int.from_bytes(os.urandom(2), "big")
    answered = [False] * len(probes)
    poll = select.poll()
    for index, probe in enumerate(probes):
        sock = _ask(probe, first_identifier + index & 0xFFFF)
        if sock is not None:
            waiting[sock.fileno()] = (index, probe, sock)
            events = select.POLLOUT if probe.port.protocol == "tcp" else select.POLLIN
            poll.register(sock, events)
    give_up = time.monotonic() + wait_seconds
    while waiting and (left_seconds := give_up - time.monotonic()) > 0:
        for descriptor, _ in poll.poll(left_seconds * 1000):
            index, probe, sock = waiting[descriptor]
            found = _answer(probe, sock, first_identifier + index & 0xFFFF)
            if found is not None:
                answered[index] = found
                poll.unregister(descriptor)
                del waiting[descriptor]
                sock.close()
    for _, _, sock in waiting.values():
        sock.close()
    return answered


def _ask(probe: Probe, identifier: int) -> socket.socket | None:
    """Send the question; None if it cannot even leave."""
    family = socket.AF_INET if probe.destination.family == 4 else socket.AF_INET6
    kind, protocol = {
        "tcp": (socket.SOCK_STREAM, 0),
        "udp": (socket.SOCK_DGRAM, 0),
        "icmp": (
            socket.SOCK_RAW,
            socket.IPPROTO_ICMP if probe.destination.family == 4 else socket.IPPROTO_ICMPV6,
        ),
    }[probe.port.protocol]
    sock = netns.open_socket_in(probe.namespace, family, kind, protocol)
    sock.setblocking(False)
    where = (probe.destination.address_text, probe.port.number)
    try:
        if probe.source is not None:
            sock.bind((probe.source.address_text, 0))
        if probe.port.protocol == "tcp":
            code = sock.connect_ex(where)
            if code not in (0, errno.EINPROGRESS):
                raise OSError(code, os.strerror(code))
        elif probe.port.protocol == "udp":
            sock.connect(where)
            sock.send(b"tortie")
        else:
            sock.sendto(_echo_request(probe.destination.family, identifier), (where[0], 0))
    except OSError:
        sock.close()
        return None
    return sock


def _answer(probe: Probe, sock: socket.socket, identifier: int) -> bool | None:
    """True for an answer, a refusal included: it came through. None to go on waiting."""
    if probe.port.protocol == "tcp":
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        return code in (0, errno.ECONNREFUSED)
    try:
        payload, sender = sock.recvfrom(2048)
    except ConnectionRefusedError:
        return True
    except BlockingIOError:
        return None
    except OSError:
        return False
    if probe.port.protocol == "udp":
        return True
    return _is_reply(probe, payload, sender[0], identifier) or None


def _echo_request(family: int, identifier: int) -> bytes:
    kind = _ICMP_ECHO if family == 4 else _ICMPV6_ECHO
    # The kernel fills in ICMPv6's checksum, which covers addresses that we do not know.
    unsummed = _ECHO.pack(kind, 0, 0, identifier, 1)
    return _ECHO.pack(kind, 0, _checksum(unsummed), identifier, 1)


def _is_reply(probe: Probe, payload: bytes, sender: str, identifier: int) -> bool:
    """A raw socket hears every ICMP packet of its namespace: pick our own."""
    header = (payload[0] & 0xF) * 4 if probe.destination.family == 4 else 0
    kind, _, _, found, _ = _ECHO.unpack_from(payload, header)
    wanted = _ICMP_ECHO_REPLY if probe.destination.family == 4 else _ICMPV6_ECHO_REPLY
    return kind == wanted and found == identifier and sender == probe.destination.address_text


def _checksum(payload: bytes) -> int:
    """The Internet checksum (RFC 1071) of an even number of bytes."""
    words: tuple[int, ...] = struct.unpack(f"!{len(payload) // 2}H", payload)
    total = sum(words)
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def matrix(rows: Sequence[str], columns: Sequence[str], allowed: Iterable[tuple[str, str]]) -> str:
    """A table of who reaches whom: `yes`, `no`, and `·` for oneself."""
    reached = set(allowed)
    width = max((len(name) for name in (*rows, *columns)), default=4)
    header = " " * width + "  " + "  ".join(name.ljust(max(len(name), 3)) for name in columns)
    lines = [f"{'from / to':<{width}}" + header[width:]]
    for row in rows:
        cells = []
        for column in columns:
            mark = "·" if row == column else "yes" if (row, column) in reached else "no"
            cells.append(mark.ljust(max(len(column), 3)))
        lines.append(f"{row:<{width}}  " + "  ".join(cells).rstrip())
    return "\n".join(lines)
