"""The items of a label index, filed by their labels in as little memory as that takes.

Items with the same own labels and the same parents are one *group*. Groups whose labels have the
same names, and whose parents are the same, are of one *shape*: the names exist once per shape,
and a group holds its values only. That matters where each of a hundred thousand items has a label
of its own: it then costs a tuple of values and a small object, not three hash tables.

Values are looked up in a table per label, which exists only from the first time on that somebody
asks for the holders of a value: most labels are never asked for. Making one costs a look at each
group that has the label, and it is kept while there is such a group.

Pure; belongs to the loop task, as part of `index.LabelIndex`.
"""

from collections.abc import Iterable, Iterator, Mapping
from sys import intern
from types import MappingProxyType
from typing import Any, Generic, TypeAlias, TypeVar, cast

Item = TypeVar("Item")
T = TypeVar("T")
Ordered: TypeAlias = dict[T, None]
Labels: TypeAlias = Mapping[str, str]

_RECENT_SLOTS = 1 << 14
_NOTHING: Mapping[Any, None] = MappingProxyType({})


class _Several(dict[Any, None]):
    """More than one of what usually is one; a type of its own, so as not to be mistaken for it."""

    __slots__ = ()


class Group(Generic[Item]):
    """Items with equal own labels and equal parents; there is one group for each such pair."""

    __slots__ = ("_items", "matched", "shape", "values")

    def __init__(self, shape: "Shape[Item]", values: tuple[str, ...]) -> None:
        self.shape = shape
        self.values = values
        self.matched: Mapping[Any, None] = _NOTHING
        """The selectors that match; written by `match` and `unmatch` only."""
        self._items: Any = None

    @property
    def labels(self) -> dict[str, str]:
        """Its own ones; made anew each time."""
        return dict(zip(self.shape.names, self.values, strict=True))

    @property
    def parents(self) -> tuple[str, ...]:
        return self.shape.parents

    @property
    def items(self) -> Iterable[Item]:
        if isinstance(self._items, _Several):
            return self._items
        return () if self._items is None else (self._items,)

    @property
    def is_empty(self) -> bool:
        return self._items is None

    def add(self, item: Item) -> None:
        if self._items is None:
            self._items = item
        elif isinstance(self._items, _Several):
            self._items[item] = None
        else:
            self._items = _Several({self._items: None, item: None})

    def discard(self, item: Item) -> None:
        if isinstance(self._items, _Several):
            del self._items[item]
            if not self._items:
                self._items = None
        else:
            self._items = None

    def match(self, selector: object) -> None:
        if self.matched is _NOTHING:
            self.matched = {}
        cast(dict[Any, None], self.matched)[selector] = None

    def unmatch(self, selector: object) -> None:
        del cast(dict[Any, None], self.matched)[selector]
        if not self.matched:
            self.matched = _NOTHING


class Shape(Generic[Item]):
    """What groups have in common: the names of their labels, sorted, and their parents."""

    __slots__ = ("groups", "names", "parents")

    def __init__(self, names: tuple[str, ...], parents: tuple[str, ...]) -> None:
        self.names = names
        self.parents = parents
        self.groups: dict[tuple[str, ...], Group[Item]] = {}
        """By the values of their labels."""


