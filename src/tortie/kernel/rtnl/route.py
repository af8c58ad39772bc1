"""Routes: values, and requests to list, add, replace and delete them.

Canonical form, so that a wanted route equals what the kernel reads back:

- Metric 0 is the family's default. The kernel stores 1024 for IPv6 then, and
  `decode` turns that into 0 again.
- Routes without a next hop (blackhole, unreachable, …) have interface 0; the
  kernel reports the loopback for them in IPv6.
- IPv6 has no scopes: always SCOPE_UNIVERSE.
- A route over one hop has `hops` empty; the kernel itself stores it so.

Traps: a device route in IPv4 needs SCOPE_LINK, or gateways are not found
through it. A replace in IPv4 matches destination, table and metric, whatever
the kind; so blackhole and unicast replace each other.
"""

import struct
from enum import IntEnum
from typing import NamedTuple

import msgspec

from tortie.kernel.netlink import (
    Message,
    Request,
    attribute,
    attribute_map,
    attribute_u32,
    attributes,
    u32,
)
from tortie.kernel.rtnl import kinds
from tortie.lib.ip import Network, from_packed

_HEADER = struct.Struct("=BBBBBBBBI")
"""struct rtmsg: family, destination length, source length, TOS, table, protocol,
scope, type, flags."""
_HOP = struct.Struct("=HBBI")
"""struct rtnexthop: length, flags, weight - 1, interface."""

# include/uapi/linux/rtnetlink.h
_DST, _OIF, _GATEWAY, _PRIORITY, _PREFSRC = 1, 4, 5, 6, 7
_MULTIPATH, _TABLE, _VIA = 9, 15, 18
_ONLINK = 0x4
_CLONED = 0x200
_TABLE_IN_ATTRIBUTE = 252
"""RT_TABLE_COMPAT: the number is over 255, see the attribute."""
_IPV6_DEFAULT_METRIC = 1024
_LOOPBACK = 1
"""Index of the loopback, in every namespace."""

TABLE_MAIN, TABLE_LOCAL = 254, 255

SCOPE_UNIVERSE, SCOPE_LINK, SCOPE_HOST, SCOPE_NOWHERE = 0, 253, 254, 255

PROTOCOL_KERNEL, PROTOCOL_BOOT, PROTOCOL_STATIC, PROTOCOL_BIRD = 2, 3, 4, 12


class Kind(IntEnum):
    """What happens to a packet that the route matches."""

    UNICAST = 1
    LOCAL = 2
    BROADCAST = 3
    ANYCAST = 4
    MULTICAST = 5
    BLACKHOLE = 6
    UNREACHABLE = 7
    PROHIBIT = 8
    THROW = 9


WITHOUT_HOP = frozenset({Kind.BLACKHOLE, Kind.UNREACHABLE, Kind.PROHIBIT, Kind.THROW})
"""Kinds that lead nowhere, so that no interface belongs to them."""
_KINDS = {int(kind): kind for kind in Kind}


class RouteKey(NamedTuple):
    """What the kernel allows once, and what a replace replaces."""

    table: int
    destination: Network
    metric: int


class Hop(msgspec.Struct, frozen=True):
    """One of several next hops."""

    interface: int
    gateway: Network | None = None
    weight: int = 1
    """1 to 256."""
    onlink: bool = False


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One route in canonical form (see the module)."""

    destination: Network
    kind: Kind = Kind.UNICAST
    interface: int = 0
    """Index of the link; 0 for none, or with `hops`."""
    gateway: Network | None = None
    """An IPv4 destination may have an IPv6 gateway."""
    onlink: bool = False
    """Take the gateway to be on the link, whatever the other routes say."""
    table: int = TABLE_MAIN
    protocol: int = PROTOCOL_BOOT
    """Who installed it: a number by which we know our own."""
    metric: int = 0
    scope: int = SCOPE_UNIVERSE
    source: Network | None = None
    """Preferred source address of what this host itself sends."""
    hops: tuple[Hop, ...] = ()
    """Two or more next hops instead of `interface` and `gateway`."""

    @property
    def key(self) -> RouteKey:
        return RouteKey(self.table, self.destination, self.metric)

    def __str__(self) -> str:
        kind = "" if self.kind is Kind.UNICAST else f"{self.kind.name.lower()} "
        via = f" via {self.gateway.address_text}" if self.gateway else ""
        link = f" link {self.interface}" if self.interface else ""
        return f"{kind}{self.destination}{via}{link} table {self.table}"


def canonical_metric(family: int, metric: int) -> int:
    """0 for what the kernel has where none is given."""
    return 0 if family == 6 and metric == _IPV6_DEFAULT_METRIC else metric


def decode(message: Message) -> Route | None:
    """A route from a NEW_ROUTE or DELETE_ROUTE message.

    None for what is no entry of a table: IPv6's cached exceptions, other
    families (multicast, MPLS), and kinds newer than this code.
    """
    payload = message.payload
    family, length, _, _, table, protocol, scope, number, flags = _HEADER.unpack_from(payload)
    kind = _KINDS.get(number)
    if kind is None or family not in kinds.FAMILY or flags & _CLONED:
        return None
    found = attribute_map(payload[_HEADER.size :])
    destination = found.get(_DST)
    metric = u32(found[_PRIORITY]) if _PRIORITY in found else 0
    source = found.get(_PREFSRC)
    return Route(
        destination=(
            from_packed(bytes(destination), length)
            if destination is not None
            else Network(kinds.FAMILY[family], 0, length)
        ),
        kind=kind,
        interface=u32(found[_OIF]) if _OIF in found and kind not in WITHOUT_HOP else 0,
        gateway=_gateway(found),
        onlink=bool(flags & _ONLINK),
        table=u32(found[_TABLE]) if _TABLE in found else table,
        protocol=protocol,
        metric=canonical_metric(kinds.FAMILY[family], metric),
        scope=scope,
        source=None if source is None else from_packed(bytes(source)),
        hops=_hops(found[_MULTIPATH]) if _MULTIPATH in found else (),
    )


def dump(
    family: int | None = None, *, table: int = 0, protocol: int = 0, interface: int = 0
) -> Request:
    """List routes; 0 means any. Kernels before 4.20 do not filter: check the answer."""
    number = kinds.AF[family] if family else kinds.AF_UNSPEC
    body = _HEADER.pack(number, 0, 0, 0, 0, protocol, 0, 0, 0)
    if table:
        body += attribute_u32(_TABLE, table)
    if interface:
        body += attribute_u32(_OIF, interface)
    return Request("list routes", kinds.GET_ROUTE, 0, body)


def lookup(address: Network) -> Request:
    """Ask by which route a packet of this host's to the address would go."""
    number = kinds.AF[address.family]
    body = _HEADER.pack(number, address.length, 0, 0, 0, 0, 0, 0, 0)
    body += attribute(_DST, address.packed)
    return Request(f"look up {address.address_text}", kinds.GET_ROUTE, 0, body)


