"""Which addresses of services a host announces."""

from typing import Any

import msgspec
import pytest

from tortie.bgp import services
from tortie.bgp.services import Services
from tortie.model import codec
from tortie.model.bgp_configuration import BGPConfigurationSpec
from tortie.model.keys import ResourceKey

CONFIGURED = {
    "serviceClusterIPs": [{"cidr": "10.96.0.0/16"}, {"cidr": "fd00:96::/112"}],
    "serviceExternalIPs": [{"cidr": "192.0.2.0/24"}, {"cidr": "198.51.100.7/32"}],
    "serviceLoadBalancerIPs": [{"cidr": "203.0.113.0/24"}],
}


def put(known: Services, kind: str, name: str, spec: dict[str, Any] | None) -> bool:
    key = ResourceKey(kind, name, "shop")
    if spec is None:
        return known.on_resource(key, None)
    document = {"metadata": {"name": name, "namespace": "shop"}, "spec": spec}
    return known.on_resource(key, codec.decode(key, msgspec.json.encode(document)))


def endpoints(*nodes: str, ready: bool = True) -> dict[str, Any]:
    listed = [{"addresses": ["10.65.0.1"], "nodeName": node, "ready": ready} for node in nodes]
    return {"service": "web", "endpoints": listed, "ports": []}


def announced(known: Services, **more: Any) -> set[str]:
    configured = msgspec.convert({**CONFIGURED, **more}, BGPConfigurationSpec)
    return {network.address_text for network in known.announced(configured)}


@pytest.mark.parametrize(
    ("addresses", "singly"),
    [
        ({"clusterIPs": ["10.96.0.9", "fd00:96::9", "10.97.0.9"]}, {"10.96.0.9", "fd00:96::9"}),
        ({"externalIPs": ["192.0.2.9", "10.96.0.9"]}, {"192.0.2.9"}),
        ({"loadBalancerIPs": ["203.0.113.9", "not one"]}, {"203.0.113.9"}),
    ],
)
def test_who_serves_a_local_service_announces_what_lies_in_a_network_of_its_kind(
    addresses: dict[str, Any], singly: set[str]
) -> None:
    known = Services("h1")
    put(known, "KubernetesService", "web", {**addresses, "externalTrafficPolicy": "Local"})
    assert announced(known) == set()
    assert put(known, "KubernetesEndpointSlice", "web-1", endpoints("h1"))
    assert announced(known) == singly
    put(known, "KubernetesService", "web", {**addresses, "externalTrafficPolicy": "Cluster"})
    assert announced(known) == set()  # the networks are announced whole


def test_only_a_ready_endpoint_on_this_very_host_counts() -> None:
    known = Services("h1")
    spec = {"clusterIPs": ["10.96.0.9"], "externalTrafficPolicy": "Local"}
    put(known, "KubernetesService", "web", spec)
    assert not put(known, "KubernetesEndpointSlice", "web-1", endpoints("h2", "h3"))
    assert not put(known, "KubernetesEndpointSlice", "web-2", endpoints("h1", ready=False))
    assert announced(known) == set()
    assert put(known, "KubernetesEndpointSlice", "web-2", endpoints("h1", "h2"))
    assert announced(known) == {"10.96.0.9"}
    assert put(known, "KubernetesEndpointSlice", "web-2", None)
    assert announced(known) == set()


def test_the_host_is_known_by_the_name_that_kubernetes_has_for_it() -> None:
    known = Services("h1")
    spec = {"clusterIPs": ["10.96.0.9"], "externalTrafficPolicy": "Local"}
    put(known, "KubernetesService", "web", spec)
    put(known, "KubernetesEndpointSlice", "web-1", endpoints("worker-1"))
    assert announced(known) == set()
    key = ResourceKey("Node", "h1")
    reference = {"nodeName": "worker-1", "orchestrator": "k8s"}
    document = {"metadata": {"name": "h1"}, "spec": {"orchRefs": [reference]}}
    assert known.on_own_node(codec.decode(key, msgspec.json.encode(document)))
    assert announced(known) == {"10.96.0.9"}


def test_single_addresses_that_every_host_announces() -> None:
    known = Services("h1")
    addresses = {"externalIPs": ["198.51.100.7"], "loadBalancerIPs": ["203.0.113.9"]}
    put(known, "KubernetesService", "web", addresses)
    assert announced(known) == {"198.51.100.7"}
    singly = announced(known, serviceLoadBalancerAggregation="Disabled")
    assert singly == {"198.51.100.7", "203.0.113.9"}
    put(known, "KubernetesService", "web", None)
    assert announced(known, serviceLoadBalancerAggregation="Disabled") == set()


def test_networks_that_are_announced_whole() -> None:
    configured = msgspec.convert(CONFIGURED, BGPConfigurationSpec)
    assert [str(network) for network in services.whole(configured)] == [
        "10.96.0.0/16", "192.0.2.0/24", "203.0.113.0/24", "fd00:96::/112",
    ]  # fmt: skip
    singly = msgspec.structs.replace(configured, service_load_balancer_aggregation="Disabled")
    assert "203.0.113.0/24" not in map(str, services.whole(singly))
    assert "203.0.113.0/24" in map(str, services.around(singly))
