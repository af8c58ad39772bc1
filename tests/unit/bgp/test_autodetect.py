"""The node's address, by every method."""

import pytest

from tortie.bgp.autodetect import Address, Detected, Interface, detect
from tortie.lib.errors import InvalidInput
from tortie.lib.ip import Network, parse_address


def interface(name: str, *addresses: str, up: bool = True) -> Interface:
    found = []
    for text in addresses:
        address, _, length = text.partition("/")
        found.append(Address(parse_address(address), int(length)))
    return Interface(name, up, tuple(found))


MACHINE = [
    interface("lo", "127.0.0.1/8", "::1/128", "10.99.0.1/32"),
    interface("docker0", "172.17.0.1/16"),
    interface("eth9", "10.9.0.1/24", up=False),
    interface("eth0", "169.254.7.7/16", "10.0.0.5/24", "10.0.1.5/24", "fe80::1/64", "fd00::5/64"),
    interface("eth1", "192.168.1.5/24", "fd01::5/64"),
    interface("cali123", "10.65.0.1/32"),
]


def source(target: str) -> Network | None:
    known = {"8.8.8.8": "192.168.1.5", "gateway.example": "10.0.0.5", "far": "10.1.1.1"}
    return parse_address(known[target]) if target in known else None


def found(method: str, family: int = 4) -> Detected:
    return detect(method, family, MACHINE, source, (parse_address("192.168.1.5"),))


@pytest.mark.parametrize(
    ("method", "family", "expected"),
    [
        ("first-found", 4, "10.0.0.5/24"),
        ("", 4, "10.0.0.5/24"),
        ("first-found", 6, "fd00::5/64"),
        ("interface=eth1", 4, "192.168.1.5/24"),
        ("interface=eth1,eth0", 4, "192.168.1.5/24"),
        ("interface=nothing,eth.*", 6, "fd00::5/64"),
        ("interface=docker0", 4, "172.17.0.1/16"),
        ("interface=eth9", 4, None),
        ("skip-interface=eth0", 4, "192.168.1.5/24"),
        ("skip-interface=eth0, eth1", 4, None),
        ("cidr=10.0.1.0/24", 4, "10.0.1.5/24"),
        ("cidr=10.77.0.0/16,192.168.0.0/16", 4, "192.168.1.5/24"),
        ("cidr=fd01::/16", 6, "fd01::5/64"),
        ("cidr=10.9.0.0/24", 4, None),
        ("can-reach=8.8.8.8", 4, "192.168.1.5/24"),
        ("can-reach=gateway.example", 4, "10.0.0.5/24"),
        ("can-reach=nowhere", 4, None),
        ("can-reach=far", 4, None),
        ("kubernetes-internal-ip", 4, "192.168.1.5/24"),
        ("kubernetes-internal-ip", 6, None),
    ],
)
def test_methods(method: str, family: int, expected: str | None) -> None:
    detected = found(method, family)
    assert (str(detected.address) if detected.address else None) == expected
    assert detected.reasons, "every answer is explained"


def test_reasons_say_why_the_others_were_left() -> None:
    reasons = "\n".join(found("first-found").reasons)
    assert "lo: skipped, matches ^lo" in reasons
    assert "docker0: skipped, matches ^docker" in reasons
    assert "eth9: is down" in reasons
    assert "eth0: 169.254.7.7/16 is link-local" in reasons
    assert reasons.endswith("eth0: 10.0.0.5/24 is taken")


@pytest.mark.parametrize(
    "method",
    ["nonsense", "interface=", "interface", "interface=(", "cidr=x", "can-reach=", "first-found=x"],
)
def test_what_is_no_method_is_refused(method: str) -> None:
    with pytest.raises(InvalidInput):
        found(method)
