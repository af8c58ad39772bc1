"""What a change of resources would change: which packets pass now and would not, or the reverse.

Exact over the packet space (`packet_space`), and computed only for what the
change can touch: a direction of an endpoint is asked anew if its policies,
tiers or profiles change, or if what is at the other end does.
"""

from collections.abc import Iterator
from typing import NamedTuple

from tortie.explain import matching, oracle
from tortie.explain.oracle import Packet, State, Way
from tortie.explain.packet_space import AddressClass, Service, address_classes, services
from tortie.lib.ip import Network, parse_network
from tortie.model.endpoint import HostEndpoint, WorkloadEndpoint
from tortie.model.endpoint_slice import KubernetesEndpointSlice
from tortie.model.keys import Key, ResourceKey
from tortie.model.network_set import GlobalNetworkSet, NetworkSet
from tortie.model.policy import (
    DEFAULT_ALLOW_PROFILE,
    GlobalNetworkPolicy,
    NetworkPolicy,
    Profile,
    Rule,
    Tier,
)


class Change(NamedTuple):
    """A verdict that changes, for all packets from one class to another."""

    source: AddressClass
    destination: AddressClass
    services: tuple[Service, ...]
    allowed: bool
    """After the change."""

    @property
    def pairs(self) -> int:
        """How many pairs of workloads; with addresses of no workload, how many workloads."""
        if self.source == self.destination:
            return self.source.members * (self.source.members - 1)
        return max(self.source.members, 1) * max(self.destination.members, 1)

    def packet(self) -> Packet:
        """An example."""
        to = self.destination.address
        if self.source == self.destination and self.destination.other is not None:
            to = self.destination.other
        return _packet(self.source.address, to, self.services[0])


def impact(before: State, after: State) -> list[Change]:
    """Every change of a verdict, by source and destination."""
    classes = address_classes(before, after)
    pieces = services(before, after)
    kept = {address for found in classes for address in (found.address, found.other) if address}
    sides = tuple(_Evaluator(_reduced(state, kept), kept) for state in (before, after))
    changed = _changed_addresses(before, after, kept)
    touched = {
        (address, way): _touched(before, after, sides, address, way)
        for address in kept
        for way in ("Ingress", "Egress")
    }
    changes: list[Change] = []
    for source in classes:
        for destination in classes:
            if source.family != destination.family or not (source.members or destination.members):
                continue
            to = destination.address if source != destination else destination.other
            if to is None:
                continue  # a workload's packets to itself stay inside it
            if not (
                touched[source.address, "Egress"]
                or touched[to, "Ingress"]
                or {source.address, to} & changed
            ):
                continue
            found = _compare(sides[0], sides[1], source, destination, to, pieces[source.family])
            changes.extend(found)
    return changes


def host_endpoints_touched(before: State, after: State) -> list[str]:
    """The host endpoints for which something may change too; `impact` is about workloads."""
    changed = [key for key in _changed_keys(before, after) if isinstance(key, ResourceKey)]
    found = set()
    for state in (before, after):
        for key, resource in state.items():
            if not isinstance(key, ResourceKey) or not isinstance(resource, HostEndpoint):
                continue
            if any(_concerns(state, other, key, resource) for other in changed):
                found.add(key.name)
    return sorted(found)


def _concerns(state: State, changed: ResourceKey, key: ResourceKey, endpoint: HostEndpoint) -> bool:
    if changed == key or (changed.kind == "Profile" and changed.name in endpoint.spec.profiles):
        return True
    policy = state.get(changed)
    if not isinstance(policy, NetworkPolicy | GlobalNetworkPolicy):
        return False
    return oracle.selects(state, changed, policy, key)


