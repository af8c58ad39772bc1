"""The fake and the kernel are asked the same questions and must agree."""

import errno
import os
from collections.abc import Iterator
from typing import cast

import pytest

from tortie.kernel import netns
from tortie.kernel.rtnl import neighbour, route
from tortie.kernel.rtnl.backend import Backend
from tortie.kernel.rtnl.connection import Rtnl
from tortie.kernel.rtnl.fake import FakeRtnl
from tortie.kernel.rtnl.link import LinkChange, VethPeer
from tortie.kernel.rtnl.neighbour import Neighbour
from tortie.kernel.rtnl.route import Route
from tortie.kernel.rtnl.rule import ACTION_BLACKHOLE, Rule
from tortie.kernel.rtnl.shaper import Bucket, Shape
from tortie.lib.errors import AlreadyExists, InvalidInput, KernelRefused, NotFound
from tortie.lib.ip import parse_address, parse_network

OURS = 80
"""A route protocol number that nobody else uses here."""

MAC = bytes.fromhex("02000000aa01")


@pytest.fixture(params=["fake", "kernel"])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    if request.param == "fake":
        yield FakeRtnl()
        return
    if os.geteuid() != 0:
        pytest.fail("needs root; run under `unshare --map-root-user --net`")
    space = netns.create_anonymous()
    with netns.run_in(space, Rtnl.open) as connection:
        connection.change_link(1, LinkChange(up=True))
        yield connection
    os.close(space)


def up_veth(backend: Backend, name: str = "cali1") -> int:
    """A pair with both ends up; the index of the near end."""
    made = backend.create_veth(name, VethPeer(name=f"{name}p"))
    backend.change_link(made.index, LinkChange(up=True))
    backend.change_link(backend.link(f"{name}p").index, LinkChange(up=True))
    return made.index


def workload(interface: int, address: str, *, table: int = 254, metric: int = 0) -> Route:
    destination = parse_network(address)
    return Route(
        destination=destination,
        interface=interface,
        protocol=OURS,
        scope=route.SCOPE_LINK if destination.family == 4 else route.SCOPE_UNIVERSE,
        table=table,
        metric=metric,
    )


def blackhole(destination: str) -> Route:
    return Route(destination=parse_network(destination), kind=route.Kind.BLACKHOLE, protocol=OURS)


def ours(backend: Backend) -> set[Route]:
    return set(backend.routes(protocol=OURS))


# Links.


def test_a_new_namespace_has_loopback_only(backend: Backend) -> None:
    (lo,) = backend.links()
    assert (lo.name, lo.index, lo.loopback, lo.up) == ("lo", 1, True, True)


def test_a_veth_pair_has_two_ends_that_know_each_other(backend: Backend) -> None:
    made = backend.create_veth(
        "cali1", VethPeer(name="far1", mac=MAC, mtu=1400), mac=b"\xee" * 6, mtu=1450, group=7
    )

    far = backend.link("far1")
    assert (made.kind, made.name, made.mac, made.mtu, made.group) == (
        "veth", "cali1", b"\xee" * 6, 1450, 7,
    )  # fmt: skip
    assert (far.mac, far.mtu, far.group) == (MAC, 1400, 0)
    assert (made.peer, far.peer) == (far.index, made.index)
    assert not made.up
    assert not far.up
    assert backend.link(made.index) == made
    assert [link.name for link in backend.links()] == ["lo", "far1", "cali1"]


def test_carrier_needs_both_ends_up(backend: Backend) -> None:
    near = backend.create_veth("cali1", VethPeer(name="far1")).index
    far = backend.link("far1").index

    backend.change_link(near, LinkChange(up=True))
    assert (backend.link(near).up, backend.link(near).carrier) == (True, False)
    backend.change_link(far, LinkChange(up=True))
    assert backend.link(near).carrier
    assert backend.link(far).carrier
    backend.change_link(far, LinkChange(up=False))
    assert (backend.link(near).up, backend.link(near).carrier) == (True, False)


