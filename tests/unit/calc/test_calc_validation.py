"""What calc takes from resources, and what it refuses."""

import pytest
from msgspec.structs import replace
from tests.graph.resources import host_endpoint, network_set, node, workload

from tortie.calc.validation import (
    ServedPort,
    parse_global_network_set,
    parse_host_endpoint,
    parse_network_set,
    parse_node,
    parse_workload_endpoint,
)
from tortie.desired.endpoint import Bandwidth, FloatingAddress, Host, Limits, PacketRate
from tortie.lib.errors import InvalidInput
from tortie.lib.ip import parse_network
from tortie.model.endpoint import IPNAT, HostEndpoint, QoSControls, WorkloadEndpoint
from tortie.model.keys import ResourceKey
from tortie.model.network_set import GlobalNetworkSet, NetworkSet
from tortie.model.node import Node, NodeAddress, NodeBGP, NodeSpec

NS = "projectcalico.org/namespace"


def test_a_workload_has_the_labels_of_its_place_and_account() -> None:
    key, value = workload(
        "shop/web",
        "h1",
        "10.0.0.1",
        labels={"app": "web", NS: "other", "pcns.a": "1", "pcsa.a": "1"},
        account="till",
        profiles=("p", "q"),
        ports=[("http", "TCP", 80), ("", "UDP", 0)],
    )
    assert isinstance(key, ResourceKey)
    assert isinstance(value, WorkloadEndpoint)
    parsed = parse_workload_endpoint(key, value)
    assert parsed.labelled.labels == {
        "app": "web",
        NS: "shop",
        "projectcalico.org/orchestrator": "k8s",
        "projectcalico.org/serviceaccount": "till",
    }
    assert parsed.profiles == ("p", "q")
    assert parsed.networks == (parse_network("10.0.0.1/32"),)
    assert parsed.labelled.member.ports == (ServedPort("http", 6, 80),)


def test_floating_addresses_are_honoured_where_they_are_on_or_openstacks() -> None:
    key, value = workload("shop/web", "h1", "10.0.0.1", "fd00::1")
    assert isinstance(key, ResourceKey)
    assert isinstance(value, WorkloadEndpoint)
    translations = tuple(
        IPNAT(internal_ip=internal, external_ip=external)
        for internal, external in (
            ("10.0.0.1", "192.0.2.9"),
            ("fd00::1", "fd00:f::9"),
            ("10.0.0.1", "fd00:f::a"),  # another family
            ("10.0.0.7", "192.0.2.8"),  # not its own
        )
    )
    value = replace(value, spec=replace(value.spec, ip_nats=translations))
    assert parse_workload_endpoint(key, value).floating == ()
    parsed = parse_workload_endpoint(key, value, floating_addresses=True)
    assert parsed.floating == (
        FloatingAddress(parse_network("192.0.2.9/32"), parse_network("10.0.0.1/32")),
        FloatingAddress(parse_network("fd00:f::9/128"), parse_network("fd00::1/128")),
    )
    assert parsed.networks == tuple(map(parse_network, ("10.0.0.1/32", "fd00::1/128")))
    external = tuple(map(parse_network, ("192.0.2.9/32", "fd00:f::9/128")))
    assert parsed.destinations == (*parsed.networks, *external)
    openstack = replace(value, spec=replace(value.spec, orchestrator="openstack"))
    assert parse_workload_endpoint(key, openstack).floating == parsed.floating


def test_limits_are_taken_with_their_defaults() -> None:
    key, value = workload("shop/web", "h1", "10.0.0.1")
    assert isinstance(key, ResourceKey)
    assert isinstance(value, WorkloadEndpoint)
    assert parse_workload_endpoint(key, value).limits == Limits()

    def limits(**controls: object) -> Limits:
        given = QoSControls(**controls)  # type: ignore[arg-type]
        spec = replace(value.spec, qos_controls=given)
        return parse_workload_endpoint(key, replace(value, spec=spec)).limits

    assert limits(ingress_packet_rate=100, egress_packet_rate=7, egress_packet_burst=9) == Limits(
        PacketRate(100, 5), PacketRate(7, 9)
    )
    assert limits(ingress_packet_burst=9) == Limits(), "a burst of no rate is none"
    assert limits(ingress_max_connections=1, egress_max_connections=2) == Limits(
        ingress_connections=1, egress_connections=2
    )
    assert limits(
        ingress_bandwidth=10**6,
        egress_bandwidth=10**7,
        egress_burst=8000,
        egress_peakrate=2 * 10**7,
        egress_minburst=1500,
    ) == Limits(
        ingress_bandwidth=Bandwidth(10**6, 1 << 32),
        egress_bandwidth=Bandwidth(10**7, 8000, 2 * 10**7, 1500),
    )
    for text, number in (("EF", 46), ("af41", 34), ("CS7", 56), ("DF", 0), (63, 63), (0, 0)):
        assert limits(dscp=text).dscp == number
    for wrong in ("AF44", "x", 64, -1):
        with pytest.raises(InvalidInput):
            limits(dscp=wrong)


