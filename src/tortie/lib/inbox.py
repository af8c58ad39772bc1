"""The one buffer in front of a loop: bounded, newest value per key."""

import asyncio
import time
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Inbox(Generic[K, V]):
    """Many writers, one reader; memory is bounded by keys, not by events.

    A writer of a new key waits while `limit` keys are pending; a newer
    value for a pending key replaces the old one at once. So a slow reader
    sees fewer, larger batches and never an old value after a new one.

    No lock: between a wake-up and the next await nothing else runs.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pending: dict[K, V] = {}
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._began = 0.0
        self.began = 0.0
        """Of the batch that was taken last: when its first entry came, on the monotonic clock."""

    async def put(self, key: K, value: V) -> None:
        while key not in self._pending and len(self._pending) >= self._limit:
            self._room.clear()
            await self._room.wait()
        self.put_now(key, value)

    def put_now(self, key: K, value: V) -> None:
        """Put without waiting: for events that are few and known (timers, links)."""
        if not self._pending:
            self._began = time.monotonic()
        self._pending[key] = value
        self._news.set()

    async def take_all(self) -> dict[K, V]:
        """Wait for at least one entry, then take everything, oldest key first."""
        await self._news.wait()
        self._news.clear()
        self._room.set()
        batch, self._pending = self._pending, {}
        self.began = self._began
        return batch

    def __len__(self) -> int:
        return len(self._pending)
