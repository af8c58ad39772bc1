"""What happens to packets, from the kernel into the table of flows, and to whoever follows.

The kernel hands out logged packets by the batch, five times a second at most; connections that end
are read no more often. Nothing here wakes while nothing is logged.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from tortie.agent.flows import Connection, Counts, FlowKey, FlowTable
from tortie.dataplane.manager.seen import Seen
from tortie.kernel import conntrack, nflog

log = logging.getLogger(__name__)

ENDED_PAUSE_SECONDS = 1.5 * nflog.QUEUE_SECONDS
"""Before connections that have ended are read: a storm of them is read in bulk, and behind the
logged packets that began them."""

Change = tuple[FlowKey, Counts]
Follower = Callable[[list[Change]], None]


class Dataplane(Protocol):
    """The part that is needed here."""

    def see(self, logged: nflog.Packet) -> Seen | None: ...


class FlowLogStatistics(NamedTuple):
    packet_count: int
    """Logged packets that were read, since the start."""
    lost_count: int
    """Logged packets that were lost on the way here."""
    flow_count: int
    """In the table now."""
    uncounted: int
    """Packets for which the table had no room."""
    missed_endings: int
    """Times that ends of connections, and so what they had carried, were missed."""


class FlowLog:
    """
    Args:
        ended: connections that end; None where allowed packets are not logged.
        flows_now: the kernel's connection table; asked only by `refresh`.
    """

    def __init__(
        self,
        dataplane: Dataplane,
        table: FlowTable,
        logged: nflog.Nflog,
        ended: conntrack.Ended | None,
        flows_now: Callable[[], list[conntrack.Flow]],
    ) -> None:
        self._dataplane = dataplane
        self.table = table
        self._logged = logged
        self._ended = ended
        self._flows_now = flows_now
        self._followers: list[Follower] = []
        self._packet_count = 0
        self._stopped = False

    @property
    def sees_allowed(self) -> bool:
        """Whether packets that are let through are seen, too."""
        return self._ended is not None

    def start(self) -> None:
        """Listen, in the running loop."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._logged.fileno(), self._on_logged)
        if self._ended is not None:
            loop.add_reader(self._ended.fileno(), self._on_ended, self._ended)

    def stop(self) -> None:
        """Listen no more. Whoever opened the sockets closes them."""
        loop = asyncio.get_running_loop()
        self._stopped = True
        for source in (self._logged, self._ended):
            if source is not None:
                loop.remove_reader(source.fileno())

    def follow(self, follower: Follower) -> Callable[[], None]:
        """Have each change told. Returns how to end that."""
        self._followers.append(follower)
        return lambda: self._followers.remove(follower)

    def refresh(self) -> None:
        """Take in what connections have carried that have not ended."""
        if self._ended is not None and self.table.has_live:
            self._account(self._flows_now(), ended=False)

    def statistics(self) -> FlowLogStatistics:
        return FlowLogStatistics(
            packet_count=self._packet_count,
            lost_count=self._logged.lost_count,
            flow_count=len(self.table),
            uncounted=self.table.uncounted,
            missed_endings=self._ended.overflow_count if self._ended else 0,
        )

    def _on_logged(self) -> None:
        packets = self._logged.read()
        self._packet_count += len(packets)
        seen = (self._dataplane.see(packet) for packet in packets)
        self._tell([self.table.see(one) for one in seen if one is not None])

    def _on_ended(self, ended: conntrack.Ended) -> None:
        # Not at once: the packet that began the connection may still be on its way here.
        loop = asyncio.get_running_loop()
        loop.remove_reader(ended.fileno())
        loop.call_later(ENDED_PAUSE_SECONDS, self._read_ended, ended)

    def _read_ended(self, ended: conntrack.Ended) -> None:
        if self._stopped:
            return
        self._on_logged()
        self._account(ended.read(), ended=True)
        asyncio.get_running_loop().add_reader(ended.fileno(), self._on_ended, ended)

    def _account(self, flows: Iterable[conntrack.Flow], *, ended: bool) -> None:
        changes: list[Change] = []
        for flow in flows:
            counts = Counts(*flow.sent, *flow.answered)
            changes += self.table.account(_connection(flow), counts, ended=ended)
        self._tell(changes)

    def _tell(self, changes: list[Change]) -> None:
        if changes:
            for follower in tuple(self._followers):
                follower(changes)


def _connection(flow: conntrack.Flow) -> Connection:
    original, reply = flow.original, flow.reply
    return Connection(
        original.source,
        reply.source,
        original.protocol,
        original.source_port,
        reply.source_port,
        original.icmp_id,
    )
