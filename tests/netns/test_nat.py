"""Address translation against the real kernel: who sees which source, and what leads where."""

import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing

import pytest
from tests.netns.dataplane_host import BRIEF, Host, Workload, tier, workloads
from tests.netns.outside import HOST, THIS_HOST, End, Machine, machines, tcp, udp

from tortie.dataplane.settings import Settings
from tortie.desired.endpoint import Endpoint, FloatingAddress, Pool, Route, RouteType
from tortie.desired.endpoint import Host as Node
from tortie.desired.host_endpoint import HostEndpoint
from tortie.desired.kinds import Kind
from tortie.desired.policy import UDP, PolicyList, PortRange, Rule, Side
from tortie.lib.ip import Network, parse_address, parse_network

pytestmark = pytest.mark.usefixtures("netns")

both_families = pytest.mark.parametrize("family", [4, 6])
POOL = {4: parse_network("10.65.0.0/16"), 6: parse_network("fd00:65::/64")}
FLOATING = {4: parse_address("198.51.100.5"), 6: parse_address("fd00:f::5")}
OTHER_FLOATING = {4: parse_address("198.51.100.4"), 6: parse_address("fd00:f::4")}
WEB = 8080


def opened(settings: Settings | None = None) -> Host:
    made = Host(settings)
    made.allow_all_profile()
    return made


@pytest.fixture
def host(netns: None) -> Iterator[Host]:
    made = opened()
    yield made
    made.close()


@pytest.fixture
def pair(host: Host) -> Iterator[tuple[Workload, Workload]]:
    with workloads(host, 2) as made:
        for one in made:
            host.endpoint(one)
        yield made[0], made[1]


def seen_as(client: End, server: Machine, family: int, *, kind: int = 2) -> tuple[str, int]:
    """Address and port from which a datagram (1: a connection) comes to the other machine."""
    to = (server.address(family).address_text, WEB)
    with (
        closing(server.socket(family, kind)) as there,
        closing(client.socket(family, kind)) as here,
    ):
        for one in (there, here):
            one.settimeout(1)
        there.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        there.bind(to)
        if kind == socket.SOCK_STREAM:
            there.listen()
            here.connect(to)
            connection, peer = there.accept()
            connection.close()
        else:
            here.sendto(b"who", to)
            _, peer = there.recvfrom(16)
        return peer[0], peer[1]


# Masquerading.


@both_families
def test_masquerading_by_pool(
    host: Host, outside: Machine, pair: tuple[Workload, Workload], family: int
) -> None:
    a, _ = pair
    host.update(Kind.POOL, POOL[family], Pool(masquerade=True))
    host.apply()
    assert seen_as(a, outside, family)[0] == HOST[family].address_text
    # What is in a pool, and so said to be the cluster's, is left alone.
    other = Network(family, outside.address(family).value, outside.address(family).length)
    host.update(Kind.POOL, other, Pool())
    host.apply()
    assert seen_as(a, outside, family)[0] == a.address(family).address_text


@both_families
@pytest.mark.parametrize("pattern", ["up0", "up+", "+"])
def test_masquerading_where_it_goes_out_alone(netns: None, family: int, pattern: str) -> None:
    """`iptablesNATOutgoingInterfaceFilter`, a name or, as iptables has it, how one begins."""
    host = opened(Settings(host="h1", nat_interface=pattern))
    with machines(host, "up0", "out1") as (near, other), workloads(host, 1) as (a,):
        host.endpoint(a)
        host.update(Kind.POOL, POOL[family], Pool(masquerade=True))
        host.apply()
        own = a.address(family).address_text
        assert seen_as(a, near, family)[0] == near.near[family].address_text
        expected = other.near[family].address_text if pattern == "+" else own
        assert seen_as(a, other, family)[0] == expected
    host.close()


@both_families
def test_the_ports_of_masquerading(netns: None, family: int) -> None:
    host = opened(Settings(host="h1", nat_ports=(40000, 40003)))
    with machines(host, "up0") as (outside,), workloads(host, 1) as (a,):
        host.endpoint(a)
        host.update(Kind.POOL, POOL[family], Pool(masquerade=True))
        host.apply()
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            for _ in range(3):
                address, port = seen_as(a, outside, family, kind=kind)
                assert address == HOST[family].address_text
                assert 40000 <= port <= 40003
        assert a.pings(outside.address(family)), "what has no ports goes, too"
    host.close()


