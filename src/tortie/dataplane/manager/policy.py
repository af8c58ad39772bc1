"""Policies and policy lists to chains, as far as endpoints here refer to them.

A list is written when its first endpoint comes and removed when its last one
goes; a direction of a policy likewise with the lists that name it. A list may
name a policy that is not known (calc should not let it come to that): then it
jumps to a chain that drops, until the policy is there.

Also notes which lists may have come to allow less, for `manager.connection`.
"""

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterator
from typing import NamedTuple, cast

from tortie.dataplane.driver.table import TableState
from tortie.dataplane.rules import lists, names, policy
from tortie.dataplane.rules.content import Content
from tortie.dataplane.rules.names import Direction, Place
from tortie.dataplane.settings import Settings
from tortie.desired.endpoint import EndpointId
from tortie.desired.kinds import Kind
from tortie.desired.policy import Policy, PolicyId, PolicyList, Rule
from tortie.desired.verdict import SetUse, set_use
from tortie.kernel.nft.expressions import Verdict, goto


class PlacedList(NamedTuple):
    """A policy list, and where it is asked: each such has a chain of its own."""

    policies: PolicyList
    direction: Direction
    place: Place = "workload"


class _Half(NamedTuple):
    """One chain of a policy."""

    policy: PolicyId
    direction: Direction
    place: Place
    """The first of those that share the chain."""


User = EndpointId | str
"""A workload endpoint, or an interface of this host."""

_FIRST_PLACE: dict[Place, Place] = {"host": "workload", "forward": "workload"}
_PLACES: tuple[Place, ...] = ("workload", "untracked", "pre-dnat", "translated")
_DIRECTIONS: tuple[Direction, ...] = ("ingress", "egress")
_NOTHING = Content()
_NO_SETS = set_use(())
_NO_KEYS: frozenset[bytes] = frozenset()


