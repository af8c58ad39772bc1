"""Our routes in the main table.

Ownership: routes of our protocol number are ours; all others are never touched.
So a route is added only where nobody has one with its key, and replaced (in one
step, without a moment of none) only where the one that is there is ours.

A route that cannot be written, because somebody else has its key or its gateway
is nowhere, stays pending and keeps no other one waiting.

All of a family have one metric. Those that a former agent has left with another
one go when the new ones are there: both can stand beside one another.
"""

import logging
from collections.abc import Iterable

from msgspec.structs import replace

from tortie.kernel.rtnl.backend import Backend, Outcomes
from tortie.kernel.rtnl.route import TABLE_MAIN, Route, RouteKey, canonical_metric
from tortie.lib.delta import Delta
from tortie.lib.errors import AlreadyExists, KernelBusy, NotFound, TortieError
from tortie.lib.ip import Network

log = logging.getLogger(__name__)


class RouteDriver:
    """Loop task only.

    Args:
        metric4: of the routes that are given here; 0 for none, as in `kernel.rtnl.route`.
    """

    def __init__(
        self, backend: Backend, *, protocol: int, metric4: int = 0, metric6: int = 0
    ) -> None:
        self._backend = backend
        self._protocol = protocol
        self._metrics = {4: metric4, 6: canonical_metric(6, metric6)}
        self._delta: Delta[RouteKey, Route] = Delta()
        self._refused: dict[RouteKey, str] = {}
        """What the kernel said, so that it is logged once."""

    def want(self, destination: Network, route: Route | None) -> None:
        """Of this driver's protocol, in the main table; it gets this driver's metric."""
        key = self._key(destination)
        wanted = replace(route, metric=key.metric) if route is not None and key.metric else route
        self._delta.want(key, wanted)

    def forget(self, destination: Network) -> None:
        """The kernel has taken this route away by itself, with its link."""
        self._delta.observe(self._key(destination), None)

    def apply(self) -> list[TortieError]:
        """Write what differs; returns what the kernel refused, which stays pending.

        Raises:
            KernelBusy: some may have been done; `resync`, then again.
        """
        if self._delta.in_sync:
            return []
        unwanted = list(self._delta.deletions())
        of_former_metric = [key for key in unwanted if self._has_another(key)]
        refused = self._delete([key for key in unwanted if not self._has_another(key)])
        pending = list(self._delta.updates())
        new = [(key, route) for key, route in pending if self._delta.actual(key) is None]
        changed = [(key, route) for key, route in pending if self._delta.actual(key) is not None]
        outcomes = self._backend.add_routes([route for _, route in new])
        known = set(self._refused)
        refused += self._settle([key for key, _ in new], outcomes)
        if self._refused.keys() - known:
            # What is there may be ours after all, left by a link that we lost sight of.
            self.resync()
        outcomes = self._backend.replace_routes([route for _, route in changed])
        refused += self._settle([key for key, _ in changed], outcomes)
        refused += self._delete([key for key in of_former_metric if self._is_replaced(key)])
        return refused

    def resync(self) -> None:
        """Read our routes back; what differs is written by the next `apply`."""
        found = self._backend.routes(table=TABLE_MAIN, protocol=self._protocol)
        self._delta.observe_all({route.key: _canonical(route) for route in found})

    @property
    def pending_count(self) -> int:
        return len(self._delta)

    @property
    def count(self) -> int:
        return self._delta.wanted_count

    def _key(self, destination: Network) -> RouteKey:
        return RouteKey(TABLE_MAIN, destination, self._metrics[destination.family])

    def _has_another(self, key: RouteKey) -> bool:
        """Whether there shall be a route to the same destination, so with another metric."""
        return self._delta.wanted(self._key(key.destination)) is not None

    def _is_replaced(self, key: RouteKey) -> bool:
        """Whether the route that there shall be instead is there, and not refused."""
        return self._delta.actual(self._key(key.destination)) is not None

    def _delete(self, keys: list[RouteKey]) -> list[TortieError]:
        there = {key: one for key in keys if (one := self._delta.actual(key)) is not None}
        outcomes = self._backend.delete_routes(list(there.values()))
        return self._settle(there, outcomes, deleted=True)

    def _settle(
        self, keys: Iterable[RouteKey], outcomes: Outcomes, *, deleted: bool = False
    ) -> list[TortieError]:
        refused: list[TortieError] = []
        for key, outcome in zip(keys, outcomes, strict=True):
            if isinstance(outcome, KernelBusy):
                raise outcome
            if outcome is None or (deleted and isinstance(outcome, NotFound)):
                self._delta.confirm(key)
                self._refused.pop(key, None)
                continue
            refused.append(outcome)
            if isinstance(outcome, AlreadyExists):
                said = f"route {key.destination} belongs to somebody else and stays as it is"
            else:
                said = str(outcome)
            if self._refused.get(key) != said:
                self._refused[key] = said
                log.warning("%s", said)
        return refused


def _canonical(route: Route) -> Route:
    """With a gateway the kernel finds the link itself, and tells which: not asked for."""
    return route if route.gateway is None else replace(route, interface=0)
