"""The elements that stand for a set of networks, kept as members come and go.

The kernel refuses overlapping intervals in one set. Of two overlapping
networks one contains the other, so the outermost members alone are disjoint
and hold the same addresses: those are the elements. A member inside another
one is only remembered, until the outer one goes.

Members that are single addresses, by far the most, cost one dictionary entry.
"""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from tortie.lib.ip import Network


class Change(NamedTuple):
    """Elements that come and go; together they are the least change."""

    added: Sequence[Network] = ()
    removed: Sequence[Network] = ()


_NONE = Change()


class Cover:
    """Networks of one family. Loop task only."""

    def __init__(self) -> None:
        self._members: set[Network] = set()
        self._lengths: Counter[int] = Counter()
        self._sorted: list[Network] | None = None
        """All members, in order, from when there was one that is not an address."""

    def add(self, network: Network) -> Change:
        if network in self._members:
            return _NONE
        self._members.add(network)
        self._lengths[network.length] += 1
        if self._sorted is not None:
            insort(self._sorted, network)
        if self._outer(network) is not None:
            return _NONE
        return Change(added=(network,), removed=self._outermost_inside(network))

    def remove(self, network: Network) -> Change:
        if network not in self._members:
            return _NONE
        self._members.remove(network)
        self._lengths[network.length] -= 1
        if self._sorted is not None:
            del self._sorted[bisect_left(self._sorted, network)]
        if self._outer(network) is not None:
            return _NONE
        return Change(added=self._outermost_inside(network), removed=(network,))

    def contains(self, address: Network) -> bool:
        """Whether a member is this address or contains it."""
        return address in self._members or self._outer(address) is not None

    def __len__(self) -> int:
        return len(self._members)

    def _outer(self, network: Network) -> Network | None:
        """A member that contains `network` and is not it."""
        family, value, _ = network
        bits = network.bits
        for length, count in self._lengths.items():
            if count and length < network.length:
                shift = bits - length
                candidate = Network(family, value >> shift << shift, length)
                if candidate in self._members:
                    return candidate
        return None

    def _outermost_inside(self, network: Network) -> Sequence[Network]:
        """Members inside `network` that no other member, but it, contains."""
        if network.is_address:
            return ()
        if self._sorted is None:
            self._sorted = sorted(self._members)
        found: list[Network] = []
        last = network.last
        # A network sorts before all that it contains, and those are in a row.
        position = bisect_left(self._sorted, network)
        while position < len(self._sorted):
            member = self._sorted[position]
            if member.value > last:
                break
            inside = member != network and network.contains(member)
            if inside and not (found and found[-1].contains(member)):
                found.append(member)
            position += 1
        return found
