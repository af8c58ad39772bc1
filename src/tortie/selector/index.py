"""Which selectors match which items, kept up to date at the cost of what changed.

Theory of operation
    Items with the same own labels and the same parents match the same selectors, so they share
    one *group* (module `groups`), and matching is between groups and selectors: a thousand
    replicas cost as much as one. A group's own labels win over its parents', and an earlier
    parent's over a later's.
    Parents (profiles, namespaces) are referred to, not merged in, so that their labels exist
    once, however many items inherit them. A parent that nobody has set has no labels.

    Two inverted indexes keep evaluation to likely pairs. *Holders* (label → value → groups, and
    label → value → parents) find the groups that a new selector could match; for groups they
    are made for the labels that selectors demand, when the first one does. *Interests* (label
    → value → selectors) find the selectors that a new group could match: each selector is
    filed under one label only, among those that it cannot match without (`normal.required`).
    That is the label that the fewest items and selectors have in common at the time; otherwise
    ten thousand selectors that all begin `orchestrator == 'k8s' && …` would meet every item.
    A selector that demands nothing (`all()`, `!has(x)`) is a candidate for every group.

Tables are dicts with None for values, not sets, so that events come in a reproducible order.

Pure and synchronous; belongs to the loop task. The listeners are called after the index is
consistent again, so they may query it, but they must not change it. `linear.LinearIndex` does
the same by brute force and is the oracle in the tests.
"""

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from functools import lru_cache
from sys import intern
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

from tortie.selector.groups import Group, Groups
from tortie.selector.normal import ANY_VALUE, Restriction, labels_named, required, uses_global
from tortie.selector.syntax import Node

Item = TypeVar("Item", bound=Hashable)
Selector = TypeVar("Selector", bound=Hashable)
T = TypeVar("T", bound=Hashable)

Ordered: TypeAlias = dict[T, None]
Listener: TypeAlias = Callable[[Selector, Item], None]
Labels: TypeAlias = Mapping[str, str]


class IndexStatistics(NamedTuple):
    """Sizes now, and work since the start."""

    items: int
    groups: int
    selectors: int
    pairs: int
    """Of a selector and a group that match now."""
    evaluation_count: int
    """How often a selector was evaluated against a group."""