@pytest.mark.parametrize("ports", [None, (50000, 50001)])
def test_the_address_of_masquerading(netns: None, ports: tuple[int, int] | None) -> None:
    given = parse_address("192.0.2.77")
    host = opened(Settings(host="h1", nat_address=given, nat_ports=ports))
    with machines(host, "up0") as (outside,), workloads(host, 1) as (a,):
        host.endpoint(a)
        for family in (4, 6):
            host.update(Kind.POOL, POOL[family], Pool(masquerade=True))
        host.apply()
        address, port = seen_as(a, outside, 4)
        assert address == "192.0.2.77"
        assert ports is None or port in ports
        assert seen_as(a, outside, 6)[0] == HOST[6].address_text, "the setting is IPv4's"
        subprocess.run(["ip", "addr", "add", "192.0.2.77/32", "dev", "up0"], check=True)
        assert a.pings(outside.address(4))
    host.close()


@pytest.mark.parametrize("address", [None, parse_address("192.0.2.77")])
@pytest.mark.parametrize("ports", [None, (1024, 65535)])
def test_a_restart_finds_all_as_it_was(
    netns: None, address: Network | None, ports: tuple[int, int] | None
) -> None:
    host = opened(Settings(host="h1", nat_address=address, nat_ports=ports))
    host.apply()
    generation = host.generation()
    host.restart()
    host.apply()
    assert host.generation() == generation
    host.close()


@both_families
def test_other_hosts_may_be_excluded(netns: None, family: int) -> None:
    host = opened(Settings(host="h1", nat_exclusions="IPPoolsAndHostIPs"))
    with machines(host, "up0") as (outside,), workloads(host, 1) as (a,):
        host.endpoint(a)
        host.update(Kind.POOL, POOL[family], Pool(masquerade=True))
        host.apply()
        assert seen_as(a, outside, family)[0] == HOST[family].address_text
        peer = Node(ipv4=outside.address(4), ipv6=outside.address(6))
        host.update(Kind.HOST, "h2", peer)
        host.apply()
        assert seen_as(a, outside, family)[0] == a.address(family).address_text
    host.close()


# Floating addresses.


def float_to(host: Host, workload: Workload, *addresses: dict[int, Network]) -> None:
    """Have these lead to the workload, with the routes that calc adds."""
    old = host.dataplane._endpoints.endpoints[workload.id]
    floating = tuple(
        FloatingAddress(one[family], workload.address(family))
        for one in addresses
        for family in (4, 6)
    )
    for gone in old.floating:
        host.update(Kind.ROUTE, gone.external, None)
    endpoint = Endpoint(old.interface, old.networks, old.mac, old.ingress, old.egress, floating)
    host.update(Kind.ENDPOINT, workload.id, endpoint)
    for one in floating:
        route = Route(RouteType.LOCAL_WORKLOAD, interface=workload.interface, borrowed=True)
        host.update(Kind.ROUTE, one.external, route)
    host.apply()


@both_families
def test_a_floating_address_leads_to_its_workload(
    host: Host, outside: Machine, pair: tuple[Workload, Workload], family: int
) -> None:
    a, b = pair
    to, own = FLOATING[family], b.address(family)
    for client in (outside, a, THIS_HOST):
        assert not udp(client, b, to, WEB, serving=own, patience=BRIEF)
    float_to(host, b, FLOATING)
    for client in (outside, a, THIS_HOST):
        assert udp(client, b, to, WEB, serving=own), client
        assert tcp(client, b, to, WEB, serving=own), client
    assert a.pings(to)
    # Its own address stays what it was, and so does what it sends.
    assert udp(outside, b, own, WEB)
    assert seen_as(b, outside, family)[0] == own.address_text
    float_to(host, b)
    for client in (outside, a, THIS_HOST):
        assert not udp(client, b, to, WEB, serving=own, patience=BRIEF)


@both_families
def test_a_workload_reaches_itself_by_its_floating_address(
    host: Host, pair: tuple[Workload, Workload], family: int
) -> None:
    a, _ = pair
    to, own = FLOATING[family], a.address(family)
    float_to(host, a, FLOATING)
    assert udp(a, a, to, WEB, serving=own)
    assert tcp(a, a, to, WEB, serving=own)
    # From outside of all pools that are masqueraded, and from inside.
    host.update(Kind.POOL, POOL[family], Pool(masquerade=True))
    host.apply()
    assert udp(a, a, to, WEB, serving=own)


