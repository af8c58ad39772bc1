"""Snapshot, then watch, for ever: what is in the datastore as a stream of updates.

    connecting ──list──► resync ──deliver differences──► in-sync ──watch──┐
        ▲                                                                 │
        ├──── Unavailable: back off, watch on from where it stopped ──────┤
        └──── history lost, or a comparison failed: list anew ────────────┘

A listing, the first or a later one, is compared with what was delivered
before: only what differs goes to the sink, and a key is reported gone only if
a complete listing lacks it. So a lost connection, a compaction, or another
store behind the same address never looks like a deletion of everything.

A watch is not trusted alone (etcd's own list of bugs before 3.5 has lost events):
every `compare_seconds` all keys and their revisions are listed. Where the
listing is newer than what was delivered, and the watch does not bring it
within a grace time, we list anew. While the store's revision stands still,
a comparison costs one small request and nothing is listed.

Only key → revision is kept here (`delivered`); values belong to whoever takes the updates.
"""

import asyncio
import enum
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import NamedTuple, Protocol

from tortie.datastore.client import Client, Event, Page
from tortie.datastore.delivered import Delivered
from tortie.lib.backoff import Backoff, spread_seconds
from tortie.lib.errors import Compacted, Denied, Unavailable

_AFTER_ANY_KEY = "\U0010ffff"
"""Sorts behind every character that a key may have."""

_UPDATES_AT_ONCE = 1_000
"""Per call of the sink, so that it can work on the first while we prepare the next."""


class Update(NamedTuple):
    """The newest state of one key; `value` None means gone."""

    key: str
    value: bytes | None
    revision: int


class Status(enum.Enum):
    CONNECTING = "connecting"
    """Trying to reach the datastore; what was delivered so far is the last known state."""
    RESYNC = "resync"
    """Connected; delivering what differs."""
    IN_SYNC = "in-sync"
    """Everything up to a revision was delivered; from now on changes, as they come."""


class Sink(Protocol):
    """Who takes the updates. Level-triggered: the same update may come twice."""

    async def on_updates(self, updates: Sequence[Update]) -> None:
        """Take them; waiting here slows the reading down (and nothing is lost)."""
        ...

    def on_status(self, status: Status) -> None:
        """Told at each change of status; must not wait."""
        ...


class Statistics(NamedTuple):
    listings: int
    """Complete listings with values, the first included."""
    updates: int
    comparisons: int
    repairs: int
    """Keys that the watch had lost and a comparison found: should stay 0."""
    interruptions: int
    """Lost connections and lost histories."""
    revision: int
    """Everything up to here was delivered."""


class Timing(NamedTuple):
    """Seconds."""

    compare: float | None = 60.0
    """Between comparisons; None leaves them out."""
    grace: float = 2.0
    """How long the watch may lag behind a comparison's listing."""
    backoff_first: float = 0.1
    backoff_limit: float = 2.0


class _WatchLostKeys(Exception):  # not an error to the caller
    """A comparison found keys whose change the watch never brought."""


