"""Claims to addresses: who holds them, and which lie in a network."""

import pytest

from tortie.calc.addresses import Addresses, AddressSet, pack, unpack
from tortie.desired.endpoint import EndpointId
from tortie.lib.ip import Network, parse_network

A, B, C = (EndpointId("n", name) for name in "abc")
KNOWN = ["10.0.0.0", "10.0.0.63", "10.0.0.64", "10.0.15.255", "10.0.16.0", "fd00::3f", "fd00::40"]


def at(text: str) -> Network:
    return parse_network(text)


def test_the_lowest_claimant_comes_first_whoever_came_first() -> None:
    addresses = Addresses()
    for endpoint in (B, C, A, B):
        addresses.add(at("10.0.0.1"), endpoint)
    assert addresses.claimants(at("10.0.0.1")) == (A, B, C)
    for endpoint in (A, B):
        addresses.discard(at("10.0.0.1"), endpoint)
    assert addresses.claimants(at("10.0.0.1")) == (C,)
    addresses.discard(at("10.0.0.1"), C)
    assert addresses.claimants(at("10.0.0.1")) == ()


@pytest.mark.parametrize("others", [0, 5000])
@pytest.mark.parametrize(
    "network",
    [
        "10.0.0.0/26",
        "10.0.0.63/32",
        "10.0.0.32/27",
        "10.0.0.0/20",
        "10.0.0.0/8",
        "0.0.0.0/0",
        "fd00::/122",
        "fd00::40/128",
        "fd00::/116",
        "::/0",
    ],
)
def test_what_lies_in_a_network(network: str, others: int) -> None:
    addresses = Addresses()
    known = [*map(at, KNOWN), *(at("172.16.0.0/12").address(64 * n) for n in range(others))]
    for address in known:
        addresses.add(address, A)
    inside = list(addresses.within(at(network)))
    assert sorted(inside) == sorted(a for a in known if at(network).contains(a))


def test_a_set_of_addresses_holds_each_once() -> None:
    addresses = AddressSet()
    expected = [at(text) for text in KNOWN]
    for address in (*expected, *expected):
        addresses.add(address)
    assert sorted(addresses) == sorted(expected)


def test_packed_networks_come_back_in_order() -> None:
    networks = tuple(
        at(text) for text in ("fd00::/8", "10.0.0.1", "0.0.0.0/0", "::1", "10.0.0.0/9")
    )
    assert unpack(pack(networks)) == networks
    assert unpack(pack(())) == ()
    assert len(pack([at("10.0.0.1")])) == 6


def test_nothing_is_left_of_addresses_that_nobody_claims() -> None:
    addresses = Addresses()
    for text in KNOWN:
        addresses.add(at(text), A)
        addresses.add(at(text), B)
    for text in KNOWN:
        addresses.discard(at(text), A)
        addresses.discard(at(text), B)
    assert vars(addresses) == vars(Addresses())
