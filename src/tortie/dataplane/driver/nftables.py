"""The tables `inet tortie` and `arp tortie`: both in one transaction per apply.

Ownership: the tables are ours by name, whole. On a kernel with owner tables
they carry owner and persist together, so that a flush by others passes them by
and our own end leaves them in force; a new process adopts them by naming them.

A start and a resync are the same thing: read everything, compare, write the
difference. Where nothing differs nothing is written, and no packet sees a
change. Every commit, anyone's, counts the kernel's generation up by one: while
it is what our own commits have made of it, there is nothing to read.

The early tables (`rules/early.py`), which close every workload's interface until
ours are there, go in the transaction that brings ours.

A table that has been damaged beyond editing (a set of another type, a base
chain elsewhere) is replaced whole, in the same transaction.
"""

import logging
from collections import defaultdict
from typing import NamedTuple

from tortie.dataplane.driver.table import Found, TableState
from tortie.dataplane.rules import early
from tortie.kernel.netlink import OutcomeUnknown
from tortie.kernel.nft.connection import Backend, WrittenRule
from tortie.kernel.nft.constants import Family, SetFlag, TableFlag
from tortie.kernel.nft.objects import Rule, Table, TableName
from tortie.kernel.nft.transaction import Transaction
from tortie.lib.errors import KernelRefused, NotFound, TortieError

log = logging.getLogger(__name__)

INET = TableName(Family.INET, "tortie")
ARP = TableName(Family.ARP, "tortie")

OWNED = TableFlag.OWNER | TableFlag.PERSIST


class NftablesStatistics(NamedTuple):
    chains: int
    sets: int
    elements: int
    commits: int
    """Transactions with anything in them."""
    resyncs: int
    repairs: int
    """Resyncs after the first that found a difference that nobody had asked for."""
    rules: int
    """That are there."""
    failures: int
    """Transactions that the kernel did not take; what was at fault is closed or tried again."""