class Syncer:
    """Reads some prefixes into one sink. `run` it as one task.

    Args:
        prefixes: watched together as one; must not overlap. Their snapshots
            are of one revision.
    """

    def __init__(
        self,
        client: Client,
        prefixes: Sequence[str],
        sink: Sink,
        timing: Timing | None = None,
    ) -> None:
        self._client = client
        self._prefixes = tuple(prefixes)
        self._sink = sink
        self._timing = timing or Timing()
        self._backoff = Backoff(self._timing.backoff_first, self._timing.backoff_limit)
        self._delivered = Delivered()
        self._uncertain: set[str] = set()
        """Keys that the sink may have, but in which version is not known."""
        self._seen: dict[str, int] = {}
        """Prefix → the revision up to which its watch has come; empty means list anew."""
        self._store_id: str | None = None
        self._newest = 0
        """The newest revision seen so far of this store."""
        self._compared_revision = 0
        self._delivering = asyncio.Lock()
        self._status: Status | None = None
        self._listings = self._updates = self._comparisons = 0
        self._repairs = self._interruptions = 0

    async def run(self) -> None:
        """Deliver until cancelled.

        Raises:
            Denied: the credentials do not suffice for the very first listing.
                Later it is treated as a lost connection: what was delivered
                stays, and we try again.
        """
        while True:
            try:
                await self._sync()
            except Compacted:  # or another store: what we have seen is no place to go on from
                self._seen.clear()
                await self._pause()
            except _WatchLostKeys:
                self._seen.clear()
            except Unavailable:
                await self._pause()
            except Denied:
                if self._store_id is None:
                    raise
                await self._pause()

    def statistics(self) -> Statistics:
        return Statistics(
            self._listings,
            self._updates,
            self._comparisons,
            self._repairs,
            self._interruptions,
            min(self._seen.values(), default=0),
        )

    async def _sync(self) -> None:
        """List if need be, then watch; ends only by an error."""
        if not self._seen:
            await self._list_anew()
        await self._client.revision()  # a watch may be silent: is anybody there?
        self._set_status(Status.IN_SYNC)
        started = asyncio.get_running_loop().time()
        tasks = [asyncio.create_task(self._watch(prefix)) for prefix in self._prefixes]
        if self._timing.compare is not None:
            tasks.append(asyncio.create_task(self._compare_for_ever(self._timing.compare)))
        try:
            # No task group: cancelled just while a watch fails, it would raise the failure alone.
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            # A watch that fails at once each time must not make us list in a tight loop.
            if asyncio.get_running_loop().time() - started > 2 * self._timing.backoff_limit:
                self._backoff.reset()
        raise _weightiest(ended)

    async def _pause(self) -> None:
        """Back off after a failure."""
        self._interruptions += 1
        self._set_status(Status.CONNECTING)
        await asyncio.sleep(self._backoff.next_seconds())

    def _set_status(self, status: Status) -> None:
        if status is not self._status:
            self._status = status
            self._sink.on_status(status)

    async def _list_anew(self) -> None:
        if self._status is None:
            self._set_status(Status.CONNECTING)
        at, store_id, same_store = 0, "", False
        async with aclosing(self._ranges(keys_only=False)) as ranges:
            async for page, had in ranges:
                self._set_status(Status.RESYNC)
                at, store_id = page.revision, page.store_id
                # Another store's revisions say nothing about ours, even where they are equal;
                # nor do those of one that was set back to an earlier state.
                same_store = store_id == self._store_id and at >= self._newest
                updates = [
                    Update(entry.key, entry.value, entry.mod_revision)
                    for entry in page.entries
                    if not same_store or had.get(entry.key) != entry.mod_revision
                ]
                present = {entry.key for entry in page.entries} if had else set()
                updates += [Update(key, None, at) for key in had if key not in present]
                await self._deliver(updates)
        self._listings += 1
        self._store_id = store_id
        self._seen = dict.fromkeys(self._prefixes, at)
        self._newest = at
        self._compared_revision = at

    async def _ranges(self, *, keys_only: bool) -> AsyncGenerator[tuple[Page, dict[str, int]]]:
        """All that is stored, as of one revision, page by page; so it is never held whole.

        Each with what was delivered of the range of keys that it covers, by key: its revision,
        0 where that is not certain.
        """
        revision: int | None = None
        store_id: str | None = None
        for prefix in self._prefixes:
            after, more = "", True
            while more:
                page = await self._client.page(
                    prefix, after=after, revision=revision, keys_only=keys_only
                )
                if store_id not in (None, page.store_id):
                    raise Compacted(page.revision)  # half of one store and half of another
                revision, store_id, more = page.revision, page.store_id, page.more
                first = f"{after}\0" if after else prefix
                after = page.entries[-1].key if more else ""
                last = after or prefix + _AFTER_ANY_KEY
                had = self._delivered.between(first, last)
                had |= {key: 0 for key in self._uncertain if first <= key <= last}
                yield page, had

    async def _watch(self, prefix: str) -> None:
        watch = self._client.watch(prefix, self._seen[prefix] + 1, store_id=self._store_id)
        async with aclosing(watch):
            async for batch in watch:
                await self._deliver([Update(*event) for event in _newest_per_key(batch.events)])
                self._seen[prefix] = batch.revision
                self._newest = max(self._newest, batch.revision)

    async def _deliver(self, updates: list[Update]) -> None:
        """Hand over, and remember; if cancelled in between, the keys count as uncertain."""
        async with self._delivering:
            for start in range(0, len(updates), _UPDATES_AT_ONCE):
                some = updates[start : start + _UPDATES_AT_ONCE]
                keys = [update.key for update in some]
                self._uncertain.update(keys)
                await self._sink.on_updates(some)
                self._updates += len(some)
                self._delivered.record(
                    (one.key, None if one.value is None else one.revision) for one in some
                )
                self._uncertain.difference_update(keys)

    async def _compare_for_ever(self, interval: float) -> None:
        while True:
            await asyncio.sleep(spread_seconds(interval))
            revision = await self._client.revision()
            if revision != self._compared_revision and not self._delivering.locked():
                await self._compare()
                self._compared_revision = revision

    async def _compare(self) -> None:
        """Find keys that the watch lost.

        A key counts as lost only if two listings, the grace time apart, agree
        about it and differ from what was delivered: a change that is on its
        way, or came while we listed, differs in at most one of them.
        """
        self._comparisons += 1
        suspects = await self._keys_behind()
        if suspects:
            await asyncio.sleep(self._timing.grace)
            lost = suspects.items() & (await self._keys_behind()).items()
            if lost:
                self._repairs += len(lost)
                raise _WatchLostKeys

    async def _keys_behind(self) -> dict[str, int]:
        """Keys of which the datastore has more than was delivered → its revision, 0 if absent."""
        newest = self._newest
        behind: dict[str, int] = {}
        async with aclosing(self._ranges(keys_only=True)) as ranges:
            async for page, had in ranges:
                if page.store_id != self._store_id or page.revision < newest:
                    raise Compacted(page.revision)
                listed = {entry.key: entry.mod_revision for entry in page.entries}
                behind |= {key: at for key, at in listed.items() if had.get(key, 0) < at}
                extra = (key for key in had if had[key] <= page.revision and key not in listed)
                behind |= dict.fromkeys(extra, 0)
        return behind


def _newest_per_key(events: Sequence[Event]) -> list[Event]:
    """The last event of each key, in the order of those."""
    newest: dict[str, Event] = {}
    for event in events:
        newest.pop(event.key, None)
        newest[event.key] = event
    return list(newest.values())


def _weightiest(ended: Sequence[BaseException | None]) -> BaseException:
    """Of what ended the watches together: a bug before all, then what asks for a listing."""
    expected = (_WatchLostKeys, Compacted, Unavailable, Denied)

    def weight(error: BaseException) -> int:
        return next((at for at, kind in enumerate(expected, 1) if isinstance(error, kind)), 0)

    failures = (one for one in ended if not isinstance(one, asyncio.CancelledError | None))
    return min(failures, key=weight)
