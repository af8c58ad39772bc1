"""What calc decided, made true on this host: managers in front, drivers behind.

Order of an apply, which is what safety rests on:

1. nftables, both tables in one transaction. If it is refused nothing else is
   done: no route leads to a workload whose policy is not in force. Where others
   can empty the tables, links get their guards next.
2. Connections of addresses that left an endpoint are cut. Its interface is
   closed by then, so no new one can appear behind our back.
3. Sysctls, neighbours and bandwidth: forwarding is on only where the rules are.
4. Routes: an address becomes reachable, here or elsewhere, when all else is done.
5. Connections that policy let in before, and would not let in now, are cut.
   Listing connections costs the kernel 10 ms however few there are, so a thread
   does it, while later changes are applied, and at most a tenth of the time:
   `retry_seconds` says when it wants to be called again if it was too early.

What fails stays pending, and is tried again by the next apply.
"""

import asyncio
import functools
import logging
import re
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import NamedTuple, Protocol

from tortie.dataplane.driver.guard import GuardDriver
from tortie.dataplane.driver.link import Links
from tortie.dataplane.driver.neighbour import NeighbourDriver
from tortie.dataplane.driver.nftables import NftablesDriver, NftablesStatistics
from tortie.dataplane.driver.route import RouteDriver
from tortie.dataplane.driver.shaper import ShaperDriver
from tortie.dataplane.driver.sysctl import SysctlDriver, global_key
from tortie.dataplane.driver.unseen_rule import UnseenRuleDriver
from tortie.dataplane.manager.connection import ConnectionManager, Surroundings
from tortie.dataplane.manager.counts import Counts, counts
from tortie.dataplane.manager.endpoint import EndpointManager
from tortie.dataplane.manager.floating import FloatingManager
from tortie.dataplane.manager.host_endpoint import HostEndpointManager, HostEndpointStatus
from tortie.dataplane.manager.ipset import IPSetManager
from tortie.dataplane.manager.limit import LimitManager
from tortie.dataplane.manager.masquerade import MasqueradeManager
from tortie.dataplane.manager.policy import PolicyManager
from tortie.dataplane.manager.refusal import Refusals
from tortie.dataplane.manager.route import RouteManager
from tortie.dataplane.manager.seen import Seen, SeenManager
from tortie.dataplane.manager.service_loop import ServiceLoopManager
from tortie.dataplane.manager.source import SourceManager
from tortie.dataplane.rules import static
from tortie.dataplane.settings import Settings
from tortie.desired.endpoint import EndpointId
from tortie.desired.kinds import Kind
from tortie.kernel import nflog
from tortie.kernel.conntrack import Counted, Flow
from tortie.kernel.nft.connection import Backend as NftBackend
from tortie.kernel.own_connections import Ends
from tortie.kernel.rtnl import route
from tortie.kernel.rtnl.backend import Backend as RtnlBackend
from tortie.kernel.rtnl.monitor import (
    AddressChanged,
    AddressGone,
    Event,
    LinkChanged,
    LinkGone,
    Overflow,
    RulesChanged,
)
from tortie.lib.errors import KernelBusy, TortieError
from tortie.lib.ip import Network

log = logging.getLogger(__name__)

CUT_PAUSE = 9
"""Pause behind a search for denied connections, in times of what it took."""


class Manager(Protocol):
    def on_update(self, kind: Kind, name: Hashable, value: object | None) -> None: ...


class Connections(Protocol):
    """The part of `kernel.conntrack.Conntrack` that is needed here; called from threads, too."""

    def delete_involving(self, addresses: frozenset[Network]) -> int:
        """Delete every connection of these addresses; returns how many there were."""

    def flows(self) -> list[Flow]:
        """All connections."""

    def flows_involving(self, addresses: frozenset[Network]) -> list[Flow]:
        """Connections with one of these addresses at any end."""

    def delete(self, flows: Sequence[Flow]) -> int:
        """Delete these, if they are still there; returns how many were."""


class Statistics(NamedTuple):
    nftables: NftablesStatistics
    endpoints: int
    routes: int
    pending: int
    """Routes, neighbours and sysctls that are not as they should be."""
    applies: int
    connections_cut: int
    refused: int
    """Objects that are closed because the kernel does not take them."""


