"""What every back-end promises; the same tests on memory, embedded and a real etcd."""

import asyncio
import itertools
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, suppress
from pathlib import Path

import pytest
from tests.datastore.etcd_server import EtcdServer

from tortie.datastore.client import (
    Batch,
    Client,
    Compare,
    Delete,
    Entry,
    Event,
    Get,
    Put,
    Txn,
    absent,
    present,
    unchanged,
    value_is,
)
from tortie.datastore.embedded import EmbeddedClient
from tortie.datastore.memory import MemoryClient, MemoryStore
from tortie.lib.errors import (
    AlreadyExists,
    Compacted,
    Conflict,
    InvalidInput,
    NotFound,
    Unavailable,
)

PATIENCE_SECONDS = 15.0

Test = Callable[["Store"], Awaitable[None]]


class Store:
    """One datastore for one test: makes clients of it, and names keys."""

    def __init__(self, make: Callable[[], Client], prefix: str) -> None:
        self._make = make
        self._clients: list[Client] = []
        self.prefix = prefix

    def client(self) -> Client:
        self._clients.append(self._make())
        return self._clients[-1]

    def key(self, name: str) -> str:
        return self.prefix + name

    async def close(self) -> None:
        for client in self._clients:
            await client.close()


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    server = EtcdServer(tmp_path_factory.mktemp("etcd")).start()
    yield server
    server.kill()


_prefixes = (f"/contract/{number}/" for number in itertools.count())


@pytest.fixture(params=["memory", "embedded", "etcd"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Test], None]:
    """Runs a test's coroutine on a store of one kind."""
    if request.param == "memory":
        memory = MemoryStore()

        def make() -> Client:
            return MemoryClient(memory)

    elif request.param == "embedded":

        def make() -> Client:
            return EmbeddedClient(tmp_path / "store" / "datastore.db")

    else:
        from tortie.datastore.etcd import EtcdClient

        endpoint = request.getfixturevalue("etcd").endpoint

        def make() -> Client:
            return EtcdClient([endpoint])

    def run_test(test: Test) -> None:
        async def main() -> None:
            store = Store(make, next(_prefixes))
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await test(store)
            finally:
                await store.close()

        asyncio.run(main())

    return run_test


Run = Callable[[Test], None]


async def take(watch: AsyncGenerator[Batch, None], count: int) -> list[Event]:
    """The next `count` events, checking that revisions come whole and in order."""
    events: list[Event] = []
    last = 0
    async for batch in watch:
        revisions = [event.revision for event in batch.events]
        assert revisions == sorted(revisions)
        assert all(last < revision <= batch.revision for revision in revisions)
        last = batch.revision
        events += batch.events
        if len(events) >= count:
            break
    assert len(events) == count
    return events


def test_a_new_key_reads_back_with_its_revisions(run: Run) -> None:
    async def test(store: Store) -> None:
        client, key = store.client(), store.key("a")
        assert await client.get(key) is None
        before = await client.revision()
        created = await client.create(key, b"one")
        assert created == before + 1
        assert await client.get(key) == Entry(key, b"one", created, created, 1, 0)

    run(test)


def test_create_refuses_a_name_that_is_taken(run: Run) -> None:
    async def test(store: Store) -> None:
        client, key = store.client(), store.key("a")
        await client.create(key, b"one")
        with pytest.raises(AlreadyExists, match="a already exists"):
            await client.create(key, b"two")
        entry = await client.get(key)
        assert entry is not None
        assert entry.value == b"one"

    run(test)


def test_update_writes_over_the_version_read_only(run: Run) -> None:
    async def test(store: Store) -> None:
        client, key = store.client(), store.key("a")
        first = await client.create(key, b"one")
        second = await client.update(key, b"two", mod_revision=first)
        assert await client.get(key) == Entry(key, b"two", second, first, 2, 0)
        with pytest.raises(Conflict):
            await client.update(key, b"three", mod_revision=first)
        for never_written in (0, first):
            with pytest.raises(NotFound):
                await client.update(store.key("b"), b"", mod_revision=never_written)

    run(test)


