"""Which sessions a host has, by rows of what the datastore says."""

from typing import Any

import msgspec
import pytest

from tortie.bgp.peers import Node, PeerSource, Sessions, Workload, sessions, whole_seconds
from tortie.bgp.snapshot import NextHop, Peer, PeerKind
from tortie.lib.errors import InvalidInput
from tortie.lib.ip import parse_address
from tortie.model.bgp_configuration import BGPConfigurationSpec, SecretKeySelector
from tortie.model.bgp_peer import BGPPeerSpec


def node(ordinal: int, *, v6: bool = False, **fields: Any) -> Node:
    return Node(
        ipv4=parse_address(f"10.0.0.{ordinal}"),
        ipv6=parse_address(f"fd00::{ordinal}") if v6 else None,
        **fields,
    )


NODES = {
    "n1": node(1, v6=True, labels={"rack": "a"}),
    "n2": node(2, v6=True, as_number=65002, labels={"rack": "a"}),
    "n3": node(3, labels={"rack": "b", "rr": ""}),
    "n4": Node(labels={"rack": "b"}),
}


def no_password(reference: SecretKeySelector) -> str:
    raise InvalidInput("there is none")


def found(host: str = "n1", **fields: Any) -> Sessions:
    peers = {
        name: msgspec.convert(spec, BGPPeerSpec) for name, spec in fields.pop("peers", {}).items()
    }
    configuration = msgspec.convert(fields.pop("configuration", {}), BGPConfigurationSpec)
    nodes = fields.pop("nodes", NODES)
    password = fields.pop("password", no_password)
    source = PeerSource(host=host, nodes=nodes, peers=peers, configuration=configuration, **fields)
    return sessions(source, password)


def whom(sessions: Sessions) -> list[tuple[str, int, str]]:
    return [(p.address.address_text, p.as_number, p.kind.value) for p in sessions.peers]


OFF = {"nodeToNodeMeshEnabled": False}


def test_the_mesh_is_every_other_host_in_each_shared_family() -> None:
    assert whom(found()) == [
        ("10.0.0.2", 65002, "mesh"),
        ("10.0.0.3", 64512, "mesh"),
        ("fd00::2", 65002, "mesh"),
    ]
    assert whom(found("n3", configuration={"asNumber": 64700})) == [
        ("10.0.0.1", 64700, "mesh"),
        ("10.0.0.2", 65002, "mesh"),
    ]
    assert whom(found("n4")) == whom(found("stranger")) == []
    assert whom(found(configuration=OFF)) == []


def test_reflectors_are_outside_of_the_mesh() -> None:
    nodes = NODES | {"n3": node(3, cluster_id="244.0.0.1")}
    assert whom(found(nodes=nodes))[0][0] == "10.0.0.2"
    assert len(whom(found(nodes=nodes))) == 2
    assert whom(found("n3", nodes=nodes)) == []


@pytest.mark.parametrize(
    ("spec", "host", "expected"),
    [
        ({"peerIP": "10.9.0.1", "asNumber": 65000}, "n1", [("10.9.0.1", 65000, "global")]),
        ({"peerIP": "fd09::1", "asNumber": 65000}, "n3", []),
        ({"peerIP": "10.0.0.1", "asNumber": 65000}, "n1", []),
        ({"peerIP": "10.9.0.1", "asNumber": 7, "node": "n1"}, "n1", [("10.9.0.1", 7, "node")]),
        ({"peerIP": "10.9.0.1", "asNumber": 7, "node": "n1"}, "n2", []),
        (
            {"peerIP": "10.9.0.1", "asNumber": 7, "nodeSelector": "rack == 'b'"},
            "n3",
            [("10.9.0.1", 7, "node")],
        ),
        ({"peerIP": "10.9.0.1", "asNumber": 7, "nodeSelector": "rack == 'b'"}, "n1", []),
        ({"peerSelector": "has(rr)"}, "n1", [("10.0.0.3", 64512, "global")]),
        (
            {"peerSelector": "has(rr)"},
            "n3",
            [("10.0.0.1", 64512, "global"), ("10.0.0.2", 65002, "global")],
        ),
        ({"peerSelector": "has(rr)", "reversePeering": "Manual"}, "n3", []),
        (
            {"peerSelector": "rack == 'a'", "nodeSelector": "has(rr)"},
            "n2",
            [("10.0.0.3", 64512, "node")],
        ),
        (
            {"peerSelector": "rack == 'a'", "nodeSelector": "rack == 'a'"},
            "n1",
            [("10.0.0.2", 65002, "node"), ("fd00::2", 65002, "node")],
        ),
        ({"peerIP": "10.0.0.2"}, "n1", [("10.0.0.2", 65002, "global")]),
    ],
)
def test_whom_a_resource_makes_a_peer(
    spec: dict[str, Any], host: str, expected: list[tuple[str, int, str]]
) -> None:
    assert whom(found(host, peers={"p": spec}, configuration=OFF)) == expected


def one(spec: dict[str, Any], **fields: Any) -> Peer:
    base = {"peerIP": "10.9.0.1", "asNumber": 65000}
    peers = found(peers={"p": base | spec}, configuration=OFF, **fields).peers
    assert len(peers) == 1
    return peers[0]


