"""Routing moves between the agent and BIRD while packets flow: make before break.

Agent to BIRD: the agent goes on with its routes to other hosts until the
kernel has BIRD's for the same destinations (they have another metric, so both
can stand), or `PATIENCE_SECONDS` are over: some peers may never come.

BIRD to agent: BIRD goes on announcing for `OTHERS_SECONDS` after the agent's
routes are in, because other hosts hear of the change in their own time; then
it withdraws its routes and ends.

BIRD to itself, with another metric: it leaves the routes that it had under the
former one, for good; they are taken away when the new ones are there.
"""

import asyncio
import logging
import math
import time
from collections.abc import Hashable

from tortie.agent.status import Progress
from tortie.bgp.bird import Bird
from tortie.bgp.manager import BGPManager
from tortie.bgp.snapshot import Snapshot
from tortie.dataplane.dataplane import Dataplane
from tortie.desired.kinds import Kind
from tortie.kernel.rtnl.connection import Rtnl
from tortie.kernel.rtnl.route import TABLE_MAIN
from tortie.lib.errors import TortieError, Unavailable
from tortie.lib.ip import Network

log = logging.getLogger(__name__)

BIRD_PROTOCOL = 12
"""RTPROT_BIRD of include/uapi/linux/rtnetlink.h."""

PATIENCE_SECONDS = 60.0
OTHERS_SECONDS = 15.0


def has_remote_routes(rtnl: Rtnl, protocol: int) -> bool:
    """Whether an agent that routed by itself has left routes to other hosts."""
    found = rtnl.routes(table=TABLE_MAIN, protocol=protocol)
    return any(route.gateway is not None for route in found)


class ToBIRD:
    """A consumer of the loop's, after BGP: holds the agent's routes until BIRD has them."""

    def __init__(self, rtnl: Rtnl, dataplane: Dataplane) -> None:
        self._rtnl = rtnl
        self._dataplane = dataplane
        self._done = False
        self._give_up: float | None = None

    def on_update(self, kind: Kind, name: Hashable, value: object | None) -> None:
        """Nothing rests on single objects."""

    async def apply(self) -> None:
        """
        Raises:
            Unavailable: BIRD has not all of them yet; call again.
        """
        if self._done:
            return
        now = time.monotonic()
        if self._give_up is None:
            self._give_up = now + PATIENCE_SECONDS
        found = self._rtnl.routes(table=TABLE_MAIN, protocol=BIRD_PROTOCOL)
        missing = self._dataplane.remote_destinations() - {route.destination for route in found}
        if missing and now < self._give_up:
            raise Unavailable(f"{len(missing)} routes stay the agent's until BIRD has them")
        self._dataplane.stop_remote_routes()
        await self._dataplane.apply()
        self._done = True
        log.info("routes to other hosts are BIRD's now", extra={"fields": {"late": len(missing)}})


class FormerMetric:
    """A consumer of the loop's, after BGP: takes away what BIRD has left under another metric.

    Ours by BIRD's protocol number, by the source address that our configuration gives its routes,
    and by our pools: a BIRD of the administrator's may have the same source. Looked for at the
    start, and whenever BIRD is configured with another metric.
    """

    def __init__(self, rtnl: Rtnl, bgp: BGPManager) -> None:
        self._rtnl = rtnl
        self._bgp = bgp
        self._done: _Marks = {}
        self._give_up: float | None = None

    def on_update(self, kind: Kind, name: Hashable, value: object | None) -> None:
        """Nothing rests on single objects."""

    async def apply(self) -> None:
        """
        Raises:
            Unavailable: BIRD has not all of them anew yet; call again.
        """
        marks = _marks(self._bgp.configured)
        if marks == self._done:
            return
        now = time.monotonic()
        if self._give_up is None:
            self._give_up = now + PATIENCE_SECONDS
        found = self._rtnl.routes(table=TABLE_MAIN, protocol=BIRD_PROTOCOL)
        own = [one for one in found if one.source in marks]
        left = [
            one
            for one in own
            if one.metric != marks[one.source] and self._is_in_pool(one.destination)
        ]
        missing = {one.destination for one in left} - {
            one.destination for one in own if one.metric == marks[one.source]
        }
        if missing and now < self._give_up:
            raise Unavailable(f"BIRD has yet to write {len(missing)} routes with another metric")
        self._rtnl.delete_routes(left)
        self._done, self._give_up = marks, None
        if left:
            fields = {"routes": len(left), "late": len(missing)}
            log.info("routes of a former metric of BIRD's are gone", extra={"fields": fields})

    def _is_in_pool(self, destination: Network) -> bool:
        configured = self._bgp.configured
        return configured is not None and any(
            pool.contains(destination) for pool in configured.pools
        )


_Marks = dict[Network | None, int]
"""Source address → metric of BIRD's routes."""


def _marks(configured: Snapshot | None) -> _Marks:
    if configured is None:
        return {}
    metrics = ((configured.ipv4, configured.metric4), (configured.ipv6, configured.metric6))
    return {address: metric for address, metric in metrics if address is not None}


async def retire(bird: Bird, progress: Progress) -> None:
    """End a BIRD of former times, some time after our own routes are in."""
    await progress.wait(1, math.inf)
    await asyncio.sleep(OTHERS_SECONDS)
    try:
        await bird.retire()
    except TortieError as error:
        log.error("BIRD could not be ended, its routes may be left: %s", error)
