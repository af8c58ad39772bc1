"""Answers of BIRD, as it gives them, read back."""

from tortie.bgp.report import report
from tortie.bgp.snapshot import PeerKind
from tortie.bgp.status import LearntRoute, peers, routes
from tortie.model.node_status import AgentStatus, RoutesStatus

PROTOCOLS = [
    (2002, "Name       Proto      Table      State  Since         Info"),
    (1002, "device1    Device     ---        up     05:06:34.976  "),
    (1006, ""),
    (1002, "Peer_10_0_0_2 BGP        ---        up     05:06:35.806  Established   "),
    (1006, "  Description:    mesh"),
    (1006, "  BGP state:          Established"),
    (1006, "    Neighbor address: 10.0.0.2"),
    (1006, "    Neighbor AS:      64512"),
    (1006, ""),
    (1002, "Peer_fd00__9 BGP        ---        start  05:06:35.806  Active        Socket: refused"),
    (1006, "  Description:    global"),
    (1006, "  BGP state:          Active"),
    (1006, "    Neighbor address: fd00::9"),
    (1006, "    Neighbor AS:      65000"),
    (1006, "    Last error:       Socket: Connection refused"),
    (1006, ""),
    (1002, "Peer_10_0_0_7 BGP        ---        start  05:06:35.806  Connect"),
    (1006, "  Description:    workload"),
    (1006, "  BGP state:          Connect"),
    (1006, "    Neighbor address: 10.0.0.7"),
]

ROUTES = [
    (1007, "Table master4:"),
    (1007, "10.65.2.0/26         unicast [Peer_10_0_0_2 05:06:35.806] * (100) [i]"),
    (1007, "\tvia 10.0.0.2 on eth0"),
    (1007, "                     unicast [Peer_10_0_0_3 05:06:36.1 from 10.0.0.3] (100) [i]"),
    (1007, "\tvia 10.0.0.2 on eth0"),
    (1007, "10.65.1.0/26         blackhole [kernel4 05:06:30.000] * (150)"),
    (1007, ""),
]


def test_sessions_and_why_they_are_not_up() -> None:
    up, refused, silent = peers(PROTOCOLS)
    assert (up.address, up.kind, up.state, up.info) == (
        "10.0.0.2", PeerKind.MESH, "up", "Established",
    )  # fmt: skip
    assert refused.kind is PeerKind.GLOBAL
    assert refused.info == (
        "Active Socket: Connection refused: nothing listens there; does BIRD run on the peer?"
    )
    assert "no answer" in silent.info


def test_routes_with_all_their_paths() -> None:
    assert routes(ROUTES) == [
        LearntRoute(
            destination="10.65.2.0/26", kind="unicast", protocol="Peer_10_0_0_2",
            since="05:06:35.806", best=True, via=("via 10.0.0.2 on eth0",),
        ),
        LearntRoute(
            destination="10.65.2.0/26", kind="unicast", protocol="Peer_10_0_0_3",
            since="05:06:36.1", best=False, via=("via 10.0.0.2 on eth0",),
        ),
        LearntRoute(
            destination="10.65.1.0/26", kind="blackhole", protocol="kernel4",
            since="05:06:30.000", best=True,
        ),
    ]  # fmt: skip


STATE = [
    (1000, "BIRD 2.0.12"),
    (1011, "Router ID is 10.0.0.1"),
    (1011, "Last reboot on 2026-11-23 05:00:00.000"),
    (1011, "Last reconfiguration on 2026-11-23 05:01:00.000"),
    (13, "Daemon is up and running"),
]


def test_a_report_has_what_was_asked_for() -> None:
    now = "2026-11-23T05:02:00Z"
    made = report(("Agent", "BGP", "Routes"), STATE, PROTOCOLS, ROUTES, now)
    assert made.last_updated == now
    assert made.agent.bird_v4.state == "Ready"
    assert made.agent.bird_v4.version == "2.0.12"
    assert made.agent.bird_v6.router_id == "10.0.0.1"
    assert made.bgp is not None
    assert (made.bgp.number_established_v4, made.bgp.number_not_established_v4) == (1, 1)
    assert (made.bgp.number_established_v6, made.bgp.number_not_established_v6) == (0, 1)
    assert [(p.peer_ip, p.type, p.state) for p in made.bgp.peers_v4] == [
        ("10.0.0.2", "NodeMesh", "Established"),
        ("10.0.0.7", "GlobalPeer", "Connect"),
    ]
    first = made.routes.routes_v4[0]
    assert (first.type, first.destination, first.gateway, first.interface) == (
        "FIB", "10.65.2.0/26", "10.0.0.2", "eth0",
    )  # fmt: skip
    assert first.learned_from.source_type == "NodeMesh"
    assert made.routes.routes_v4[2].learned_from.source_type == "Kernel"
    empty = report(("BGP",), None, [], [], now)
    assert empty.agent == AgentStatus()
    assert empty.routes == RoutesStatus()
    assert report(("Agent",), None, [], [], now).agent.bird_v4.state == "NotReady"