def decode_interface(answer: Message) -> int:
    """The link's index from the answer to `lookup`; 0 for none."""
    found = attribute_map(answer.payload[_HEADER.size :])
    return u32(found[_OIF]) if _OIF in found else 0


def add(wanted: Route) -> Request:
    return Request("add route", kinds.NEW_ROUTE, kinds.ADD, encode(wanted))


def replace(wanted: Route) -> Request:
    return Request("replace route", kinds.NEW_ROUTE, kinds.REPLACE, encode(wanted))


def delete(gone: Route) -> Request:
    """Delete this route; what is not given in it stands for anything.

    So a route without gateway or source also names one that has them, and
    metric 0 names any metric in IPv4. Tell routes apart by `protocol`.

    Source: net/ipv4/fib_trie.c, fib_table_delete; net/ipv6/route.c, ip6_route_del.
    """
    body = encode(gone)
    if gone.destination.family == 6 and gone.kind in WITHOUT_HOP:
        # IPv6 does not compare kinds: a blackhole would also name a device
        # route of the same key. But those without a hop are on the loopback.
        body += attribute_u32(_OIF, _LOOPBACK)
    return Request("delete route", kinds.DELETE_ROUTE, 0, body)


def encode(route: Route) -> bytes:
    """The body of a NEW_ROUTE or DELETE_ROUTE message."""
    destination = route.destination
    family, table = destination.family, route.table
    metric = route.metric
    if family == 6 and metric == 0:
        metric = _IPV6_DEFAULT_METRIC
    body = _HEADER.pack(
        kinds.AF[family],
        destination.length,
        0,
        0,
        table if table < 256 else _TABLE_IN_ATTRIBUTE,
        route.protocol,
        route.scope,
        route.kind,
        _ONLINK if route.onlink else 0,
    )
    if destination.length:
        body += attribute(_DST, destination.packed)
    if route.interface:
        body += attribute_u32(_OIF, route.interface)
    if route.gateway is not None:
        body += _gateway_attribute(family, route.gateway)
    if metric:
        body += attribute_u32(_PRIORITY, metric)
    if route.source is not None:
        body += attribute(_PREFSRC, route.source.packed)
    if table > 255:
        body += attribute_u32(_TABLE, table)
    if route.hops:
        body += attribute(_MULTIPATH, b"".join(_hop(family, hop) for hop in route.hops))
    return body


def _gateway(found: dict[int, memoryview]) -> Network | None:
    if _GATEWAY in found:
        return from_packed(bytes(found[_GATEWAY]))
    if _VIA in found:  # struct rtvia: a family of 2 bytes, then the address
        return from_packed(bytes(found[_VIA][2:]))
    return None


def _gateway_attribute(family: int, gateway: Network) -> bytes:
    if gateway.family == family:
        return attribute(_GATEWAY, gateway.packed)
    return attribute(_VIA, struct.pack("=H", kinds.AF[gateway.family]) + gateway.packed)


def _hop(family: int, hop: Hop) -> bytes:
    gateway = _gateway_attribute(family, hop.gateway) if hop.gateway is not None else b""
    flags = _ONLINK if hop.onlink else 0
    return _HOP.pack(_HOP.size + len(gateway), flags, hop.weight - 1, hop.interface) + gateway


def _hops(data: memoryview) -> tuple[Hop, ...]:
    hops = []
    while len(data) >= _HOP.size:
        length, flags, weight, interface = _HOP.unpack_from(data)
        if length < _HOP.size:
            break
        gateway = _gateway(dict(attributes(data[_HOP.size : length])))
        hops.append(Hop(interface, gateway, weight + 1, bool(flags & _ONLINK)))
        data = data[(length + 3) & ~3 :]
    return tuple(hops)
