"""What a logged packet says: which rule decided it, and what staged policies would have done.

The kernel logs an id (see `rules.seen`) with the links that the packet was on. The endpoint there
has a list, and of that list's rules one has the id. Where the id is cut short, for want of bits,
and several fit, the first of them that matches the packet is the one.

Nothing is prepared for this: ids are worked out when a packet asks for them, and kept until
policy changes. Policy may have changed since the packet was logged: then its rule is not known.
"""

from collections.abc import Hashable, Iterator
from typing import Literal, NamedTuple, cast

from tortie.dataplane.driver.link import Links
from tortie.dataplane.manager.endpoint import EndpointManager
from tortie.dataplane.manager.host_endpoint import HostEndpointManager
from tortie.dataplane.manager.ipset import IPSetManager
from tortie.dataplane.manager.policy import PolicyManager
from tortie.dataplane.rules import policy as rendering
from tortie.dataplane.rules import seen
from tortie.dataplane.settings import Settings
from tortie.desired.endpoint import Endpoint, EndpointId
from tortie.desired.host_endpoint import ALL_INTERFACES, HostEndpoint
from tortie.desired.kinds import Kind
from tortie.desired.policy import AddressPort, Direction, Policy, PolicyId, PolicyList
from tortie.desired.verdict import Decision, Packet, decide, matches
from tortie.kernel import headers, nflog
from tortie.kernel.headers import Headers
from tortie.lib.ip import Network

CHANGED_SINCE = "policy has changed since"
END_OF_TIER = "end of tier"
NOT_KNOWN = "policy is not known, or refused"

_CACHED = 4096
"""Ids whose meaning is kept; a few words each."""

Action = Literal["Allow", "Deny"]

_INPUT, _FORWARD, _OUTPUT, _POSTROUTING = 1, 2, 3, 4
"""NF_INET_*."""

_ACTIONS: dict[seen.Seen, Action] = {"allowed": "Allow", "denied": "Deny"}
_PREFIXES = {
    seen.chain_name(verdict, direction): (action, direction)
    for verdict, action in _ACTIONS.items()
    for direction in seen.DIRECTIONS
}
_REASONS = {seen.rule_id(reason): reason for reason in seen.REASONS}


class Decider(NamedTuple):
    """What decided: a rule, or what stands at `reason`."""

    tier: str = ""
    """Empty for profiles, and where no tier was asked."""
    policy: PolicyId | None = None
    rule: int | None = None
    """From 0, of the policy's rules in that direction."""
    reason: str = ""
    """Where no rule decided: why, in our words."""


class Seen(NamedTuple):
    """One packet, and what became of it at one end."""

    action: "Action"
    direction: Direction
    endpoint: EndpointId | None
    """Whose policy it was; None: not that of a workload here."""
    interface: str
    """By which it came (egress) or would have gone (ingress); of a host endpoint, the other way
    round."""
    headers: Headers
    decider: Decider
    staged: "Staged | None" = None
    """What would have been; None where nothing is staged for the endpoint."""


class Staged(NamedTuple):
    action: "Action"
    decider: Decider


