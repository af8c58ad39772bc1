"""Where packets to workloads go: to an interface here, to another host, or nowhere.

For each destination one route, by what is most specific to it:

1. an address of a local endpoint: to its interface; *borrowed* when it is outside the blocks of
   this host, so that it must be announced by itself;
2. an address of an endpoint elsewhere that is outside the blocks of *its* host: to that host;
3. a block: our own stays here (what is unassigned in it must not loop), another host's goes there.

A block belongs to the host with a confirmed affinity to it; if there are several (there should
not be), to the one whose name sorts first, on all hosts alike. What leads to other hosts must be
inside a pool. An address that several endpoints elsewhere claim is the lowest one's. The target of
a live migration claims after all others, here and elsewhere: see `migrations`.

Source: Calico, felix/calc/l3_route_resolver.go.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from itertools import chain
from typing import NamedTuple

from tortie.calc.addresses import Addresses, AddressSet
from tortie.calc.claims import Claims
from tortie.calc.sequencer import Sequencer
from tortie.calc.validation import Member
from tortie.desired.endpoint import EndpointId, Host, Route, RouteType
from tortie.desired.kinds import Kind
from tortie.lib.ip import Network


class RouteStatistics(NamedTuple):
    host_count: int
    """Of the whole cluster."""
    block_count: int
    remote_count: int
    """Destinations that lead to other hosts."""


class _Attached(NamedTuple):
    """An endpoint of this host."""

    interface: str
    networks: tuple[Network, ...]


class Routes:
    """Changes are noted as they come and take effect in `resolve`, for what they concern.

    Args:
        members: every workload endpoint's, wherever it is.
        is_target: of a live migration.
    """

    def __init__(
        self,
        host: str,
        sequencer: Sequencer,
        members: Callable[[EndpointId], Member | None],
        is_target: Callable[[EndpointId], bool] = lambda _: False,
    ) -> None:
        self._is_target = is_target
        self._host = host
        self._members = members
        self._sequencer = sequencer
        self._blocks: Claims[Network, str] = Claims()
        self._block_lengths: Counter[tuple[int, int]] = Counter()
        """By family and length: how many blocks; usually one length per family."""
        self._pools: dict[Network, None] = {}
        self._hosts: dict[str, Host] = {}
        self._local: dict[EndpointId, _Attached] = {}
        self._addresses = Addresses()
        self._remote_hosts: dict[Network, str] = {}
        """By destination: the host that it leads to."""
        self._remote_destinations: dict[str, dict[Network, None]] = {}
        """The same, by host."""
        self._changed: dict[Network, None] = {}
        """Blocks."""
        self._changed_addresses = AddressSet()

    def on_affinity(self, block: Network, host: str, confirmed: bool) -> None:
        """A host has the block, or it has not."""
        if confirmed == (host in self._blocks.claimants(block)):
            return
        known = block in self._blocks
        if confirmed:
            self._blocks.add(block, host)
        else:
            self._blocks.discard(block, host)
        self._count_block(block, (block in self._blocks) - known)
        self._note([block])
        self._note(self._addresses.within(block))

    def on_pool(self, network: Network, present: bool) -> None:
        """There is a pool with this network, or none any more."""
        if present == (network in self._pools):
            return
        if present:
            self._pools[network] = None
        else:
            del self._pools[network]
        self._note(block for block in self._blocks.things() if network.contains(block))
        self._note(self._addresses.within(network))

    def on_host(self, name: str, host: Host | None) -> None:
        if host is None:
            self._hosts.pop(name, None)
        else:
            self._hosts[name] = host
        self._note(self._remote_destinations.get(name, ()))

    def on_endpoint_elsewhere(
        self, endpoint: EndpointId, before: Member | None, after: Member | None
    ) -> None:
        """An endpoint of another host changed; None: there was none, or is none any more.

        What it was is not remembered here: for most of the cluster's endpoints that is kept once.
        """
        if before == after:
            return
        if before is not None:
            self._forget(endpoint, before.destinations)
        if after is not None:
            self._learn(endpoint, after.destinations)

    def on_local_endpoint(
        self, endpoint: EndpointId, interface: str, networks: tuple[Network, ...]
    ) -> None:
        """An open endpoint of this host; no networks: it is gone, closed, or elsewhere."""
        before = self._local.get(endpoint)
        after = _Attached(interface, networks) if networks else None
        if before == after:
            return
        if before is not None:
            del self._local[endpoint]
            self._forget(endpoint, before.networks)
        if after is not None:
            self._local[endpoint] = after
            self._learn(endpoint, networks)

    def on_role_changed(self, endpoint: EndpointId) -> None:
        """It has become the target of a live migration, or is none any more."""
        attached, member = self._local.get(endpoint), self._members(endpoint)
        self._note(attached.networks if attached else member.destinations if member else ())

    def endpoint_at(self, address: Network) -> EndpointId | None:
        """Who has the address, here or elsewhere; the lowest if several claim it."""
        return next(iter(self._addresses.claimants(address)), None)

    def resolve(self) -> None:
        """Work out the route of every destination that something has changed for."""
        changed, self._changed = self._changed, {}
        addresses, self._changed_addresses = self._changed_addresses, AddressSet()
        for destination in chain(changed, addresses):
            route = self._route(destination)
            self._file(destination, route.host if route else "")
            self._sequencer.put(Kind.ROUTE, destination, route)

    def statistics(self) -> RouteStatistics:
        return RouteStatistics(len(self._hosts), len(self._blocks), len(self._remote_hosts))

    def _note(self, destinations: Iterable[Network]) -> None:
        for destination in destinations:
            if destination.is_address:
                self._changed_addresses.add(destination)
            else:
                self._changed[destination] = None

    def _learn(self, endpoint: EndpointId, networks: tuple[Network, ...]) -> None:
        for network in networks:
            self._addresses.add(network, endpoint)
        self._note(networks)

    def _forget(self, endpoint: EndpointId, networks: tuple[Network, ...]) -> None:
        for network in networks:
            self._addresses.discard(network, endpoint)
        self._note(networks)

    def _count_block(self, block: Network, change: int) -> None:
        size = block.family, block.length
        self._block_lengths[size] += change
        if not self._block_lengths[size]:
            del self._block_lengths[size]

    def _route(self, destination: Network) -> Route | None:
        owner = self._owner(destination)
        claimants = self._addresses.claimants(destination) if destination.is_address else ()
        if len(claimants) > 1:
            # Whoever has it already, of several; targets share what nobody has.
            claimants = tuple(one for one in claimants if not self._is_target(one)) or claimants
        for endpoint in claimants:
            if attached := self._local.get(endpoint):
                borrowed = owner != self._host
                return Route(RouteType.LOCAL_WORKLOAD, attached.interface, borrowed)
        if claimants:
            member = self._members(claimants[0])
            host = member.host if member else ""
            if host and host != owner:
                return self._via(host, destination)
        if destination not in self._blocks:
            return None
        if owner == self._host:
            return Route(RouteType.LOCAL_BLOCK)
        return self._via(owner, destination)

    def _via(self, host: str, destination: Network) -> Route | None:
        if not any(pool.contains(destination) for pool in self._pools):
            return None
        address = self._hosts.get(host, Host())
        gateway = address.ipv4 if destination.family == 4 else address.ipv6
        return Route(RouteType.REMOTE, host=host, gateway=gateway)

    def _owner(self, destination: Network) -> str:
        """The host of the smallest block around the destination; empty if there is none."""
        family, value, length = destination
        for block_family, block_length in sorted(self._block_lengths, reverse=True):
            if block_family == family and block_length <= length:
                shift = destination.bits - block_length
                block = Network(family, value >> shift << shift, block_length)
                if owner := self._blocks.holder(block):
                    return owner
        return ""

    def _file(self, destination: Network, host: str) -> None:
        """Remember which host the destination leads to; empty: none."""
        before = self._remote_hosts.pop(destination, "")
        if before:
            destinations = self._remote_destinations[before]
            del destinations[destination]
            if not destinations:
                del self._remote_destinations[before]
        if host:
            self._remote_hosts[destination] = host
            self._remote_destinations.setdefault(host, {})[destination] = None
