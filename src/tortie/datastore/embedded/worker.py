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


class _Outcome(NamedTuple):
    result: Any = None
    problem: BaseException | None = None


class Worker:
    """Runs jobs one after the other, oldest first.

    Args:
        lock_fd: take this file's exclusive `flock` around each job. The kernel
            hands it over at once, where SQLite's own busy handler sleeps for
            1 to 100 ms between attempts; it is free again when a holder dies.
        finish: runs after the jobs that were waiting together, without the
            lock, and before anybody learns that they are done.
        tidy: runs after that, when nobody waits for it.
    """

    def __init__(
        self,
        lock_fd: int | None = None,
        finish: Callable[[], None] = lambda: None,
        tidy: Callable[[], None] = lambda: None,
    ) -> None:
        self._finish = finish
        self._tidy = tidy
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
        while jobs := self._waiting_jobs():
            done = []
            for job in jobs:
                with self._locked():
                    done.append((job, _do(job)))
            problem = self._problem_of_finish()
            for job, outcome in done:
                # Now that nothing is locked: whoever waits for the job may close the file next.
                with contextlib.suppress(RuntimeError):  # the loop may be closed by now
                    job.loop.call_soon_threadsafe(_settle, job.future, problem or outcome)
            self._tidy()

    def _waiting_jobs(self) -> list[_Job]:
        """What waits now, or else the next; empty when it is time to stop."""
        jobs: list[_Job] = []
        while not jobs or not self._jobs.empty():
            job = self._jobs.get()
            if job is None:
                self._jobs.put(None)  # for the next round
                break
            jobs.append(job)
        return jobs

    def _problem_of_finish(self) -> _Outcome | None:
        try:
            self._finish()
        except OSError as error:
            problem = Unavailable(f"the datastore file: {error.strerror}", maybe_applied=True)
            return _Outcome(problem=problem)
        return None

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


def _do(job: _Job) -> _Outcome:
    """Run it unless nobody waits any more."""
    if job.future.cancelled():
        return _Outcome()
    try:
        return _Outcome(job.work())
    except BaseException as error:  # noqa: BLE001  # belongs to the task that waits for it
        return _Outcome(problem=error)


def _settle(future: "asyncio.Future[Any]", outcome: _Outcome) -> None:
    if future.done():
        return
    if outcome.problem is not None:
        future.set_exception(outcome.problem)
    else:
        future.set_result(outcome.result)