class SeenManager:
    """Loop task only."""

    def __init__(
        self,
        links: Links,
        endpoints: EndpointManager,
        policies: PolicyManager,
        ip_sets: IPSetManager,
        host_endpoints: HostEndpointManager,
        settings: Settings,
    ) -> None:
        self._links = links
        self._host_endpoints = host_endpoints
        self._endpoints = endpoints
        self._policies = policies
        self._ip_sets = ip_sets
        self._mark_rule = settings.mark_rule
        self._evaluates_staged = settings.evaluate_staged
        self._staged_policies: dict[PolicyId, Policy] = {}
        self._staged: dict[EndpointId, Endpoint] = {}
        self._staged_hosts: dict[str, HostEndpoint] = {}
        self._ids: dict[tuple[PolicyId, Direction], tuple[int, ...]] = {}
        self._deciders: dict[tuple[PolicyList | None, Direction, int], Decider] = {}
        self._changes = 0

    def on_update(self, kind: Kind, name: Hashable, value: object | None) -> None:
        """`STAGED_POLICY` and `STAGED_ENDPOINT`."""
        if kind is Kind.STAGED_POLICY:
            policy_id = cast(PolicyId, name)
            if value is None:
                self._staged_policies.pop(policy_id, None)
            else:
                self._staged_policies[policy_id] = cast(Policy, value)
        elif isinstance(name, EndpointId):
            if value is None:
                self._staged.pop(name, None)
            else:
                self._staged[name] = cast(Endpoint, value)
        elif value is None:
            self._staged_hosts.pop(cast(str, name), None)
        else:
            self._staged_hosts[cast(str, name)] = cast(HostEndpoint, value)

    def see(self, logged: nflog.Packet) -> Seen | None:
        """None for what is not ours or is no IP packet."""
        verdict = _PREFIXES.get(logged.prefix)
        found = headers.parse(logged.payload)
        if verdict is None or found is None:
            return None
        action, direction = verdict
        packet = _packet(found)
        links = (logged.in_link, logged.out_link)
        near, far = links if direction == "egress" else links[::-1]
        interface = self._links.name_of(near) or ""
        endpoint = self._endpoints.by_interface(interface) if interface else None
        decider = self._decider(endpoint, action, direction, logged.mark, packet)
        if endpoint and decider.reason == CHANGED_SINCE:
            # It may have met a host endpoint's policy on its way from or to a workload.
            hosts = self._decider(None, action, direction, logged.mark, packet)
            if hosts.reason != CHANGED_SINCE:
                endpoint, decider = None, hosts
        if endpoint is None:
            interface = self._links.name_of(far) or interface
        if endpoint:
            staged = self._would_be(endpoint, direction, packet)
        else:
            staged = self._host_would_be(interface, direction, logged.hook, packet)
        return Seen(action, direction, endpoint, interface, found, decider, staged)

    # Which rule.

    def _decider(
        self,
        endpoint_id: EndpointId | None,
        action: str,
        direction: Direction,
        mark: int,
        packet: Packet,
    ) -> Decider:
        if action == "Deny" and mark in _REASONS:
            return Decider(reason=_REASONS[mark])
        if self._changes != self._policies.changes:
            self._changes = self._policies.changes
            self._ids.clear()
            self._deciders.clear()
        endpoint = self._endpoints.endpoints.get(endpoint_id) if endpoint_id else None
        policies = _list(endpoint, direction) if endpoint else None
        bits = 0xFFFFFFFF if action == "Deny" else self._mark_rule
        key = (policies, direction, mark & bits)
        known = self._deciders.get(key)
        if known is not None:
            return known
        lists = [policies] if policies is not None else self._policies.lists(direction)
        candidates = list(dict.fromkeys(self._candidates(lists, direction, mark & bits, bits)))
        if len(candidates) > 1:  # which one depends on the packet, so nothing to be kept
            return next((one for one in candidates if self._fits(one, direction, packet)),
                        candidates[0])  # fmt: skip
        found = candidates[0] if candidates else Decider(reason=CHANGED_SINCE)
        if len(self._deciders) >= _CACHED:
            self._deciders.clear()
        self._deciders[key] = found
        return found

    def _candidates(
        self, lists: list[PolicyList], direction: Direction, mark: int, bits: int
    ) -> Iterator[Decider]:
        denied = bits == 0xFFFFFFFF
        for policies in lists:
            for tier in policies.tiers:
                for one in tier.policies:
                    yield from self._of_policy(one, tier.name, direction, mark, bits)
                if denied and seen.end_of_tier(tier.name, direction) == mark:
                    yield Decider(tier.name, reason=END_OF_TIER)
            for profile in policies.profiles:
                yield from self._of_policy(profile, "", direction, mark, bits)

    def _of_policy(
        self, policy_id: PolicyId, tier: str, direction: Direction, mark: int, bits: int
    ) -> Iterator[Decider]:
        denied = bits == 0xFFFFFFFF
        if denied and rendering.stand_in_id(policy_id, direction) == mark:
            yield Decider(tier, policy_id, reason=NOT_KNOWN)
        policy = self._policies.policy(policy_id)
        if policy is None:
            return
        half = (policy_id, direction)
        rules = policy.rules(direction)
        if half not in self._ids:
            self._ids[half] = tuple(rendering.rule_ids(policy_id, rules, direction))
        action = "Deny" if denied else "Allow"
        for position, identity in enumerate(self._ids[half]):
            found = identity if denied else seen.spread(identity, bits)
            if found == mark and rules[position].action == action:
                yield Decider(tier, policy_id, position)

    def _fits(self, decider: Decider, direction: Direction, packet: Packet) -> bool:
        if decider.policy is None or decider.rule is None:
            return False
        policy = self._policies.policy(decider.policy)
        return policy is not None and matches(policy.rules(direction)[decider.rule], packet, self)

    # What would be.

    def _would_be(
        self, endpoint_id: EndpointId, direction: Direction, packet: Packet
    ) -> Staged | None:
        staged = self._staged.get(endpoint_id)
        if staged is None or not self._evaluates_staged:
            return None
        return self._staged_verdict(_list(staged, direction), direction, packet, "Deny")

    def _host_would_be(
        self, interface: str, direction: Direction, hook: int, packet: Packet
    ) -> Staged | None:
        """Of the lists for the host's own packets, and for what passes by. Before routing it
        cannot be told from here which of a host endpoint's lists was asked."""
        belonging = self._host_endpoints.interfaces()
        name = belonging.get(interface) or belonging.get(ALL_INTERFACES, "")
        staged = self._staged_hosts.get(name)
        if staged is None or not self._evaluates_staged:
            return None
        if hook == _FORWARD:
            ingress, egress = staged.forward_ingress, staged.forward_egress
            end: Action = "Allow"
        elif hook in (_INPUT, _OUTPUT, _POSTROUTING):
            ingress, egress = staged.ingress, staged.egress
            end = "Deny"
        else:
            return None
        policies = ingress if direction == "ingress" else egress
        return self._staged_verdict(policies, direction, packet, end)

    def _staged_verdict(
        self, policies: PolicyList, direction: Direction, packet: Packet, end: Action
    ) -> Staged:
        found = decide(policies, direction, packet, self)
        if found is None:
            return Staged(end, Decider(reason=seen.END_OF_LIST))
        return Staged(found.action, _as_decider(found))

    # What `desired.verdict` asks.

    def policy(self, policy_id: PolicyId) -> Policy | None:
        if policy_id.staged:
            return self._staged_policies.get(policy_id)
        return self._policies.policy(policy_id)

    def contains(self, set_id: str, member: Network | AddressPort) -> bool:
        return self._ip_sets.contains(set_id, member)


def _as_decider(found: Decision) -> Decider:
    if found.policy is None:
        return Decider(found.tier, reason=END_OF_TIER)
    reason = NOT_KNOWN if found.rule is None else ""
    return Decider(found.tier, found.policy, found.rule, reason)


def _list(endpoint: Endpoint, direction: Direction) -> PolicyList:
    return endpoint.ingress if direction == "ingress" else endpoint.egress


def _packet(found: Headers) -> Packet:
    return Packet(
        source=found.source,
        destination=found.destination,
        protocol=found.protocol,
        source_port=found.source_port,
        destination_port=found.destination_port,
        icmp_type=found.icmp_type,
        icmp_code=found.icmp_code,
    )
