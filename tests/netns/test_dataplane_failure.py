"""What becomes of the dataplane when others, the kernel or its own process fail."""

import asyncio
import subprocess
from collections.abc import Sequence

import pytest
from tests.netns.dataplane_host import BRIEF, Host, hears, workloads

from tortie.dataplane.dataplane import Dataplane
from tortie.dataplane.settings import Settings
from tortie.desired.endpoint import Pool, Route, RouteType
from tortie.desired.host_endpoint import HostEndpoint
from tortie.desired.kinds import Kind
from tortie.desired.policy import PolicyList
from tortie.kernel.conntrack import Conntrack, Flow
from tortie.kernel.nft.connection import Nft, supports_owner_tables
from tortie.kernel.nft.fake import FakeNft
from tortie.kernel.rtnl.connection import Rtnl
from tortie.lib.errors import KernelBusy, KernelRefused
from tortie.lib.ip import Network, parse_network

pytestmark = pytest.mark.usefixtures("netns")


def test_an_owner_table_outlives_a_flush_and_our_own_end() -> None:
    if not supports_owner_tables():
        pytest.skip("this kernel has no owner tables (before 6.9)")
    host = Host(owned=True)
    host.allow_all_profile()
    with workloads(host, 3) as (a, b, c):
        host.endpoint(a)
        host.endpoint(b)
        host.endpoint(c, ingress=PolicyList())
        host.apply()
        before = host.generation()
        subprocess.run(["nft", "flush", "ruleset"], check=True)
        assert hears(a, b, 80)
        assert not hears(a, c, 80, patience=BRIEF)
        host.resync()
        assert host.dataplane.statistics().nftables.repairs == 0, "nothing was lost"
        host.nft.close()
        assert not hears(a, c, 80, patience=BRIEF), "in force without anyone who holds the socket"
        host.nft = Nft.open()
        host.restart()
        host.allow_all_profile()
        host.endpoint(a)
        host.endpoint(b)
        host.endpoint(c, ingress=PolicyList())
        # The kernel takes no new base chain in the transaction that adopts a table.
        host.update(Kind.POOL, parse_network("10.65.0.0/16"), Pool(masquerade=True))
        host.update(Kind.HOST_ENDPOINT, "all", HostEndpoint("*"))
        host.apply()
        assert not hears(a, c, 80, patience=BRIEF)
        subprocess.run(["nft", "flush", "ruleset"], check=True)
        assert not hears(a, c, 80, patience=BRIEF), "adopted, and owned again"
        assert host.generation() > before
    host.close()


def test_the_table_of_another_owner_is_refused() -> None:
    if not supports_owner_tables():
        pytest.skip("this kernel has no owner tables (before 6.9)")
    first, second = Host(owned=True), Host(owned=True)
    first.apply()
    with pytest.raises(KernelRefused):
        second.apply()
    first.close()
    second.apply()
    second.close()


@pytest.mark.parametrize("error", [KernelRefused("commit", 1), KernelBusy("commit")])
def test_without_rules_there_are_no_routes(error: Exception) -> None:
    """A workload is not reachable before its policy is in force, whatever goes wrong."""
    host = Host()
    nft = FakeNft()
    with workloads(host, 1) as (a,), Rtnl.open() as rtnl, Conntrack.open() as conntrack:
        dataplane = Dataplane(Settings(host="h1"), nft, rtnl, conntrack)
        dataplane.on_update(Kind.ENDPOINT, a.id, a.endpoint(PolicyList(), PolicyList()))
        route = Route(RouteType.LOCAL_WORKLOAD, interface=a.interface)
        dataplane.on_update(Kind.ROUTE, a.ipv4, route)
        nft.fail_next(error)
        with pytest.raises(type(error)):
            asyncio.run(dataplane.apply())
        assert not rtnl.routes(protocol=80)
        assert host.sysctl("net.ipv4.ip_forward") == "0"
        assert not dataplane.in_sync
        asyncio.run(dataplane.apply())
        assert [route.destination for route in rtnl.routes(protocol=80)] == [a.ipv4]
        assert host.sysctl("net.ipv4.ip_forward") == "1"
        assert dataplane.in_sync
    host.close()


