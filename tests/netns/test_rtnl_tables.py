"""Addresses, routes, rules and neighbours, compared with ip(8) and with pyroute2."""

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
from pyroute2 import IPRoute

from tortie.kernel.rtnl import address, neighbour, route
from tortie.kernel.rtnl.address import Address
from tortie.kernel.rtnl.connection import Rtnl
from tortie.kernel.rtnl.link import LinkChange, VethPeer
from tortie.kernel.rtnl.neighbour import Neighbour
from tortie.kernel.rtnl.route import Hop, Kind, Route
from tortie.kernel.rtnl.rule import ACTION_BLACKHOLE, Rule
from tortie.lib.errors import AlreadyExists, InvalidInput, KernelRefused, NotFound
from tortie.lib.ip import Network, parse_address, parse_network

OURS = 80
IFF_RUNNING = 0x40
MAC = bytes.fromhex("02000000aa01")


@pytest.fixture
def rtnl(netns: None) -> Iterator[Rtnl]:
    with Rtnl.open() as opened:
        yield opened


@pytest.fixture
def cali(rtnl: Rtnl) -> int:
    """The near end of a veth pair; both are up and have no generated address."""
    made = rtnl.create_veth("cali1", VethPeer(name="far1"))
    for index in (made.index, rtnl.link("far1").index):
        rtnl.stop_address_generation(index)
        rtnl.change_link(index, LinkChange(up=True))
    give_up = time.monotonic() + 5
    while not rtnl.link(made.index).flags & IFF_RUNNING:  # the carrier comes a moment later
        assert time.monotonic() < give_up
        time.sleep(0.005)
    return made.index


def ip_json(*words: str) -> list[dict[str, Any]]:
    shown = subprocess.run(["ip", "-j", *words], check=True, capture_output=True)
    found: list[dict[str, Any]] = json.loads(shown.stdout or b"[]")
    return found


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


# Addresses.


def test_addresses_agree_with_ip(rtnl: Rtnl, cali: int) -> None:
    wanted = [
        Address(interface=cali, address=parse_address("10.65.0.1"), length=32),
        Address(interface=cali, address=parse_address("10.66.0.7"), length=24),
        Address(interface=cali, address=parse_address("fd00:65::1"), length=128),
        Address(interface=cali, address=parse_address("fd00:66::7"), length=64),
        Address(
            interface=cali,
            address=parse_address("169.254.1.1"),
            length=32,
            scope=address.SCOPE_LINK,
        ),
    ]
    for entry in wanted:
        rtnl.add_address(entry)

    found = rtnl.addresses(interface=cali)
    assert {identity(entry) for entry in found} == {identity(entry) for entry in wanted}
    assert not any(entry.tentative or entry.duplicate for entry in found), "no DAD"
    shown = ip_json("address", "show", "dev", "cali1")[0]["addr_info"]
    assert {(a["local"], a["prefixlen"], a["scope"]) for a in shown} == {
        (e.address.address_text, e.length, "link" if e.scope else "global") for e in wanted
    }
    assert set(rtnl.addresses(4, interface=cali)) == {e for e in found if e.address.family == 4}

    for entry in wanted:
        rtnl.delete_address(entry)
    assert rtnl.addresses(interface=cali) == []
    with pytest.raises(NotFound):
        rtnl.delete_address(wanted[0])


def identity(entry: Address) -> tuple[int, Network, int, int]:
    return entry.interface, entry.address, entry.length, entry.scope


def test_an_address_that_is_there(rtnl: Rtnl, cali: int) -> None:
    for text in ("10.65.0.1", "fd00:65::1"):
        one = parse_address(text)
        entry = Address(interface=cali, address=one, length=one.length)
        rtnl.add_address(entry)
        rtnl.add_address(entry)
        with pytest.raises(AlreadyExists):
            rtnl.add_address(entry, replace=False)


