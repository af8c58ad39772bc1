"""A snapshot as BIRD 2 configuration. Pure; the same snapshot gives the same bytes.

No text of a user gets in: names are made of addresses, and everything else
is a number. That is the whole protection against injection, so keep it.

The agent puts its blocks (blackhole) and workload addresses into the kernel
with its own protocol number; BIRD learns them from there, announces the
blocks whole, and of single addresses only those outside our blocks.

Source: BIRD 2.0 User's Guide, chapters 3 to 6.
"""

from collections.abc import Iterable, Iterator

from tortie.bgp.snapshot import Peer, Snapshot
from tortie.lib.ip import Network

_FULL = {4: 32, 6: 128}


def render_bird(snapshot: Snapshot) -> str:
    return "\n".join([*_lines(snapshot), ""])


def _lines(snapshot: Snapshot) -> Iterator[str]:
    yield "# Written by the agent; changes are overwritten."
    yield f"router id {router_id(snapshot)};"
    yield "graceful restart wait 30;"
    yield "protocol device { scan time 10; }"
    # Without direct routes the next hops of iBGP do not resolve.
    yield 'protocol direct { ipv4; ipv6; interface -"cali*", -"lo", "*"; }'
    for family, own in ((4, snapshot.ipv4), (6, snapshot.ipv6)):
        if own is not None:
            yield from _family(snapshot, family, own)
    for peer in snapshot.peers:
        yield from _session(snapshot, peer)


def router_id(snapshot: Snapshot) -> str:
    """Our IPv4 address; without one, 32 bits folded from the IPv6 address."""
    if snapshot.ipv4 is not None:
        return snapshot.ipv4.address_text
    value = snapshot.ipv6.value if snapshot.ipv6 is not None else 1
    folded = 0
    while value:
        folded ^= value & 0xFFFFFFFF
        value >>= 32
    return Network(4, folded or 1, 32).address_text


def _family(snapshot: Snapshot, family: int, own: Network) -> Iterator[str]:
    pools = _within(snapshot.pools, family)
    yield f"filter from_kernel{family} {{"
    yield f"  if krt_source = {snapshot.route_protocol} && {pools} then accept;"
    yield "  reject;"
    yield "}"
    yield f"filter to_kernel{family} {{"
    yield "  if source = RTS_BGP then {"
    yield f"    krt_prefsrc = {own.address_text};"
    yield "    accept;"
    yield "  }"
    yield "  reject;"
    yield "}"
    yield f"filter from_peers{family} {{"
    for block in _of(snapshot.own_blocks, family):
        yield f"  if net = {block} then reject;"
    yield f"  if {pools} then accept;"
    yield "  reject;"
    yield "}"
    yield f"filter to_peers{family} {{"
    for block in _of(snapshot.own_blocks, family):
        if not block.is_address:
            yield f"  if net ~ [ {block}{{{block.length + 1},{_FULL[family]}}} ] then reject;"
    exported = _within(snapshot.exported_pools, family)
    yield f"  if source != RTS_DEVICE && {exported} then accept;"
    yield "  reject;"
    yield "}"
    yield f"protocol kernel kernel{family} {{"
    yield "  learn; persist; scan time 10; graceful restart;"
    yield (
        f"  ipv{family} {{ import filter from_kernel{family}; export filter to_kernel{family}; }};"
    )
    yield "}"


def _session(snapshot: Snapshot, peer: Peer) -> Iterator[str]:
    family = peer.address.family
    own = snapshot.ipv4 if family == 4 else snapshot.ipv6
    assert own is not None, "mesh_peers gives only families that we have"
    yield f"protocol bgp {session_name(peer)} {{"
    yield (f"  local {own.address_text} port {snapshot.listen_port} as {snapshot.as_number};")
    yield f"  neighbor {peer.address.address_text} port {peer.port} as {peer.as_number};"
    yield "  hold time 90; connect delay time 1; connect retry time 2; error wait time 1,5;"
    yield "  graceful restart on; graceful restart time 120;"
    yield (
        f"  ipv{family} {{ import filter from_peers{family};"
        f" export filter to_peers{family}; next hop self; }};"
    )
    yield "}"


def session_name(peer: Peer) -> str:
    """A symbol made of the address: `Mesh_10_0_0_2`, `Mesh_fd00__2`."""
    return "Mesh_" + "".join(
        character if character.isalnum() else "_" for character in peer.address.address_text
    )


def _of(networks: Iterable[Network], family: int) -> list[Network]:
    return [network for network in networks if network.family == family]


def _within(networks: Iterable[Network], family: int) -> str:
    """A test for "is one of these or lies in one"; BIRD has no empty prefix set."""
    parts = [f"{network}+" for network in _of(networks, family)]
    return f"net ~ [ {', '.join(parts)} ]" if parts else "false"
