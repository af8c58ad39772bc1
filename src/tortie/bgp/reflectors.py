"""From a mesh to route reflectors: which nodes, and in which order to write what. Pure.

Make before break: every session that reflection needs is there before the
mesh goes. Sessions between nodes go on as they are (see `peers`), so no route
is withdrawn on the way. Each reflector gets a cluster id of its own, its
router id: then even the id of a session's reflection is what it was.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from tortie.bgp.render_session import folded_id
from tortie.lib.errors import InvalidInput
from tortie.lib.ip import Network, parse_address
from tortie.model.bgp_configuration import BGPConfiguration
from tortie.model.bgp_peer import BGPPeer, BGPPeerSpec
from tortie.model.metadata import Metadata, Resource
from tortie.model.node import Node, NodeBGP
from tortie.model.node_status import BGPStatus

LABEL = "bgp.tortie.io/route-reflector"
PEER_NAME = "route-reflectors"
SPREAD_LABELS = ("topology.kubernetes.io/zone", "rack")
"""Reflectors are chosen from different values of these, where nodes have them."""


class Step(msgspec.Struct, frozen=True):
    summary: str
    resource: Resource | None
    """To be applied; None: wait until the sessions are up."""


class Plan(msgspec.Struct, frozen=True):
    reflectors: tuple[str, ...]
    sessions_before: int
    sessions_after: int
    """In the whole cluster, of one address family."""
    steps: tuple[Step, ...]


def plan(nodes: Sequence[Node], configuration: BGPConfiguration | None, count: int) -> Plan:
    """
    Args:
        configuration: the one named `default`.
        count: how many reflectors, from 1; those that are there already count.

    Raises:
        InvalidInput: there are not enough nodes with addresses.
    """
    able = sorted((n for n in nodes if _router_id(n)), key=lambda n: n.metadata.name)
    if not 1 <= count < len(able):
        raise InvalidInput(
            f"{count} reflectors need at least {count + 1} nodes with addresses in spec.bgp; "
            f"there are {len(able)}"
        )
    chosen = _choose(able, count)
    steps = [
        Step(
            f"create BGPPeer {PEER_NAME}: every node to the nodes with label {LABEL}",
            BGPPeer(
                kind="BGPPeer",
                metadata=Metadata(name=PEER_NAME),
                spec=BGPPeerSpec(node_selector="all()", peer_selector=f"has({LABEL})"),
            ),
        )
    ]
    for node in chosen:
        made = _reflector(node)
        if made != node:
            cluster = made.spec.bgp.route_reflector_cluster_id if made.spec.bgp else ""
            summary = f"make node {node.metadata.name} a reflector, cluster id {cluster}"
            steps.append(Step(summary, made))
    if configuration is None or configuration.spec.node_to_node_mesh_enabled is not False:
        steps.append(Step("wait until every node has its sessions to the reflectors", None))
        steps.append(Step("switch the node-to-node mesh off", _without_mesh(configuration)))
    total = len(able)
    return Plan(
        reflectors=tuple(node.metadata.name for node in chosen),
        sessions_before=total * (total - 1) // 2,
        sessions_after=count * (total - count) + count * (count - 1) // 2,
        steps=tuple(steps),
    )


def missing_sessions(
    nodes: Sequence[Node], reflectors: Sequence[str], reports: Mapping[str, BGPStatus]
) -> list[str]:
    """What is still to come before the mesh may go, each as `h2 to h1 172.30.0.1`.

    A session counts when both of its ends say that it is established and not of the mesh: the
    same session was there before, but only then both have heard what it is for now.

    Args:
        reports: by node, as they tell of themselves.
    """
    taking_part = [node for node in nodes if _router_id(node)]
    up = {name: _established(found) for name, found in reports.items()}
    found = []
    for reflector in (node for node in taking_part if node.metadata.name in reflectors):
        for node in taking_part:
            if node.metadata.name == reflector.metadata.name:
                continue
            for one, other in ((node, reflector), (reflector, node)):
                for address in _shared(one, other):
                    if address not in up.get(one.metadata.name, ()):
                        found.append(f"{one.metadata.name} to {other.metadata.name} {address}")
    return list(dict.fromkeys(found))


def _established(report: BGPStatus) -> set[str]:
    peers = (*report.peers_v4, *report.peers_v6)
    return {p.peer_ip for p in peers if p.state == "Established" and p.type != "NodeMesh"}


def _shared(one: Node, other: Node) -> list[str]:
    """The other one's addresses, of the families that both have; as BIRD writes them."""
    pairs = zip(_addresses(one), _addresses(other), strict=True)
    return [theirs.address_text for mine, theirs in pairs if mine and theirs]


def _choose(nodes: Sequence[Node], count: int) -> list[Node]:
    """Reflectors first, then from where there are fewest yet, then by name."""
    chosen = [node for node in nodes if _is_reflector(node)][:count]
    taken: Counter[tuple[str, ...]] = Counter(_place(node.metadata.labels) for node in chosen)
    rest = [node for node in nodes if node not in chosen]
    while len(chosen) < count:
        best = min(rest, key=lambda n: (taken[_place(n.metadata.labels)], n.metadata.name))
        rest.remove(best)
        taken[_place(best.metadata.labels)] += 1
        chosen.append(best)
    return chosen


def _place(labels: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(labels.get(label, "") for label in SPREAD_LABELS)


def _is_reflector(node: Node) -> bool:
    return bool(node.spec.bgp and node.spec.bgp.route_reflector_cluster_id)


def _reflector(node: Node) -> Node:
    bgp = node.spec.bgp or NodeBGP()
    cluster = bgp.route_reflector_cluster_id or _router_id(node)
    bgp = msgspec.structs.replace(bgp, route_reflector_cluster_id=cluster)
    labels = {**node.metadata.labels, LABEL: node.metadata.labels.get(LABEL, "")}
    return msgspec.structs.replace(
        node,
        metadata=msgspec.structs.replace(node.metadata, labels=labels),
        spec=msgspec.structs.replace(node.spec, bgp=bgp),
    )


def _router_id(node: Node) -> str:
    """As `render_session.router_id` has it; empty if the node takes no part in BGP."""
    addresses = _addresses(node)
    return folded_id(*addresses) if any(addresses) else ""


def _addresses(node: Node) -> tuple[Network | None, Network | None]:
    """IPv4 and IPv6, without their subnets."""
    bgp = node.spec.bgp
    if bgp is None:
        return None, None
    addresses: list[Network | None] = []
    for text in (bgp.ipv4_address, bgp.ipv6_address):
        try:
            addresses.append(parse_address(text.partition("/")[0]) if text else None)
        except InvalidInput:
            addresses.append(None)
    return addresses[0], addresses[1]


def _without_mesh(before: BGPConfiguration | None) -> BGPConfiguration:
    base = before or BGPConfiguration(kind="BGPConfiguration", metadata=Metadata(name="default"))
    # What belongs to a mesh alone may not be given without one.
    spec = msgspec.structs.replace(
        base.spec,
        node_to_node_mesh_enabled=False,
        node_mesh_password=None,
        node_mesh_max_restart_time=None,
    )
    return msgspec.structs.replace(base, spec=spec)