def test_each_property_changes_alone(backend: Backend) -> None:
    index = up_veth(backend)
    before = backend.link(index)

    backend.change_link(index, LinkChange(mtu=1300))
    backend.change_link(index, LinkChange(mac=MAC))
    backend.change_link(index, LinkChange(group=9))
    backend.change_link(index, LinkChange(name="calix"))

    after = backend.link("calix")
    assert (after.index, after.mtu, after.mac, after.group) == (index, 1300, MAC, 9)
    assert after.flags == before.flags
    with pytest.raises(NotFound):
        backend.link("cali1")


def test_a_taken_name_is_refused(backend: Backend) -> None:
    backend.create_veth("cali1", VethPeer(name="far1"))
    with pytest.raises(AlreadyExists):
        backend.create_veth("cali1", VethPeer(name="far2"))
    with pytest.raises(AlreadyExists):
        backend.create_veth("cali2", VethPeer(name="far1"))
    with pytest.raises(AlreadyExists):
        backend.change_link(backend.link("cali1").index, LinkChange(name="far1"))
    assert len(backend.links()) == 3


def test_links_that_are_not_there(backend: Backend) -> None:
    for missing in ("cali9", 99):
        with pytest.raises(NotFound):
            backend.link(missing)
    with pytest.raises(NotFound):
        backend.change_link(99, LinkChange(up=True))
    with pytest.raises(NotFound):
        backend.stop_address_generation(99)
    backend.stop_address_generation(backend.create_veth("cali8", VethPeer(name="far8")).index)
    with pytest.raises(KernelRefused) as refused:
        backend.change_link(up_veth(backend), LinkChange(master=99))
    assert refused.value.errno == errno.EINVAL


@pytest.mark.parametrize("name", ["", "a/b", "..", "sixteen-letters-", "a b"])
def test_a_bad_name_reaches_no_kernel(backend: Backend, name: str) -> None:
    with pytest.raises(InvalidInput):
        backend.create_veth(name, VethPeer(name="far1"))
    with pytest.raises(InvalidInput):
        backend.change_link(1, LinkChange(name=name))


def test_delete_many_takes_peers_along_and_leaves_the_others(backend: Backend) -> None:
    indexes = [up_veth(backend, f"cali{i}") for i in range(4)]

    backend.delete_links(indexes[:3])
    assert [link.name for link in backend.links()] == ["lo", "cali3p", "cali3"]

    backend.delete_links([*indexes, 99])
    assert [link.name for link in backend.links()] == ["lo"]
    backend.delete_links(indexes)
    backend.delete_links([])


# Routes.


def test_routes_read_back_as_they_were_written(backend: Backend) -> None:
    link = up_veth(backend)
    wanted = [
        workload(link, "10.65.0.1/32"),
        workload(link, "fd00:65::1/128"),
        workload(link, "10.65.0.2/32", metric=5),
        workload(link, "10.65.0.2/32", metric=6),
        workload(link, "10.65.0.2/32", table=1000),
        workload(link, "fd00:65::2/128", table=1000, metric=7),
        blackhole("10.65.0.0/26"),
        blackhole("fd00:65::/122"),
        Route(destination=parse_network("0.0.0.0/0"), interface=link, protocol=OURS, table=99,
              gateway=parse_address("169.254.1.1"), onlink=True),
        Route(destination=parse_network("::/0"), interface=link, protocol=OURS, table=99,
              gateway=parse_address("fe80::1")),
        Route(destination=parse_network("10.9.0.0/16"), kind=route.Kind.UNREACHABLE,
              protocol=OURS),
    ]  # fmt: skip

    assert backend.replace_routes(wanted) == [None] * len(wanted)
    assert ours(backend) == set(wanted)
    assert backend.replace_routes(wanted) == [None] * len(wanted), "again is fine"
    assert ours(backend) == set(wanted)


