"""Ports, groups and subnets as they are stored: facts of Calico's layout, and hostile input."""

import json
import string
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.openstack.paper import default_group, make_group, make_port, uuid_of

from tortie.lib.errors import InvalidInput
from tortie.model import codec, names
from tortie.model.endpoint import QoSControls, WorkloadEndpoint
from tortie.model.keys import ResourceKey, parse_key
from tortie.model.live_migration import LiveMigration
from tortie.model.metadata import Resource
from tortie.model.policy import NetworkPolicy
from tortie.model.validation import check, validate
from tortie.openstack import labels
from tortie.openstack.endpoints import translate_port
from tortie.openstack.inventory import (
    AddressPair,
    BandwidthRule,
    FixedIP,
    FloatingIP,
    PacketRateRule,
    Port,
    SecurityGroup,
    SecurityGroupRule,
    Subnet,
)
from tortie.openstack.policies import PROTOCOLS, translate_group
from tortie.openstack.settings import OPTIONS, Settings, read_settings
from tortie.openstack.store import encoded, fingerprint, stored_fingerprint
from tortie.openstack.subnets import subnet_path, translate_subnet

SETTINGS = Settings()


def path_of(resource: Resource) -> str:
    metadata = resource.metadata
    return ResourceKey(resource.kind, metadata.name, metadata.namespace).path


def as_stored(resource: Resource) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(encoded(path_of(resource), resource, b""))
    assert len(found["metadata"].pop("uid")) == 36
    assert found["metadata"].pop("creationTimestamp").endswith("Z")
    return found


def endpoint_of(port: Port, settings: Settings = SETTINGS) -> WorkloadEndpoint:
    translated = translate_port(port, settings)
    assert not translated.problems
    (endpoint,) = translated.resources
    assert isinstance(endpoint, WorkloadEndpoint)
    return endpoint


def test_a_port_as_calico_stores_it() -> None:
    port = make_port(
        5, "host-1", fqdn="vm.example.org.", project_parent_id="default", dscp=46,
        fixed_ips=(
            FixedIP(address="10.65.0.5", gateway="10.65.0.1"),
            FixedIP(address="fd00:65::5", gateway="fd00:65::1"),
        ),
        allowed_address_pairs=(
            AddressPair(ip_address="10.65.0.99"), AddressPair(ip_address="10.65.0.5"),
        ),
        floating_ips=(FloatingIP(internal="10.65.0.5", external="198.51.100.5"),),
        security_groups={"sg-1": "web servers!", "sg-2": "…"},
    )  # fmt: skip
    stored = as_stored(endpoint_of(port))
    assert stored == {
        "kind": "WorkloadEndpoint",
        "apiVersion": "projectcalico.org/v3",
        "metadata": {
            "name": "host--1-openstack-"
            + port.device_id.replace("-", "--") + "-" + port.id.replace("-", "--"),
            "namespace": "openstack",
            "labels": {
                "projectcalico.org/namespace": "openstack",
                "projectcalico.org/orchestrator": "openstack",
                "sg.projectcalico.org/openstack-sg-1": "web_servers",
                "sg-name.projectcalico.org/openstack-web_servers": "sg-1",
                "sg.projectcalico.org/openstack-sg-2": "",
                "projectcalico.org/openstack-project-id": "acme",
                "projectcalico.org/openstack-project-name": "Acme",
                "projectcalico.org/openstack-project-parent-id": "default",
                "projectcalico.org/openstack-network-name": "private",
            },
            "annotations": {
                "openstack.projectcalico.org/network-id": uuid_of(7),
                "openstack.projectcalico.org/fqdn": "vm.example.org.",
            },
        },
        "spec": {
            "orchestrator": "openstack",
            "workload": port.device_id,
            "node": "host-1",
            "endpoint": port.id,
            "ipNetworks": ["10.65.0.5/32", "fd00:65::5/128", "10.65.0.99/32"],
            "allowedIps": ["10.65.0.99/32"],  # its own stays what DHCP offers
            "ipNATs": [{"internalIP": "10.65.0.5", "externalIP": "198.51.100.5"}],
            "ipv4Gateway": "10.65.0.1",
            "ipv6Gateway": "fd00:65::1",
            "interfaceName": f"tap{port.id[:11]}",
            "mac": "fa:16:3e:00:00:05",
            "qosControls": {"dscp": 46},
        },
    }  # fmt: skip


