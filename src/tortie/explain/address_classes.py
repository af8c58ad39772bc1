"""Addresses that no rule can tell apart.

Workloads that nothing distinguishes (labels that selectors name, profiles, named ports, the host
endpoint of all interfaces around them, and which of all networks and services mentioned contain
them) are one class; likewise addresses of hosts with host endpoints; other addresses are one class
for each region that the networks mentioned cut out. Between a workload and a host there are two
cases: it is the workload's own, or another.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tortie.explain import matching
from tortie.explain.mismatch import short_name
from tortie.explain.oracle import State
from tortie.explain.packet_space import mentioned_networks, rules, slices_asked
from tortie.explain.passage import Interface, host_endpoint_of, host_with, settings_of
from tortie.lib.ip import Network, parse_address, parse_network
from tortie.model.endpoint import HostEndpoint, WorkloadEndpoint
from tortie.model.endpoint_slice import KubernetesEndpointSliceSpec
from tortie.model.keys import ResourceKey
from tortie.model.node import Node
from tortie.model.policy import GlobalNetworkPolicy, NetworkPolicy


class Group(NamedTuple):
    """Members of a class on one host."""

    hosts: tuple[str, ...]
    """In each state."""
    members: int
    addresses: tuple[Network, ...]
    """Of the first, and of the second if there is one."""


class AddressClass(NamedTuple):
    """Addresses that no rule can tell apart."""

    name: str
    """Of the first member; for addresses of nobody, the region."""
    family: int
    members: int
    """Workloads or host endpoints in it; 0 for a region of other addresses."""
    address: Network
    """Of the first member."""
    groups: tuple[Group, ...] = ()
    """Members by host, sorted; of a region none."""
    is_host: bool = False


class Pair(NamedTuple):
    """Packets from one class to another, by two addresses that stand for all."""

    source: Network
    destination: Network
    pairs: int
    """Of members; a region counts as one."""
    is_own_host: bool = False
    """A workload and the host that it is on."""


def pairs_between(source: AddressClass, destination: AddressClass) -> Iterator[Pair]:
    """The cases that there are; nothing for what never leaves a workload or a host."""
    if source.family != destination.family or not (source.members or destination.members):
        return
    if (source.is_host or destination.is_host) and source.members and destination.members:
        yield from _by_hosts(source, destination)
        return
    total = max(source.members, 1) * max(destination.members, 1)
    if source != destination:
        yield Pair(source.address, destination.address, total)
    elif (other := _second(source)) is not None:
        yield Pair(source.address, other, total - source.members)


def _by_hosts(source: AddressClass, destination: AddressClass) -> Iterator[Pair]:
    """One for each way to be, or not to be, on one host, in both states."""
    found: dict[tuple[bool, ...], Pair] = {}
    for one in source.groups:
        for other in destination.groups:
            together = tuple(map(str.__eq__, one.hosts, other.hosts))
            if any(together) and source.is_host and destination.is_host:
                continue  # a host's packets to itself
            known = found.get(together)
            pairs = one.members * other.members
            if known is None:
                first = one.addresses[0], other.addresses[0]
                found[together] = Pair(*first, pairs, is_own_host=together[-1])
            else:
                found[together] = known._replace(pairs=known.pairs + pairs)
    yield from found.values()


def _second(found: AddressClass) -> Network | None:
    addresses = [address for group in found.groups for address in group.addresses]
    return next((address for address in addresses if address != found.address), None)


def address_classes(before: State, after: State) -> list[AddressClass]:
    """All classes, of both states together: workloads and hosts first, by name, then regions."""
    states = (before, after)
    networks = mentioned_networks(before) | mentioned_networks(after)
    serving = [_addresses_in(found) for state in states for found in slices_asked(state)]
    described = [_Described(state, _selectors(before) + _selectors(after)) for state in states]
    members: dict[object, list[_Member]] = {}
    taken: set[Network] = set()
    for member in (*_workloads(states), *_hosts(states)):
        if member.address in taken:
            continue
        taken.add(member.address)
        signature = (
            member.address.family,
            member.is_host,
            frozenset(network for network in networks if network.contains(member.address)),
            tuple(member.address in addresses for addresses in serving),
            tuple(each.holder(member) for each in described),
        )
        members.setdefault(signature, []).append(member)
    networks = networks.union(*serving) - taken
    return [*sorted(map(_class_of, members.values())), *_regions(networks, taken)]


def _class_of(members: "list[_Member]") -> AddressClass:
    by_host: dict[tuple[str, ...], list[Network]] = {}
    for member in members:
        by_host.setdefault(member.hosts, []).append(member.address)
    first = members[0]
    return AddressClass(
        first.name,
        first.address.family,
        len(members),
        first.address,
        tuple(Group(on, len(found), tuple(found[:2])) for on, found in sorted(by_host.items())),
        first.is_host,
    )


def _addresses_in(found: KubernetesEndpointSliceSpec) -> frozenset[Network]:
    return frozenset(parse_network(text) for one in found.endpoints for text in one.addresses)


class _Member(NamedTuple):
    name: str
    address: Network
    hosts: tuple[str, ...]
    """Where it is, in each state; empty where it is not."""
    is_host: bool


def _workloads(states: Sequence[State]) -> Iterator[_Member]:
    """Every address of a workload, as the last state that has the workload says."""
    for key in sorted(_keys(states, WorkloadEndpoint)):
        found = [state.get(key) for state in states]
        specs = [one.spec if isinstance(one, WorkloadEndpoint) else None for one in found]
        hosts = tuple(spec.node if spec else "" for spec in specs)
        state = next(state for state in reversed(states) if key in state)
        for address in map(parse_address, [spec for spec in specs if spec][-1].ip_networks):
            yield _Member(short_name(state, key), address, hosts, False)


def _hosts(states: Sequence[State]) -> Iterator[_Member]:
    """Every known address of a host that a host endpoint decides about, in any of the states."""
    addresses = set().union(*map(_host_addresses, states))
    for address in sorted(addresses):
        at = [host_with(state, address) for state in states]
        judges = [
            short_name(state, judge)
            for state, one in zip(states, at, strict=True)
            if one and (judge := host_endpoint_of(state, one.host, one.interface))
        ]
        if judges:
            hosts = tuple(one.host if one else "" for one in at)
            yield _Member(judges[-1], address, hosts, True)


def _host_addresses(state: State) -> set[Network]:
    found: set[Network] = set()
    if not any(isinstance(resource, HostEndpoint) for resource in state.values()):
        return found
    for resource in state.values():
        texts: tuple[str, ...] = ()
        if isinstance(resource, HostEndpoint):
            texts = resource.spec.expected_ips
        elif isinstance(resource, Node) and resource.spec.bgp is not None:
            texts = (resource.spec.bgp.ipv4_address, resource.spec.bgp.ipv6_address)
        found.update(parse_address(text.partition("/")[0]) for text in texts if text)
    return found


def _keys(states: Sequence[State], kind: type) -> set[ResourceKey]:
    return {
        key
        for state in states
        for key, resource in state.items()
        if isinstance(key, ResourceKey) and isinstance(resource, kind)
    }


class _Described:
    """What policy can see of who has an address, but the address."""

    def __init__(self, state: State, selectors: str) -> None:
        self._state = state
        self._selectors = selectors
        self._endpoints: dict[ResourceKey, object] = {}
        self._hosts: dict[tuple[str, Interface], object] = {}
        self._workloads = {
            address: key
            for key in sorted(_keys([state], WorkloadEndpoint), reverse=True)
            for address in map(parse_address, state[key].spec.ip_networks)  # type: ignore[attr-defined]
        }

    def holder(self, member: _Member) -> object:
        state, address = self._state, member.address
        workload = self._workloads.get(address)
        if workload is not None:
            resource = state[workload]
            assert isinstance(resource, WorkloadEndpoint)
            inside = Interface("", workload=True)
            return self._endpoint(workload), self._host(resource.spec.node, inside)
        at = host_with(state, address)
        holding = [
            self._endpoint(key)
            for key in sorted(_keys([state], HostEndpoint))
            if address in map(parse_network, state[key].spec.expected_ips)  # type: ignore[attr-defined]
        ]
        return tuple(holding), self._host(at.host, at.interface) if at else None

    def _host(self, host: str, interface: Interface) -> object:
        """The host endpoint there, and the settings of its host."""
        if (host, interface) not in self._hosts:
            judge = host_endpoint_of(self._state, host, interface)
            self._hosts[host, interface] = judge and (
                self._endpoint(judge),
                settings_of(self._state, host),
            )
        return self._hosts[host, interface]

    def _endpoint(self, key: ResourceKey) -> object:
        if key not in self._endpoints:
            resource = self._state[key]
            assert isinstance(resource, WorkloadEndpoint | HostEndpoint)
            labels = matching.labels_of(self._state, key).items()
            ports = frozenset((p.name, str(p.protocol), p.port) for p in resource.spec.ports)
            everywhere = isinstance(resource, HostEndpoint) and resource.spec.interface_name == "*"
            self._endpoints[key] = (
                key.namespace,
                frozenset(label for label in labels if self._is_named(label[0])),
                ports,
                resource.spec.profiles,
                everywhere,
            )
        return self._endpoints[key]

    def _is_named(self, label: str) -> bool:
        """Whether a selector may ask for it; those with a meaning of their own are asked always."""
        bare = label.removeprefix("pcns.").removeprefix("pcsa.")
        return bare in self._selectors or bare.startswith("projectcalico.org/")


def _selectors(state: State) -> str:
    """All of them as one text."""
    found: set[str] = set()
    for resource in state.values():
        if isinstance(resource, NetworkPolicy | GlobalNetworkPolicy):
            found |= {resource.spec.selector, resource.spec.service_account_selector}
            if isinstance(resource, GlobalNetworkPolicy):
                found.add(resource.spec.namespace_selector)
    for rule in rules(state):
        for side in (rule.source, rule.destination):
            accounts = side.service_accounts
            found |= {side.selector, side.not_selector, side.namespace_selector}
            found.add(accounts.selector if accounts is not None else "")
    return "\n".join(sorted(found))


def _regions(networks: set[Network], taken: set[Network]) -> Iterator[AddressClass]:
    """One address that is in exactly the same networks as all others of its region."""
    for family, everything in ((4, Network(4, 0, 0)), (6, Network(6, 0, 0))):
        own = {network for network in networks if network.family == family}
        for network in sorted({everything, *own}):
            inner = [other for other in own if other != network and network.contains(other)]
            free = _free_address(network, inner, taken)
            if free is not None:
                name = "elsewhere" if network == everything else f"elsewhere in {network}"
                yield AddressClass(f"{name} (IPv{family})", family, 0, free)


def _free_address(
    network: Network, inner: Sequence[Network], taken: set[Network]
) -> Network | None:
    """An address in it, in none of the inner ones, and nobody's; None if there is none."""
    value = network.first
    holes = sorted((hole.first, hole.last) for hole in inner)
    while value <= network.last:
        for first, last in holes:
            if first <= value <= last:
                value = last + 1
                break
        else:
            address = Network(network.family, value, network.bits)
            if address not in taken:
                return address
            value += 1
    return None
