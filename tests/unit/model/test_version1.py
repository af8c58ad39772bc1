"""Calico's API before v3.0 as today's resources; `tests/unit/ctl` has the verb around it."""

import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tortie.lib.errors import InvalidInput
from tortie.lib.ip import parse_address
from tortie.model.codec import to_plain
from tortie.model.validation.defaults import with_defaults
from tortie.model.validation.entry import validate
from tortie.model.version1 import conversion, names


def converted(kind: str, metadata: dict[str, Any], spec: dict[str, Any] | None = None) -> Any:
    """Today's resource as plain values, complete, and found valid."""
    value = {"kind": kind, "apiVersion": "v1", "metadata": metadata, "spec": spec or {}}
    resource = conversion.convert(msgspec.convert(value, conversion.STRUCTS[kind]))
    complete = with_defaults(resource)
    assert validate(complete) == []
    return to_plain(complete)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("abc---def", "abc---def"),
        ("abc-.-def", "abc.def"),
        ("$ABC/DeF-123.-456!", "abc.def-123.456"),
        ("-.abc.def.-", "abc.def"),
    ],
)
def test_a_nodes_name_is_made_to_fit(old: str, new: str) -> None:
    assert names.node_name(old) == new


@pytest.mark.parametrize(
    ("old", "new"),
    # As calicoctl names them.
    [
        ("policy1", "policy1"),
        ("nameyMcPolicyName", "nameymcpolicyname-32df456f"),
        ("MaKe.-.MaKe", "make-make-1b6971c8"),
        ("RAWR", "rawr-03d81e1d"),
    ],
)
def test_a_policys_name_is_made_to_fit_and_stays_its_own(old: str, new: str) -> None:
    assert names.policy_name(old) == new


def test_addresses_in_names() -> None:
    assert names.address_name(parse_address("192.168.0.1")) == "192-168-0-1"
    long = "00aa-00bb-0000-0000-0000-0000-0000-0050"
    assert names.address_name(parse_address("0Aa:bb::50")) == long


def test_a_policy() -> None:
    spec = {
        "order": 999.99,
        "selector": "calico/k8s_ns == 'default' || thing == 'value'",
        "preDNAT": True,
        "types": ["ingress"],
        "ingress": [
            {
                "action": "next-tier",
                "protocol": "icmpv6",
                "icmp": {"type": 128},
                "source": {"tag": "web"},
            },
            {
                "protocol": "tcp",
                "source": {
                    "net": "10.0.0.1/24",
                    "nets": ["10.1.0.0/16", "10.0.0.0/24"],
                    "selector": "a == 'b' || c == 'd'",
                    "tag": "web",
                },
                "destination": {"ports": [80, "1000:2000"]},
            },
        ],
    }
    found = converted("policy", {"name": "web", "annotations": {"by": "me"}}, spec)
    assert found["kind"] == "GlobalNetworkPolicy"
    assert found["metadata"] == {
        "name": "web",
        "labels": {"projectcalico.org/tier": "default"},
        "annotations": {"by": "me"},
    }
    assert found["spec"] == {
        "tier": "default",
        "order": 999.99,
        "selector": "projectcalico.org/namespace == 'default' || thing == 'value'",
        "types": ["Ingress"],
        "preDNAT": True,
        "applyOnForward": True,
        "ingress": [
            {
                "action": "Pass",
                "protocol": "ICMPv6",
                "icmp": {"type": 128},
                "source": {"selector": "web == ''"},
            },
            {
                "action": "Allow",
                "protocol": "TCP",
                "source": {
                    "nets": ["10.1.0.0/16", "10.0.0.0/24"],
                    "selector": "(a == 'b' || c == 'd') && web == ''",
                },
                "destination": {"ports": [80, "1000:2000"]},
            },
        ],
    }


@pytest.mark.parametrize(
    ("rules", "types"),
    [
        ({}, ["Ingress"]),
        ({"egress": [{"action": "deny"}]}, ["Egress"]),
        ({"egress": [{"action": "deny"}], "ingress": [{"action": "log"}]}, ["Ingress", "Egress"]),
    ],
)
def test_types_by_the_rules_that_there_are(rules: dict[str, Any], types: list[str]) -> None:
    assert converted("policy", {"name": "p"}, rules)["spec"]["types"] == types


def test_who_has_either_is_spared() -> None:
    """The old rule asked for `not selected` and `not tagged`: so not (selected or tagged)."""
    entity = {"notSelector": "a == 'b' && has(c)", "notTag": "web"}
    spec = {"egress": [{"action": "deny", "destination": entity}]}
    (rule,) = converted("profile", {"name": "p"}, spec)["spec"]["egress"]
    assert rule["destination"]["notSelector"] == "(a == 'b' && has(c)) || web == ''"


def test_a_profile() -> None:
    metadata = {"name": "k8s_ns.kube-system", "tags": ["web"], "labels": {"a": "b"}}
    found = converted("profile", metadata)
    assert found["metadata"]["name"] == "kns.kube-system"
    assert found["spec"]["labelsToApply"] == {"a": "b", "web": ""}
    with pytest.raises(InvalidInput, match="'a' is a label, too"):
        converted("profile", metadata | {"tags": ["a"]})