@pytest.mark.parametrize(
    ("spec", "field", "value"),
    [
        ({"peerIP": "10.9.0.1:1179"}, "port", 1179),
        ({"peerIP": "[fd09::1]:1179"}, "port", 1179),
        ({}, "port", 179),
        ({"localASNumber": 64999}, "local_as", 64999),
        ({"sourceAddress": "None"}, "use_own_address", False),
        ({"sourceAddress": "UseNodeIP"}, "use_own_address", True),
        ({"nextHopMode": "Self"}, "next_hop", NextHop.SELF),
        ({"nextHopMode": "Keep"}, "next_hop", NextHop.KEEP),
        ({"keepOriginalNextHop": True}, "next_hop", NextHop.KEEP),
        ({"keepOriginalNextHop": True, "asNumber": 64512}, "next_hop", NextHop.AUTO),
        ({"ttlSecurity": 2}, "hops", 2),
        ({"ttlSecurity": 0}, "hops", None),
        ({"keepaliveTime": "15s"}, "keepalive_seconds", 15),
        ({"maxRestartTime": "2m30s"}, "restart_seconds", 150),
        ({"maxRestartTime": "10h"}, "restart_seconds", 4095),
        ({"numAllowedLocalASNumbers": 2}, "allow_local_as", 2),
        ({"reachableBy": "10.0.0.254"}, "reachable_by", parse_address("10.0.0.254")),
    ],
)
def test_what_a_resource_says_of_the_session(
    spec: dict[str, Any], field: str, value: object
) -> None:
    assert getattr(one(spec), field) == value


def test_bfd_is_asked_for_by_annotation() -> None:
    assert one({}, bfd_peers=frozenset({"p"})).bfd
    assert not one({}, bfd_peers=frozenset({"q"})).bfd


def test_without_its_password_a_session_is_not_made() -> None:
    password = {"secretKeyRef": {"name": "s", "key": "k"}}
    peers = {"p": {"peerIP": "10.9.0.1", "asNumber": 1, "password": password}}
    missing = found(peers=peers, configuration=OFF)
    assert (missing.peers, missing.problems) == ((), {"p": "there is none"})
    present = found(peers=peers, configuration=OFF, password=lambda reference: reference.key)
    assert present.peers[0].password == "k"
    mesh = found(configuration={"nodeMeshPassword": password})
    assert (mesh.peers, mesh.problems) == ((), {"": "there is none"})


def test_a_missing_filter_closes_the_session() -> None:
    closed = found(
        peers={"p": {"peerIP": "10.9.0.1", "asNumber": 1, "filters": ["gone"]}}, configuration=OFF
    )
    assert closed.peers[0].closed
    assert "gone" in closed.problems["p"]


def test_of_several_to_one_address_the_most_specific_is_kept() -> None:
    everyone = {"peerIP": "10.0.0.2", "asNumber": 65002, "keepaliveTime": "10s"}
    peers = {"a": everyone, "b": everyone | {"node": "n1", "keepaliveTime": "20s"}}
    kept = {p.address.address_text: p for p in found(peers=peers).peers}
    assert kept["10.0.0.2"].kind is PeerKind.NODE
    assert kept["10.0.0.2"].keepalive_seconds == 20
    assert kept["10.0.0.3"].kind is PeerKind.MESH
    kept = {p.address.address_text: p for p in found(peers={"a": everyone}).peers}
    assert kept["10.0.0.2"].kind is PeerKind.GLOBAL


def test_reflectors_of_one_cluster_are_no_clients_of_each_other() -> None:
    nodes = NODES | {
        "n2": node(2, cluster_id="244.0.0.1", labels={"rr": ""}),
        "n3": node(3, cluster_id="244.0.0.1", labels={"rr": ""}),
        "n5": node(5, cluster_id="244.0.0.2", labels={"rr": ""}),
    }
    peers = found("n3", nodes=nodes, peers={"p": {"peerSelector": "has(rr)"}}).peers
    assert [(p.address.address_text, p.is_reflector) for p in peers] == [
        ("10.0.0.1", False),
        ("10.0.0.2", True),
        ("10.0.0.5", False),
    ]


def test_workloads_come_to_the_address_that_is_named() -> None:
    workloads = (
        Workload({"app": "router"}, (parse_address("10.65.0.7"), parse_address("fd65::7"))),
        Workload({"app": "web"}, (parse_address("10.65.0.8"),)),
    )
    peers = found(
        configuration=OFF | {"localWorkloadPeeringIPV4": "169.254.9.9"},
        peers={"p": {"localWorkloadSelector": "app == 'router'", "asNumber": 65111}},
        workloads=workloads,
    ).peers
    assert [p.address.address_text for p in peers] == ["10.65.0.7", "fd65::7"]
    assert [p.local_address for p in peers] == [parse_address("169.254.9.9"), None]
    assert all(p.passive and not p.use_own_address and not p.is_host for p in peers)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("", None), ("90s", 90), ("1m30s", 90), ("1.5s", 2), ("200ms", 1), ("100h", 1000)],
)
def test_durations(text: str, seconds: int | None) -> None:
    assert whole_seconds(text, 1000) == seconds


def test_what_is_no_duration_is_refused() -> None:
    with pytest.raises(InvalidInput):
        whole_seconds("90", 1000)


def test_ports_of_nodes_are_their_own() -> None:
    nodes = NODES | {"n2": node(2, listen_port=1180)}
    ports = [p.port for p in found(nodes=nodes, configuration={"listenPort": 1179}).peers]
    assert ports == [1180, 1179]
