"""Whose the rules' counters are: from handles of the kernel to policies, rules and endings.

The counters live in the kernel and outlive everything here but their rule. Nothing is kept:
who asks brings what `kernel.nft.counters` has read.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from tortie.dataplane.driver.table import TableState
from tortie.dataplane.manager.policy import PolicyManager
from tortie.dataplane.manager.seen import END_OF_TIER, Decider
from tortie.dataplane.rules import lists, names, seen, static
from tortie.desired.policy import Direction
from tortie.kernel.conntrack import Counted
from tortie.kernel.nft import keys, userdata
from tortie.kernel.nft.expressions import Immediate
from tortie.kernel.nft.objects import Rule

_REASONS = {keys.u32(seen.rule_id(reason)): reason for reason in seen.REASONS}


class RuleCount(NamedTuple):
    """What one rule of one policy has decided: first packets of connections, and what it drops."""

    decider: Decider
    direction: Direction
    action: str
    counted: Counted


class VerdictCount(NamedTuple):
    """Of all rules together, where verdicts are logged."""

    name: str
    """`denied-ingress` and so on, as `rules.seen.chain_name` has it."""
    logged: Counted
    all: Counted


class Counts(NamedTuple):
    rules: list[RuleCount]
    verdicts: list[VerdictCount]


def counts(table: TableState, policies: PolicyManager, by_handle: Mapping[int, Counted]) -> Counts:
    """
    Args:
        by_handle: as `kernel.nft.counters.read` has it; a rule that has come or gone since
            is left out.
    """
    found = [
        *_of_policies(table, policies, by_handle),
        *_of_lists(table, policies, by_handle),
        *_of_static_chains(table, by_handle),
    ]
    return Counts(_added(found), list(_verdicts(table, by_handle)))


def _of_policies(
    table: TableState, policies: PolicyManager, by_handle: Mapping[int, Counted]
) -> Iterator[RuleCount]:
    for (policy_id, direction, _), chain, origins in policies.origins():
        known = policies.policy(policy_id)
        if known is None:
            continue
        rules = known.rules(direction)
        for handle, origin in zip(table.handles(chain), origins, strict=False):
            if handle in by_handle and origin < len(rules):
                decider = Decider(known.tier, policy_id, origin)
                yield RuleCount(decider, direction, rules[origin].action, by_handle[handle])


def _of_lists(
    table: TableState, policies: PolicyManager, by_handle: Mapping[int, Counted]
) -> Iterator[RuleCount]:
    """Ends of tiers and of lists, which their comments name, and other rules that drop."""
    for one in policies.placed_lists():
        chain = names.list_chain(names.list_id(one.policies), one.direction, one.place)
        deciders = {
            lists.end_of_tier_comment(tier.name): Decider(tier.name, reason=END_OF_TIER)
            for tier in one.policies.tiers
        }
        if one.place in lists.CLOSED_AT_END:
            deciders[lists.END_COMMENT] = Decider(reason=seen.END_OF_LIST)
        for handle, rule in zip(table.handles(chain), table.wanted_rules(chain), strict=False):
            decider = deciders.get(userdata.rule_comment(rule.user_data)) or _by_reason(rule)
            if decider is not None and handle in by_handle:
                yield RuleCount(decider, one.direction, "Deny", by_handle[handle])


def _of_static_chains(table: TableState, by_handle: Mapping[int, Counted]) -> Iterator[RuleCount]:
    """What is dropped without asking policy; known by its id, so only where that is logged."""
    for direction, chains in static.DROPPING.items():
        for chain in chains:
            for handle, rule in zip(table.handles(chain), table.wanted_rules(chain), strict=False):
                decider = _by_reason(rule)
                if decider is not None and handle in by_handle:
                    yield RuleCount(decider, direction, "Deny", by_handle[handle])


def _by_reason(rule: Rule) -> Decider | None:
    ids = (one.value for one in rule.expressions if isinstance(one, Immediate))
    reason = next((_REASONS[one] for one in ids if one in _REASONS), None)
    return Decider(reason=reason) if reason else None


def _verdicts(table: TableState, by_handle: Mapping[int, Counted]) -> Iterator[VerdictCount]:
    verdicts: tuple[seen.Seen, ...] = ("denied", "allowed")
    for verdict in verdicts:
        for direction in seen.DIRECTIONS:
            name = seen.chain_name(verdict, direction)
            chains = [name, seen.rejecting_chain(direction)] if verdict == "denied" else [name]
            pairs = [
                [by_handle[one] for one in handles]
                for handles in map(table.handles, chains)
                if len(handles) == 2 and all(one in by_handle for one in handles)
            ]
            if pairs:
                logged, every = zip(*pairs, strict=True)
                yield VerdictCount(name, _sum(logged), _sum(every))


def _added(found: list[RuleCount]) -> list[RuleCount]:
    """One for each decider: a rule may be several of the kernel's, an ending be in many lists."""
    sums: dict[tuple[Decider, Direction, str], Counted] = {}
    for decider, direction, action, counted in found:
        key = (decider, direction, action)
        sums[key] = _sum((sums.get(key, Counted()), counted))
    return [RuleCount(*key, counted) for key, counted in sums.items()]


def _sum(counts: Iterable[Counted]) -> Counted:
    found = tuple(counts)
    return Counted(sum(one.packets for one in found), sum(one.bytes for one in found))