def _compare(
    before: "_Evaluator",
    after: "_Evaluator",
    source: AddressClass,
    destination: AddressClass,
    to: Network,
    pieces: list[Service],
) -> Iterator[Change]:
    opened: list[Service] = []
    closed: list[Service] = []
    asking = [each.pair(source.address, to) for each in (before, after)]
    for piece in pieces:
        packet = _packet(source.address, to, piece)
        was, becomes = (pair.allows(packet) for pair in asking)
        if was != becomes:
            (opened if becomes else closed).append(piece)
    if opened:
        yield Change(source, destination, tuple(opened), True)
    if closed:
        yield Change(source, destination, tuple(closed), False)


def _packet(source: Network, destination: Network, piece: Service) -> Packet:
    return Packet(
        source,
        destination,
        piece.protocol,
        piece.source_port,
        piece.destination_port,
        piece.icmp_type,
        piece.icmp_code,
    )


def _reduced(state: State, kept: set[Network]) -> State:
    """The state without the workloads that others stand for."""
    return {
        key: resource
        for key, resource in state.items()
        if not isinstance(resource, WorkloadEndpoint)
        or any(parse_network(text) in kept for text in resource.spec.ip_networks)
    }


def _changed_addresses(before: State, after: State, kept: set[Network]) -> set[Network]:
    """Addresses whose holders, or what those are called, differ."""
    found = set()
    profiles = {
        key.name
        for key in _changed_keys(before, after)
        if isinstance(key, ResourceKey) and key.kind == "Profile"
    }
    holding = [
        resource
        for key in _changed_keys(before, after)
        for resource in (before.get(key), after.get(key))
    ]
    if profiles:
        holding += [
            resource
            for resource in after.values()
            if isinstance(resource, WorkloadEndpoint | HostEndpoint)
            and profiles & set(resource.spec.profiles)
        ]
        holding += [resource for resource in after.values() if isinstance(resource, NetworkSet)]
    for resource in holding:
        match resource:
            case WorkloadEndpoint():
                texts = resource.spec.ip_networks
            case HostEndpoint():
                texts = resource.spec.expected_ips
            case NetworkSet() | GlobalNetworkSet():
                texts = resource.spec.nets
            case KubernetesEndpointSlice():
                texts = tuple(a for one in resource.spec.endpoints for a in one.addresses)
            case _:
                continue
        networks = [parse_network(text) for text in texts]
        found |= {address for address in kept if any(net.contains(address) for net in networks)}
    return found


def _changed_keys(before: State, after: State) -> list[Key]:
    return [key for key in before.keys() | after.keys() if before.get(key) != after.get(key)]


def _touched(
    before: State, after: State, sides: tuple["_Evaluator", ...], address: Network, way: str
) -> bool:
    """Whether a changed policy, tier or profile has a say about this direction."""
    for state, side in zip((before, after), sides, strict=True):
        endpoint = side.workload(address)
        if endpoint is None:
            continue
        resource = state[endpoint]
        assert isinstance(resource, WorkloadEndpoint)
        for key in _changed_keys(before, after):
            if not isinstance(key, ResourceKey):
                continue
            found = state.get(key)
            if isinstance(found, NetworkPolicy | GlobalNetworkPolicy):
                if oracle.selects(state, key, found, endpoint):
                    return True
            elif (key.kind == "Profile" and key.name in resource.spec.profiles) or (
                isinstance(before.get(key) or after.get(key), Tier)
            ):
                return True
    return False


