"""What the object modules encode, they decode to an equal value; and the traps."""

import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tortie.kernel.netlink import Message, Request, attribute, attribute_u32, nested
from tortie.kernel.rtnl import address, kinds, link, neighbour, route, rule
from tortie.kernel.rtnl.address import Address
from tortie.kernel.rtnl.link import Link, LinkChange, VethPeer
from tortie.kernel.rtnl.neighbour import Neighbour
from tortie.kernel.rtnl.route import Hop, Kind, Route
from tortie.kernel.rtnl.rule import Rule
from tortie.lib.errors import InvalidInput
from tortie.lib.ip import Network, parse_address, parse_network

HOPLESS = [Kind.BLACKHOLE, Kind.UNREACHABLE, Kind.PROHIBIT, Kind.THROW]

indexes = st.integers(1, 2**31 - 1)
numbers = st.integers(1, 2**32 - 1)


def message(kind: int, payload: bytes) -> Message:
    return Message(kind, 0, 0, 0, memoryview(payload))


def told(request: Request) -> Message:
    """What the kernel would say of what the request makes."""
    return message(request.kind, request.payload)


@st.composite
def networks(draw: st.DrawFn, family: int | None = None) -> Network:
    chosen = family or draw(st.sampled_from([4, 6]))
    bits = 32 if chosen == 4 else 128
    length = draw(st.integers(0, bits))
    value = draw(st.integers(0, 2**bits - 1)) >> (bits - length) << (bits - length)
    return Network(chosen, value, length)


@st.composite
def addresses(draw: st.DrawFn, family: int | None = None) -> Network:
    network = draw(networks(family))
    return Network(network.family, network.value, network.bits)


@st.composite
def routes(draw: st.DrawFn) -> Route:
    """Routes in canonical form, with one hop, several, or none."""
    destination = draw(networks())
    family = destination.family
    metric = draw(st.one_of(st.just(0), st.integers(1, 2**32 - 1)))
    scope = draw(st.sampled_from([0, 253, 254])) if family == 4 else 0
    table = draw(st.one_of(st.integers(1, 255), st.integers(256, 2**32 - 1)))
    shape = draw(st.sampled_from(["one", "several", "none"]))
    gateway = st.one_of(st.none(), addresses(family), addresses(6))
    hop = st.builds(Hop, indexes, gateway, st.integers(1, 256), st.booleans())
    one = shape == "one"
    return Route(
        destination=destination,
        kind=draw(st.sampled_from(HOPLESS)) if shape == "none" else Kind.UNICAST,
        interface=draw(indexes) if one else 0,
        gateway=draw(gateway) if one else None,
        onlink=draw(st.booleans()) if one else False,
        table=table,
        protocol=draw(st.integers(0, 255)),
        metric=0 if family == 6 and metric == 1024 else metric,
        scope=scope,
        source=draw(st.one_of(st.none(), addresses(family))),
        hops=tuple(draw(st.lists(hop, min_size=2, max_size=4))) if shape == "several" else (),
    )


@given(routes())
def test_routes_survive_the_round_trip(wanted: Route) -> None:
    assert route.decode(told(route.replace(wanted))) == wanted


@given(
    st.builds(
        Address,
        interface=indexes,
        address=addresses(),
        length=st.integers(0, 32),
        scope=st.sampled_from([0, 253, 254]),
    )
)
def test_addresses_survive_the_round_trip(wanted: Address) -> None:
    found = address.decode(told(address.add(wanted)))
    assert found is not None
    assert (found.interface, found.address, found.length, found.scope, found.peer) == (
        wanted.interface, wanted.address, wanted.length, wanted.scope, None,
    )  # fmt: skip


@given(
    st.builds(
        Neighbour,
        interface=indexes,
        address=addresses(),
        mac=st.binary(min_size=6, max_size=6),
        state=st.sampled_from([int(state) for state in neighbour.State if state]),
        router=st.booleans(),
    )
)
def test_neighbours_survive_the_round_trip(wanted: Neighbour) -> None:
    assert neighbour.decode(told(neighbour.replace(wanted))) == wanted


@given(indexes, addresses())
def test_proxies_survive_the_round_trip(interface: int, wanted: Network) -> None:
    entry = neighbour.proxy(interface, wanted)
    assert neighbour.decode(told(neighbour.replace(entry))) == entry


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    family = draw(st.sampled_from([4, 6]))
    mask = draw(st.integers(0, 2**32 - 1))
    return Rule(
        family=family,
        priority=draw(numbers),
        table=draw(numbers),
        action=draw(st.sampled_from([1, 6, 7, 8])),
        source=draw(st.one_of(st.none(), networks(family))),
        destination=draw(st.one_of(st.none(), networks(family))),
        mark=draw(numbers) if mask else 0,
        mask=mask,
        input_interface=draw(st.sampled_from(["", "cali1"])),
        output_interface=draw(st.sampled_from(["", "eth0.100"])),
        invert=draw(st.booleans()),
        protocol=draw(st.integers(0, 255)),
    )


@given(rules())
def test_rules_survive_the_round_trip(wanted: Rule) -> None:
    assert rule.decode(told(rule.add(wanted))) == wanted


@given(
    st.text("abcdefgh0123.-_", min_size=1, max_size=15).filter(lambda n: n not in (".", "..")),
    st.binary(min_size=6, max_size=6),
    st.integers(68, 65535),
    numbers,
)
def test_links_survive_the_round_trip(name: str, mac: bytes, mtu: int, group: int) -> None:
    request = link.create_bridge(name, mac=mac, mtu=mtu, group=group)
    assert link.decode(told(request)) == Link(
        index=0, name=name, kind="bridge", mac=mac, mtu=mtu, group=group
    )


