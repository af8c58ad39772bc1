"""Who may act on a workload now, and how its steps are run and timed."""

import asyncio
import contextlib
import functools
import time
from asyncio import Future
from collections.abc import AsyncIterator, Callable
from typing import ParamSpec, TypeVar

from tortie.attach.requests import WorkloadKey

P = ParamSpec("P")
T = TypeVar("T")


class Turns:
    """One lock for each workload, for as long as somebody wants it."""

    def __init__(self) -> None:
        self._locks: dict[WorkloadKey, asyncio.Lock] = {}
        self._users: dict[WorkloadKey, int] = {}

    @contextlib.asynccontextmanager
    async def of(self, key: WorkloadKey) -> AsyncIterator[None]:
        lock = self._locks.setdefault(key, asyncio.Lock())
        self._users[key] = self._users.get(key, 0) + 1
        try:
            async with lock:
                yield
        finally:
            self._users[key] -= 1
            if not self._users[key]:
                del self._users[key], self._locks[key]


class Steps:
    """How long each step took, in order."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def done(self, step: str) -> None:
        now = time.monotonic()
        self.seconds[step] = round(now - self._last, 6)
        self._last = now


def begin_in_thread(call: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> "Future[T]":
    """Started when this returns, which a coroutine would not be; whoever begins it sees to its end.

    Cancelling the future ends nothing but the knowledge of it: `asyncio.shield` it.
    """
    work = functools.partial(call, *arguments, **named)
    return asyncio.get_running_loop().run_in_executor(None, work)


async def in_thread(call: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Run in a thread, and see it through even when cancelled.

    A step that went on by itself could make a link after its undoing.
    """
    work = begin_in_thread(call, *arguments, **named)
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait({work})
        raise
