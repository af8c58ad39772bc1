"""What a change of resources would change: which packets pass now and would not, or the reverse.

Exact over the packet space (`packet_space`, `address_classes`), and computed only for what the
change can touch: two addresses are asked about anew if the policies, tiers, profiles or settings at
either end change, or what either of them is. Workloads, and hosts with host endpoints, as `trace`
sees them.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from tortie.explain import matching, oracle
from tortie.explain.address_classes import AddressClass, Pair, address_classes, pairs_between
from tortie.explain.oracle import Packet, State, Way
from tortie.explain.packet_space import Service, failsafe_ports, services
from tortie.explain.passage import HostSettings, is_failsafe, is_failsafe_answer, settings_of
from tortie.explain.trace import Ask, asks_of, end_of
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
)


class Change(NamedTuple):
    """A verdict that changes, for all packets from one class to another."""

    source: AddressClass
    destination: AddressClass
    services: tuple[Service, ...]
    allowed: bool
    """After the change."""
    between: Pair

    @property
    def pairs(self) -> int:
        """How many pairs of workloads or hosts; other addresses count as one."""
        return self.between.pairs

    def packet(self) -> Packet:
        """An example."""
        return _packet(self.between.source, self.between.destination, self.services[0])


def impact(before: State, after: State) -> list[Change]:
    """Every change of a verdict, by source and destination."""
    classes = address_classes(before, after)
    cases = [
        (source, destination, pair)
        for source in classes
        for destination in classes
        for pair in pairs_between(source, destination)
    ]
    kept = {address for *_, pair in cases for address in (pair.source, pair.destination)}
    sides = tuple(_Evaluator(_reduced(state, kept), kept) for state in (before, after))
    changed = _changed_addresses(before, after, kept)
    failsafe = failsafe_ports(before, after)
    pieces, at_hosts = services(before, after), services(before, after, failsafe)
    with_answers = services(before, after, failsafe, answers=True)
    changes: list[Change] = []
    for source, destination, pair in cases:
        is_changed = bool({pair.source, pair.destination} & changed)
        asks = [side.asks(pair.source, pair.destination) for side in sides]
        if not is_changed and asks[0] == asks[1]:
            continue
        asks = [side.narrowed(pair.source, pair.destination) for side in sides]
        if not is_changed and asks[0] == asks[1]:
            continue
        asked = pieces
        if source.is_host or destination.is_host:
            untracked = any(s.is_untracked for one in asks for end in one for s in end.stages)
            asked = with_answers if untracked else at_hosts
        changes.extend(_compare(sides, source, destination, pair, asked[source.family]))
    return changes


def host_endpoints_unknown(before: State, after: State) -> list[str]:
    """Host endpoints that a change concerns and of which no address is known; the rest is looked
    at by `impact`."""
    changed = [key for key in _changed_keys(before, after) if isinstance(key, ResourceKey)]
    found, known = set(), set()
    for state in (before, after):
        known |= {one.name for one in address_classes(state, state) if one.is_host}
        for key, resource in state.items():
            if not isinstance(key, ResourceKey) or not isinstance(resource, HostEndpoint):
                continue
            if any(_concerns(state, other, key, resource) for other in changed):
                found.add(key.name)
    return sorted(found - known)


def _concerns(state: State, changed: ResourceKey, key: ResourceKey, endpoint: HostEndpoint) -> bool:
    if changed == key or (changed.kind == "Profile" and changed.name in endpoint.spec.profiles):
        return True
    policy = state.get(changed)
    if not isinstance(policy, NetworkPolicy | GlobalNetworkPolicy):
        return False
    return oracle.selects(state, changed, policy, key)


def _compare(
    sides: "Sequence[_Evaluator]",
    source: AddressClass,
    destination: AddressClass,
    pair: Pair,
    pieces: list[Service],
) -> Iterator[Change]:
    opened: list[Service] = []
    closed: list[Service] = []
    asking = [each.between(pair.source, pair.destination) for each in sides]
    for piece in pieces:
        packet = _packet(pair.source, pair.destination, piece)
        was, becomes = (one.allows(packet) for one in asking)
        if was != becomes:
            (opened if becomes else closed).append(piece)
    if opened:
        yield Change(source, destination, tuple(opened), True, pair)
    if closed:
        yield Change(source, destination, tuple(closed), False, pair)


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


class _Stage(NamedTuple):
    """A tier, or one profile: its rules in order, and what happens after the last."""

    rules: list[tuple[Rule, str]]
    """Each with the namespace of its policy."""
    default: str
    """Allow, Deny or Pass."""
    is_untracked: bool = False


class _Asked(NamedTuple):
    """Who is asked at one end, and what they say."""

    ask: Ask
    stages: list[_Stage]
    settings: HostSettings | None
    """Of the host, where they matter."""


class _Evaluator:
    """The reference evaluator with what it asks again and again kept at hand."""

    def __init__(self, state: State, addresses: set[Network]) -> None:
        self.state = state
        self._holders = {
            address: list(matching.holders_of(state, address)) for address in addresses
        }
        self._ends = {address: end_of(state, address) for address in addresses}
        self._asked: dict[Ask, _Asked] = {}
        self._sides: dict[tuple[int, bool, Network], bool] = {}

    def asks(self, source: Network, destination: Network) -> list[_Asked]:
        """Equal to another state's if nothing that is asked there differs."""
        ends = self._ends[source], self._ends[destination]
        return [self._of(ask) for ask in asks_of(self.state, *ends)]

    def _of(self, ask: Ask) -> _Asked:
        if ask not in self._asked:
            with_settings = ask.is_host or ask.endpoint is None
            settings = settings_of(self.state, ask.host) if with_settings else None
            self._asked[ask] = _Asked(ask, list(_stages(self.state, ask)), settings)
        return self._asked[ask]

    def narrowed(self, source: Network, destination: Network) -> list[_Asked]:
        """Without the rules that do not fit the two by address and label."""
        return [
            each._replace(
                stages=[self._fitting(stage, source, destination) for stage in each.stages]
            )
            for each in self.asks(source, destination)
        ]

    def between(self, source: Network, destination: Network) -> "_Between":
        """What is left to ask about packets between the two: protocols and ports."""
        asked = self.narrowed(source, destination)
        return _Between(self.state, asked, self._holders[source], self._holders[destination])

    def _fitting(self, stage: _Stage, source: Network, destination: Network) -> _Stage:
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


