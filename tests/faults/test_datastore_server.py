"""Faults of one etcd under the parts that use it: D6, D9, D11, D13, D16 of the catalogue."""

import asyncio
import signal
import subprocess
import time
import tracemalloc
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import cast

import pytest
from tests.datastore.credentials import etcdctl
from tests.datastore.etcd_server import EtcdServer
from tests.unit.ipam.invariants import allocated, check

from tortie.datastore.client import Batch, Client, Put, Txn, absent, present
from tortie.datastore.etcd import EtcdClient, Login, Timing
from tortie.datastore.syncer import Status, Syncer, Update
from tortie.datastore.syncer import Timing as SyncerTiming
from tortie.ipam.allocator import Allocator
from tortie.lib.errors import Denied, NotFound, Unavailable
from tortie.lib.inbox import Inbox
from tortie.model.codec import encode
from tortie.model.keys import ResourceKey
from tortie.model.metadata import Metadata
from tortie.model.node import IPPool, IPPoolSpec

PREFIX = "/faults/"
QUICK = Timing(call=2.0)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EtcdServer]:
    made = EtcdServer(tmp_path / "etcd", ["--bcrypt-cost=4"], fsync=True).start()
    yield made
    made.kill()


def run(test: Callable[[], Awaitable[None]], patience: float = 50.0) -> None:
    async def main() -> None:
        async with asyncio.timeout(patience):
            await test()

    asyncio.run(main())


class Recorder:
    def __init__(self) -> None:
        self.state: dict[str, bytes] = {}
        self.removals: list[str] = []
        self.status = Status.CONNECTING

    async def on_updates(self, updates: Sequence[Update]) -> None:
        for update in updates:
            if update.value is None:
                self.removals.append(update.key)
                self.state.pop(update.key, None)
            else:
                self.state[update.key] = update.value

    def on_status(self, status: Status) -> None:
        self.status = status


async def until(holds: Callable[[], object], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.02)


class Swallowing:
    """A client whose watches lose every event of some keys, and say nothing about it."""

    def __init__(self, client: EtcdClient, lost: str) -> None:
        self._client = client
        self._lost = lost
        self.swallowed = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._client, name)

    async def watch(
        self, prefix: str, from_revision: int, *, store_id: str | None = None
    ) -> AsyncGenerator[Batch, None]:
        async with aclosing(self._client.watch(prefix, from_revision, store_id=store_id)) as watch:
            async for batch in watch:
                kept = [event for event in batch.events if self._lost not in event.key]
                self.swallowed += len(batch.events) - len(kept)
                yield Batch(kept, batch.revision)


def test_d6_a_watch_that_loses_events(server: EtcdServer) -> None:
    """A change and a deletion that no event told: repaired by the comparison, and counted."""

    async def test() -> None:
        writer = EtcdClient([server.endpoint], timing=QUICK)
        for name in ("lost-change", "lost-deletion", "told"):
            await writer.put(PREFIX + name, b"1")
        client = Swallowing(EtcdClient([server.endpoint], timing=QUICK), "lost")
        recorder = Recorder()
        timing = SyncerTiming(compare=1.0, grace=0.5)
        syncer = Syncer(cast(Client, client), [PREFIX], recorder, timing)
        task = asyncio.create_task(syncer.run())
        await until(lambda: recorder.status is Status.IN_SYNC)
        await writer.put(f"{PREFIX}lost-change", b"2")
        await writer.delete(f"{PREFIX}lost-deletion")
        await writer.put(f"{PREFIX}told", b"2")
        await until(lambda: recorder.state[f"{PREFIX}told"] == b"2")
        assert client.swallowed == 2
        assert recorder.state[f"{PREFIX}lost-change"] == b"1", "it cannot know yet"
        await until(lambda: recorder.state == {f"{PREFIX}lost-change": b"2", f"{PREFIX}told": b"2"})
        assert recorder.removals == [f"{PREFIX}lost-deletion"]
        assert syncer.statistics().repairs == 2
        task.cancel()
        await writer.close()

    run(test)


def test_d9_a_lease_that_ended_while_we_were_stopped(server: EtcdServer) -> None:
    """What it guarded is gone, the holder is told, and its late write changes nothing."""

    async def test() -> None:
        holder, other = (EtcdClient([server.endpoint], timing=QUICK) for _ in range(2))
        key = f"{PREFIX}turn"
        lease = await holder.grant_lease(2)
        await holder.transact(Txn([absent(key)], [Put(key, b"holder", lease.id)]))
        time.sleep(5)
        assert await other.get(key) is None, "the server did not wait"
        taken = await other.transact(Txn([absent(key)], [Put(key, b"other")]))
        assert taken.succeeded
        late = Txn([present(key)], [Put(key, b"late", lease.id)])
        with pytest.raises(NotFound, match="lease"):
            await holder.transact(late)
        await asyncio.wait_for(lease.lost.wait(), 5)
        entry = await other.get(key)
        assert entry is not None
        assert entry.value == b"other"
        await holder.close()
        await other.close()

    run(test)


