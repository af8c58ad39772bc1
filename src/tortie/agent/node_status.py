"""Keeps the CalicoNodeStatus objects of this host as current as each asks for.

Where there is none the task sleeps.
"""

import asyncio
import logging
import math
from datetime import UTC, datetime

import msgspec

from tortie.bgp.bird import Bird
from tortie.bgp.report import report
from tortie.datastore.resources import Resources
from tortie.lib.errors import TortieError, Unavailable
from tortie.model.keys import ResourceKey
from tortie.model.node_status import CalicoNodeStatus, CalicoNodeStatusStatus

log = logging.getLogger(__name__)

DEFAULT_PERIOD_SECONDS = 10


class NodeStatusReporter:
    """Loop task tells what is asked for; a task of its own asks BIRD and writes."""

    def __init__(self, host: str, resources: Resources, bird: Bird) -> None:
        self._host = host
        self._resources = resources
        self._bird = bird
        self._wanted: dict[str, CalicoNodeStatus] = {}
        self._due: dict[str, float] = {}
        """On the loop's clock; infinite: once was enough."""
        self._news = asyncio.Event()

    def on_resource(self, key: ResourceKey, value: object | None) -> None:
        """A resource as stored; our own writes come back here too and change nothing."""
        if key.kind != "CalicoNodeStatus":
            return
        before = self._wanted.pop(key.name, None)
        if not isinstance(value, CalicoNodeStatus) or value.spec.node != self._host:
            self._due.pop(key.name, None)
            return
        self._wanted[key.name] = value
        if before is None or before.spec != value.spec:
            self._due[key.name] = 0.0
            self._news.set()

    async def run(self) -> None:
        """For ever."""
        while True:
            now = asyncio.get_running_loop().time()
            for name in [name for name, due in self._due.items() if due <= now]:
                await self._write(name, now)
            due = min(self._due.values(), default=math.inf)
            self._news.clear()
            try:
                async with asyncio.timeout(None if due == math.inf else max(due - now, 0.1)):
                    await self._news.wait()
            except TimeoutError:
                pass

    async def _write(self, name: str, now: float) -> None:
        wanted = self._wanted[name]
        period = wanted.spec.update_period_seconds
        if period is None:
            period = DEFAULT_PERIOD_SECONDS
        self._due[name] = now + period if period else math.inf
        try:
            stored = (await self._resources.get(ResourceKey("CalicoNodeStatus", name))).resource
            status = await self._status(wanted)
            await self._resources.update(msgspec.structs.replace(stored, status=status))
        except TortieError as error:
            log.warning("CalicoNodeStatus(%s) not written: %s", name, error)
            self._due[name] = now + (period or DEFAULT_PERIOD_SECONDS)

    async def _status(self, wanted: CalicoNodeStatus) -> CalicoNodeStatusStatus:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        classes = wanted.spec.classes
        try:
            state = await self._bird.ask("show status")
            protocols = await self._bird.ask("show protocols all")
            routes = await self._bird.ask("show route") if "Routes" in classes else []
        except Unavailable:
            return report(classes, None, [], [], now)
        return report(classes, state, protocols, routes, now)
