"""Why a packet passes or not: both halves, tier by tier, rule by rule.

Answered from stored resources alone, by the reference evaluator; so it can be
asked from any machine, and judges what is enforced instead of repeating it.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from tortie.explain import oracle
from tortie.explain.mismatch import Mismatch, mismatches, short_name
from tortie.explain.oracle import Packet, Place, State, Way
from tortie.explain.passage import (
    HostAddress,
    host_endpoint_of,
    host_with,
    is_failsafe,
    settings_of,
)
from tortie.explain.staged import enforce_staged
from tortie.lib.errors import InvalidInput, NotFound
from tortie.lib.ip import Network, parse_address, parse_network
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


class Explanation(NamedTuple):
    packet: Packet
    halves: tuple[Half, ...]
    """Egress of the source, ingress of the destination; only of those that are workloads, or
    addresses of a host with a host endpoint. What hosts in between do is not asked."""
    allowed: bool
    fixes: tuple[str, ...]
    """Single changes that would let the packet pass the half that denies it."""
    staged: "tuple[Half, ...] | None" = None
    """The halves as they would be if all that is staged were enforced; None: as they are."""

    @property
    def staged_allowed(self) -> bool:
        """Whether it would pass then."""
        return all(half.allowed for half in (self.halves if self.staged is None else self.staged))


def explain(state: State, packet: Packet) -> Explanation:
    """Trace the packet; agrees with `oracle.decide` on every packet."""
    state = _about(state, packet)
    halves = _halves(state, packet)
    allowed = all(half.allowed for half in halves)
    fixes = tuple(dict.fromkeys(fix for half in halves for fix in _fixes(half)))
    then = enforce_staged(state)
    origins = {str(key): str(origin) for key, origin in then.origins.items()}
    staged = tuple(_renamed(half, origins) for half in _halves(then.state, packet))
    differs = staged != halves
    return Explanation(packet, halves, allowed, fixes, staged if differs else None)


def _halves(state: State, packet: Packet) -> tuple[Half, ...]:
    halves: list[Half] = []
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
            halves.append(_half(state, endpoint, way, packet))
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
        yield _host_half(state, endpoint, way, packet)


def _host_of(state: State, address: Network) -> str | None:
    """Of a workload's address: where that is."""
    endpoint = oracle.workload_with(state, address)
    resource = state[endpoint] if endpoint else None
    return resource.spec.node if isinstance(resource, WorkloadEndpoint) else None


def _host_half(state: State, endpoint: ResourceKey, way: Way, packet: Packet) -> Half:
    """A host's own packets: what comes early, failsafe ports, then as for a workload."""
    if is_failsafe(state, endpoint, way, packet):
        return _made(state, way, endpoint, [TierVerdict(FAILSAFE, (), "Allow", by_default=True)])
    tiers = []
    for place in places_of(state, endpoint, way):
        for name, default, policies in oracle.tiers_of(state, endpoint, way, place):
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


def _renamed(half: Half, names: Mapping[str, str]) -> Half:
    """With policies called after what they come from."""
    return half._replace(
        tiers=tuple(
            tier._replace(
                policies=tuple(
                    policy._replace(name=names.get(policy.name, policy.name))
                    for policy in tier.policies
                )
            )
            for tier in half.tiers
        )
    )


def _about(state: State, packet: Packet) -> State:
    """Without the workloads that the packet is not about: no rule asks for those."""
    addresses = (packet.source, packet.destination)
    return {
        key: resource
        for key, resource in state.items()
        if not isinstance(resource, WorkloadEndpoint)
        or any(parse_network(text) in addresses for text in resource.spec.ip_networks)
    }


def find_endpoint(state: State, name: str) -> tuple[ResourceKey, WorkloadEndpoint]:
    """An endpoint by `namespace/workload`, `workload`, or the resource's own name.

    Raises:
        NotFound: none; says which there are of similar names.
        InvalidInput: several.
    """
    namespace, slash, short = name.rpartition("/")
    found = [
        (key, resource)
        for key, resource in state.items()
        if isinstance(key, ResourceKey)
        and isinstance(resource, WorkloadEndpoint)
        and (not slash or key.namespace == namespace)
        and short in (key.name, resource.spec.workload, resource.spec.pod)
    ]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(sorted(f"{key.namespace}/{key.name}" for key, _ in found))
        raise InvalidInput(f"{name} is ambiguous: {names}")
    raise NotFound(f"there is no workload endpoint {name}; see tortie get workloadendpoints -A")


def find_host_endpoint(state: State, name: str) -> tuple[ResourceKey, HostEndpoint] | None:
    key = ResourceKey("HostEndpoint", name)
    resource = state.get(key)
    return (key, resource) if isinstance(resource, HostEndpoint) else None


def resolve(state: State, text: str, family: int | None) -> Network:
    """An address, or the address of the endpoint of that name.

    Args:
        family: which one to take of an endpoint that has both; None means IPv4 first.
    """
    try:
        return parse_address(text)
    except InvalidInput:
        if ":" in text or text.replace(".", "").isdigit():
            raise
    if host_endpoint := find_host_endpoint(state, text):
        key, texts = host_endpoint[0], host_endpoint[1].spec.expected_ips
    else:
        key, endpoint = find_endpoint(state, text)
        texts = endpoint.spec.ip_networks
    addresses = sorted(map(parse_address, texts))
    for address in addresses:
        if family in (None, address.family):
            return address
    wanted = "" if family is None else f"IPv{family} "
    raise NotFound(f"{short_name(state, key)} has no {wanted}address")


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


def _fixes(half: Half) -> list[str]:
    """For a half that denies: conditions that alone keep an Allow from matching."""
    if half.allowed:
        return []
    found = []
    for tier in half.tiers:
        for policy in tier.policies:
            for rule in policy.rules:
                if rule.action == "Allow" and len(rule.because) == 1 and rule.because[0].fix:
                    where = f"{policy.name} {half.way.lower()}[{rule.position}]"
                    found.append(f"{rule.because[0].fix}, so that {where} allows it")
    return found
