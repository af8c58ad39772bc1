"""What dataplane drivers and `attach` may ask of rtnetlink.

Two implementations pass one contract suite: `connection.Rtnl` is the kernel,
`fake.FakeRtnl` is memory. Calls are synchronous: each takes 10 to 50 µs, less
than it costs to hand it to another thread.

Bulk calls do not stop at a failure: an endpoint whose interface is gone must
not keep the others from their routes. They return one entry for each item,
None where it is done.
"""

from collections.abc import Collection, Sequence
from typing import Protocol

from tortie.kernel.rtnl.address import Address
from tortie.kernel.rtnl.link import Link, LinkChange, VethPeer
from tortie.kernel.rtnl.neighbour import Neighbour
from tortie.kernel.rtnl.route import Route
from tortie.kernel.rtnl.rule import Rule
from tortie.kernel.rtnl.shaper import Bucket, Shape
from tortie.lib.errors import TortieError
from tortie.lib.ip import Network

Outcomes = list[TortieError | None]
"""In the order of the request; None means done."""


class Backend(Protocol):
    """Links, addresses, routes, rules and neighbours of one network namespace.

    Raises, in every call: `KernelBusy` (try again), and `OutcomeUnknown`, a
    kind of it, when answers were lost: read back before the next write.
    """

    def links(self) -> list[Link]:
        """All links, lowest index first."""
        ...

    def link(self, name_or_index: str | int) -> Link:
        """
        Raises:
            NotFound: no such link here.
        """
        ...

    def create_veth(
        self,
        name: str,
        peer: VethPeer,
        *,
        mac: bytes | None = None,
        mtu: int | None = None,
        group: int | None = None,
    ) -> Link:
        """Make a pair, both ends down; returns the near end.

        Raises:
            AlreadyExists: one of the names is taken where it should be.
        """
        ...

    def change_link(self, index: int, wanted: LinkChange) -> None:
        """Setting a link down also removes its routes and neighbours, permanent ones too.

        Raises:
            NotFound: no such link.
            AlreadyExists: the new name is taken.
            KernelRefused: a value that the kernel does not take, such as a
                master that is not there.
        """
        ...

    def stop_address_generation(self, index: int) -> None:
        """No fe80:: address of the kernel's own making; call before setting the link up.

        Raises:
            NotFound: no such link.
        """
        ...

    def delete_links(self, indexes: Collection[int]) -> None:
        """Delete links, all in one wait of the kernel; those already gone are fine."""
        ...

    def guard_links(self, indexes: Sequence[int], mark_bit: int) -> Outcomes:
        """Have IP packets dropped that leave by these links without this bit in their mark.

        Outcomes: NotFound for a link that is gone, KernelRefused where the
        kernel has no such filters.
        """
        ...

    def mark_links(self, indexes: Sequence[int], mark: int, mask: int) -> Outcomes:
        """Have all but ARP that comes in by these links get `mark` in the bits of `mask`.

        Outcomes: NotFound for a link that is gone, KernelRefused where the
        kernel has no such filters or cannot write marks.
        """
        ...

    def unguard_links(self) -> None:
        """Every link lets its packets out again, as far as we kept them in, and marks none."""
        ...

    def rules(self, family: int | None = None) -> list[Rule]:
        """Routing rules, in order of evaluation within a family."""
        ...

    def add_rule(self, wanted: Rule, *, again: bool = False) -> None:
        """Behind those of the same priority.

        Args:
            again: even if there is an equal one.

        Raises:
            AlreadyExists: there is an equal one.
            KernelRefused: the family has no rules.
        """
        ...

    def delete_rule(self, gone: Rule) -> None:
        """The first that is equal.

        Raises:
            NotFound: no such rule.
        """
        ...

    def create_ifb(self, name: str, *, mtu: int) -> Link:
        """A link for `divert_links`; down.

        Raises:
            AlreadyExists: the name is taken.
            KernelRefused: there are no such links.
        """
        ...

    def shape_links(self, wanted: Sequence[tuple[int, Bucket]]) -> Outcomes:
        """Have what leaves these links go no faster than their buckets allow.

        Outcomes: NotFound for a link that is gone, KernelRefused for a bucket
        that cannot be.
        """
        ...

    def unshape_links(self, indexes: Sequence[int]) -> None:
        """Links that have no bucket of ours, or are gone, are fine."""
        ...

    def divert_links(self, wanted: Sequence[tuple[int, int]]) -> Outcomes:
        """Have what comes in by the first of each pair go through the second, an ifb.

        Outcomes: NotFound for a link that is gone, KernelRefused where the
        kernel has no such filters.
        """
        ...

    def undivert_links(self, indexes: Sequence[int]) -> None:
        """Links that are not diverted, or are gone, are fine."""
        ...

    def shapes(self) -> list[Shape]:
        """Every bucket of ours."""
        ...

    def addresses(self, family: int | None = None, *, interface: int = 0) -> list[Address]:
        """Addresses of every interface, or of the one of this index."""
        ...

    def routes(
        self,
        family: int | None = None,
        *,
        table: int = 0,
        protocol: int = 0,
        interface: int = 0,
    ) -> list[Route]:
        """Routes of all tables, or those that match; 0 and None mean any."""
        ...

    def interface_towards(self, address: Network) -> int:
        """Index of the link by which this host would send to the address; 0 if it would not."""
        ...

    def add_routes(self, wanted: Sequence[Route]) -> Outcomes:
        """Add routes where there is none with the same key, whoever's it may be.

        Outcomes: AlreadyExists where there is; else as `replace_routes`.
        """
        ...

    def replace_routes(self, wanted: Sequence[Route]) -> Outcomes:
        """Add routes, or replace those with the same key (table, destination, metric).

        Outcomes: NotFound for a link that is gone, KernelRefused with ENETDOWN
        (IPv4) or EINVAL-like codes for one that is down or a gateway that is
        nowhere.
        """
        ...

    def delete_routes(self, gone: Sequence[Route]) -> Outcomes:
        """Delete routes; what one does not give may be anything (see `route.delete`).

        Outcomes: NotFound where there was no such route.
        """
        ...

    def neighbours(
        self, family: int | None = None, *, proxy: bool = False, interface: int = 0
    ) -> list[Neighbour]:
        """Entries of the neighbour table or, with `proxy`, of the proxy table."""
        ...

    def replace_neighbours(self, wanted: Sequence[Neighbour]) -> Outcomes:
        """Outcomes: NotFound for a link that is gone."""
        ...

    def delete_neighbours(self, gone: Sequence[Neighbour]) -> Outcomes:
        """Outcomes: NotFound where there was no such entry."""
        ...
