"""A snapshot as BIRD 2 configuration. Pure; the same snapshot gives the same bytes.

No text of a user gets in: names are made of addresses and hashes, and nearly
everything else is a number; the two exceptions have an alphabet without a
quote (see `snapshot`). That is the whole protection against injection, so
keep it.

The agent puts its blocks (blackhole) and workload addresses into the kernel
with its own protocol number; BIRD learns them from there, announces the
blocks whole, and of single addresses only those outside our blocks.

Source: BIRD 2.0 User's Guide, chapters 3 to 6.
"""

from collections.abc import Iterable, Iterator

from tortie.bgp.render_filter import add_community, filter_functions
from tortie.bgp.render_session import (
    BFD_MILLISECONDS,
    BFD_MULTIPLIER,
    Audience,
    Learnt,
    router_id,
    session_name,
    sessions,
)
from tortie.bgp.snapshot import PRIORITY_BASE, Snapshot
from tortie.lib.ip import Network

__all__ = ["render_bird", "router_id", "session_name"]

_FULL = {4: 32, 6: 128}

LOCAL_PREFERENCE = 150
"""Of the agent's routes. Over BGP's 100: or two hosts that both announce an address would
each fall silent as soon as they hear the other, and begin again."""
ELEVATED_PREFERENCE = 200
"""Of a learnt route with a better priority than normal: a workload has moved away."""

NETLINK_BYTES = 16 * 1024 * 1024
"""Enough for some 40,000 changes at once; what does not fit waits for the next scan."""

PATHS_MAX = 16
"""Of equal cost, into the kernel."""


def render_bird(snapshot: Snapshot) -> str:
    return "\n".join([*_lines(snapshot), ""])


def _lines(snapshot: Snapshot) -> Iterator[str]:
    yield "# Written by the agent; changes are overwritten."
    yield f"router id {router_id(snapshot)};"
    yield "graceful restart wait 30;"
    if snapshot.debug:
        yield "debug protocols { states, events };"
    yield "attribute int learnt;"
    yield "protocol device { scan time 10; }"
    ignored = "".join(f'-"{pattern}", ' for pattern in snapshot.ignored_interfaces)
    # Without direct routes the next hops of iBGP do not resolve.
    excluded = f'{ignored}-"cali*", -"kube-ipvs*", -"lo"'
    yield f'protocol direct {{ ipv4; ipv6; interface {excluded}, "*"; }}'
    if any(peer.bfd for peer in snapshot.peers):
        yield from _bfd()
    for family in (4, 6):
        yield f"function elevate{family}() {{"
        normal = PRIORITY_BASE - _priority(snapshot, family)
        yield f"  if bgp_local_pref > {normal} then preference = {ELEVATED_PREFERENCE};"
        yield "}"
    for found in snapshot.filters:
        yield from filter_functions(found)
    for family, own in ((4, snapshot.ipv4), (6, snapshot.ipv6)):
        if own is not None:
            yield from _family(snapshot, family, own)
    yield from sessions(snapshot)


def _bfd() -> Iterator[str]:
    timing = (
        f"min rx interval {BFD_MILLISECONDS} ms; min tx interval {BFD_MILLISECONDS} ms;"
        f" multiplier {BFD_MULTIPLIER};"
    )
    yield "protocol bfd {"
    yield f'  interface "*" {{ {timing} }};'
    yield f"  multihop {{ {timing} }};"
    yield "}"


def _family(snapshot: Snapshot, family: int, own: Network) -> Iterator[str]:
    pools = _within(snapshot.pools, family)
    services = _within((*snapshot.services, *snapshot.foreign_services), family)
    yield f"filter from_kernel{family} {{"
    # Without a gateway: its routes to other hosts, if there are any, are not ours to announce.
    yield f"  if krt_source = {snapshot.route_protocol} && gw = :: && {pools} then {{"
    yield f"    preference = {LOCAL_PREFERENCE};"
    yield "    accept;"
    yield "  }"
    yield "  reject;"
    yield "}"
    yield f"filter to_kernel{family} {{"
    yield f'  if proto = "reach{family}" then accept;'
    yield f"  if source != RTS_BGP || {services} then reject;"
    yield f"  krt_prefsrc = {own.address_text};"
    yield "  accept;"
    yield "}"
    yield from _import_functions(snapshot, family, pools)
    yield from _export_functions(snapshot, family)
    yield from _statics(snapshot, family)
    yield f"protocol kernel kernel{family} {{"
    yield "  learn; persist; scan time 10; graceful restart;"
    yield f"  netlink rx buffer {NETLINK_BYTES};"
    # One metric for all: with one for each route (`krt_metric`) BIRD leaves the old route
    # behind when it changes. Priorities decide between routes, inside BIRD.
    metric = snapshot.metric4 if family == 4 else snapshot.metric6
    yield f"  metric {metric}; merge paths on limit {PATHS_MAX};"
    yield (
        f"  ipv{family} {{ import filter from_kernel{family}; export filter to_kernel{family}; }};"
    )
    yield "}"