def test_lists_are_filtered(backend: Backend) -> None:
    link, other = up_veth(backend, "cali1"), up_veth(backend, "cali2")
    four, six = workload(link, "10.65.0.1"), workload(link, "fd00:65::1")
    elsewhere, far = workload(link, "10.65.0.1", table=1000), workload(other, "10.65.0.3")
    foreign = Route(destination=parse_network("10.1.0.0/16"), kind=route.Kind.BLACKHOLE)
    assert not any(backend.replace_routes([four, six, elsewhere, far, foreign]))

    assert set(backend.routes(4, protocol=OURS)) == {four, elsewhere, far}
    assert set(backend.routes(6, protocol=OURS)) == {six}
    assert set(backend.routes(table=1000)) == {elsewhere}
    assert set(backend.routes(4, table=1000)) == {elsewhere}
    assert set(backend.routes(6, table=1000, protocol=OURS)) == set()
    assert set(backend.routes(4, table=12345)) == set()
    assert set(backend.routes(4, interface=other, table=route.TABLE_MAIN)) == {far}
    assert foreign not in backend.routes(protocol=OURS)


def test_replace_moves_a_route_and_changes_its_kind(backend: Backend) -> None:
    one, two = up_veth(backend, "cali1"), up_veth(backend, "cali2")
    for address in ("10.65.0.1", "fd00:65::1"):
        for wanted in (workload(one, address), workload(two, address)):
            assert backend.replace_routes([wanted]) == [None]
            assert backend.routes(wanted.destination.family, protocol=OURS) == [wanted]


@pytest.mark.parametrize(
    ("destination", "gateway"), [("10.65.0.0/26", "169.254.1.1"), ("fd00:65::/122", "fe80::1")]
)
def test_every_kind_replaces_every_other(backend: Backend, destination: str, gateway: str) -> None:
    link = up_veth(backend)
    via = Route(
        destination=parse_network(destination),
        interface=link,
        gateway=parse_address(gateway),
        onlink=True,
        protocol=OURS,
    )
    kinds = [blackhole(destination), workload(link, destination), via]
    for before in kinds:
        for after in kinds:
            assert backend.replace_routes([before, after]) == [None, None]
            assert backend.routes(protocol=OURS) == [after]


def test_one_bad_route_does_not_stop_the_others(backend: Backend) -> None:
    link = up_veth(backend)
    down = backend.create_veth("cali2", VethPeer(name="far2")).index
    good = [workload(link, "10.65.0.1"), workload(link, "fd00:65::9"), workload(link, "10.65.0.9")]

    outcomes = backend.replace_routes(
        [good[0], workload(99, "10.65.0.5"), good[1], workload(down, "10.65.0.6"),
         workload(down, "fd00:65::6"), good[2]]
    )  # fmt: skip

    assert [outcomes[i] for i in (0, 2, 5)] == [None] * 3
    assert isinstance(outcomes[1], NotFound)
    assert "10.65.0.5" in str(outcomes[1])
    for refused in (outcomes[3], outcomes[4]):
        assert isinstance(refused, KernelRefused)
        assert refused.errno == errno.ENETDOWN
    assert ours(backend) == set(good)


def test_only_the_very_route_is_deleted(backend: Backend) -> None:
    one, two = up_veth(backend, "cali1"), up_veth(backend, "cali2")
    wanted = [workload(one, "10.65.0.1"), workload(one, "fd00:65::1"), blackhole("10.65.0.0/26")]
    assert not any(backend.replace_routes(wanted))

    not_these = [
        workload(two, "10.65.0.1"),
        workload(two, "fd00:65::1"),
        workload(one, "10.65.0.2"),
        workload(one, "10.65.0.1", table=1000),
        blackhole("10.65.0.0/27"),
        workload(one, "10.65.0.0/26"),
    ]
    assert all(isinstance(o, NotFound) for o in backend.delete_routes(not_these))
    assert ours(backend) == set(wanted)

    assert backend.delete_routes(wanted) == [None] * 3
    assert ours(backend) == set()