def test_a_peer_address_is_told_from_the_own_one(rtnl: Rtnl, cali: int) -> None:
    ip("address", "add", "10.1.1.1", "peer", "10.1.1.2/32", "dev", "cali1")
    (entry,) = rtnl.addresses(interface=cali)
    assert entry.address == parse_address("10.1.1.1")
    assert entry.peer == parse_address("10.1.1.2")


def test_addresses_that_are_none(rtnl: Rtnl, cali: int) -> None:
    with pytest.raises(InvalidInput):
        rtnl.add_address(Address(interface=cali, address=parse_network("10.0.0.0/24"), length=24))
    with pytest.raises(InvalidInput):
        rtnl.add_address(Address(interface=cali, address=parse_address("10.0.0.1"), length=33))
    with pytest.raises(NotFound):
        rtnl.add_address(Address(interface=99, address=parse_address("10.0.0.1"), length=32))


def test_duplicate_detection_shows(rtnl: Rtnl, cali: int) -> None:
    """What the kernel or others add without `nodad` is tentative for a while."""
    ip("address", "add", "fd00:65::5/64", "dev", "cali1")
    (entry,) = rtnl.addresses(6, interface=cali)
    assert entry.tentative


# Routes.


def test_routes_agree_with_ip(rtnl: Rtnl, cali: int) -> None:
    rtnl.add_address(Address(interface=cali, address=parse_address("10.65.0.1"), length=32))
    wanted = [
        Route(destination=parse_network("10.1.0.1"), interface=cali, protocol=OURS,
              scope=route.SCOPE_LINK, source=parse_address("10.65.0.1")),
        Route(destination=parse_network("10.2.0.0/16"), protocol=OURS, interface=cali,
              gateway=parse_address("169.254.1.1"), onlink=True, metric=9),
        Route(destination=parse_network("10.3.0.0/26"), kind=Kind.BLACKHOLE, protocol=OURS),
        Route(destination=parse_network("10.4.0.0/26"), kind=Kind.UNREACHABLE, protocol=OURS),
        Route(destination=parse_network("10.5.0.0/26"), kind=Kind.PROHIBIT, protocol=OURS),
        Route(destination=parse_network("10.6.0.1"), kind=Kind.LOCAL, interface=cali,
              protocol=OURS, scope=route.SCOPE_HOST),
        Route(destination=parse_network("10.7.0.0/24"), interface=cali, protocol=OURS,
              gateway=parse_address("fe80::9"), onlink=True),
    ]  # fmt: skip
    for entry in wanted:
        rtnl.add_route(entry)
    assert set(rtnl.routes(protocol=OURS)) == set(wanted)

    shown = {r["dst"]: r for r in ip_json("-4", "route", "show", "proto", "80")}
    assert shown["10.1.0.1"]["dev"] == "cali1"
    assert shown["10.1.0.1"]["scope"] == "link"
    assert shown["10.1.0.1"]["prefsrc"] == "10.65.0.1"
    assert shown["10.2.0.0/16"]["gateway"] == "169.254.1.1"
    assert shown["10.2.0.0/16"]["metric"] == 9
    assert "onlink" in shown["10.2.0.0/16"]["flags"]
    assert shown["10.3.0.0/26"]["type"] == "blackhole"
    assert shown["10.4.0.0/26"]["type"] == "unreachable"
    assert shown["10.5.0.0/26"]["type"] == "prohibit"
    assert shown["10.6.0.1"]["type"] == "local"
    assert shown["10.7.0.0/24"]["via"] == {"family": "inet6", "host": "fe80::9"}
    assert len(shown) == len(wanted)


