"""Ports through Neutron's API, to the keys that agents read, and back from their reports."""

from typing import Any

import pytest
from tests.openstack.cloud import Cloud
from tests.openstack.server import ApiError

pytestmark = pytest.mark.timeout(180)  # the first one starts the servers


def test_a_port_is_an_endpoint_of_its_host(cloud: Cloud) -> None:
    network = cloud.network("10.65.0.0/24", "fd65::/64", name="blue net")
    group = cloud.neutron.create("security_group", name="web servers")

    port = cloud.port(network, device_id="vm-1", security_groups=[group["id"]])

    assert (port["binding:vif_type"], port["status"]) == ("tap", "DOWN")
    assert port["binding:vif_details"]["port_filter"] is True
    assert port["binding:vif_details"]["connectivity"] == "l3"
    stored = cloud.endpoint(port, "h1")
    addresses = [ip["ip_address"] for ip in port["fixed_ips"]]
    assert stored["metadata"]["labels"] == {
        "projectcalico.org/namespace": "openstack",
        "projectcalico.org/orchestrator": "openstack",
        "projectcalico.org/openstack-project-id": "acme",
        "projectcalico.org/openstack-network-name": "blue_net",
        f"sg.projectcalico.org/openstack-{group['id']}": "web_servers",
        "sg-name.projectcalico.org/openstack-web_servers": group["id"],
    }
    assert stored["metadata"]["annotations"] == {
        "openstack.projectcalico.org/network-id": network["id"]
    }
    spec = stored["spec"]
    assert set(spec.pop("ipNetworks")) == {
        f"{each}/{128 if ':' in each else 32}" for each in addresses
    }
    assert spec == {
        "orchestrator": "openstack",
        "workload": "vm-1",
        "node": "h1",
        "endpoint": port["id"],
        "interfaceName": f"tap{port['id'][:11]}",
        "mac": port["mac_address"],
        "ipv4Gateway": "10.65.0.1",
        "ipv6Gateway": "fd65::",
    }


def test_a_port_without_a_host_is_no_endpoint_until_it_is_bound(cloud: Cloud) -> None:
    network = cloud.network()
    port = cloud.neutron.create(
        "port", network_id=network["id"], device_owner="compute:nova", device_id="vm-2"
    )
    assert cloud.endpoints_of(port) == set()

    bound = cloud.neutron.update("port", port["id"], **{"binding:host_id": "h2"})
    assert bound["binding:vif_type"] == "tap"
    assert cloud.endpoints_of(port) == {"h2"}

    cloud.neutron.update("port", port["id"], **{"binding:host_id": ""})
    assert cloud.endpoints_of(port) == set()


def test_a_port_that_moves_leaves_nothing_behind(cloud: Cloud) -> None:
    port = cloud.port(cloud.network(), "h1")

    cloud.neutron.update("port", port["id"], **{"binding:host_id": "h2"})
    assert cloud.endpoints_of(port) == {"h2"}

    cloud.neutron.delete("port", port["id"])
    assert cloud.endpoints_of(port) == set()


def test_what_changes_in_a_port_changes_in_its_endpoint(cloud: Cloud) -> None:
    network = cloud.network("10.66.0.0/24")
    group = cloud.neutron.create("security_group", name="other")
    port = cloud.port(network)
    (fixed,) = port["fixed_ips"]

    cloud.neutron.update(
        "port",
        port["id"],
        security_groups=[group["id"]],
        fixed_ips=[fixed, {"subnet_id": fixed["subnet_id"], "ip_address": "10.66.0.77"}],
    )

    stored = cloud.endpoint(port, "h1")
    assert set(stored["spec"]["ipNetworks"]) == {f"{fixed['ip_address']}/32", "10.66.0.77/32"}
    groups = [label for label in stored["metadata"]["labels"] if label.startswith("sg.")]
    assert groups == [f"sg.projectcalico.org/openstack-{group['id']}"]


def test_a_device_that_changes_moves_the_endpoint(cloud: Cloud) -> None:
    port = cloud.port(cloud.network(), device_id="vm-old")

    changed = cloud.neutron.update("port", port["id"], device_id="vm-new")

    assert cloud.endpoint(port, "h1") is None
    assert cloud.endpoint(changed, "h1")["spec"]["workload"] == "vm-new"


@pytest.mark.parametrize("owner", ["network:dhcp", "network:router_interface", ""])
def test_ports_that_are_no_workloads_have_no_endpoint(cloud: Cloud, owner: str) -> None:
    port = cloud.port(cloud.network(), device_owner=owner)
    assert cloud.endpoints_of(port) == set()


