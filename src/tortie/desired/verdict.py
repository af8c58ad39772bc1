"""What a policy list says about one packet: desired state and packet to verdict.

For connections that the kernel already knows and no longer asks policy about:
whoever tightens policy looks here which of them it would not let in any more.
The kernel's rules decide about new ones; both must agree on every packet.
Pure; knows nothing of a kernel.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple, Protocol

from tortie.desired.policy import (
    Action,
    AddressPort,
    Direction,
    ICMPMatch,
    Policy,
    PolicyId,
    PolicyList,
    PortRange,
    Rule,
    Side,
)
from tortie.lib.ip import Network


class Packet(NamedTuple):
    """The first packet of a connection, as policy sees it: behind destination NAT,
    before source NAT."""

    source: Network
    """Full length, as `destination`."""
    destination: Network
    protocol: int
    source_port: int = 0
    destination_port: int = 0
    """Ports are 0 where the protocol has none."""
    icmp_type: int = 0
    icmp_code: int = 0


class Facts(Protocol):
    """What the lists refer to."""

    def policy(self, policy_id: PolicyId) -> Policy | None:
        """None for one that is not known."""

    def contains(self, set_id: str, member: Network | AddressPort) -> bool:
        """Whether the address, or address and port, is in the set."""


class Decision(NamedTuple):
    """What a list says of a packet, and which part of it does."""

    action: Literal["Allow", "Deny"]
    tier: str = ""
    """Empty for profiles."""
    policy: PolicyId | None = None
    """None: the tier's default action."""
    rule: int | None = None
    """From 0, of the policy's rules in this direction; None for a policy that is not known."""


def allows(policies: PolicyList, direction: Direction, packet: Packet, facts: Facts) -> bool:
    """Whether a packet may leave (egress) or reach (ingress) an endpoint with this list."""
    return decision(policies, direction, packet, facts) == "Allow"


def decision(
    policies: PolicyList, direction: Direction, packet: Packet, facts: Facts
) -> Literal["Allow", "Deny"] | None:
    """What the list says of the packet; None where nothing in it decides."""
    found = decide(policies, direction, packet, facts)
    return found and found.action


def decide(
    policies: PolicyList, direction: Direction, packet: Packet, facts: Facts
) -> Decision | None:
    """What the list says, and which rule of it does; None where nothing in it decides."""
    for tier in policies.tiers:
        passed = False
        for one in tier.policies:
            found = _deciding(one, direction, packet, facts)
            if found is not None and found[0] != "Pass":
                return _decision(found[0], tier.name, one, found[1])
            if found is not None:
                passed = True
                break
        if not passed and tier.default_action != "Pass":
            return Decision("Deny", tier.name)
    for one in policies.profiles:
        found = _deciding(one, direction, packet, facts)
        # A profile that passes leaves it to the next one, as if it had said nothing.
        if found is not None and found[0] != "Pass":
            return _decision(found[0], "", one, found[1])
    return None


def _decision(action: Action, tier: str, policy: PolicyId, rule: int | None) -> Decision:
    return Decision("Allow" if action == "Allow" else "Deny", tier, policy, rule)


def _deciding(
    policy_id: PolicyId, direction: Direction, packet: Packet, facts: Facts
) -> tuple[Action, int | None] | None:
    """What the first rule that matches says, and which it is; None if no rule decides."""
    policy = facts.policy(policy_id)
    if policy is None:
        return "Deny", None
    for position, rule in enumerate(policy.rules(direction)):
        if rule.action != "Log" and matches(rule, packet, facts):
            return rule.action, position
    return None


def matches(rule: Rule, packet: Packet, facts: Facts) -> bool:
    """Whether all that the rule says holds for the packet."""
    protocol = packet.protocol
    source = AddressPort(packet.source, protocol, packet.source_port)
    destination = AddressPort(packet.destination, protocol, packet.destination_port)
    return (
        rule.family in (None, packet.source.family)
        and rule.protocol in (None, protocol)
        and rule.not_protocol != protocol
        and (rule.icmp is None or _is_icmp(rule.icmp, packet))
        and (rule.not_icmp is None or not _is_icmp(rule.not_icmp, packet))
        and _side_matches(rule.source, source, facts)
        and _side_matches(rule.destination, destination, facts)
    )


def _is_icmp(wanted: ICMPMatch, packet: Packet) -> bool:
    return (
        packet.protocol == (1 if packet.source.family == 4 else 58)
        and wanted.type == packet.icmp_type
        and wanted.code in (None, packet.icmp_code)
    )


def _side_matches(side: Side, end: AddressPort, facts: Facts) -> bool:
    address = end.address
    return (
        (not side.networks or _within(side.networks, address))
        and not _within(side.not_networks, address)
        and all(facts.contains(one, address) for one in side.sets)
        and not any(facts.contains(one, address) for one in side.not_sets)
        and (
            not (side.ports or side.named_ports)
            or _serves(side.ports, side.named_ports, end, facts)
        )
        and not _serves(side.not_ports, side.not_named_ports, end, facts)
    )


def _within(networks: Iterable[Network], address: Network) -> bool:
    return any(network.contains(address) for network in networks)


def _serves(
    ranges: tuple[PortRange, ...], set_ids: tuple[str, ...], end: AddressPort, facts: Facts
) -> bool:
    return any(first <= end.port <= last for first, last in ranges) or any(
        facts.contains(one, end) for one in set_ids
    )


class SetUse(NamedTuple):
    """Sets that rules name, by what a change of their members may do."""

    tighten_by_growth: frozenset[str]
    tighten_by_loss: frozenset[str]
    all: frozenset[str]


def set_use(rules: Iterable[Rule]) -> SetUse:
    """Whose growth, and whose loss, of members may make the rules allow less.

    A rule that matches more takes packets from those behind it: that tightens
    if it is no Allow; one that matches less tightens if it was. A Log decides
    nothing, and a Pass may be either, depending on what is behind.
    """
    growth: set[str] = set()
    loss: set[str] = set()
    named: set[str] = set()
    for rule in rules:
        for side in (rule.source, rule.destination):
            positive = (*side.sets, *side.named_ports)
            negative = (*side.not_sets, *side.not_named_ports)
            named.update(positive, negative)
            if rule.action in ("Allow", "Pass"):
                loss.update(positive)
                growth.update(negative)
            if rule.action in ("Deny", "Pass"):
                growth.update(positive)
                loss.update(negative)
    return SetUse(frozenset(growth), frozenset(loss), frozenset(named))