def test_ipv6_routes_agree_with_ip(rtnl: Rtnl, cali: int) -> None:
    wanted = [
        Route(destination=parse_network("fd01::1"), interface=cali, protocol=OURS),
        Route(destination=parse_network("fd02::/64"), interface=cali, protocol=OURS,
              gateway=parse_address("fe80::1"), metric=7),
        Route(destination=parse_network("fd03::/122"), kind=Kind.BLACKHOLE, protocol=OURS),
        Route(destination=parse_network("fd04::/122"), kind=Kind.UNREACHABLE, protocol=OURS),
        Route(destination=parse_network("fd05::/64"), interface=cali, protocol=OURS, table=1234),
        Route(destination=parse_network("::/0"), interface=cali, protocol=OURS,
              gateway=parse_address("fd99::1"), onlink=True),
    ]  # fmt: skip
    for entry in wanted:
        rtnl.add_route(entry)
    assert set(rtnl.routes(protocol=OURS)) == set(wanted)

    shown = {r["dst"]: r for r in ip_json("-6", "route", "show", "table", "all", "proto", "80")}
    assert shown["fd01::1"]["dev"] == "cali1"
    assert shown["fd01::1"]["metric"] == 1024, "the family's default, 0 here"
    assert shown["fd02::/64"]["gateway"] == "fe80::1"
    assert shown["fd02::/64"]["metric"] == 7
    assert shown["fd03::/122"]["type"] == "blackhole"
    assert shown["fd04::/122"]["type"] == "unreachable"
    assert shown["fd05::/64"]["table"] == "1234"
    assert "onlink" in shown["default"]["flags"]
    assert len(shown) == len(wanted)
    assert rtnl.delete_routes(wanted) == [None] * len(wanted)
    assert rtnl.routes(protocol=OURS) == []


def test_what_ip_adds_is_read(rtnl: Rtnl, cali: int) -> None:
    ip("route", "add", "10.1.0.0/24", "dev", "cali1", "proto", "80")
    ip("route", "add", "blackhole", "10.2.0.0/24", "metric", "5", "proto", "80", "table", "777")
    ip("route", "add", "fd01::/64", "via", "fe80::1", "dev", "cali1", "proto", "80")
    ip("route", "add", "blackhole", "fd02::/64", "proto", "80")
    assert set(rtnl.routes(protocol=OURS)) == {
        Route(destination=parse_network("10.1.0.0/24"), interface=cali, protocol=OURS,
              scope=route.SCOPE_LINK),
        Route(destination=parse_network("10.2.0.0/24"), kind=Kind.BLACKHOLE, metric=5,
              protocol=OURS, table=777),
        Route(destination=parse_network("fd01::/64"), interface=cali, protocol=OURS,
              gateway=parse_address("fe80::1")),
        Route(destination=parse_network("fd02::/64"), kind=Kind.BLACKHOLE, protocol=OURS),
    }  # fmt: skip


@pytest.mark.parametrize(("destination", "one", "two"), [
    ("10.9.0.0/16", "169.254.1.1", "169.254.1.2"),
    ("fd09::/64", "fe80::1", "fe80::2"),
])  # fmt: skip
def test_routes_over_several_hops(
    rtnl: Rtnl, cali: int, destination: str, one: str, two: str
) -> None:
    far = rtnl.link("far1").index
    wanted = Route(
        destination=parse_network(destination),
        protocol=OURS,
        hops=(
            Hop(cali, parse_address(one), 1, onlink=True),
            Hop(far, parse_address(two), 3, onlink=True),
        ),
    )
    rtnl.add_route(wanted)
    (found,) = rtnl.routes(protocol=OURS)
    assert set(found.hops) == set(wanted.hops)
    assert (found.destination, found.interface, found.gateway) == (wanted.destination, 0, None)
    (shown,) = ip_json("-6" if ":" in one else "-4", "route", "show", "proto", "80")
    assert {(h["gateway"], h["dev"], h["weight"]) for h in shown["nexthops"]} == {
        (one, "cali1", 1), (two, "far1", 3),
    }  # fmt: skip
    rtnl.delete_route(wanted)
    assert rtnl.routes(protocol=OURS) == []


