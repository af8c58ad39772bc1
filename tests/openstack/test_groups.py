"""Security groups and their rules through Neutron's API, to policies."""

from typing import Any

import pytest
from tests.openstack.cloud import Cloud
from tests.openstack.server import ApiError

LABEL = "sg.projectcalico.org/openstack-"

pytestmark = pytest.mark.timeout(180)  # the first one starts the servers


def group(cloud: Cloud, name: str = "g") -> str:
    """A group without rules."""
    made = cloud.neutron.create("security_group", name=name)
    for rule in made["security_group_rules"]:
        cloud.neutron.delete("security_group_rule", rule["id"])
    return str(made["id"])


def add(cloud: Cloud, group_id: str, direction: str = "ingress", **fields: Any) -> str:
    made = cloud.neutron.create(
        "security_group_rule", security_group_id=group_id, direction=direction, **fields
    )
    return str(made["id"])


def test_a_group_is_a_policy_from_its_creation_to_its_end(cloud: Cloud) -> None:
    group_id = group(cloud)
    assert cloud.policy(group_id) == {
        "tier": "default",
        "selector": f"has({LABEL}{group_id})",
        "types": ["Ingress", "Egress"],
    }
    cloud.neutron.delete("security_group", group_id)
    assert cloud.policy(group_id) is None


def test_rules_come_and_go(cloud: Cloud) -> None:
    group_id = group(cloud)
    http = add(cloud, group_id, protocol="tcp", port_range_min=80, port_range_max=80)
    out = add(cloud, group_id, "egress", ethertype="IPv6", remote_ip_prefix="fd00::/8")

    policy = cloud.policy(group_id)
    assert policy["ingress"] == [
        {"action": "Allow", "ipVersion": 4, "protocol": "TCP", "destination": {"ports": [80]}}
    ]
    assert policy["egress"] == [
        {"action": "Allow", "ipVersion": 6, "destination": {"nets": ["fd00::/8"]}}
    ]
    cloud.neutron.delete("security_group_rule", http)
    assert "ingress" not in cloud.policy(group_id)
    cloud.neutron.delete("security_group_rule", out)
    assert "egress" not in cloud.policy(group_id)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"protocol": "udp", "port_range_min": 5000, "port_range_max": 6000},
            {"protocol": "UDP", "destination": {"ports": ["5000:6000"]}},
        ),
        (
            {"protocol": "icmp", "port_range_min": 8, "port_range_max": 0},
            {"protocol": "ICMP", "icmp": {"type": 8, "code": 0}},
        ),
        ({"protocol": "icmp", "port_range_min": 3}, {"protocol": "ICMP", "icmp": {"type": 3}}),
        (
            {"protocol": "ipv6-icmp", "ethertype": "IPv6", "port_range_min": 128},
            {"ipVersion": 6, "protocol": "ICMPv6", "icmp": {"type": 128}},
        ),
        ({"protocol": "vrrp"}, {"protocol": 112}),
        ({"protocol": "51"}, {"protocol": 51}),
        ({"protocol": "ip"}, {}),
        ({"protocol": None}, {}),
    ],
    ids=str,
)
def test_protocols(cloud: Cloud, fields: dict[str, Any], expected: dict[str, Any]) -> None:
    group_id = group(cloud)
    add(cloud, group_id, **fields)
    assert cloud.policy(group_id)["ingress"] == [{"action": "Allow", "ipVersion": 4, **expected}]


def test_remote_groups_are_selected_by_their_label(cloud: Cloud) -> None:
    web, lb = group(cloud, "web"), group(cloud, "lb")
    add(cloud, web, protocol="tcp", remote_group_id=lb)
    add(cloud, web, remote_group_id=web)
    sources = [rule["source"] for rule in cloud.policy(web)["ingress"]]
    assert sorted(map(str, sources)) == sorted(
        str({"selector": f"has({LABEL}{each})"}) for each in (web, lb)
    )