def test_the_key_is_the_models_own(tmp_path: Path) -> None:
    endpoint = endpoint_of(make_port(5, "a-b.c"))
    assert endpoint.metadata.name == names.workload_endpoint_name(endpoint.spec)
    assert labels.port_of_endpoint(endpoint.metadata.name) == endpoint.spec.endpoint
    check(endpoint)


def test_a_region_has_its_own_namespace() -> None:
    endpoint = endpoint_of(make_port(5), Settings(openstack_region="east"))
    assert endpoint.metadata.namespace == "openstack-region-east"
    assert endpoint.metadata.labels["projectcalico.org/namespace"] == "openstack-region-east"


@pytest.mark.parametrize(
    "fields",
    [
        {"host": ""},
        {"device_id": ""},
        {"device_owner": "network:dhcp"},
        {"device_owner": ""},
        {"admin_state_up": False},
    ],
)
def test_what_has_no_endpoint(fields: dict[str, Any]) -> None:
    """Unbound, of nobody, of the network itself, or administratively down: nothing is stored."""
    assert translate_port(make_port(5, **fields), SETTINGS) == ((), ())


def test_containers_of_kuryr_have_endpoints() -> None:
    assert endpoint_of(make_port(5, device_owner="kuryr:container"))


def test_a_migration_is_two_endpoints_and_says_which_goes_where() -> None:
    port = make_port(5, "h1", migrating_to="h2")
    source, migration, target = translate_port(port, SETTINGS).resources
    assert isinstance(source, WorkloadEndpoint)
    assert isinstance(target, WorkloadEndpoint)
    assert isinstance(migration, LiveMigration)
    assert (source.spec.node, target.spec.node) == ("h1", "h2")
    assert msgspec.structs.replace(source.spec, node="h2") == target.spec
    assert source.metadata.labels == target.metadata.labels
    assert migration.metadata.name == target.metadata.name
    identity = {
        "orchestratorID": "openstack",
        "workloadID": f"openstack/{port.device_id}",
        "endpointID": port.id,
    }
    assert as_stored(migration)["spec"] == {
        "source": {"workloadEndpoint": {"hostname": "h1", **identity}},
        "target": {"workloadEndpoint": {"hostname": "h2", **identity}},
    }
    assert len(translate_port(make_port(5, "h1", migrating_to="h1"), SETTINGS).resources) == 1


def test_port_security_off_is_open_both_ways_and_from_any_source() -> None:
    endpoint = endpoint_of(
        make_port(5, port_security_enabled=False, security_groups={"sg-1": "stale"})
    )
    assert endpoint.spec.profiles == ("projectcalico-default-allow",)
    assert endpoint.spec.allow_spoofed_source_prefixes == ("0.0.0.0/0", "::/0")
    assert not any("sg." in label for label in endpoint.metadata.labels)


def test_no_group_is_closed() -> None:
    endpoint = endpoint_of(make_port(5, security_groups={}))
    assert endpoint.spec.profiles == ()
    assert not endpoint.spec.allow_spoofed_source_prefixes


def test_a_network_as_allowed_pair_may_be_a_source_and_gets_no_route() -> None:
    pairs = (
        AddressPair(ip_address="10.9.0.0/16"),
        AddressPair(ip_address="fd00:9::/64", mac_address="FA:16:3E:00:00:05"),
    )
    endpoint = endpoint_of(make_port(5, allowed_address_pairs=pairs))
    assert endpoint.spec.allow_spoofed_source_prefixes == ("10.9.0.0/16", "fd00:9::/64")
    assert endpoint.spec.ip_networks == ("10.65.0.5/32",)
    assert endpoint.spec.allowed_ips == ()


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"allowed_address_pairs": (AddressPair(ip_address="10.0.0.300"),)}, "10.0.0.300"),
        ({"allowed_address_pairs": (AddressPair(ip_address="::ffff:10.0.0.1"),)}, "IPv4 mapped"),
        (
            {"allowed_address_pairs": (
                AddressPair(ip_address="10.0.0.3", mac_address="00:00:5e:00:01:01"),)},
            "another MAC",
        ),
        ({"floating_ips": (FloatingIP(internal="10.1.1.1", external="1.2.3.4"),)}, "1.2.3.4"),
        ({"floating_ips": (FloatingIP(internal="10.65.0.5", external="fd00::1"),)}, "family"),
        ({"security_groups": {"a b": "x"}}, "'a b'"),
    ],
)  # fmt: skip
def test_what_cannot_be_expressed_is_left_out_and_the_rest_stays(
    fields: dict[str, Any], reason: str
) -> None:
    translated = translate_port(make_port(5, **fields), SETTINGS)
    (endpoint,) = translated.resources
    (problem,) = translated.problems
    assert reason in problem
    assert uuid_of(5) in problem
    check(endpoint)


