"""What could not be written to etcd is written later, by this process, until it succeeds.

Neutron has committed by then, and of most changes it ignores that a driver failed. Kept are ids
and no values: the write that succeeds is made of what the database says then. What was written
while a user waited is confirmed here too, a moment later (`writer`, round 4).
"""

import os
import threading
from collections.abc import Callable, Iterable
from typing import NamedTuple

from tortie.lib.backoff import Backoff

FIRST_SECONDS, LONGEST_SECONDS = 1.0, 30.0

Place = tuple[str, str]
"""Host and device: where a port's endpoint is, or was."""


class Task(NamedTuple):
    kind: str
    """`port`, `security_group` or `subnet`."""
    id: str


class Repair:
    """
    Args:
        write: brings one object to what the database says; raises for as long as it fails.
        log: of what went wrong.
    """

    def __init__(
        self,
        write: Callable[[Task, frozenset[Place]], None],
        log: Callable[[str, Exception], None],
    ) -> None:
        self._write = write
        self._log = log
        self._start_anew()
        os.register_at_fork(after_in_child=self._start_anew)

    def _start_anew(self) -> None:
        """A child of a fork has neither the thread nor whoever held the lock; its parent goes on
        with what is to be done."""
        self._lock = threading.Lock()
        self._tasks: dict[Task, frozenset[Place]] = {}
        self._running = False

    def add(self, task: Task, places: Iterable[Place] = ()) -> None:
        """Try it again, soon. Places are gathered: all that were ever named."""
        with self._lock:
            self._tasks[task] = self._tasks.get(task, frozenset()) | frozenset(places)
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, name="calico-repair", daemon=True).start()

    def _run(self) -> None:
        backoff = Backoff(FIRST_SECONDS, LONGEST_SECONDS)
        pause = threading.Event()  # nobody sets it
        while True:
            pause.wait(backoff.next_seconds())
            with self._lock:
                tasks, self._tasks = self._tasks, {}
                if not tasks:
                    self._running = False
                    return
            failed, last = 0, None
            for task, places in tasks.items():
                try:
                    self._write(task, places)
                except Exception as error:  # noqa: BLE001 - the database's errors too
                    failed, last = failed + 1, error
                    with self._lock:
                        self._tasks[task] = self._tasks.get(task, frozenset()) | places
            if last is not None:
                self._log(f"{failed} objects are still not written to etcd", last)
            else:
                backoff.reset()
