"""What only the in-memory store offers: a clock to turn, and failures on order."""

import asyncio
from contextlib import aclosing
from typing import Literal

import pytest

from tortie.datastore.client import (
    Delete,
    Event,
    Get,
    Operation,
    Put,
    Txn,
    absent,
    check_transaction,
)
from tortie.datastore.memory import MemoryClient, MemoryStore
from tortie.lib.errors import Conflict, Unavailable


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_leases_follow_the_clock_they_are_given() -> None:
    async def test() -> None:
        clock = Clock()
        store = MemoryStore(clock)
        client, other = MemoryClient(store), MemoryClient(store)
        lease = await client.grant_lease(10)
        revision = await client.put("/a", b"", lease)
        clock.seconds = 1000
        store.expire_leases()
        assert await other.get("/a") is not None, "its client keeps it alive"
        client.freeze()
        clock.seconds += 9.9
        store.expire_leases()
        assert await other.get("/a") is not None
        clock.seconds += 0.1
        store.expire_leases()
        async with aclosing(other.watch("/a", revision + 1)) as watch:
            assert (await anext(watch)).events == [Event("/a", None, revision + 1)]
        await client.revision()
        assert lease.lost.is_set()

    asyncio.run(test())


def test_a_write_can_fail_before_or_after_it_happened() -> None:
    moments: list[tuple[str, str]] = []
    fail: Literal["before", "after", "never"] = "never"

    async def fault(moment: Literal["before", "after"], call: str) -> None:
        moments.append((moment, call))
        if moment == fail:
            raise Unavailable("on order", maybe_applied=moment == "after")

    async def test() -> None:
        nonlocal fail
        client = MemoryClient(fault=fault)
        await client.put("/a", b"1")
        assert moments == [("before", "transact"), ("after", "transact")]
        fail = "before"
        with pytest.raises(Unavailable) as caught:
            await client.put("/a", b"2")
        assert not caught.value.maybe_applied
        assert client.store.revision == 2
        fail = "after"
        with pytest.raises(Unavailable) as caught:
            await client.put("/a", b"3")
        assert caught.value.maybe_applied
        assert client.store.revision == 3

    asyncio.run(test())


def test_another_writer_can_come_in_between() -> None:
    store = MemoryStore()
    rival = MemoryClient(store)

    async def fault(moment: Literal["before", "after"], call: str) -> None:
        if (moment, call) == ("before", "transact"):
            await rival.put("/a", b"rival")

    async def test() -> None:
        revision = await rival.put("/a", b"1")
        with pytest.raises(Conflict):
            await MemoryClient(store, fault).update("/a", b"2", mod_revision=revision)

    asyncio.run(test())


def test_the_checks_leave_a_large_but_legal_transaction_alone() -> None:

    keys = [f"/{number}" for number in range(128)]
    puts = [Put(key, bytes(10_000)) for key in keys]
    deletes: list[Operation] = [Delete(keys[0]), Delete(keys[0]), Get(keys[0]), Get(keys[0])]
    check_transaction(Txn([absent(key) for key in keys], puts, deletes))