@pytest.mark.parametrize(
    "fields",
    [
        {"device_id": "../../../networkpolicies/x/y"},
        {"device_id": "a\nb"},
        {"host": "a/b"},
        {"mac_address": "nonsense"},
        {"fixed_ips": (FixedIP(address="not one"),)},
    ],
)
def test_a_port_that_cannot_be_stored_is_closed_and_reported(fields: dict[str, Any]) -> None:
    translated = translate_port(make_port(5, **fields), SETTINGS)
    assert not translated.resources
    assert len(translated.problems) == 1
    assert "\n" not in translated.problems[0]


def test_qos_of_rules_and_options() -> None:
    settings = Settings(
        max_ingress_connections_per_port=7,
        egress_minburst_bytes=5,
        ingress_burst_bits=0,
        egress_burst_packets=20,
    )
    port = make_port(
        5,
        bandwidth=(
            BandwidthRule(direction="ingress", max_kbps=3000),
            BandwidthRule(direction="egress", max_kbps=2, max_burst_kbps=10**13),
        ),
        packet_rates=(PacketRateRule(direction="egress", max_kpps=100),),
    )
    assert endpoint_of(port, settings).spec.qos_controls == QoSControls(
        ingress_bandwidth=3_000_000, ingress_burst=4294967296,
        egress_bandwidth=2000, egress_burst=4294967296, egress_peakrate=1010 * 10**12,
        egress_minburst=1000, egress_packet_rate=10**4, egress_packet_burst=20,
        ingress_max_connections=7,
    )  # fmt: skip
    assert endpoint_of(make_port(5)).spec.qos_controls is None


def test_the_default_group_as_calico_stores_it() -> None:
    translated = translate_group(default_group(), "openstack")
    (policy,) = translated.resources
    assert path_of(policy) == (
        "/calico/resources/v3/projectcalico.org/networkpolicies/openstack/ossg.default.sg-default"
    )
    stored = as_stored(policy)
    assert stored["metadata"] == {
        "name": "ossg.default.sg-default",
        "namespace": "openstack",
        "annotations": {"projectcalico.org/metadata": '{"name":"ossg.default.sg-default"}'},
    }
    members = "has(sg.projectcalico.org/openstack-sg-default)"
    assert stored["spec"] == {
        "tier": "default",
        "selector": members,
        "types": ["Ingress", "Egress"],
        "ingress": [
            {"action": "Allow", "ipVersion": 4, "source": {"selector": members}},
            {"action": "Allow", "ipVersion": 6, "source": {"selector": members}},
        ],
        "egress": [{"action": "Allow", "ipVersion": 4}, {"action": "Allow", "ipVersion": 6}],
    }


def test_every_protocol_name_of_neutron() -> None:
    rules = [
        SecurityGroupRule(id=f"{n:02}", protocol=name, ethertype="IPv6")
        for n, name in enumerate(PROTOCOLS)
    ]
    translated = translate_group(make_group("sg-1", *rules), "openstack")
    assert not translated.problems
    (policy,) = translated.resources
    assert isinstance(policy, NetworkPolicy)
    assert len(policy.spec.ingress) == len(PROTOCOLS)
    check(policy)


