"""rtnetlink in memory, for tests of whatever drives it.

Passes the same contract suite as the kernel (tests/netns/test_rtnl_contract.py).
It knows what drivers depend on: identities and replacement, what goes when a
link goes or is set down, and what is refused. It does not know what addresses and
rules do, routes that lose some of several hops, the carrier of a peer in another namespace,
or which gateways are reachable.
"""

import errno
from collections.abc import Callable, Collection, Hashable, Sequence
from typing import TypeVar

from msgspec.structs import replace

from tortie.kernel.rtnl.address import Address
from tortie.kernel.rtnl.backend import Outcomes
from tortie.kernel.rtnl.link import Link, LinkChange, VethPeer
from tortie.kernel.rtnl.neighbour import Neighbour, NeighbourKey
from tortie.kernel.rtnl.route import TABLE_LOCAL, TABLE_MAIN, WITHOUT_HOP, Route, RouteKey
from tortie.kernel.rtnl.rule import Rule
from tortie.kernel.rtnl.shaper import Bucket, Shape
from tortie.kernel.sysctl import check_interface_name
from tortie.lib.errors import AlreadyExists, KernelRefused, NotFound, TortieError
from tortie.lib.ip import Network

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)

_UP = 0x1
_UP_AND_CARRIER = 0x1 | 0x40 | 0x10000
_BROADCAST_MULTICAST = 0x2 | 0x1000
_LOOPBACK_FLAGS = 0x8 | _UP_AND_CARRIER


