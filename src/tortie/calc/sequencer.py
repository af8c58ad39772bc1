"""What goes to the dataplane, coalesced and in order: one buffer for all kinds.

Between two flushes only the difference is kept, so an object that changed and changed back is
not told at all. A flush tells additions and changes by kind upwards, so that a reference never
comes before what it refers to, then removals by kind downwards, for the same reason.
"""

from collections.abc import Hashable, Mapping
from typing import NamedTuple, Protocol

from tortie.desired.kinds import Emit, Kind


class SequencerStatistics(NamedTuple):
    pending_count: int
    emitted_count: int
    """Since the start."""
    counts: Mapping[Kind, int]
    """The same by kind."""


class Sequencer:
    """Newest value per object; memory is bounded by objects, however often each one changes."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._counts = dict.fromkeys(Kind, 0)
        self._buffers: dict[Kind, _Buffer] = {
            kind: _Toggles() if kind is Kind.IP_SET_MEMBER else _Newest() for kind in Kind
        }

    def put(self, kind: Kind, name: Hashable, value: object | None) -> None:
        """Say what an object is now; None means gone, and gone twice is fine.

        Set members are the exception: each call must be a real change, because what has been
        told of them is not remembered here (a second copy of every membership is too dear).
        """
        self._buffers[kind].put(name, value)

    def flush(self) -> None:
        """Emit everything that differs from what was emitted before."""
        pending = [(kind, buffer.take()) for kind, buffer in self._buffers.items()]
        for kind, changes in pending:
            self._counts[kind] += len(changes)
            for name, value in changes.items():
                if value is not None:
                    self._emit(kind, name, value)
        for kind, changes in reversed(pending):
            for name, value in changes.items():
                if value is None:
                    self._emit(kind, name, None)

    def statistics(self) -> SequencerStatistics:
        pending_count = sum(len(buffer.pending) for buffer in self._buffers.values())
        counts = dict(self._counts)
        return SequencerStatistics(pending_count, sum(counts.values()), counts)


class _Buffer(Protocol):
    pending: dict[Hashable, object | None]

    def put(self, name: Hashable, value: object | None) -> None: ...

    def take(self) -> dict[Hashable, object | None]: ...


class _Newest:
    """Pending is what differs from the last value that was sent."""

    def __init__(self) -> None:
        self.pending: dict[Hashable, object | None] = {}
        self._sent: dict[Hashable, object] = {}

    def put(self, name: Hashable, value: object | None) -> None:
        if self._sent.get(name) == value:
            self.pending.pop(name, None)
        else:
            self.pending[name] = value

    def take(self) -> dict[Hashable, object | None]:
        changes, self.pending = self.pending, {}
        for name, value in changes.items():
            if value is None:
                del self._sent[name]
            else:
                self._sent[name] = value
        return changes


class _Toggles:
    """For objects that are only there or not there: two opposite changes are none."""

    def __init__(self) -> None:
        self.pending: dict[Hashable, object | None] = {}

    def put(self, name: Hashable, value: object | None) -> None:
        if name in self.pending:
            assert self.pending[name] != value  # the caller tells changes only
            del self.pending[name]
        else:
            self.pending[name] = value

    def take(self) -> dict[Hashable, object | None]:
        changes, self.pending = self.pending, {}
        return changes
