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


def halves_of(state: State, packet: Packet) -> tuple[Half, ...]:
    """Egress of the source, ingress of the destination, and what their hosts say of them."""
    halves: list[Half] = []
    if packet.source == packet.destination:
        return ()  # to oneself: it does not get to the host
    source = host_with(state, packet.source)
    if source is not None and source.host == _host_of(state, packet.destination):
        return ()  # the host reaches its own workloads
    ways: tuple[tuple[Network, Way], ...] = (
        (packet.source, "Egress"),
        (packet.destination, "Ingress"),
    )
    for address, way in ways:
        endpoint = oracle.workload_with(state, address)
        if endpoint is not None:
            passing = _passing_half(state, endpoint, way, packet)
            own = [_half(state, endpoint, way, packet)]
            halves += [*passing, *own] if way == "Egress" else [*own, *passing]
        elif host := host_with(state, address):
            halves.extend(_host_halves(state, host, way, packet))
    return tuple(halves)


def _host_halves(state: State, here: HostAddress, way: Way, packet: Packet) -> Iterator[Half]:
    """What decides about the host's own packets; nothing where it has no host endpoint."""
    other = packet.source if way == "Ingress" else packet.destination
    if _host_of(state, other) == here.host:
        if way == "Ingress":  # from a workload to its own host
            drops = settings_of(state, here.host).endpoint_to_host == "Drop"
            action = "Deny" if drops else "Allow"
            tier = TierVerdict(ENDPOINT_TO_HOST, (), action, by_default=True)
            yield Half(way, f"host {here.host}", (tier,), not drops)
    elif endpoint := host_endpoint_of(state, here.host, here.interface):
        yield _host_half(state, endpoint, way, packet, here.interface)


def _host_of(state: State, address: Network) -> str | None:
    """Of a workload's address: where that is."""
    endpoint = oracle.workload_with(state, address)
    resource = state[endpoint] if endpoint else None
    return resource.spec.node if isinstance(resource, WorkloadEndpoint) else None


def _passing_half(state: State, workload: ResourceKey, way: Way, packet: Packet) -> Iterator[Half]:
    """What the host endpoint of all interfaces says of a workload's packets; often nothing."""
    resource = state[workload]
    assert isinstance(resource, WorkloadEndpoint)
    interface = Interface(resource.spec.interface_name, workload=True)
    endpoint = host_endpoint_of(state, resource.spec.node, interface)
    if endpoint is None:
        return
    # What comes from a workload comes in to its host.
    seen: Way = "Ingress" if way == "Egress" else "Egress"
    places: tuple[Place, ...] = ("pre-DNAT", FORWARD) if seen == "Ingress" else (FORWARD,)
    reached = host_with(state, packet.destination)
    if reached is not None and reached.host == resource.spec.node:
        places = ("pre-DNAT",)  # to its own host: it does not pass by
    tiers = []
    for place in places:
        for name, default, policies in oracle.tiers_of(state, endpoint, seen, place):
            tiers.append(_tier(state, f"{name} ({place})", default, policies, seen, packet))
            if tiers[-1].action != "Pass":
                break
        if tiers and tiers[-1].action != "Pass":
            break
    if tiers:
        name = short_name(state, endpoint)
        yield Half(seen, name, tuple(tiers), tiers[-1].action != "Deny")


def _host_half(
    state: State, endpoint: ResourceKey, way: Way, packet: Packet, interface: Interface
) -> Half:
    """A host's own packets: what comes early, failsafe ports, then as for a workload."""
    if is_failsafe(state, endpoint, way, packet):
        return _made(state, way, endpoint, [TierVerdict(FAILSAFE, (), "Allow", by_default=True)])
    tiers = []
    for place in places_of(state, endpoint, way):
        if place == "untracked" and is_failsafe_answer(state, endpoint, way, packet):
            continue
        asked = endpoint
        if place == "pre-DNAT":
            asked = asked_before_nat(state, endpoint, interface)
        for name, default, policies in oracle.tiers_of(state, asked, way, place):
            shown = name if place == "normal" else f"{name} ({place})"
            tiers.append(_tier(state, shown, default, policies, way, packet))
            if tiers[-1].action != "Pass":
                return _made(state, way, endpoint, tiers)
    tiers.append(_profiles(state, endpoint, way, packet))
    return _made(state, way, endpoint, tiers)


def places_of(state: State, endpoint: ResourceKey, way: Way) -> tuple[Place, ...]:
    """Which of a host endpoint's policies are asked about the host's own packets, in order."""
    resource = state[endpoint]
    assert isinstance(resource, HostEndpoint)
    early: tuple[Place, ...] = () if resource.spec.interface_name == "*" else ("untracked",)
    return (*early, "pre-DNAT", "normal") if way == "Ingress" else (*early, "normal")


def _half(state: State, endpoint: ResourceKey, way: Way, packet: Packet) -> Half:
    tiers = []
    for name, default, policies in oracle.tiers_of(state, endpoint, way):
        tier = _tier(state, name, default, policies, way, packet)
        tiers.append(tier)
        if tier.action != "Pass":
            return _made(state, way, endpoint, tiers)
    tiers.append(_profiles(state, endpoint, way, packet))
    return _made(state, way, endpoint, tiers)


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
