"""The agent's one loop: take what arrived, compute, write the kernel, say how far we are.

While the datastore says that it is not ready (`datastoreReady` of ClusterInformation, as
during a migration) nothing new is taken up: what the kernel has stays, and stays repaired.
What arrives meanwhile waits in the graph. A fresh agent then touches nothing at all.

This task alone touches the graph, the dataplane and BGP. Everything that
happens elsewhere (datastore, links, timers) comes as an entry of the inbox.
"""

import asyncio
import logging
import time
from collections.abc import Hashable, Mapping
from typing import NamedTuple, Protocol

from tortie.agent.ingest import (
    AUDIT,
    CONNECTIONS,
    IN_SYNC,
    READY_FLAG,
    AgentInbox,
    Arrived,
    Signal,
    is_ready,
)
from tortie.agent.status import Progress
from tortie.calc.graph import Graph
from tortie.desired.kinds import Kind
from tortie.kernel.rtnl.monitor import Event
from tortie.lib import memory
from tortie.lib.backoff import Backoff
from tortie.lib.errors import TortieError
from tortie.lib.health import Reporter
from tortie.lib.metrics import SIZES, Histogram
from tortie.model.keys import AffinityKey, Key, ResourceKey

log = logging.getLogger(__name__)

TURN_UPDATES = 1_000
"""After so many updates, or `TURN_SECONDS`, others get a turn (keep-alive, health)."""
TURN_SECONDS = 0.05

FAILURES_BEFORE_GIVING_UP = 10
"""In a row; then a restart and its resync are the better repair."""


_HELD = "the datastore is not ready: datastoreReady of ClusterInformation default is not true"


class Consumer(Protocol):
    """Turns desired state into something outside: the dataplane, BGP."""

    def on_update(self, kind: Kind, name: Hashable, value: object | None) -> None: ...

    async def apply(self) -> None:
        """
        Raises:
            TortieError: what was not done stays pending; call again.
        """
        ...


class Dataplane(Consumer, Protocol):
    def on_link_event(self, event: Event) -> None: ...

    async def resync(self) -> None:
        """Compare all that is ours with the kernel, and apply. Raises as `apply`."""
        ...

    @property
    def has_work(self) -> bool:
        """Would an `apply` now do anything?"""
        ...

    @property
    def is_cutting(self) -> bool:
        """Connections that policy denies by now are still there; another `apply` is to come."""
        ...

    @property
    def refused(self) -> Mapping[str, str]:
        """Objects that are closed because the kernel does not take them, and what it said."""
        ...

    @property
    def retry_seconds(self) -> float | None:
        """After a good `apply`: when it wants another one, though nothing changes."""
        ...


class SettingsWatch(Protocol):
    """Knows which resources are settings of this agent."""

    def on_resource(self, key: ResourceKey, value: object | None) -> None: ...

    def verify(self) -> None:
        """
        Raises:
            Restart: they are no longer those that this agent started with.
        """
        ...


class Timings:
    """How long things took, since the start."""

    def __init__(self) -> None:
        self.enforced = Histogram()
        """From the arrival of a change to its being in the kernel; of several, the first's."""
        self.apply = Histogram()
        """Of the dataplane, after the first apply; and of those that failed as well."""
        self.calculation = Histogram()
        self.batch = Histogram(SIZES)
        """Changes of the datastore that were taken in at once."""
        self.first_apply_seconds: float | None = None


class Statistics(NamedTuple):
    turns: int
    """Times the loop woke up."""
    applies: int
    failures: int
    last_apply_ms: float


