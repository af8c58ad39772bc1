"""Faults of an etcd of three members: D2, D3, D4 of the catalogue."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress

import pytest
from tests.faults.etcd_cluster import EtcdCluster, etcd_cluster

from tortie.datastore.etcd import EtcdClient, Timing
from tortie.datastore.syncer import Status, Syncer, Update
from tortie.datastore.syncer import Timing as SyncerTiming
from tortie.lib.errors import Conflict, NotFound, Unavailable

PREFIX = "/faults/"
QUICK = Timing(call=2.0, keep_alive=0.5, keep_alive_timeout=1.0)
NOTICED_SECONDS = 3.0
"""What `QUICK` takes to notice; with the usual timing it is ten times as long."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    with etcd_cluster(tmp_path_factory.mktemp("cluster")) as made:
        yield made


class History:
    """What a syncer delivered, key by key, in its order."""

    def __init__(self) -> None:
        self.state: dict[str, bytes] = {}
        self.revisions: dict[str, list[int]] = defaultdict(list)
        self.removals: list[str] = []
        self.status = Status.CONNECTING

    async def on_updates(self, updates: Sequence[Update]) -> None:
        for update in updates:
            self.revisions[update.key].append(update.revision)
            if update.value is None:
                self.removals.append(update.key)
                self.state.pop(update.key, None)
            else:
                self.state[update.key] = update.value

    def on_status(self, status: Status) -> None:
        self.status = status

    def check(self) -> None:
        """No key ever went back in time, or came twice in the same version."""
        for key, revisions in self.revisions.items():
            assert revisions == sorted(set(revisions)), (key, revisions)

    async def until_in_sync(self) -> None:
        while self.status is not Status.IN_SYNC:
            await asyncio.sleep(0.02)


def synced(client: EtcdClient) -> tuple[History, Syncer, "asyncio.Task[None]"]:
    history = History()
    timing = SyncerTiming(compare=None, backoff_limit=0.5)
    syncer = Syncer(client, [PREFIX], history, timing)
    return history, syncer, asyncio.create_task(syncer.run())


async def written(client: EtcdClient, key: str, number: int) -> int:
    """Count `key` up to `number` by compare-and-swap, whatever gets lost on the way.

    A write that got no answer is looked at before it is tried again, so that no write can
    take place twice.
    """
    wanted = str(number).encode()
    while True:
        try:
            entry = await client.get(key)
            if entry is not None and entry.value == wanted:
                return entry.mod_revision
            if entry is None:
                return await client.create(key, wanted)
            return await client.update(key, wanted, mod_revision=entry.mod_revision)
        except (Unavailable, Conflict, NotFound):
            await asyncio.sleep(0.05)


def test_d2_the_leader_dies_again_and_again(cluster: EtcdCluster) -> None:
    """Nothing is lost and nothing comes twice, of what is written and of what is watched."""
    leaders_die(cluster)


def leaders_die(cluster: EtcdCluster, seconds: float = 0.0) -> int:
    """Three times, and again until `seconds` have passed; returns how often."""
    deaths = 0

    async def test() -> None:
        nonlocal deaths
        leader = await asyncio.to_thread(cluster.leader)
        endpoints = sorted(cluster.endpoints, key=lambda url: url != leader.endpoint)
        reader, writer = (EtcdClient(endpoints, timing=QUICK) for _ in range(2))
        with suppress(NotFound):  # of an earlier try
            await writer.delete(f"{PREFIX}counter")
        history, syncer, task = synced(reader)
        await history.until_in_sync()
        began, number = time.monotonic(), -1
        while (number := number + 1) % 15 or deaths < 3 or time.monotonic() - began < seconds:
            if number % 15 == 5:
                leader = await asyncio.to_thread(cluster.leader)
                leader.kill()
                deaths += 1
                revived = asyncio.create_task(revive_later(leader))
            await written(writer, f"{PREFIX}counter", number)
            await asyncio.sleep(0.01)
            if number % 15 == 14:
                await revived
        async with asyncio.timeout(10):
            while history.state.get(f"{PREFIX}counter") != b"%d" % (number - 1):
                await asyncio.sleep(0.05)
        history.check()
        assert history.removals == []
        entry = await writer.get(f"{PREFIX}counter")
        assert entry is not None
        assert entry.version == number, "each write took place once"
        assert syncer.statistics().interruptions >= 1, "the reader's own member died first"
        task.cancel()
        await reader.close()
        await writer.close()

    async def revive_later(member: object) -> None:
        await asyncio.sleep(1.5)
        for each in cluster.members:
            if each is member:
                await asyncio.to_thread(each.start)

    cluster.run(test, patience=seconds + 50.0)
    assert deaths >= 3
    return deaths