class _Between:
    """Two addresses, and the rules about them that fit by address and label."""

    def __init__(
        self,
        state: State,
        asked: list[_Asked],
        source_holders: list[ResourceKey],
        destination_holders: list[ResourceKey],
    ) -> None:
        self._state = state
        self._asked = asked
        self._source_holders = source_holders
        self._destination_holders = destination_holders
        self._known: dict[object, bool] = {}

    def allows(self, packet: Packet) -> bool:
        return all(self._end(asked, packet) for asked in self._asked)

    def _end(self, asked: _Asked, packet: Packet) -> bool:
        ask, spared = asked.ask, False
        if ask.endpoint is None:
            assert asked.settings is not None
            return asked.settings.endpoint_to_host != "Drop"
        if ask.is_host:
            if self._spared(is_failsafe, ask, packet, packet.destination_port):
                return True
            spared = self._spared(is_failsafe_answer, ask, packet, packet.source_port)
        for stage in asked.stages:
            if stage.is_untracked and spared:
                continue
            action = stage.default
            for rule, namespace in stage.rules:
                if self._matches(rule, namespace, packet):
                    action = rule.action
                    break
            if action != "Pass":
                return action == "Allow"
        return ask.passes_by

    def _spared(
        self,
        question: Callable[[State, ResourceKey, Way, Packet], bool],
        ask: Ask,
        packet: Packet,
        port: int | None,
    ) -> bool:
        """Between two addresses it depends on this port and the protocol alone."""
        name = question, ask, packet.protocol, port
        if name not in self._known:
            assert ask.endpoint is not None
            self._known[name] = question(self._state, ask.endpoint, ask.way, packet)
        return self._known[name]

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


def _stages(state: State, ask: Ask) -> Iterator[_Stage]:
    for place, asked in ask.asked:
        for _, default, policies in oracle.tiers_of(state, asked, ask.way, place):
            rules = [
                (rule, key.namespace)
                for key, policy in policies
                for rule in (policy.spec.ingress if ask.way == "Ingress" else policy.spec.egress)
            ]
            yield _Stage(rules, default, place == "untracked")
    if ask.endpoint is None or ask.passes_by:
        return
    resource = state[ask.endpoint]
    assert isinstance(resource, WorkloadEndpoint | HostEndpoint)
    for name in resource.spec.profiles:
        if name == DEFAULT_ALLOW_PROFILE:
            yield _Stage([], "Allow")
            return
        profile = state.get(ResourceKey("Profile", name))
        if not isinstance(profile, Profile):
            yield _Stage([], "Deny")
            return
        own = profile.spec.ingress if ask.way == "Ingress" else profile.spec.egress
        yield _Stage([(rule, "") for rule in own], "Pass")
