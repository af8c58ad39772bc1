"""CalicoNodeStatus from BIRD's answers. Pure.

One BIRD speaks both families here, so `birdV4` and `birdV6` say the same.

Source: Calico, node/pkg/status/populators.
"""

from collections.abc import Sequence

from tortie.bgp import status
from tortie.bgp.snapshot import PeerKind
from tortie.bgp.status import LearntRoute, Lines
from tortie.model.node_status import (
    AgentStatus,
    BGPStatus,
    CalicoNodeStatusStatus,
    DaemonStatus,
    PeerStatus,
    RouteSource,
    RoutesStatus,
    RouteStatus,
)

_TYPES = {PeerKind.MESH: "NodeMesh", PeerKind.NODE: "NodePeer"}
"""All others count as global."""

_SOURCES = {"kernel": "Kernel", "direct": "Direct", "service": "Static", "reach": "Static"}
"""By the beginning of a protocol's name; all others are sessions."""

_HEADS = {
    "Router ID is ": "router_id",
    "Last reboot on ": "last_boot_time",
    "Last reconfiguration on ": "last_reconfiguration_time",
}


def report(
    classes: Sequence[str],
    state: Lines | None,
    protocols: Lines,
    table: Lines,
    now: str,
) -> CalicoNodeStatusStatus:
    """
    Args:
        classes: of `Agent`, `BGP`, `Routes`: what is asked for.
        state: the answer to `show status`; None: BIRD does not answer.
        protocols: to `show protocols all`.
        table: to `show route`.
        now: RFC 3339.
    """
    peers = status.peers(protocols)
    kinds = {status.session_symbol(peer.address): peer for peer in peers}
    return CalicoNodeStatusStatus(
        last_updated=now,
        agent=_agent(state) if "Agent" in classes else AgentStatus(),
        bgp=_bgp(peers) if "BGP" in classes else None,
        routes=_routes(status.routes(table), kinds) if "Routes" in classes else RoutesStatus(),
    )


def _agent(state: Lines | None) -> AgentStatus:
    if state is None:
        daemon = DaemonStatus(state="NotReady")
    else:
        found = {"version": "", "router_id": "", "last_boot_time": ""}
        for _, text in state:
            if text.startswith("BIRD "):
                found["version"] = text.removeprefix("BIRD ")
            for head, field in _HEADS.items():
                if text.startswith(head):
                    found[field] = text.removeprefix(head)
        daemon = DaemonStatus(state="Ready", **found)
    return AgentStatus(bird_v4=daemon, bird_v6=daemon)


def _bgp(peers: Sequence[status.PeerStatus]) -> BGPStatus:
    by_family: dict[int, list[PeerStatus]] = {4: [], 6: []}
    up = {4: 0, 6: 0}
    for peer in peers:
        family = 6 if ":" in peer.address else 4
        up[family] += peer.is_up
        by_family[family].append(
            PeerStatus(
                peer_ip=peer.address,
                type=_TYPES.get(peer.kind, "GlobalPeer"),
                state=peer.bgp_state if peer.bgp_state != "Down" else "Idle",
                since=peer.since,
            )
        )
    return BGPStatus(
        number_established_v4=up[4],
        number_not_established_v4=len(by_family[4]) - up[4],
        number_established_v6=up[6],
        number_not_established_v6=len(by_family[6]) - up[6],
        peers_v4=tuple(by_family[4]),
        peers_v6=tuple(by_family[6]),
    )


def _routes(routes: Sequence[LearntRoute], peers: dict[str, status.PeerStatus]) -> RoutesStatus:
    by_family: dict[int, list[RouteStatus]] = {4: [], 6: []}
    for route in routes:
        words = (route.via[0] if route.via else "").split()
        gateway = words[1] if words[:1] == ["via"] else ""
        interface = words[-1] if words else ""
        family = 6 if ":" in route.destination else 4
        by_family[family].append(
            RouteStatus(
                type="FIB" if route.best else "RIB",
                destination=route.destination,
                gateway=gateway or "N/A",
                interface=interface,
                learned_from=_source(route.protocol, peers),
            )
        )
    return RoutesStatus(routes_v4=tuple(by_family[4]), routes_v6=tuple(by_family[6]))


def _source(protocol: str, peers: dict[str, status.PeerStatus]) -> RouteSource:
    for head, source in _SOURCES.items():
        if protocol.startswith(head):
            return RouteSource(source_type=source)
    peer = peers.get(protocol.partition("_port_")[0])
    kind = "NodeMesh" if peer is not None and peer.kind is PeerKind.MESH else "BGPPeer"
    return RouteSource(source_type=kind, peer_ip=peer.address if peer else "")
