"""What the agents report, as events: hosts that are alive, ports that are up, down or in error.

Felix's keys of this region, listed and then watched in a thread. A lost watch, a compaction or
a new etcd is a new listing, compared with what was known: what went meanwhile is told as gone.

Source: Calico, networking-calico, drivers/calico/status.py; Felix, statusrep.
"""

import logging
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import msgspec

from tortie.lib.backoff import Backoff
from tortie.lib.errors import TortieError
from tortie.model.keys import FELIX, unescape
from tortie.openstack.gateway import Gateway
from tortie.openstack.labels import ORCHESTRATOR
from tortie.openstack.settings import Settings
from tortie.openstack.watch_thread import WatchThread

log = logging.getLogger(__name__)


class HostAlive(NamedTuple):
    """An agent reported; it does every half minute or so."""

    host: str
    time: str
    """RFC 3339, as the host has it."""
    uptime_seconds: float
    first: bool
    """It has just started."""


class HostGone(NamedTuple):
    """An agent has not reported in time, or has been taken away."""

    host: str


class PortStatus(NamedTuple):
    """Of a port on one host; during a migration two of them have it."""

    host: str
    port_id: str
    status: str | None
    """`up`, `down` or `error`; None: that host does not have it any more."""
    listed: bool = False
    """From a listing: how it is, and not news from the agent."""


StatusEvent: TypeAlias = HostAlive | HostGone | PortStatus

STATUSES = ("up", "down", "error")


class _HostValue(msgspec.Struct):
    time: str = ""
    uptime: float = 0.0
    first_update: bool = False


class _EndpointValue(msgspec.Struct):
    status: str = ""


class StatusWatcher:
    """One thread, which calls `on_event` for one event after the other.

    Args:
        on_event: what it raises is logged, and the next event comes all the same.
    """

    def __init__(
        self, gateway: Gateway, settings: Settings, on_event: Callable[[StatusEvent], None]
    ) -> None:
        self._gateway = gateway
        self._prefix = f"{FELIX}{settings.region}/host/"
        self._on_event = on_event
        self._known: dict[str, StatusEvent] = {}
        """By key: what was last told."""
        self._thread = WatchThread(gateway, "status", self._run)

    def start(self) -> None:
        """Begin, or begin again in a child after a fork: with a listing."""
        self._known = {}
        self._thread.start()

    def stop(self) -> None:
        self._thread.stop()

    def _run(self) -> None:
        backoff = Backoff(1.0, 30.0)
        while not self._thread.stopping.is_set():
            try:
                self._follow(self._list(), backoff)
            except TortieError as error:
                log.warning("status of agents: %s", error)
                self._thread.stopping.wait(backoff.next_seconds())

    def _list(self) -> int:
        """Tell what is different from what is known; the revision of the listing."""
        seen: set[str] = set()
        revision = 0
        for page in self._gateway.pages(self._prefix):
            revision = page.revision
            for entry in page.entries:
                seen.add(entry.key)
                event = self._event(entry.key, entry.value, listed=True)
                if event is not None and self._known.get(entry.key) != event:
                    self._tell(entry.key, event)
        for key in self._known.keys() - seen:
            self._tell(key, self._event(key, None, listed=True))
        return revision

    def _follow(self, revision: int, backoff: Backoff) -> None:
        with self._thread.watching(self._prefix, revision + 1) as watch:
            for batch in watch:
                backoff.reset()
                for event in batch.events:
                    self._tell(event.key, self._event(event.key, event.value))

    def _tell(self, key: str, event: StatusEvent | None) -> None:
        if event is None or self._thread.stopping.is_set():
            return
        if isinstance(event, HostGone) or (isinstance(event, PortStatus) and event.status is None):
            self._known.pop(key, None)
        elif isinstance(event, PortStatus):
            self._known[key] = event._replace(listed=True)
        else:
            self._known[key] = event
        try:
            self._on_event(event)
        except Exception:
            # Neutron's database is behind it, which raises what it likes.
            log.exception("status of agents: %s was not handled", event)

    def _event(self, key: str, value: bytes | None, *, listed: bool = False) -> StatusEvent | None:
        """What a key says; None for one that says nothing here."""
        match key.removeprefix(self._prefix).split("/"):
            case [host, "status"]:
                return _host_event(unescape(host), value)
            case [host, "workload", orchestrator, _, "endpoint", port_id]:
                if orchestrator != ORCHESTRATOR:
                    return None
                status = None if value is None else status_in(value)
                return PortStatus(unescape(host), unescape(port_id), status, listed)
        return None


def _host_event(host: str, value: bytes | None) -> StatusEvent | None:
    if value is None:
        return HostGone(host)
    try:
        found = msgspec.json.decode(value, type=_HostValue)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        log.warning("status of host %r cannot be read", host)
        return None
    return HostAlive(host, found.time, found.uptime, found.first_update)


def status_in(value: bytes) -> str:
    """What cannot be read is an error: somebody should look."""
    try:
        status = msgspec.json.decode(value, type=_EndpointValue).status
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return "error"
    return status if status in STATUSES else "error"