def test_other_sources_are_disjoint_and_in_order() -> None:
    key, value = workload("shop/web", "h1", "10.0.0.1")
    assert isinstance(key, ResourceKey)
    assert isinstance(value, WorkloadEndpoint)
    given = ("fd00::/8", "10.9.1.7/24", "10.9.0.0/16", "192.0.2.1")
    spec = replace(value.spec, allow_spoofed_source_prefixes=given)
    found = parse_workload_endpoint(key, replace(value, spec=spec)).sources
    assert list(map(str, found)) == ["10.9.0.0/16", "192.0.2.1/32", "fd00::/8"]
    bad = replace(value.spec, allow_spoofed_source_prefixes=("10.9.0.0/33",))
    with pytest.raises(InvalidInput):
        parse_workload_endpoint(key, replace(value, spec=bad))


@pytest.mark.parametrize(
    ("address", "port"),
    [("10.0.0.0/24", 1), ("ten", 1), ("::ffff:10.0.0.1", 1), ("10.0.0.1", 0), ("10.0.0.1", 65536)],
)
def test_a_workload_with_a_part_that_does_not_parse_is_refused(address: str, port: int) -> None:
    key, value = workload("shop/web", "h1", address, ports=[("http", "TCP", port)])
    assert isinstance(key, ResourceKey)
    assert isinstance(value, WorkloadEndpoint)
    with pytest.raises(InvalidInput):
        parse_workload_endpoint(key, value)


def test_network_sets_inherit_from_their_namespace_and_host_endpoints_have_none() -> None:
    key, value = network_set("shop/s", "10.1.1.1/8", labels={"a": "b", NS: "x", "pcns.a": "1"})
    assert isinstance(key, ResourceKey)
    assert isinstance(value, NetworkSet)
    parsed = parse_network_set(key, value)
    assert parsed.labels == {"a": "b", NS: "shop"}
    assert parsed.parents == ("kns.shop",)
    assert parsed.member.networks == (parse_network("10.0.0.0/8"),)
    _, value = network_set("s", "10.0.0.0/8", labels={"a": "b", NS: "x"})
    assert isinstance(value, GlobalNetworkSet)
    assert parse_global_network_set(value).labels == {"a": "b"}
    _, value = host_endpoint("e", "10.0.0.1", labels={"a": "b", NS: "x"})
    assert isinstance(value, HostEndpoint)
    assert parse_host_endpoint(value).labelled.labels == {"a": "b"}


def address(text: str, kind: str) -> NodeAddress:
    return NodeAddress(address=text, type=kind)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (NodeSpec(), Host()),
        (
            NodeSpec(bgp=NodeBGP(ipv4_address="10.0.0.1/24", as_number=64513)),
            Host(
                ipv4=parse_network("10.0.0.1"),
                ipv4_subnet=parse_network("10.0.0.0/24"),
                as_number=64513,
            ),
        ),
        (
            NodeSpec(
                bgp=NodeBGP(ipv6_address="fd00::1"),
                addresses=(
                    address("1.1.1.1", "ExternalIP"),
                    address("10.0.0.3", "InternalIP"),
                    address("10.0.0.2/24", "CalicoNodeIP"),
                    address("fd00::2", "CalicoNodeIP"),
                ),
            ),
            Host(
                ipv4=parse_network("10.0.0.2"),
                ipv4_subnet=parse_network("10.0.0.0/24"),
                ipv6=parse_network("fd00::1"),
            ),
        ),
        (
            NodeSpec(addresses=(address("10.0.0.3/32", "InternalIP"),)),
            Host(ipv4=parse_network("10.0.0.3")),
        ),
    ],
)
def test_the_addresses_of_a_node(spec: NodeSpec, expected: Host) -> None:
    assert parse_node(Node(spec=spec)) == expected


def test_a_node_with_a_bad_address_is_refused() -> None:
    _, value = node("h2", "10.0.0.1/33")
    assert isinstance(value, Node)
    with pytest.raises(InvalidInput):
        parse_node(value)
