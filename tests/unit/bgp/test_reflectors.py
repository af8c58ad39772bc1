"""Plans from mesh to reflectors: who is chosen, and in which order what is written."""

import pytest

from tortie.bgp.reflectors import LABEL, missing_sessions, plan
from tortie.lib.errors import InvalidInput
from tortie.model.bgp_configuration import BGPConfiguration, BGPConfigurationSpec
from tortie.model.bgp_peer import BGPPeer
from tortie.model.metadata import Metadata
from tortie.model.node import Node, NodeBGP, NodeSpec
from tortie.model.node_status import BGPStatus, PeerStatus
from tortie.model.validation import validate


def node(ordinal: int, cluster_id: str = "", **labels: str) -> Node:
    bgp = NodeBGP(ipv4_address=f"10.0.0.{ordinal}/24", route_reflector_cluster_id=cluster_id)
    return Node(
        kind="Node", metadata=Metadata(name=f"n{ordinal}", labels=labels), spec=NodeSpec(bgp=bgp)
    )


def test_the_mesh_goes_last() -> None:
    found = plan([node(n) for n in range(1, 10)], None, 2)
    kinds = [step.resource.kind if step.resource else "wait" for step in found.steps]
    assert kinds == ["BGPPeer", "Node", "Node", "wait", "BGPConfiguration"]
    assert found.reflectors == ("n1", "n2")
    assert (found.sessions_before, found.sessions_after) == (36, 15)
    for step in found.steps:
        assert step.resource is None or not validate(step.resource)
    peer = found.steps[0].resource
    assert isinstance(peer, BGPPeer)
    assert (peer.spec.node_selector, peer.spec.peer_selector) == ("all()", f"has({LABEL})")
    reflector = found.steps[1].resource
    assert isinstance(reflector, Node)
    assert LABEL in reflector.metadata.labels
    assert reflector.spec.bgp
    assert reflector.spec.bgp.route_reflector_cluster_id == "10.0.0.1"


def test_reflectors_are_spread_and_those_that_are_there_stay() -> None:
    racks = [node(n, rack="a" if n < 4 else "b") for n in range(1, 7)]
    assert plan(racks, None, 2).reflectors == ("n1", "n4")
    there = [node(1, rack="a"), node(2, "244.0.0.1", rack="a"), node(3, rack="a")]
    assert plan(there, None, 1).reflectors == ("n2",)


def test_what_is_done_already_is_no_step() -> None:
    done = [node(1), node(2, "10.0.0.2", **{LABEL: ""})]
    spec = BGPConfigurationSpec(node_to_node_mesh_enabled=False)
    off = BGPConfiguration(metadata=Metadata(name="default"), spec=spec)
    assert len(plan(done, off, 1).steps) == 1


@pytest.mark.parametrize("count", [0, 3, 4])
def test_there_must_be_clients(count: int) -> None:
    with pytest.raises(InvalidInput):
        plan([node(1), node(2), node(3), Node(metadata=Metadata(name="bare"))], None, count)


def says(*peers: tuple[int, str, str]) -> BGPStatus:
    return BGPStatus(
        peers_v4=tuple(
            PeerStatus(peer_ip=f"10.0.0.{ordinal}", type=kind, state=state)
            for ordinal, kind, state in peers
        )
    )


def test_a_session_counts_when_both_ends_know_what_it_is_for() -> None:
    nodes = [node(1), node(2), Node(kind="Node", metadata=Metadata(name="elsewhere"))]
    up, old = (1, "GlobalPeer", "Established"), (1, "NodeMesh", "Established")
    back = {"n1": says((2, "GlobalPeer", "Established"))}
    assert missing_sessions(nodes, ["n1"], {**back, "n2": says(up)}) == []
    for other in (says(), says(old), says((1, "GlobalPeer", "Connect"))):
        assert missing_sessions(nodes, ["n1"], {**back, "n2": other}) == ["n2 to n1 10.0.0.1"]
    assert missing_sessions(nodes, ["n1"], {"n2": says(up)}) == ["n1 to n2 10.0.0.2"]
    assert len(missing_sessions(nodes, ["n1"], {})) == 2, "who says nothing is not there"