def test_address_groups_reach_the_rules_that_name_them(cloud: Cloud) -> None:
    addresses = cloud.neutron.create("address_group", addresses=["192.0.2.0/24", "2001:db8::/64"])
    group_id = group(cloud)
    add(cloud, group_id, remote_address_group_id=addresses["id"])
    (rule,) = cloud.policy(group_id)["ingress"]
    assert rule["source"] == {"nets": ["192.0.2.0/24"]}  # those of the rule's family

    cloud.neutron.ok(
        "PUT",
        f"address-groups/{addresses['id']}/add_addresses",
        {"addresses": ["198.51.100.0/24"]},
    )
    (rule,) = cloud.policy(group_id)["ingress"]
    assert rule["source"] == {"nets": ["192.0.2.0/24", "198.51.100.0/24"]}

    cloud.neutron.ok(
        "PUT",
        f"address-groups/{addresses['id']}/remove_addresses",
        {"addresses": ["192.0.2.0/24", "198.51.100.0/24"]},
    )
    policy = cloud.policy(group_id)
    sources = [rule.get("source") for rule in policy.get("ingress", [])]
    assert {} not in sources, "an empty address group allows nobody"
    assert None not in sources, "an empty address group allows nobody"


def test_a_project_begins_with_a_default_group_that_ports_are_in(cloud: Cloud) -> None:
    network = cloud.network(tenant_id="newcomer")
    port = cloud.port(network, tenant_id="newcomer")
    (group_id,) = port["security_groups"]
    assert cloud.neutron.show("security_group", group_id)["name"] == "default"
    assert cloud.policy(group_id)["selector"] == f"has({LABEL}{group_id})"
    labels = cloud.endpoint(port, "h1")["metadata"]["labels"]
    assert labels[f"{LABEL}{group_id}"] == "default"


def test_many_rules_at_once(cloud: Cloud) -> None:
    group_id = group(cloud)
    rules = [
        {
            "tenant_id": "acme",
            "security_group_id": group_id,
            "direction": "ingress",
            "protocol": "tcp",
            "port_range_min": number,
            "port_range_max": number,
        }
        for number in range(1000, 1050)
    ]
    cloud.neutron.ok("POST", "security-group-rules", {"security_group_rules": rules})
    ports = [rule["destination"]["ports"] for rule in cloud.policy(group_id)["ingress"]]
    assert sorted(ports) == [[number] for number in range(1000, 1050)]


def test_a_rule_that_cannot_be_enforced_is_refused_with_the_reason(cloud: Cloud) -> None:
    group_id = group(cloud)
    with pytest.raises(ApiError) as refused:
        add(cloud, group_id, protocol="dccp", port_range_min=1, port_range_max=2)
    assert refused.value.status == 409
    assert "TCP, UDP and SCTP only" in str(refused.value.body)
    assert "ingress" not in cloud.policy(group_id)


def test_advisory_a_bad_rule_stops_nothing_else(cloud: Cloud) -> None:
    """Neutron's CVE-2019-9735 and its kind: a rule that one tenant got into the database, and that
    cannot be enforced, must cost nobody else anything, and must not open anything.
    """
    bad, good = group(cloud, "bad"), group(cloud, "good")
    kept = add(cloud, bad, protocol="tcp", port_range_min=22, port_range_max=22)
    network = cloud.network()
    victim = cloud.port(network, security_groups=[bad])
    bystander = cloud.port(network, security_groups=[good])
    for port in (victim, bystander):
        cloud.report(port, "h1", "up")
        cloud.becomes(port["id"], "ACTIVE")

    rule = add(cloud, bad, protocol="tcp", port_range_min=80, port_range_max=80)
    cloud.neutron.sql(f"UPDATE securitygrouprules SET protocol='dccp' WHERE id='{rule}'")
    add(cloud, bad, protocol="udp", port_range_min=53, port_range_max=53)
    add(cloud, good, protocol="udp", port_range_min=53, port_range_max=53)

    ports = [rule["destination"]["ports"] for rule in cloud.policy(bad)["ingress"]]
    assert sorted(ports) == [[22], [53]], "closed is what is bad, and nothing else"
    assert cloud.policy(good)["ingress"][0]["destination"]["ports"] == [53]
    cloud.becomes(victim["id"], "ERROR")
    assert cloud.neutron.show("port", bystander["id"])["status"] == "ACTIVE"
    newcomer = cloud.port(network, security_groups=[good])
    assert cloud.endpoint(newcomer, "h1") is not None

    cloud.neutron.sql(f"DELETE FROM securitygrouprules WHERE id='{rule}'")
    cloud.neutron.delete("security_group_rule", kept)
    cloud.becomes(victim["id"], "ACTIVE")
