"""Which host endpoint an interface belongs to."""

from tortie.desired.host_endpoint import HostEndpoint, host_endpoint_for
from tortie.lib.ip import parse_address

HERE, THERE = parse_address("192.168.0.1"), parse_address("fd01::1")
ENDPOINTS = {
    "b": HostEndpoint("eth0"),
    "c": HostEndpoint("", (HERE, parse_address("192.168.0.2"))),
    "a-every-2": HostEndpoint("*"),
    "a-every-1": HostEndpoint("*"),
}


def test_a_name_or_an_address_fits() -> None:
    assert host_endpoint_for("eth0", (), ENDPOINTS) == "b"
    assert host_endpoint_for("eth1", (THERE, HERE), ENDPOINTS) == "c"


def test_the_lowest_name_wins_whatever_fits() -> None:
    assert host_endpoint_for("eth0", (HERE,), ENDPOINTS) == "b"
    earlier = {"aa": HostEndpoint("", (HERE,)), **ENDPOINTS}
    assert host_endpoint_for("eth0", (HERE,), earlier) == "aa"


def test_one_for_all_interfaces_stands_back() -> None:
    assert host_endpoint_for("eth1", (THERE,), ENDPOINTS) == "a-every-1"
    assert host_endpoint_for("eth1", (THERE,), {"b": HostEndpoint("eth0")}) is None


def test_a_named_interface_does_not_go_by_address() -> None:
    named = {"a": HostEndpoint("eth0", (HERE,))}
    assert host_endpoint_for("eth1", (HERE,), named) is None


def test_one_for_all_interfaces_is_not_for_loopback() -> None:
    assert host_endpoint_for("lo", (), ENDPOINTS) is None
    assert host_endpoint_for("lo", (), {**ENDPOINTS, "d": HostEndpoint("lo")}) == "d"
