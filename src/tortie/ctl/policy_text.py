"""How `tortie policy` shows its answers: as text, and as plain values for JSON."""

from collections.abc import Iterator

from tortie.explain import oracle, trace
from tortie.explain.address_classes import AddressClass
from tortie.explain.impact import Change
from tortie.explain.mismatch import PROTOCOL_NAMES
from tortie.explain.oracle import Packet, State
from tortie.explain.packet_space import merged_texts
from tortie.explain.trace import Half, TierVerdict
from tortie.explain.why import Explanation


def explanation_text(state: State, found: Explanation) -> str:
    words = [f"{half.way.lower()} {'ALLOW' if half.allowed else 'DENY'}" for half in found.halves]
    detail = ", ".join(words) or _why_nothing_is_asked(state, found.packet)
    lines = [f"VERDICT  {'ALLOW' if found.allowed else 'DENY'}   ({detail})"]
    for half in found.halves:
        lines.extend(_half_lines(half))
    lines.extend(f"  fix: {fix}" for fix in found.fixes)
    if found.staged is not None:
        then = "ALLOW" if found.staged_allowed else "DENY"
        lines.append(f"STAGED   {then}   (if all that is staged were enforced)")
        for half in found.staged:
            if half not in found.halves:
                lines.extend(_half_lines(half))
    return "\n".join(lines)


def _why_nothing_is_asked(state: State, packet: Packet) -> str:
    if packet.source == packet.destination:
        return "a workload's packets to itself do not leave it"
    if oracle.workload_with(state, packet.destination):
        return "a host always reaches its own workloads"
    return "neither side is a workload, so no policy applies"


def _half_lines(half: Half) -> Iterator[str]:
    yield f"  {half.way.lower()} {half.endpoint}"
    for tier in half.tiers:
        yield from _tier_lines(tier)


def _tier_lines(tier: TierVerdict) -> list[str]:
    if tier.name == trace.FAILSAFE:
        return ["    failsafe port: Allow"]
    if tier.name == trace.ENDPOINT_TO_HOST:
        return [f"    from a workload to its own host (defaultEndpointToHostAction): {tier.action}"]
    title = f"tier {tier.name}" if tier.name else "profiles"
    lines = []
    for policy in tier.policies:
        lines.append(f"    {title}: {policy.name}")
        for rule in policy.rules:
            if rule.matches:
                lines.append(f"      rule {rule.position}: {rule.action}")
            else:
                reasons = "; ".join(f"{each.field}: {each.reason}" for each in rule.because)
                lines.append(f"      rule {rule.position}: {rule.action}, no match: {reasons}")
        if not policy.rules:
            missing = "is missing, and denies" if policy.action == "Deny" else "has no rules"
            lines.append(f"      {missing}")
    if tier.by_default:
        end = "end of tier" if tier.name else "nothing decided"
        lines.append(f"    {title}: {end}: {tier.action}")
    return lines


def plain_explanation(found: Explanation) -> dict[str, object]:
    """For JSON: addresses as text, tuples with names."""
    packet = found.packet
    return {
        "verdict": "Allow" if found.allowed else "Deny",
        "packet": {
            "source": packet.source.address_text,
            "destination": packet.destination.address_text,
            "protocol": PROTOCOL_NAMES.get(packet.protocol, packet.protocol),
            "sourcePort": packet.source_port,
            "destinationPort": packet.destination_port,
            "icmpType": packet.icmp_type,
            "icmpCode": packet.icmp_code,
        },
        "halves": [_plain_half(half) for half in found.halves],
        "fixes": list(found.fixes),
        "staged": None
        if found.staged is None
        else {
            "verdict": "Allow" if found.staged_allowed else "Deny",
            "halves": [_plain_half(half) for half in found.staged],
        },
    }


def _plain_half(half: Half) -> dict[str, object]:
    return {
        "way": half.way,
        "endpoint": half.endpoint,
        "verdict": "Allow" if half.allowed else "Deny",
        "tiers": [_plain_tier(tier) for tier in half.tiers],
    }


def _plain_tier(tier: TierVerdict) -> dict[str, object]:
    return {
        "tier": tier.name,
        "action": tier.action,
        "byDefault": tier.by_default,
        "policies": [
            {
                "policy": policy.name,
                "action": policy.action,
                "rules": [
                    {
                        "rule": rule.position,
                        "action": rule.action,
                        "matches": rule.matches,
                        "because": [each._asdict() for each in rule.because],
                    }
                    for rule in policy.rules
                ],
            }
            for policy in tier.policies
        ],
    }


def _class_text(found: AddressClass) -> str:
    name = f"{found.name} (IPv6)" if found.members and found.family == 6 else found.name
    return name if found.members < 2 else f"{name} and {found.members - 1} like it"


def _services_text(change: Change) -> str:
    most = 5
    texts = merged_texts(change.services)
    left = len(texts) - most
    return ", ".join(texts[:most]) + (f" and {left} more" if left > 0 else "")


def change_row(change: Change) -> tuple[str, ...]:
    now, then = ("deny", "allow") if change.allowed else ("allow", "deny")
    source, destination = _class_text(change.source), _class_text(change.destination)
    if change.between.is_own_host:
        note = " (its own host)"
        source += note if change.source.is_host else ""
        destination += note if change.destination.is_host else ""
    return (source, destination, _services_text(change), now, then, str(change.pairs))


def plain_change(change: Change) -> dict[str, object]:
    return {
        "from": change.source.name,
        "fromCount": change.source.members,
        "to": change.destination.name,
        "toCount": change.destination.members,
        "family": change.source.family,
        "ownHost": change.between.is_own_host,
        "services": merged_texts(change.services),
        "now": "Deny" if change.allowed else "Allow",
        "then": "Allow" if change.allowed else "Deny",
        "pairs": change.pairs,
    }