def test_put_writes_whatever_is_there(run: Run) -> None:
    async def test(store: Store) -> None:
        client, key = store.client(), store.key("a")
        first = await client.put(key, b"")
        assert await client.get(key) == Entry(key, b"", first, first, 1, 0)
        second = await client.put(key, b"\x00\xff")
        assert await client.get(key) == Entry(key, b"\x00\xff", second, first, 2, 0)

    run(test)


def test_delete_with_and_without_a_version(run: Run) -> None:
    async def test(store: Store) -> None:
        client, key = store.client(), store.key("a")
        with pytest.raises(NotFound):
            await client.delete(key)
        first = await client.create(key, b"1")
        second = await client.put(key, b"2")
        with pytest.raises(Conflict):
            await client.delete(key, mod_revision=first)
        assert await client.delete(key, mod_revision=second) == second + 1
        with pytest.raises(NotFound):
            await client.delete(key, mod_revision=second)
        third = await client.create(key, b"3")
        assert await client.get(key) == Entry(key, b"3", third, third, 1, 0)
        assert await client.delete(key) == third + 1
        assert await client.get(key) is None

    run(test)


def test_a_list_holds_its_prefix_in_key_order_at_one_revision(run: Run) -> None:
    async def test(store: Store) -> None:
        client = store.client()
        for name in ("b/2", "a", "b/10", "c", "b", "b/ü"):
            await client.put(store.key(name), name.encode())
        listing = await client.list(store.key("b"))
        names = ["b", "b/10", "b/2", "b/ü"]
        assert [entry.key for entry in listing.entries] == [store.key(name) for name in names]
        assert [entry.value.decode() for entry in listing.entries] == names
        assert listing.revision == await client.revision()
        assert listing.store_id == (await client.list(store.key("none"))).store_id
        assert not (await client.list(store.key("none"))).entries

    run(test)


def test_an_empty_prefix_lists_everything(run: Run) -> None:
    async def test(store: Store) -> None:
        client = store.client()
        await client.put(store.key("a"), b"1")
        await client.put("plain", b"2")
        keys = [entry.key for entry in (await client.list("")).entries]
        assert {store.key("a"), "plain"} <= set(keys)
        await client.delete("plain")

    run(test)


def test_a_list_of_keys_only_leaves_values_empty(run: Run) -> None:
    async def test(store: Store) -> None:
        client = store.client()
        revision = await client.put(store.key("a"), b"long")
        await client.put(store.key("b"), b"gone")
        await client.delete(store.key("b"))
        listing = await client.list(store.prefix, keys_only=True)
        assert list(listing.entries) == [Entry(store.key("a"), b"", revision, revision, 1, 0)]

    run(test)


def test_a_list_of_the_past_shows_the_past(run: Run) -> None:
    async def test(store: Store) -> None:
        client = store.client()
        await client.put(store.key("a"), b"1")
        await client.put(store.key("b"), b"1")
        past = await client.list(store.prefix)
        await client.put(store.key("a"), b"2")
        await client.delete(store.key("b"))
        await client.put(store.key("c"), b"1")
        assert await client.list(store.prefix, revision=past.revision) == past
        with pytest.raises(Compacted):
            await client.list(store.prefix, revision=past.revision + 1000)

    run(test)


def test_a_list_larger_than_a_page_is_whole(run: Run) -> None:
    async def test(store: Store) -> None:
        client = store.client()
        names = [f"{number:05}" for number in range(2500)]
        for start in range(0, len(names), 100):
            puts = [Put(store.key(name), b"x" * 700) for name in names[start : start + 100]]
            await client.transact(Txn(success=puts))
        listing = await client.list(store.prefix)
        assert [entry.key for entry in listing.entries] == [store.key(name) for name in names]
        assert {len(entry.value) for entry in listing.entries} == {700}
        found: list[Entry] = []
        page = await client.page(store.prefix)
        while True:
            assert (page.revision, page.store_id) == (listing.revision, listing.store_id)
            found += page.entries
            if not page.more:
                break
            # What is written meanwhile is not among it.
            await client.put(store.key(f"{len(found):05}-new"), b"")
            await client.delete(found[-1].key)
            after = found[-1].key
            page = await client.page(store.prefix, after=after, revision=page.revision)
        assert found == list(listing.entries)
        assert not (await client.page(store.key("none"))).entries

    run(test)