def test_in_ipv4_a_delete_without_metric_takes_any(backend: Backend) -> None:
    """A trap of the kernel, and so of the fake: routes of ours should have one metric."""
    link = up_veth(backend)
    for address, outcome, gone in (("10.65.0.1", type(None), 1), ("fd00:65::1", NotFound, 0)):
        plain = workload(link, address)
        numbered = [workload(link, address, metric=7), workload(link, address, metric=9)]
        assert not any(backend.replace_routes([*numbered, plain]))
        assert backend.delete_routes([plain]) == [None]
        assert set(backend.routes(plain.destination.family, protocol=OURS)) == set(numbered)
        (said,) = backend.delete_routes([plain])
        assert isinstance(said, outcome)
        kept = set(backend.routes(plain.destination.family, protocol=OURS))
        assert kept == set(numbered[gone:])


def test_deleting_a_blackhole_spares_a_device_route(backend: Backend) -> None:
    """IPv6's kernel compares no kinds, and would take one for the other."""
    link = up_veth(backend)
    for destination in ("10.65.0.0/26", "fd00:65::/122"):
        present, hole = workload(link, destination), blackhole(destination)
        assert backend.replace_routes([present]) == [None]
        (said,) = backend.delete_routes([hole])
        assert isinstance(said, NotFound)
        assert backend.routes(present.destination.family, protocol=OURS) == [present]

        assert backend.replace_routes([hole]) == [None]
        (said,) = backend.delete_routes([present])
        assert isinstance(said, NotFound)
        assert backend.delete_routes([hole]) == [None]


def test_a_delete_that_names_no_gateway_takes_any(backend: Backend) -> None:
    link = up_veth(backend)
    for destination, gateway in (("10.65.0.0/26", "169.254.1.1"), ("fd00:65::/122", "fe80::1")):
        via = Route(
            destination=parse_network(destination),
            interface=link,
            gateway=parse_address(gateway),
            onlink=True,
            protocol=OURS,
        )
        assert backend.replace_routes([via]) == [None]
        other = Route(
            destination=via.destination,
            interface=link,
            gateway=via.gateway and via.gateway.address(1),
            protocol=OURS,
        )
        (said,) = backend.delete_routes([other])
        assert isinstance(said, NotFound)
        bare = Route(destination=via.destination, interface=link, protocol=OURS)
        assert backend.delete_routes([bare]) == [None]
        assert backend.routes(via.destination.family, protocol=OURS) == []


def test_what_goes_with_a_link_that_is_set_down(backend: Backend) -> None:
    link, other = up_veth(backend, "cali1"), up_veth(backend, "cali2")
    stays = [workload(other, "10.65.0.2"), blackhole("10.65.0.0/26")]
    goes = [workload(link, "10.65.0.1"), workload(link, "fd00:65::1")]
    assert not any(backend.replace_routes(stays + goes))
    entries = [
        Neighbour(interface=link, address=parse_address("10.65.0.1"), mac=MAC),
        Neighbour(interface=link, address=parse_address("fd00:65::1"), mac=MAC),
        neighbour.proxy(link, parse_address("fd00:65::5")),
    ]
    assert not any(backend.replace_neighbours(entries))

    backend.change_link(link, LinkChange(up=False))

    assert ours(backend) == set(stays)
    assert permanent(backend) == set()
    assert backend.neighbours(proxy=True) == []


def test_loss_of_carrier_takes_nothing(backend: Backend) -> None:
    link = up_veth(backend)
    wanted = [workload(link, "10.65.0.1"), workload(link, "fd00:65::1")]
    assert not any(backend.replace_routes(wanted))
    entry = Neighbour(interface=link, address=parse_address("10.65.0.1"), mac=MAC)
    assert backend.replace_neighbours([entry]) == [None]

    backend.change_link(backend.link("cali1p").index, LinkChange(up=False))

    assert not backend.link(link).carrier
    assert ours(backend) == set(wanted)
    assert permanent(backend) == {entry}


