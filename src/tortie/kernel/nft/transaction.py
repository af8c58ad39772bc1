"""A transaction is a value: operations, in the order in which references resolve.

The caller says what is to change, in any order; `operations()` puts it so that
nothing is named before it exists or removed while it is named. The kernel then
takes all of it or nothing, so no packet ever sees a step in between.

Order: tables; sets; elements that go; chains; elements of plain sets; rules
(flush, add, delete); elements of verdict maps; elements of data maps; then
chains, sets and tables that go. Elements go before others come, so that a map
element's data is changed by deleting and adding the same key. A set or chain
cannot be deleted and made anew in one transaction (its references would have to
go as well): make it under another name, or replace the table.
"""

from collections.abc import Iterable, Iterator
from enum import IntEnum

from tortie.kernel.nft.objects import Chain, Element, Rule, Set, Table, TableName
from tortie.kernel.nft.operations import (
    AddChain,
    AddElements,
    AddRule,
    AddSet,
    AddTable,
    DeleteChain,
    DeleteElements,
    DeleteRule,
    DeleteSet,
    DeleteTable,
    FlushChain,
    FlushSet,
    Operation,
    ReplaceRule,
)


class _Phase(IntEnum):
    """Operations of a phase may refer to results of earlier ones only."""

    REPLACE_TABLE = 0
    ADD_TABLE = 1
    ADD_SET = 2
    FLUSH_SET = 3
    DELETE_ELEMENT = 4
    ADD_CHAIN = 5
    ADD_SET_ELEMENT = 6
    FLUSH_CHAIN = 7
    ADD_RULE = 8
    DELETE_RULE = 9
    ADD_VERDICT_ELEMENT = 10
    ADD_MAP_ELEMENT = 11
    DELETE_CHAIN = 12
    DELETE_SET = 13
    DELETE_TABLE = 14


class Transaction:
    """Collects operations on one or more tables. One task only; commit it once."""

    def __init__(self) -> None:
        self._phases: dict[_Phase, list[Operation]] = {}
        # Elements of one set go into one message, however many calls brought them.
        self._elements: dict[tuple[_Phase, TableName, str], tuple[Set, list[Element]]] = {}

    # Tables.

    def add_table(self, table: Table, *, exclusive: bool = False) -> None:
        """Create it, or set the flags of an existing one; adopt it if it is an orphan.

        Args:
            exclusive: refuse if it exists.
        """
        self._put(_Phase.ADD_TABLE, AddTable(table, exclusive))

    def replace_table(self, table: Table, *, exists: bool = False) -> None:
        """Start it anew, and empty.

        Args:
            exists: it does, for sure, and may have other flags; else whether or not.
        """
        add = AddTable(table)
        if not exists:
            self._put(_Phase.REPLACE_TABLE, add)
        self._put(_Phase.REPLACE_TABLE, DeleteTable(table.table_name))
        self._put(_Phase.REPLACE_TABLE, add)

    def delete_table(self, table: TableName) -> None:
        """Delete it, with all in it."""
        self._put(_Phase.DELETE_TABLE, DeleteTable(table))

    # Chains and rules.

    def add_chain(self, table: TableName, chain: Chain, *, exclusive: bool = False) -> None:
        """Create it; of an existing base chain, set the policy."""
        self._put(_Phase.ADD_CHAIN, AddChain(table, chain, exclusive))

    def flush_chain(self, table: TableName, name: str) -> None:
        """Delete its rules, before rules of this transaction are added."""
        self._put(_Phase.FLUSH_CHAIN, FlushChain(table, name))

    def delete_chain(self, table: TableName, name: str) -> None:
        """Delete it with its rules. Whatever leads to it must go in this transaction too."""
        self._put(_Phase.FLUSH_CHAIN, FlushChain(table, name))
        self._put(_Phase.DELETE_CHAIN, DeleteChain(table, name))

    def add_rule(self, table: TableName, rule: Rule) -> None:
        """Append it to its chain."""
        self._put(_Phase.ADD_RULE, AddRule(table, rule))

    def insert_rule(self, table: TableName, rule: Rule, *, before: int | None = None) -> None:
        """Insert it before the rule with handle `before`, or (None) at the chain's start.

        Several before the same rule end up in the order of the calls; several
        at the start in the reverse order.
        """
        self._put(_Phase.ADD_RULE, AddRule(table, rule, before, before is None))

    def replace_rule(self, table: TableName, handle: int, rule: Rule) -> None:
        """Put `rule` where the rule with `handle` is."""
        self._put(_Phase.ADD_RULE, ReplaceRule(table, rule, handle))

    def delete_rule(self, table: TableName, chain: str, handle: int) -> None:
        self._put(_Phase.DELETE_RULE, DeleteRule(table, chain, handle))

    # Sets and elements.

    def add_set(self, table: TableName, wanted: Set, *, exclusive: bool = False) -> None:
        """Create it; an existing one must be alike."""
        self._put(_Phase.ADD_SET, AddSet(table, wanted, exclusive))

    def flush_set(self, table: TableName, name: str) -> None:
        """Delete its elements, before elements of this transaction are added."""
        self._put(_Phase.FLUSH_SET, FlushSet(table, name))

    def delete_set(self, table: TableName, name: str) -> None:
        """Delete it with its elements. Rules that look it up must go in this transaction too."""
        # A verdict map holds on to chains until it is empty, and chains go first.
        self._put(_Phase.FLUSH_SET, FlushSet(table, name))
        self._put(_Phase.DELETE_SET, DeleteSet(table, name))

    def add_elements(self, table: TableName, of: Set, elements: Iterable[Element]) -> None:
        """Add; one already there with the same data is no error, with other data it is."""
        if of.is_verdict_map:
            phase = _Phase.ADD_VERDICT_ELEMENT
        else:
            phase = _Phase.ADD_MAP_ELEMENT if of.is_map else _Phase.ADD_SET_ELEMENT
        self._put_elements(phase, table, of, elements)

    def delete_elements(self, table: TableName, of: Set, elements: Iterable[Element]) -> None:
        """Delete by key; of an interval set, give both boundaries as they were added."""
        self._put_elements(_Phase.DELETE_ELEMENT, table, of, elements)

    # Reading.

    def operations(self) -> Iterator[Operation]:
        """All of them, in an order in which every reference resolves."""
        phases: dict[_Phase, list[Operation]] = {
            phase: list(operations) for phase, operations in self._phases.items()
        }
        for (phase, table, _), (of, elements) in self._elements.items():
            kind = DeleteElements if phase is _Phase.DELETE_ELEMENT else AddElements
            phases.setdefault(phase, []).append(kind(table, of, tuple(elements)))
        for phase in sorted(phases):
            yield from phases[phase]

    def __bool__(self) -> bool:
        return bool(self._phases or self._elements)

    def __str__(self) -> str:
        """The nft script that does the same."""
        return "".join(f"{operation}\n" for operation in self.operations())

    def _put(self, phase: _Phase, operation: Operation) -> None:
        self._phases.setdefault(phase, []).append(operation)

    def _put_elements(
        self, phase: _Phase, table: TableName, of: Set, elements: Iterable[Element]
    ) -> None:
        key = (phase, table, of.name)
        found = self._elements.get(key)
        if found is None:
            found = self._elements[key] = (of, [])
        found[1].extend(elements)
        if not found[1]:
            del self._elements[key]
