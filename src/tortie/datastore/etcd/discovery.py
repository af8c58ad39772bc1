"""Where etcd is, from the domain name system: SRV records of a domain.

The C library asks, so that this machine's own resolver configuration counts;
only reading the answer is ours. Members with TLS are in
`_etcd-client-ssl._tcp.DOMAIN`, others in `_etcd-client._tcp.DOMAIN`. Where both
are there, those without TLS are left out: who forges the one answer must not be
able to talk us out of it.

Source: RFC 2782; RFC 1035 section 4.1; etcd, client/pkg/srv/srv.go.
"""

import ctypes
import random
import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

from tortie.lib.errors import InvalidInput, Unavailable

_SERVICES = (("_etcd-client-ssl._tcp", "https"), ("_etcd-client._tcp", "http"))

_CLASS_IN = 1
_TYPE_SRV = 33
_HEADER_BYTES = 12
_ANSWER_MAX_BYTES = 65_536
_POINTER = 0xC0
"""The two highest bits of a length: the rest of the name is somewhere else."""
_POINTERS_MAX = 64
"""In one name; more is a loop."""

_HOST_NOT_FOUND, _NO_DATA = 1, 4
"""Of `h_errno`: the answer is that there is none. Others mean no answer."""

_DOMAIN = re.compile(r"[A-Za-z0-9_]([-A-Za-z0-9_.]*[A-Za-z0-9])?\.?")


class Service(NamedTuple):
    """One SRV record."""

    priority: int
    weight: int
    port: int
    host: str


def discover(domain: str) -> list[str]:
    """URLs of a cluster's members, in the order in which to try them. Blocks.

    Raises:
        InvalidInput: `domain` is no name of a domain, or has no etcd.
        Unavailable: nobody answers.
    """
    if not _DOMAIN.fullmatch(domain):
        raise InvalidInput(f"ETCD_DISCOVERY_SRV is {domain!r}, which is no name of a domain")
    for service, scheme in _SERVICES:
        answer = _ask(f"{service}.{domain}")
        if services := in_order(parse(answer)):
            return [f"{scheme}://{found.host}:{found.port}" for found in services]
    asked = " and ".join(f"{service}.{domain}" for service, _ in _SERVICES)
    raise InvalidInput(f"ETCD_DISCOVERY_SRV is {domain!r}: there is no SRV record {asked}")


def in_order(services: list[Service]) -> list[Service]:
    """By priority; of one priority at random, the heavier the likelier first."""
    return sorted(
        services,
        # Efraimidis and Spirakis: a weighted shuffle. Weight 0 is the rarest, not never.
        key=lambda found: (found.priority, -(random.random() ** (1 / (found.weight or 0.01)))),  # noqa: S311
    )


def parse(answer: bytes) -> list[Service]:
    """The SRV records of a message; those that say "not here" are left out.

    Raises:
        Unavailable: it is damaged.
    """
    try:
        return [service for service in _records(answer) if service.host]
    except (struct.error, IndexError, UnicodeDecodeError, ValueError) as error:
        raise Unavailable(f"the answer of the domain name system is damaged: {error}") from None


def _ask(name: str) -> bytes:
    """What the resolver says of SRV records; empty if there are none."""
    libc = ctypes.CDLL(None, use_errno=True)
    answer = ctypes.create_string_buffer(_ANSWER_MAX_BYTES)
    length = libc.res_query(name.encode(), _CLASS_IN, _TYPE_SRV, answer, _ANSWER_MAX_BYTES)
    if length >= 0:
        return answer.raw[:length]
    libc.__h_errno_location.restype = ctypes.POINTER(ctypes.c_int)
    if libc.__h_errno_location()[0] in (_HOST_NOT_FOUND, _NO_DATA):
        return b""
    raise Unavailable(f"no answer of the domain name system for {name}; see /etc/resolv.conf")


def _records(answer: bytes) -> Iterator[Service]:
    if not answer:
        return
    questions, answers = struct.unpack_from(">HH", answer, 4)
    at = _HEADER_BYTES
    for _ in range(questions):
        _, at = _name(answer, at)
        at += 4
    for _ in range(answers):
        _, at = _name(answer, at)
        kind, _, _, length = struct.unpack_from(">HHIH", answer, at)
        at += 10
        if kind == _TYPE_SRV:
            host, _ = _name(answer, at + 6)
            priority, weight, port = struct.unpack_from(">HHH", answer, at)
            yield Service(priority, weight, port, host)
        at += length


def _name(answer: bytes, at: int) -> tuple[str, int]:
    """A name without its last dot, and where what follows it begins."""
    labels: list[str] = []
    behind = 0
    for _ in range(_POINTERS_MAX):
        length = answer[at]
        if length >= _POINTER:
            behind = behind or at + 2
            at = struct.unpack_from(">H", answer, at)[0] & 0x3FFF
            continue
        at += 1
        if length == 0:
            return ".".join(labels), behind or at
        label = answer[at : at + length].decode("ascii")
        if not _DOMAIN.fullmatch(label):
            raise ValueError(f"{label!r} is no part of a host's name")
        labels.append(label)
        at += length
    raise ValueError("a name has too many parts")