class Loop:
    """
    Args:
        consumers: the dataplane first: what may pass is settled before where it goes.
        settings: told of each resource as it arrives, for the few that are
            settings and not cluster state.
    """

    def __init__(
        self,
        inbox: AgentInbox,
        graph: Graph,
        dataplane: Dataplane,
        others: tuple[Consumer, ...],
        progress: Progress,
        health: Reporter,
        settings: SettingsWatch,
    ) -> None:
        self._inbox = inbox
        self._graph = graph
        self._dataplane = dataplane
        self._others = others
        self._progress = progress
        self._health = health
        self._settings = settings
        self._backoff = Backoff(0.1, 10.0)
        self._reported: dict[Key, tuple[str, ...]] = {}
        self._in_sync = False
        self._is_held = True
        """Not ready, or not known to be."""
        self._audit_due = False
        self._arrived_revision = 0
        self._turns = self._applies = self._failures = 0
        self._failures_in_a_row = 0
        self._last_apply_ms = 0.0
        self._waiting_since: float | None = None
        """When the oldest change that is not in the kernel arrived, on the monotonic clock."""
        self.timings = Timings()

    async def run(self) -> None:
        """For ever.

        Raises:
            TortieError: `FAILURES_BEFORE_GIVING_UP` applies in a row failed.
        """
        retry_seconds: float | None = None
        memory.begin_loading()
        while True:
            batch = await self._next_batch(retry_seconds)
            self._turns += 1
            self._health.busy()
            await self._take(batch)
            if self._in_sync and (retry_seconds is not None or self._has_work(batch)):
                retry_seconds = await self._apply()
            self._health.idle()

    def statistics(self) -> Statistics:
        return Statistics(self._turns, self._applies, self._failures, self._last_apply_ms)

    async def _next_batch(self, patience_seconds: float | None) -> Mapping[Hashable, object]:
        """What arrived; after `patience_seconds` nothing, so that a failed apply is tried again."""
        try:
            async with asyncio.timeout(patience_seconds):
                return await self._inbox.take_all()
        except TimeoutError:
            return {}

    def _has_work(self, batch: Mapping[Hashable, object]) -> bool:
        """A container that comes or goes is half a dozen events of links; few need an apply."""
        is_news = any(isinstance(entry, Arrived) or isinstance(key, Signal)
                      for key, entry in batch.items())  # fmt: skip
        return is_news or bool(self._others) or self._dataplane.has_work

    async def _take(self, batch: Mapping[Hashable, object]) -> None:
        began = turn_began = time.monotonic()
        changes = sum(isinstance(entry, Arrived) for entry in batch.values())
        if changes:
            self.timings.batch.observe(changes)
            if self._waiting_since is None:
                self._waiting_since = min(began, self._inbox.began)
        for count, (key, entry) in enumerate(batch.items(), start=1):
            self._take_one(key, entry)
            if count % TURN_UPDATES == 0 or time.monotonic() - turn_began > TURN_SECONDS:
                await asyncio.sleep(0)
                turn_began = time.monotonic()

    def _take_one(self, key: Hashable, entry: object) -> None:
        match key, entry:
            case (ResourceKey() | AffinityKey(), Arrived()):
                self._graph.on_update(key, entry.value)
                self._report_problems(key)
                if key == READY_FLAG:
                    self._on_ready_flag(entry.value)
                if isinstance(key, ResourceKey):
                    self._settings.on_resource(key, entry.value)
                self._arrived_revision = max(self._arrived_revision, entry.revision)
            case (Signal(), _) if key == IN_SYNC:
                self._in_sync = True
            case (Signal(), _) if key == AUDIT:
                self._audit_due = True
            case (Signal(), _) if key == CONNECTIONS:
                pass  # an apply is all it wants
            case _:
                self._dataplane.on_link_event(entry)  # type: ignore[arg-type]

    def _on_ready_flag(self, value: object | None) -> None:
        held = not is_ready(value)
        if held != self._is_held:
            if held:
                log.warning("the datastore is not ready; what is enforced stays as it is")
            else:
                log.info("the datastore is ready")
        self._is_held = held

    def _report_problems(self, key: Key) -> None:
        """Log, once for each change, what of a valid object cannot be enforced as written."""
        problems = self._graph.problems.get(key)
        if problems != self._reported.get(key):
            if problems is None:
                log.info("%s is enforced as written now", key)
                del self._reported[key]
            else:
                log.warning("%s: %s", key, "; ".join(problems))
                self._reported[key] = problems

    async def _apply(self) -> float | None:
        """Bring the change out; returns after how many seconds to try again, None if done.

        Raises:
            TortieError: the dataplane failed too often in a row.
            Restart: settings changed.
        """
        began = time.monotonic()
        if not self._is_held:
            self._settings.verify()
            self._graph.flush()
            self.timings.calculation.observe(time.monotonic() - began)
        elif not self._applies:
            self._health.not_ready(_HELD)
            return None
        failures = []
        computed = time.monotonic()
        try:
            if self._audit_due:
                await self._dataplane.resync()
            else:
                await self._dataplane.apply()
        except TortieError as error:
            failures.append(error)
            self._failures_in_a_row += 1
            if self._failures_in_a_row >= FAILURES_BEFORE_GIVING_UP:
                raise
        else:
            self._failures_in_a_row = 0
            self._audit_due = False
            if not self._is_held:
                if not self._dataplane.is_cutting:
                    self._progress.programmed(self._arrived_revision)
                self._note_enforced()
        self._note_applied(time.monotonic() - computed)
        # Routes by BGP may lag; that is no reason to hold back or give up enforcement.
        for consumer in () if self._is_held else self._others:
            try:
                await consumer.apply()
            except TortieError as error:
                failures.append(error)
        self._last_apply_ms = (time.monotonic() - began) * 1000
        return self._retry_after(failures)

    def _note_enforced(self) -> None:
        """All that has arrived is in the kernel. The first time is a start, and tells nothing."""
        if self._waiting_since is not None and self._applies:
            self.timings.enforced.observe(time.monotonic() - self._waiting_since)
        self._waiting_since = None

    def _note_applied(self, seconds: float) -> None:
        if self.timings.first_apply_seconds is None:
            self.timings.first_apply_seconds = seconds
        else:
            self.timings.apply.observe(seconds)

    def _retry_after(self, failures: list[TortieError]) -> float | None:
        if failures:
            self._failures += 1
            text = "; ".join(map(str, failures))
            self._health.not_ready(text)
            log.warning("apply failed, will try again: %s", text)
            return self._backoff.next_seconds()
        self._applies += 1
        self._backoff.reset()
        if self._is_held:
            self._health.not_ready(f"{_HELD}; enforced up to revision {self._progress.revision}")
            return self._dataplane.retry_seconds
        refused = self._dataplane.refused
        closed = f"; closed, for the kernel refuses it: {', '.join(refused)}" if refused else ""
        self._health.ready(f"enforced up to revision {self._arrived_revision}{closed}")
        if self._applies == 1:
            memory.settle()
        if log.isEnabledFor(logging.DEBUG):
            fields = {"revision": self._arrived_revision, "ms": round(self._last_apply_ms, 2)}
            log.debug("applied", extra={"fields": fields})
        return self._dataplane.retry_seconds