@pytest.mark.parametrize(
    ("cidr", "spec", "name", "mode"),
    [
        ("10.0.0.0/24", {"ipip": {"enabled": True}}, "10-0-0-0-24", "Always"),
        ("10.0.0.0/24", {"ipip": {"mode": "always"}}, "10-0-0-0-24", "Never"),
        (
            "1.32.0.0/11",
            {"ipip": {"enabled": True, "mode": "cross-subnet"}},
            "1-32-0-0-11",
            "CrossSubnet",
        ),
        ("2001::/120", {"nat-outgoing": True, "disabled": True}, "2001---120", "Never"),
    ],
)
def test_a_pool(cidr: str, spec: dict[str, Any], name: str, mode: str) -> None:
    found = converted("ipPool", {"cidr": cidr}, spec)
    assert found["metadata"]["name"] == name
    assert (found["spec"]["cidr"], found["spec"]["ipipMode"]) == (cidr, mode)
    assert found["spec"].get("natOutgoing", False) == spec.get("nat-outgoing", False)
    assert found["spec"].get("disabled", False) == spec.get("disabled", False)


def test_peers() -> None:
    everywhere = converted(
        "bgpPeer", {"scope": "global", "peerIP": "10.0.0.9"}, {"asNumber": "1.10"}
    )
    assert everywhere["metadata"]["name"] == "10-0-0-9"
    assert everywhere["spec"] == {"peerIP": "10.0.0.9", "asNumber": 65546}
    metadata = {"scope": "node", "node": "Rack/1", "peerIP": "fd00::1"}
    of_one = converted("bgpPeer", metadata, {"asNumber": 64512})
    assert of_one["metadata"]["name"] == "rack.1.fd00-0000-0000-0000-0000-0000-0000-0001"
    assert of_one["spec"]["node"] == "rack.1"
    with pytest.raises(InvalidInput, match="only for it"):
        converted("bgpPeer", metadata | {"scope": "global"}, {"asNumber": 1})


def test_a_host_endpoint() -> None:
    spec = {
        "interfaceName": "eth0",
        "expectedIPs": ["fd00::1", "10.0.0.1"],
        "profiles": ["k8s_ns.red", "db"],
        "ports": [{"name": "web", "port": 80, "protocol": "tcp"}],
    }
    metadata = {"name": "eth0", "node": "MyHost", "labels": {"a": "b"}}
    found = converted("hostEndpoint", metadata, spec)
    assert found["metadata"] == {"name": "myhost.eth0", "labels": {"a": "b"}}
    assert found["spec"] == {
        "node": "myhost",
        "interfaceName": "eth0",
        "expectedIPs": ["10.0.0.1", "fd00::1"],
        "profiles": ["kns.red", "db"],
        "ports": [{"name": "web", "protocol": "TCP", "port": 80}],
    }


@pytest.mark.parametrize(
    ("orchestrator", "workload", "name", "namespace"),
    [
        ("k8s", "red.front-1", "h-k8s-front--1-eth0", "red"),
        ("cni", "1337abc", "h-cni-1337abc-eth0", "default"),
        ("libnetwork", "anything", "h-libnetwork-libnetwork-eth0", "default"),
        ("openstack", "vm-1", "h-openstack-vm--1-eth0", "default"),
    ],
)
def test_a_workload_endpoint(orchestrator: str, workload: str, name: str, namespace: str) -> None:
    metadata = {
        "name": "eth0",
        "workload": workload,
        "orchestrator": orchestrator,
        "node": "h",
        "labels": {"calico/k8s_ns": namespace},
    }
    spec = {"interfaceName": "cali1", "ipNetworks": ["fd00::1/128", "10.0.0.1/32"]}
    found = converted("workloadEndpoint", metadata, spec)
    assert (found["metadata"]["name"], found["metadata"]["namespace"]) == (name, namespace)
    assert found["metadata"]["labels"]["projectcalico.org/namespace"] == namespace
    assert "calico/k8s_ns" not in found["metadata"]["labels"]
    assert found["spec"]["ipNetworks"] == ["10.0.0.1/32", "fd00::1/128"]


def test_a_node() -> None:
    bgp = {"asNumber": 64512, "ipv4Address": "10.0.0.1/24", "ipv6Address": "fd00::1"}
    found = converted("node", {"name": "H1.example.org"}, {"bgp": bgp})
    assert found["metadata"]["name"] == "h1.example.org"
    assert found["spec"]["bgp"] == bgp | {"ipv6Address": "fd00::1/128"}


_VALUES: st.SearchStrategy[Any] = st.sampled_from(
    ["", "x", "10.0.0.0/8", "10.0.0.1", "::/0", "k8s", "web.1", "1.2.3", "-1", "Ä", 0, 70000, None]
)


@given(st.sampled_from(sorted(conversion.STRUCTS)), st.data())
def test_whatever_it_says_it_is_converted_or_refused(kind: str, data: st.DataObject) -> None:
    struct = conversion.STRUCTS[kind]
    parts = {field.encode_name: field.type for field in msgspec.structs.fields(struct)}
    value: dict[str, Any] = {}
    for part in ("metadata", "spec"):
        fields = [field.encode_name for field in msgspec.structs.fields(parts[part])]
        one_or_many = st.one_of(_VALUES, st.lists(_VALUES, max_size=2))
        value[part] = data.draw(
            st.fixed_dictionaries({}, optional=dict.fromkeys(fields, one_or_many))
        )
    with contextlib.suppress(InvalidInput, msgspec.ValidationError):
        validate(with_defaults(conversion.convert(msgspec.convert(value, struct))))
