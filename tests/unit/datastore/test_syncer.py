"""The syncer on the in-memory store, whose failures come when the test says so."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Literal

import pytest

from tortie.datastore import memory
from tortie.datastore.client import Batch, Delete, Page, Put, Txn
from tortie.datastore.memory import MemoryClient, MemoryStore
from tortie.datastore.syncer import Status, Syncer, Timing, Update
from tortie.lib.errors import Denied, Unavailable

QUICK = Timing(compare=0.02, grace=0.01, backoff_first=0.001, backoff_limit=0.005)
NO_COMPARE = QUICK._replace(compare=None)


class Recorder:
    """Holds what a consumer would: the newest value per key, and every call."""

    def __init__(self) -> None:
        self.state: dict[str, bytes] = {}
        self.updates: list[Update] = []
        self.calls: list[int] = []
        self.statuses: list[Status] = []
        self.gate: asyncio.Event | None = None
        self._changed = asyncio.Event()

    async def on_updates(self, updates: Sequence[Update]) -> None:
        if self.gate is not None:
            await self.gate.wait()
        self.calls.append(len(updates))
        for update in updates:
            self.updates.append(update)
            if update.value is None:
                self.state.pop(update.key, None)
            else:
                self.state[update.key] = update.value
        self._changed.set()

    def on_status(self, status: Status) -> None:
        self.statuses.append(status)
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def until_in_sync(self, times: int = 1) -> None:
        await self.until(lambda: self.statuses.count(Status.IN_SYNC) >= times)


def run(
    test: Callable[[MemoryClient, Recorder, Syncer], Awaitable[None]],
    *,
    timing: Timing = NO_COMPARE,
    client: MemoryClient | None = None,
    before: Sequence[Put] = (),
    prefixes: Sequence[str] = ("/a/",),
) -> Syncer:
    used = client or MemoryClient()
    recorder = Recorder()

    async def main() -> Syncer:
        used.store.transact(Txn(success=before))
        syncer = Syncer(used, prefixes, recorder, timing)
        task = asyncio.create_task(syncer.run())
        try:
            await test(used, recorder, syncer)
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        return syncer

    return asyncio.run(main())


THREE = [Put("/a/1", b"1"), Put("/a/2", b"2"), Put("/b/1", b"other")]


def test_the_snapshot_comes_before_in_sync_and_changes_after() -> None:
    async def test(client: MemoryClient, recorder: Recorder, syncer: Syncer) -> None:
        await recorder.until_in_sync()
        assert recorder.state == {"/a/1": b"1", "/a/2": b"2"}
        assert recorder.statuses == [Status.CONNECTING, Status.RESYNC, Status.IN_SYNC]
        await client.put("/a/1", b"new")
        await client.delete("/a/2")
        await client.put("/b/2", b"other")
        await recorder.until(lambda: recorder.state == {"/a/1": b"new"})
        assert syncer.statistics().listings == 1

    run(test, before=THREE)


def test_many_keys_come_in_portions() -> None:
    async def test(client: MemoryClient, recorder: Recorder, syncer: Syncer) -> None:
        await recorder.until_in_sync()
        assert recorder.calls == [1000, 1000, 500]

    run(test, before=[Put(f"/a/{number}", b"") for number in range(2500)])


def test_several_prefixes_are_one_snapshot() -> None:
    async def test(client: MemoryClient, recorder: Recorder, syncer: Syncer) -> None:
        await recorder.until_in_sync()
        assert set(recorder.state) == {"/a/1", "/a/2", "/b/1"}
        await client.put("/b/1", b"new")
        await recorder.until(lambda: recorder.state["/b/1"] == b"new")
        await client.put("/a/1", b"new")
        await recorder.until(lambda: recorder.state["/a/1"] == b"new")

    run(test, before=THREE, prefixes=["/a/", "/b/"])


def test_of_a_key_that_changed_often_only_the_newest_value_is_delivered() -> None:
    async def test(client: MemoryClient, recorder: Recorder, syncer: Syncer) -> None:
        await recorder.until_in_sync()
        for number in range(10):  # without awaiting: one batch for the watch
            client.store.transact(Txn(success=[Put("/a/1", b"%d" % number)]))
        await recorder.until(lambda: recorder.state["/a/1"] == b"9")
        assert recorder.calls == [2, 1]

    run(test, before=THREE)


def test_a_lost_connection_loses_nothing_and_deletes_nothing() -> None:
    down = False

    async def fault(moment: Literal["before", "after"], call: str) -> None:
        if down:
            raise Unavailable("down")

    client = MemoryClient(fault=fault)

    async def test(client: MemoryClient, recorder: Recorder, syncer: Syncer) -> None:
        nonlocal down
        await recorder.until_in_sync()
        down = True
        client.disconnect()
        await recorder.until(lambda: recorder.statuses[-1] is Status.CONNECTING)
        client.store.transact(Txn(success=[Put("/a/2", b"while away"), Put("/a/3", b"3")]))
        await asyncio.sleep(0.02)
        down = False
        await recorder.until_in_sync(2)
        await recorder.until(lambda: recorder.state.get("/a/3") == b"3")
        assert recorder.state == {"/a/1": b"1", "/a/2": b"while away", "/a/3": b"3"}
        assert not [update for update in recorder.updates if update.value is None]
        assert len(recorder.updates) == 4, "what had not changed must not come again"
        assert syncer.statistics().listings == 1
        assert syncer.statistics().interruptions >= 2

    run(test, client=client, before=THREE)


@pytest.mark.parametrize("turns", range(6))
def test_it_ends_when_cancelled_just_as_the_connection_is_lost(turns: int) -> None:
    """As when an agent and its datastore are told to stop at once.

    Args:
        turns: of the event loop between the two.
    """

    async def main() -> bool:
        client, recorder = MemoryClient(), Recorder()
        task = asyncio.create_task(Syncer(client, ("/a/", "/b/"), recorder, NO_COMPARE).run())
        await recorder.until_in_sync()
        await asyncio.sleep(0.01)  # the watches wait
        client.disconnect()
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task}, timeout=2)
        ended = task.cancelled()
        task.cancel()
        return ended

    assert asyncio.run(main())


def test_after_compaction_only_what_differs_is_delivered() -> None:
    async def test(client: MemoryClient, recorder: Recorder, syncer: Syncer) -> None:
        await recorder.until_in_sync()
        client.store.transact(Txn(success=[Put("/a/1", b"new")]))
        client.store.transact(Txn(success=[Put("/a/3", b"3")]))
        revision = client.store.transact(Txn(success=[Put("/a/4", b"")])).revision
        client.store.transact(Txn(success=[Put("/a/4", b"4")]))
        client.store.compact(revision)
        del recorder.updates[:]
        await recorder.until(lambda: "/a/4" in recorder.state)
        assert recorder.state == {"/a/1": b"new", "/a/2": b"2", "/a/3": b"3", "/a/4": b"4"}
        assert sorted(update.key for update in recorder.updates) == ["/a/1", "/a/3", "/a/4"]
        assert syncer.statistics().listings == 2

    run(test, before=THREE)


def test_deletions_that_were_compacted_away_are_found_by_listing() -> None:
    async def test(client: MemoryClient, recorder: Recorder, syncer: Syncer) -> None:
        await recorder.until_in_sync()
        await client.delete("/a/1")
        client.store.transact(Txn(success=[Put("/a/3", b"3")]))
        client.store.compact(client.store.revision)
        await recorder.until(lambda: recorder.state == {"/a/2": b"2", "/a/3": b"3"})

    run(test, before=THREE)


def test_another_store_is_read_anew_although_its_revisions_look_alike() -> None:
    async def test(client: MemoryClient, recorder: Recorder, syncer: Syncer) -> None:
        await recorder.until_in_sync()
        other = MemoryStore()
        other.transact(Txn(success=[Put("/a/1", b"other 1"), Put("/a/3", b"other 3")]))
        assert other.revision == client.store.revision
        client.store = other
        client.disconnect()
        await recorder.until(lambda: "/a/3" in recorder.state)
        await recorder.until_in_sync(2)
        assert recorder.state == {"/a/1": b"other 1", "/a/3": b"other 3"}

    run(test, before=THREE)


def test_a_store_that_was_set_back_is_read_anew() -> None:
    async def test(client: MemoryClient, recorder: Recorder, syncer: Syncer) -> None:
        for number in range(10):
            await client.put("/a/9", b"%d" % number)
        await recorder.until_in_sync()
        backup = MemoryStore()
        backup.store_id = client.store.store_id
        backup.transact(Txn(success=[Put("/a/1", b"old")]))
        client.store = backup
        client.disconnect()
        await recorder.until(lambda: recorder.state == {"/a/1": b"old"})
        await client.put("/a/1", b"newer")
        await recorder.until(lambda: recorder.state == {"/a/1": b"newer"})

    run(test, before=THREE)


class DeafClient(MemoryClient):
    """Its watches swallow what concerns some keys, as etcd's bugs did."""

    deaf_to: frozenset[str] = frozenset()

    async def watch(
        self, prefix: str, from_revision: int, *, store_id: str | None = None
    ) -> AsyncGenerator[Batch, None]:
        async for batch in super().watch(prefix, from_revision, store_id=store_id):
            heard = [event for event in batch.events if event.key not in self.deaf_to]
            yield Batch(heard, batch.revision)


