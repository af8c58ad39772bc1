"""The reference evaluator of policy: what Calico's rules say about one packet.

Written straight from the resources, one packet at a time, with no index, no
set and no cache, and without a line shared with `calc`, `desired` or
`dataplane` (an import contract keeps it so). It is slow and short, so that it
can be read and believed; the fast path is judged by it.

A packet between two workloads must be allowed twice: by the egress of the
one it leaves, and by the ingress of the one it reaches. An address that is no
workload's decides nothing.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from tortie.explain.matching import Packet as Packet
from tortie.explain.matching import State as State
from tortie.explain.matching import (
    labels_of,
    lent_labels_match,
    namespace_matches,
    network_of,
    rule_matches,
    selector_matches,
)
from tortie.lib.ip import Network
from tortie.model.endpoint import (
    HostEndpoint,
    WorkloadEndpoint,
)
from tortie.model.keys import ResourceKey
from tortie.model.policy import (
    DEFAULT_ALLOW_PROFILE,
    GlobalNetworkPolicy,
    NetworkPolicy,
    Profile,
    Rule,
    Tier,
    policy_types,
)

Way = Literal["Ingress", "Egress"]
Place = Literal["normal", "forward", "untracked", "pre-DNAT"]
"""Which of an endpoint's policies are asked; all but the first are host endpoints' only."""

Policy = NetworkPolicy | GlobalNetworkPolicy


class Step(NamedTuple):
    """What decided, or passed on: for people who ask why."""

    way: Way
    endpoint: ResourceKey
    tier: str
    """Empty for a profile, and for the drop at the very end."""
    policy: str
    """Empty for a tier's default action."""
    rule: int
    """Index into the rules; -1 when no rule decided."""
    action: str
    place: Place = "normal"


class Decision(NamedTuple):
    allowed: bool
    steps: tuple[Step, ...]


def decide(state: State, packet: Packet) -> Decision:
    """Whether the packet reaches its destination, and what decided it."""
    allowed = True
    steps: list[Step] = []
    ways: tuple[tuple[Network, Way], ...] = (
        (packet.source, "Egress"),
        (packet.destination, "Ingress"),
    )
    for address, way in ways:
        endpoint = workload_with(state, address)
        if endpoint is not None:
            decision = decide_at(state, endpoint, way, packet)
            steps.extend(decision.steps)
            allowed = allowed and decision.allowed
    return Decision(allowed, tuple(steps))


def workload_with(state: State, address: Network) -> ResourceKey | None:
    """The endpoint that has the address; of several the first by namespace and name."""
    holders = [
        key
        for key, endpoint in state.items()
        if isinstance(key, ResourceKey)
        and isinstance(endpoint, WorkloadEndpoint)
        and address in map(network_of, endpoint.spec.ip_networks)
    ]
    return min(holders, key=lambda key: (key.namespace, key.name), default=None)


def decide_at(state: State, endpoint: ResourceKey, way: Way, packet: Packet) -> Decision:
    """What the endpoint's tiers say, or else its profiles; what neither decides is denied."""
    action, steps = decide_tiers(state, endpoint, way, "normal", packet)
    if action is None:
        found = decide_profiles(state, endpoint, way, packet)
        action, steps = found.action, (*steps, found)
    return Decision(action == "Allow", steps)


def decide_tiers(
    state: State, endpoint: ResourceKey, way: Way, place: Place, packet: Packet
) -> tuple[str | None, tuple[Step, ...]]:
    """Allow or Deny, or None if nothing in the tiers decides; and how it came to that."""
    steps: list[Step] = []
    for tier, default_action, policies in tiers_of(state, endpoint, way, place):
        passed = False
        for name, policy in policies:
            rules = policy.spec.ingress if way == "Ingress" else policy.spec.egress
            found = _first_match(state, rules, packet, name.namespace)
            if found is None:
                continue
            index, action = found
            steps.append(Step(way, endpoint, tier, str(name), index, action, place))
            if action != "Pass":
                return action, tuple(steps)
            passed = True
            break
        if not passed:
            steps.append(Step(way, endpoint, tier, "", -1, default_action, place))
            if default_action == "Deny":
                return "Deny", tuple(steps)
    return None, tuple(steps)