def test_single_calls_raise(rtnl: Rtnl, cali: int) -> None:
    wanted = Route(destination=parse_network("10.1.0.0/24"), kind=Kind.BLACKHOLE, protocol=OURS)
    rtnl.add_route(wanted)
    with pytest.raises(AlreadyExists, match=r"blackhole 10\.1\.0\.0/24"):
        rtnl.add_route(wanted)
    rtnl.replace_route(wanted)
    rtnl.delete_route(wanted)
    with pytest.raises(NotFound):
        rtnl.delete_route(wanted)
    nowhere = Route(destination=parse_network("10.1.0.0/24"), gateway=parse_address("203.0.113.1"))
    with pytest.raises(KernelRefused):
        rtnl.add_route(nowhere)


def test_ten_thousand_routes(rtnl: Rtnl, cali: int) -> None:
    for first, scope in (("10.0.0.0", route.SCOPE_LINK), ("fd00::", route.SCOPE_UNIVERSE)):
        start = parse_address(first)
        wanted = [
            Route(destination=start.address(i), interface=cali, protocol=OURS, scope=scope)
            for i in range(10_000)
        ]
        started = time.process_time()
        assert not any(rtnl.replace_routes(wanted))
        assert time.process_time() - started < 1, "some 0.05 s on an idle machine"
        assert set(rtnl.routes(start.family, protocol=OURS)) == set(wanted)
        assert not any(rtnl.delete_routes(wanted))
        assert rtnl.routes(start.family, protocol=OURS) == []


def test_many_refusals_at_once_are_each_reported(rtnl: Rtnl, cali: int) -> None:
    start = parse_address("10.0.0.0")
    wanted = [
        Route(destination=start.address(i), interface=cali if i % 3 else 9999, protocol=OURS,
              scope=route.SCOPE_LINK)
        for i in range(1000)
    ]  # fmt: skip
    outcomes = rtnl.replace_routes(wanted)
    assert [isinstance(o, NotFound) for o in outcomes] == [i % 3 == 0 for i in range(1000)]
    assert str(start.address(999)) in str(outcomes[999])


# Rules.


def test_rules_agree_with_ip(rtnl: Rtnl) -> None:
    wanted = [
        Rule(family=4, priority=100, table=77, source=parse_network("10.65.0.0/16"),
             protocol=OURS),
        Rule(family=4, priority=101, table=1000, mark=0x10, mask=0xF0, invert=True,
             protocol=OURS),
        Rule(family=6, priority=102, table=77, destination=parse_network("fd00::/64"),
             input_interface="cali1", protocol=OURS),
        Rule(family=6, priority=103, action=ACTION_BLACKHOLE, output_interface="cali2",
             protocol=OURS),
    ]  # fmt: skip
    for entry in wanted:
        rtnl.add_rule(entry)

    assert [r for r in rtnl.rules() if r.protocol == OURS] == wanted
    assert [r for r in rtnl.rules(6) if r.protocol == OURS] == wanted[2:]
    shown = {r["priority"]: r for r in ip_json("-4", "rule")}
    assert (shown[100]["src"], shown[100]["srclen"], shown[100]["table"]) == (
        "10.65.0.0", 16, "77",
    )  # fmt: skip
    assert (shown[101]["fwmark"], shown[101]["fwmask"], shown[101]["table"]) == (
        "0x10", "0xf0", "1000",
    )  # fmt: skip
    assert "not" in shown[101]
    shown = {r["priority"]: r for r in ip_json("-6", "rule")}
    assert (shown[102]["dst"], shown[102]["iif"]) == ("fd00::", "cali1")
    assert (shown[103]["oif"], shown[103]["action"]) == ("cali2", "blackhole")

    with pytest.raises(AlreadyExists):
        rtnl.add_rule(wanted[0])
    for entry in wanted:
        rtnl.delete_rule(entry)
    assert [r for r in rtnl.rules() if r.protocol == OURS] == []
    with pytest.raises(NotFound):
        rtnl.delete_rule(wanted[0])


# Neighbours.