def test_one_bad_rule_costs_itself_only() -> None:
    """Named in Neutron's advisories: one tenant's rule that nobody could apply stopped all."""
    bad = [
        SecurityGroupRule(id="bad-1", protocol="vrrp", port_range_min=1, port_range_max=2),
        SecurityGroupRule(id="bad-2", protocol="nonsense"),
        SecurityGroupRule(id="bad-3", protocol="999"),
        SecurityGroupRule(id="bad-4", protocol="icmp", port_range_max=3),
        SecurityGroupRule(id="bad-5", remote_ip_prefix="10.0.0.0/99"),
        SecurityGroupRule(id="bad-6", remote_ip_prefix="fd00::/64"),
        SecurityGroupRule(id="bad-7", remote_group_id="x) || all("),
        SecurityGroupRule(id="bad-8", direction="sideways"),
        SecurityGroupRule(id="bad-9", ethertype="ARP"),
        SecurityGroupRule(id="bad-a", protocol="tcp", port_range_min=9, port_range_max=1),
        SecurityGroupRule(id="bad-b", protocol="ipv6-icmp"),
    ]
    good = SecurityGroupRule(id="good", protocol="tcp", port_range_min=22, port_range_max=22)
    translated = translate_group(make_group("sg-1", *bad, good), "openstack")
    (policy,) = translated.resources
    assert isinstance(policy, NetworkPolicy)
    assert [rule.destination.ports for rule in policy.spec.ingress] == [(22,)]
    assert [text.split()[4] for text in translated.problems] == [rule.id for rule in bad]


def test_a_large_address_group_is_several_rules() -> None:
    nets = tuple(f"10.{n >> 8}.{n & 255}.0/24" for n in range(600))
    rule = SecurityGroupRule(
        id="1", remote_address_group_id="ag", remote_addresses=(*nets, "fd00::/64")
    )
    (policy,) = translate_group(make_group("sg-1", rule), "openstack").resources
    assert isinstance(policy, NetworkPolicy)
    assert [len(made.source.nets) for made in policy.spec.ingress] == [256, 256, 88]
    check(policy)


def test_an_empty_address_group_is_nobody() -> None:
    rule = SecurityGroupRule(id="1", remote_address_group_id="ag")
    (policy,) = translate_group(make_group("sg-1", rule), "openstack").resources
    assert isinstance(policy, NetworkPolicy)
    assert policy.spec.ingress == ()


def test_a_subnet_as_the_dhcp_agents_read_it() -> None:
    subnet = Subnet(
        id="s-1", network_id="n-1", cidr="10.65.0.0/24", gateway_ip="10.65.0.1", mtu=1450,
        dns_nameservers=("8.8.8.8",),
        host_routes=({"destination": "10.1.0.0/16", "nexthop": "10.65.0.9"},),
    )  # fmt: skip
    value = translate_subnet(subnet)
    assert value is not None
    path = subnet_path("s-1", Settings(openstack_region="east").region)
    assert path == "/calico/dhcp/v2/region-east/subnet/s-1"
    assert json.loads(encoded(path, value, b"")) == {
        "network_id": "n-1",
        "cidr": "10.65.0.0/24",
        "host_routes": [{"destination": "10.1.0.0/16", "nexthop": "10.65.0.9"}],
        "gateway_ip": "10.65.0.1",
        "dns_servers": ["8.8.8.8"],
        "mtu": 1450,
    }
    assert translate_subnet(msgspec.structs.replace(subnet, enable_dhcp=False)) is None
    bare = translate_subnet(Subnet(id="s-1", network_id="n-1", cidr="10.65.0.0/24"))
    assert bare is not None
    assert json.loads(encoded(path, bare, b"")) == {
        "network_id": "n-1", "cidr": "10.65.0.0/24", "host_routes": [], "gateway_ip": None,
    }  # fmt: skip
    # Another writer's spaces and order are the same to us.
    other = json.dumps({"gateway_ip": None, "host_routes": [], **json.loads(
        encoded(path, bare, b""))}, indent=2).encode()  # fmt: skip
    assert stored_fingerprint(path, other) == fingerprint(bare)


