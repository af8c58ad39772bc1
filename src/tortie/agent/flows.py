"""Flows: packets that policy has judged, added up by who, to whom, and what decided.

Source ports are not kept: a client's hundred connections to one service are one flow. Time is cut
into windows, so that a flow says when it was; old windows go, and of all windows together there
are at most `FLOWS_MAX` flows. Who sends to so many addresses or ports that one window holds no more
of them is still seen: what is new then counts for `*`.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

from tortie.dataplane.manager.seen import Decider, Seen, Staged
from tortie.desired.endpoint import EndpointId
from tortie.desired.policy import Direction
from tortie.lib.ip import Network
from tortie.model.names import workload_of_endpoint

FLOWS_MAX = 10_000
"""About 1 KB each, with its names."""
HISTORY_SECONDS = 3600.0
LIVE_MAX = 20_000
"""Connections whose counts are still awaited, each a few hundred bytes."""
ANYONE = "*"

NameOf = Callable[[Network], EndpointId | None]


class FlowKey(NamedTuple):
    """What makes packets one flow."""

    action: Literal["Allow", "Deny"]
    direction: Direction
    """Whose policy spoke: `egress` is the source's, `ingress` the destination's."""
    source: str
    """`namespace/workload`, or an address that no workload has."""
    destination: str
    family: int
    protocol: int
    port: int
    """Of the destination; ICMP's type; 0 where there is none."""
    decider: Decider
    staged: Staged | None


class Flow:
    """Counts of one window."""

    __slots__ = ("answered_bytes", "answered_packets", "bytes", "end", "packets", "start")

    def __init__(self, now: float) -> None:
        self.start = self.end = now
        """Unix time of the first and the last packet that was seen, or counted."""
        self.packets = self.bytes = 0
        """From source to destination. Of denied packets: those that the kernel has logged."""
        self.answered_packets = self.answered_bytes = 0
        """The other way."""

    def add(self, now: float, counts: "Counts") -> None:
        self.end = now
        self.packets += counts.packets
        self.bytes += counts.bytes
        self.answered_packets += counts.answered_packets
        self.answered_bytes += counts.answered_bytes


class Counts(NamedTuple):
    packets: int = 0
    bytes: int = 0
    answered_packets: int = 0
    answered_bytes: int = 0

    def minus(self, other: "Counts") -> "Counts":
        return Counts(*(max(0, mine - its) for mine, its in zip(self, other, strict=True)))


class Connection(NamedTuple):
    """What a packet and the kernel's connection table both say: after destination NAT, before
    source NAT."""

    source: Network
    destination: Network
    protocol: int
    source_port: int
    destination_port: int
    icmp_id: int


class _Live:
    """A connection that was let in, and has not ended."""

    __slots__ = ("counted", "keys")

    def __init__(self) -> None:
        self.keys: list[FlowKey] = []
        self.counted = Counts()


class _Window(NamedTuple):
    start: float
    flows: dict[FlowKey, Flow]


class FlowTable:
    """
    Args:
        window_seconds: how long packets are added up before a flow begins anew.
        name_of: the workload that has an address, on any host.
    """

    def __init__(
        self,
        window_seconds: float,
        name_of: NameOf,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._window_seconds = window_seconds
        self._name_of = name_of
        self._clock = clock
        self._windows: deque[_Window] = deque()
        self._size = 0
        self._live: dict[Connection, _Live] = {}
        self.uncounted = 0
        """Packets that were seen, and for which there was no room at all."""

    def __len__(self) -> int:
        return self._size

    def see(self, seen: Seen) -> tuple[FlowKey, Counts]:
        """Add one packet. Returns what it was added to, and what was added."""
        found = seen.headers
        key = FlowKey(
            seen.action,
            seen.direction,
            self._end(found.source),
            self._end(found.destination),
            found.source.family,
            found.protocol,
            found.icmp_type if found.protocol in (1, 58) else found.destination_port,
            seen.decider,
            seen.staged,
        )
        counts = Counts(1, found.length)
        self._add(key, counts)
        if seen.action == "Allow":
            self._remember(key, seen)
        return key, counts

    def account(
        self, connection: Connection, total: Counts, *, ended: bool
    ) -> list[tuple[FlowKey, Counts]]:
        """What a connection has carried since it began. Returns what that adds to which flow."""
        live = self._live.get(connection)
        if live is None:
            return []
        more = total.minus(live.counted)
        if ended:
            del self._live[connection]
        if not any(more):
            return []
        live.counted = total
        for key in live.keys:
            self._add(key, more)
        return [(key, more) for key in live.keys]

    @property
    def has_live(self) -> bool:
        """Whether there are connections whose counts are awaited."""
        return bool(self._live)

    def flows(self, since: float = 0.0) -> Iterator[tuple[FlowKey, Flow]]:
        """Of each window, oldest first: those with a packet at `since` (Unix time) or later."""
        self._forget(self._clock())
        for window in self._windows:
            yield from ((key, flow) for key, flow in window.flows.items() if flow.end >= since)

    def _end(self, address: Network) -> str:
        endpoint = self._name_of(address)
        if endpoint is None:
            return address.address_text
        return f"{endpoint.namespace}/{workload_of_endpoint(endpoint.name)}"

    def _add(self, key: FlowKey, counts: Counts) -> None:
        now = self._clock()
        window = self._window(now)
        flow = window.get(key)
        if flow is None:
            key = self._with_room(window, key)
            flow = window.get(key)
        if flow is None:
            if self._size >= FLOWS_MAX:
                self.uncounted += counts.packets
                return
            flow = window[key] = Flow(now)
            self._size += 1
        flow.add(now, counts)

    def _with_room(self, window: dict[FlowKey, Flow], key: FlowKey) -> FlowKey:
        """The key under which a flow that is new may be kept."""
        while self._size >= FLOWS_MAX and len(self._windows) > 1:
            self._drop_oldest()
        # The last tenth is for those that are one for many.
        if self._size < FLOWS_MAX * 9 // 10:
            return key
        source, destination = (
            end if "/" in end else ANYONE for end in (key.source, key.destination)
        )
        return key._replace(source=source, destination=destination, port=0)

    def _window(self, now: float) -> dict[FlowKey, Flow]:
        newest = self._windows[-1] if self._windows else None
        # A clock that was set back must not keep one window for ever.
        if newest is None or not newest.start <= now < newest.start + self._window_seconds:
            self._forget(now)
            newest = _Window(now, {})
            self._windows.append(newest)
        return newest.flows

    def _forget(self, now: float) -> None:
        while self._windows and self._windows[0].start + HISTORY_SECONDS < now:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        self._size -= len(self._windows.popleft().flows)

    def _remember(self, key: FlowKey, seen: Seen) -> None:
        connection = connection_of(seen)
        live = self._live.get(connection)
        if live is None:
            if len(self._live) >= LIVE_MAX:
                del self._live[next(iter(self._live))]
            live = self._live[connection] = _Live()
        if key not in live.keys:
            live.keys.append(key)
            # Its two halves log the same packet; the kernel counts it once.
            live.counted = Counts(1, seen.headers.length)


def connection_of(seen: Seen) -> Connection:
    found = seen.headers
    return Connection(
        found.source,
        found.destination,
        found.protocol,
        found.source_port,
        found.destination_port,
        found.icmp_id,
    )
