"""Two hosts on paper: their own calc and dataplane, tables that know only bytes, and packets that
are walked from hook to hook as the kernel's routing would have it. No kernel, no root, and so
hundreds of times as many packets as over wires.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.graph.resources import State
from tests.oracle.clusters import HOSTS, SLOTS
from tests.oracle.comparison import differences
from tests.oracle.evaluator import Ruleset, Skb
from tests.oracle.frames import ETHERNET_BYTES, frame
from tests.oracle.wire_nft import WireNft

from tortie.calc.graph import Graph
from tortie.dataplane.dataplane import Dataplane
from tortie.dataplane.settings import Settings
from tortie.explain.oracle import Packet
from tortie.kernel import sysctl
from tortie.kernel.conntrack import Flow
from tortie.kernel.nft.constants import Hook
from tortie.kernel.rtnl.fake import FakeRtnl
from tortie.kernel.rtnl.link import LinkChange, VethPeer
from tortie.kernel.rtnl.route import Kind as RouteKind
from tortie.kernel.rtnl.route import Route
from tortie.lib.ip import Network, from_packed, parse_address

UPLINK = "uplink"
_MAC = bytes(6)
_LOCAL = {address: name for name, both in HOSTS.items() for address in map(parse_address, both)}
_SLOTS = {parse_address(text): slot for slot in SLOTS for text in (slot.ipv4, slot.ipv6)}


class NoConnections:
    """Every packet here is the first of its connection."""

    def delete_involving(self, addresses: frozenset[Network]) -> int:
        return 0

    def flows(self) -> list[Flow]:
        return []

    def flows_involving(self, addresses: frozenset[Network]) -> list[Flow]:
        return []

    def delete(self, flows: Sequence[Flow]) -> int:
        raise AssertionError("there are none")


class PaperHost:
    """One host: what is written to it stays on paper."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.nft = WireNft()
        self._rtnl = FakeRtnl()
        for interface in (UPLINK, *(slot.interface for slot in SLOTS if slot.host == name)):
            link = self._rtnl.create_veth(interface, VethPeer(name="far", namespace=0))
            self._rtnl.change_link(link.index, LinkChange(up=True))
        settings = Settings(host=name, log_denied=True, log_allowed=True)
        self.dataplane = Dataplane(settings, self.nft, self._rtnl, NoConnections())
        self.graph = Graph(name, self.dataplane.on_update)
        self.rules = Ruleset(())
        self._routes: dict[int, list[Route]] = {}

    def apply(self) -> None:
        asyncio.run(self.dataplane.apply())
        assert self.dataplane.in_sync
        self.rules = Ruleset.read(self.nft)
        every = sorted(self._rtnl.routes(), key=lambda one: -one.destination.length)
        for family in (4, 6):
            self._routes[family] = [one for one in every if one.destination.family == family]

    def route(self, to: Network) -> Route | None:
        """The longest that leads there; None for what the uplink's network holds or nothing."""
        return next((one for one in self._routes[to.family] if one.destination.contains(to)), None)

    def interface_of(self, route: Route) -> str:
        return self._rtnl.link(route.interface).name


class PaperHosts:
    """What is enforced is the state that was given last."""

    def __init__(self) -> None:
        self.state: State = {}
        self.hosts = {name: PaperHost(name) for name in HOSTS}

    def enforce(self, state: State) -> None:
        """Go to this state by what differs, as watches would tell it."""
        changes = differences(self.state, state)
        self.state = state
        for host in self.hosts.values():
            for key, value in changes.items():
                host.graph.on_update(key, value)
            host.graph.flush()
            assert not host.graph.problems, "the worlds are valid"
            host.apply()

    def arrives(self, packet: Packet) -> bool:
        return not self.walk(packet)[0]

    def walk(self, packet: Packet) -> tuple[str, list[str]]:
        """Where and how it ends, empty if it arrives; and what was decided on the way."""
        slot = _SLOTS[packet.source]
        data = frame(packet, 0, source_mac=_MAC, destination_mac=_MAC)[ETHERNET_BYTES:]
        host, iif = self.hosts[slot.host], slot.interface
        walked: list[str] = []
        while True:
            skb = Skb(data, iif=iif)
            skb.walked = walked
            walked.append(f"{host.name}, in by {iif}")
            oif, where = _through(host, skb)
            if where:
                return f"{host.name}: {where}", walked
            data = bytes(skb.data)
            if oif == UPLINK:
                host = next(other for other in self.hosts.values() if other is not host)
                iif = UPLINK
                continue
            target = next((s for s in SLOTS if (s.host, s.interface) == (host.name, oif)), None)
            arrived = target is not None and skb.destination in (
                parse_address(target.ipv4).packed,
                parse_address(target.ipv6).packed,
            )
            return ("" if arrived else f"{host.name}: out by {oif}, not its address"), walked


def _through(host: PaperHost, skb: Skb) -> tuple[str, str]:
    """The interface by which a packet leaves a host, or where it ends."""
    if not host.rules.run(Hook.PREROUTING, skb):
        return "", "prerouting"
    to = from_packed(skb.destination)
    if _LOCAL.get(to) == host.name:
        passes = host.rules.run(Hook.INPUT, skb)
        return "", "delivered to the host" if passes else "input"
    route = host.route(to)
    if route is None or route.kind is not RouteKind.UNICAST:
        return "", "no route"
    oif = host.interface_of(route) if route.gateway is None else UPLINK
    skb.oif = oif.encode().ljust(16, b"\0")
    for hook in (Hook.FORWARD, Hook.POSTROUTING):
        if not host.rules.run(hook, skb):
            return "", hook.name.lower()
    return oif, ""


def without_sysctls(patcher: pytest.MonkeyPatch, empty: Path) -> None:
    """No setting of this machine's is touched: there are none, as for a link that has just gone."""
    patcher.setattr(sysctl, "_ROOT", str(empty))
