"""Routes, neighbours and link settings on a namespace in memory."""

import errno
from collections.abc import Sequence

import pytest

from tortie.dataplane.driver.link import Links
from tortie.dataplane.driver.neighbour import NeighbourDriver
from tortie.dataplane.driver.route import RouteDriver
from tortie.dataplane.driver.sysctl import SysctlDriver
from tortie.dataplane.driver.unseen_rule import UnseenRuleDriver
from tortie.dataplane.manager.route import RouteManager
from tortie.dataplane.settings import Settings
from tortie.desired.endpoint import Route, RouteType
from tortie.desired.kinds import Kind
from tortie.kernel.rtnl import route as kernel
from tortie.kernel.rtnl.backend import Outcomes
from tortie.kernel.rtnl.fake import FakeRtnl
from tortie.kernel.rtnl.link import LinkChange, VethPeer
from tortie.kernel.rtnl.route import RouteKey
from tortie.kernel.rtnl.rule import Rule as RoutingRule
from tortie.lib.errors import KernelRefused
from tortie.lib.ip import Network, parse_address, parse_network

MAC = b"\x02\0\0\0\0\x01"
POD, BLOCK, REMOTE = (
    parse_address("10.0.0.1"),
    parse_network("10.0.0.0/26"),
    parse_network("10.0.1.0/26"),
)
GATEWAY = parse_address("192.0.2.2")


class Bench:
    def __init__(self, rtnl: FakeRtnl | None = None, **settings: object) -> None:
        self.rtnl = rtnl or FakeRtnl()
        self.settings = Settings(host="h1", **settings)  # type: ignore[arg-type]
        self.sysctls = SysctlDriver()
        self.links = Links(self.sysctls, self.settings)
        self.neighbours = NeighbourDriver(self.rtnl, self.links)
        self.routes = RouteDriver(
            self.rtnl,
            protocol=80,
            metric4=self.settings.route_metric4,
            metric6=self.settings.route_metric6,
        )
        self.manager = RouteManager(self.routes, self.links, self.settings)

    def link(self, name: str, *, up: bool = True) -> int:
        """Make it and tell of it."""
        index = self.rtnl.create_veth(name, VethPeer(name=f"p{name}")).index
        self.rtnl.change_link(index, LinkChange(up=up))
        self.look()
        return index

    def look(self) -> None:
        for name in self.links.observe_all(self.rtnl.links()):
            self.manager.on_link(name)
            self.neighbours.on_link(name)

    def want(self, destination: Network, route: Route | None) -> None:
        self.manager.on_update(Kind.ROUTE, destination, route)

    def installed(self) -> dict[Network, kernel.Route]:
        return {route.destination: route for route in self.rtnl.routes(protocol=80)}


def local(interface: str = "cali1") -> Route:
    return Route(RouteType.LOCAL_WORKLOAD, interface=interface)


def test_a_workload_route_waits_for_its_link_to_be_up() -> None:
    made = Bench()
    made.want(POD, local())
    assert not made.routes.apply()
    assert not made.installed()
    index = made.link("cali1", up=False)
    assert not made.routes.apply()
    assert not made.installed()
    made.rtnl.change_link(index, LinkChange(up=True))
    made.look()
    assert not made.routes.apply()
    assert made.installed()[POD].interface == index
    assert made.installed()[POD].scope == kernel.SCOPE_LINK


def test_routes_come_again_with_a_link_that_was_down() -> None:
    made = Bench()
    index = made.link("cali1")
    made.want(POD, local())
    made.routes.apply()
    for up in (False, True):
        made.rtnl.change_link(index, LinkChange(up=up))
        made.look()
        assert not made.routes.apply()
    assert POD in made.installed()


def test_routes_follow_a_link_that_was_made_anew() -> None:
    made = Bench()
    old = made.link("cali1")
    made.want(POD, local())
    made.routes.apply()
    made.rtnl.delete_links([old])
    new = made.link("cali1")
    assert not made.routes.apply()
    assert made.installed()[POD].interface == new != old


def test_blocks_and_other_hosts() -> None:
    made = Bench()
    made.want(BLOCK, Route(RouteType.LOCAL_BLOCK))
    made.want(REMOTE, Route(RouteType.REMOTE, host="h2", gateway=GATEWAY))
    made.want(parse_network("10.0.2.0/26"), Route(RouteType.REMOTE, host="h3"))
    assert not made.routes.apply()
    assert made.installed()[BLOCK].kind is kernel.Kind.BLACKHOLE
    assert made.installed()[REMOTE].gateway == GATEWAY
    assert len(made.installed()) == 2, "a host without an address has no route"
    made.want(REMOTE, None)
    made.routes.apply()
    assert set(made.installed()) == {BLOCK}