def test_allowed_address_pairs(cloud: Cloud) -> None:
    pairs = [{"ip_address": "10.65.9.9"}, {"ip_address": "10.99.0.0/16"}]
    port = cloud.port(cloud.network(), allowed_address_pairs=pairs)

    spec = cloud.endpoint(port, "h1")["spec"]
    assert "10.65.9.9/32" in spec["ipNetworks"]
    assert spec["allowedIps"] == ["10.65.9.9/32"]
    assert spec["allowSpoofedSourcePrefixes"] == ["10.99.0.0/16"]

    cloud.neutron.update("port", port["id"], allowed_address_pairs=[])
    assert "allowedIps" not in cloud.endpoint(port, "h1")["spec"]


def test_port_security_off_opens_the_port_and_on_closes_it(cloud: Cloud) -> None:
    network = cloud.network()
    port = cloud.port(network, port_security_enabled=False, security_groups=[])
    spec = cloud.endpoint(port, "h1")["spec"]
    assert spec["profiles"] == ["projectcalico-default-allow"]
    assert spec["allowSpoofedSourcePrefixes"] == ["0.0.0.0/0", "::/0"]

    cloud.neutron.update("port", port["id"], port_security_enabled=True)
    spec = cloud.endpoint(port, "h1")["spec"]
    assert "profiles" not in spec
    assert "allowSpoofedSourcePrefixes" not in spec


def test_names_reach_labels_when_they_change(cloud: Cloud) -> None:
    network = cloud.network(name="before")
    group = cloud.neutron.create("security_group", name="before")
    port = cloud.port(network, security_groups=[group["id"]])

    cloud.neutron.update("network", network["id"], name="after")
    cloud.neutron.update("security_group", group["id"], name="later")

    labels = cloud.endpoint(port, "h1")["metadata"]["labels"]
    assert labels["projectcalico.org/openstack-network-name"] == "after"
    assert labels[f"sg.projectcalico.org/openstack-{group['id']}"] == "later"
    assert "sg-name.projectcalico.org/openstack-before" not in labels


def test_a_gateway_that_changes_reaches_ports_and_dhcp(cloud: Cloud) -> None:
    network = cloud.network("10.67.0.0/24")
    port = cloud.port(network)
    subnet_id = port["fixed_ips"][0]["subnet_id"]

    assert cloud.endpoint(port, "h1")["spec"]["ipv4Gateway"] == "10.67.0.1"

    cloud.neutron.update("subnet", subnet_id, gateway_ip=None)

    assert "ipv4Gateway" not in cloud.endpoint(port, "h1")["spec"]
    assert subnet_value(cloud, subnet_id)["gateway_ip"] is None


def test_subnets_with_dhcp_are_for_the_dhcp_agents(cloud: Cloud) -> None:
    network = cloud.neutron.create("network", name="n")
    subnet = cloud.neutron.create(
        "subnet",
        network_id=network["id"],
        cidr="10.68.0.0/24",
        ip_version=4,
        dns_nameservers=["9.9.9.9"],
        host_routes=[{"destination": "10.9.0.0/16", "nexthop": "10.68.0.9"}],
    )
    assert subnet_value(cloud, subnet["id"]) == {
        "network_id": network["id"],
        "cidr": "10.68.0.0/24",
        "host_routes": [{"destination": "10.9.0.0/16", "nexthop": "10.68.0.9"}],
        "gateway_ip": "10.68.0.1",
        "dns_servers": ["9.9.9.9"],
        "mtu": network["mtu"],
    }
    cloud.neutron.update("network", network["id"], mtu=1400)
    assert subnet_value(cloud, subnet["id"])["mtu"] == 1400

    cloud.neutron.update("subnet", subnet["id"], enable_dhcp=False)
    assert subnet_value(cloud, subnet["id"]) is None
    cloud.neutron.update("subnet", subnet["id"], enable_dhcp=True)
    cloud.neutron.delete("subnet", subnet["id"])
    assert subnet_value(cloud, subnet["id"]) is None


def test_dhcp_agents_know_how_a_subnet_of_ipv6_gives_addresses(cloud: Cloud) -> None:
    network = cloud.neutron.create("network", name="n")
    subnet = cloud.neutron.create(
        "subnet",
        network_id=network["id"],
        cidr="fd00:68::/64",
        ip_version=6,
        ipv6_address_mode="slaac",
        ipv6_ra_mode="slaac",
    )
    value = subnet_value(cloud, subnet["id"])
    assert (value["ipv6_address_mode"], value["ipv6_ra_mode"]) == ("slaac", "slaac")


