"""How a packet fares at each of its two ends: tier by tier, rule by rule.

`oracle` and `passage` say whether; here is kept what was asked on the way there.
"""

from collections.abc import Iterator
from typing import NamedTuple

from tortie.explain import oracle
from tortie.explain.mismatch import Mismatch, mismatches, short_name
from tortie.explain.oracle import Packet, Place, State, Way
from tortie.explain.passage import (
    HostAddress,
    Interface,
    asked_before_nat,
    host_endpoint_of,
    host_with,
    is_failsafe,
    is_failsafe_answer,
    settings_of,
)
from tortie.lib.ip import Network
from tortie.model.endpoint import HostEndpoint, WorkloadEndpoint
from tortie.model.keys import ResourceKey
from tortie.model.policy import Profile, Rule

FORWARD: Place = "forward"

FAILSAFE, ENDPOINT_TO_HOST = "failsafe", "endpoint-to-host"
"""In place of a tier's name."""


class RuleVerdict(NamedTuple):
    position: int
    """From 0, as in `ingress[0]`."""
    action: str
    matches: bool
    because: tuple[Mismatch, ...]
    """Why it does not match; empty if it does."""


class PolicyVerdict(NamedTuple):
    name: str
    """`NetworkPolicy(default/web)`, `Profile(kns.default)`."""
    rules: tuple[RuleVerdict, ...]
    """Up to the one that decided."""
    action: str
    """What it decided; empty if nothing."""


class TierVerdict(NamedTuple):
    name: str
    """Empty for the profiles."""
    policies: tuple[PolicyVerdict, ...]
    action: str
    """What came out: Allow, Deny, or Pass to the next one."""
    by_default: bool
    """No rule decided: it is the tier's default action, or the end of the profiles."""


class Half(NamedTuple):
    way: Way
    endpoint: str
    tiers: tuple[TierVerdict, ...]
    """Up to the one that decided; profiles last, where it came to them."""
    allowed: bool


class End(NamedTuple):
    """What is known of one address."""

    workload: ResourceKey | None
    address: HostAddress | None
    """It is one of a host's own, and no workload's."""
    host: str
    """Where the workload is, or whose address it is; empty for all others."""
    host_endpoint: ResourceKey | None
    """The host's own; at a workload the one of all interfaces."""


def end_of(state: State, address: Network) -> End:
    workload = oracle.workload_with(state, address)
    if workload is not None:
        resource = state[workload]
        assert isinstance(resource, WorkloadEndpoint)
        host, found = resource.spec.node, None
        interface = Interface(resource.spec.interface_name, workload=True)
    else:
        found = host_with(state, address)
        if found is None:
            return End(None, None, "", None)
        host, interface = found.host, found.interface
    return End(workload, found, host, host_endpoint_of(state, host, interface))


class Ask(NamedTuple):
    """Who is asked at one end of a packet's way; the same for all between two addresses."""

    way: Way
    endpoint: ResourceKey | None
    """None: nobody; DefaultEndpointToHostAction decides."""
    host: str
    asked: tuple[tuple[Place, ResourceKey], ...] = ()
    """Which policies, and whose, in this order."""
    is_host: bool = False
    """Failsafe ports are spared, and their answers doNotTrack policies."""
    passes_by: bool = False
    """What no policy decides passes; else the profiles decide."""


def asks_of(state: State, source: End, destination: End) -> Iterator[Ask]:
    """Egress of the source, ingress of the destination, and what their hosts say of them."""
    is_own = source.host == destination.host
    if source.address is not None and destination.workload is not None and is_own:
        return  # the host reaches its own workloads
    yield from _asks_at(state, "Egress", source, destination)
    yield from _asks_at(state, "Ingress", destination, source)


def _asks_at(state: State, way: Way, end: End, other: End) -> Iterator[Ask]:
    if end.workload is not None:
        own = Ask(way, end.workload, end.host, (("normal", end.workload),))
        passing = _asks_passing(way, end, other)
        yield from (*passing, own) if way == "Egress" else (own, *passing)
    elif end.address is not None and other.workload is not None and other.host == end.host:
        yield Ask(way, None, end.host)  # from a workload to its own host
    elif end.address is not None and end.host_endpoint is not None:
        asked = tuple(
            (
                place,
                asked_before_nat(state, end.host_endpoint, end.address.interface)
                if place == "pre-DNAT"
                else end.host_endpoint,
            )
            for place in places_of(state, end.host_endpoint, way)
        )
        yield Ask(way, end.host_endpoint, end.host, asked, is_host=True)