class LabelIndex(Generic[Selector, Item]):
    """Incremental many-to-many matching; see the module for how.

    Args:
        on_match_started: called with (selector, item) once when the pair begins to match.
        on_match_stopped: likewise when it ends; within one change, stops of a selector or an
            item come before its starts.
    """

    def __init__(
        self,
        on_match_started: Listener[Selector, Item],
        on_match_stopped: Listener[Selector, Item],
    ) -> None:
        self._on_match_started = on_match_started
        self._on_match_stopped = on_match_stopped
        self._items: dict[Item, Group[Item]] = {}
        self._groups: Groups[Item] = Groups()
        self._parents: dict[str, _Parent] = {}
        self._selectors: dict[Selector, _Filed[Selector, Item]] = {}
        self._holding_parents: _ByLabel[_Parent] = _ByLabel()
        self._interests: _ByLabel[_Filed[Selector, Item]] = _ByLabel()
        self._present_interests: dict[str, Ordered[_Filed[Selector, Item]]] = {}
        self._undemanding: Ordered[_Filed[Selector, Item]] = {}
        self._evaluation_count = 0

    def set_item(self, item: Item, labels: Labels, parents: tuple[str, ...] = ()) -> None:
        """Add an item or replace its labels and parents; `labels` must not change afterwards."""
        before = self._items.get(item)
        group, new = self._groups.find_or_add(labels, parents)
        if new:
            self._match_group(group)
        if group is before:
            return
        self._items[item] = group
        group.add(item)
        if before is not None:
            self._leave(before, item)
        self._tell(item, before.matched if before else {}, group.matched)

    def remove_item(self, item: Item) -> None:
        """Forget an item; one that is not there is fine."""
        group = self._items.pop(item, None)
        if group is None:
            return
        self._leave(group, item)
        self._tell(item, group.matched, {})

    def set_parent(self, parent: str, labels: Labels) -> None:
        """Set what every item that names this parent inherits; no labels is as good as none."""
        record = self._parents.get(parent)
        if record is None:
            record = self._parents[parent] = _Parent(parent)
        changed = {
            label
            for label in record.labels.keys() | labels.keys()
            if record.labels.get(label) != labels.get(label)
        }
        self._holding_parents.discard_all(record, record.labels)
        record.labels = _interned(labels)
        self._holding_parents.add_all(record, record.labels)
        if not record.labels:
            del self._parents[parent]
        if changed:
            self._rematch(self._groups.with_parent(parent), changed)

    def remove_parent(self, parent: str) -> None:
        """Items that name it stay, and inherit nothing from it."""
        self.set_parent(parent, {})

    def set_selector(self, selector: Selector, node: Node) -> None:
        """Add a selector or replace its node. One that uses `global()` matches no item."""
        before = self._selectors.get(selector)
        if before is not None:
            if before.node == node:
                return
            self._unfile(before)
        filed = self._selectors[selector] = self._file(selector, node)
        # Most selectors look only at labels that no parent has, so that there is nothing to merge.
        inherits = any(map(self._holding_parents.value_count, filed.labels))
        for group in self._groups_filed_like(filed):
            labels = self._effective(group) if inherits else group.labels
            if group not in filed.groups and self._evaluate(filed, labels):
                _match(filed, group)
        self._tell_items(selector, before.groups if before else {}, filed.groups)

    def remove_selector(self, selector: Selector) -> None:
        """Forget a selector; one that is not there is fine."""
        filed = self._selectors.pop(selector, None)
        if filed is None:
            return
        self._unfile(filed)
        self._tell_items(selector, filed.groups, {})

    def items_matching(self, selector: Selector) -> list[Item]:
        """Each once; none if the selector is unknown."""
        filed = self._selectors.get(selector)
        return [item for group in filed.groups for item in group.items] if filed else []

    def selectors_matching(self, item: Item) -> list[Selector]:
        """Each once; none if the item is unknown."""
        group = self._items.get(item)
        return [filed.selector for filed in group.matched] if group else []

    def statistics(self) -> IndexStatistics:
        return IndexStatistics(
            items=len(self._items),
            groups=self._groups.count,
            selectors=len(self._selectors),
            pairs=sum(len(filed.groups) for filed in self._selectors.values()),
            evaluation_count=self._evaluation_count,
        )

    # Groups and parents.

    def _match_group(self, group: Group[Item]) -> None:
        """A new one, with whatever selects it."""
        if not self._selectors:  # as long as a cluster is loaded, before anybody asks
            return
        effective = self._effective(group)
        for filed in self._candidates(effective):
            if self._evaluate(filed, effective):
                _match(filed, group)

    def _leave(self, group: Group[Item], item: Item) -> None:
        """Take the item out of its group, and the group away with its last item."""
        group.discard(item)
        if group.is_empty:
            self._groups.remove(group)
            for filed in group.matched:
                del filed.groups[group]

    def _effective(self, group: Group[Item]) -> Labels:
        """The group's labels with what it inherits; made anew each time, to stay lean."""
        names = [parent for parent in group.parents if parent in self._parents]
        if not names:
            return group.labels
        inherited = [self._parents[parent].labels for parent in names]
        merged: dict[str, str] = {}
        for labels in reversed(inherited):
            merged.update(labels)
        merged.update(group.labels)
        return merged

    def _rematch(self, groups: Iterable[Group[Item]], changed: set[str]) -> None:
        """Evaluate again what looks at a changed label; tell what came of it at the end."""
        stopped: list[_Pair[Selector, Item]] = []
        started: list[_Pair[Selector, Item]] = []
        for group in groups:
            effective = self._effective(group)
            candidates = dict.fromkeys(self._candidates(effective))
            # What matched and is no candidate any more has lost the label that it demands.
            stopped += [(filed, group) for filed in group.matched if filed not in candidates]
            for filed in candidates:
                if changed.isdisjoint(filed.labels):
                    continue
                matched = filed in group.matched
                if matched != self._evaluate(filed, effective):
                    (stopped if matched else started).append((filed, group))
        for filed, group in stopped:
            _unmatch(filed, group)
        for filed, group in started:
            _match(filed, group)
        for filed, group in stopped:
            for item in group.items:
                self._on_match_stopped(filed.selector, item)
        for filed, group in started:
            for item in group.items:
                self._on_match_started(filed.selector, item)

    # Selectors.

    def _file(self, selector: Selector, node: Node) -> "_Filed[Selector, Item]":
        demands = NEVER if uses_global(node) else required(node)
        under = min(demands.items(), key=self._weight, default=None)
        if under is not None and under[1] is not ANY_VALUE:
            under = under[0], _same(under[1])
        filed: _Filed[Selector, Item] = _Filed(selector, node, under)
        if under is None:
            self._undemanding[filed] = None
            return filed
        label, restriction = under
        if restriction is ANY_VALUE:
            self._present_interests.setdefault(label, {})[filed] = None
        else:
            for value in restriction:
                self._interests.add(filed, label, value)
        return filed

    def _unfile(self, filed: "_Filed[Selector, Item]") -> None:
        """Take it out of all tables; `filed.groups` stays, for who needs to know."""
        for group in filed.groups:
            group.unmatch(filed)
        if filed.under is None:
            del self._undemanding[filed]
            return
        label, restriction = filed.under
        if restriction is ANY_VALUE:
            interests = self._present_interests[label]
            del interests[filed]
            if not interests:
                del self._present_interests[label]
        else:
            for value in restriction:
                self._interests.discard(filed, label, value)

    def _weight(self, demand: tuple[str, Restriction]) -> tuple[bool, int]:
        """How crowded it is under this label: how many would meet there for nothing."""
        label, restriction = demand
        if restriction is ANY_VALUE:
            crowd = len(self._present_interests.get(label, ()))
            return True, crowd + self._groups.label_count(label)
        crowd = 0
        for value in restriction:
            crowd += len(self._interests.get(label, value))
            crowd += self._groups.value_count(label, value)
            crowd += sum(
                self._groups.parent_count(parent.name)
                for parent in self._holding_parents.get(label, value)
            )
        return False, crowd

    def _candidates(self, labels: Labels) -> "Iterator[_Filed[Selector, Item]]":
        """Each at most once, since each is filed under one label, and that has one value here."""
        yield from self._undemanding
        for label, value in labels.items():
            yield from self._interests.get(label, value)
            yield from self._present_interests.get(label, ())

    def _groups_filed_like(self, filed: "_Filed[Selector, Item]") -> Iterator[Group[Item]]:
        """Every group that could match, some perhaps more than once."""
        if filed.under is None:
            yield from self._groups
            return
        label, restriction = filed.under
        if restriction is ANY_VALUE:
            yield from self._groups.with_label(label)
        else:
            for value in restriction:
                yield from self._groups.with_value(label, value)
        for parent in self._holding_parents.having(label, restriction):
            yield from self._groups.with_parent(parent.name)

    def _evaluate(self, filed: "_Filed[Selector, Item]", labels: Labels) -> bool:
        self._evaluation_count += 1
        return filed.node.matches(labels)

    # Events.

    def _tell(
        self,
        item: Item,
        before: "Mapping[_Filed[Selector, Item], None]",
        after: "Mapping[_Filed[Selector, Item], None]",
    ) -> None:
        for filed in before:
            if filed not in after:
                self._on_match_stopped(filed.selector, item)
        for filed in after:
            if filed not in before:
                self._on_match_started(filed.selector, item)

    def _tell_items(
        self,
        selector: Selector,
        before: Ordered[Group[Item]],
        after: Ordered[Group[Item]],
    ) -> None:
        for group in before:
            if group not in after:
                for item in group.items:
                    self._on_match_stopped(selector, item)
        for group in after:
            if group not in before:
                for item in group.items:
                    self._on_match_started(selector, item)