@pytest.mark.parametrize("lost", ["put", "new", "delete"])
def test_what_the_watch_lost_is_repaired_and_counted(lost: str) -> None:
    client = DeafClient()
    client.deaf_to = frozenset(["/a/1", "/a/3"])

    async def test(client: MemoryClient, recorder: Recorder, syncer: Syncer) -> None:
        await recorder.until_in_sync()
        expected = {"/a/1": b"1", "/a/2": b"2"}
        if lost == "put":
            await client.put("/a/1", b"changed")
            expected["/a/1"] = b"changed"
        elif lost == "new":
            await client.put("/a/3", b"3")
            expected["/a/3"] = b"3"
        else:
            await client.delete("/a/1")
            del expected["/a/1"]
        await recorder.until(lambda: recorder.state == expected)
        assert syncer.statistics().repairs == 1
        assert len(recorder.updates) == 3, "only the lost key is delivered again"

    run(test, client=client, before=THREE, timing=QUICK)


def test_a_busy_and_sound_watch_needs_no_repair() -> None:
    async def test(client: MemoryClient, recorder: Recorder, syncer: Syncer) -> None:
        await recorder.until_in_sync()
        for number in range(300):
            key = f"/a/{number % 7}"
            await client.put(key, b"%d" % number)
            if number % 3 == 0:
                await client.delete(key)
            await asyncio.sleep(0.001)
        assert syncer.statistics().comparisons > 3
        assert syncer.statistics().repairs == 0
        assert syncer.statistics().listings == 1

    run(test, timing=QUICK)


