"""The agent's own loop, link monitor and change listener around an arena's dataplane.

In a thread in the arena's namespace, without a datastore: tests tell the
dataplane by `host` before it starts, or by `call`.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from tests.attacks.arena import Arena

from tortie.agent import wiring
from tortie.agent.ingest import AUDIT, IN_SYNC, AgentInbox, Arrived
from tortie.agent.loop import Loop
from tortie.agent.ownership import Ownership
from tortie.agent.status import Progress
from tortie.calc.graph import Graph
from tortie.dataplane.driver.nftables import NftablesStatistics
from tortie.datastore.resources import key_of
from tortie.kernel.netns import enter
from tortie.kernel.nft.connection import Changes
from tortie.kernel.rtnl.monitor import Event, Monitor, Overflow
from tortie.lib.health import Health
from tortie.lib.inbox import Inbox
from tortie.model.keys import ResourceKey
from tortie.model.metadata import Metadata
from tortie.model.node import ClusterInformation, ClusterInformationSpec

T = TypeVar("T")

READY = ClusterInformation(
    kind="ClusterInformation",
    metadata=Metadata(name="default"),
    spec=ClusterInformationSpec(datastore_ready=True),
)
"""Agents take up what is stored only where this is."""


class _NoSettings:
    def on_resource(self, key: ResourceKey, value: object | None) -> None:
        pass

    def verify(self) -> None:
        pass


class Agent:
    def __init__(self, field: Arena, *, owned: bool, queue_bytes: int) -> None:
        self.field = field
        self.overflows = 0
        self.failure: BaseException | None = None
        self._owned = owned
        self._queue_bytes = queue_bytes
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._started.wait(10)

    def call(self, function: Callable[[], T]) -> T:
        """Run in the loop's thread, and let the agent apply what it changed."""

        async def run() -> T:
            result = function()
            self.inbox.put_now(IN_SYNC, None)
            return result

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)

    def ask(self, function: Callable[[], T]) -> T:
        """Look at what only the loop's thread may look at while it runs."""

        async def run() -> T:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)

    @property
    def nftables(self) -> NftablesStatistics:
        return self.ask(self.field.host.dataplane.statistics).nftables

    def audit(self) -> None:
        """What a timer does every minute."""
        self._loop.call_soon_threadsafe(self.inbox.put_now, AUDIT, None)

    @property
    def statistics(self) -> tuple[int, int]:
        """Turns and failures."""
        found = self._agent.statistics()
        return found.turns, found.failures

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()
        if self.failure is not None:
            raise self.failure

    def _run(self) -> None:
        with enter(self.field.namespace):
            try:
                asyncio.run(self._main())
            except asyncio.CancelledError:
                pass
            except BaseException as error:  # noqa: BLE001 - told by `stop`
                self.failure = error
            finally:
                self._started.set()

    async def _main(self) -> None:
        host = self.field.host
        self._loop = asyncio.get_running_loop()
        self.inbox: AgentInbox = Inbox(10_000)
        groups = wiring.listened_to(owned=self._owned)
        links = Monitor.open(self._on_link, groups=groups, queue_bytes=self._queue_bytes)
        changes = None if self._owned else Changes()
        kernel = wiring.Kernel(_NoOwnership, host.nft, host.rtnl, host.conntrack, links, changes)
        graph = Graph("h1", host.dataplane.on_update)
        self._agent = Loop(
            self.inbox,
            graph,
            host.dataplane,
            (),
            Progress(),
            Health().reporter("loop"),
            _NoSettings(),
        )
        links.start()
        wiring.watch_changes(kernel, self.inbox)
        self.inbox.put_now(key_of(READY), Arrived(READY, 0))
        self.inbox.put_now(IN_SYNC, None)
        self._task = asyncio.create_task(self._agent.run())
        self._started.set()
        try:
            await self._task
        finally:
            if changes is not None:
                self._loop.remove_reader(changes.fileno())
                changes.close()
            links.close()

    def _on_link(self, event: Event) -> None:
        self.overflows += isinstance(event, Overflow)
        wiring.put_event(self.inbox, event)


_NoOwnership: Ownership = None  # type: ignore[assignment]


@contextmanager
def running(field: Arena, *, owned: bool = False, queue_bytes: int = 1 << 20) -> Iterator[Agent]:
    """
    Args:
        owned: the tables are; nobody needs to listen for changes.
        queue_bytes: of link events, until they overflow.
    """
    agent = Agent(field, owned=owned, queue_bytes=queue_bytes)
    try:
        yield agent
    finally:
        agent.stop()
