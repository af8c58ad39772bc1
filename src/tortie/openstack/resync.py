"""The datastore made equal to Neutron's database, all of it or some, while both go on changing.

By the writers' rule (see `writer`): the datastore is read before the database, and each write
rests on the version that was read. Of what is stored only versions and fingerprints are kept,
some 200 bytes for each key, and the database is read as a stream. What another writer was
faster with, and what this one wrote, is settled once more, a few things at a time.

What is stored and not in the database goes last, when all of it has been read: a database that
fails half-way deletes nothing.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from tortie.lib.errors import Compacted, Conflict
from tortie.openstack import labels
from tortie.openstack.inventory import Inventory, Selection
from tortie.openstack.kinds import Groups, Kind, Ports, Subnets
from tortie.openstack.settings import Settings
from tortie.openstack.store import (
    Change,
    Content,
    Store,
    encoded,
    fingerprint,
    stored_fingerprint,
)
from tortie.openstack.writer import Settled, settle

log = logging.getLogger(__name__)

TOGETHER = 100
"""Changes in one transaction: etcd's limit is 128, and the guard counts."""

SETTLED_TOGETHER = 40
"""Ports whose paths, three each at most, are one transaction."""

PROBLEMS_KEPT = 1000

LISTINGS = 3
"""Tries of a listing that a compaction overtook."""


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """What to resynchronise; empty means everything.

    A network stands for itself, its subnets and its ports, a subnet for itself and its ports.
    """

    networks: frozenset[str] = frozenset()
    subnets: frozenset[str] = frozenset()
    ports: frozenset[str] = frozenset()
    security_groups: frozenset[str] = frozenset()
    include_security_groups_for_ports: bool = False

    @property
    def is_all(self) -> bool:
        return not (self.networks or self.subnets or self.ports or self.security_groups)


class Counts(msgspec.Struct):
    """Of one kind."""

    stored: int = 0
    """Keys that were there."""
    checked: int = 0
    """Things that the database has."""
    created: int = 0
    updated: int = 0
    deleted: int = 0
    raced: int = 0
    """Writes that another writer was faster than."""
    seconds: float = 0.0

    def add(self, settled: Settled) -> None:
        self.created += settled.created
        self.updated += settled.updated
        self.deleted += settled.deleted
        self.raced += settled.raced


class Report(msgspec.Struct):
    """How a resync went; becomes JSON as it is."""

    kinds: dict[str, Counts]
    problems: list[str]
    """What cannot be expressed and is closed, at most `PROBLEMS_KEPT`."""
    problem_count: int = 0
    seconds: float = 0.0

    @property
    def changes(self) -> int:
        return sum(c.created + c.updated + c.deleted for c in self.kinds.values())


OnProgress = Callable[[str, Counts], None]
"""A kind's name and its counts so far; after each batch."""


class _Known(NamedTuple):
    revision: int
    fingerprint: bytes