def test_while_the_revision_stands_still_nothing_is_listed() -> None:
    async def test(client: MemoryClient, recorder: Recorder, syncer: Syncer) -> None:
        await recorder.until_in_sync()
        await asyncio.sleep(0.15)
        assert syncer.statistics().comparisons == 0

    run(test, before=THREE, timing=QUICK)


def test_a_delivery_that_was_cut_off_is_made_up_for() -> None:
    """The sink may have taken a key that is deleted before the next listing."""

    async def test(client: MemoryClient, recorder: Recorder, syncer: Syncer) -> None:
        await recorder.until_in_sync()
        taken = recorder.on_updates

        async def take_and_hang(updates: Sequence[Update]) -> None:
            await taken(updates)
            await asyncio.Event().wait()

        recorder.on_updates = take_and_hang  # type: ignore[method-assign]
        await client.put("/a/3", b"3")
        await recorder.until(lambda: "/a/3" in recorder.state)
        recorder.on_updates = taken  # type: ignore[method-assign]
        await client.put("/b/2", b"wakes the other watch")
        client.store.transact(Txn(success=[Put("/a/2", b"changed")]))
        await client.delete("/a/3")
        client.store.compact(client.store.revision)
        client.disconnect()  # the watch of /b/ ends, and takes the hanging one along
        await recorder.until(lambda: recorder.state.get("/a/2") == b"changed")
        await recorder.until(lambda: "/a/3" not in recorder.state)

    run(test, before=THREE, prefixes=["/a/", "/b/"])


