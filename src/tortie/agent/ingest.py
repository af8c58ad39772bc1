"""From stored bytes to typed values: the edge at which everything is checked.

An object that does not decode, or breaks a rule of its kind, counts as absent
(what depends on it fails closed), is logged once, and disturbs nothing else.
"""

import logging
from collections.abc import Hashable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from tortie.datastore.syncer import Status, Update
from tortie.lib.errors import InvalidInput
from tortie.lib.inbox import Inbox
from tortie.model import codec
from tortie.model.keys import IPAM, RESOURCES, AffinityKey, Key, ResourceKey, parse_key
from tortie.model.metadata import Resource
from tortie.model.node import ClusterInformation
from tortie.model.unknown_rules import close_unknown
from tortie.model.validation import check

log = logging.getLogger(__name__)

PREFIXES = (RESOURCES, f"{IPAM}host/")
"""What the agent watches: all resources, and who holds which block."""


class Arrived(NamedTuple):
    """The newest value of a key; None means gone, or not valid."""

    value: object | None
    revision: int


class Signal(NamedTuple):
    """Something to do that is no value: the reader's inbox holds at most one of each."""

    name: str


IN_SYNC = Signal("in-sync")
"""The first snapshot is complete; from now on the kernel may be touched."""
AUDIT = Signal("audit")
"""Time to compare the kernel with what we want, whatever events said."""

CONNECTIONS = Signal("connections")
"""Those that policy may deny by now have been listed."""

READY_FLAG = ResourceKey("ClusterInformation", "default")


def is_ready(information: object | None) -> bool:
    """Whether it says that the datastore is; one that is gone, or that nobody can read, does
    not, as in Calico."""
    return (
        isinstance(information, ClusterInformation)
        and information.spec.datastore_ready is not False
    )


AgentInbox = Inbox[Hashable, object]
"""`Key` → `Arrived`, `Signal` → None, and for links `("link", index)` → the event."""


_ALLOCATION_KINDS = frozenset({"IPPool", "IPReservation", "Node", "Profile"})
"""What decides from where a host takes addresses, beside what IPAM compares itself."""


class Ingest:
    """The syncer's sink."""

    def __init__(self, inbox: AgentInbox) -> None:
        self._inbox = inbox
        self._invalid: dict[Key, str] = {}
        self._unknown: dict[Key, tuple[str, ...]] = {}
        self._allocation_changes = 0
        self._is_ready = False
        self.status = Status.CONNECTING

    @property
    def invalid(self) -> Mapping[Key, str]:
        """Why an object that is stored counts as absent."""
        return MappingProxyType(self._invalid)

    def allocation_unchanged(self) -> int | None:
        """As `tortie.ipam.allocator.Unchanged`; None while we are not in sync."""
        return self._allocation_changes if self.status is Status.IN_SYNC else None

    def datastore_ready(self) -> bool:
        """We follow it, and it says that it is ready (`datastoreReady`)."""
        return self._is_ready and self.status is Status.IN_SYNC

    async def on_updates(self, updates: Sequence[Update]) -> None:
        for update in updates:
            key = parse_key(update.key)
            if isinstance(key, ResourceKey) and key.kind in _ALLOCATION_KINDS:
                self._allocation_changes += 1
            if isinstance(key, ResourceKey | AffinityKey):
                value = None if update.value is None else self._decode(key, update.value)
                if update.value is None:
                    self._invalid.pop(key, None)
                    self._unknown.pop(key, None)
                if key == READY_FLAG:
                    self._is_ready = is_ready(value)
                await self._inbox.put(key, Arrived(value, update.revision))

    def on_status(self, status: Status) -> None:
        if status is not self.status:
            log.info("datastore %s", status.value)
        self.status = status
        if status is Status.IN_SYNC:
            self._inbox.put_now(IN_SYNC, None)

    def _decode(self, key: Key, raw: bytes) -> object | None:
        try:
            value = codec.decode(key, raw)
            if isinstance(value, Resource):
                check(value, stored=True)
                value, unknown = close_unknown(value, raw)
                self._report_unknown(key, unknown)
        except InvalidInput as error:
            if self._invalid.get(key) != str(error):
                log.error("stored object is not valid and counts as absent: %s: %s", key, error)
            self._invalid[key] = str(error)
            return None
        self._invalid.pop(key, None)
        return value

    def _report_unknown(self, key: Key, unknown: tuple[str, ...]) -> None:
        """Log, once for each change, what newer writers say that we do not understand."""
        if unknown != self._unknown.get(key, ()):
            self._unknown.pop(key, None)
            if unknown:
                log.warning("%s: %s", key, "; ".join(unknown))
                self._unknown[key] = unknown