def test_d3_a_path_that_loses_everything(cluster: EtcdCluster) -> None:
    """No reset, no answer: noticed by the keep-alive, the next endpoint taken, nothing missed."""

    async def test() -> None:
        reader = EtcdClient(cluster.endpoints, timing=QUICK)
        writer = EtcdClient(cluster.endpoints[1:], timing=QUICK)
        history, syncer, task = synced(reader)
        await history.until_in_sync()
        await written(writer, f"{PREFIX}black-hole", 1)
        while f"{PREFIX}black-hole" not in history.state:
            await asyncio.sleep(0.02)
        cluster.cut('input iifname "e1"', 'output oifname "e1"')
        try:
            began = asyncio.get_running_loop().time()
            await written(writer, f"{PREFIX}black-hole", 2)
            while history.state[f"{PREFIX}black-hole"] != b"2":
                await asyncio.sleep(0.02)
            took = asyncio.get_running_loop().time() - began
            assert cluster.lost() > 0
        finally:
            cluster.heal()
        assert took < NOTICED_SECONDS + QUICK.call, took
        assert syncer.statistics().interruptions >= 1, "it was the reader's path"
        assert syncer.statistics().listings == 1, "it went on from where it was"
        history.check()
        task.cancel()
        await reader.close()
        await writer.close()

    cluster.run(test)


def test_d4_on_the_side_of_the_minority(cluster: EtcdCluster) -> None:
    """Who talks to a member that is cut off is told nothing rather than something old."""

    async def test() -> None:
        leader = await asyncio.to_thread(cluster.leader)
        others = [member for member in cluster.members if member is not leader]
        alone = EtcdClient([leader.endpoint], timing=QUICK)
        agent = EtcdClient([leader.endpoint, *(m.endpoint for m in others)], timing=QUICK)
        writer = EtcdClient([member.endpoint for member in others], timing=QUICK)
        key = f"{PREFIX}split"
        before = await written(alone, key, 1)
        history, syncer, task = synced(agent)
        await history.until_in_sync()
        port = f"e{cluster.members.index(leader) + 1}"
        cluster.cut(f'forward iifname "{port}"', f'forward oifname "{port}"')
        try:
            await written(writer, key, 2)
            assert cluster.lost() > 0
            for read in (alone.get(key), alone.list(PREFIX), alone.revision()):
                with pytest.raises(Unavailable):
                    await read  # 1, which is what it still has, would be a lie
            with pytest.raises(Unavailable):
                await alone.update(key, b"3", mod_revision=before)
            # A watch on its side is silent, until anything is asked over the same connection:
            # the comparison of every minute at the latest.
            entry = await agent.get(key)
            assert entry is not None
            assert entry.value == b"2", "it went to where the majority is"
            async with asyncio.timeout(10):
                while history.state[key] != b"2":
                    await asyncio.sleep(0.05)
        finally:
            cluster.heal()
        history.check()
        assert history.removals == []
        await written(alone, key, 2)
        entry = await alone.get(key)
        assert entry is not None
        assert entry.version == 2, "the majority's write, and none of the minority's"
        assert syncer.statistics().repairs == 0
        task.cancel()
        for client in (alone, agent, writer):
            await client.close()

    cluster.run(test)
