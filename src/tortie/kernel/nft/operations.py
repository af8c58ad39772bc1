"""What a transaction is made of: one value for each thing done to a table.

`str(operation)` is the nft command that would do the same, which is also how
an error names the operation that the kernel refused.
"""

import msgspec

from tortie.kernel.nft import script
from tortie.kernel.nft.objects import Chain, Element, Rule, Set, Table, TableName


class AddTable(msgspec.Struct, frozen=True):
    """Create a table, or set an existing one's flags; adopts an orphaned owner table."""

    of: Table
    exclusive: bool = False
    """Refuse (EEXIST) if there is one of this name."""

    @property
    def table(self) -> TableName:
        return self.of.table_name

    def __str__(self) -> str:
        return f"add table {self.table}{script.table_flags(self.of)}"


class DeleteTable(msgspec.Struct, frozen=True):
    """Delete a table and all in it."""

    table: TableName

    def __str__(self) -> str:
        return f"delete table {self.table}"


class AddChain(msgspec.Struct, frozen=True):
    """Create a chain; of an existing base chain, set the policy."""

    table: TableName
    chain: Chain
    exclusive: bool = False

    def __str__(self) -> str:
        base = script.base_chain(self.table.family, self.chain.base) if self.chain.base else ""
        return f"add chain {self.table} {self.chain.name}{base}"


class DeleteChain(msgspec.Struct, frozen=True):
    """Delete a chain that nothing refers to; EBUSY otherwise."""

    table: TableName
    name: str

    def __str__(self) -> str:
        return f"delete chain {self.table} {self.name}"


class FlushChain(msgspec.Struct, frozen=True):
    """Delete all rules of a chain."""

    table: TableName
    name: str

    def __str__(self) -> str:
        return f"flush chain {self.table} {self.name}"


class AddRule(msgspec.Struct, frozen=True):
    """Add a rule to its chain: at the end, before another, or at the start."""

    table: TableName
    rule: Rule
    before: int | None = None
    """Handle of the rule to stand before."""
    at_start: bool = False

    def __str__(self) -> str:
        verb = "insert" if self.at_start or self.before is not None else "add"
        handle = f" handle {self.before}" if self.before is not None else ""
        where = f"{self.table} {self.rule.chain}{handle}"
        return f"{verb} rule {where} {script.rule_text(self.rule, self.table.family)}"


class ReplaceRule(msgspec.Struct, frozen=True):
    """Put a rule in another's place; it gets a new handle and new counters."""

    table: TableName
    rule: Rule
    handle: int

    def __str__(self) -> str:
        where = f"{self.table} {self.rule.chain} handle {self.handle}"
        return f"replace rule {where} {script.rule_text(self.rule, self.table.family)}"


class DeleteRule(msgspec.Struct, frozen=True):
    """Delete one rule."""

    table: TableName
    chain: str
    handle: int

    def __str__(self) -> str:
        return f"delete rule {self.table} {self.chain} handle {self.handle}"


class AddSet(msgspec.Struct, frozen=True):
    """Create a set or map. An existing one must have the same type and flags."""

    table: TableName
    set: Set
    exclusive: bool = False

    def __str__(self) -> str:
        kind = "map" if self.set.is_map else "set"
        return f"add {kind} {self.table} {self.set.name} {script.set_definition(self.set)}"


class DeleteSet(msgspec.Struct, frozen=True):
    """Delete a set or map that no rule refers to; EBUSY otherwise."""

    table: TableName
    name: str

    def __str__(self) -> str:
        return f"delete set {self.table} {self.name}"


class FlushSet(msgspec.Struct, frozen=True):
    """Delete all elements of a set or map."""

    table: TableName
    name: str

    def __str__(self) -> str:
        return f"flush set {self.table} {self.name}"


class AddElements(msgspec.Struct, frozen=True):
    """Add elements; one that is there with the same data is left as it is."""

    table: TableName
    set: Set
    elements: tuple[Element, ...]
    exclusive: bool = False
    """Refuse (EEXIST) instead."""

    def __str__(self) -> str:
        where = f"{self.table} {self.set.name}"
        return f"add element {where} {script.elements_text(self.set, self.elements)}"


class DeleteElements(msgspec.Struct, frozen=True):
    """Delete elements; ENOENT if one is not there. Data in them is ignored."""

    table: TableName
    set: Set
    elements: tuple[Element, ...]

    def __str__(self) -> str:
        where = f"{self.table} {self.set.name}"
        return f"delete element {where} {script.elements_text(self.set, self.elements)}"


Operation = (
    AddTable
    | DeleteTable
    | AddChain
    | DeleteChain
    | FlushChain
    | AddRule
    | ReplaceRule
    | DeleteRule
    | AddSet
    | DeleteSet
    | FlushSet
    | AddElements
    | DeleteElements
)