NEVER: Mapping[str, Restriction] = {"": frozenset()}
"""The demand of a selector that nothing can meet."""


class _Parent:
    """Labels to inherit; kept while there are any."""

    __slots__ = ("labels", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.labels: Labels = {}


class _Filed(Generic[Selector, Item]):
    """A selector and where it is filed; a replaced node means a new one of these."""

    __slots__ = ("groups", "labels", "node", "selector", "under")

    def __init__(
        self, selector: Selector, node: Node, under: tuple[str, Restriction] | None
    ) -> None:
        self.selector = selector
        self.node = node
        self.under = under
        """The label, with its values, that lead to it; None: it is met by every group."""
        self.labels = _same(labels_named(node))
        self.groups: Ordered[Group[Item]] = {}
        """The groups that match; the mirror image of `Group.matched`."""


@lru_cache(maxsize=4096)
def _same(labels: frozenset[str]) -> frozenset[str]:
    """An equal set, the same for most of those who look at the same labels."""
    return labels


_Pair: TypeAlias = tuple[_Filed[Selector, Item], Group[Item]]


def _match(filed: _Filed[Selector, Item], group: Group[Item]) -> None:
    filed.groups[group] = None
    group.match(filed)


def _unmatch(filed: _Filed[Selector, Item], group: Group[Item]) -> None:
    del filed.groups[group]
    group.unmatch(filed)


class _ByLabel(Generic[T]):
    """Label → value → members; tables that become empty are dropped."""

    def __init__(self) -> None:
        self._tables: dict[str, dict[str, Ordered[T]]] = {}

    def add(self, member: T, label: str, value: str) -> None:
        self._tables.setdefault(label, {}).setdefault(value, {})[member] = None

    def discard(self, member: T, label: str, value: str) -> None:
        values = self._tables[label]
        members = values[value]
        del members[member]
        if not members:
            del values[value]
        if not values:
            del self._tables[label]

    def add_all(self, member: T, labels: Labels) -> None:
        for label, value in labels.items():
            self.add(member, label, value)

    def discard_all(self, member: T, labels: Labels) -> None:
        for label, value in labels.items():
            self.discard(member, label, value)

    def get(self, label: str, value: str) -> Collection[T]:
        return self._tables.get(label, _NO_VALUES).get(value, ())

    def value_count(self, label: str) -> int:
        return len(self._tables.get(label, ()))

    def having(self, label: str, restriction: Restriction) -> Iterator[T]:
        """The members with that label and, unless any will do, one of those values."""
        values = self._tables.get(label, {})
        for value in values if restriction is ANY_VALUE else restriction:
            yield from values.get(value, ())


_NO_VALUES: Mapping[str, Ordered[Any]] = {}


def _interned(labels: Labels) -> dict[str, str]:
    """A copy whose strings are shared with every equal one: decoders make each anew."""
    return {intern(label): intern(value) for label, value in labels.items()}
