"""The second line: where others may empty our tables, links let out only what those have seen.

Without owner tables a flush by a third party leaves workloads open until it is
repaired. So every way to a workload through our tables sets a bit of the mark
(`Settings.mark_seen`), and a filter on each workload's link, which is no part
of nftables, drops IP packets without it: who empties the tables closes the
links. See `kernel.rtnl.guard`.

Ownership: the filter by its handle. It is written again, in one step, at each
resync: reading it back would cost as much.
"""

import logging

from tortie.dataplane.driver.link import Links
from tortie.kernel.rtnl.backend import Backend
from tortie.lib.errors import KernelRefused, NotFound, TortieError

log = logging.getLogger(__name__)


class GuardDriver:
    """Loop task only."""

    def __init__(self, backend: Backend, links: Links, *, mark_bit: int) -> None:
        """
        Args:
            mark_bit: what packets must carry; 0 for no guards, and then those
                that an earlier process made are taken away.
        """
        self._backend = backend
        self._links = links
        self._mark_bit = mark_bit
        self._pending: dict[str, None] = {}
        self._index: dict[str, int] = {}
        """Of the guarded links."""
        self._is_open = False
        """Nothing of an earlier process is left to take away."""
        self._refused = False

    def open_former(self) -> None:
        """Before rules go that mark nothing: no guard may wait for their mark."""
        if not self._mark_bit and not self._is_open:
            self._backend.unguard_links()
            self._is_open = True

    def on_link(self, name: str) -> None:
        """The link of this name came, went or changed."""
        link = self._links.get(name)
        if link is None:
            self._index.pop(name, None)
            self._pending.pop(name, None)
        elif (
            self._mark_bit and self._links.is_workload(name) and self._index.get(name) != link.index
        ):
            self._pending[name] = None

    def resync(self) -> None:
        self._pending |= dict.fromkeys(self._index)

    def apply(self) -> list[TortieError]:
        """Guard what is not guarded yet. Returns what was refused; it stays pending.

        A kernel that has no such filters is told of once, and not asked again.
        """
        if not self._pending or self._refused:
            return []
        names = list(self._pending)
        links = [link for name in names if (link := self._links.get(name)) is not None]
        outcomes = self._backend.guard_links([link.index for link in links], self._mark_bit)
        self._pending.clear()
        refused: list[TortieError] = []
        for link, outcome in zip(links, outcomes, strict=True):
            if outcome is None:
                self._index[link.name] = link.index
            elif isinstance(outcome, KernelRefused):
                self._refused = True
                log.warning("links have no second line behind the tables: %s", outcome)
                return []
            elif not isinstance(outcome, NotFound):
                self._pending[link.name] = None
                refused.append(outcome)
        return refused

    @property
    def pending_count(self) -> int:
        return 0 if self._refused else len(self._pending)