def subnet_value(cloud: Cloud, subnet_id: str) -> Any:
    return cloud.value(f"/calico/dhcp/v2/{cloud.region}/subnet/{subnet_id}")


# Live migration.


def test_a_live_migration_has_two_endpoints_until_it_is_over(cloud: Cloud) -> None:
    port = cloud.port(cloud.network())
    cloud.neutron.update("port", port["id"], **{"binding:profile": {"migrating_to": "h2"}})
    assert cloud.endpoints_of(port) == {"h1", "h2"}
    migration = cloud.value(cloud.endpoint_path(port, "h2", "LiveMigration"))
    assert migration["spec"]["source"]["workloadEndpoint"]["hostname"] == "h1"

    cloud.neutron.update("port", port["id"], **{"binding:profile": {}, "binding:host_id": "h2"})

    assert cloud.endpoints_of(port) == {"h2"}
    assert cloud.value(cloud.endpoint_path(port, "h2", "LiveMigration")) is None


def test_a_live_migration_that_fails_leaves_the_source(cloud: Cloud) -> None:
    port = cloud.port(cloud.network())
    cloud.neutron.update("port", port["id"], **{"binding:profile": {"migrating_to": "h2"}})
    cloud.neutron.update("port", port["id"], **{"binding:profile": {}})
    assert cloud.endpoints_of(port) == {"h1"}
    assert cloud.value(cloud.endpoint_path(port, "h2", "LiveMigration")) is None


def test_a_port_deleted_while_it_migrates_is_gone_from_both_hosts(cloud: Cloud) -> None:
    port = cloud.port(cloud.network())
    cloud.neutron.update("port", port["id"], **{"binding:profile": {"migrating_to": "h2"}})
    cloud.neutron.delete("port", port["id"])
    assert cloud.endpoints_of(port) == set()
    assert cloud.value(cloud.endpoint_path(port, "h2", "LiveMigration")) is None


# What agents report.


def test_a_port_is_active_when_its_agent_says_so_and_only_then(cloud: Cloud) -> None:
    port = cloud.port(cloud.network(), "h1")
    assert port["status"] == "DOWN"

    cloud.report(port, "h2", "up")  # not its host
    cloud.report(port, "h1", "down")
    witness = cloud.port(cloud.network(), "h1")
    cloud.report(witness, "h1", "up")
    cloud.becomes(witness["id"], "ACTIVE")
    assert cloud.neutron.show("port", port["id"])["status"] == "DOWN"

    cloud.report(port, "h1", "up")
    cloud.becomes(port["id"], "ACTIVE")
    cloud.report(port, "h1", "down")
    cloud.becomes(port["id"], "DOWN")
    cloud.report(port, "h1", "error")
    cloud.becomes(port["id"], "ERROR")
    cloud.report(port, "h1", "up")
    cloud.becomes(port["id"], "ACTIVE")
    cloud.report(port, "h1", None)  # bound there, and the agent knows nothing of it
    cloud.becomes(port["id"], "ERROR")


def test_a_port_that_moves_is_down_until_its_new_host_has_it(cloud: Cloud) -> None:
    port = cloud.port(cloud.network(), "h1")
    cloud.report(port, "h1", "up")
    cloud.becomes(port["id"], "ACTIVE")

    moved = cloud.neutron.update("port", port["id"], **{"binding:host_id": "h2"})
    assert moved["status"] == "DOWN"
    cloud.report(port, "h1", None)
    cloud.report(port, "h2", "up")
    cloud.becomes(port["id"], "ACTIVE")


def test_a_host_without_a_live_agent_gets_no_ports(cloud: Cloud) -> None:
    port = cloud.port(cloud.network(), "never-heard-of")
    assert port["binding:vif_type"] == "binding_failed"
    assert cloud.endpoints_of(port) == set()


def test_agents_are_listed_as_neutron_lists_its_own(cloud: Cloud) -> None:
    (agent,) = cloud.neutron.list("agent", "?host=h1")
    assert agent["agent_type"] == "Calico per-host agent (felix)"
    assert agent["binary"] == "calico-felix"
    assert agent["alive"] is True


def test_networks_with_an_overlay_are_refused(cloud: Cloud) -> None:
    with pytest.raises(ApiError) as refused:
        cloud.neutron.create("network", **{"provider:network_type": "vxlan"})
    assert refused.value.status == 400