def _priority(snapshot: Snapshot, family: int) -> int:
    return snapshot.priority4 if family == 4 else snapshot.priority6


def _import_functions(snapshot: Snapshot, family: int, pools: str) -> Iterator[str]:
    yield f"function own{family}() {{"
    for block in _of(snapshot.own_blocks, family):
        yield f"  if net = {block} then reject;"
    yield "}"
    yield f"function learn{family}() {{"
    yield f"  elevate{family}();"
    yield f"  if {pools} then accept;"
    if snapshot.cluster_id is not None:
        yield f"  if {_within(snapshot.foreign_services, family)} then accept;"
    yield "}"


def _export_functions(snapshot: Snapshot, family: int) -> Iterator[str]:
    normal = PRIORITY_BASE - _priority(snapshot, family)
    yield f"function priority{family}() {{"
    yield f"  if source != RTS_BGP then bgp_local_pref = {normal};"
    yield "}"
    yield f"function announce{family}(int audience) {{"
    yield "  if source = RTS_DEVICE then reject;"
    yield f'  if proto = "reach{family}" then reject;'
    yield "  if source != RTS_BGP then {"
    for block in _of(snapshot.own_blocks, family):
        if not block.is_address:
            yield f"    if net ~ [ {block}{{{block.length + 1},{_FULL[family]}}} ] then reject;"
    yield "  }"
    yield f"  else if audience != {Audience.WORKLOAD.value} then {{"
    yield from _passed_on(reflector=snapshot.cluster_id is not None)
    yield "  }"
    for advertisement in snapshot.advertisements:
        if advertisement.network.family == family and advertisement.communities:
            added = " ".join(map(add_community, advertisement.communities))
            yield f"  if {_within((advertisement.network,), family)} then {{ {added} }}"
    yield f"  if {_within(snapshot.exported_pools, family)} then accept;"
    yield f"  if source = RTS_STATIC && {_within(snapshot.services, family)} then accept;"
    if snapshot.cluster_id is not None:
        yield f"  if {_within(snapshot.foreign_services, family)} then accept;"
    yield "}"


def _passed_on(*, reflector: bool) -> Iterator[str]:
    """What was learnt and is not passed on."""
    inside = (Learnt.HOST, Learnt.CLIENT)
    if reflector:
        # RFC 4456, section 6: between clients and from clients to the rest.
        yield (
            f"    if learnt = {Learnt.HOST.value} && audience = {Audience.HOST.value} then reject;"
        )
    else:
        yield f"    if learnt ~ [{', '.join(str(kind.value) for kind in inside)}] then reject;"
    # Hosts are no transit between switches.
    fabric = f"learnt = {Learnt.FABRIC.value} && audience = {Audience.FABRIC.value}"
    yield f"    if {fabric} then reject;"


def _statics(snapshot: Snapshot, family: int) -> Iterator[str]:
    """Service networks, which we announce; and gateways to peers, which the kernel needs."""
    services = _of(snapshot.services, family)
    if services:
        yield f"protocol static services{family} {{"
        yield f"  ipv{family};"
        for network in services:
            yield f"  route {network} blackhole;"
        yield "}"
    gateways = {p.address: p.reachable_by for p in snapshot.peers if p.reachable_by is not None}
    gateways = {address: via for address, via in gateways.items() if address.family == family}
    if gateways:
        yield f"protocol static reach{family} {{"
        yield f"  ipv{family};"
        for address, via in gateways.items():
            yield f"  route {address} via {via.address_text};"
        yield "}"


def _of(networks: Iterable[Network], family: int) -> list[Network]:
    return [network for network in networks if network.family == family]


def _within(networks: Iterable[Network], family: int) -> str:
    """A test for "is one of these or lies in one"; BIRD has no empty prefix set."""
    parts = [f"{network}+" for network in _of(networks, family)]
    return f"net ~ [ {', '.join(parts)} ]" if parts else "false"
