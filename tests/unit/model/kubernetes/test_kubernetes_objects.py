"""The parts of the conversion that the cases do not reach: other endpoints, accounts, damage."""

from typing import Any

import pytest
from tests.unit.model.kubernetes.objects import HTTP, Cluster, cluster, pod, policy

from tortie.lib.errors import InvalidInput
from tortie.model.kubernetes.cluster_policy import cluster_policy
from tortie.model.kubernetes.label_selector import namespace_selector, pod_selector
from tortie.model.kubernetes.network_policy import network_policy
from tortie.model.kubernetes.workload import (
    namespace_profile,
    pod_endpoint,
    service_account_profile,
)
from tortie.model.metadata import Resource
from tortie.model.names import is_name
from tortie.model.policy import NetworkPolicySpec
from tortie.model.validation import check
from tortie.selector.syntax import parse


@pytest.mark.parametrize(
    "text", ["a') || all() || (b == 'c", "a'", 'a"', "a == b", "", "-", "a b", "a\nb", "a/b/c", "é"]
)
def test_no_label_reaches_out_of_its_place(text: str) -> None:
    with pytest.raises(InvalidInput):
        pod_selector({"matchLabels": {text: "v"}})
    with pytest.raises(InvalidInput):
        pod_selector({"matchExpressions": [{"key": text, "operator": "Exists"}]})
    if text:
        for selector in (
            {"matchLabels": {"k": text}},
            {"matchExpressions": [{"key": "k", "operator": "In", "values": [text]}]},
        ):
            with pytest.raises(InvalidInput):
                namespace_selector(selector)


def test_selectors_are_of_pods_and_in_one_order() -> None:
    terms = [
        {"key": "z", "operator": "NotIn", "values": ["1", "2"]},
        {"key": "y", "operator": "DoesNotExist"},
    ]
    both = {"matchLabels": {"b/c": "2", "a": ""}, "matchExpressions": terms}
    text = "a == '' && b/c == '2' && z not in {'1', '2'} && !has(y)"
    assert namespace_selector(both) == text
    assert pod_selector(both) == f"projectcalico.org/orchestrator == 'k8s' && {text}"
    assert pod_selector(None) == pod_selector({}) == "projectcalico.org/orchestrator == 'k8s'"
    assert namespace_selector({}) == "all()"
    parse(pod_selector(both))


def test_what_comes_out_may_be_stored() -> None:
    made: list[Resource] = [
        network_policy(policy(ingress=[{"from": [{"podSelector": {}}]}])).resource,
        cluster_policy(
            cluster(ingress=[{"name": "n", "action": "Deny", "from": [{"namespaces": {}}]}])
        ).resource,
        namespace_profile({"metadata": {"name": "x"}})[1],
        service_account_profile({"metadata": {"name": "s", "namespace": "x"}})[1],
    ]
    endpoint = pod_endpoint(Cluster().pods["x/a"])
    assert endpoint is not None
    for resource in (*made, endpoint[1]):
        check(resource, stored=True)
    assert is_name("NetworkPolicy", made[0].metadata.name)


def test_names_and_labels_of_profiles() -> None:
    key, profile = namespace_profile(
        {"metadata": {"name": "x", "labels": {"a": "b", "kubernetes.io/metadata.name": "y"}}}
    )
    assert str(key) == "Profile(kns.x)"
    assert profile.spec.labels_to_apply == {
        "pcns.a": "b",
        "pcns.kubernetes.io/metadata.name": "x",
        "pcns.projectcalico.org/name": "x",
    }
    key, profile = service_account_profile(
        {"metadata": {"name": "s", "namespace": "x", "labels": {"a": "b"}}}
    )
    assert str(key) == "Profile(ksa.x.s)"
    assert profile.spec.labels_to_apply == {"pcsa.a": "b", "pcsa.projectcalico.org/name": "s"}
    assert not profile.spec.ingress


def converted(**changes: Any) -> Any:
    made = pod("x", "a", 1, "h1", HTTP)
    for part, fields in changes.items():
        made[part] = {**made[part], **fields}
    entry = pod_endpoint(made)
    assert entry is not None
    return entry[1]


def test_a_pod() -> None:
    endpoint = converted(metadata={"labels": {"app": "a", "projectcalico.org/namespace": "other"}})
    assert endpoint.metadata.name == "h1-k8s-a-eth0"
    assert endpoint.metadata.labels == {
        "app": "a",
        "projectcalico.org/namespace": "x",
        "projectcalico.org/orchestrator": "k8s",
        "projectcalico.org/serviceaccount": "runner",
    }
    assert endpoint.spec.profiles == ("kns.x", "ksa.x.runner")
    assert endpoint.spec.ip_networks == ("10.0.0.1/32", "fd00::1/128")
    assert pod_endpoint(pod("x", "a", 1, "")) is None


def test_ports_of_init_containers_and_those_worth_a_name() -> None:
    ports = [
        {"containerPort": 1},
        {"containerPort": 2, "hostPort": 3},
        {"containerPort": 4, "name": "x", "protocol": "RAW"},
    ]
    first = {"name": "first", "containerPort": 5, "protocol": "SCTP"}
    spec = {"containers": [{"ports": ports}], "initContainers": [{"ports": [first]}]}
    made = converted(spec=spec).spec.ports
    assert [(one.name, one.protocol, one.port, one.host_port) for one in made] == [
        ("", "TCP", 2, 3),
        ("first", "SCTP", 5, 0),
    ]


