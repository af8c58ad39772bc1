"""Which sessions this host has: the mesh, and what BGPPeers say. Pure.

Of several that lead to one address and port one is kept: a BGPPeer for
certain nodes before one for all, both before the mesh, among equals the one
whose name sorts first. A session between two nodes looks the same whoever
asked for it, so that it goes on when a mesh is moved to route reflectors.

Source: Calico, confd/pkg/backends/calico/bgp_processor.go and client.go.
"""

from collections.abc import Callable, Iterator, Mapping

import msgspec

from tortie.bgp.filters import filter_symbol
from tortie.bgp.snapshot import DEFAULT_AS_NUMBER, DEFAULT_LISTEN_PORT, NextHop, Peer, PeerKind
from tortie.lib.duration import parse_duration
from tortie.lib.errors import InvalidInput
from tortie.lib.ip import Network, parse_address
from tortie.model.bgp_configuration import BGPConfigurationSpec, SecretKeySelector
from tortie.model.bgp_peer import BGPPeerSpec
from tortie.model.validation.bgp import parse_peer_ip
from tortie.selector.syntax import compile_selector

RESTART_MAX_SECONDS = 4095
"""12 bits (RFC 4724, section 3)."""
KEEPALIVE_MAX_SECONDS = 21845
"""A third of the longest hold time, 16 bits (RFC 4271, section 4.2)."""

