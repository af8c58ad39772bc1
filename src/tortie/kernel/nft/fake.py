"""nf_tables in memory: for tests and dry runs, with the kernel's answers.

Kept honest by contract tests that run on this and on the kernel. It checks what
a dataplane can get wrong (references, duplicates, lengths, overlaps, call
depth) and takes all of a transaction or nothing. It runs no packets.
"""

import errno
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from tortie.kernel.nft import operations as op
from tortie.kernel.nft.connection import OperationRefused, WrittenRule
from tortie.kernel.nft.constants import TableFlag, VerdictCode
from tortie.kernel.nft.expressions import VERDICT_REGISTER, Expression, Lookup, SetUpdate, Verdict
from tortie.kernel.nft.objects import Chain, Element, Rule, Set, Table, TableName
from tortie.kernel.nft.operations import Operation
from tortie.kernel.nft.transaction import Transaction
from tortie.lib.errors import KernelBusy, KernelRefused, NotFound, kernel_error

JUMP_DEPTH = 15
"""The most jumps and gotos in a row: one below NFT_JUMP_STACK_SIZE, nf_tables.h."""

_CHAIN, _SET = "chain", "set"

_Reference = tuple[str, str]


class _Refusal(Exception):
    def __init__(self, code: int, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class _Contents:
    """One table. Chains and sets are copied when first written in a transaction."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.chains: dict[str, Chain] = {}
        self.rules: dict[str, list[Rule]] = {}
        self.sets: dict[str, Set] = {}
        self.elements: dict[str, dict[tuple[bytes, bool], Element]] = {}
        self.uses: Counter[_Reference] = Counter()
        self.next_handle = 1
        self.copied: set[_Reference] = set()

    def copy(self) -> "_Contents":
        made = _Contents(self.table)
        made.chains, made.rules = dict(self.chains), dict(self.rules)
        made.sets, made.elements = dict(self.sets), dict(self.elements)
        made.uses = Counter(self.uses)
        made.next_handle = self.next_handle
        return made

    def writable_rules(self, chain: str) -> list[Rule]:
        if chain not in self.chains:
            raise _Refusal(errno.ENOENT, f"no chain {chain}")
        if (_CHAIN, chain) not in self.copied:
            self.copied.add((_CHAIN, chain))
            self.rules[chain] = list(self.rules[chain])
        return self.rules[chain]

    def writable_elements(self, name: str) -> dict[tuple[bytes, bool], Element]:
        if name not in self.sets:
            raise _Refusal(errno.ENOENT, f"no set {name}")
        if (_SET, name) not in self.copied:
            self.copied.add((_SET, name))
            self.elements[name] = dict(self.elements[name])
        return self.elements[name]

    def handle(self) -> int:
        self.next_handle += 1
        return self.next_handle


class FakeNft:
    """A `Backend` without a kernel. One task only."""

    def __init__(self, port_id: int = 1) -> None:
        self.port_id = port_id
        self.commits = 0
        """How many transactions changed something."""
        self._tables: dict[TableName, _Contents] = {}
        self._failures: list[Exception] = []
        self._generation = 1

    def fail_next(self, error: Exception) -> None:
        """The next commit raises this and changes nothing; several queue up."""
        self._failures.append(error)

    async def commit(
        self, transaction: Transaction, *, generation: int | None = None
    ) -> list[WrittenRule]:
        """See `Backend.commit`."""
        if self._failures:
            raise self._failures.pop(0)
        operations = list(transaction.operations())
        if not operations:
            return []
        if generation is not None and generation != self._generation:
            raise KernelBusy("commit: the ruleset changed in between")
        self._tables, written = _apply(self._tables, self.port_id, operations)
        self._generation += 1
        self.commits += 1
        return written

    async def tables(self) -> list[Table]:
        """See `Backend`."""
        return [contents.table for contents in self._tables.values()]

    async def chains(self, table: TableName) -> list[Chain]:
        """See `Backend`."""
        return list(self._contents(table).chains.values())

    async def rules(self, table: TableName, chain: str | None = None) -> list[Rule]:
        """See `Backend`."""
        rules = self._contents(table).rules
        if chain is not None:
            return list(rules.get(chain, ()))
        return [rule for some in rules.values() for rule in some]

    async def sets(self, table: TableName) -> list[Set]:
        """See `Backend`."""
        return list(self._contents(table).sets.values())

    async def elements(self, table: TableName, name: str) -> list[Element]:
        """See `Backend`."""
        contents = self._contents(table)
        if name not in contents.sets:
            raise NotFound(f"no set {table} {name}")
        return list(contents.elements[name].values())

    async def generation(self) -> int:
        """See `Backend`."""
        return self._generation

    def _contents(self, table: TableName) -> _Contents:
        if table not in self._tables:
            raise NotFound(f"no table {table}")
        return self._tables[table]


class _Work:
    """One transaction being applied to copies."""

    def __init__(self, tables: dict[TableName, _Contents], port_id: int) -> None:
        self.tables = dict(tables)
        self.port_id = port_id
        self.touched: set[TableName] = set()
        self.written: list[WrittenRule] = []
        self.calls_changed = False
        """Something was added that may lead from chain to chain."""

    def apply(self, operation: Operation) -> None:
        try:
            _APPLIERS[type(operation)](self, operation)
        except _Refusal as refusal:
            raise _error(operation, refusal) from None

    def is_too_deep(self) -> bool:
        if not self.calls_changed:
            return False
        touched = self.touched & self.tables.keys()
        return any(_depth(self.tables[name]) > JUMP_DEPTH for name in touched)

    def finish(self) -> None:
        for name in self.touched & self.tables.keys():
            self.tables[name].copied.clear()

    def contents(self, name: TableName) -> _Contents:
        """To write: the copy, made at the first touch."""
        if name not in self.tables:
            raise _Refusal(errno.ENOENT, f"no table {name}")
        self._check_owner(self.tables[name].table)
        if name not in self.touched:
            self.touched.add(name)
            self.tables[name] = self.tables[name].copy()
        return self.tables[name]

    def _check_owner(self, table: Table) -> None:
        if table.owner not in (0, self.port_id):
            raise _Refusal(errno.EPERM, f"table {table.table_name} has another owner")

    # Tables.

    def add_table(self, add: op.AddTable) -> None:
        owner = self.port_id if TableFlag.OWNER in add.of.flags else 0
        wanted = msgspec.structs.replace(add.of, owner=owner)
        if add.table not in self.tables:
            self.tables[add.table] = _Contents(wanted)
            self.touched.add(add.table)
            return
        if add.exclusive:
            raise _Refusal(errno.EEXIST, "the table exists")
        self.contents(add.table).table = wanted

    def delete_table(self, delete: op.DeleteTable) -> None:
        self.contents(delete.table)
        del self.tables[delete.table]

    # Chains and rules.

    def add_chain(self, add: op.AddChain) -> None:
        contents = self.contents(add.table)
        there = contents.chains.get(add.chain.name)
        if there is None:
            contents.chains[add.chain.name] = add.chain
            contents.rules[add.chain.name] = []
            return
        if add.exclusive:
            raise _Refusal(errno.EEXIST, "the chain exists")
        if add.chain.base is None:
            return
        if there.base is None or _hook(there) != _hook(add.chain):
            raise _Refusal(errno.EEXIST, "the chain exists with another hook")
        contents.chains[add.chain.name] = add.chain

    def delete_chain(self, delete: op.DeleteChain) -> None:
        self.flush_chain(op.FlushChain(delete.table, delete.name))
        contents = self.contents(delete.table)
        if contents.uses[_CHAIN, delete.name]:
            raise _Refusal(errno.EBUSY, "the chain is in use")
        del contents.chains[delete.name], contents.rules[delete.name]

    def flush_chain(self, flush: op.FlushChain) -> None:
        contents = self.contents(flush.table)
        rules = contents.writable_rules(flush.name)
        for rule in rules:
            _release(contents, _rule_references(rule))
        rules.clear()

    def add_rule(self, add: op.AddRule) -> None:
        contents = self.contents(add.table)
        rules = contents.writable_rules(add.rule.chain)
        place = 0 if add.at_start else len(rules)
        if add.before is not None:
            place = _find(rules, add.before)
        rules.insert(place, self._make_rule(contents, add, add.rule))

    def replace_rule(self, replace: op.ReplaceRule) -> None:
        contents = self.contents(replace.table)
        rules = contents.writable_rules(replace.rule.chain)
        place = _find(rules, replace.handle)
        made = self._make_rule(contents, replace, replace.rule)
        _release(contents, _rule_references(rules[place]))
        rules[place] = made

    def delete_rule(self, delete: op.DeleteRule) -> None:
        contents = self.contents(delete.table)
        rules = contents.writable_rules(delete.chain)
        place = _find(rules, delete.handle)
        _release(contents, _rule_references(rules.pop(place)))

    def _make_rule(
        self, contents: _Contents, operation: op.AddRule | op.ReplaceRule, rule: Rule
    ) -> Rule:
        for expression in rule.expressions:
            _check_expression(contents, expression)
        contents.uses.update(_rule_references(rule))
        self.calls_changed = True
        made = msgspec.structs.replace(rule, handle=contents.handle())
        assert made.handle is not None
        self.written.append(WrittenRule(operation, made.handle))
        return made

    # Sets and elements.

    def add_set(self, add: op.AddSet) -> None:
        contents = self.contents(add.table)
        there = contents.sets.get(add.set.name)
        if there is None:
            contents.sets[add.set.name] = add.set
            contents.elements[add.set.name] = {}
        elif add.exclusive:
            raise _Refusal(errno.EEXIST, "the set exists")
        elif _shape(there) != _shape(add.set):
            raise _Refusal(errno.EEXIST, "the set exists with another type")

    def delete_set(self, delete: op.DeleteSet) -> None:
        self.flush_set(op.FlushSet(delete.table, delete.name))
        contents = self.contents(delete.table)
        if contents.uses[_SET, delete.name]:
            raise _Refusal(errno.EBUSY, "the set is in use")
        del contents.sets[delete.name], contents.elements[delete.name]

    def flush_set(self, flush: op.FlushSet) -> None:
        contents = self.contents(flush.table)
        elements = contents.writable_elements(flush.name)
        for element in elements.values():
            _release(contents, _element_references(element))
        elements.clear()

    def add_elements(self, add: op.AddElements) -> None:
        contents = self.contents(add.table)
        elements = contents.writable_elements(add.set.name)
        there = contents.sets[add.set.name]
        for element in add.elements:
            self._add_element(contents, there, elements, element, add.exclusive)
        if there.interval and len(there.key) == 1:
            _check_no_overlap(elements.values())

    def _add_element(
        self,
        contents: _Contents,
        of: Set,
        elements: dict[tuple[bytes, bool], Element],
        element: Element,
        exclusive: bool,
    ) -> None:
        _check_element(contents, of, element)
        key = (element.key, element.interval_end)
        before = elements.get(key)
        if before is None:
            if of.size and len(elements) >= of.size:
                raise _Refusal(errno.ENFILE, "the set is full")
            elements[key] = element
            self.calls_changed = self.calls_changed or isinstance(element.data, Verdict)
            contents.uses.update(_element_references(element))
        elif exclusive:
            raise _Refusal(errno.EEXIST, "the element exists")
        elif before.data != element.data:
            raise _Refusal(errno.EEXIST, "the element exists with other data")

    def delete_elements(self, delete: op.DeleteElements) -> None:
        contents = self.contents(delete.table)
        elements = contents.writable_elements(delete.set.name)
        for element in delete.elements:
            gone = elements.pop((element.key, element.interval_end), None)
            if gone is None:
                raise _Refusal(errno.ENOENT, "no such element")
            _release(contents, _element_references(gone))


_APPLIERS: dict[type[Any], Callable[[_Work, Any], None]] = {
    op.AddTable: _Work.add_table,
    op.DeleteTable: _Work.delete_table,
    op.AddChain: _Work.add_chain,
    op.DeleteChain: _Work.delete_chain,
    op.FlushChain: _Work.flush_chain,
    op.AddRule: _Work.add_rule,
    op.ReplaceRule: _Work.replace_rule,
    op.DeleteRule: _Work.delete_rule,
    op.AddSet: _Work.add_set,
    op.DeleteSet: _Work.delete_set,
    op.FlushSet: _Work.flush_set,
    op.AddElements: _Work.add_elements,
    op.DeleteElements: _Work.delete_elements,
}


def _apply(
    tables: dict[TableName, _Contents], port_id: int, operations: list[Operation]
) -> tuple[dict[TableName, _Contents], list[WrittenRule]]:
    work = _Work(tables, port_id)
    for operation in operations:
        work.apply(operation)
    if work.is_too_deep():
        raise _blame_depth(tables, port_id, operations)
    work.finish()
    return work.tables, work.written


def _blame_depth(
    tables: dict[TableName, _Contents], port_id: int, operations: list[Operation]
) -> Exception:
    """Do it again, looking at each step, as the kernel does when the whole is not valid."""
    work = _Work(tables, port_id)
    for operation in operations:
        work.apply(operation)
        if work.is_too_deep():
            break
    return _error(operation, _Refusal(errno.EMLINK, "Too many links"))


def _error(operation: Operation, refusal: _Refusal) -> Exception:
    error = kernel_error(str(operation), refusal.code, refusal.detail)
    if isinstance(error, KernelRefused):
        return OperationRefused(operation, refusal.code, refusal.detail)
    return error


def _hook(chain: Chain) -> tuple[str, int, int]:
    assert chain.base is not None
    return chain.base.type, chain.base.hook, chain.base.priority


def _shape(of: Set) -> tuple[object, ...]:
    return of.key, of.data, of.interval, of.constant, of.timeout, of.each


def _find(rules: list[Rule], handle: int) -> int:
    for place, rule in enumerate(rules):
        if rule.handle == handle:
            return place
    raise _Refusal(errno.ENOENT, f"no rule with handle {handle}")


# References.


def _release(contents: _Contents, references: Iterator[_Reference]) -> None:
    for reference in references:
        contents.uses[reference] -= 1


def _rule_references(rule: Rule) -> Iterator[_Reference]:
    for expression in rule.expressions:
        if isinstance(expression, Lookup | SetUpdate):
            yield _SET, expression.set_name
        elif isinstance(expression, Verdict) and expression.chain:
            yield _CHAIN, expression.chain


def _element_references(element: Element) -> Iterator[_Reference]:
    if isinstance(element.data, Verdict) and element.data.chain:
        yield _CHAIN, element.data.chain


def _check_expression(contents: _Contents, expression: Expression) -> None:
    if isinstance(expression, Verdict):
        _check_verdict(contents, expression)
    elif isinstance(expression, SetUpdate):
        if expression.set_name not in contents.sets:
            raise _Refusal(errno.ENOENT, f"no set {expression.set_name}")
    elif isinstance(expression, Lookup):
        of = contents.sets.get(expression.set_name)
        if of is None:
            raise _Refusal(errno.ENOENT, f"no set {expression.set_name}")
        if expression.destination is None:
            return  # a map may serve as a set
        wants_verdict = expression.destination == VERDICT_REGISTER
        fits = of.is_map and wants_verdict == of.is_verdict_map
        if not fits or expression.invert:
            raise _Refusal(errno.EINVAL, "the lookup does not fit the kind of set")


def _check_verdict(contents: _Contents, verdict: Verdict) -> None:
    if verdict.code not in (VerdictCode.JUMP, VerdictCode.GOTO):
        return
    target = contents.chains.get(verdict.chain)
    if target is None:
        raise _Refusal(errno.ENOENT, f"no chain {verdict.chain}")
    if target.base is not None:
        raise _Refusal(errno.EOPNOTSUPP, "a base chain cannot be jumped to")


def _check_element(contents: _Contents, of: Set, element: Element) -> None:
    if element.key and len(element.key) != of.key_length:
        raise _Refusal(errno.EINVAL, f"the key has not {of.key_length} bytes")
    if element.interval_end:
        if not of.interval or element.data is not None:
            raise _Refusal(errno.EINVAL, "an interval end does not belong here")
    elif isinstance(element.data, Verdict):
        if not of.is_verdict_map:
            raise _Refusal(errno.EINVAL, "the data is not a verdict's")
        _check_verdict(contents, element.data)
    elif (element.data is not None) != of.is_map or len(element.data or b"") != of.data_length:
        raise _Refusal(errno.EINVAL, "the data does not fit the map")


def _check_no_overlap(elements: Iterator[Element] | Any) -> None:
    """Starts and ends must take turns: two ranges with one start, or one end, have one element
    for it. (The kernel takes a range behind another one with the same end; nobody should.)"""
    is_open: bool | None = None
    """None: there was no start yet; nft(8) writes an end before its first range."""
    for element in sorted(elements, key=lambda one: (one.key, not one.interval_end)):
        if is_open is not None and is_open is not element.interval_end:
            raise _Refusal(errno.EEXIST, "the range overlaps another")
        if is_open is not None or not element.interval_end:
            is_open = not element.interval_end


def _depth(contents: _Contents) -> int:
    """The longest way through jumps from a base chain; endless counts as too long."""
    depths: dict[str, int] = {}

    def of(chain: str, above: int) -> int:
        if above > JUMP_DEPTH:
            return above
        if chain not in depths:
            targets = {name for rule in contents.rules[chain] for name in _targets(contents, rule)}
            found = max((1 + of(target, above + 1) for target in targets), default=0)
            if above + found > JUMP_DEPTH:
                return found
            depths[chain] = found
        return depths[chain]

    bases = [name for name, chain in contents.chains.items() if chain.base is not None]
    return max((of(name, 0) for name in bases), default=0)


def _targets(contents: _Contents, rule: Rule) -> Iterator[str]:
    for kind, name in _rule_references(rule):
        if kind == _CHAIN:
            yield name
        elif contents.sets[name].is_verdict_map:
            for element in contents.elements[name].values():
                yield from (chain for _, chain in _element_references(element))