def test_no_permission_at_the_start_is_told_and_later_survived() -> None:
    denied = True

    async def fault(moment: Literal["before", "after"], call: str) -> None:
        if denied and call == "list":
            raise Denied("no")

    client = MemoryClient(fault=fault)
    with pytest.raises(Denied):
        asyncio.run(Syncer(client, ["/a/"], Recorder(), NO_COMPARE).run())

    denied = False

    async def test(client: MemoryClient, recorder: Recorder, syncer: Syncer) -> None:
        nonlocal denied
        await recorder.until_in_sync()
        denied = True
        client.store.transact(Txn(success=[Put("/a/1", b"new")]))
        client.store.compact(client.store.revision)
        client.disconnect()
        await asyncio.sleep(0.02)
        assert recorder.state == {"/a/1": b"1", "/a/2": b"2"}
        denied = False
        await recorder.until(lambda: recorder.state["/a/1"] == b"new")

    run(test, client=client, before=THREE)


MANY = [Put(f"/a/{number:02}", b"%d" % number) for number in range(10)]


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "PAGE_ENTRIES", 3)


class Between(MemoryClient):
    """Something happens before the pages of these numbers."""

    def __init__(self, events: dict[int, Callable[[MemoryStore], None]]) -> None:
        super().__init__()
        self._events = events
        self._pages = 0

    async def page(
        self, prefix: str, *, after: str = "", revision: int | None = None, keys_only: bool = False
    ) -> Page:
        self._pages += 1
        if (event := self._events.get(self._pages)) is not None:
            event(self.store)
        return await super().page(prefix, after=after, revision=revision, keys_only=keys_only)


def fail(store: MemoryStore) -> None:
    raise Unavailable("down")


def compact(store: MemoryStore) -> None:
    store.transact(Txn(success=[Put("/a/05", b"new"), Delete("/a/00")]))
    store.compact(store.revision)


def replace_store(store: MemoryStore) -> None:
    store.store_id = "another"


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("event", [fail, compact, replace_store])
@pytest.mark.parametrize("page", [1, 2, 4])
def test_what_happens_between_pages_costs_another_listing_and_no_deletion(
    event: Callable[[MemoryStore], None], page: int
) -> None:
    async def test(client: MemoryClient, recorder: Recorder, syncer: Syncer) -> None:
        await recorder.until_in_sync()
        stored = {entry.key: entry.value for entry in client.store.entries("/a/")}
        assert recorder.state == stored
        gone = {update.key for update in recorder.updates if update.value is None}
        assert gone == (MANY_KEYS - stored.keys()) & {one.key for one in recorder.updates[:3]}

    run(test, before=MANY, client=Between({page: event}))


MANY_KEYS = {put.key for put in MANY}


@pytest.mark.usefixtures("small_pages")
def test_what_changes_between_pages_comes_by_the_watch() -> None:
    def change(store: MemoryStore) -> None:
        store.transact(Txn(success=[Put("/a/01", b"new"), Put("/a/99", b"new"), Delete("/a/08")]))

    async def test(client: MemoryClient, recorder: Recorder, syncer: Syncer) -> None:
        await recorder.until(lambda: recorder.state.get("/a/99") == b"new")
        assert recorder.state == {entry.key: entry.value for entry in client.store.entries("/a/")}
        assert syncer.statistics().listings == 1

    run(test, before=MANY, client=Between({3: change}))


@pytest.mark.usefixtures("small_pages")
def test_deletions_in_any_page_are_found_by_a_listing_in_pages() -> None:
    async def test(client: MemoryClient, recorder: Recorder, syncer: Syncer) -> None:
        await recorder.until_in_sync()
        deletions = [Delete("/a/00"), Delete("/a/04"), Delete("/a/05"), Delete("/a/09")]
        client.store.transact(Txn(success=[*deletions, Put("/a/99", b"new")]))
        client.store.compact(client.store.revision)
        client.disconnect()
        await recorder.until_in_sync(2)
        assert recorder.state == {entry.key: entry.value for entry in client.store.entries("/a/")}
        assert syncer.statistics().listings == 2

    run(test, before=MANY)