def _asks_passing(way: Way, end: End, other: End) -> tuple[Ask, ...]:
    """The host endpoint of all interfaces about a workload's packets."""
    if end.host_endpoint is None:
        return ()
    # What comes from a workload comes in to its host.
    seen: Way = "Ingress" if way == "Egress" else "Egress"
    places: tuple[Place, ...] = ("pre-DNAT", FORWARD) if seen == "Ingress" else (FORWARD,)
    if way == "Egress" and other.address is not None and other.host == end.host:
        places = ("pre-DNAT",)  # to its own host: it does not pass by
    asked = tuple((place, end.host_endpoint) for place in places)
    return (Ask(seen, end.host_endpoint, end.host, asked, passes_by=True),)


def halves_of(state: State, packet: Packet) -> tuple[Half, ...]:
    """What is said at both ends, in the order of the packet's way."""
    if packet.source == packet.destination:
        return ()  # to oneself: it does not get to the host
    ends = end_of(state, packet.source), end_of(state, packet.destination)
    halves = (_half(state, ask, packet) for ask in asks_of(state, *ends))
    return tuple(half for half in halves if half is not None)


def _half(state: State, ask: Ask, packet: Packet) -> Half | None:
    """None if there was nobody to ask."""
    way, endpoint = ask.way, ask.endpoint
    if endpoint is None:
        action = "Deny" if settings_of(state, ask.host).endpoint_to_host == "Drop" else "Allow"
        tier = TierVerdict(ENDPOINT_TO_HOST, (), action, by_default=True)
        return Half(way, f"host {ask.host}", (tier,), action == "Allow")
    if ask.is_host and is_failsafe(state, endpoint, way, packet):
        return _made(state, way, endpoint, [TierVerdict(FAILSAFE, (), "Allow", by_default=True)])
    tiers = []
    for place, asked in ask.asked:
        if place == "untracked" and is_failsafe_answer(state, endpoint, way, packet):
            continue
        for name, default, policies in oracle.tiers_of(state, asked, way, place):
            shown = name if place == "normal" else f"{name} ({place})"
            tiers.append(_tier(state, shown, default, policies, way, packet))
            if tiers[-1].action != "Pass":
                return _made(state, way, endpoint, tiers)
    if ask.passes_by:
        return Half(way, short_name(state, endpoint), tuple(tiers), True) if tiers else None
    tiers.append(_profiles(state, endpoint, way, packet))
    return _made(state, way, endpoint, tiers)


def places_of(state: State, endpoint: ResourceKey, way: Way) -> tuple[Place, ...]:
    """Which of a host endpoint's policies are asked about the host's own packets, in order."""
    resource = state[endpoint]
    assert isinstance(resource, HostEndpoint)
    early: tuple[Place, ...] = () if resource.spec.interface_name == "*" else ("untracked",)
    return (*early, "pre-DNAT", "normal") if way == "Ingress" else (*early, "normal")


def _made(state: State, way: Way, endpoint: ResourceKey, tiers: list[TierVerdict]) -> Half:
    return Half(way, short_name(state, endpoint), tuple(tiers), tiers[-1].action == "Allow")


def _tier(
    state: State,
    name: str,
    default: str,
    policies: list[tuple[ResourceKey, oracle.Policy]],
    way: Way,
    packet: Packet,
) -> TierVerdict:
    found = []
    for key, policy in policies:
        rules = policy.spec.ingress if way == "Ingress" else policy.spec.egress
        verdict = _policy(state, str(key), rules, key.namespace, packet)
        found.append(verdict)
        if verdict.action:
            return TierVerdict(name, tuple(found), verdict.action, by_default=False)
    return TierVerdict(name, tuple(found), default, by_default=True)


def _profiles(state: State, endpoint: ResourceKey, way: Way, packet: Packet) -> TierVerdict:
    resource = state[endpoint]
    assert isinstance(resource, WorkloadEndpoint | HostEndpoint)
    decided = oracle.decide_profiles(state, endpoint, way, packet)
    found = []
    for name in resource.spec.profiles:
        profile = state.get(ResourceKey("Profile", name))
        if not isinstance(profile, Profile):
            action = decided.action if decided.policy.startswith(f"Profile({name})") else ""
            found.append(PolicyVerdict(f"Profile({name})", (), action))
        else:
            rules = profile.spec.ingress if way == "Ingress" else profile.spec.egress
            verdict = _policy(state, f"Profile({name})", rules, "", packet)
            if verdict.action == "Pass":  # leaves it to the next one
                verdict = verdict._replace(action="")
            found.append(verdict)
        if found[-1].action:
            break
    return TierVerdict("", tuple(found), decided.action, by_default=not decided.policy)


def _policy(
    state: State, name: str, rules: tuple[Rule, ...], namespace: str, packet: Packet
) -> PolicyVerdict:
    found = []
    for index, rule in enumerate(rules):
        because = tuple(mismatches(state, rule, packet, namespace))
        found.append(RuleVerdict(index, rule.action, not because, because))
        if not because and rule.action != "Log":
            return PolicyVerdict(name, tuple(found), rule.action)
    return PolicyVerdict(name, tuple(found), "")