class _Evaluator:
    """The reference evaluator with what it asks again and again kept at hand."""

    def __init__(self, state: State, addresses: set[Network]) -> None:
        self.state = state
        self._holders = {
            address: list(matching.holders_of(state, address)) for address in addresses
        }
        self._workloads = {address: oracle.workload_with(state, address) for address in addresses}
        self._lists: dict[tuple[ResourceKey, Way], list[_Stage]] = {}
        self._sides: dict[tuple[int, bool, Network], bool] = {}

    def workload(self, address: Network) -> ResourceKey | None:
        return self._workloads[address]

    def pair(self, source: Network, destination: Network) -> "_Pair":
        """What is left to ask about packets between the two: protocols and ports."""
        halves = []
        ways: tuple[tuple[Network, Way], ...] = ((source, "Egress"), (destination, "Ingress"))
        for address, way in ways:
            endpoint = self._workloads[address]
            if endpoint is not None:
                stages = self._stages(endpoint, way)
                halves.append([self._narrowed(stage, source, destination) for stage in stages])
        return _Pair(self.state, halves, self._holders[source], self._holders[destination])

    def _narrowed(self, stage: "_Stage", source: Network, destination: Network) -> "_Stage":
        """The stage with the rules whose addresses fit."""
        rules = [
            (rule, namespace)
            for rule, namespace in stage.rules
            if rule.action != "Log"
            and self._side(rule, namespace, source, is_source=True)
            and self._side(rule, namespace, destination, is_source=False)
        ]
        return stage._replace(rules=rules)

    def _side(self, rule: Rule, namespace: str, address: Network, *, is_source: bool) -> bool:
        # A policy's rules live as long as the state, so their identity is a name.
        name = (id(rule), is_source, address)
        if name not in self._sides:
            side = rule.source if is_source else rule.destination
            self._sides[name] = matching.side_selects(
                self.state, side, address, self._holders[address], namespace
            )
        return self._sides[name]

    def _stages(self, endpoint: ResourceKey, way: Way) -> "list[_Stage]":
        if (endpoint, way) not in self._lists:
            self._lists[endpoint, way] = list(_stages(self.state, endpoint, way))
        return self._lists[endpoint, way]


class _Stage(NamedTuple):
    """A tier, or one profile: its rules in order, and what happens after the last."""

    rules: list[tuple[Rule, str]]
    """Each with the namespace of its policy."""
    default: str
    """Allow, Deny or Pass."""


class _Pair:
    """Two addresses, and the rules about them that fit by address and label."""

    def __init__(
        self,
        state: State,
        halves: list[list[_Stage]],
        source_holders: list[ResourceKey],
        destination_holders: list[ResourceKey],
    ) -> None:
        self._state = state
        self._halves = halves
        self._source_holders = source_holders
        self._destination_holders = destination_holders

    def allows(self, packet: Packet) -> bool:
        return all(self._half(stages, packet) for stages in self._halves)

    def _half(self, stages: list[_Stage], packet: Packet) -> bool:
        for stage in stages:
            action = stage.default
            for rule, namespace in stage.rules:
                if self._matches(rule, namespace, packet):
                    action = rule.action
                    break
            if action != "Pass":
                return action == "Allow"
        return False

    def _matches(self, rule: Rule, namespace: str, packet: Packet) -> bool:
        return (
            matching.protocol_matches(rule, packet)
            and all(
                matching.ports_match(self._state, rule, side, holders, port, packet, namespace)
                for side, holders, port in (
                    (rule.source, self._source_holders, packet.source_port),
                    (rule.destination, self._destination_holders, packet.destination_port),
                )
            )
            and matching.reaches_service(self._state, rule, packet, namespace)
        )


def _stages(state: State, endpoint: ResourceKey, way: Way) -> Iterator[_Stage]:
    for _, default, policies in oracle.tiers_of(state, endpoint, way):
        rules = [
            (rule, key.namespace)
            for key, policy in policies
            for rule in (policy.spec.ingress if way == "Ingress" else policy.spec.egress)
        ]
        yield _Stage(rules, default)
    resource = state[endpoint]
    assert isinstance(resource, WorkloadEndpoint)
    for name in resource.spec.profiles:
        if name == DEFAULT_ALLOW_PROFILE:
            yield _Stage([], "Allow")
            return
        profile = state.get(ResourceKey("Profile", name))
        if not isinstance(profile, Profile):
            yield _Stage([], "Deny")
            return
        own = profile.spec.ingress if way == "Ingress" else profile.spec.egress
        yield _Stage([(rule, "") for rule in own], "Pass")
