"""What decides one direction of an endpoint: its policies in tiers, and what comes after them.

Pure. A tier appears only with a policy of its own for that endpoint and direction. Profiles come
after the tiers only where a packet can get that far: where no tier applies, or the last one lets
packets pass, by a Pass rule or by its default action.

A policy of a tier that is missing still selects its endpoints, so they must not fall open: such
a tier counts as present, last, and denying at its end.

Source: Calico, felix/calc/policy_resolver.go, felix/calc/event_sequencer.go (which policies go
into which list of a host endpoint), felix/rules/endpoints.go (where profiles and the end of a
tier apply).
"""

from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from tortie.calc.policy_order import TierOrder, tier_order
from tortie.calc.validation import ParsedPolicy
from tortie.desired.policy import PolicyId, PolicyList, TierPolicies
from tortie.model.policy import Direction


class TierSettings(msgspec.Struct, frozen=True):
    order: TierOrder
    default_action: Literal["Deny", "Pass"]


def missing_tier(name: str) -> TierSettings:
    """The stand-in for a tier that some policy names and nobody has stored: closed."""
    return TierSettings(tier_order(name, None, missing=True), "Deny")


def policy_list(
    direction: Direction,
    policies: Iterable[ParsedPolicy],
    tiers: Mapping[str, TierSettings],
    profiles: tuple[PolicyId, ...],
    *,
    open_ended: bool = False,
) -> PolicyList:
    """
    Args:
        policies: that select the endpoint, in any order, for any direction.
        tiers: those that there are.
        profiles: the endpoint's, in its order.
        open_ended: every tier passes at its end, whatever it says: before the normal policies,
            what is undecided is left to those.
    """
    by_tier: dict[str, list[ParsedPolicy]] = {}
    for policy in policies:
        if direction in policy.directions:
            by_tier.setdefault(policy.tier, []).append(policy)
    settings = {name: tiers.get(name) or missing_tier(name) for name in by_tier}
    names = sorted(by_tier, key=lambda name: settings[name].order)
    applying = tuple(
        TierPolicies(
            name,
            "Pass" if open_ended else settings[name].default_action,
            _in_order(by_tier[name]),
        )
        for name in names
    )
    if names and not _can_leave(direction, settings[names[-1]], by_tier[names[-1]]):
        profiles = ()
    return PolicyList(applying, profiles)


def _in_order(policies: list[ParsedPolicy]) -> tuple[PolicyId, ...]:
    ordered = sorted(policies, key=lambda one: (one.order, one.policy))
    return tuple(one.policy for one in ordered)


def _can_leave(direction: Direction, settings: TierSettings, policies: list[ParsedPolicy]) -> bool:
    """Can a packet come out at the end of this tier undecided?"""
    if settings.default_action == "Pass":
        return True
    return any(direction in policy.passes for policy in policies)
