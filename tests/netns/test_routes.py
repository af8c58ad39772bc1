"""Routes against the real kernel: own blocks, borrowed addresses, and what is others'."""

import subprocess
from collections.abc import Iterator
from contextlib import closing

import pytest
from msgspec.structs import replace
from tests.netns.dataplane_host import ALLOW_ALL, BRIEF, Host, Workload, hears, workloads
from tests.netns.outside import End, Machine, machines, udp

from tortie.dataplane.settings import Settings
from tortie.desired.endpoint import Route, RouteType
from tortie.desired.kinds import Kind
from tortie.desired.policy import PolicyList
from tortie.lib.ip import Network, parse_address, parse_network

pytestmark = pytest.mark.usefixtures("netns")

FAMILIES = (4, 6)
BLOCK = {4: parse_network("10.65.0.0/26"), 6: parse_network("fd00:65::/122")}
FOREIGN_BLOCK = {4: parse_network("10.66.0.0/26"), 6: parse_network("fd00:66::/122")}
NOBODYS = {4: parse_address("10.65.0.50"), 6: parse_address("fd00:65::3a")}
BORROWED = {4: parse_address("10.66.0.7"), 6: parse_address("fd00:66::7")}


@pytest.fixture
def host(netns: None) -> Iterator[Host]:
    made = Host(Settings(host="h1", other_sources=True))
    made.allow_all_profile()
    yield made
    made.close()


@pytest.fixture
def outside(host: Host) -> Iterator[Machine]:
    with machines(host, "up0") as made:
        for family in FAMILIES:
            ip(family, "route add default via", made[0].address(family).address_text)
        yield made[0]


def ip(family: int, what: str, *more: str) -> str:
    command = ["ip", f"-{family}", *what.split(), *more]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def reaches(client: End, server: End, to: Network) -> bool:
    """By one datagram of several: links that are new to each other may lose the first."""
    return any(udp(client, server, to, 80, serving=to, patience=1) for _ in range(5))


@pytest.mark.parametrize("family", FAMILIES)
def test_an_unassigned_address_of_the_own_block_goes_nowhere(
    host: Host, workload: Workload, outside: Machine, family: int
) -> None:
    """Else it would leave by the default route, and come back, until its hops are used up."""
    text = NOBODYS[family].address_text
    outside.run(f"ip -{family} addr add {text} dev lo {'nodad' if family == 6 else ''}")
    host.apply()
    assert reaches(workload, outside, NOBODYS[family])
    host.update(Kind.ROUTE, BLOCK[family], Route(RouteType.LOCAL_BLOCK))
    host.apply()
    assert not udp(workload, outside, NOBODYS[family], 80, serving=NOBODYS[family], patience=BRIEF)
    assert f"blackhole {BLOCK[family]}" in ip(family, "route show type blackhole")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_borrowed_address_is_here_though_its_block_is_elsewhere(
    host: Host, workload: Workload, outside: Machine, family: int
) -> None:
    gateway = outside.address(family)
    elsewhere = Route(RouteType.REMOTE, host="h2", gateway=gateway)
    host.update(Kind.ROUTE, FOREIGN_BLOCK[family], elsewhere)
    known = workload.endpoint(*[PolicyList(profiles=(ALLOW_ALL,))] * 2)
    networks = (*known.networks, BORROWED[family])
    host.update(Kind.ENDPOINT, workload.id, replace(known, networks=networks))
    here = Route(RouteType.LOCAL_WORKLOAD, interface=workload.interface, borrowed=True)
    host.update(Kind.ROUTE, BORROWED[family], here)
    host.apply()
    text = BORROWED[family].address_text
    workload.run(f"ip -{family} addr add {text} dev eth0 {'nodad' if family == 6 else ''}")
    assert reaches(outside, workload, BORROWED[family])
    other = FOREIGN_BLOCK[family].address(9).address_text
    assert f"via {gateway.address_text}" in ip(family, "route get", other), "the rest is elsewhere"


def foreign(family: int) -> str:
    """All routes of all tables that are not ours."""
    lines = ip(family, "-d route show table all").splitlines()
    return "\n".join(line for line in lines if "proto 80" not in line)