def test_what_others_keep_in_an_endpoint_survives() -> None:
    """uid and time of creation are the datastore's; fields that we do not know somebody's."""
    endpoint = endpoint_of(make_port(5))
    path = path_of(endpoint)
    before = json.loads(encoded(path, endpoint, b""))
    before["metadata"] |= {"uid": "u-1", "creationTimestamp": "2020-01-01T00:00:00Z"}
    before["spec"]["futureField"] = {"a": 1}
    moved = endpoint_of(make_port(5, mac_address="fa:16:3e:ff:ff:ff"))
    after = json.loads(encoded(path, moved, json.dumps(before).encode()))
    assert after["metadata"]["uid"] == "u-1"
    assert after["metadata"]["creationTimestamp"] == "2020-01-01T00:00:00Z"
    assert after["spec"]["futureField"] == {"a": 1}
    assert after["spec"]["mac"] == "fa:16:3e:ff:ff:ff"
    assert stored_fingerprint(path, json.dumps(before).encode()) == fingerprint(endpoint)
    assert stored_fingerprint(path, b"{not JSON") == b""
    assert json.loads(encoded(path, moved, b"{not JSON"))["spec"]["mac"] == "fa:16:3e:ff:ff:ff"


hostile = st.text(max_size=300) | st.text(string.punctuation + "\n\0 a", max_size=80)


@given(name=hostile, network=hostile, group=hostile, project=hostile, fqdn=hostile)
def test_no_name_of_a_user_becomes_syntax(
    name: str, network: str, group: str, project: str, fqdn: str
) -> None:
    """Whatever they are called, what is stored is valid, and reads back as itself."""
    port = make_port(
        5, project_id=project, project_name=name, network_name=network, fqdn=fqdn,
        security_groups={"sg-1": group}, dhcp_options=({"opt_name": name, "opt_value": group},),
    )  # fmt: skip
    endpoint = endpoint_of(port)
    assert not validate(endpoint)
    path = path_of(endpoint)
    key = parse_key(path)
    assert isinstance(key, ResourceKey)
    assert codec.decode(key, encoded(path, endpoint, b"")).metadata.labels == (
        endpoint.metadata.labels
    )


@given(device=hostile, host=hostile, group=hostile)
def test_no_id_leaves_its_place(device: str, host: str, group: str) -> None:
    """Ids are parts of keys: what is no plain name makes none."""
    port = make_port(5, host or "h", device_id=device or "d")
    for resource in translate_port(port, SETTINGS).resources:
        key = parse_key(path_of(resource))
        assert key == ResourceKey(resource.kind, resource.metadata.name, "openstack")
    rule = SecurityGroupRule(id=group, protocol=group, remote_ip_prefix=device)
    for resource in translate_group(SecurityGroup(id=group, rules=(rule,)), "openstack").resources:
        assert parse_key(path_of(resource)) is not None


@given(
    st.builds(
        SecurityGroupRule,
        id=st.just("r"),
        direction=st.sampled_from(("ingress", "egress", "x")),
        ethertype=st.sampled_from(("IPv4", "IPv6", "")),
        protocol=st.none() | st.integers(-2, 300) | st.sampled_from(sorted(PROTOCOLS)) | hostile,
        port_range_min=st.none() | st.integers(-2, 70000),
        port_range_max=st.none() | st.integers(-2, 70000),
        remote_ip_prefix=st.none() | st.sampled_from(("10.0.0.0/8", "10.0.0.1/8", "::/0", "")),
        remote_group_id=st.none() | hostile,
    )
)
def test_any_rule_is_valid_or_left_out(rule: SecurityGroupRule) -> None:
    translated = translate_group(make_group("sg-1", rule), "openstack")
    (policy,) = translated.resources
    assert isinstance(policy, NetworkPolicy)
    check(policy)
    assert len(policy.spec.ingress) + len(policy.spec.egress) + len(translated.problems) == 1


def test_options_are_calicos() -> None:
    """Names, and defaults that a file written for Calico's driver relies on."""
    by_name = {option.name: option for option in OPTIONS}
    assert len(by_name) == len(OPTIONS)
    for field in msgspec.structs.fields(Settings):
        assert by_name[field.name].default == field.default
        assert not by_name[field.name].ignored
    given_by_file: dict[str, object] = {"etcd_host": "etcd", "etcd_password": "s3cret"}
    settings = read_settings(lambda name: given_by_file.get(name, by_name[name].default))
    assert settings.etcd_host == "etcd"
    assert "s3cret" not in repr(settings)


@pytest.mark.parametrize("region", ["East", "a_b", "-a", "a" * 47])
def test_a_region_that_cannot_be_a_namespace_is_refused(region: str) -> None:
    with pytest.raises(InvalidInput, match="openstack_region"):
        Settings(openstack_region=region)
