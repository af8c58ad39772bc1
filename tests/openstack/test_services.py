"""Neutron's services around ports: floating addresses, QoS; regions, and Calico's core plugin."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.openstack.cloud import Cloud
from tests.openstack.conftest import Releases
from tests.openstack.server import NEWEST, ZED

pytestmark = pytest.mark.timeout(180)  # the first one starts the servers


def external(cloud: Cloud, third: int) -> dict[str, Any]:
    return cloud.network(f"203.0.{third}.0/24", name="outside", **{"router:external": True})


def routed(cloud: Cloud, third: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """A network, and an external one that its router leads to."""
    network, outside = cloud.network(f"10.{third}.0.0/24"), external(cloud, third)
    gateway = {"network_id": outside["id"]}
    router = cloud.neutron.create("router", external_gateway_info=gateway)
    (subnet,) = cloud.neutron.list("subnet", f"?network_id={network['id']}")
    cloud.neutron.ok(
        "PUT", f"routers/{router['id']}/add_router_interface", {"subnet_id": subnet["id"]}
    )
    return network, outside


def nats(cloud: Cloud, port: dict[str, Any]) -> Any:
    return cloud.endpoint(port, "h1")["spec"].get("ipNATs", [])


def test_floating_addresses(cloud: Cloud) -> None:
    network, outside = routed(cloud, 101)
    port, other = cloud.port(network), cloud.port(network)
    inner = port["fixed_ips"][0]["ip_address"]

    floating = cloud.neutron.create(
        "floatingip", floating_network_id=outside["id"], port_id=port["id"]
    )
    outer = floating["floating_ip_address"]
    assert nats(cloud, port) == [{"internalIP": inner, "externalIP": outer}]

    cloud.neutron.update("floatingip", floating["id"], port_id=other["id"])
    assert nats(cloud, port) == []
    assert nats(cloud, other)[0]["externalIP"] == outer

    cloud.neutron.update("floatingip", floating["id"], port_id=None)
    assert nats(cloud, other) == []
    cloud.neutron.update("floatingip", floating["id"], port_id=port["id"])
    assert nats(cloud, port) != []
    cloud.neutron.delete("floatingip", floating["id"])
    assert nats(cloud, port) == []


def controls(cloud: Cloud, port: dict[str, Any]) -> Any:
    return cloud.endpoint(port, "h1")["spec"].get("qosControls")


def test_qos_of_ports_and_of_networks(cloud: Cloud) -> None:
    policy = cloud.neutron.ok(
        "POST", "qos/policies", {"policy": {"name": "q", "tenant_id": "acme"}}
    )
    policy_id = policy["policy"]["id"]
    rules = f"qos/policies/{policy_id}/bandwidth_limit_rules"
    limit = cloud.neutron.ok(
        "POST", rules, {"bandwidth_limit_rule": {"max_kbps": 1000, "direction": "egress"}}
    )["bandwidth_limit_rule"]
    network = cloud.network()
    inheriting, own = cloud.port(network), cloud.port(network, qos_policy_id=policy_id)
    assert controls(cloud, own)["egressBandwidth"] == 1_000_000
    assert controls(cloud, inheriting) is None

    cloud.neutron.update("network", network["id"], qos_policy_id=policy_id)
    assert controls(cloud, inheriting)["egressBandwidth"] == 1_000_000

    cloud.neutron.ok("PUT", f"{rules}/{limit['id']}", {"bandwidth_limit_rule": {"max_kbps": 2000}})
    for port in (inheriting, own):
        assert controls(cloud, port)["egressBandwidth"] == 2_000_000

    cloud.neutron.ok(
        "POST",
        f"qos/policies/{policy_id}/packet_rate_limit_rules",
        {"packet_rate_limit_rule": {"max_kpps": 3, "direction": "ingress"}},
    )
    assert controls(cloud, own)["ingressPacketRate"] == 3000

    cloud.neutron.update("network", network["id"], qos_policy_id=None)
    assert controls(cloud, inheriting) is None
    cloud.neutron.update("port", own["id"], qos_policy_id=None)
    assert controls(cloud, own) is None


@pytest.fixture(scope="module", params=[ZED, NEWEST])
def regional(
    request: pytest.FixtureRequest, release: Releases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cloud]:
    """With Calico's core plugin, and a region."""
    folder: Path = tmp_path_factory.mktemp("region")
    # What the plugin sets by itself is wrong here.
    settings = {
        "DEFAULT": {"core_plugin": "calico", "service_plugins": "qos"},
        "ml2": {
            "mechanism_drivers": "openvswitch",
            "type_drivers": "vxlan",
            "tenant_network_types": "vxlan",
            "extension_drivers": "port_security",
        },
    }
    made = Cloud(
        release(request.param),
        folder,
        f"regional{request.param}",
        settings=settings,
        region="north",
    )
    try:
        made.start()
        yield made
    finally:
        made.stop()


def test_the_core_plugin_needs_no_other_setting(regional: Cloud) -> None:
    extensions = {each["alias"] for each in regional.neutron.list("extension")}
    assert {"router", "qos", "security-group", "port-security"} <= extensions
    assert "dhcp_agent_scheduler" not in extensions
    port = regional.port(regional.network())
    assert port["binding:vif_type"] == "tap"
    assert regional.endpoint(port, "h1")["metadata"]["namespace"] == "openstack-region-north"


def test_floating_addresses_without_a_service_plugin(regional: Cloud) -> None:
    network, outside = routed(regional, 102)
    port = regional.port(network)
    floating = regional.neutron.create(
        "floatingip", floating_network_id=outside["id"], port_id=port["id"]
    )
    assert floating["status"] == "ACTIVE"
    assert nats(regional, port)[0]["externalIP"] == floating["floating_ip_address"]


def test_everything_of_a_region_is_under_its_own_keys(regional: Cloud) -> None:
    port = regional.port(regional.network())
    regional.report(port, "h1", "up")
    regional.becomes(port["id"], "ACTIVE")
    keys = regional.stored_keys()
    resources = "/calico/resources/v3/projectcalico.org/"
    ours = (
        "/calico/dhcp/",
        "/calico/felix/",
        "/calico/openstack/v2/",
        f"{resources}workloadendpoints/",
        f"{resources}networkpolicies/",
    )
    strays = [key for key in keys if key.startswith(ours) and "region-north" not in key]
    assert strays == []
    assert any(key.startswith("/calico/dhcp/v2/region-north/subnet/") for key in keys)
    assert "/calico/openstack/v2/region-north/neutron_election" in keys
