"""One session as BIRD 2 configuration. Pure.

What a route is, as seen from where it was learnt, is kept with it in the
attribute `learnt`; what is announced to whom rests on that.
"""

from collections.abc import Iterator
from enum import IntEnum

from tortie.bgp.render_filter import function_name
from tortie.bgp.snapshot import PRIORITY_BASE, Filter, NextHop, Peer, PeerKind, Snapshot
from tortie.bgp.status import session_symbol
from tortie.lib.ip import Network

HOLD_SECONDS = 90
RESTART_SECONDS = 120
"""How long peers keep our routes while BIRD is away."""

HOST_FACTOR = 4
"""A host may give so many times more routes than a switch, because it passes on what its switches
give: or a flood would take the place of its own blocks."""

BFD_MILLISECONDS = 300
BFD_MULTIPLIER = 3


class Learnt(IntEnum):
    """From whom a route came; a route of our own has none."""

    HOST = 1
    CLIENT = 2
    """Of this reflector."""
    FABRIC = 3
    """An external peer that is no host: a top-of-rack switch."""
    WORKLOAD = 4


class Audience(IntEnum):
    """To whom a route goes."""

    HOST = 1
    CLIENT = 2
    FABRIC = 3
    EXTERNAL_HOST = 4
    """A host of this cluster in another AS."""
    WORKLOAD = 5


def session_name(peer: Peer) -> str:
    """A symbol made of the address: `Peer_10_0_0_2`, `Peer_fd00__2`, `Peer_10_0_0_9_port_1179`.

    Not of the kind: BIRD would end a session whose name changes.
    """
    name = session_symbol(peer.address.address_text)
    return f"{name}_port_{peer.port}" if peer.port_given else name


def router_id(snapshot: Snapshot) -> str:
    return folded_id(snapshot.ipv4, snapshot.ipv6)


def folded_id(ipv4: Network | None, ipv6: Network | None) -> str:
    """The IPv4 address; without one, 32 bits folded from the IPv6 address."""
    if ipv4 is not None:
        return ipv4.address_text
    value = ipv6.value if ipv6 is not None else 1
    folded = 0
    while value:
        folded ^= value & 0xFFFFFFFF
        value >>= 32
    return Network(4, folded or 1, 32).address_text


def sessions(snapshot: Snapshot) -> Iterator[str]:
    """All of them; what several have in common is written once, as a template."""
    templates: dict[tuple[str, ...], str] = {}
    for peer in snapshot.peers:
        body = tuple(_body(snapshot, peer))
        if body not in templates:
            templates[body] = f"session{len(templates) + 1}"
            yield f"template bgp {templates[body]} {{"
            yield from body
            yield "}"
        yield f"protocol bgp {session_name(peer)} from {templates[body]} {{"
        neighbor = f"neighbor {peer.address.address_text} port {peer.port} as {peer.as_number};"
        yield f"  {neighbor}"
        yield "}"


def _body(snapshot: Snapshot, peer: Peer) -> Iterator[str]:
    family = peer.address.family
    own = _own(snapshot, family)
    own_as = peer.local_as or snapshot.as_number
    internal = own_as == peer.as_number
    yield f'  description "{peer.kind.value}";'
    local = own if peer.use_own_address else peer.local_address
    address = f"{local.address_text} " if local is not None else ""
    yield f"  local {address}port {snapshot.listen_port} as {own_as};"
    yield from _reach(snapshot, peer, internal=internal)
    yield from _timers(peer)
    if snapshot.bind_to_address and local is not None:
        yield "  strict bind on;"
    if peer.passive:
        yield "  passive on;"
    if peer.allow_local_as:
        yield f"  allow local as {peer.allow_local_as};"
    if internal and _may_be_client(snapshot, peer):
        # Also in a mesh, where the filters reflect nothing: so a host becomes a
        # reflector without its sessions ending.
        yield f"  rr client; rr cluster id {_cluster(snapshot)};"
    if not internal:
        priority = snapshot.priority4 if family == 4 else snapshot.priority6
        yield f"  default bgp_local_pref {PRIORITY_BASE - priority};"
    if peer.bfd and local is not None:  # BIRD refuses multihop BFD from anywhere
        yield "  bfd on;"
    if peer.password:
        yield f'  password "{peer.password}";'
    yield f"  ipv{family} {{"
    yield from _channel(snapshot, peer, internal=internal)
    yield "  };"


