"""Networks as tuples, judged by the standard library's `ipaddress`."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tortie.lib.errors import InvalidInput
from tortie.lib.ip import Network, from_packed, parse_address, parse_network

NETWORKS = st.one_of(
    st.builds(
        lambda value, length: ipaddress.ip_network((value, length), strict=False),
        st.integers(0, 2**32 - 1),
        st.integers(0, 32),
    ),
    st.builds(
        lambda value, length: ipaddress.ip_network((value, length), strict=False),
        st.integers(2**48, 2**128 - 1),
        st.integers(0, 128),
    ),
)


@given(NETWORKS)
def test_parses_and_prints_as_ipaddress_does(
    expected: ipaddress.IPv4Network | ipaddress.IPv6Network,
) -> None:
    network = parse_network(str(expected))
    assert ipaddress.ip_network(str(network)) == expected
    assert network.size == expected.num_addresses
    assert network.last == int(expected.broadcast_address)
    assert from_packed(network.packed, network.length) == network


@given(NETWORKS, NETWORKS)
def test_contains_and_overlaps_as_ipaddress_does(
    left: ipaddress.IPv4Network | ipaddress.IPv6Network,
    right: ipaddress.IPv4Network | ipaddress.IPv6Network,
) -> None:
    a, b = parse_network(str(left)), parse_network(str(right))
    if left.version == right.version:
        assert a.contains(b) == right.subnet_of(left)  # type: ignore[arg-type]
        assert a.overlaps(b) == left.overlaps(right)
    else:
        assert not a.overlaps(b)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10.0.0",
        "10.0.0.1/33",
        "10.0.0.1/",
        "10.0.0.1/-1",
        "010.0.0.1",
        "fe80::1%eth0",
        "::ffff:10.0.0.1",
        "10.0.0.1/٣",
        "10.0.0.1/24/3",
        "1.2.3.4\n",
        "::1/129",
    ],
)
def test_refuses_what_is_no_network(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_network(text)


def test_host_bits_are_cleared_or_refused_with_a_hint() -> None:
    assert parse_network("10.1.2.3/8") == parse_network("10.0.0.0/8")
    with pytest.raises(InvalidInput, match=r"did you mean 10\.0\.0\.0/8"):
        parse_network("10.1.2.3/8", strict=True)


def test_an_address_is_one_address() -> None:
    assert parse_address("10.0.0.1/32") == Network(4, 0x0A000001, 32)
    with pytest.raises(InvalidInput, match="one address"):
        parse_address("10.0.0.0/31")
