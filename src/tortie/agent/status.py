"""What comes back: how far this host has enforced what the datastore says.

`Progress` answers "is revision N in the kernel?" for those who wait for it.
`StatusReporter` writes Calico's status keys: one with a lease that shows the
agent is alive, and one without that says when it was last heard of.
"""

import asyncio
import logging
import time
from datetime import UTC, datetime

import msgspec

from tortie.datastore.client import Client, Lease, Put, Txn
from tortie.lib.errors import TortieError, Unavailable
from tortie.model.keys import HostStatusKey

log = logging.getLogger(__name__)


class Progress:
    """The newest datastore revision whose effect is in the kernel. Loop task only."""

    def __init__(self) -> None:
        self.revision = 0
        self._waiting: dict[asyncio.Future[None], int] = {}

    def programmed(self, revision: int) -> None:
        """Everything up to `revision` that concerns this host is enforced."""
        self.revision = max(self.revision, revision)
        for future, wanted in tuple(self._waiting.items()):
            if wanted <= self.revision:
                del self._waiting[future]
                if not future.done():
                    future.set_result(None)

    async def wait(self, revision: int, timeout_seconds: float) -> None:
        """
        Raises:
            Unavailable: not enforced in time.
        """
        if revision <= self.revision:
            return
        future = asyncio.get_running_loop().create_future()
        self._waiting[future] = revision
        try:
            async with asyncio.timeout(timeout_seconds):
                await future
        except TimeoutError:
            raise Unavailable(
                f"revision {revision} is not enforced after {timeout_seconds:g} s "
                f"(enforced: {self.revision}); see the agent's log and /readiness"
            ) from None
        finally:
            self._waiting.pop(future, None)


class HostStatus(msgspec.Struct):
    time: str
    uptime: float
    first_update: bool


class StatusReporter:
    """Writes our status keys. Fails softly: the next report tries again."""

    def __init__(
        self,
        client: Client,
        host: str,
        region: str,
        interval_seconds: float,
        ttl_seconds: float,
    ) -> None:
        self._client = client
        self._host = host
        self._region = region
        self._interval_seconds = interval_seconds
        self._ttl_seconds = ttl_seconds
        self._started = time.monotonic()
        self._lease: Lease | None = None

    async def run(self) -> None:
        """Report for ever; `ttl_seconds` after our death the live key is gone."""
        first = True
        while True:
            try:
                await self.report(first)
                first = False
            except TortieError as error:
                log.warning("status not written: %s", error)
                self._lease = None
            await asyncio.sleep(self._interval_seconds)

    async def report(self, first: bool) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        uptime_seconds = round(time.monotonic() - self._started, 3)
        value = msgspec.json.encode(HostStatus(now, uptime_seconds, first))
        if self._lease is None or self._lease.lost.is_set():
            self._lease = await self._client.grant_lease(round(self._ttl_seconds))
        # Both at once: each commit wakes whoever watches the embedded datastore.
        alive = Put(HostStatusKey(self._host, self._region).path, value, self._lease.id)
        last = Put(HostStatusKey(self._host, self._region, last=True).path, value)
        await self._client.transact(Txn(success=(alive, last)))
