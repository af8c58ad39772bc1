"""One nftables table: what it should hold, what it holds, and the way between.

Keeps wanted and actual apart per chain, per set and per element, and turns the
difference into operations of a transaction. Does no I/O: `driver.nftables`
reads the kernel, commits, and tells what became of it.

A rule that stays keeps its handle, and so its counters. The handles of added
rules come back with the commit, in the order in which they were sent.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import msgspec

from tortie.dataplane.driver.rule_diff import Delete, Insert, Keep, rule_diff
from tortie.dataplane.rules.content import NO_DATA, ChainContent, Content, Data
from tortie.kernel.nft.constants import Policy
from tortie.kernel.nft.objects import (
    Base,
    Chain,
    Element,
    Rule,
    Set,
    TableName,
    interval_elements,
    intervals,
)
from tortie.kernel.nft.transaction import Transaction
from tortie.lib.delta import Delta


class Found(NamedTuple):
    """A table as read from the kernel."""

    chains: Mapping[str, Chain]
    rules: Mapping[str, list[Rule]]
    """By chain, in order, with handles."""
    sets: Mapping[str, Set]
    elements: Mapping[str, list[Element]]


class TableState:
    """Loop task only."""

    def __init__(self, name: TableName) -> None:
        self.name = name
        self._chains: Delta[str, ChainContent] = Delta()
        self._handles: dict[str, list[int]] = {}
        """Of the actual rules, by chain."""
        self._plans: dict[str, list[int | None]] = {}
        """Handles as they will be once what `write` added is done; None for a new rule."""
        self._sets: Delta[str, Set] = Delta()
        self._elements: dict[str, Delta[bytes, Data]] = {}
        self._dirty: dict[str, None] = {}
        """Sets with elements to write; so that an apply costs what changes."""
        self._withheld: set[str] = set()
        """Sets that are left as they are, whatever is wanted of them."""

    # What should be.

    def want_content(self, content: Content) -> None:
        """Chains and sets of `content`, and exactly its elements in those sets it fills."""
        for name, wanted in content.sets.items():
            self.want_set(name, wanted)
        for name, members in content.elements.items():
            elements = self._elements[name]
            for key in elements.wanted_keys - members:
                self.want_element(name, key, None)
            for key in members:
                self.want_element(name, key, NO_DATA)
        for name, members in content.shared.items():
            for key in members:
                self.want_element(name, key, NO_DATA)
        for chain, rules in content.chains.items():
            self.want_chain(chain, rules)

    def drop_content(self, content: Content) -> None:
        """The chains, sets and shared elements of `content` are not wanted any more."""
        for name, members in content.shared.items():
            for key in members:
                self.want_element(name, key, None)
        for name in content.chains:
            self.want_chain(name, None)
        for name in content.sets:
            self.want_set(name, None)

    def want_chain(self, name: str, chain: ChainContent | None) -> None:
        self._chains.want(name, chain)

    def want_set(self, name: str, wanted: Set | None) -> None:
        """A set that goes takes its elements with it."""
        self._sets.want(name, wanted)
        if wanted is None:
            for key in self._element_delta(name).wanted_keys:
                self._elements[name].want(key, None)
        self._element_delta(name)
        self._dirty[name] = None

    def want_element(self, set_name: str, key: bytes, data: Data | None) -> None:
        """Data `NO_DATA` for a plain set's element; None for an element to go."""
        self._elements[set_name].want(key, data)
        self._dirty[set_name] = None

    def withhold(self, set_name: str, *, withheld: bool) -> None:
        """Leave a set, and its elements, as it is, whatever is wanted; or no longer."""
        if withheld:
            self._withheld.add(set_name)
        else:
            self._withheld.discard(set_name)
            self._dirty[set_name] = None

    def wants_element(self, set_name: str, key: bytes) -> bool:
        return self._elements[set_name].wanted(key) is not None

    # What is.

    def observe(self, found: Found) -> None:
        """Replace our view of the kernel's table."""
        self._sets.observe_all(found.sets)
        self._chains.observe_all(
            {
                name: ChainContent(chain.base, _without_handles(found.rules.get(name, [])))
                for name, chain in found.chains.items()
            }
        )
        self._handles = {name: _handles(found.rules.get(name, [])) for name in found.chains}
        for name in self._elements.keys() | found.sets.keys():
            actual = {}
            if name in found.sets:
                actual = dict(_element_keys(found.sets[name], found.elements.get(name, [])))
            self._element_delta(name).observe_all(actual)
            self._dirty[name] = None

    @property
    def must_be_replaced(self) -> bool:
        """Whether something is there that cannot be changed in place: a set of
        another type, or a base chain at another hook. Somebody else's doing."""
        sets = any(self._sets.actual(name) is not None for name, _ in self._sets.updates())
        return sets or any(
            actual is not None and _place(actual.base) != _place(wanted.base)
            for name, wanted in self._chains.updates()
            for actual in (self._chains.actual(name),)
        )

    @property
    def in_sync(self) -> bool:
        return (
            self._chains.in_sync
            and not any(self._set_updates())
            and not any(self._sets.deletions())
            and all(
                self._elements[name].in_sync for name in self._dirty if name not in self._withheld
            )
        )

    def pending_chains(self) -> list[str]:
        """Chains that are to be written."""
        return [name for name, _ in self._chains.updates()]

    def pending_elements(self) -> Iterator[tuple[str, bytes]]:
        """Elements that are to be written, with their sets; slow."""
        for name in self._dirty:
            if name not in self._withheld:
                yield from ((name, key) for key, _ in self._elements[name].updates())

    def handles(self, chain: str) -> list[int]:
        """Of the rules that are there, in order; empty while others are wanted."""
        if self._chains.wanted(chain) != self._chains.actual(chain):
            return []
        return self._handles.get(chain, [])

    @property
    def rule_count(self) -> int:
        """How many are there."""
        return sum(map(len, self._handles.values()))

    def wanted_rules(self, chain: str) -> tuple[Rule, ...]:
        found = self._chains.wanted(chain)
        return found.rules if found else ()

    # The way between.

    def write(self, transaction: Transaction) -> None:
        """Add what has to be done."""
        self._plans.clear()
        for _, wanted in self._set_updates():
            transaction.add_set(self.name, wanted)
        for name in self._dirty.keys() - self._withheld if self._withheld else self._dirty:
            self._write_elements(transaction, name)
        for name, chain in self._chains.updates():
            self._write_chain(transaction, name, chain)
        for name in self._chains.deletions():
            transaction.delete_chain(self.name, name)
        for name in self._sets.deletions():
            transaction.delete_set(self.name, name)

    def confirm(self, written: Mapping[str, Iterable[int]]) -> None:
        """What `write` added has been done.

        Args:
            written: by chain, the handles of the rules that were added, in order.
        """
        for name, _ in self._chains.updates():
            self._chains.confirm(name)
            new = iter(written.get(name, ()))
            plan = self._plans[name]
            self._handles[name] = [next(new) if old is None else old for old in plan]
        for name in self._chains.deletions():
            self._chains.confirm(name)
            self._handles.pop(name, None)
        withheld = self._withheld & self._dirty.keys()
        for name in self._dirty:
            if name not in withheld:
                self._confirm_elements(name)
        for name in (*(name for name, _ in self._set_updates()), *self._sets.deletions()):
            self._sets.confirm(name)
        self._dirty = dict.fromkeys(withheld)

    def forget(self) -> None:
        """The table is not there (any more)."""
        self.observe(Found({}, {}, {}, {}))

    def sizes(self) -> tuple[int, int, int]:
        """How many chains, sets and elements are wanted."""
        elements = sum(delta.wanted_count for delta in self._elements.values())
        return self._chains.wanted_count, self._sets.wanted_count, elements

    def _set_updates(self) -> Iterator[tuple[str, Set]]:
        return (one for one in self._sets.updates() if one[0] not in self._withheld)

    def _element_delta(self, name: str) -> Delta[bytes, Data]:
        return self._elements.setdefault(name, Delta())

    def _write_elements(self, transaction: Transaction, name: str) -> None:
        wanted = self._sets.wanted(name)
        if wanted is None:
            return
        delta = self._elements[name]
        if not (wanted.interval or delta.actual_count):
            # A set that is being loaded, most likely: the shortest way.
            new = [Element(key, data or None) for key, data in delta.updates()]
            if new:
                transaction.add_elements(self.name, wanted, new)
            return
        gone = [_elements(wanted, key, NO_DATA) for key in delta.deletions()]
        come = []
        for key, data in delta.updates():
            if delta.actual(key) is not None:
                gone.append(_elements(wanted, key, NO_DATA))
            come.append(_elements(wanted, key, data))
        if gone:
            transaction.delete_elements(self.name, wanted, _flat(gone))
        if come:
            transaction.add_elements(self.name, wanted, _flat(come))

    def _confirm_elements(self, name: str) -> None:
        delta = self._elements[name]
        if self._sets.wanted(name) is None:
            del self._elements[name]
            return
        delta.confirm_all()

    def _write_chain(self, transaction: Transaction, name: str, wanted: ChainContent) -> None:
        actual = self._chains.actual(name)
        if actual is None:
            transaction.add_chain(self.name, Chain(name, wanted.base))
            actual = wanted._replace(rules=())
        elif actual.base != wanted.base:
            transaction.add_chain(self.name, Chain(name, wanted.base))  # sets its policy
        handles = self._handles.get(name, [])
        plan: list[int | None] = []
        for step in rule_diff(actual.rules, wanted.rules):
            match step:
                case Insert(position, before):
                    rule = wanted.rules[position]
                    if before is None:
                        transaction.add_rule(self.name, rule)
                    else:
                        transaction.insert_rule(self.name, rule, before=handles[before])
                    plan.append(None)
                case Delete(position):
                    transaction.delete_rule(self.name, name, handles[position])
                case Keep(_, position):
                    plan.append(handles[position])
        self._plans[name] = plan


def _place(base: Base | None) -> Base | None:
    """What of a base chain cannot be changed in place: all but its policy."""
    return None if base is None else msgspec.structs.replace(base, policy=Policy.ACCEPT)


def _flat(groups: Iterable[tuple[Element, ...]]) -> Iterator[Element]:
    return (element for group in groups for element in group)


def _elements(of: Set, key: bytes, data: Data) -> tuple[Element, ...]:
    """The kernel's elements for one of ours."""
    carried = None if data == NO_DATA else data
    if not of.interval:
        return (Element(key, carried),)
    middle = len(key) // 2
    return interval_elements(key[:middle], key[middle:], carried)


def _element_keys(of: Set, elements: Iterable[Element]) -> Iterator[tuple[bytes, Data]]:
    if not of.interval:
        for element in elements:
            yield element.key, NO_DATA if element.data is None else element.data
        return
    for interval in intervals(elements):
        data = NO_DATA if interval.data is None else interval.data
        yield interval.first + interval.last, data


def _without_handles(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    return tuple(msgspec.structs.replace(rule, handle=None) for rule in rules)


def _handles(rules: Iterable[Rule]) -> list[int]:
    return [rule.handle or 0 for rule in rules]
