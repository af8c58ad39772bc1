"""Events arrive, and lost ones are told of."""

import asyncio
import os
from collections.abc import Callable, Iterator

import pytest

from tortie.kernel import netns as namespaces
from tortie.kernel.rtnl import link, neighbour
from tortie.kernel.rtnl.address import Address
from tortie.kernel.rtnl.connection import Rtnl
from tortie.kernel.rtnl.link import LinkChange, VethPeer
from tortie.kernel.rtnl.monitor import (
    AddressChanged,
    AddressGone,
    Event,
    Group,
    LinkChanged,
    LinkGone,
    Monitor,
    NeighbourChanged,
    NeighbourGone,
    Overflow,
    RouteChanged,
    RouteGone,
)
from tortie.kernel.rtnl.neighbour import Neighbour
from tortie.kernel.rtnl.route import SCOPE_LINK, Route
from tortie.lib.ip import parse_address, parse_network

SECONDS = 10


@pytest.fixture
def rtnl(netns: None) -> Iterator[Rtnl]:
    with Rtnl.open() as opened:
        yield opened


class Listener:
    """Keeps every event; a monitor that runs while `until` does."""

    def __init__(self, *groups: Group, queue_bytes: int = 1 << 20) -> None:
        self.events: list[Event] = []
        self._news = asyncio.Event()
        self.monitor = Monitor.open(self._on_event, groups=groups, queue_bytes=queue_bytes)

    def _on_event(self, event: Event) -> None:
        self.events.append(event)
        self._news.set()

    async def until(self, enough: Callable[[list[Event]], bool]) -> None:
        async with asyncio.timeout(SECONDS):
            while not enough(self.events):
                self._news.clear()
                await self._news.wait()


def changed_names(events: list[Event]) -> set[str]:
    return {event.link.name for event in events if isinstance(event, LinkChanged)}


def gone_names(events: list[Event]) -> set[str]:
    return {event.link.name for event in events if isinstance(event, LinkGone)}


def test_links_come_change_and_go(rtnl: Rtnl) -> None:
    async def run() -> None:
        listener = Listener(Group.LINK)
        listener.monitor.start()
        made = rtnl.create_veth("cali1", VethPeer(name="far1"))
        await listener.until(lambda events: {"cali1", "far1"} <= changed_names(events))

        rtnl.change_link(made.index, LinkChange(up=True))
        rtnl.change_link(rtnl.link("far1").index, LinkChange(up=True))
        await listener.until(
            lambda events: any(
                isinstance(event, LinkChanged)
                and event.link.name == "cali1"
                and event.link.up
                and event.link.carrier
                for event in events
            )
        )
        rtnl.change_link(made.index, LinkChange(name="cali2"))
        await listener.until(lambda events: "cali2" in changed_names(events))
        rtnl.delete_link(made.index)
        await listener.until(lambda events: gone_names(events) == {"cali2", "far1"})
        listener.monitor.close()
        assert Overflow() not in listener.events

    asyncio.run(run())


def test_a_link_that_leaves_the_namespace_is_gone(rtnl: Rtnl) -> None:
    space = namespaces.create_anonymous()

    async def run() -> None:
        made = rtnl.create_veth("cali1", VethPeer(name="far1"))
        listener = Listener(Group.LINK)
        listener.monitor.start()
        rtnl.change_link(made.peer, LinkChange(namespace=space))
        await listener.until(lambda events: gone_names(events) == {"far1"})
        listener.monitor.close()

    try:
        asyncio.run(run())
    finally:
        os.close(space)


def test_a_port_that_leaves_its_bridge_is_not_gone(rtnl: Rtnl) -> None:
    async def run() -> None:
        bridge = rtnl.create_bridge("br0")
        made = rtnl.create_veth("cali1", VethPeer(name="far1"))
        rtnl.change_link(made.index, LinkChange(master=bridge.index))
        listener = Listener(Group.LINK)
        listener.monitor.start()
        rtnl.change_link(made.index, LinkChange(master=0))
        rtnl.change_link(made.index, LinkChange(name="cali2"))
        await listener.until(lambda events: "cali2" in changed_names(events))
        listener.monitor.close()
        assert gone_names(listener.events) == set()

    asyncio.run(run())


def test_routes_addresses_and_neighbours(rtnl: Rtnl) -> None:
    async def run() -> None:
        made = rtnl.create_veth("cali1", VethPeer(name="far1"))
        rtnl.change_link(made.index, LinkChange(up=True))
        listener = Listener(Group.IPV4_ADDRESS, Group.IPV4_ROUTE, Group.IPV6_ROUTE, Group.NEIGHBOUR)
        listener.monitor.start()
        owned = Address(interface=made.index, address=parse_address("10.1.1.1"), length=32)
        routes = [
            Route(destination=parse_network("10.2.0.0/16"), interface=made.index, protocol=80,
                  scope=SCOPE_LINK),
            Route(destination=parse_network("fd00::/64"), interface=made.index, protocol=80),
        ]  # fmt: skip
        known = Neighbour(interface=made.index, address=parse_address("10.9.9.9"), mac=b"\2" * 6)

        rtnl.add_address(owned)
        assert not any(rtnl.replace_routes(routes))
        assert not any(rtnl.replace_neighbours([known]))
        assert not any(rtnl.delete_neighbours([known]))
        assert not any(rtnl.delete_routes(routes))
        rtnl.delete_address(owned)

        def complete(events: list[Event]) -> bool:
            addresses = {
                (type(event), event.address.address)
                for event in events
                if isinstance(event, AddressChanged | AddressGone)
            }
            neighbours = {
                (type(event), event.neighbour.address)
                for event in events
                if isinstance(event, NeighbourChanged | NeighbourGone)
            }
            return (
                {RouteChanged(r) for r in routes} | {RouteGone(r) for r in routes} <= set(events)
                and {(AddressChanged, owned.address), (AddressGone, owned.address)} <= addresses
                and {(NeighbourChanged, known.address), (NeighbourGone, known.address)}
                <= neighbours
            )

        await listener.until(complete)
        assert NeighbourChanged(known) in listener.events
        listener.monitor.close()

    asyncio.run(run())