def tiers_of(
    state: State, endpoint: ResourceKey, way: Way, place: Place = "normal"
) -> Iterator[tuple[str, str, list[tuple[ResourceKey, Policy]]]]:
    """Name, default action and policies of each tier that applies, in order.

    A tier that policies name and nobody made comes after all others and
    denies: what such a policy selects must not be open. Before the normal
    policies every tier passes at its end, as those are still to be asked.
    """
    by_tier: dict[str, list[tuple[ResourceKey, Policy]]] = {}
    for key, policy in state.items():
        if (
            isinstance(key, ResourceKey)
            and isinstance(policy, NetworkPolicy | GlobalNetworkPolicy)
            and acts_in(policy, place)
            and selects(state, key, policy, endpoint)
            and way in policy_types(policy.spec)
        ):
            by_tier.setdefault(policy.spec.tier or "default", []).append((key, policy))

    def tier_order(name: str) -> tuple[bool, float, str]:
        tier = state.get(ResourceKey("Tier", name))
        if not isinstance(tier, Tier):
            return True, math.inf, name
        return False, math.inf if tier.spec.order is None else tier.spec.order, name

    def policy_order(item: tuple[ResourceKey, Policy]) -> tuple[float, str, str, str]:
        key, policy = item
        order = math.inf if policy.spec.order is None else policy.spec.order
        return order, key.kind, key.name, key.namespace

    for name in sorted(by_tier, key=tier_order):
        tier = state.get(ResourceKey("Tier", name))
        default = tier.spec.default_action if isinstance(tier, Tier) else "Deny"
        if place in ("untracked", "pre-DNAT"):
            default = "Pass"
        yield name, default, sorted(by_tier[name], key=policy_order)


def acts_in(policy: Policy, place: Place) -> bool:
    """Whether the policy is among those asked there, of an endpoint that it selects.

    Source: Calico, felix/rules/static.go, felix/rules/endpoints.go.
    """
    if isinstance(policy, NetworkPolicy):
        return place == "normal"
    if policy.spec.do_not_track:
        return place == "untracked"
    if policy.spec.pre_dnat:
        return place == "pre-DNAT"
    return place == "normal" or (place == "forward" and policy.spec.apply_on_forward)


def selects(state: State, key: ResourceKey, policy: Policy, endpoint: ResourceKey) -> bool:
    labels = labels_of(state, endpoint)
    accounts = policy.spec.service_account_selector
    if accounts and not lent_labels_match(accounts, "pcsa.", labels):
        return False
    if isinstance(policy, NetworkPolicy):
        return endpoint.namespace == key.namespace and selector_matches(
            policy.spec.selector, labels
        )
    if (policy.spec.do_not_track or policy.spec.pre_dnat) and endpoint.namespace:
        return False  # these act on host endpoints only
    namespaces = policy.spec.namespace_selector
    if namespaces and not namespace_matches(namespaces, labels):
        return False
    return selector_matches(policy.spec.selector, labels)


def decide_profiles(state: State, endpoint: ResourceKey, way: Way, packet: Packet) -> Step:
    resource = state[endpoint]
    assert isinstance(resource, WorkloadEndpoint | HostEndpoint)
    for name in resource.spec.profiles:
        if name == DEFAULT_ALLOW_PROFILE:
            return Step(way, endpoint, "", f"Profile({name})", 0, "Allow")
        profile = state.get(ResourceKey("Profile", name))
        if not isinstance(profile, Profile):
            return Step(way, endpoint, "", f"Profile({name}), which is missing", -1, "Deny")
        rules = profile.spec.ingress if way == "Ingress" else profile.spec.egress
        found = _first_match(state, rules, packet, "")
        if found is not None and found[1] != "Pass":
            return Step(way, endpoint, "", f"Profile({name})", found[0], found[1])
    return Step(way, endpoint, "", "", -1, "Deny")


def _first_match(
    state: State, rules: Iterable[Rule], packet: Packet, namespace: str
) -> tuple[int, str] | None:
    for index, rule in enumerate(rules):
        if rule.action != "Log" and rule_matches(state, rule, packet, namespace):
            return index, rule.action
    return None