def test_addresses_are_the_kubelet_s_else_the_plugin_s() -> None:
    nowhere: dict[str, object] = {"podIPs": [], "podIP": ""}
    plural = {"cni.projectcalico.org/podIPs": "10.0.0.8/32,fd00::8/128"}
    single = {"cni.projectcalico.org/podIP": "10.0.0.9/32"}
    assert converted(status={"podIPs": [], "podIP": "10.0.0.7"}).spec.ip_networks == (
        "10.0.0.7/32",
    )
    made = converted(status=nowhere, metadata={"annotations": {**plural, **single}})
    assert made.spec.ip_networks == ("10.0.0.8/32", "fd00::8/128")
    made = converted(status=nowhere, metadata={"annotations": single})
    assert made.spec.ip_networks == ("10.0.0.9/32",)
    assert converted(status=nowhere).spec.ip_networks == ()


@pytest.mark.parametrize("phase", ["Failed", "Succeeded"])
def test_a_finished_pod_has_no_addresses(phase: str) -> None:
    assert converted(status={"phase": phase}).spec.ip_networks == ()


def test_a_pod_that_is_going_keeps_its_addresses_until_they_are_taken_back() -> None:
    going = {"deletionTimestamp": "2026-01-01T00:00:00Z"}
    assert converted(metadata=going).spec.ip_networks
    taken = {"annotations": {"cni.projectcalico.org/podIP": ""}}
    assert converted(metadata=taken).spec.ip_networks
    assert not converted(metadata={**going, **taken}).spec.ip_networks


def spec(**fields: Any) -> NetworkPolicySpec:
    return network_policy(policy(**fields)).resource.spec


def test_an_order_behind_which_others_can_be_put() -> None:
    assert (spec().order, spec().tier) == (1000.0, "default")


@pytest.mark.parametrize(
    "fields",
    [
        {"policyTypes": ["Both"]},
        {"policyTypes": "Ingress"},
        {"ingress": {"from": []}},
        {"ingress": ["all"]},
        {"podSelector": []},
        {"podSelector": {"matchLabels": {"a": 1}}},
        {"podSelector": {"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1"]}]}},
    ],
)
def test_a_policy_that_cannot_be_told_whom_it_isolates_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        spec(**fields)


@pytest.mark.parametrize(
    "peer",
    [
        {"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}},
        {"ipBlock": {"cidr": "10.0.0.0/40"}},
        {"ipBlock": {}},
        {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["here"]}},
        {"podSelector": {"matchLabels": {"a b": "c"}}},
        "all",
        None,
    ],
)
def test_a_peer_that_cannot_be_converted_allows_nobody(peer: object) -> None:
    made = network_policy(policy(ingress=[{"from": [peer]}]))
    assert made.resource.spec.ingress == ()
    assert len(made.problems) == 1
    assert "ingress rule 1" in made.problems[0]


@pytest.mark.parametrize(
    "port",
    [
        {"port": 0},
        {"port": 65536},
        {"port": True},
        {"port": "80"},
        {"port": 1.5},
        {"port": 80, "protocol": "ICMP"},
        80,
    ],
)
def test_a_port_that_cannot_be_converted_allows_nothing(port: object) -> None:
    made = network_policy(policy(egress=[{"ports": [port]}]))
    assert made.resource.spec.egress == ()
    assert "egress rule 1" in made.problems[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"tier": "Other"},
        {"priority": None},
        {"priority": 1001},
        {"priority": True},
        {"subject": {}},
        {"subject": {"namespaces": {}, "pods": {}}},
    ],
)
def test_a_cluster_policy_that_cannot_be_placed_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        cluster_policy(cluster(**changes))


def test_only_cluster_policies_are() -> None:
    with pytest.raises(InvalidInput):
        cluster_policy(cluster("NetworkPolicy"))


@pytest.mark.parametrize(
    ("rule", "actions"),
    [
        ({"action": "Deny"}, ["Deny"]),
        ({"action": "Pass", "from": [{}]}, ["Deny"]),
        ({"action": "Audit", "from": [{"namespaces": {}}]}, ["Deny"]),
        ({"action": "Accept", "from": [{"networks": ["10.0.0.0/8"]}]}, []),
        ({"action": "Accept", "from": [{"namespaces": {}, "pods": {}}]}, []),
        ({"action": "Deny", "from": [{"namespaces": {}}], "protocols": [{"icmp": {}}]}, ["Deny"]),
        ({"action": "Accept", "from": [{"namespaces": {}}], "protocols": [{}]}, []),
    ],
)
def test_what_cannot_be_converted_never_opens(rule: dict[str, Any], actions: list[str]) -> None:
    made = cluster_policy(cluster(ingress=[rule]))
    assert [one.action for one in made.resource.spec.ingress] == actions
    assert made.problems
    for one in made.resource.spec.ingress:
        assert not one.source.namespace_selector  # it denies all, not only whom it named