class Resync:
    """One run after the other; for one thread, since `report` is of the newest run."""

    def __init__(
        self,
        store: Store,
        inventory: Inventory,
        settings: Settings,
        on_progress: OnProgress = lambda kind, counts: None,
    ) -> None:
        self._store = store
        self._inventory = inventory
        self._subnets = Subnets(inventory, settings)
        self._groups = Groups(inventory, settings)
        self._ports = Ports(inventory, settings)
        self._on_progress = on_progress
        self.report = Report({}, [])

    def run(self, scope: Scope | None = None) -> Report:
        """
        Raises:
            NotMaster: the store's guard does not hold any more.
            Unavailable: the datastore does not answer. What was done until then is right, and
                `report` has it.
            whatever the inventory raises.
        """
        started = time.monotonic()
        self.report = Report({}, [])
        scope = scope or Scope()
        try:
            if scope.is_all:
                for kind in (self._subnets, self._groups, self._ports):
                    self._timed(kind, lambda kind=kind: self._all(kind))  # type: ignore[misc]
            else:
                self._some(scope)
        finally:
            self.report.seconds = round(time.monotonic() - started, 3)
        return self.report

    def _timed(self, kind: Kind, work: Callable[[], None]) -> None:
        started = time.monotonic()
        try:
            work()
        finally:
            counts = self._counts(kind)
            counts.seconds = round(time.monotonic() - started, 3)
            self._on_progress(kind.name, counts)

    def _counts(self, kind: Kind) -> Counts:
        return self.report.kinds.setdefault(kind.name, Counts())

    def _note(self, problems: Iterable[str]) -> None:
        for problem in problems:
            self.report.problem_count += 1
            if len(self.report.problems) < PROBLEMS_KEPT:
                self.report.problems.append(problem)
                log.warning("%s", problem)

    # --- everything of a kind ---

    def _all(self, kind: Kind) -> None:
        counts = self._counts(kind)
        listed = self._listed(kind)
        counts.stored = len(listed)
        again: dict[str, set[str]] = {}
        """Ids to settle once more, with the paths that we know of them."""
        pending: list[tuple[str, str, Content, _Known | None]] = []
        for item in kind.items():
            counts.checked += 1
            self._note(item.problems)
            for path, content in item.contents.items():
                known = listed.pop(path, None)
                if known is None or known.fingerprint != fingerprint(content):
                    pending.append((item.id, path, content, known))
                    again.setdefault(item.id, set()).add(path)
            if len(pending) >= TOGETHER:
                self._write(kind, pending)
                pending = []
        self._write(kind, pending)
        gone = list(listed.items())
        for start in range(0, len(gone), TOGETHER):
            some = gone[start : start + TOGETHER]
            deletions = [Change(path, known.revision, None) for path, known in some]
            self._put(kind, deletions)
            for path, _ in some:
                again.setdefault(kind.id_of(path), set()).add(path)
        self._settle(kind, again)

    def _listed(self, kind: Kind) -> dict[str, _Known]:
        for _ in range(LISTINGS):
            try:
                return {
                    entry.key: _Known(
                        entry.mod_revision, stored_fingerprint(entry.key, entry.value)
                    )
                    for prefix in kind.prefixes
                    for page in self._store.gateway.pages(prefix)
                    for entry in page.entries
                }
            except Compacted:
                continue
        raise Conflict(f"{kind.name}: history is compacted faster than it can be listed")

    def _stored(self, kind: Kind) -> Iterator[tuple[str, _Known]]:
        for prefix in kind.prefixes:
            for page in self._store.gateway.pages(prefix):
                for key, value, revision, *_ in page.entries:
                    yield key, _Known(revision, stored_fingerprint(key, value))

    def _write(
        self, kind: Kind, pending: Sequence[tuple[str, str, Content, _Known | None]]
    ) -> None:
        """What was stored is read once more: it has the uid, and fields that we do not know."""
        there = self._store.read([path for _, path, _, known in pending if known is not None])
        changes = []
        for _, path, content, known in pending:
            entry = there.get(path)
            if known is None:
                changes.append(Change(path, 0, encoded(path, content, b"")))
            elif entry is None or entry.mod_revision != known.revision:
                self._counts(kind).raced += 1
            else:
                value = encoded(path, content, entry.value)
                changes.append(Change(path, known.revision, value))
        self._put(kind, changes)

    def _put(self, kind: Kind, changes: Sequence[Change]) -> None:
        if changes:
            lost = self._store.write(changes)
            self._counts(kind).add(Settled().plus(changes, lost))
            self._on_progress(kind.name, self._counts(kind))

    def _settle(self, kind: Kind, paths_by_id: dict[str, set[str]]) -> None:
        """Once more, so that nothing which others did meanwhile is undone."""
        for ids in _slices(list(paths_by_id), SETTLED_TOGETHER):
            paths = [path for each in ids for path in paths_by_id[each]]
            settled = settle(self._store, kind, ids, paths)
            self._counts(kind).add(settled)
            self._on_progress(kind.name, self._counts(kind))

    # --- some ---

    def _some(self, scope: Scope) -> None:
        inside = Selection(networks=scope.networks, subnets=scope.subnets)
        subnet_ids, port_ids = set(scope.subnets), set(scope.ports)
        group_ids = set(scope.security_groups)
        if scope.networks or scope.subnets:
            subnet_ids |= {subnet.id for subnet in self._inventory.subnets(inside)}
            port_ids |= {port.id for port in self._inventory.ports(inside)}
        if scope.include_security_groups_for_ports and port_ids:
            for port in self._inventory.ports(Selection(ids=frozenset(port_ids))):
                group_ids |= port.security_groups.keys()
        self._narrow(self._subnets, {i: set(self._subnets.paths_of(i)) for i in subnet_ids})
        self._narrow(self._groups, {i: set(self._groups.paths_of(i)) for i in group_ids})
        if port_ids or scope.networks:
            self._narrow(self._ports, self._stored_paths(port_ids, scope.networks))

    def _stored_paths(
        self, port_ids: Collection[str], networks: Collection[str]
    ) -> dict[str, set[str]]:
        """Where something of the ports is, on whatever host, with ports of the networks that
        the database has no more."""
        found: dict[str, set[str]] = {port_id: set() for port_id in port_ids}
        marks = [f'"{labels.NETWORK_ANNOTATION}":"{network}"'.encode() for network in networks]
        for prefix in self._ports.prefixes:
            for page in self._store.gateway.pages(prefix, keys_only=not marks):
                for entry in page.entries:
                    port_id = self._ports.id_of(entry.key)
                    if port_id in found or any(mark in entry.value for mark in marks):
                        found.setdefault(port_id, set()).add(entry.key)
        return found

    def _narrow(self, kind: Kind, paths_by_id: dict[str, set[str]]) -> None:
        if not paths_by_id:
            return

        def work() -> None:
            counts = self._counts(kind)
            counts.checked = len(paths_by_id)
            counts.stored = sum(map(len, paths_by_id.values()))
            for ids in _slices(list(paths_by_id), SETTLED_TOGETHER):
                paths = [path for each in ids for path in paths_by_id[each]]
                settled = settle(self._store, kind, ids, paths)
                counts.add(settled)
                self._note(settled.problems)
                self._on_progress(kind.name, counts)

        self._timed(kind, work)


def _slices(ids: Sequence[str], count: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), count):
        yield ids[start : start + count]