def test_with_bgp_routes_to_others_are_not_ours() -> None:
    made = Bench(install_remote_routes=False)
    made.want(REMOTE, Route(RouteType.REMOTE, host="h2", gateway=GATEWAY))
    made.want(BLOCK, Route(RouteType.LOCAL_BLOCK))
    made.routes.apply()
    assert set(made.installed()) == {BLOCK}


def test_a_route_of_somebody_else_is_left_alone() -> None:
    made = Bench()
    theirs = kernel.Route(destination=BLOCK, kind=kernel.Kind.BLACKHOLE, protocol=4)
    made.rtnl.replace_routes([theirs])
    made.want(BLOCK, Route(RouteType.LOCAL_BLOCK))
    made.want(REMOTE, Route(RouteType.REMOTE, host="h2", gateway=GATEWAY))
    assert len(made.routes.apply()) == 1
    assert made.rtnl.routes(protocol=4) == [theirs]
    assert set(made.installed()) == {REMOTE}, "the others do not wait"
    assert made.routes.pending_count == 1
    made.rtnl.delete_routes([theirs])
    assert not made.routes.apply()
    assert set(made.installed()) == {BLOCK, REMOTE}


def test_a_refused_route_keeps_no_other_waiting() -> None:
    made = Bench()
    made.rtnl.failures[RouteKey(254, BLOCK, 0)] = KernelRefused("add", errno.EINVAL)
    made.want(BLOCK, Route(RouteType.LOCAL_BLOCK))
    made.want(REMOTE, Route(RouteType.REMOTE, host="h2", gateway=GATEWAY))
    assert len(made.routes.apply()) == 1
    assert set(made.installed()) == {REMOTE}


def test_a_resync_finds_what_was_lost_and_what_is_left_over() -> None:
    made = Bench()
    made.want(BLOCK, Route(RouteType.LOCAL_BLOCK))
    made.want(REMOTE, Route(RouteType.REMOTE, host="h2", gateway=GATEWAY))
    made.routes.apply()
    made.rtnl.delete_routes([made.installed()[BLOCK]])
    stray = kernel.Route(
        destination=parse_network("10.9.0.0/26"), kind=kernel.Kind.BLACKHOLE, protocol=80
    )
    made.rtnl.replace_routes([stray])
    made.routes.resync()
    made.routes.apply()
    assert set(made.installed()) == {BLOCK, REMOTE}
    again = Bench(made.rtnl)
    again.want(BLOCK, Route(RouteType.LOCAL_BLOCK))
    again.want(REMOTE, Route(RouteType.REMOTE, host="h2", gateway=GATEWAY))
    again.routes.resync()
    assert again.routes.pending_count == 0, "a new process has nothing to write"


@pytest.mark.parametrize(("before", "after"), [(0, 1024), (1024, 0), (512, 2000), (2000, 512)])
def test_another_metric_comes_before_the_former_one_goes(before: int, after: int) -> None:
    """The agent is started anew with it, and finds what the former one has left."""
    rtnl = Watched()
    blocks = (BLOCK, parse_network("fd00:65::/122"))
    for metric in (before, after):
        made = Bench(rtnl, route_metric4=metric, route_metric6=metric)
        for block in blocks:
            made.want(block, Route(RouteType.LOCAL_BLOCK))
        made.want(REMOTE, Route(RouteType.REMOTE, host="h2", gateway=GATEWAY))
        made.routes.resync()
        assert not made.routes.apply()
        found = [(one.destination, one.metric) for one in rtnl.routes(protocol=80)]
        # 1024 is what IPv6 has without one.
        assert sorted(found) == sorted(
            (one, 0 if one.family == 6 and metric == 1024 else metric) for one in (*blocks, REMOTE)
        )
    assert rtnl.least == 3, "each destination always had a route"
    made.want(REMOTE, None)
    made.want(BLOCK, Route(RouteType.REMOTE, host="h2", gateway=GATEWAY))
    assert not made.routes.apply()
    assert rtnl.destinations() == {*blocks}, "changes and goes as without one"
    assert made.installed()[BLOCK].gateway == GATEWAY
    made.routes.resync()
    assert made.routes.pending_count == 0


class Watched(FakeRtnl):
    """Notes how few destinations there were, once there were all."""

    least = 3

    def destinations(self) -> set[Network]:
        return {one.destination for one in self.routes(protocol=80)}

    def delete_routes(self, routes: Sequence[kernel.Route]) -> Outcomes:
        outcomes = super().delete_routes(routes)
        if routes:
            self.least = min(self.least, len(self.destinations()))
        return outcomes