def test_an_overflow_is_told_and_a_resync_after_it_misses_nothing(rtnl: Rtnl) -> None:
    """A tiny queue and 300 pairs: most events are lost, the outcome is not."""

    async def run() -> None:
        listener = Listener(Group.LINK, queue_bytes=4096)
        rtnl.run([link.create_veth(f"c{i}", VethPeer(name=f"d{i}")) for i in range(300)])
        listener.monitor.start()
        await listener.until(lambda events: Overflow() in events)

        assert listener.events[-1] == Overflow(), "told last: the queue was read empty before"
        assert listener.events.count(Overflow()) == 1
        assert len(changed_names(listener.events)) < 600, "some must have been lost"
        assert len(rtnl.links()) == 601

        seen = len(listener.events)
        rtnl.change_link(rtnl.link("c7").index, LinkChange(mtu=1234))
        await listener.until(
            lambda events: any(
                isinstance(event, LinkChanged) and event.link.mtu == 1234 for event in events[seen:]
            )
        )
        listener.monitor.close()

    asyncio.run(run())


def test_every_overflow_is_told(rtnl: Rtnl) -> None:
    async def run() -> None:
        listener = Listener(Group.LINK, queue_bytes=4096)
        listener.monitor.start()
        for round_number in range(1, 4):
            rtnl.run(
                [link.create_veth(f"c{round_number}-{i}", VethPeer(name=f"d{round_number}-{i}"))
                 for i in range(60)]
            )  # fmt: skip
            await listener.until(
                lambda events, wanted=round_number: events.count(Overflow()) == wanted  # type: ignore[misc]
            )
        listener.monitor.close()

    asyncio.run(run())


def test_the_usual_queue_holds_a_burst(rtnl: Rtnl) -> None:
    async def run() -> None:
        listener = Listener(Group.LINK, queue_bytes=16 << 20)
        rtnl.run([link.create_veth(f"c{i}", VethPeer(name=f"d{i}")) for i in range(300)])
        listener.monitor.start()
        await listener.until(lambda events: len(changed_names(events)) == 600)
        assert Overflow() not in listener.events
        listener.monitor.close()

    asyncio.run(run())


def test_nothing_is_called_back_after_close(rtnl: Rtnl) -> None:
    """Even when the consumer closes it from within the call."""

    async def run() -> None:
        events: list[Event] = []
        failures: list[object] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _loop, context: failures.append(context)
        )

        def close_at_once(event: Event) -> None:
            events.append(event)
            monitor.close()

        monitor = Monitor.open(close_at_once)
        rtnl.run([link.create_veth(f"c{i}", VethPeer(name=f"d{i}")) for i in range(5)])
        monitor.start()
        await asyncio.sleep(0.05)
        assert len(events) == 1
        assert failures == []

    asyncio.run(run())


def test_a_monitor_stays_in_its_namespace(rtnl: Rtnl) -> None:
    space = namespaces.create_anonymous()

    async def run() -> None:
        events: list[Event] = []
        monitor = namespaces.run_in(space, lambda: Monitor.open(events.append))
        monitor.start()
        rtnl.create_bridge("outside")
        with namespaces.run_in(space, Rtnl.open) as inside:
            inside.create_bridge("inside")
        async with asyncio.timeout(SECONDS):
            while "inside" not in changed_names(events):
                await asyncio.sleep(0.01)
        monitor.close()
        assert "outside" not in changed_names(events)

    try:
        asyncio.run(run())
    finally:
        os.close(space)


def test_the_kernel_does_not_tell_of_proxies(rtnl: Rtnl) -> None:
    """Should this fail one day, drivers can stop reading the proxy table back."""

    async def run() -> None:
        made = rtnl.create_veth("cali1", VethPeer(name="far1"))
        listener = Listener(Group.NEIGHBOUR)
        listener.monitor.start()
        entry = neighbour.proxy(made.index, parse_address("fe80::1"))
        assert rtnl.replace_neighbours([entry]) == [None]
        known = Neighbour(interface=made.index, address=parse_address("10.9.9.9"), mac=b"\2" * 6)
        assert rtnl.replace_neighbours([known]) == [None]
        await listener.until(lambda events: NeighbourChanged(known) in events)
        listener.monitor.close()
        assert NeighbourChanged(entry) not in listener.events

    asyncio.run(run())