def _reach(snapshot: Snapshot, peer: Peer, *, internal: bool) -> Iterator[str]:
    if peer.hops is not None:
        yield f"  multihop {peer.hops}; ttl security on;"
        return
    subnet = snapshot.ipv4_subnet if peer.address.family == 4 else snapshot.ipv6_subnet
    near = subnet is not None and subnet.contains(peer.address)
    # BIRD expects external peers on a link of ours, internal ones anywhere.
    if peer.kind is PeerKind.WORKLOAD or not (internal or near):
        yield "  multihop;"


def _timers(peer: Peer) -> Iterator[str]:
    hold = HOLD_SECONDS
    if peer.keepalive_seconds is not None:
        hold = max(3, 3 * peer.keepalive_seconds)
        yield f"  keepalive time {peer.keepalive_seconds};"
    yield f"  hold time {hold}; connect delay time 1; connect retry time 2; error wait time 1,5;"
    yield f"  graceful restart on; graceful restart time {peer.restart_seconds or RESTART_SECONDS};"


def _cluster(snapshot: Snapshot) -> str:
    """Our cluster id, in writing even where it is what BIRD would take: a change restarts."""
    return snapshot.cluster_id.address_text if snapshot.cluster_id else router_id(snapshot)


def _may_be_client(snapshot: Snapshot, peer: Peer) -> bool:
    return not peer.is_reflector and (peer.is_host or snapshot.cluster_id is not None)


def _channel(snapshot: Snapshot, peer: Peer, *, internal: bool) -> Iterator[str]:
    family = peer.address.family
    inside = _learnt(snapshot, peer, internal=internal) in (Learnt.HOST, Learnt.CLIENT)
    limit = snapshot.import_limit * (HOST_FACTOR if inside else 1)
    yield f"    import limit {limit} action block;"
    yield "    add paths on;"
    if peer.next_hop is not NextHop.AUTO:
        yield f"    next hop {peer.next_hop.value};"
    if peer.closed:
        yield "    import none; export none;"
        return
    flag = "true" if internal else "false"
    yield "    import filter {"
    yield f"      learnt = {_learnt(snapshot, peer, internal=internal).value};"
    yield f"      own{family}();"
    for called in _filters(snapshot, peer, "import"):
        yield f"      {called}({flag});"
    if peer.kind is not PeerKind.WORKLOAD:
        yield f"      learn{family}();"
    yield "      reject;"
    yield "    };"
    yield "    export filter {"
    yield f"      priority{family}();"
    audience = _audience(snapshot, peer, internal=internal)
    if peer.kind is PeerKind.MESH and peer.next_hop is NextHop.AUTO:
        # What came from outside the cluster: the others need not reach its sender.
        outside = f"learnt ~ [{Learnt.FABRIC.value}, {Learnt.WORKLOAD.value}]"
        yield f"      if source = RTS_BGP && {outside} then"
        yield f"        bgp_next_hop = {_own(snapshot, family).address_text};"
    for called in _filters(snapshot, peer, "export"):
        yield f"      {called}({flag});"
    yield f"      announce{family}({audience.value});"
    yield "      reject;"
    yield "    };"


def _own(snapshot: Snapshot, family: int) -> Network:
    own = snapshot.ipv4 if family == 4 else snapshot.ipv6
    assert own is not None, "there are only sessions of families that we have"
    return own


def _filters(snapshot: Snapshot, peer: Peer, direction: str) -> Iterator[str]:
    """Names of the functions; a filter without rules for this has none."""
    family = peer.address.family
    known: dict[str, Filter] = {found.symbol: found for found in snapshot.filters}
    for symbol in peer.filters:
        found = known.get(symbol)
        if found is not None and found.rules(direction, family):
            yield function_name(symbol, direction, family)


def _learnt(snapshot: Snapshot, peer: Peer, *, internal: bool) -> Learnt:
    if peer.kind is PeerKind.WORKLOAD:
        return Learnt.WORKLOAD
    if not internal and not peer.is_host:
        return Learnt.FABRIC
    if internal and snapshot.cluster_id is not None and not peer.is_reflector:
        return Learnt.CLIENT
    return Learnt.HOST


def _audience(snapshot: Snapshot, peer: Peer, *, internal: bool) -> Audience:
    if peer.kind is PeerKind.WORKLOAD:
        return Audience.WORKLOAD
    if internal:
        client = snapshot.cluster_id is not None and not peer.is_reflector
        return Audience.CLIENT if client else Audience.HOST
    return Audience.EXTERNAL_HOST if peer.is_host else Audience.FABRIC