def test_a_route_changes_in_one_step() -> None:
    made = Bench()
    made.link("cali1")
    made.want(POD, local())
    made.routes.apply()
    made.want(POD, Route(RouteType.REMOTE, host="h2", gateway=GATEWAY))
    assert not made.routes.apply()
    assert made.installed()[POD].gateway == GATEWAY


def test_neighbours_are_permanent_and_come_and_go_with_links_and_owners() -> None:
    made = Bench()
    made.neighbours.want("cali1", POD, MAC, owner="a")
    assert not made.neighbours.apply()
    assert not made.rtnl.neighbours()
    index = made.link("cali1")
    made.neighbours.apply()
    (entry,) = made.rtnl.neighbours()
    assert (entry.interface, entry.address, entry.mac) == (index, POD, MAC)
    made.neighbours.want("cali1", POD, MAC, owner="b")
    made.neighbours.drop("cali1", POD, owner="a")
    made.neighbours.apply()
    assert made.rtnl.neighbours() == [entry], "it has passed to b"
    for up in (False, True):
        made.rtnl.change_link(index, LinkChange(up=up))
        made.look()
        made.neighbours.apply()
    assert made.rtnl.neighbours() == [entry]
    made.neighbours.drop("cali1", POD, owner="b")
    made.neighbours.apply()
    assert not made.rtnl.neighbours()


def test_left_over_neighbours_of_workload_links_go_and_others_stay() -> None:
    made = Bench()
    made.neighbours.want("cali1", POD, MAC, owner="a")
    made.link("cali1")
    uplink = made.link("eth0")
    made.neighbours.apply()
    (mine,) = made.rtnl.neighbours()
    theirs = type(mine)(interface=uplink, address=GATEWAY, mac=MAC)
    made.rtnl.replace_neighbours([theirs])
    again = Bench(made.rtnl)
    again.look()
    again.neighbours.resync()
    assert not again.neighbours.apply()
    assert made.rtnl.neighbours() == [theirs]


def test_workload_links_get_their_settings_when_seen_and_again_when_made_anew() -> None:
    made = Bench()
    first = made.link("cali1")
    wanted = made.sysctls.pending_count
    assert wanted > 0
    made.link("eth0")
    assert made.sysctls.pending_count == wanted, "other links are not ours"
    made.rtnl.delete_links([first])
    made.look()
    assert made.sysctls.pending_count == 0
    made.link("cali1")
    assert made.sysctls.pending_count == wanted


def test_a_renamed_link_is_gone_under_its_old_name() -> None:
    made = Bench()
    index = made.link("cali1")
    made.want(POD, local())
    made.routes.apply()
    made.rtnl.change_link(index, LinkChange(name="cali2"))
    made.look()
    assert made.links.get("cali1") is None
    named = made.links.get("cali2")
    assert named is not None
    assert named.index == index
    made.routes.apply()
    assert not made.installed(), "its route has gone with the name"
    made.rtnl.change_link(index, LinkChange(name="cali1"))
    made.look()
    made.routes.apply()
    assert POD in made.installed()


def test_a_link_that_was_renamed_and_back_unseen_keeps_its_route() -> None:
    made = Bench()
    index = made.link("cali1")
    made.want(POD, local())
    made.routes.apply()
    for name in ("cali2", "cali1"):
        made.rtnl.change_link(index, LinkChange(name=name))
        made.look()
    made.routes.apply()
    assert POD in made.installed()
    assert made.routes.pending_count == 0


class WithoutRules(FakeRtnl):
    """A kernel that was built without them."""

    asked = 0

    def rules(self, family: int | None = None) -> list[RoutingRule]:
        self.asked += 1
        raise KernelRefused("list rules: Operation not supported", errno.EOPNOTSUPP)


@pytest.mark.parametrize("guarded", [True, False])
def test_a_kernel_without_routing_rules_is_told_of_once(
    caplog: pytest.LogCaptureFixture, guarded: bool
) -> None:
    backend = WithoutRules()
    driver = UnseenRuleDriver(backend, Settings(host="h1", guard_links=guarded))
    for _ in range(3):
        driver.resync()
        driver.apply()
        assert not driver.pending_count
    assert backend.asked == 2, "once for each family"
    assert len(caplog.records) == (2 if guarded else 0)


def test_a_rule_of_a_former_mask_or_of_guards_that_are_off_goes() -> None:
    backend = FakeRtnl()
    before = backend.rules()
    for settings in (
        Settings(host="h1", guard_links=True),
        Settings(host="h1", guard_links=True, mark_mask=0xFF00),
    ):
        UnseenRuleDriver(backend, settings).apply()
        marks = [(one.mark, one.mask) for one in backend.rules() if one.mask]
        assert marks == [(settings.mark_unseen, settings.mark_mask)] * 2
    UnseenRuleDriver(backend, Settings(host="h1")).apply()
    assert backend.rules() == before