class PolicyManager:
    def __init__(self, table: TableState, settings: Settings) -> None:
        self._table = table
        self._settings = settings
        self._policies: dict[PolicyId, Policy] = {}
        self._lists_by_half: defaultdict[_Half, set[PlacedList]] = defaultdict(set)
        """Which lists name it; only what some list names is here, and in the kernel."""
        self._list_users: dict[PlacedList, set[User]] = {}
        """Who has it."""
        self._written: dict[_Half, Content] = {}
        self._set_use: dict[_Half, SetUse] = {}
        """Of those written."""
        self._halves_by_set: defaultdict[str, set[_Half]] = defaultdict(set)
        self._set_forms: dict[tuple[str, int], policy.Form] = {}
        """By id and family; what is not here is as most are."""
        self._tightened: set[PlacedList] = set()
        self._closed: set[Hashable] = set()
        """Policies, lists and set ids that the kernel refused: see `manager.refusal`."""
        self.changes = 0
        """Grows with every change of a policy or of the lists in use."""

    def on_update(self, kind: Kind, name: Hashable, value: object | None) -> None:
        """`POLICY`."""
        assert kind is Kind.POLICY
        policy_id = cast(PolicyId, name)
        new = cast("Policy | None", value)
        if self._policies.get(policy_id) == new:
            return
        if new is None:
            del self._policies[policy_id]
        else:
            self._policies[policy_id] = new
        self.changes += 1
        for direction in _DIRECTIONS:
            for place in _PLACES:
                half = _Half(policy_id, direction, place)
                if half in self._lists_by_half:
                    self._write(half)
                    self._tightened |= self._lists_by_half[half]

    def on_member(self, set_id: str, *, added: bool) -> None:
        """A member of a set came or went: some lists may allow less by that."""
        for half in self._halves_by_set.get(set_id, ()):
            use = self._set_use[half]
            if set_id in (use.tighten_by_growth if added else use.tighten_by_loss):
                self._tightened |= self._lists_by_half[half]

    def on_form(self, set_id: str, family: int, form: policy.Form | None) -> None:
        """A set is another one of the kernel's from now on, or absent: so its rules are written
        anew. None means that there is no such set any more."""
        if form is None or form is policy.Form.ADDRESSES:
            self._set_forms.pop((set_id, family), None)
        else:
            self._set_forms[set_id, family] = form
        for half in tuple(self._halves_by_set.get(set_id, ())):
            self._write(half)

    def policy(self, policy_id: PolicyId) -> Policy | None:
        """None for one that is not known."""
        return self._policies.get(policy_id)

    def lists(self, direction: Direction) -> list[PolicyList]:
        """Those in use here."""
        return [one.policies for one in self._list_users if one.direction == direction]

    def placed_lists(self) -> Iterator[PlacedList]:
        """Those in use here, and where."""
        return iter(self._list_users)

    def origins(self) -> Iterator[tuple[_Half, str, tuple[int, ...]]]:
        """Each policy that is written, its chain, and which rule of it each of the chain's is."""
        for half, content in self._written.items():
            for chain in content.chains:
                yield half, chain, content.origins

    def take_tightened(self) -> set[User]:
        """Whose lists may allow less than when this was last asked."""
        tightened, self._tightened = self._tightened, set()
        return {user for one in tightened for user in self._list_users.get(one, ())}

    def use(self, one: PlacedList, user: User) -> None:
        """The user has this list now. The maps of its place are there."""
        users = self._list_users.setdefault(one, set())
        users.add(user)
        if len(users) > 1:
            return
        for half in _halves_of(one):
            is_first = half not in self._lists_by_half
            self._lists_by_half[half].add(one)
            if is_first:
                self._write(half)
        self._write_list(one)
        self.changes += 1

    def release(self, one: PlacedList, user: User) -> None:
        """The user has this list no longer."""
        users = self._list_users[one]
        users.discard(user)
        if users:
            return
        del self._list_users[one]
        self.changes += 1
        self._tightened.discard(one)
        self._remove_list(one)
        for half in _halves_of(one):
            self._lists_by_half[half].discard(one)
            if not self._lists_by_half[half]:
                del self._lists_by_half[half]
                self._table.drop_content(self._written.pop(half))
                self._note_sets(half, ())

    # What the kernel refused.

    def close(self, policy_id: Hashable, *, closed: bool) -> None:
        """Have the policy drop everything, or do what it says again."""
        self._note_closed(policy_id, closed=closed)
        for half in [half for half in self._lists_by_half if half.policy == policy_id]:
            self._write(half)

    def close_set(self, set_id: str, *, closed: bool) -> None:
        """Have the policies that name the set drop everything, or do what they say again."""
        self._note_closed(set_id, closed=closed)
        for half in tuple(self._halves_by_set.get(set_id, ())):
            self._write(half)

    def close_list(self, one: Hashable, *, closed: bool) -> None:
        """Have a workload's list no chain, and a host endpoint's one that does not ask the
        policies: so it drops; or have it again."""
        self._note_closed(one, closed=closed)
        found = cast(PlacedList, one)
        if found not in self._list_users:
            return
        if closed and found.place == "workload":
            self._remove_list(found)
        else:
            self._write_list(found)

    def users(self, one: Hashable) -> Collection[User]:
        """Who has this list."""
        return self._list_users.get(cast(PlacedList, one), ())

    def policy_of_chain(self, name: str) -> PolicyId | None:
        """These searches are slow, and made only when the kernel has refused something."""
        found = (half.policy for half, one in self._written.items() if name in one.chains)
        return next(found, None)

    def policy_of_set(self, name: str, key: bytes | None) -> PolicyId | None:
        """The one that the set, or (in a shared set) the element is of."""
        for half, content in self._written.items():
            if name in content.sets or key in content.shared.get(name, _NO_KEYS):
                return half.policy
        return None

    def list_of_chain(self, name: str) -> PlacedList | None:
        return next((one for one in self._list_users if _list_chain(one) == name), None)

    def list_of_element(self, set_name: str, identity: bytes) -> PlacedList | None:
        """The one that an element, with this key, of a map to chains is of."""
        return next(
            (
                one
                for one in self._list_users
                if names.chains_map(one.direction, one.place) == set_name
                and names.list_id(one.policies) == identity
            ),
            None,
        )

    def _note_closed(self, name: Hashable, *, closed: bool) -> None:
        if closed:
            self._closed.add(name)
        else:
            self._closed.discard(name)

    # Writing.

    def _write_list(self, one: PlacedList) -> None:
        policies, direction, place = one
        if one not in self._closed:
            content = lists.list_chain(policies, direction, self._settings, place)
        elif place == "workload":
            return
        else:
            content = lists.closed_list(policies, direction, self._settings, place)
        self._table.want_content(content)
        self._want_element(one, goto(_list_chain(one)))

    def _remove_list(self, one: PlacedList) -> None:
        self._want_element(one, None)
        self._table.want_chain(_list_chain(one), None)

    def _want_element(self, one: PlacedList, verdict: Verdict | None) -> None:
        chains = names.chains_map(one.direction, one.place)
        self._table.want_element(chains, names.list_id(one.policies), verdict)

    def _is_closed(self, policy_id: PolicyId, rules: tuple[Rule, ...]) -> bool:
        return bool(self._closed) and (
            policy_id in self._closed or not self._closed.isdisjoint(set_use(rules).all)
        )

    def _write(self, half: _Half) -> None:
        policy_id, direction, place = half
        known = self._policies.get(policy_id)
        rules = known.rules(direction) if known else ()
        if known is None or self._is_closed(policy_id, rules):
            content = policy.stand_in(
                policy_id, direction, self._settings, place, known=known is not None
            )
        else:
            content = policy.policy_chain(
                policy_id,
                known,
                direction,
                self._settings,
                set_forms=self._set_forms,
                place=place,
            )
        old = self._written.get(half, _NOTHING)
        self._written[half] = content
        gone = {name: found for name, found in old.sets.items() if name not in content.sets}
        shared = {
            name: keys - content.shared.get(name, _NO_KEYS) for name, keys in old.shared.items()
        }
        self._table.drop_content(Content(sets=gone, shared=shared))
        self._table.want_content(content)
        self._note_sets(half, rules)

    def _note_sets(self, half: _Half, rules: tuple[Rule, ...]) -> None:
        old, new = self._set_use.pop(half, _NO_SETS), set_use(rules)
        if rules:
            self._set_use[half] = new
        for set_id in old.all - new.all:
            self._halves_by_set[set_id].discard(half)
            if not self._halves_by_set[set_id]:
                del self._halves_by_set[set_id]
        for set_id in new.all - old.all:
            self._halves_by_set[set_id].add(half)


def _list_chain(one: PlacedList) -> str:
    return names.list_chain(names.list_id(one.policies), one.direction, one.place)


def _halves_of(one: PlacedList) -> Iterator[_Half]:
    place = _FIRST_PLACE.get(one.place, one.place)
    for policy_id in lists.policies_of(one.policies):
        yield _Half(policy_id, one.direction, place)