def test_of_two_clients_that_swap_one_wins(run: Run) -> None:
    async def test(store: Store) -> None:
        clients, key = [store.client() for _ in range(4)], store.key("counter")
        await clients[0].create(key, b"0")

        async def count(client: Client, times: int) -> int:
            lost = 0
            while times:
                entry = await client.get(key)
                assert entry is not None
                await asyncio.sleep(0)
                with suppress(Conflict):
                    value = str(int(entry.value) + 1).encode()
                    await client.update(key, value, mod_revision=entry.mod_revision)
                    times -= 1
                    continue
                lost += 1
            return lost

        lost = await asyncio.gather(*(count(client, 10) for client in clients))
        entry = await clients[0].get(key)
        assert entry is not None
        assert entry.value == b"40"
        assert entry.version == 41
        assert sum(lost) > 0

    run(test)


def test_of_many_creates_at_once_one_succeeds(run: Run) -> None:
    async def test(store: Store) -> None:
        clients = [store.client() for _ in range(5)]
        creates = (client.create(store.key("a"), b"") for client in clients)
        results = await asyncio.gather(*creates, return_exceptions=True)
        refusals = [result for result in results if isinstance(result, AlreadyExists)]
        assert len(refusals) == 4

    run(test)


def test_a_transaction_writes_all_keys_at_one_revision(run: Run) -> None:
    async def test(store: Store) -> None:
        client = store.client()
        a, b, c = map(store.key, "abc")
        old = await client.put(c, b"old")
        result = await client.transact(
            Txn(
                [absent(a), unchanged(b, 0), present(c), unchanged(c, old), value_is(c, b"old")],
                [Put(a, b"1"), Get(a), Put(b, b"2"), Delete(c), Get(c), Delete(store.key("none"))],
                [Get(c)],
            )
        )
        assert result.succeeded
        assert result.revision == old + 1
        at = result.revision
        assert [response.deleted for response in result.responses] == [0, 0, 0, 1, 0, 0]
        assert result.responses[1].entry == Entry(a, b"1", at, at, 1, 0)
        assert result.responses[4].entry is None
        keys = [(entry.key, entry.mod_revision) for entry in (await client.list(a[:-1])).entries]
        assert keys == [(a, at), (b, at)]

    run(test)


def test_one_compare_that_fails_turns_the_whole_transaction(run: Run) -> None:
    async def test(store: Store) -> None:
        client = store.client()
        a, b = map(store.key, "ab")
        revision = await client.put(a, b"1")
        txn = Txn([present(a), present(b)], [Put(a, b"2")], [Get(a), Get(b)])
        result = await client.transact(txn)
        assert not result.succeeded
        assert result.revision == revision
        assert result.responses[0].entry == Entry(a, b"1", revision, revision, 1, 0)
        assert result.responses[1].entry is None
        other = await client.transact(Txn([absent(a)], [], [Put(b, b"else")]))
        assert (other.succeeded, other.revision) == (False, revision + 1)

    run(test)


