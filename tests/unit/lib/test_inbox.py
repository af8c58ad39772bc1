"""The inbox: newest value per key, bounded by keys."""

import asyncio

import pytest

from tortie.lib.inbox import Inbox


def test_a_newer_value_replaces_an_older_one_in_its_place() -> None:
    async def run() -> dict[str, int]:
        inbox: Inbox[str, int] = Inbox(10)
        for key, value in [("a", 1), ("b", 2), ("a", 3)]:
            await inbox.put(key, value)
        return await inbox.take_all()

    assert list(asyncio.run(run()).items()) == [("a", 3), ("b", 2)]


def test_a_full_inbox_holds_back_new_keys_and_takes_newer_values() -> None:
    async def run() -> None:
        inbox: Inbox[str, int] = Inbox(1)
        await inbox.put("a", 1)
        writer = asyncio.create_task(inbox.put("b", 2))
        await asyncio.sleep(0)
        assert not writer.done()
        await asyncio.wait_for(inbox.put("a", 3), 1)
        assert await inbox.take_all() == {"a": 3}
        await asyncio.wait_for(writer, 1)
        assert await inbox.take_all() == {"b": 2}

    asyncio.run(run())


def test_taking_waits_for_an_entry() -> None:
    async def run() -> None:
        inbox: Inbox[str, int] = Inbox(1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(inbox.take_all(), 0.01)
        inbox.put_now("a", 1)
        assert await asyncio.wait_for(inbox.take_all(), 1) == {"a": 1}

    asyncio.run(run())
