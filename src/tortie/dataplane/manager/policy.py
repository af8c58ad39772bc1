"""Policies and policy lists to chains, as far as endpoints here refer to them.

A list is written when its first endpoint comes and removed when its last one
goes; a direction of a policy likewise with the lists that name it. A list may
name a policy that is not known (calc should not let it come to that): then it
jumps to a chain that drops, until the policy is there.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable
from typing import cast

from tortie.dataplane.driver.table import TableState
from tortie.dataplane.rules import lists, names, policy
from tortie.dataplane.rules.content import Content
from tortie.dataplane.rules.names import Direction
from tortie.dataplane.settings import Settings
from tortie.desired.kinds import Kind
from tortie.desired.policy import Policy, PolicyId, PolicyList
from tortie.kernel.nft.expressions import goto

_Half = tuple[PolicyId, Direction]
_NOTHING = Content()


class PolicyManager:
    def __init__(self, table: TableState, settings: Settings) -> None:
        self._table = table
        self._settings = settings
        self._policies: dict[PolicyId, Policy] = {}
        self._policy_users: Counter[_Half] = Counter()
        """How many lists name it."""
        self._list_users: Counter[tuple[PolicyList, Direction]] = Counter()
        """How many endpoints have it."""
        self._written: dict[_Half, Content] = {}
        self._wide_sets: set[tuple[str, int]] = set()
        self._halves_by_set: defaultdict[str, set[_Half]] = defaultdict(set)
        """Which written halves name a `NET` set."""
        self._sets_of_half: dict[_Half, frozenset[str]] = {}

    def on_update(self, kind: Kind, name: Hashable, value: object | None) -> None:
        """`POLICY`."""
        assert kind is Kind.POLICY
        policy_id = cast(PolicyId, name)
        if value is None:
            self._policies.pop(policy_id, None)
        else:
            self._policies[policy_id] = cast(Policy, value)
        for direction in _DIRECTIONS:
            if self._policy_users[policy_id, direction]:
                self._write((policy_id, direction))

    def on_width(self, set_id: str, family: int, *, wide: bool) -> None:
        """A `NET` set has come to hold networks, or holds addresses only again.

        It is another set of the kernel's then, so its rules are written anew.
        """
        if wide:
            self._wide_sets.add((set_id, family))
        else:
            self._wide_sets.discard((set_id, family))
        for half in tuple(self._halves_by_set.get(set_id, ())):
            self._write(half)

    def use(self, policies: PolicyList, direction: Direction) -> None:
        """An endpoint has this list now."""
        self._list_users[policies, direction] += 1
        if self._list_users[policies, direction] > 1:
            return
        for policy_id in lists.policies_of(policies):
            self._use_policy((policy_id, direction))
        self._table.want_content(lists.list_chain(policies, direction, self._settings))
        identity = names.list_id(policies)
        verdict = goto(names.list_chain(identity, direction))
        self._table.want_element(names.CHAINS[direction], identity, verdict)

    def release(self, policies: PolicyList, direction: Direction) -> None:
        """An endpoint has this list no longer."""
        self._list_users[policies, direction] -= 1
        if self._list_users[policies, direction]:
            return
        del self._list_users[policies, direction]
        identity = names.list_id(policies)
        self._table.want_element(names.CHAINS[direction], identity, None)
        self._table.want_chain(names.list_chain(identity, direction), None)
        for policy_id in lists.policies_of(policies):
            self._release_policy((policy_id, direction))

    def _use_policy(self, half: _Half) -> None:
        self._policy_users[half] += 1
        if self._policy_users[half] == 1:
            self._write(half)

    def _release_policy(self, half: _Half) -> None:
        self._policy_users[half] -= 1
        if not self._policy_users[half]:
            del self._policy_users[half]
            self._table.drop_content(self._written.pop(half))
            self._note_sets(half, frozenset())

    def _write(self, half: _Half) -> None:
        policy_id, direction = half
        known = self._policies.get(policy_id)
        if known is None:
            content = policy.stand_in(policy_id, direction)
        else:
            content = policy.policy_chain(
                policy_id, known, direction, self._settings, wide_sets=self._wide_sets
            )
        old = self._written.get(half, _NOTHING)
        self._written[half] = content
        gone = {name: found for name, found in old.sets.items() if name not in content.sets}
        self._table.drop_content(Content(sets=gone))
        self._table.want_content(content)
        self._note_sets(half, _net_sets(known, direction) if known else frozenset())

    def _note_sets(self, half: _Half, set_ids: frozenset[str]) -> None:
        old = self._sets_of_half.pop(half, frozenset())
        if set_ids:
            self._sets_of_half[half] = set_ids
        for set_id in old - set_ids:
            self._halves_by_set[set_id].discard(half)
            if not self._halves_by_set[set_id]:
                del self._halves_by_set[set_id]
        for set_id in set_ids - old:
            self._halves_by_set[set_id].add(half)


def _net_sets(known: Policy, direction: Direction) -> frozenset[str]:
    return frozenset(
        set_id
        for rule in policy.rules_of(known, direction)
        for side in (rule.source, rule.destination)
        for set_id in (*side.sets, *side.not_sets)
    )


_DIRECTIONS: tuple[Direction, ...] = ("ingress", "egress")