def test_a_deleted_link_takes_its_routes_and_neighbours(backend: Backend) -> None:
    link, other = up_veth(backend, "cali1"), up_veth(backend, "cali2")
    stays = workload(other, "10.65.0.2")
    assert not any(
        backend.replace_routes([stays, workload(link, "10.65.0.1"), workload(link, "fd00::1")])
    )
    kept = Neighbour(interface=other, address=parse_address("10.65.0.2"), mac=MAC)
    gone = Neighbour(interface=link, address=parse_address("10.65.0.1"), mac=MAC)
    assert not any(backend.replace_neighbours([kept, gone]))

    backend.delete_links([link])

    assert ours(backend) == {stays}
    assert permanent(backend) == {kept}


def test_a_link_that_leaves_the_namespace_is_gone_here(backend: Backend) -> None:
    link = up_veth(backend)
    assert backend.replace_routes([workload(link, "10.65.0.1")]) == [None]
    elsewhere = netns.create_anonymous()
    try:
        backend.change_link(link, LinkChange(namespace=elsewhere))
        with pytest.raises(NotFound):
            backend.link(link)
        assert ours(backend) == set()
    finally:
        os.close(elsewhere)


# Neighbours.


def permanent(backend: Backend) -> set[Neighbour]:
    """Ours; the kernel adds its own for multicast."""
    return {e for e in backend.neighbours() if e.state == neighbour.State.PERMANENT}


def test_neighbours_read_back_as_they_were_written(backend: Backend) -> None:
    link = up_veth(backend)
    four = Neighbour(interface=link, address=parse_address("10.65.0.1"), mac=MAC)
    six = Neighbour(interface=link, address=parse_address("fd00:65::1"), mac=MAC)
    assert backend.replace_neighbours([four, six]) == [None, None]
    assert permanent(backend) == {four, six}

    moved = Neighbour(interface=link, address=four.address, mac=b"\x02\0\0\0\0\x99")
    assert backend.replace_neighbours([moved]) == [None]
    assert permanent(backend) == {moved, six}


def test_proxy_entries_are_a_table_of_their_own(backend: Backend) -> None:
    link = up_veth(backend)
    proxies = [
        neighbour.proxy(link, parse_address("fe80::1")),
        neighbour.proxy(link, parse_address("169.254.1.1")),
    ]
    assert backend.replace_neighbours(proxies) == [None, None]

    assert set(backend.neighbours(proxy=True)) == set(proxies)
    assert backend.neighbours(6, proxy=True) == [proxies[0]]
    assert permanent(backend) == set()
    assert backend.delete_neighbours(proxies) == [None, None]
    assert backend.neighbours(proxy=True) == []


def test_neighbour_outcomes_are_each_their_own(backend: Backend) -> None:
    link = up_veth(backend)
    good = Neighbour(interface=link, address=parse_address("10.65.0.1"), mac=MAC)
    lost = Neighbour(interface=99, address=parse_address("10.65.0.2"), mac=MAC)

    first, second = backend.replace_neighbours([lost, good])
    assert isinstance(first, NotFound)
    assert second is None
    never = Neighbour(interface=link, address=parse_address("10.65.0.77"), mac=MAC)
    missing, done = backend.delete_neighbours([never, good])
    assert isinstance(missing, NotFound)
    assert done is None


def test_the_fake_can_be_told_to_fail() -> None:
    fake = FakeRtnl()
    backend = cast(Backend, fake)
    link = up_veth(backend)
    wanted = workload(link, "10.65.0.1")
    refusal = KernelRefused("replace route", errno.EPERM)
    fake.failures[wanted.key] = refusal
    assert backend.replace_routes([wanted]) == [refusal]
    assert ours(backend) == set()


def test_guards_are_made_again_and_one_missing_link_stops_nobody(backend: Backend) -> None:
    index = up_veth(backend)
    for _ in range(2):
        gone, done = backend.guard_links([9999, index], 0x8000)
        assert isinstance(gone, NotFound)
        assert done is None
    backend.unguard_links()
    backend.unguard_links()