# Canonical form.


def test_ipv6_default_metric_is_0() -> None:
    wanted = Route(destination=parse_network("fd00::/64"), interface=3)
    assert struct.pack("=HHI", 8, 6, 1024) in route.encode(wanted)
    assert route.decode(told(route.add(wanted))) == wanted
    four = Route(destination=parse_network("10.0.0.0/8"), interface=3, metric=1024)
    assert route.decode(told(route.add(four))) == four


def test_a_route_without_a_hop_has_no_interface() -> None:
    body = struct.pack("=BBBBBBBBI", 10, 64, 0, 0, 254, 80, 0, Kind.BLACKHOLE, 0)
    body += attribute(1, parse_network("fd00::/64").packed) + attribute_u32(4, 1)
    found = route.decode(message(kinds.NEW_ROUTE, body))
    assert found is not None
    assert found.interface == 0


@pytest.mark.parametrize(
    ("family", "kind", "flags"),
    [
        (10, Kind.UNICAST, 0x200),  # a cached exception
        (28, Kind.UNICAST, 0),  # MPLS
        (2, 99, 0),  # a kind of the future
    ],
)
def test_what_is_no_entry_of_a_table_is_no_route(family: int, kind: int, flags: int) -> None:
    body = struct.pack("=BBBBBBBBI", family, 0, 0, 0, 254, 80, 0, kind, flags)
    assert route.decode(message(kinds.NEW_ROUTE, body)) is None


def test_other_families_are_no_address_rule_or_neighbour() -> None:
    mpls = 28
    addressed = message(kinds.NEW_ADDRESS, struct.pack("=BBBBI", mpls, 0, 0, 0, 1))
    assert address.decode(addressed) is None
    ruled = message(kinds.NEW_RULE, struct.pack("=BBBBBBBBI", mpls, *[0] * 8))
    assert rule.decode(ruled) is None
    bridged = struct.pack("=BxxxiHBB", 7, 1, 0x80, 0, 0) + attribute(2, b"\2" * 6)
    assert neighbour.decode(message(kinds.NEW_NEIGHBOUR, bridged)) is None


def test_two_routes_that_replace_each_other_have_one_key() -> None:
    one = Route(destination=parse_network("10.0.0.1"), interface=3, scope=route.SCOPE_LINK)
    hole = Route(destination=parse_network("10.0.0.1"), kind=Kind.BLACKHOLE)
    elsewhere = Route(destination=parse_network("10.0.0.1"), interface=3, table=7)
    assert one.key == hole.key
    assert one.key != elsewhere.key


# Exact bytes, where a mistake would be silent.


def test_a_veth_peer_is_nested_in_its_own_header() -> None:
    request = link.create_veth("cali1", VethPeer(name="eth0", namespace=5))
    header = struct.pack("=BxHiII", 0, 0, 0, 0, 0)
    peer = header + attribute(3, b"eth0\0") + attribute_u32(28, 5)
    expected = header + attribute(3, b"cali1\0")
    expected += nested(18, attribute(1, b"veth\0"), nested(2, nested(1, peer)))
    assert request.payload == expected
    assert request.flags == 0x608  # CREATE, EXCL, ECHO


def test_a_change_names_only_what_changes() -> None:
    assert link.change(3, LinkChange()).payload == struct.pack("=BxHiII", 0, 0, 3, 0, 0)
    up = link.change(3, LinkChange(up=True)).payload
    assert up == struct.pack("=BxHiII", 0, 0, 3, 1, 1)
    down = link.change(3, LinkChange(up=False)).payload
    assert down == struct.pack("=BxHiII", 0, 0, 3, 0, 1)


def test_a_change_of_group_0_is_a_change() -> None:
    assert attribute_u32(27, 0) in link.change(3, LinkChange(group=0)).payload
    assert attribute_u32(10, 0) in link.change(3, LinkChange(master=0)).payload


def test_deleting_by_group_names_no_link() -> None:
    request = link.delete_group(7)
    assert request.payload == struct.pack("=BxHiII", 0, 0, 0, 0, 0) + attribute_u32(27, 7)


def test_ipv6_addresses_skip_duplicate_detection() -> None:
    six = Address(interface=1, address=parse_address("fd00::1"), length=128)
    four = Address(interface=1, address=parse_address("10.0.0.1"), length=32)
    assert address.add(six).payload.endswith(attribute_u32(8, 2))
    assert attribute_u32(8, 2) not in address.add(four).payload


@pytest.mark.parametrize("name", ["", "a/b", "..", "x" * 16, "a b", "a\0"])
def test_names_are_checked_before_the_kernel_sees_them(name: str) -> None:
    attempts: list[Callable[[], Request]] = [
        lambda: link.get(name),
        lambda: link.delete(name),
        lambda: link.create_bridge(name),
        lambda: link.create_veth("ok", VethPeer(name=name)),
        lambda: link.change(1, LinkChange(name=name)),
    ]
    for attempt in attempts:
        with pytest.raises(InvalidInput):
            attempt()


def test_routes_read_well_in_errors() -> None:
    wanted = Route(
        destination=parse_network("10.0.0.0/8"), interface=3, gateway=parse_address("10.9.9.9")
    )
    assert str(wanted) == "10.0.0.0/8 via 10.9.9.9 link 3 table 254"
    hole = Route(destination=parse_network("fd00::/64"), kind=Kind.BLACKHOLE)
    assert str(hole) == "blackhole fd00::/64 table 254"
