"""Neighbours: who has which MAC address, and for whom we answer.

Proxy entries (`proxy=True`) are a table of their own in the kernel: addresses
that this host answers for on a link, IPv6's counterpart of proxy ARP by
route. A dump shows one of the two tables, never both.
"""

import struct
from enum import IntFlag
from typing import NamedTuple

import msgspec

from tortie.kernel.netlink import Message, Request, attribute, attribute_map
from tortie.kernel.rtnl import kinds
from tortie.lib.errors import InvalidInput
from tortie.lib.ip import Network, from_packed

_HEADER = struct.Struct("=BxxxiHBB")
"""struct ndmsg: family, interface, state, flags, type."""

# include/uapi/linux/neighbour.h
_DST, _LLADDR = 1, 2
_NTF_PROXY, _NTF_ROUTER = 0x08, 0x80


class State(IntFlag):
    """NUD states; PERMANENT never expires and is never probed."""

    NONE = 0x00
    INCOMPLETE = 0x01
    REACHABLE = 0x02
    STALE = 0x04
    DELAY = 0x08
    PROBE = 0x10
    FAILED = 0x20
    NOARP = 0x40
    PERMANENT = 0x80


class NeighbourKey(NamedTuple):
    """What the kernel allows once."""

    interface: int
    address: Network
    proxy: bool


class Neighbour(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the neighbour table or, with `proxy`, of the proxy table."""

    interface: int
    address: Network
    """Full length."""
    mac: bytes = b""
    """Empty for proxy entries, and while unresolved."""
    state: int = State.PERMANENT
    """`State` bits; `NONE` for proxy entries."""
    proxy: bool = False
    router: bool = False
    """IPv6: it said that it is a router."""

    @property
    def key(self) -> NeighbourKey:
        return NeighbourKey(self.interface, self.address, self.proxy)


def proxy(interface: int, address: Network) -> Neighbour:
    """An entry that makes this host answer for `address` on a link."""
    return Neighbour(interface=interface, address=address, state=State.NONE, proxy=True)


def decode(message: Message) -> Neighbour | None:
    """A neighbour from a NEW_NEIGHBOUR or DELETE_NEIGHBOUR message; None if not IP."""
    family, interface, state, flags, _type = _HEADER.unpack_from(message.payload)
    found = attribute_map(message.payload[_HEADER.size :])
    if family not in kinds.FAMILY or _DST not in found:
        return None
    is_proxy = bool(flags & _NTF_PROXY)
    return Neighbour(
        interface=interface,
        address=from_packed(bytes(found[_DST])),
        mac=bytes(found[_LLADDR]) if _LLADDR in found else b"",
        state=State.NONE if is_proxy else state,
        proxy=is_proxy,
        router=bool(flags & _NTF_ROUTER),
    )


def dump(family: int | None = None, *, proxy: bool = False) -> Request:
    number = kinds.AF[family] if family else kinds.AF_UNSPEC
    body = _HEADER.pack(number, 0, 0, _NTF_PROXY if proxy else 0, 0)
    return Request("list neighbours", kinds.GET_NEIGHBOUR, 0, body)


def replace(wanted: Neighbour) -> Request:
    """
    Raises:
        InvalidInput: a network, or an entry with a state but without its MAC.
    """
    return Request(f"set {_name(wanted)}", kinds.NEW_NEIGHBOUR, kinds.REPLACE, _body(wanted))


def delete(gone: Neighbour) -> Request:
    return Request(f"delete {_name(gone)}", kinds.DELETE_NEIGHBOUR, 0, _body(gone))


def _name(entry: Neighbour) -> str:
    kind = "proxy" if entry.proxy else "neighbour"
    return f"{kind} {entry.address.address_text} on link {entry.interface}"


def _body(entry: Neighbour) -> bytes:
    if not entry.address.is_address:
        raise InvalidInput(f"{entry.address} is a network, not a neighbour")
    flags = (_NTF_PROXY if entry.proxy else 0) | (_NTF_ROUTER if entry.router else 0)
    state = 0 if entry.proxy else int(entry.state)
    body = _HEADER.pack(kinds.AF[entry.address.family], entry.interface, state, flags, 0)
    body += attribute(_DST, entry.address.packed)
    if entry.mac and not entry.proxy:
        body += attribute(_LLADDR, entry.mac)
    return body