def test_d11_a_disk_that_takes_seconds(server: EtcdServer) -> None:
    """Writes get no answer in time, and may have happened: no address goes to two."""
    impatient = Timing(call=0.7)
    handles = [f"handle-{number}" for number in range(6)]

    async def assign_all(client: EtcdClient) -> tuple[dict[str, str], int]:
        """Handle → address, and how many tries got no answer."""
        allocators = [Allocator(client, host) for host in ("h1", "h2")]
        unanswered = 0
        found: dict[str, str] = {}

        async def one(number: int, handle: str) -> None:
            nonlocal unanswered
            while handle not in found:
                try:
                    (address,) = await allocators[number % 2].assign([4], handle, {})
                    found[handle] = address.address_text
                except Unavailable:
                    unanswered += 1

        await asyncio.gather(*(one(number, handle) for number, handle in enumerate(handles)))
        return found, unanswered

    async def test() -> None:
        client = EtcdClient([server.endpoint], timing=impatient)
        key = ResourceKey("IPPool", "pool")
        pool = IPPool(metadata=Metadata(name="pool"), spec=IPPoolSpec(cidr="10.8.0.0/24"))
        await client.put(key.path, encode(key, pool))
        slow = subprocess.Popen(
            ["strace", "-f", "-qq", "-o", "/dev/null", "-p", str(server.process.pid),
             "-e", "trace=fdatasync", "-e", "inject=fdatasync:delay_enter=1500000"],
        )  # fmt: skip
        try:
            await asyncio.sleep(0.5)
            began = time.monotonic()
            assigning = asyncio.create_task(assign_all(client))
            await asyncio.sleep(6)
        finally:
            slow.send_signal(signal.SIGTERM)
            slow.wait()
        found, unanswered = await assigning
        assert unanswered > 0, f"nothing was slow in {time.monotonic() - began:.1f} s"
        assert len(set(found.values())) == len(handles)
        entries = {e.key: e.value for e in (await client.list("/calico/")).entries}
        assert check(entries) == []
        assert {handle: address for address, handle in allocated(entries).items()} == found
        await client.close()

    run(test)


def test_d13_a_permission_that_is_taken_away(server: EtcdServer) -> None:
    """What one may not read is not gone; when one may again, it goes on."""
    for words in (
        "user add root:secret-of-root", "user grant-role root root",
        "role add reader", f"role grant-permission reader --prefix=true read {PREFIX}",
        f"role grant-permission reader read {READABLE}",
        "user add felix:secret-of-felix", "user grant-role felix reader", "auth enable",
    ):  # fmt: skip
        etcdctl(server, *words.split())
    as_root = "--user=root:secret-of-root"

    async def test() -> None:
        root = EtcdClient([server.endpoint], login=Login("root", "secret-of-root"), timing=QUICK)
        felix = EtcdClient([server.endpoint], login=Login("felix", "secret-of-felix"), timing=QUICK)
        for number in range(5):
            await root.put(f"{PREFIX}{number}", b"1")
        recorder = Recorder()
        timing = SyncerTiming(compare=0.5, grace=0.1, backoff_limit=0.3)
        syncer = Syncer(felix, [PREFIX], recorder, timing)
        task = asyncio.create_task(syncer.run())
        await until(lambda: recorder.status is Status.IN_SYNC)
        etcdctl(server, as_root, "role", "revoke-permission", "reader", "--prefix=true", PREFIX)
        await root.put(f"{PREFIX}0", b"2")
        await until(lambda: syncer.statistics().interruptions > 2)
        with pytest.raises(Denied):
            await felix.list(PREFIX)
        assert len(recorder.state) == 5
        assert recorder.removals == []
        grant = ["role", "grant-permission", "reader", "--prefix=true", "read", PREFIX]
        etcdctl(server, as_root, *grant)
        await until(lambda: recorder.state[f"{PREFIX}0"] == b"2")
        await until(lambda: recorder.status is Status.IN_SYNC)
        assert recorder.removals == []
        assert not task.done()
        task.cancel()
        await root.close()
        await felix.close()

    run(test)


READABLE = ResourceKey("ClusterInformation", "default").path

MANY = 20_000
LIMIT = 500


def test_d16_many_keys_and_a_slow_reader(server: EtcdServer) -> None:
    """What waits is bounded, whoever is slow; of a key that changed often, the newest comes."""
    read_slowly(server, MANY)


def read_slowly(server: EtcdServer, many: int) -> None:
    """Of so many keys, which the test then holds itself."""

    class Bounded:
        def __init__(self) -> None:
            self.inbox: Inbox[str, bytes | None] = Inbox(LIMIT)
            self.status = Status.CONNECTING

        async def on_updates(self, updates: Sequence[Update]) -> None:
            for update in updates:
                await self.inbox.put(update.key, update.value)

        def on_status(self, status: Status) -> None:
            self.status = status

    async def test() -> None:
        client, writer = (EtcdClient([server.endpoint], timing=QUICK) for _ in range(2))
        for start in range(0, many, 100):
            keys = range(start, start + 100)
            await writer.transact(
                Txn(success=[Put(f"{PREFIX}{number:06}", bytes(200)) for number in keys])
            )
        sink = Bounded()
        state: dict[str, bytes | None] = {}
        task = asyncio.create_task(Syncer(client, [PREFIX], sink, SyncerTiming(None)).run())
        tracemalloc.start()
        largest = 0
        while len(state) < many:
            batch = await asyncio.wait_for(sink.inbox.take_all(), 20)
            largest = max(largest, len(batch))
            state.update(batch)
            await asyncio.sleep(0.002)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert largest == LIMIT, "it was the reader who was slow"
        # The state itself is 500 bytes a key; besides it, no more for many keys than for few.
        assert peak < (30 << 20) + 500 * many, f"{peak >> 20} MiB"
        await until(lambda: sink.status is Status.IN_SYNC)
        hot = f"{PREFIX}hot"
        for number in range(300):
            await writer.put(hot, b"%d" % number)
        await asyncio.sleep(0.3)
        batch = await sink.inbox.take_all()
        assert batch == {hot: b"299"}
        task.cancel()
        await client.close()
        await writer.close()

    run(test, patience=50.0 + many / 200)
