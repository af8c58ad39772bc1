"""Threads for what would hold up an event loop, on machines that may have none left."""

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger(__name__)


class SteadyExecutor(ThreadPoolExecutor):
    """An event loop's threads: one is there from the beginning, more come as they are needed.

    Where the machine refuses another thread, work waits for those that there are: slower,
    and no failure.
    """

    def __init__(self) -> None:
        super().__init__(thread_name_prefix="tortie")
        self._refused = 0
        """Threads that there were not, and that count as idle when what they were for is done."""
        self.submit(int).result()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        while self._refused and self._idle_semaphore.acquire(timeout=0):
            self._refused -= 1
        return super().submit(fn, *args, **kwargs)

    def _adjust_thread_count(self) -> None:
        # The standard library's hook: by now the work is queued, and stays queued if this
        # raises, so whoever asked for it would do it twice.
        try:
            super()._adjust_thread_count()
        except RuntimeError as error:
            if not self._threads:
                raise
            if not self._refused:
                log.warning("%s; work waits for the threads that there are", error)
            self._refused += 1
