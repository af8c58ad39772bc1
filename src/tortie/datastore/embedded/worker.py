"""A thread for work that may block: the disk's flush, another process's lock.

Not `concurrent.futures`: its threads are joined at exit, so a writer that is
stopped while it holds the file lock would keep every other process from
exiting. Ours is a daemon, and started only by the first job.
"""

import asyncio
import contextlib
import fcntl
import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

from tortie.lib.errors import Unavailable

T = TypeVar("T")


class _Job(NamedTuple):
    work: Callable[[], Any]
    future: "asyncio.Future[Any]"
    loop: asyncio.AbstractEventLoop


class Worker:
    """Runs jobs one after the other, oldest first.

    Args:
        lock_fd: take this file's exclusive `flock` around each job. The kernel
            hands it over at once, where SQLite's own busy handler sleeps for
            1 to 100 ms between attempts; it is free again when a holder dies.
    """

    def __init__(self, lock_fd: int | None = None) -> None:
        self._lock_fd = lock_fd
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    async def run(self, work: Callable[[], T], patience_seconds: float) -> T:
        """Run `work` in the thread and return what it returns.

        Raises:
            Unavailable: not done within `patience_seconds`. A job that has
                not got the lock by then is dropped, but one may slip through.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._main, daemon=True)
            self._thread.start()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._jobs.put(_Job(work, future, loop))
        try:
            async with asyncio.timeout(patience_seconds):
                return await future
        except TimeoutError:
            waited = f"the datastore file was busy for {patience_seconds} s"
            raise Unavailable(waited, maybe_applied=True) from None

    def stop(self) -> None:
        """Let the jobs that wait run, then end the thread. Does not wait for it."""
        self._jobs.put(None)

    def _main(self) -> None:
        while (job := self._jobs.get()) is not None:
            with self._locked():
                settle = _do(job)
            # After the unlock: whoever waits for the job may close the file next.
            with contextlib.suppress(RuntimeError):  # the loop may be closed by now
                job.loop.call_soon_threadsafe(settle)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        if self._lock_fd is None:
            yield
            return
        fcntl.flock(self._lock_fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._lock_fd, fcntl.LOCK_UN)


def _do(job: _Job) -> Callable[[], None]:
    """Run it unless nobody waits any more; what to tell the loop."""
    future = job.future
    if future.cancelled():
        return lambda: None
    try:
        result = job.work()
    except BaseException as error:  # noqa: BLE001  # belongs to the task that waits for it
        problem = error
        return lambda: None if future.done() else future.set_exception(problem)
    return lambda: None if future.done() else future.set_result(result)