@pytest.mark.parametrize("family", FAMILIES)
def test_others_routes_are_never_touched(
    host: Host, workload: Workload, outside: Machine, family: int
) -> None:
    """Not where they have what we want, nor on workloads' links, nor in tables beside."""
    own = workload.address(family)
    via = outside.address(family).address_text
    host.apply()
    ip(family, f"route add {FOREIGN_BLOCK[family]} via {via} proto static")
    ip(family, f"route add blackhole {BLOCK[family]} proto static")
    ip(family, f"route add {BORROWED[family]} dev {workload.interface} proto 99")
    ip(family, f"route add {own} dev {workload.interface} table 100 proto 80 metric 7")
    before = foreign(family)
    assert before.count("static") >= 2
    host.update(Kind.ROUTE, BLOCK[family], Route(RouteType.LOCAL_BLOCK))
    gateway = parse_address("192.0.2.99") if family == 4 else parse_address("fd00:2::99")
    elsewhere = Route(RouteType.REMOTE, host="h2", gateway=gateway)
    host.update(Kind.ROUTE, FOREIGN_BLOCK[family], elsewhere)
    host.apply()
    host.resync()
    assert foreign(family) == before
    assert host.dataplane.statistics().pending == 2, "what others have, we wait for"
    host.remove(workload)
    for block in (BLOCK[family], FOREIGN_BLOCK[family]):
        host.update(Kind.ROUTE, block, None)
    host.apply()
    host.resync()
    assert foreign(family) == before
    beside = ip(family, "route show table 100")
    assert own.address_text in beside, "our number in another table is not ours either"
    assert host.dataplane.in_sync


def test_what_we_wait_for_is_ours_when_it_is_free(
    host: Host, workload: Workload, outside: Machine
) -> None:
    text = str(BLOCK[4])
    ip(4, f"route add blackhole {text} proto static")
    host.update(Kind.ROUTE, BLOCK[4], Route(RouteType.LOCAL_BLOCK))
    host.apply()
    assert host.dataplane.statistics().pending == 1
    ip(4, f"route del blackhole {text}")
    host.resync()
    assert "proto 80" in ip(4, f"route show {text}")
    assert host.dataplane.in_sync


def test_a_link_that_is_made_anew_is_as_loose_as_the_old_one(
    host: Host, workload: Workload
) -> None:
    """Its settings are the endpoint's, and go with its name."""
    known = workload.endpoint(*[PolicyList(profiles=(ALLOW_ALL,))] * 2)
    sources = (parse_network("203.0.113.0/24"),)
    host.update(Kind.ENDPOINT, workload.id, replace(known, sources=sources))
    host.apply()
    key = f"net.ipv4.conf.{workload.interface}.rp_filter"
    assert host.sysctl(key) == "0"
    subprocess.run(["ip", "link", "del", workload.interface], check=True)
    again = Workload(1, host.rtnl)
    host.read_link_events()
    host.apply()
    assert host.sysctl(key) == "0"
    other = Workload(2, host.rtnl)
    host.endpoint(other)
    host.read_link_events()
    host.apply()
    again.run("ip addr add 203.0.113.9/32 dev lo")
    assert hears(again, other, 80, patience=5)
    assert hears(again, other, 80, source="203.0.113.9", patience=5)
    subprocess.run(["ip", "link", "set", again.interface, "down"], check=True)
    subprocess.run(["ip", "link", "set", again.interface, "name", "cali9"], check=True)
    subprocess.run(["ip", "link", "set", "cali9", "up"], check=True)
    host.read_link_events()
    host.apply()
    assert host.sysctl("net.ipv4.conf.cali9.rp_filter") == "1"


@pytest.mark.parametrize("family", FAMILIES)
def test_routes_have_the_metric_that_they_are_to_have(netns: None, family: int) -> None:
    """Packets go by them while others' have a higher one, and none of a former one stays."""
    made = Host(Settings(host="h1"))
    with closing(made), machines(made, "up0") as (outside,), workloads(made, 1) as (workload,):
        to = workload.address(family)
        for metric in (0, 1024, 2000, 512, 0):
            made.settings = replace(made.settings, route_metric4=metric, route_metric6=metric)
            made.restart()
            made.allow_all_profile()
            made.endpoint(workload)
            made.update(Kind.ROUTE, BLOCK[family], Route(RouteType.LOCAL_BLOCK))
            elsewhere = Route(RouteType.REMOTE, host="h2", gateway=outside.address(family))
            made.update(Kind.ROUTE, FOREIGN_BLOCK[family], elsewhere)
            made.apply()
            shown = ip(family, "route show table main proto 80").strip().splitlines()
            default = {4: "", 6: "metric 1024"}[family]
            wanted = f"metric {metric}" if metric else default
            assert len(shown) == 3
            assert all((wanted or "metric") in line for line in shown) == bool(wanted), shown
            assert made.dataplane.in_sync
            via = outside.address(family).address_text
            ip(family, f"route replace {to} via {via} metric 3000 proto bird")
            assert reaches(outside, workload, to)
