"""What is to be looked at again, each key once at a time, failures later and later."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from tortie.lib.backoff import Backoff
from tortie.lib.errors import Conflict, TortieError

log = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)

WORKERS = 16
RETRY_FIRST_SECONDS, RETRY_LIMIT_SECONDS = 0.05, 60.0


class Queue(Generic[K]):
    """Bounded by keys: adding one that waits changes nothing, and one that is in work waits for
    that to end, so a key is never worked on twice at once.

    Args:
        work: brings one key up to date; a `TortieError` means later again.
    """

    def __init__(self, work: Callable[[K], Awaitable[None]], workers: int = WORKERS) -> None:
        self._work = work
        self._workers = workers
        self._waiting: dict[K, None] = {}
        self._busy: set[K] = set()
        self._again: set[K] = set()
        self._backoffs: dict[K, Backoff] = {}
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._news = asyncio.Semaphore(0)
        self._idle = asyncio.Event()
        self._idle.set()

    def add(self, key: K) -> None:
        if timer := self._timers.pop(key, None):
            timer.cancel()
        if key in self._busy:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting[key] = None
            self._idle.clear()
            self._news.release()

    def add_later(self, key: K, seconds: float) -> None:
        """Unless it is added before."""
        if key not in self._waiting and key not in self._timers:
            loop = asyncio.get_running_loop()
            self._timers[key] = loop.call_later(seconds, self.add, key)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._workers):
                tasks.create_task(self._serve())

    async def drained(self) -> None:
        """Wait until nothing waits and nothing is in work; what failed waits for its own time."""
        await self._idle.wait()

    async def _serve(self) -> None:
        while True:
            await self._news.acquire()
            key = next(iter(self._waiting))
            del self._waiting[key]
            self._busy.add(key)
            try:
                await self._work(key)
            except TortieError as error:
                self._failed(key, error)
            else:
                self._backoffs.pop(key, None)
            finally:
                self._busy.discard(key)
            if key in self._again:
                self._again.discard(key)
                self.add(key)
            if not self._waiting and not self._busy:
                self._idle.set()

    def _failed(self, key: K, error: TortieError) -> None:
        backoff = self._backoffs.get(key)
        if backoff is None:
            backoff = self._backoffs[key] = Backoff(RETRY_FIRST_SECONDS, RETRY_LIMIT_SECONDS)
            # A lost compare is daily business: the newer value is on its way to us.
            level = logging.DEBUG if isinstance(error, Conflict) else logging.WARNING
            log.log(level, "%s: %s; will try again", key, error)
        if key not in self._again:
            self.add_later(key, backoff.next_seconds())
