"""Is this process alive, and is it ready? Asked, never polled.

A reporter says what state it is in when that changes, and marks when it
begins and ends a piece of work; nobody wakes up to say "still fine".
"""

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple


class Report(NamedTuple):
    name: str
    live: bool
    ready: bool
    detail: str


class Reporter:
    """One part of the process. Loop task only."""

    def __init__(self, name: str, stuck_after_seconds: float, clock: Callable[[], float]) -> None:
        self.name = name
        self._stuck_after_seconds = stuck_after_seconds
        self._clock = clock
        self._busy_since: float | None = None
        self._ready = False
        self._detail = "starting"

    def ready(self, detail: str = "") -> None:
        self._ready, self._detail = True, detail

    def not_ready(self, detail: str) -> None:
        self._ready, self._detail = False, detail

    def busy(self) -> None:
        """Work begins; if it does not end in time, the process is not live."""
        self._busy_since = self._clock()

    def idle(self) -> None:
        self._busy_since = None

    def report(self) -> Report:
        if self._busy_since is not None:
            busy_seconds = self._clock() - self._busy_since
            if busy_seconds > self._stuck_after_seconds:
                return Report(self.name, False, False, f"stuck for {busy_seconds:.0f} s")
        return Report(self.name, True, self._ready, self._detail)


class Health:
    """All reporters of a process.

    Args:
        stuck_after_seconds: by name of a reporter, in small letters, where it is
            to be another time than the reporter's own.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        stuck_after_seconds: Mapping[str, float] | None = None,
    ) -> None:
        self._clock = clock
        self._stuck_after_seconds = stuck_after_seconds or {}
        self._reporters: list[Reporter] = []

    def reporter(self, name: str, stuck_after_seconds: float = 90.0) -> Reporter:
        patience_seconds = self._stuck_after_seconds.get(name.lower(), stuck_after_seconds)
        reporter = Reporter(name, patience_seconds, self._clock)
        self._reporters.append(reporter)
        return reporter

    def reports(self) -> list[Report]:
        return [reporter.report() for reporter in self._reporters]

    @property
    def live(self) -> bool:
        return all(report.live for report in self.reports())

    @property
    def ready(self) -> bool:
        return all(report.live and report.ready for report in self.reports())
