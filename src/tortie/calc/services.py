"""Which slices are a service's, and which sets ask for it.

What `selector.index` is for labels: it says when a slice begins and ceases to belong to a set.
"""

from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar

from tortie.calc.rule_scanner import ServiceName

_Item = TypeVar("_Item", bound=Hashable)
_OnMatch = Callable[[str, _Item], None]


class Services(Generic[_Item]):
    """
    Args:
        on_match_started: called with a set's id and a slice that it now has.
        on_match_stopped: likewise, no more.
    """

    def __init__(self, on_match_started: "_OnMatch[_Item]", on_match_stopped: "_OnMatch[_Item]"):
        self._on_match_started = on_match_started
        self._on_match_stopped = on_match_stopped
        self._services: dict[_Item, ServiceName] = {}
        self._slices: dict[ServiceName, dict[_Item, None]] = {}
        self._wanted: dict[str, ServiceName] = {}
        self._set_ids: dict[ServiceName, dict[str, None]] = {}

    def set_slice(self, item: _Item, service: ServiceName) -> None:
        """Add a slice, or say whose it is now."""
        if self._services.get(item) == service:
            return
        self.remove_slice(item)
        self._services[item] = service
        self._slices.setdefault(service, {})[item] = None
        for set_id in self._set_ids.get(service, ()):
            self._on_match_started(set_id, item)

    def remove_slice(self, item: _Item) -> None:
        """One that is not known is fine."""
        service = self._services.pop(item, None)
        if service is None:
            return
        for set_id in self._set_ids.get(service, ()):
            self._on_match_stopped(set_id, item)
        _discard(self._slices, service, item)

    def set_wanted(self, set_id: str, service: ServiceName) -> None:
        """A set asks for the service; it has not asked before."""
        self._wanted[set_id] = service
        self._set_ids.setdefault(service, {})[set_id] = None
        for item in self._slices.get(service, ()):
            self._on_match_started(set_id, item)

    def remove_wanted(self, set_id: str) -> None:
        """It asks no more; one that never did is fine."""
        service = self._wanted.pop(set_id, None)
        if service is None:
            return
        _discard(self._set_ids, service, set_id)
        for item in self._slices.get(service, ()):
            self._on_match_stopped(set_id, item)

    def sets_of(self, item: _Item) -> Iterable[str]:
        """The sets that have the slice."""
        service = self._services.get(item)
        return tuple(self._set_ids.get(service, ())) if service else ()


_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value", bound=Hashable)


def _discard(table: dict[_Key, dict[_Value, None]], key: _Key, value: _Value) -> None:
    del table[key][value]
    if not table[key]:
        del table[key]