def test_neighbours_agree_with_ip(rtnl: Rtnl, cali: int) -> None:
    wanted = [
        Neighbour(interface=cali, address=parse_address("169.254.1.1"), mac=b"\xee" * 6),
        Neighbour(interface=cali, address=parse_address("fe80::1"), mac=MAC, router=True),
        Neighbour(interface=cali, address=parse_address("10.0.0.1"), mac=MAC,
                  state=neighbour.State.STALE),
    ]  # fmt: skip
    assert rtnl.replace_neighbours(wanted) == [None] * 3
    shown = {n["dst"]: n for n in ip_json("neigh", "show", "dev", "cali1", "nud", "all")}
    assert shown["169.254.1.1"]["lladdr"] == "ee:ee:ee:ee:ee:ee"
    assert shown["169.254.1.1"]["state"] == ["PERMANENT"]
    assert "router" in shown["fe80::1"]
    assert shown["10.0.0.1"]["state"] == ["STALE"]
    found = {n.address: n for n in rtnl.neighbours(interface=cali)}
    assert [found[entry.address] for entry in wanted] == wanted

    proxy = neighbour.proxy(cali, parse_address("fe80::99"))
    assert rtnl.replace_neighbours([proxy]) == [None]
    (shown_proxy,) = ip_json("-6", "neigh", "show", "proxy")
    assert (shown_proxy["dst"], shown_proxy["dev"]) == ("fe80::99", "cali1")
    assert rtnl.neighbours(proxy=True, interface=cali) == [proxy]
    assert rtnl.neighbours(proxy=True, interface=1) == []


def test_neighbours_that_are_none(rtnl: Rtnl, cali: int) -> None:
    with pytest.raises(InvalidInput):
        rtnl.replace_neighbours([Neighbour(interface=cali, address=parse_network("10.0.0.0/24"))])


# An independent decoder.


def test_pyroute2_reads_the_same(rtnl: Rtnl, cali: int) -> None:
    rtnl.add_address(Address(interface=cali, address=parse_address("10.65.0.1"), length=24))
    wanted = [
        Route(destination=parse_network("10.2.0.0/16"), protocol=OURS, interface=cali,
              gateway=parse_address("10.65.0.2"), metric=9, table=5000,
              source=parse_address("10.65.0.1")),
        Route(destination=parse_network("fd00::/64"), protocol=OURS, interface=cali),
        Route(destination=parse_network("10.3.0.0/26"), kind=Kind.BLACKHOLE, protocol=OURS),
    ]  # fmt: skip
    assert rtnl.replace_routes(wanted) == [None] * 3
    assert not any(
        rtnl.replace_neighbours(
            [Neighbour(interface=cali, address=parse_address("10.65.0.9"), mac=MAC)]
        )
    )
    with IPRoute() as theirs:
        links = {entry["index"]: entry for entry in theirs.get_links()}
        routes = {
            entry.get_attr("RTA_DST"): entry
            for family in (socket.AF_INET, socket.AF_INET6)
            for entry in theirs.get_routes(family=family, proto=OURS)
        }
        (known,) = [
            entry
            for entry in theirs.get_neighbours(socket.AF_INET, ifindex=cali)
            if entry.get_attr("NDA_DST") == "10.65.0.9"
        ]
    for entry in rtnl.links():
        other = links[entry.index]
        assert entry.name == other.get_attr("IFLA_IFNAME")
        assert entry.mtu == other.get_attr("IFLA_MTU")
        assert entry.flags == other["flags"]
        assert entry.mac.hex(":") == other.get_attr("IFLA_ADDRESS")
    first = routes["10.2.0.0"]
    assert first["dst_len"] == 16
    assert first.get_attr("RTA_TABLE") == 5000
    assert first.get_attr("RTA_PRIORITY") == 9
    assert first.get_attr("RTA_GATEWAY") == "10.65.0.2"
    assert first.get_attr("RTA_PREFSRC") == "10.65.0.1"
    assert first.get_attr("RTA_OIF") == cali
    assert routes["fd00::"].get_attr("RTA_OIF") == cali
    assert routes["10.3.0.0"]["type"] == Kind.BLACKHOLE
    assert known.get_attr("NDA_LLADDR") == MAC.hex(":")
    assert known["state"] == neighbour.State.PERMANENT
