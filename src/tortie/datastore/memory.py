"""The datastore in memory: a verified fake, and a store for a single process.

`MemoryStore` is the data with etcd's revisions, history, compaction and
leases; any number of `MemoryClient`s in one event loop share it. Tests of the
layers above use it to see races and failures that a real store shows rarely:
a client's `fault` hook runs before and after each call and may wait or raise.
"""

import asyncio
import time
from bisect import bisect_left
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from tortie.datastore.client import (
    PAGE_ENTRIES,
    Batch,
    Delete,
    Entry,
    Event,
    Get,
    Lease,
    Listing,
    Operation,
    Page,
    Put,
    Response,
    Txn,
    TxnResult,
    check_key,
    check_transaction,
)
from tortie.datastore.compare import holds
from tortie.datastore.single import SingleKeyCalls
from tortie.lib.errors import Compacted, InvalidInput, NotFound, Unavailable

FaultHook = Callable[[Literal["before", "after"], str], Awaitable[None]]
"""Called with the moment and the method's name.

Raise `Unavailable` before a write: it did not happen. Raise
`Unavailable(maybe_applied=True)` after it: it happened and the caller cannot know.
"""


class _Change(NamedTuple):
    """One version of one key; `value` None is a tombstone."""

    revision: int
    key: str
    value: bytes | None
    create_revision: int = 0
    version: int = 0
    lease: int = 0


@dataclass
class _HeldLease:
    ttl_seconds: float
    deadline: float | None = None
    """None while its client keeps it alive."""
    keys: set[str] = field(default_factory=set)


class MemoryStore:
    """The data behind memory clients. One event loop only.

    Args:
        clock: seconds for leases. With the default, timers end leases; with
            another one, call `expire_leases` after moving it.
    """

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self.revision = 1
        self.compacted = 0
        self.store_id = f"memory-{id(self):x}"
        self._clock = clock or time.monotonic
        self._uses_timers = clock is None
        self._history: list[_Change] = []
        self._versions: dict[str, list[_Change]] = {}
        self._leases: dict[int, _HeldLease] = {}
        self._last_lease = 0
        self.changed: set[asyncio.Event] = set()
        """Set at every write; watches register theirs."""

    def entry(self, key: str, revision: int | None = None) -> Entry | None:
        at = self.revision if revision is None else revision
        for change in reversed(self._versions.get(key, ())):
            if change.revision <= at:
                return _entry(change)
        return None

    def entries(self, prefix: str, revision: int | None = None) -> list[Entry]:
        found = (self.entry(key, revision) for key in sorted(self._versions, key=str.encode))
        return [entry for entry in found if entry is not None and entry.key.startswith(prefix)]

    def events(self, prefix: str, after: int) -> list[Event]:
        """Changes later than revision `after`, in order."""
        start = bisect_left(self._history, after + 1, key=lambda change: change.revision)
        return [
            Event(change.key, change.value, change.revision)
            for change in self._history[start:]
            if change.key.startswith(prefix)
        ]

    def transact(self, txn: Txn) -> TxnResult:
        succeeded = all(holds(compare, self.entry(compare.key)) for compare in txn.compares)
        branch = txn.success if succeeded else txn.otherwise
        for operation in branch:
            if isinstance(operation, Put) and operation.lease:
                self._lease(operation.lease)
        revision = self.revision + 1
        responses = [self._apply(operation, revision) for operation in branch]
        self._commit(revision)
        return TxnResult(succeeded, self.revision, responses)

    def compact(self, revision: int) -> None:
        if revision > self.revision:
            raise InvalidInput(f"cannot compact at {revision}, which is in the future")
        self.compacted = max(self.compacted, revision)
        self._history = [change for change in self._history if change.revision > self.compacted]
        for key, changes in list(self._versions.items()):
            old = [change for change in changes if change.revision <= self.compacted]
            kept = [change for change in old[-1:] if change.value is not None]
            self._versions[key] = kept + changes[len(old) :]
            if not self._versions[key]:
                del self._versions[key]

    def grant(self, ttl_seconds: float) -> int:
        self._last_lease += 1
        self._leases[self._last_lease] = _HeldLease(ttl_seconds)
        return self._last_lease

    def abandon(self, lease_id: int) -> None:
        """Nobody keeps it alive any more: it ends after its time to live."""
        held = self._leases.get(lease_id)
        if held is not None and held.deadline is None:
            held.deadline = self._clock() + held.ttl_seconds
            if self._uses_timers:
                loop = asyncio.get_running_loop()
                loop.call_later(held.ttl_seconds + 0.001, self.expire_leases)

    def revoke(self, lease_id: int) -> None:
        held = self._leases.pop(lease_id, None)
        if held is not None:
            revision = self.revision + 1
            for key in sorted(held.keys):
                self._apply(Delete(key), revision)
            self._commit(revision)

    def expire_leases(self) -> None:
        now = self._clock()
        for lease_id, held in list(self._leases.items()):
            if held.deadline is not None and held.deadline <= now:
                self.revoke(lease_id)

    def knows(self, lease: Lease) -> bool:
        return lease.id in self._leases

    def _lease(self, lease_id: int) -> _HeldLease:
        held = self._leases.get(lease_id)
        if held is None:
            raise NotFound(f"lease {lease_id:x} does not exist")
        return held

    def _apply(self, operation: Operation, revision: int) -> Response:
        before = self.entry(operation.key, revision)
        if isinstance(operation, Get):
            return Response(entry=before)
        if isinstance(operation, Delete):
            if before is None:
                return Response()
            self._record(_Change(revision, operation.key, None), before)
            return Response(deleted=1)
        created, version = (before.create_revision, before.version) if before else (revision, 0)
        change = _Change(
            revision, operation.key, operation.value, created, version + 1, operation.lease
        )
        self._record(change, before)
        return Response()

    def _record(self, change: _Change, before: Entry | None) -> None:
        if before is not None and before.lease in self._leases:
            self._leases[before.lease].keys.discard(change.key)
        if change.lease:
            self._leases[change.lease].keys.add(change.key)
        self._versions.setdefault(change.key, []).append(change)
        self._history.append(change)

    def _commit(self, revision: int) -> None:
        if self._history and self._history[-1].revision == revision:
            self.revision = revision
            for event in self.changed:
                event.set()


