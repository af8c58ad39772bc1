"""A policy list as one chain: every endpoint with an equal list shares it.

Per tier: clear the pass bit; jump to each policy in turn (behind the first
only while nothing has passed); where nothing has passed at the tier's end, a
default action of Deny counts and drops. What is left, because a rule passed or
the default action is Pass, falls through to the next tier, then to the
profiles, and at last is counted and dropped.

A host endpoint's lists begin with what is always open. Those that are asked
before its normal ones, or about what passes by, leave at their end alone what
nothing has decided.

A policy decides by `accept` or `drop` itself: `accept` ends only the base
chain that led here, so it is the packet's other half, or the endpoint-to-host
action, that has the next word.
"""

from collections.abc import Callable

from tortie.dataplane.rules import host_endpoint, match, names, seen
from tortie.dataplane.rules.content import ChainContent, Content
from tortie.dataplane.rules.match import Expressions
from tortie.dataplane.rules.names import Direction, Place
from tortie.dataplane.settings import Settings
from tortie.desired.policy import PolicyId, PolicyList, TierPolicies
from tortie.kernel.nft import userdata
from tortie.kernel.nft.expressions import ACCEPT, jump
from tortie.kernel.nft.objects import Rule

CLOSED_AT_END: tuple[Place, ...] = ("workload", "host", "translated")
"""Where what nothing has decided is dropped."""

END_COMMENT = "nothing decided"


def end_of_tier_comment(tier: str) -> str:
    return f"end of tier {tier}"


def list_chain(
    policies: PolicyList, direction: Direction, settings: Settings, place: Place = "workload"
) -> Content:
    """The chain that decides a packet by `policies`; it never returns."""
    chain = names.list_chain(names.list_id(policies), direction, place)
    rules: list[Rule] = []

    def add(expressions: Expressions, comment: str) -> None:
        rules.append(Rule(chain, expressions, userdata.pack_rule(comment=comment)))

    for expressions in _always(direction, settings, place):
        add(expressions, "")
    for tier in policies.tiers:
        _add_tier(tier, direction, settings, place, add=add)
    for profile in policies.profiles:
        add((jump(names.policy_chain(profile, direction, place)),), str(profile))
    reject = seen.can_reject(place, settings)
    closed = seen.dropped(seen.END_OF_LIST, direction, settings, reject=reject)
    add(closed if place in CLOSED_AT_END else match.counted(ACCEPT), END_COMMENT)
    return Content(chains={chain: ChainContent(None, tuple(rules))})


def closed_list(
    policies: PolicyList, direction: Direction, settings: Settings, place: Place
) -> Content:
    """A host endpoint's list that the kernel refused: it drops all but what is always open."""
    chain = names.list_chain(names.list_id(policies), direction, place)
    closed = seen.dropped(seen.NO_ENDPOINT, direction, settings)
    rules = (*_always(direction, settings, place), closed)
    comment = userdata.pack_rule(comment="refused")
    found = tuple(Rule(chain, one, comment) for one in rules)
    return Content(chains={chain: ChainContent(None, found)})


def policies_of(policies: PolicyList) -> tuple[PolicyId, ...]:
    """Every policy and profile that the list's chain jumps to."""
    in_tiers = (policy for tier in policies.tiers for policy in tier.policies)
    return tuple(dict.fromkeys((*in_tiers, *policies.profiles)))


def _always(direction: Direction, settings: Settings, place: Place) -> tuple[Expressions, ...]:
    """What comes before a host endpoint's policies."""
    if place == "workload":
        return ()
    if place == "forward":
        return seen.invalid(direction, settings)
    return ((jump(host_endpoint.always_chain(direction, tracked=place != "untracked")),),)


def _add_tier(
    tier: TierPolicies,
    direction: Direction,
    settings: Settings,
    place: Place,
    *,
    add: Callable[[Expressions, str], None],
) -> None:
    not_passed = match.mark_is_clear(settings.mark_pass)
    add(match.clear_mark(settings.mark_pass), f"tier {tier.name}")
    for position, policy in enumerate(tier.policies):
        condition = not_passed if position else ()
        add((*condition, jump(names.policy_chain(policy, direction, place))), str(policy))
    if tier.default_action == "Deny":
        identity = seen.end_of_tier(tier.name, direction)
        reject = seen.can_reject(place, settings)
        denied = seen.denied(identity, direction, settings, reject=reject)
        add((*not_passed, *denied), end_of_tier_comment(tier.name))
