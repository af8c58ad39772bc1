"""A policy list as one chain: every endpoint with an equal list shares it.

Per tier: clear the pass bit; jump to each policy in turn (behind the first
only while nothing has passed); where nothing has passed at the tier's end, a
default action of Deny counts and drops. What is left, because a rule passed or
the default action is Pass, falls through to the next tier, then to the
profiles, and at last is counted and dropped.

A policy decides by `accept` or `drop` itself: `accept` ends only the base
chain that led here, so it is the packet's other half, or the endpoint-to-host
action, that has the next word.
"""

from collections.abc import Callable

from tortie.dataplane.rules import match, names, seen
from tortie.dataplane.rules.content import ChainContent, Content
from tortie.dataplane.rules.match import Expressions
from tortie.dataplane.rules.names import Direction
from tortie.dataplane.settings import Settings
from tortie.desired.policy import PolicyId, PolicyList, TierPolicies
from tortie.kernel.nft import userdata
from tortie.kernel.nft.expressions import jump
from tortie.kernel.nft.objects import Rule


def list_chain(policies: PolicyList, direction: Direction, settings: Settings) -> Content:
    """The chain that decides a packet by `policies`; it never returns."""
    chain = names.list_chain(names.list_id(policies), direction)
    rules: list[Rule] = []

    def add(expressions: Expressions, comment: str) -> None:
        rules.append(Rule(chain, expressions, userdata.pack_rule(comment=comment)))

    for tier in policies.tiers:
        _add_tier(tier, direction, settings, add=add)
    for profile in policies.profiles:
        add((jump(names.policy_chain(profile, direction)),), str(profile))
    add(seen.dropped(seen.END_OF_LIST, direction, settings), "nothing decided")
    return Content(chains={chain: ChainContent(None, tuple(rules))})


def policies_of(policies: PolicyList) -> tuple[PolicyId, ...]:
    """Every policy and profile that the list's chain jumps to."""
    in_tiers = (policy for tier in policies.tiers for policy in tier.policies)
    return tuple(dict.fromkeys((*in_tiers, *policies.profiles)))


def _add_tier(
    tier: TierPolicies,
    direction: Direction,
    settings: Settings,
    *,
    add: Callable[[Expressions, str], None],
) -> None:
    not_passed = match.mark_is_clear(settings.mark_pass)
    add(match.clear_mark(settings.mark_pass), f"tier {tier.name}")
    for position, policy in enumerate(tier.policies):
        condition = not_passed if position else ()
        add((*condition, jump(names.policy_chain(policy, direction))), str(policy))
    if tier.default_action == "Deny":
        drop = seen.denied(seen.end_of_tier(tier.name, direction), direction, settings)
        add((*not_passed, *drop), f"end of tier {tier.name}")