@both_families
def test_a_floating_address_that_moves_takes_its_connections_off(
    host: Host, outside: Machine, pair: tuple[Workload, Workload], family: int
) -> None:
    a, b = pair
    float_to(host, a, FLOATING)
    to = (FLOATING[family].address_text, WEB)
    with (
        closing(a.socket(family, 2)) as first,
        closing(b.socket(family, 2)) as second,
        closing(outside.socket(family, 2)) as client,
    ):
        client.settimeout(1)
        for server, workload in ((first, a), (second, b)):
            server.settimeout(0.5)
            server.bind((workload.address(family).address_text, WEB))
        client.connect(to)
        client.send(b"one")
        assert first.recv(16) == b"one"
        float_to(host, a)
        float_to(host, b, FLOATING)
        client.send(b"two")
        assert second.recv(16) == b"two"


@both_families
def test_policy_is_asked_about_the_workloads_own_address(
    host: Host, outside: Machine, pair: tuple[Workload, Workload], family: int
) -> None:
    a, _ = pair
    own = Side(networks=(a.address(family),), ports=(PortRange(WEB, WEB),))
    only = host.policy("only", ingress=(Rule("Allow", protocol=UDP, destination=own),))
    host.endpoint(a, ingress=PolicyList((tier(only),)))
    float_to(host, a, FLOATING)
    assert udp(outside, a, FLOATING[family], WEB, serving=a.address(family))
    assert not udp(outside, a, FLOATING[family], WEB + 1, serving=a.address(family), patience=BRIEF)
    # Pre-DNAT policy still sees the floating one.
    floating = Side(networks=(FLOATING[family],))
    deny = host.policy("deny", ingress=(Rule("Deny", destination=floating),))
    early = PolicyList((tier(deny, default="Pass"),))
    host.update(Kind.HOST_ENDPOINT, "hep", HostEndpoint("up0", pre_dnat=early))
    host.apply()
    assert not udp(outside, a, FLOATING[family], WEB, serving=a.address(family), patience=BRIEF)
    assert udp(outside, a, a.address(family), WEB)


def test_of_two_that_claim_one_the_lowest_has_it(
    host: Host, outside: Machine, pair: tuple[Workload, Workload]
) -> None:
    a, b = pair
    float_to(host, b, FLOATING)
    float_to(host, a, FLOATING)
    assert udp(outside, a, FLOATING[4], WEB, serving=a.ipv4)
    float_to(host, a)
    assert udp(outside, b, FLOATING[4], WEB, serving=b.ipv4)


def test_several_floating_addresses_of_one(
    host: Host, outside: Machine, pair: tuple[Workload, Workload]
) -> None:
    a, _ = pair
    float_to(host, a, FLOATING, OTHER_FLOATING)
    for one in (FLOATING, OTHER_FLOATING):
        assert udp(outside, a, one[4], WEB, serving=a.ipv4)
        assert udp(a, a, one[4], WEB, serving=a.ipv4)
    float_to(host, a, FLOATING)
    assert not udp(outside, a, OTHER_FLOATING[4], WEB, serving=a.ipv4, patience=BRIEF)
    assert udp(a, a, FLOATING[4], WEB, serving=a.ipv4)


def test_another_one_is_a_change_of_elements_and_none_leaves_nothing(
    host: Host, pair: tuple[Workload, Workload]
) -> None:
    a, b = pair
    host.apply()
    before = host.ruleset()
    float_to(host, a, FLOATING)
    rules = host.rules()
    float_to(host, b, OTHER_FLOATING)
    assert host.rules() == rules
    generation = host.generation()
    fresh = Host(host.settings)
    fresh.allow_all_profile()
    for workload in (a, b):
        fresh.endpoint(workload)
        known = host.dataplane._endpoints.endpoints[workload.id]
        fresh.update(Kind.ENDPOINT, workload.id, known)
        for one in known.floating:
            route = Route(RouteType.LOCAL_WORKLOAD, interface=workload.interface, borrowed=True)
            fresh.update(Kind.ROUTE, one.external, route)
    fresh.apply()
    assert host.generation() == generation, "a restart writes nothing"
    fresh.close()
    float_to(host, a)
    float_to(host, b)
    assert host.ruleset() == before


@pytest.mark.parametrize("damage", ["flush ruleset", "flush map inet tortie floating4"])
def test_damage_by_others_is_repaired(
    host: Host, outside: Machine, pair: tuple[Workload, Workload], damage: str
) -> None:
    a, _ = pair
    float_to(host, a, FLOATING)
    before = host.ruleset()
    subprocess.run(["nft", damage], check=True)
    host.resync()
    assert host.ruleset() == before
    assert udp(outside, a, FLOATING[4], WEB, serving=a.ipv4)
