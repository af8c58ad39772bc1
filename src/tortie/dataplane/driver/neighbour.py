"""Static neighbour entries: a workload's address is at its MAC, whatever it says.

Ownership: permanent entries on workload links are ours. Entries that the kernel
has learnt are left alone.
"""

from collections.abc import Hashable
from typing import NamedTuple

from tortie.dataplane.driver.link import Links
from tortie.kernel.rtnl.backend import Backend
from tortie.kernel.rtnl.neighbour import Neighbour, State
from tortie.lib.delta import Delta
from tortie.lib.errors import KernelBusy, NotFound, TortieError
from tortie.lib.ip import Network


class _Key(NamedTuple):
    interface: int
    address: Network


class NeighbourDriver:
    """Loop task only. Entries wait for their link, and come again with it."""

    def __init__(self, backend: Backend, links: Links) -> None:
        self._backend = backend
        self._links = links
        self._delta: Delta[_Key, bytes] = Delta()
        self._by_interface: dict[str, dict[Network, tuple[bytes, Hashable]]] = {}
        """By link: address to MAC and whose it is."""
        self._index: dict[str, int] = {}
        """Of links that are up."""

    def want(self, interface: str, address: Network, mac: bytes, *, owner: Hashable) -> None:
        """The latest owner of an interface and address counts."""
        self._by_interface.setdefault(interface, {})[address] = (mac, owner)
        index = self._index.get(interface)
        if index is not None:
            self._delta.want(_Key(index, address), mac)

    def drop(self, interface: str, address: Network, *, owner: Hashable) -> None:
        """Nothing happens if it has passed to another owner."""
        entries = self._by_interface.get(interface, {})
        if address not in entries or entries[address][1] != owner:
            return
        del entries[address]
        if not entries:
            del self._by_interface[interface]
        index = self._index.get(interface)
        if index is not None:
            self._delta.want(_Key(index, address), None)

    def on_link(self, name: str) -> None:
        """The link of this name came, went or changed.

        A link that is down, or is another one now, has lost all entries, the
        permanent ones too.
        """
        link = self._links.get(name)
        new = link.index if link is not None and link.up else None
        old = self._index.pop(name, None)
        if new is not None:
            self._index[name] = new
        if new == old:
            return
        for address, (mac, _) in self._by_interface.get(name, {}).items():
            if old is not None:
                self._delta.want(_Key(old, address), None)
                self._delta.observe(_Key(old, address), None)
            if new is not None:
                self._delta.want(_Key(new, address), mac)

    def apply(self) -> list[TortieError]:
        """Write what differs; returns what the kernel refused, which stays pending.

        Raises:
            KernelBusy: some may have been done; `resync`, then again.
        """
        if self._delta.in_sync:
            return []
        gone = list(self._delta.deletions())
        outcomes = self._backend.delete_neighbours(
            [Neighbour(interface=key.interface, address=key.address) for key in gone]
        )
        refused = self._settle(gone, outcomes)
        come = list(self._delta.updates())
        outcomes = self._backend.replace_neighbours(
            [Neighbour(interface=key.interface, address=key.address, mac=mac) for key, mac in come]
        )
        return refused + self._settle([key for key, _ in come], outcomes)

    def resync(self) -> None:
        """Read back; what differs is written by the next `apply`."""
        self._delta.observe_all(
            {
                _Key(entry.interface, entry.address): entry.mac
                for entry in self._backend.neighbours()
                if entry.state == State.PERMANENT
                and self._links.is_workload(self._links.name_of(entry.interface) or "")
            }
        )

    @property
    def pending_count(self) -> int:
        return len(self._delta)

    def _settle(self, keys: list[_Key], outcomes: list[TortieError | None]) -> list[TortieError]:
        refused = []
        for key, outcome in zip(keys, outcomes, strict=True):
            if isinstance(outcome, KernelBusy):
                raise outcome
            if isinstance(outcome, NotFound):
                # Its link has just gone; the event that says so is on its way.
                self._delta.want(key, None)
                self._delta.observe(key, None)
            elif outcome is not None:
                refused.append(outcome)
            else:
                self._delta.confirm(key)
        return refused