def test_every_compare_is_judged_as_etcd_does(run: Run) -> None:
    async def test(store: Store) -> None:
        client = store.client()
        a, none = store.key("a"), store.key("none")
        revision = await client.put(a, b"m")
        lease = await client.grant_lease(60)
        await client.put(store.key("leased"), b"", lease)
        cases = [
            (Compare(a, "mod_revision", "==", revision), True),
            (Compare(a, "mod_revision", "!=", revision), False),
            (Compare(a, "mod_revision", "<", revision + 1), True),
            (Compare(a, "mod_revision", ">", revision), False),
            (Compare(a, "create_revision", "==", revision), True),
            (Compare(a, "version", "==", 1), True),
            (Compare(a, "version", "!=", 1), False),
            (Compare(a, "value", "==", b"m"), True),
            (Compare(a, "value", "!=", b"m"), False),
            (Compare(a, "value", "<", b"n"), True),
            (Compare(a, "value", ">", b"n"), False),
            (Compare(a, "lease", "==", 0), True),
            (Compare(store.key("leased"), "lease", "==", lease.id), True),
            (Compare(none, "mod_revision", "==", 0), True),
            (Compare(none, "version", ">", 0), False),
            (Compare(none, "lease", "==", 0), True),
            (Compare(none, "value", "==", b""), False),
            (Compare(none, "value", "!=", b"x"), False),
        ]
        for compare, expected in cases:
            result = await client.transact(Txn([compare]))
            assert result.succeeded == expected, compare

    run(test)


def test_what_no_store_can_hold_is_refused(run: Run) -> None:
    async def test(store: Store) -> None:
        client, a = store.client(), store.key("a")
        before = await client.revision()
        for txn in (
            Txn(success=[Put("", b"")]),
            Txn(success=[Put(a, b"1"), Put(a, b"2")]),
            Txn(otherwise=[Put(a, b"1"), Delete(a)]),
            Txn(success=[Get(store.key(str(number))) for number in range(129)]),
            Txn(success=[Put(a, bytes(1_600_000))]),
        ):
            with pytest.raises(InvalidInput):
                await client.transact(txn)
        with pytest.raises(InvalidInput):
            await client.get("")
        assert await client.revision() == before
        assert await client.put(a, bytes(1_400_000)) == before + 1

    run(test)


def test_a_watch_shows_changes_in_order_from_its_revision(run: Run) -> None:
    async def test(store: Store) -> None:
        client, other = store.client(), store.client()
        a, b = map(store.key, "ab")
        await client.put(a, b"before")
        start = (await client.list(store.prefix)).revision + 1
        r1 = await client.put(a, b"1")
        await client.put("/elsewhere", b"")
        r2 = (await client.transact(Txn(success=[Put(b, b"2"), Delete(a)]))).revision
        async with aclosing(other.watch(store.prefix, start)) as watch:
            assert await take(watch, 3) == [
                Event(a, b"1", r1),
                Event(b, b"2", r2),
                Event(a, None, r2),
            ]
            r3 = await client.put(a, b"")
            assert await take(watch, 1) == [Event(a, b"", r3)]

    run(test)


def test_a_watch_never_splits_a_revision(run: Run) -> None:
    async def test(store: Store) -> None:
        client, other = store.client(), store.client()
        start = await client.revision() + 1
        for _ in range(12):
            keys = [store.key(f"{number:03}") for number in range(100)]
            await client.transact(Txn(success=[Put(key, bytes(9000)) for key in keys]))
        seen = 0
        async with aclosing(other.watch(store.prefix, start)) as watch:
            async for batch in watch:
                assert len(batch.events) % 100 == 0
                seen += len(batch.events)
                if seen == 1200:
                    break

    run(test)


def test_several_watches_see_every_write_of_several_writers(run: Run) -> None:
    async def test(store: Store) -> None:
        clients = [store.client() for _ in range(3)]
        start = await clients[0].revision() + 1
        count = 30

        async def write(number: int) -> None:
            for step in range(count):
                await clients[number].put(store.key(f"{number}"), b"%d" % step)

        async def read(number: int) -> list[Event]:
            async with aclosing(clients[number].watch(store.prefix, start)) as watch:
                return await take(watch, 3 * count)

        reads = [asyncio.create_task(read(number)) for number in range(3)]
        await asyncio.gather(*(write(number) for number in range(3)))
        first, *others = await asyncio.gather(*reads)
        assert all(events == first for events in others)
        for number in range(3):
            values = [event.value for event in first if event.key == store.key(f"{number}")]
            assert values == [b"%d" % step for step in range(count)]

    run(test)