class FakeRtnl:
    """One namespace's links, routes and neighbours; starts with loopback only.

    Implements `backend.Backend`. A peer that is put into another namespace is
    forgotten, but its link's carrier then follows the near end alone.
    """

    def __init__(self) -> None:
        self._links: dict[int, Link] = {
            1: Link(index=1, name="lo", flags=_LOOPBACK_FLAGS, mtu=65536, mac=bytes(6))
        }
        self._routes: dict[RouteKey, Route] = {}
        self._neighbours: dict[NeighbourKey, Neighbour] = {}
        self._next_index = 2
        self.guarded: dict[int, int] = {}
        """Mark bit without which nothing leaves, by link."""
        self.marked: dict[int, tuple[int, int]] = {}
        """Mark and mask of what comes in, by link."""
        self._rules = [
            Rule(family=family, priority=priority, table=table, protocol=2)
            for family in (4, 6)
            for priority, table in ((0, TABLE_LOCAL), (32766, TABLE_MAIN))
        ]
        self.buckets: dict[int, Bucket] = {}
        self.diverted: dict[int, int] = {}
        """Through which link what comes in goes, by link."""
        self.assigned: list[Address] = []
        """What `addresses` tells; nothing here changes it."""
        self.failures: dict[RouteKey | NeighbourKey, TortieError] = {}
        """What to answer instead of doing it, by key: for tests of error paths."""

    # Shapes.

    def create_ifb(self, name: str, *, mtu: int) -> Link:
        if self._find(check_interface_name(name)) is not None:
            raise AlreadyExists(f"create ifb {name}: File exists")
        made = Link(index=self._next_index, name=name, kind="ifb", mtu=mtu, mac=bytes(6))
        self._next_index += 1
        self._links[made.index] = made
        return made

    def shape_links(self, wanted: Sequence[tuple[int, Bucket]]) -> Outcomes:
        return [_outcome(self._shape, one) for one in wanted]

    def unshape_links(self, indexes: Sequence[int]) -> None:
        for index in indexes:
            self.buckets.pop(index, None)

    def divert_links(self, wanted: Sequence[tuple[int, int]]) -> Outcomes:
        return [_outcome(self._divert, one) for one in wanted]

    def undivert_links(self, indexes: Sequence[int]) -> None:
        for index in indexes:
            self.diverted.pop(index, None)

    def shapes(self) -> list[Shape]:
        return [Shape(index, one.rate, one.limit) for index, one in self.buckets.items()]

    def _shape(self, one: tuple[int, Bucket]) -> None:
        index, bucket = one
        if index not in self._links:
            raise NotFound(f"shape link {index}: No such device")
        self.buckets[index] = bucket

    def _divert(self, one: tuple[int, int]) -> None:
        index, through = one
        if index not in self._links or through not in self._links:
            raise NotFound(f"divert what comes in by link {index}: No such device")
        self.diverted[index] = through

    # Addresses.

    def addresses(self, family: int | None = None, *, interface: int = 0) -> list[Address]:
        return [
            one
            for one in self.assigned
            if interface in (0, one.interface) and family in (None, one.address.family)
        ]

    # Links.

    def links(self) -> list[Link]:
        return [self._links[index] for index in sorted(self._links)]

    def link(self, name_or_index: str | int) -> Link:
        found = self._find(name_or_index)
        if found is None:
            raise NotFound(f"get link {name_or_index}: No such device")
        return found

    def create_veth(
        self,
        name: str,
        peer: VethPeer,
        *,
        mac: bytes | None = None,
        mtu: int | None = None,
        group: int | None = None,
    ) -> Link:
        for wanted in (name, peer.name) if peer.namespace is None else (name,):
            if self._find(check_interface_name(wanted)) is not None:
                raise AlreadyExists(f"create veth {name}: File exists")
        far = self._next_index
        near = far + 1
        self._next_index = near + 1
        local = peer.namespace is None
        if local:
            self._links[far] = _veth(far, peer.name, near, peer.mac, peer.mtu)
        made = _veth(near, name, far, mac, mtu)
        made = replace(made, group=group or 0, peer_netns_id=None if local else 0)
        self._links[near] = made
        return made

    def change_link(self, index: int, wanted: LinkChange) -> None:
        link = self._links.get(index)
        if link is None:
            raise NotFound(f"change link {index}: No such device")
        if wanted.master and wanted.master not in self._links:
            raise KernelRefused(f"change link {index}", errno.EINVAL)
        if wanted.name is not None:
            other = self._find(check_interface_name(wanted.name))
            if other is not None and other.index != index:
                raise AlreadyExists(f"change link {index}: File exists")
        if wanted.namespace is not None:
            self._forget(index)
            return
        self._links[index] = replace(
            link,
            name=link.name if wanted.name is None else wanted.name,
            mtu=link.mtu if wanted.mtu is None else wanted.mtu,
            mac=link.mac if wanted.mac is None else wanted.mac,
            master=link.master if wanted.master is None else wanted.master,
            group=link.group if wanted.group is None else wanted.group,
        )
        if wanted.up is not None:
            self._set_up(index, wanted.up)

    def stop_address_generation(self, index: int) -> None:
        self.link(index)

    def delete_links(self, indexes: Collection[int]) -> None:
        for index in indexes:
            link = self._links.get(index)
            if link is None:
                continue
            if link.peer and link.peer_netns_id is None:
                self._forget(link.peer)
            self._forget(index)

    def guard_links(self, indexes: Sequence[int], mark_bit: int) -> Outcomes:
        return [_outcome(lambda one: self._guard(one, mark_bit), index) for index in indexes]

    def mark_links(self, indexes: Sequence[int], mark: int, mask: int) -> Outcomes:
        return [_outcome(lambda one: self._mark(one, (mark, mask)), index) for index in indexes]

    def unguard_links(self) -> None:
        self.guarded.clear()
        self.marked.clear()

    # Rules.

    def rules(self, family: int | None = None) -> list[Rule]:
        return [one for one in self._rules if family in (None, one.family)]

    def add_rule(self, wanted: Rule, *, again: bool = False) -> None:
        if wanted in self._rules and not again:
            raise AlreadyExists(f"add rule {wanted.priority}: File exists")
        self._rules.append(wanted)
        self._rules.sort(key=lambda one: (one.family, one.priority))  # equal ones stay in order

    def delete_rule(self, gone: Rule) -> None:
        try:
            self._rules.remove(gone)
        except ValueError:
            raise NotFound(f"delete rule {gone.priority}: No such file or directory") from None

    # Routes.

    def routes(
        self,
        family: int | None = None,
        *,
        table: int = 0,
        protocol: int = 0,
        interface: int = 0,
    ) -> list[Route]:
        return [
            route
            for route in self._routes.values()
            if family in (None, route.destination.family)
            and table in (0, route.table)
            and protocol in (0, route.protocol)
            and interface in (0, route.interface)
        ]

    def interface_towards(self, address: Network) -> int:
        fitting = [
            found for found in self.routes(table=TABLE_MAIN) if found.destination.contains(address)
        ]
        # The longest prefix, then the lowest metric.
        best = max(fitting, key=lambda one: (one.destination.length, -one.metric), default=None)
        return best.interface if best is not None else 0

    def add_routes(self, wanted: Sequence[Route]) -> Outcomes:
        return [_outcome(self._add_route, route) for route in wanted]

    def replace_routes(self, wanted: Sequence[Route]) -> Outcomes:
        return [_outcome(self._replace_route, route) for route in wanted]

    def delete_routes(self, gone: Sequence[Route]) -> Outcomes:
        return [_outcome(self._delete_route, route) for route in gone]

    # Neighbours.

    def neighbours(
        self, family: int | None = None, *, proxy: bool = False, interface: int = 0
    ) -> list[Neighbour]:
        return [
            entry
            for entry in self._neighbours.values()
            if family in (None, entry.address.family)
            and entry.proxy == proxy
            and interface in (0, entry.interface)
        ]

    def replace_neighbours(self, wanted: Sequence[Neighbour]) -> Outcomes:
        return [_outcome(self._replace_neighbour, entry) for entry in wanted]

    def delete_neighbours(self, gone: Sequence[Neighbour]) -> Outcomes:
        return [_outcome(self._delete_neighbour, entry) for entry in gone]

    # How it behaves inside.

    def _find(self, name_or_index: str | int) -> Link | None:
        if isinstance(name_or_index, int):
            return self._links.get(name_or_index)
        return next((x for x in self._links.values() if x.name == name_or_index), None)

    def _set_up(self, index: int, up: bool) -> None:
        """A veth has carrier while both ends are up; going down takes routes along."""
        link = self._links[index]
        if link.up == up:
            return
        peer = self._links.get(link.peer) if link.peer_netns_id is None else None
        flags = link.flags & ~_UP_AND_CARRIER
        if up:
            carrier = peer is None or peer.up
            flags |= _UP_AND_CARRIER if carrier else _UP
        self._links[index] = replace(link, flags=flags, operstate=6 if flags & 0x40 else 2)
        if peer is not None and peer.up:
            far = peer.flags & ~_UP_AND_CARRIER | (_UP_AND_CARRIER if up else _UP)
            self._links[peer.index] = replace(peer, flags=far, operstate=6 if up else 7)
        if not up:
            self._clear(index)

    def _guard(self, index: int, mark_bit: int) -> None:
        if index not in self._links:
            raise NotFound(f"guard link {index}: No such device")
        self.guarded[index] = mark_bit

    def _mark(self, index: int, mark: tuple[int, int]) -> None:
        if index not in self._links:
            raise NotFound(f"mark what comes in by link {index}: No such device")
        self.marked[index] = mark

    def _forget(self, index: int) -> None:
        del self._links[index]
        self.guarded.pop(index, None)
        self.marked.pop(index, None)
        self._clear(index)

    def _clear(self, index: int) -> None:
        """Permanent neighbours and proxies go too, though nothing is wrong with them."""
        _drop(self._neighbours, lambda entry: entry.interface == index)
        _drop(
            self._routes,
            lambda route: route.interface == index or any(h.interface == index for h in route.hops),
        )

    def _add_route(self, route: Route) -> None:
        if route.key in self._routes:
            raise AlreadyExists(f"add route {route}: File exists")
        self._replace_route(route)

    def _replace_route(self, route: Route) -> None:
        self._fail_as_told(route.key)
        for index in {route.interface, *(hop.interface for hop in route.hops)} - {0}:
            link = self._links.get(index)
            if link is None:
                raise NotFound(f"replace route {route}: No such device")
            if not link.up:
                raise KernelRefused(f"replace route {route}", errno.ENETDOWN)
        self._routes[route.key] = route

    def _delete_route(self, route: Route) -> None:
        self._fail_as_told(route.key)
        one = (route.table, route.destination)
        for key in sorted(key for key in self._routes if (key.table, key.destination) == one):
            if _names(route, self._routes[key]):
                del self._routes[key]
                return
        raise NotFound(f"delete route {route}: No such process")

    def _replace_neighbour(self, entry: Neighbour) -> None:
        self._fail_as_told(entry.key)
        if entry.interface not in self._links:
            raise NotFound(f"set neighbour on link {entry.interface}: No such device")
        self._neighbours[entry.key] = entry

    def _delete_neighbour(self, entry: Neighbour) -> None:
        self._fail_as_told(entry.key)
        if self._neighbours.pop(entry.key, None) is None:
            raise NotFound(f"delete neighbour of link {entry.interface}: No such file or directory")

    def _fail_as_told(self, key: RouteKey | NeighbourKey) -> None:
        if key in self.failures:
            raise self.failures[key]


