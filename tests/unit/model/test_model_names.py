"""Computed names and their syntax."""

import hashlib

import pytest

from tortie.lib.errors import InvalidInput
from tortie.model import names
from tortie.model.endpoint import WorkloadEndpointSpec


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        (
            WorkloadEndpointSpec(node="n-1", orchestrator="k8s", pod="web-0", endpoint="eth0"),
            "n--1-k8s-web--0-eth0",
        ),
        (
            WorkloadEndpointSpec(node="n", orchestrator="cni", container_id="c", endpoint="e-0"),
            "n-cni-c-e--0",
        ),
        (
            WorkloadEndpointSpec(
                node="n", orchestrator="libnetwork", workload="ignored", endpoint="e"
            ),
            "n-libnetwork-libnetwork-e",
        ),
        (
            WorkloadEndpointSpec(node="n", orchestrator="lab", workload="a--b", endpoint="e"),
            "n-lab-a----b-e",
        ),
    ],
)
def test_workload_endpoint_name(spec: WorkloadEndpointSpec, name: str) -> None:
    assert names.workload_endpoint_name(spec) == name


@pytest.mark.parametrize(
    ("spec", "missing"),
    [
        (WorkloadEndpointSpec(orchestrator="lab", workload="w", endpoint="e"), "node"),
        (WorkloadEndpointSpec(node="n", workload="w", endpoint="e"), "orchestrator"),
        (WorkloadEndpointSpec(node="n", orchestrator="k8s", workload="w", endpoint="e"), "pod"),
        (WorkloadEndpointSpec(node="n", orchestrator="cni", endpoint="e"), "containerID"),
        (WorkloadEndpointSpec(node="n", orchestrator="lab", workload="w"), "endpoint"),
    ],
)
def test_a_missing_part_is_named(spec: WorkloadEndpointSpec, missing: str) -> None:
    with pytest.raises(InvalidInput, match=missing):
        names.workload_endpoint_name(spec)


def test_interface_names_are_stable_and_fit_the_kernel() -> None:
    expected = "cali" + hashlib.sha1(b"shop.cart").hexdigest()[:11]
    assert names.interface_name("shop", "cart") == expected
    assert names.interface_name("shop", "cart") != names.interface_name("shop", "cart2")
    assert len(names.interface_name("n", "w", prefix="longprefix")) == 15
    assert names.container_interface_name("0123456789abcdef") == "cali0123456789a"


@pytest.mark.parametrize(
    ("kind", "name", "legal"),
    [
        ("Node", "rack-1.example", True),
        ("Node", "Rack", False),
        ("Node", "-a", False),
        ("Node", "a..b", False),
        ("Node", "a_b", False),
        ("Node", "a/b", False),
        ("Node", "a\n", False),
        ("Node", "a" * 253, True),
        ("Node", "a" * 254, False),
        ("Tier", "sec", True),
        ("Tier", "sec.x", False),
        ("Tier", "a" * 64, False),
        ("NetworkPolicy", "web", True),
        ("NetworkPolicy", "sec.web", True),
        ("NetworkPolicy", "a.b.c", False),
        ("NetworkPolicy", "knp.default.a.b.c", True),
        ("GlobalNetworkPolicy", "a.b", True),
        ("GlobalNetworkPolicy", "knp.default.a", False),
        ("FelixConfiguration", "node.rack-1", True),
    ],
)
def test_names_of_objects(kind: str, name: str, legal: bool) -> None:
    assert names.is_name(kind, name) is legal


@pytest.mark.parametrize(
    ("key", "legal"),
    [
        ("app", True), ("App_1.x", True), ("example.org/app", True), ("/app", False),
        ("app/", False), ("Example/app", False), ("a/b/c", False), ("", False), ("a" * 64, False),
        ("-a", False),
        ("ü", False),
    ],
)  # fmt: skip
def test_label_keys(key: str, legal: bool) -> None:
    assert names.is_label_key(key) is legal


@pytest.mark.parametrize(
    ("value", "legal"),
    [("", True), ("web-1", True), ("-web", False), ("a b", False), ("a" * 64, False)],
)
def test_label_values(value: str, legal: bool) -> None:
    assert names.is_label_value(value) is legal


@pytest.mark.parametrize(
    ("name", "legal"),
    [("eth0", True), ("cali.1_2-3", True), ("", False), ("a" * 16, False), ("..", False),
     (".", False), ("a/b", False), ("a b", False), ("eth0\n", False)],
)  # fmt: skip
def test_interface_name_syntax(name: str, legal: bool) -> None:
    assert names.is_interface_name(name) is legal


@pytest.mark.parametrize(
    ("name", "legal"),
    [("http", True), ("a-1", True), ("80", False), ("a--b", False), ("-a", False), ("a-", False),
     ("HTTP", False), ("a" * 16, False), ("", False)],
)  # fmt: skip
def test_port_names(name: str, legal: bool) -> None:
    assert names.is_port_name(name) is legal