class Dataplane:
    """Everything this host's kernel is told. Loop task only.

    `on_update` and `on_link_event` only take note; the kernel hears of it in
    `apply`. The caller makes the first apply only when calc is in sync.
    """

    def __init__(
        self,
        settings: Settings,
        nft: NftBackend,
        rtnl: RtnlBackend,
        conntrack: Connections,
        *,
        owned_tables: bool = False,
        on_found: Callable[[], None] | None = None,
        spared: Callable[[], frozenset[Ends]] = frozenset,
    ) -> None:
        """
        Args:
            owned_tables: what `kernel.nft.connection.supports_owner_tables` said.
            on_found: called when connections have been listed that may be denied now, for an
                `apply` that cuts them; None: the `apply` that wants the list waits for it.
            spared: connections that stay, whatever policy says of them by now.
        """
        self._settings = settings
        self._rtnl = rtnl
        self._conntrack = conntrack
        self._spared = spared
        self._nft = NftablesDriver(nft, owned=owned_tables)
        self._sysctls = SysctlDriver()
        self._links = Links(self._sysctls, settings)
        self._guards = GuardDriver(rtnl, self._links, settings)
        self._unseen_rule = UnseenRuleDriver(rtnl, settings)
        self._neighbours = NeighbourDriver(rtnl, self._links)
        self._routes = RouteDriver(
            rtnl,
            protocol=settings.route_protocol,
            metric4=settings.route_metric4,
            metric6=settings.route_metric6,
        )
        inet, arp = self._nft.inet, self._nft.arp
        self._policies = policies = PolicyManager(inet, settings)
        self._endpoints = EndpointManager(inet, arp, policies, self._neighbours, settings)
        self._floating = FloatingManager(inet, settings)
        sources = SourceManager(inet, self._links, settings)
        self._shapers = ShaperDriver(rtnl, self._links)
        limits = LimitManager(inet, self._shapers, settings)
        self._host_endpoints = HostEndpointManager(inet, policies, settings)
        self._route_manager = RouteManager(self._routes, self._links, settings)
        masquerade = MasqueradeManager(inet, settings)
        ip_sets = IPSetManager(inet, policies, settings)
        self._seen = SeenManager(
            self._links, self._endpoints, policies, ip_sets, self._host_endpoints, settings
        )
        self._connections = ConnectionManager(
            self._endpoints, policies, ip_sets, self._host_endpoints, settings
        )
        self._refusals = Refusals(
            self._nft, policies, self._endpoints, ip_sets, limits, sources, self._host_endpoints
        )
        self._managers: dict[Kind, tuple[Manager, ...]] = {
            Kind.POOL: (masquerade, ip_sets),
            Kind.HOST: (masquerade,),
            Kind.IP_SET: (ip_sets,),
            Kind.IP_SET_MEMBER: (ip_sets,),
            Kind.POLICY: (policies,),
            Kind.ENDPOINT: (sources, self._endpoints, self._floating, limits),
            Kind.HOST_ENDPOINT: (self._host_endpoints,),
            Kind.STAGED_POLICY: (self._seen,),
            Kind.STAGED_ENDPOINT: (self._seen,),
            Kind.ROUTE: (self._route_manager,),
            Kind.SERVICE_NETWORK: (ServiceLoopManager(inet, settings),),
        }
        inet.want_content(static.inet_table(settings))
        arp.want_content(static.arp_table(settings))
        if settings.forwarding:
            self._sysctls.want(global_key("ipv4/ip_forward"), "1")
        if settings.forwarding and settings.ipv6:
            self._sysctls.want(global_key("ipv6/conf/all/forwarding"), "1")
        if settings.log_allowed:
            # What known connections carry; rules see their first packets only.
            self._sysctls.want(global_key("netfilter/nf_conntrack_acct"), "1")
        self._stale = True
        """Links, routes and neighbours must be read before anything is written."""
        self._addresses_stale = True
        """So must the interfaces' addresses, as far as a host endpoint goes by them."""
        self._applies = self._cut = 0
        self._on_found = on_found
        self._search: asyncio.Future[list[Flow]] | None = None
        """Of connections that may be denied."""
        self._search_began = self._next_cut = 0.0
        """On the monotonic clock: denied connections are not looked for before the latter."""

    def remote_destinations(self) -> frozenset[Network]:
        """Destinations that lead to other hosts."""
        return self._route_manager.remote_destinations()

    def stop_remote_routes(self) -> None:
        """The next `apply` removes our routes to other hosts: somebody else has them now."""
        self._route_manager.stop_remote()

    # Taking note.

    def on_update(self, kind: Kind, name: Hashable, value: object | None) -> None:
        """One object of desired state is new, differs, or (None) is gone."""
        self._refusals.on_update(kind, name)
        for manager in self._managers.get(kind, ()):  # there are kinds that none has a use for
            manager.on_update(kind, name, value)

    def on_link_event(self, event: Event) -> None:
        """From `kernel.rtnl.monitor.Monitor`; events about other things are ignored."""
        match event:
            case LinkChanged(link):
                self._check_uplink(link.name, up=link.up)
                self._on_links(self._links.observe(link))
            case LinkGone(link):
                self._check_uplink(link.name, up=False)
                self._on_links(self._links.observe_gone(link))
            case AddressChanged(address) | AddressGone(address):
                if not self._links.is_workload(self._links.name_of(address.interface) or ""):
                    self._addresses_stale = True
            case RulesChanged():
                self._unseen_rule.resync()
            case Overflow():
                self._unseen_rule.resync()
                self._stale = True

    def _check_uplink(self, name: str, *, up: bool) -> None:
        """Routes by way of other hosts go with the link to them, and nobody tells."""
        known = self._links.get(name)
        was_up = known is not None and known.up
        if up != was_up and not self._links.is_workload(name):
            self._stale = True

    # Making it true.

    async def apply(self) -> None:
        """Write everything that is pending.

        An object that the kernel does not take is closed: see `refused`.
        A single route, neighbour or sysctl that the kernel refuses is logged,
        counted as pending, and does not fail the rest.

        Raises:
            TortieError: the rules, or cutting connections, failed; all is pending.
        """
        if self._stale:
            self._read_back()
        if self._addresses_stale and self._host_endpoints.needs_addresses:
            self._read_addresses()
        self._host_endpoints.resolve()
        self._guards.open_former()
        await self._refusals.apply()
        self._unseen_rule.apply()
        self._report(self._guards.apply())
        await self._cut_departed()
        self._report(self._sysctls.apply())
        try:
            self._report(self._neighbours.apply())
            self._report(self._shapers.apply())
            self._routes.apply()  # has logged what was refused
        except KernelBusy:
            self._stale = True
            raise
        await self._cut_denied()
        self._applies += 1

    async def resync(self) -> None:
        """Compare all of ours with the kernel, and write what differs. Raises as `apply`."""
        # The rules first: whoever has changed anything has most likely changed them.
        self._guards.open_former()
        await self._refusals.resync()
        self._read_back()
        self._guards.resync()
        self._unseen_rule.resync()
        await self._sysctls.resync()
        await self.apply()

    # Telling.

    def see(self, logged: nflog.Packet) -> Seen | None:
        """What a logged packet says; None for what is not ours."""
        return self._seen.see(logged)

    def endpoints_up(self) -> dict[EndpointId, bool]:
        """Every endpoint here, and whether its link is there and up, with a carrier.

        After an `apply` without error: those that are up are enforced and routed.
        """
        found = {}
        for endpoint_id, endpoint in self._endpoints.endpoints.items():
            found[endpoint_id] = bool(self._is_running(endpoint.interface)) and not (
                self._refusals and self._refusals.is_closed(endpoint_id)
            )
        return found

    def endpoints_refused(self) -> list[EndpointId]:
        """Those here that are closed because the kernel does not take what they should be."""
        endpoints = self._endpoints.endpoints
        return [one for one in endpoints if self._refusals and self._refusals.is_closed(one)]

    def host_endpoint_statuses(self) -> dict[str, HostEndpointStatus]:
        """Of every host endpoint here; after an `apply` without error, what is `up` is enforced."""

        return self._host_endpoints.statuses(self._is_running)

    def _is_running(self, name: str) -> bool | None:
        """Whether the link is up, its other end too; None if there is no such link."""
        link = self._links.get(name)
        return None if link is None else link.up and link.carrier

    def interfaces(self) -> dict[EndpointId, str]:
        """Of every endpoint here that has one."""
        found = self._endpoints.endpoints.items()
        return {one: endpoint.interface for one, endpoint in found if endpoint.interface}

    @property
    def in_sync(self) -> bool:
        """Whether the last `apply` left nothing pending and nothing was noted since.

        What is `refused` does not count: it is closed, and waits for nothing.
        """
        settled = not self._stale and self._host_endpoints.in_sync
        return settled and self._nft.in_sync and not self._pending_count()

    @property
    def has_work(self) -> bool:
        """Would an `apply` now do anything? Most events of links are about nothing of ours."""
        addresses = self._addresses_stale and self._host_endpoints.needs_addresses
        departed = self._endpoints.departed or self._floating.departed
        return addresses or not self.in_sync or bool(departed)

    @property
    def refused(self) -> dict[str, str]:
        """Objects that are closed because the kernel does not take them, and what it said.

        Each is tried again when it changes, and at a resync.
        """
        return self._refusals.refused

    @property
    def retry_seconds(self) -> float | None:
        """After a good `apply`: how long until the next one has something left to do.

        None means until something changes, or `on_found` is called.
        """
        if self._search is not None or not self._connections.suspects().any:
            return None
        return max(0.0, self._next_cut - time.monotonic())

    @property
    def is_cutting(self) -> bool:
        """Whether connections that policy denies by now are being looked for."""
        return self._search is not None

    def counts(self, by_handle: Mapping[int, Counted]) -> Counts:
        """What rules have decided.

        Args:
            by_handle: of `INET`, as `kernel.nft.counters.read` has it.
        """
        return counts(self._nft.inet, self._policies, by_handle)

    def statistics(self) -> Statistics:
        return Statistics(
            nftables=self._nft.statistics(),
            endpoints=len(self._endpoints.endpoints),
            routes=self._routes.count,
            pending=self._pending_count(),
            applies=self._applies,
            connections_cut=self._cut,
            refused=len(self._refusals),
        )

    def _pending_count(self) -> int:
        drivers = (
            self._guards,
            self._unseen_rule,
            self._sysctls,
            self._neighbours,
            self._routes,
            self._shapers,
        )
        return sum(driver.pending_count for driver in drivers)

    def _read_back(self) -> None:
        # Links first: the others are known by their indexes.
        self._on_links(self._links.observe_all(self._rtnl.links()))
        self._neighbours.resync()
        self._routes.resync()
        self._shapers.resync()
        self._stale = False
        self._addresses_stale = True

    def _read_addresses(self) -> None:
        found: defaultdict[str, set[Network]] = defaultdict(set)
        for one in self._rtnl.addresses():
            name = self._links.name_of(one.interface)
            if name is not None and self._may_be_hosts(name):
                found[name].add(one.address)
        self._host_endpoints.on_addresses({name: frozenset(own) for name, own in found.items()})
        self._addresses_stale = False

    def _may_be_hosts(self, name: str) -> bool:
        """Whether a host endpoint may go by the link's addresses."""
        excluded = self._settings.excluded_interfaces
        return not self._links.is_workload(name) and not (excluded and re.fullmatch(excluded, name))

    def _on_links(self, names: set[str]) -> None:
        for name in names:
            self._guards.on_link(name)
            self._route_manager.on_link(name)
            self._neighbours.on_link(name)
            self._shapers.on_link(name)
            if not self._links.is_workload(name):
                self._addresses_stale = True

    async def _cut_departed(self) -> None:
        departed = self._endpoints.departed | self._floating.departed
        if departed and self._settings.conntrack_cleanup:
            # The kernel walks its whole table, 10 to 20 ms: in a thread, for workloads that come
            # meanwhile. Nobody else uses that socket before `apply` is done.
            self._cut += await asyncio.to_thread(self._conntrack.delete_involving, departed)
        self._endpoints.confirm_departed(departed)
        self._floating.confirm_departed(departed)

    async def _cut_denied(self) -> None:
        """Behind the rules: what is listed from now on was let in by them, or before them."""
        search = self._search or self._search_denied()
        if search is None or (self._on_found is not None and not search.done()):
            return
        try:
            flows = await search
            denied = self._connections.denied(flows, self._surroundings()) if flows else []
            self._cut += self._conntrack.delete(denied) if denied else 0
        except TortieError:
            self._connections.give_back()
            raise
        finally:
            self._search = None
        now = time.monotonic()
        self._next_cut = now + CUT_PAUSE * (now - self._search_began)

    def _search_denied(self) -> asyncio.Future[list[Flow]] | None:
        """List the connections of all suspects; None if there are none, or it is too early."""
        if not self._connections.suspects().any or time.monotonic() < self._next_cut:
            return None
        suspects = self._connections.take()
        if not self._settings.cut_denied_connections:
            return None
        self._search_began = time.monotonic()
        loop = asyncio.get_running_loop()
        if suspects.host:
            self._search = loop.run_in_executor(None, self._conntrack.flows)
        else:
            list_flows = self._conntrack.flows_involving
            self._search = loop.run_in_executor(None, list_flows, suspects.addresses)
        if (on_found := self._on_found) is not None:
            self._search.add_done_callback(lambda _: on_found())
        return self._search

    def _surroundings(self) -> Surroundings:
        @functools.cache
        def interface_towards(address: Network) -> str:
            return self._links.name_of(self._rtnl.interface_towards(address)) or ""

        return Surroundings(self._own_addresses(), interface_towards, self._spared())

    def _own_addresses(self) -> frozenset[Network]:
        found = self._rtnl.routes(table=route.TABLE_LOCAL)
        return frozenset(one.destination for one in found if one.kind is route.Kind.LOCAL)

    def _report(self, refused: list[TortieError]) -> None:
        for error in refused:
            log.warning("refused, will be tried again: %s", error)