def test_what_comes_in_is_marked_where_the_kernel_can(backend: Backend) -> None:
    """Of our own kernel that is `skbedit`, which not every one has; a guest's has it (soak)."""
    index = up_veth(backend)
    for _ in range(2):
        gone, done = backend.mark_links([9999, index], 0x70000, 0xF0000)
        assert isinstance(gone, NotFound)
        assert done is None or isinstance(done, KernelRefused)
    backend.unguard_links()


@pytest.mark.parametrize("family", [4, 6])
def test_rules_stand_behind_their_equals_and_the_first_goes_first(
    backend: Backend, family: int
) -> None:
    before = backend.rules(family)
    local = before[0]
    assert (local.priority, local.table) == (0, 255)
    ours = Rule(
        family=family, priority=0, action=ACTION_BLACKHOLE, mark=1, mask=0xFF, protocol=OURS
    )
    backend.add_rule(ours)
    with pytest.raises(AlreadyExists):
        backend.add_rule(ours)
    assert backend.rules(family) == [local, ours, *before[1:]]
    backend.add_rule(local, again=True)
    assert backend.rules(family) == [local, ours, local, *before[1:]]
    backend.delete_rule(local)
    assert backend.rules(family) == [ours, local, *before[1:]]
    backend.delete_rule(ours)
    with pytest.raises(NotFound):
        backend.delete_rule(ours)
    assert backend.rules(family) == before


def test_buckets_are_set_again_read_back_and_taken_away(backend: Backend) -> None:
    index = up_veth(backend)
    for bucket in (Bucket(10**6, 20_000, 45_000), Bucket(10**10, 10**6, 10**8, 2 * 10**10, 2000)):
        gone, done = backend.shape_links([(9999, bucket), (index, bucket)])
        assert isinstance(gone, NotFound)
        assert done is None
        assert backend.shapes() == [Shape(index, bucket.rate, bucket.limit)]
    for _ in range(2):
        backend.unshape_links([9999, index])
        assert backend.shapes() == []


def test_diversions_are_made_again_and_taken_away(backend: Backend) -> None:
    index = up_veth(backend)
    beside = backend.create_ifb("beside", mtu=1400)
    assert (beside.kind, beside.mtu, beside.up) == ("ifb", 1400, False)
    with pytest.raises(AlreadyExists):
        backend.create_ifb("beside", mtu=1400)
    backend.change_link(beside.index, LinkChange(up=True))
    for _ in range(2):
        gone, done = backend.divert_links([(9999, beside.index), (index, beside.index)])
        assert isinstance(gone, NotFound)
        assert done is None
    for _ in range(2):
        backend.undivert_links([9999, index])
    backend.delete_links([beside.index])
    with pytest.raises(NotFound):
        backend.link("beside")


def test_the_interface_towards_an_address(backend: Backend) -> None:
    near, far = up_veth(backend, "cali1"), up_veth(backend, "cali2")
    assert backend.interface_towards(parse_address("10.65.0.1")) == 0
    wanted = [
        workload(near, "10.65.0.0/24"),
        workload(far, "10.65.0.7/32"),
        workload(far, "fd00::/64"),
    ]
    assert backend.replace_routes(wanted) == [None] * len(wanted)
    assert backend.interface_towards(parse_address("10.65.0.1")) == near
    assert backend.interface_towards(parse_address("10.65.0.7")) == far
    assert backend.interface_towards(parse_address("fd00::7")) == far
    assert backend.interface_towards(parse_address("fd01::7")) == 0
    shut = Route(
        destination=parse_network("10.65.0.8/32"), kind=route.Kind.BLACKHOLE, protocol=OURS
    )
    assert backend.replace_routes([shut]) == [None]
    assert backend.interface_towards(parse_address("10.65.0.8")) == 0