def test_a_watch_of_compacted_history_says_so(run: Run) -> None:
    async def test(store: Store) -> None:
        client, key = store.client(), store.key("a")
        start = await client.put(key, b"1")
        for _ in range(3):
            last = await client.put(key, b"2")
        await client.compact(last)
        with pytest.raises(Compacted) as caught:
            async with aclosing(client.watch(store.prefix, start)) as watch:
                await take(watch, 1)
        assert caught.value.revision == last
        with pytest.raises(Compacted):
            await client.list(store.prefix, revision=start)
        assert [entry.value for entry in (await client.list(store.prefix)).entries] == [b"2"]
        async with aclosing(client.watch(store.prefix, last + 1)) as watch:
            after = await client.put(key, b"3")
            assert await take(watch, 1) == [Event(key, b"3", after)]

    run(test)


def test_there_is_nothing_before_the_first_revision(run: Run) -> None:
    async def test(store: Store) -> None:
        client = store.client()
        for revision in (0, -5):
            with pytest.raises(Compacted):
                async with aclosing(client.watch(store.prefix, revision)) as watch:
                    await anext(watch)

    run(test)


def test_a_watch_beyond_the_newest_revision_means_another_history(run: Run) -> None:
    """As after a restore from backup: waiting there would lose everything until then."""

    async def test(store: Store) -> None:
        client = store.client()
        newest = await client.revision()
        with pytest.raises(Compacted):
            async with aclosing(client.watch(store.prefix, newest + 100)) as watch:
                await anext(watch)

    run(test)


def test_a_watch_of_another_store_means_another_history(run: Run) -> None:
    async def test(store: Store) -> None:
        client = store.client()
        newest = await client.revision()
        with pytest.raises(Compacted):
            async with aclosing(client.watch(store.prefix, newest + 1, store_id="other")) as watch:
                await anext(watch)

    run(test)


def test_a_revoked_lease_takes_its_keys_along(run: Run) -> None:
    async def test(store: Store) -> None:
        client, other = store.client(), store.client()
        a, b, c = map(store.key, "abc")
        lease = await client.grant_lease(60)
        await client.create(a, b"", lease)
        await client.put(b, b"", lease)
        revision = await client.put(b, b"without")  # takes it off the lease
        await client.put(c, b"", lease)
        entry = await other.get(a)
        assert entry is not None
        assert entry.lease == lease.id
        async with aclosing(other.watch(store.prefix, revision + 2)) as watch:
            await client.revoke(lease)
            assert lease.lost.is_set()
            events = await take(watch, 2)
        assert [event[:2] for event in events] == [(a, None), (c, None)]
        assert events[0].revision == events[1].revision
        assert [entry.key for entry in (await other.list(store.prefix)).entries] == [b]
        await client.revoke(lease)
        with pytest.raises(NotFound):
            await client.put(a, b"", lease)

    run(test)


def test_a_lease_lives_as_long_as_its_client(run: Run) -> None:
    async def test(store: Store) -> None:
        client, other = store.client(), store.client()
        key = store.key("alive")
        lease = await client.grant_lease(2)
        revision = await client.create(key, b"", lease)
        await asyncio.sleep(2.6)
        assert await other.get(key) is not None
        assert not lease.lost.is_set()
        await client.close()
        async with aclosing(other.watch(key, revision + 1)) as watch, asyncio.timeout(8):
            assert [event[:2] for event in await take(watch, 1)] == [(key, None)]
        assert await other.get(key) is None

    run(test)


def test_a_closed_client_is_unavailable(run: Run) -> None:
    async def test(store: Store) -> None:
        client, other = store.client(), store.client()
        start = await client.revision() + 1

        async def wait() -> None:
            async with aclosing(client.watch(store.prefix, start)) as watch:
                await anext(watch)

        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0.2)
        await client.close()
        with pytest.raises(Unavailable):
            await waiting
        with pytest.raises(Unavailable):
            await client.get(store.key("a"))
        await client.close()
        await other.put(store.key("a"), b"")

    run(test)