class Conntracks:
    """Notes what the routes were when connections were cut; fails as told."""

    def __init__(self, rtnl: Rtnl) -> None:
        self.rtnl = rtnl
        self.fail = False
        self.cut: list[tuple[frozenset[Network], set[Network]]] = []

    def delete_involving(self, addresses: frozenset[Network]) -> int:
        if self.fail:
            raise KernelBusy("list flows")
        self.cut.append((addresses, {route.destination for route in self.rtnl.routes(protocol=80)}))
        return 0

    def flows(self) -> list[Flow]:
        return []

    def flows_involving(self, addresses: frozenset[Network]) -> list[Flow]:
        return []

    def delete(self, flows: Sequence[Flow]) -> int:
        raise AssertionError("there are none")


def test_an_address_moves_away_only_when_its_connections_are_cut() -> None:
    host = Host()
    with workloads(host, 1) as (a,), Rtnl.open() as rtnl:
        conntrack = Conntracks(rtnl)
        host.dataplane = Dataplane(host.settings, host.nft, rtnl, conntrack)
        host.endpoint(a)
        host.apply()
        host.remove(a)
        conntrack.fail = True
        with pytest.raises(KernelBusy):
            host.apply()
        assert {route.destination for route in rtnl.routes(protocol=80)} == {a.ipv4, a.ipv6}
        conntrack.fail = False
        host.apply()
        assert conntrack.cut == [(frozenset({a.ipv4, a.ipv6}), {a.ipv4, a.ipv6})]
        assert not rtnl.routes(protocol=80)
    host.close()


def test_routes_to_other_hosts_come_back_with_the_uplink() -> None:
    host = Host()
    setup = """
        ip link add up0 type veth peer name up1; ip link set up1 up; ip link set up0 up
        ip addr add 192.0.2.1/24 dev up0; ip -6 addr add fd00:2::1/64 dev up0 nodad"""
    subprocess.run(["sh", "-ec", setup], check=True)
    remote = {parse_network("10.66.0.0/26"): parse_network("192.0.2.2"),
              parse_network("fd00:66::/122"): parse_network("fd00:2::2")}  # fmt: skip
    for destination, gateway in remote.items():
        host.update(Kind.ROUTE, destination, Route(RouteType.REMOTE, host="h2", gateway=gateway))
    block = parse_network("10.65.0.0/26")
    host.update(Kind.ROUTE, block, Route(RouteType.LOCAL_BLOCK))
    host.read_link_events()
    host.apply()
    assert set(remote) | {block} == {route.destination for route in host.rtnl.routes(protocol=80)}
    generation = host.generation()
    host.restart()
    for destination, gateway in remote.items():
        host.update(Kind.ROUTE, destination, Route(RouteType.REMOTE, host="h2", gateway=gateway))
    host.update(Kind.ROUTE, block, Route(RouteType.LOCAL_BLOCK))
    host.apply()
    assert host.dataplane.in_sync, "what the kernel reads back is what was wanted"
    assert host.generation() == generation
    subprocess.run(["ip", "link", "set", "up0", "down"], check=True)
    host.read_link_events()
    host.apply()
    assert not host.dataplane.in_sync
    assert host.dataplane.statistics().pending == 2
    subprocess.run(["sh", "-ec", "ip link set up0 up; ip -6 addr add fd00:2::1/64 dev up0 nodad"],
                   check=True)  # fmt: skip
    host.read_link_events()
    host.apply()
    assert host.dataplane.in_sync
    assert set(remote) | {block} == {route.destination for route in host.rtnl.routes(protocol=80)}
    host.close()
