"""The second line: where others may empty our tables, what those have not seen goes nowhere.

Without owner tables a flush by a third party leaves workloads open until it is
repaired. Two things hold until then that are no part of nftables:

- To a workload: every way there through our tables sets a bit of the mark
  (`Settings.mark_seen`), and a filter on the workload's link drops IP packets
  without it.
- From a workload: a filter on its link marks whatever comes in as unseen
  (`Settings.mark_unseen`), our tables clear that before anything is routed, and
  `driver.unseen_rule` has what still bears it go nowhere.

So who empties the tables closes the workloads. See `kernel.rtnl.guard`.

Ownership: the filters by their handle. They are written again, each in one step,
at each resync: reading them back would cost as much.
"""

import logging
from collections.abc import Callable

from tortie.dataplane.driver.link import Links
from tortie.dataplane.settings import Settings
from tortie.kernel.rtnl.backend import Backend, Outcomes
from tortie.kernel.rtnl.link import Link
from tortie.lib.errors import KernelRefused, NotFound, TortieError

log = logging.getLogger(__name__)


class GuardDriver:
    """Loop task only."""

    def __init__(self, backend: Backend, links: Links, settings: Settings) -> None:
        self._backend = backend
        self._links = links
        self._is_wanted = bool(settings.mark_seen)
        """Else those that an earlier process made are taken away."""
        unseen = settings.mark_unseen, settings.mark_mask
        self._filters: dict[str, Callable[[list[int]], Outcomes]] = {
            "to": lambda indexes: backend.guard_links(indexes, settings.mark_seen),
            "from": lambda indexes: backend.mark_links(indexes, *unseen),
        }
        """That the kernel has not refused as such, by the way that they guard."""
        self._pending: dict[str, None] = {}
        self._index: dict[str, int] = {}
        """Of the guarded links."""
        self._is_open = False
        """Nothing of an earlier process is left to take away."""

    def open_former(self) -> None:
        """Before rules go that mark nothing: no guard may wait for their mark."""
        if not self._is_wanted and not self._is_open:
            self._backend.unguard_links()
            self._is_open = True

    def on_link(self, name: str) -> None:
        """The link of this name came, went or changed."""
        link = self._links.get(name)
        if link is None:
            self._index.pop(name, None)
            self._pending.pop(name, None)
        elif self._wants(link) and self._index.get(name) != link.index:
            self._pending[name] = None

    def _wants(self, link: Link) -> bool:
        return self._is_wanted and self._links.is_workload(link.name)

    def resync(self) -> None:
        self._pending |= dict.fromkeys(self._index)

    def apply(self) -> list[TortieError]:
        """Guard what is not guarded yet. Returns what was refused; it stays pending.

        A kernel that has no such filters is told of once, and not asked again.
        """
        names, self._pending = self._pending, {}
        links = [link for name in names if (link := self._links.get(name)) is not None]
        if not links:
            return []
        self._index |= {link.name: link.index for link in links}
        return [error for way in tuple(self._filters) for error in self._write(way, links)]

    def _write(self, way: str, links: list[Link]) -> list[TortieError]:
        outcomes = self._filters[way]([link.index for link in links])
        refused: list[TortieError] = []
        for link, outcome in zip(links, outcomes, strict=True):
            if isinstance(outcome, KernelRefused):
                log.warning("no second line behind the tables %s workloads: %s", way, outcome)
                del self._filters[way]
                return []
            if isinstance(outcome, NotFound):  # it comes again with its link
                self._index.pop(link.name, None)
            elif outcome is not None:
                self._pending[link.name] = None
                refused.append(outcome)
        return refused

    @property
    def pending_count(self) -> int:
        return len(self._pending)
