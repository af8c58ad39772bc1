"""The connections of this very process, as the kernel's connection table names them."""

import os
import socket
from typing import NamedTuple

from tortie.lib.ip import Network, from_packed

_MAPPED = bytes(10) + b"\xff\xff"
"""Before an IPv4 address that a socket for IPv6 speaks to."""


class Ends(NamedTuple):
    """A connection's two ends, that which began it first."""

    address: Network
    port: int
    peer: Network
    peer_port: int


def own_connections() -> frozenset[Ends]:
    """Of every connected TCP or UDP socket that this process holds; of all its namespaces."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            borrowed = socket.socket(fileno=int(name))
        except OSError:  # closed meanwhile
            continue
        try:
            if borrowed.family in (socket.AF_INET, socket.AF_INET6):
                own, peer = borrowed.getsockname(), borrowed.getpeername()
                found.add(Ends(_address(own[0]), own[1], _address(peer[0]), peer[1]))
        except OSError:  # it listens, or is not connected
            pass
        finally:
            borrowed.detach()  # it is somebody else's to close
    return frozenset(found)


def _address(text: str) -> Network:
    text = text.partition("%")[0]
    packed = socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
    return from_packed(packed[12:] if packed.startswith(_MAPPED) else packed)