class NftablesDriver:
    """Makes both tables hold what is wanted. Loop task only.

    What is wanted is told to `inet` and `arp`; nothing is done before `apply`.
    """

    def __init__(self, backend: Backend, *, owned: bool = False) -> None:
        """
        Args:
            owned: make the tables ours in the kernel's eyes; only where
                `supports_owner_tables` said so.
        """
        self.inet = TableState(INET)
        self.arp = TableState(ARP)
        self._backend = backend
        self._flags = OWNED if owned else TableFlag(0)
        self._tables = {INET: self.inet, ARP: self.arp}
        self._missing: set[TableName] = set()
        self._orphans: set[TableName] = set()
        """There, and without their owner, or asleep."""
        self._early: list[TableName] = []
        """Early tables that are there and that we may delete."""
        self._unlike: set[TableName] = set()
        """Made to be owned and should not be, or the other way: no table can change that."""
        self._stale = True
        """The kernel's state is not known: read it back before writing."""
        self._generation: int | None = None
        """What the kernel's generation is if only we have written since it was read."""
        self._commits = self._resyncs = self._repairs = self._failures = 0

    async def apply(self) -> bool:
        """Write every difference, all or nothing. Returns whether there was any.

        Raises:
            KernelRefused: nothing changed, and what we know of the kernel is true;
                trying again without another change of what is wanted will not help.
            KernelBusy: nothing changed, or nobody knows; try again.
        """
        fresh = self._stale
        try:
            return await self._write()
        except KernelRefused:
            # The difference may have been one to what is not there any more.
            if fresh or await self._backend.generation() == self._generation:
                raise
        self._stale = True
        return await self._write()

    async def _write(self) -> bool:
        if self._stale:
            await self._read_back()
        if self._orphans:
            await self._adopt()
        transaction = Transaction()
        for name, state in self._tables.items():
            table = Table(name.family, name.name, self._flags)
            if state.must_be_replaced or name in self._unlike:
                log.warning("table %s cannot be changed into what it should be; replacing it", name)
                transaction.replace_table(table, exists=name in self._unlike)
                state.forget()
                self._stale = True
            elif name in self._missing:
                transaction.add_table(table)
            state.write(transaction)
        for name in self._early:
            transaction.delete_table(name)
        if not transaction:
            return False
        try:
            written = await self._backend.commit(transaction)
        except TortieError as error:
            self._failures += 1
            self._stale = self._stale or isinstance(error, OutcomeUnknown)
            raise
        self._confirm(written)
        return True

    async def _adopt(self) -> None:
        """Before all else: the kernel takes no new base chain in the transaction that changes a
        table's flags (EINVAL)."""
        transaction = Transaction()
        for name in self._orphans:
            transaction.add_table(Table(name.family, name.name, self._flags))
        try:
            await self._backend.commit(transaction)
        except TortieError:
            self._failures += 1
            self._stale = True
            raise
        self._orphans.clear()
        self._commits += 1
        if self._generation is not None:
            self._generation += 1

    async def resync(self) -> bool:
        """Read everything back, if anyone else has written since, and write what
        differs. Returns whether anything did.

        Raises as `apply`.
        """
        pending = not self.in_sync
        first = not self._resyncs
        if await self._backend.generation() != self._generation:
            self._stale = True
        changed = await self.apply()
        if changed and not first and not pending:
            self._repairs += 1
            log.warning("nftables had been changed by others; repaired")
        return changed

    @property
    def in_sync(self) -> bool:
        return not self._stale and all(state.in_sync for state in self._tables.values())

    def statistics(self) -> NftablesStatistics:
        sizes = [state.sizes() for state in self._tables.values()]
        chains, sets, elements = (sum(column) for column in zip(*sizes, strict=True))
        return NftablesStatistics(
            chains,
            sets,
            elements,
            self._commits,
            self._resyncs,
            self._repairs,
            rules=sum(state.rule_count for state in self._tables.values()),
            failures=self._failures,
        )

    def _confirm(self, written: list[WrittenRule]) -> None:
        handles: dict[TableName, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        for operation, handle in written:
            handles[operation.table][operation.rule.chain].append(handle)
        for name, state in self._tables.items():
            state.confirm(handles[name])
        self._missing.clear()
        self._early.clear()
        self._unlike.clear()
        self._stale = False
        self._commits += 1
        if self._generation is not None:
            self._generation += 1

    async def _read_back(self) -> None:
        before = await self._backend.generation()
        await self._read_tables()
        # Written to while it was read: what we have may be torn, so look again next time.
        after = await self._backend.generation()
        self._generation = before if before == after else None

    async def _read_tables(self) -> None:
        tables = {table.table_name: table for table in await self._backend.tables()}
        self._missing, self._unlike, self._orphans = set(), set(), set()
        self._early = [name for name in early.TABLES if self._may_delete(tables.get(name))]
        for name, state in self._tables.items():
            table = tables.get(name)
            # An orphan has lost its owner, and persists: that one can be adopted.
            if table is not None and (table.flags ^ self._flags) & TableFlag.PERSIST:
                self._unlike.add(name)
            elif table is not None and not self._has_flags(table):
                self._orphans.add(name)
            if table is None:
                self._missing.add(name)
                state.forget()
            else:
                state.observe(await self._read(name))
        self._stale = False
        self._resyncs += 1

    def _has_flags(self, table: Table) -> bool:
        """False for an orphan too: naming it in a transaction adopts it; and for one
        that somebody has put to sleep, which is as good as none."""
        if table.flags & (OWNED | TableFlag.DORMANT) != self._flags:
            return False
        return not self._flags or table.owner == self._backend.port_id

    def _may_delete(self, table: Table | None) -> bool:
        if table is None:
            return False
        if not table.owner or table.owner == self._backend.port_id:
            return True
        log.warning(
            "workload interfaces stay closed: table %s belongs to another living process, socket "
            "%d; stop that keeper",
            table.table_name,
            table.owner,
        )
        return False

    async def _read(self, name: TableName) -> Found:
        """One table. Somebody may delete it meanwhile: then it is empty."""
        try:
            rules: dict[str, list[Rule]] = defaultdict(list)
            for rule in await self._backend.rules(name):
                rules[rule.chain].append(rule)
            sets = {found.name: found for found in await self._backend.sets(name)}
            return Found(
                chains={chain.name: chain for chain in await self._backend.chains(name)},
                rules=rules,
                sets=sets,
                elements={
                    found.name: await self._backend.elements(name, found.name)
                    for found in sets.values()
                    if SetFlag.EVAL not in found.flags  # packets fill these, not we
                },
            )
        except NotFound:
            self._missing.add(name)
            return Found({}, {}, {}, {})