_PRECEDENCE = {PeerKind.NODE: 0, PeerKind.WORKLOAD: 1, PeerKind.GLOBAL: 2, PeerKind.MESH: 3}


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A node of the cluster, as far as BGP is concerned."""

    ipv4: Network | None = None
    ipv6: Network | None = None
    as_number: int | None = None
    cluster_id: str = ""
    labels: Mapping[str, str] = {}
    listen_port: int | None = None

    def address(self, family: int) -> Network | None:
        return self.ipv4 if family == 4 else self.ipv6


class Workload(msgspec.Struct, frozen=True):
    """An endpoint of this host."""

    labels: Mapping[str, str]
    networks: tuple[Network, ...]


class PeerSource(msgspec.Struct, frozen=True, kw_only=True):
    """What decides the sessions of a host."""

    host: str
    nodes: Mapping[str, Node]
    configuration: BGPConfigurationSpec = BGPConfigurationSpec()
    """Named `default`, with what `node.<host>` gives laid over it."""
    peers: Mapping[str, BGPPeerSpec] = {}
    bfd_peers: frozenset[str] = frozenset()
    """Names of BGPPeers whose annotation asks for BFD; empty text: the mesh."""
    filters: frozenset[str] = frozenset()
    """Names of those that are there."""
    workloads: tuple[Workload, ...] = ()

    @property
    def own(self) -> Node:
        return self.nodes.get(self.host, Node())

    @property
    def default_as(self) -> int:
        return self.configuration.as_number or DEFAULT_AS_NUMBER

    def as_number(self, node: Node) -> int:
        return node.as_number or self.default_as

    def port(self, node: Node) -> int:
        return node.listen_port or self.configuration.listen_port or DEFAULT_LISTEN_PORT


Password = Callable[[SecretKeySelector], str]
"""Looks a password up. Raises InvalidInput."""


class Sessions(msgspec.Struct, frozen=True):
    peers: tuple[Peer, ...]
    """Sorted by address and port."""
    problems: Mapping[str, str]
    """Why a BGPPeer (by name; empty: the mesh) has no session, or a closed one."""


def whole_seconds(text: str | None, most: int) -> int | None:
    """`90s`, `1m30s`, `1500ms` rounded to whole seconds within 1 to `most`; None for none.

    Raises:
        InvalidInput: not a duration.
    """
    if not text:
        return None
    return max(1, min(most, round(parse_duration(text))))


def sessions(source: PeerSource, password: Password) -> Sessions:
    """All sessions of the host, each address and port once."""
    problems: dict[str, str] = {}
    found: list[tuple[int, str, Peer]] = []
    try:
        for peer in _mesh(source, password):
            found.append((_PRECEDENCE[peer.kind], "", peer))
    except InvalidInput as error:
        problems[""] = str(error)
    for name, spec in source.peers.items():
        missing = sorted(set(spec.filters) - source.filters)
        if missing:
            problems[name] = f"there is no BGPFilter {missing[0]!r}: its sessions are closed"
        try:
            for peer in _of_resource(source, name, spec, password, closed=bool(missing)):
                found.append((_PRECEDENCE[peer.kind], name, peer))
        except InvalidInput as error:
            problems[name] = str(error)
    kept: dict[tuple[Network, int], Peer] = {}
    for _, _, peer in sorted(found, key=lambda entry: entry[:2]):
        kept.setdefault(peer.sort_key, peer)
    return Sessions(tuple(kept[key] for key in sorted(kept)), problems)


def _mesh(source: PeerSource, password: Password) -> Iterator[Peer]:
    """One session to every other host, per family that both have; reflectors stay outside."""
    configuration, own = source.configuration, source.own
    if configuration.node_to_node_mesh_enabled is False or own.cluster_id:
        return
    secret = configuration.node_mesh_password
    reference = secret.secret_key_ref if secret else None
    text = password(reference) if reference else ""
    restart = whole_seconds(configuration.node_mesh_max_restart_time, RESTART_MAX_SECONDS)
    for name, node in source.nodes.items():
        if name == source.host or node.cluster_id:
            continue
        for address in _shared_addresses(own, node):
            yield Peer(
                address=address,
                as_number=source.as_number(node),
                port=source.port(node),
                password=text,
                restart_seconds=restart,
                bfd="" in source.bfd_peers,
            )


def _shared_addresses(own: Node, other: Node) -> Iterator[Network]:
    for mine, theirs in ((own.ipv4, other.ipv4), (own.ipv6, other.ipv6)):
        if mine is not None and theirs is not None and mine != theirs:
            yield theirs


def _of_resource(
    source: PeerSource, name: str, spec: BGPPeerSpec, password: Password, *, closed: bool
) -> Iterator[Peer]:
    addressed = list(_addressed(source, spec))
    if not addressed:
        return
    reference = spec.password.secret_key_ref if spec.password else None
    changes = {
        "local_as": spec.local_as_number or None,
        "use_own_address": spec.source_address != "None",
        "password": password(reference) if reference else "",
        "next_hop": _next_hop(spec.next_hop_mode or "Auto"),
        "hops": spec.ttl_security or None,
        "keepalive_seconds": whole_seconds(spec.keepalive_time, KEEPALIVE_MAX_SECONDS),
        "restart_seconds": whole_seconds(spec.max_restart_time, RESTART_MAX_SECONDS),
        "allow_local_as": spec.num_allowed_local_as_numbers or 0,
        "reachable_by": parse_address(spec.reachable_by) if spec.reachable_by else None,
        "bfd": name in source.bfd_peers,
        "filters": tuple(filter_symbol(f) for f in spec.filters if f in source.filters),
        "closed": closed,
    }
    own_as = spec.local_as_number or source.as_number(source.own)
    for peer in addressed:
        complete = msgspec.structs.replace(peer, **changes)
        if peer.kind is PeerKind.WORKLOAD:
            complete = msgspec.structs.replace(complete, use_own_address=False)
        if spec.keep_original_next_hop and peer.as_number != own_as:
            complete = msgspec.structs.replace(complete, next_hop=NextHop.KEEP)
        yield complete


def _next_hop(text: str) -> NextHop:
    try:
        return NextHop[text.upper()]
    except KeyError:
        raise InvalidInput(f"nextHopMode {text!r} is not Auto, Self or Keep") from None


def _addressed(source: PeerSource, spec: BGPPeerSpec) -> Iterator[Peer]:
    """Whom this host peers with: address, port, AS number and what the peer is."""
    kind = PeerKind.NODE if spec.node or spec.node_selector else PeerKind.GLOBAL
    if spec.peer_selector:
        yield from _selected(source, spec, kind)
    elif not _applies(spec, source.host, source.own):
        return
    elif spec.local_workload_selector:
        yield from _workloads(source, spec)
    elif spec.peer_ip:
        yield from _by_address(source, spec, kind)


def _applies(spec: BGPPeerSpec, name: str, node: Node) -> bool:
    if spec.node:
        return spec.node == name
    return not spec.node_selector or compile_selector(spec.node_selector).matches(node.labels)


def _selected(source: PeerSource, spec: BGPPeerSpec, kind: PeerKind) -> Iterator[Peer]:
    """Nodes by label: we to them, and, unless that is manual, they to us."""
    selector = compile_selector(spec.peer_selector)
    mine = _applies(spec, source.host, source.own)
    reverse = spec.reverse_peering != "Manual" and selector.matches(source.own.labels)
    for name, node in source.nodes.items():
        if name == source.host:
            continue
        forward = mine and selector.matches(node.labels)
        if forward or (reverse and _applies(spec, name, node)):
            for address in _shared_addresses(source.own, node):
                yield _to_node(source, node, address, kind, source.port(node))


def _to_node(source: PeerSource, node: Node, address: Network, kind: PeerKind, port: int) -> Peer:
    own = source.own.cluster_id
    return Peer(
        address=address,
        as_number=source.as_number(node),
        port=port,
        kind=kind,
        is_reflector=bool(own) and node.cluster_id == own,
    )


def _by_address(source: PeerSource, spec: BGPPeerSpec, kind: PeerKind) -> Iterator[Peer]:
    address, port = parse_peer_ip(spec.peer_ip)
    own = source.own.address(address.family)
    if own is None or own == address:
        return
    for node in source.nodes.values():
        if node.address(address.family) == address:
            peer = _to_node(source, node, address, kind, port or source.port(node))
            yield msgspec.structs.replace(
                peer, as_number=spec.as_number or peer.as_number, port_given=bool(port)
            )
            return
    yield Peer(
        address=address,
        as_number=spec.as_number or source.as_number(source.own),
        port=port or DEFAULT_LISTEN_PORT,
        port_given=bool(port),
        kind=kind,
        is_host=False,
    )


def _workloads(source: PeerSource, spec: BGPPeerSpec) -> Iterator[Peer]:
    """They come to us: to the address that the configuration names, if it names one."""
    selector = compile_selector(spec.local_workload_selector)
    texts = {
        4: source.configuration.local_workload_peering_ipv4,
        6: source.configuration.local_workload_peering_ipv6,
    }
    for workload in source.workloads:
        if not selector.matches(workload.labels):
            continue
        for address in workload.networks:
            text = texts[address.family]
            if address.is_address and source.own.address(address.family) is not None:
                yield Peer(
                    address=address,
                    as_number=spec.as_number or 0,
                    kind=PeerKind.WORKLOAD,
                    is_host=False,
                    local_address=parse_address(text) if text else None,
                    passive=True,
                )