def _names(gone: Route, present: Route) -> bool:
    """Would the kernel delete `present` when told to delete `gone`?

    What a delete does not name stands for anything: next hop, source, in IPv4
    the metric, in IPv6 one kind that leads somewhere for another.

    Source: net/ipv4/fib_trie.c, fib_table_delete; net/ipv6/route.c, ip6_route_del.
    """
    four = gone.destination.family == 4
    return (
        (gone.metric == present.metric or (four and gone.metric == 0))
        and gone.protocol in (0, present.protocol)
        and gone.interface in (0, present.interface)
        and gone.gateway in (None, present.gateway)
        and gone.source in (None, present.source)
        and (not gone.hops or gone.hops == present.hops)
        and (gone.kind in WITHOUT_HOP) == (present.kind in WITHOUT_HOP)
        and (not four or (gone.kind, gone.scope) == (present.kind, present.scope))
    )


def _veth(index: int, name: str, peer: int, mac: bytes | None, mtu: int | None) -> Link:
    return Link(
        index=index,
        name=name,
        kind="veth",
        flags=_BROADCAST_MULTICAST,
        mtu=mtu or 1500,
        mac=mac or b"\x02\0" + index.to_bytes(4, "big"),
        operstate=2,
        peer=peer,
    )


def _outcome(act: Callable[[T], None], item: T) -> TortieError | None:
    try:
        act(item)
    except TortieError as error:
        return error
    return None


def _drop(table: dict[K, T], doomed: Callable[[T], bool]) -> None:
    for key in [key for key, value in table.items() if doomed(value)]:
        del table[key]