class MemoryClient(SingleKeyCalls):
    """One client of a `MemoryStore`; see `datastore.client.Client`."""

    def __init__(self, store: MemoryStore | None = None, fault: FaultHook | None = None) -> None:
        self.store = store or MemoryStore()
        self.fault = fault
        self._leases: list[Lease] = []
        self._news: set[asyncio.Event] = set()
        self._connection = 0
        self._closed = False

    async def get(self, key: str) -> Entry | None:
        check_key(key)
        await self._meet_fault("before", "get")
        entry = self.store.entry(key)
        await self._meet_fault("after", "get")
        return entry

    async def list(
        self, prefix: str, *, revision: int | None = None, keys_only: bool = False
    ) -> Listing:
        await self._meet_fault("before", "list")
        if revision is not None and not self.store.compacted <= revision <= self.store.revision:
            raise Compacted(self.store.compacted)
        entries = self.store.entries(prefix, revision)
        if keys_only:
            entries = [entry._replace(value=b"") for entry in entries]
        at = self.store.revision if revision is None else revision
        listing = Listing(entries, at, self.store.store_id)
        await self._meet_fault("after", "list")
        return listing

    async def page(
        self, prefix: str, *, after: str = "", revision: int | None = None, keys_only: bool = False
    ) -> Page:
        listing = await self.list(prefix, revision=revision, keys_only=keys_only)
        behind = [entry for entry in listing.entries if entry.key > after]
        some = behind[:PAGE_ENTRIES]
        return Page(some, listing.revision, listing.store_id, len(behind) > len(some))

    async def transact(self, txn: Txn) -> TxnResult:
        check_transaction(txn)
        await self._meet_fault("before", "transact")
        result = self.store.transact(txn)
        await self._meet_fault("after", "transact")
        return result

    async def watch(
        self, prefix: str, from_revision: int, *, store_id: str | None = None
    ) -> AsyncGenerator[Batch, None]:
        await self._meet_fault("before", "watch")
        store, connection, seen = self.store, self._connection, from_revision - 1
        if seen > store.revision or store_id not in (None, store.store_id):
            raise Compacted(store.revision)
        news = asyncio.Event()
        self._news.add(news)
        store.changed.add(news)
        try:
            while True:
                if self._connection != connection:
                    raise Unavailable("disconnected")
                if seen < store.compacted:
                    raise Compacted(store.compacted)
                news.clear()
                events = store.events(prefix, seen)
                seen = max(seen, store.revision)
                if events:
                    yield Batch(events, seen)
                else:
                    await news.wait()
        finally:
            self._news.discard(news)
            store.changed.discard(news)

    async def revision(self) -> int:
        await self._meet_fault("before", "revision")
        return self.store.revision

    async def compact(self, revision: int) -> None:
        await self._meet_fault("before", "compact")
        self.store.compact(revision)

    async def grant_lease(self, ttl_seconds: int) -> Lease:
        await self._meet_fault("before", "grant_lease")
        lease = Lease(self.store.grant(ttl_seconds), ttl_seconds)
        self._leases.append(lease)
        return lease

    async def revoke(self, lease: Lease) -> None:
        await self._meet_fault("before", "revoke")
        self.store.revoke(lease.id)
        lease.lost.set()
        await self._meet_fault("after", "revoke")

    async def close(self) -> None:
        self._closed = True
        self.freeze()
        self.disconnect()

    def freeze(self) -> None:
        """Stop keeping leases alive, as a stopped process would."""
        for lease in self._leases:
            self.store.abandon(lease.id)

    def disconnect(self) -> None:
        """End every watch with Unavailable; calls work on."""
        self._connection += 1
        for event in self._news:
            event.set()

    async def _meet_fault(self, moment: Literal["before", "after"], call: str) -> None:
        if self._closed:
            raise Unavailable("the datastore client is closed")
        for lease in self._leases:
            if not self.store.knows(lease):
                lease.lost.set()
        if self.fault is not None:
            await self.fault(moment, call)


def _entry(change: _Change) -> Entry | None:
    if change.value is None:
        return None
    return Entry(
        change.key,
        change.value,
        change.revision,
        change.create_revision,
        change.version,
        change.lease,
    )
