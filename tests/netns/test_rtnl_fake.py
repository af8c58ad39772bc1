"""Random histories leave the fake and the kernel in the same state."""

import os
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from tortie.kernel import netns
from tortie.kernel.rtnl import neighbour
from tortie.kernel.rtnl.backend import Backend
from tortie.kernel.rtnl.connection import Rtnl
from tortie.kernel.rtnl.fake import FakeRtnl
from tortie.kernel.rtnl.link import LinkChange, VethPeer
from tortie.kernel.rtnl.neighbour import Neighbour, NeighbourKey
from tortie.kernel.rtnl.route import SCOPE_LINK, Kind, Route
from tortie.lib.ip import parse_address, parse_network

Step = Callable[[Backend], object]

OURS = 80
# A new namespace numbers its links from 2, peers first; so does the fake.
NEAR = [3, 5]
MISSING = 99


def outcome_kinds(outcomes: list[object]) -> list[str]:
    return [type(outcome).__name__ for outcome in outcomes]


def make_route(text: str, interface: int, table: int, metric: int, via: bool) -> Route:
    destination = parse_network(text)
    four = destination.family == 4
    gateway = parse_address("169.254.1.1" if four else "fe80::1")
    on_link = interface != 0 and not via
    return Route(
        destination=destination,
        kind=Kind.UNICAST if interface else Kind.BLACKHOLE,
        interface=interface,
        gateway=gateway if interface and via else None,
        onlink=bool(interface and via),
        protocol=OURS,
        table=table,
        metric=metric,
        scope=SCOPE_LINK if four and on_link else 0,
    )


routes = st.builds(
    make_route,
    st.sampled_from(["10.65.0.1/32", "10.65.0.0/26", "fd00:65::1/128", "fd00:65::/122"]),
    st.sampled_from([0, *NEAR, *NEAR, MISSING]),
    st.sampled_from([254, 1000]),
    st.sampled_from([0, 7]),
    st.booleans(),
)
neighbours = st.builds(
    lambda text, interface, proxy: (
        neighbour.proxy(interface, parse_address(text))
        if proxy
        else Neighbour(interface=interface, address=parse_address(text), mac=b"\x02" * 6)
    ),
    st.sampled_from(["10.65.0.1", "fd00:65::1"]),
    st.sampled_from([*NEAR, MISSING]),
    st.booleans(),
)
interfaces = st.sampled_from(NEAR)


def set_up(backend: Backend, index: int, up: bool) -> None:
    if any(entry.index == index for entry in backend.links()):
        backend.change_link(index, LinkChange(up=up))


steps: st.SearchStrategy[Step] = st.one_of(
    st.lists(routes, max_size=4).map(lambda r: lambda b: outcome_kinds([*b.replace_routes(r)])),
    st.lists(routes, max_size=4).map(lambda r: lambda b: outcome_kinds([*b.delete_routes(r)])),
    neighbours.map(lambda n: lambda b: outcome_kinds([*b.replace_neighbours([n])])),
    neighbours.map(lambda n: lambda b: outcome_kinds([*b.delete_neighbours([n])])),
    st.tuples(interfaces, st.booleans()).map(lambda t: lambda b: set_up(b, t[0], t[1])),
    interfaces.map(lambda index: lambda b: b.delete_links([index])),
)


def prepare(backend: Backend) -> None:
    for name in ("cali1", "cali2"):
        made = backend.create_veth(name, VethPeer(name=f"{name}p"))
        assert made.index in NEAR
        backend.change_link(made.peer, LinkChange(up=True))
        backend.change_link(made.index, LinkChange(up=True))


def state(
    backend: Backend,
) -> tuple[list[tuple[int, str, bool, bool]], set[Route], set[NeighbourKey]]:
    permanent = neighbour.State.PERMANENT
    return (
        [(link.index, link.name, link.up, link.carrier) for link in backend.links()],
        set(backend.routes(protocol=OURS)),
        {entry.key for entry in backend.neighbours() if entry.state == permanent}
        | {entry.key for entry in backend.neighbours(proxy=True)},
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(steps, max_size=12))
def test_fake_and_kernel_agree(history: list[Step]) -> None:
    assert os.geteuid() == 0, "needs root; run under `unshare --map-root-user --net`"
    fake = FakeRtnl()
    space = netns.create_anonymous()
    try:
        with netns.run_in(space, Rtnl.open) as kernel:
            kernel.change_link(1, LinkChange(up=True))
            prepare(fake)
            prepare(kernel)
            assert state(fake) == state(kernel)
            for step in history:
                assert step(fake) == step(kernel)
                assert state(fake) == state(kernel)
    finally:
        os.close(space)