class Groups(Generic[Item]):
    """All groups; each is here while it has items."""

    def __init__(self) -> None:
        self._shapes: dict[tuple[tuple[str, ...], tuple[str, ...]], Shape[Item]] = {}
        self._shapes_by_label: dict[str, Ordered[Shape[Item]]] = {}
        self._shapes_by_parent: dict[str, Ordered[Shape[Item]]] = {}
        self._holders: dict[str, dict[str, Group[Item] | _Several]] = {}
        """Label → value → the group that has it, or several; for labels somebody asked for."""
        self._recent = _Recent()
        self.count = 0

    def find_or_add(self, labels: Labels, parents: tuple[str, ...]) -> tuple[Group[Item], bool]:
        """The group with these, and whether it is new."""
        names = tuple(sorted(labels))
        shape = self._shapes.get((names, parents)) or self._add_shape(names, parents)
        values = tuple([labels[name] for name in names])
        group = shape.groups.get(values)
        if group is not None:
            return group, False
        values = tuple(map(self._recent.same, values))
        group = shape.groups[values] = Group(shape, values)
        self.count += 1
        for name, value in zip(shape.names, values, strict=True):
            if name in self._holders:
                _hold(self._holders[name], value, group)
        return group, True

    def remove(self, group: Group[Item]) -> None:
        """It has lost its last item."""
        shape = group.shape
        del shape.groups[group.values]
        self.count -= 1
        for name, value in zip(shape.names, group.values, strict=True):
            if table := self._holders.get(name):
                _release(table, value, group)
                if not table:
                    del self._holders[name]
        if not shape.groups:
            self._remove_shape(shape)

    def __iter__(self) -> Iterator[Group[Item]]:
        for shape in self._shapes.values():
            yield from shape.groups.values()

    def with_label(self, label: str) -> Iterator[Group[Item]]:
        """Those that have it, with whatever value."""
        for shape in self._shapes_by_label.get(label, ()):
            yield from shape.groups.values()

    def with_value(self, label: str, value: str) -> Iterable[Group[Item]]:
        held = self._table(label).get(value)
        if isinstance(held, _Several):
            return held
        return () if held is None else (held,)

    def with_parent(self, parent: str) -> Iterator[Group[Item]]:
        for shape in self._shapes_by_parent.get(parent, ()):
            yield from shape.groups.values()

    def label_count(self, label: str) -> int:
        """How many groups have it."""
        return sum(len(shape.groups) for shape in self._shapes_by_label.get(label, ()))

    def value_count(self, label: str, value: str) -> int:
        """How many groups have it with that value."""
        held = self._table(label).get(value)
        if isinstance(held, _Several):
            return len(held)
        return held is not None

    def parent_count(self, parent: str) -> int:
        return sum(len(shape.groups) for shape in self._shapes_by_parent.get(parent, ()))

    def _table(self, label: str) -> dict[str, "Group[Item] | _Several"]:
        table = self._holders.get(label)
        if table is None:
            table = {}
            for shape in self._shapes_by_label.get(label, ()):
                position = shape.names.index(label)
                for values, group in shape.groups.items():
                    _hold(table, values[position], group)
            if table:
                self._holders[intern(label)] = table
        return table

    def _add_shape(self, names: tuple[str, ...], parents: tuple[str, ...]) -> Shape[Item]:
        names, parents = tuple(map(intern, names)), tuple(map(intern, parents))
        shape: Shape[Item] = Shape(names, parents)
        self._shapes[names, parents] = shape
        for name in names:
            self._shapes_by_label.setdefault(name, {})[shape] = None
        for parent in parents:
            self._shapes_by_parent.setdefault(parent, {})[shape] = None
        return shape

    def _remove_shape(self, shape: Shape[Item]) -> None:
        del self._shapes[shape.names, shape.parents]
        for name in shape.names:
            _drop(self._shapes_by_label, name, shape)
        for parent in dict.fromkeys(shape.parents):
            _drop(self._shapes_by_parent, parent, shape)


class _Recent:
    """Strings seen of late: decoders make each anew, and most have been there before.

    `sys.intern` would keep an entry for every one, also for those that come only once.
    """

    __slots__ = ("_slots",)

    def __init__(self) -> None:
        self._slots = [""] * _RECENT_SLOTS

    def __repr__(self) -> str:
        return "_Recent()"  # what is in it makes no difference to anybody

    def same(self, text: str) -> str:
        """An equal string, the same as last time if that was not long ago."""
        slot = hash(text) % _RECENT_SLOTS
        known = self._slots[slot]
        if known == text:
            return known
        self._slots[slot] = text
        return text


def _hold(table: dict[str, Group[Item] | _Several], value: str, group: Group[Item]) -> None:
    held = table.get(value)
    if held is None:
        table[value] = group
    elif isinstance(held, _Several):
        held[group] = None
    else:
        table[value] = _Several({held: None, group: None})


def _release(table: dict[str, Group[Item] | _Several], value: str, group: Group[Item]) -> None:
    held = table[value]
    if isinstance(held, _Several):
        del held[group]
        if held:
            return
    del table[value]


def _drop(table: dict[str, Ordered[T]], key: str, member: T) -> None:
    members = table[key]
    del members[member]
    if not members:
        del table[key]
