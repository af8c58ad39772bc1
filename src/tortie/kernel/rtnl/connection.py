"""`Rtnl`: rtnetlink over one socket, in the namespace where it was opened.

A netlink socket stays in its namespace for life. A helper that may enter a
container's namespace opens one there and passes it on; whoever holds it then
configures that container without entering anything. For the same reason
nothing here may ask the C library about interfaces (`socket.if_nametoindex`
answers for the caller's namespace, not for the socket's).
"""

import errno
import os
import socket
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TypeVar

from tortie.kernel.netlink import (
    NETLINK_CAP_ACK,
    NETLINK_EXT_ACK,
    NETLINK_GET_STRICT_CHK,
    NETLINK_ROUTE,
    NLM_F_ACK,
    NLM_F_REQUEST,
    NLMSG_ERROR,
    SOL_NETLINK,
    Acknowledgement,
    Message,
    OutcomeUnknown,
    Request,
    acknowledgement,
    message,
    messages,
)
from tortie.kernel.netlink_socket import NetlinkSocket
from tortie.kernel.rtnl import address, guard, link, neighbour, route, rule, shaper
from tortie.kernel.rtnl.address import Address
from tortie.kernel.rtnl.backend import Outcomes
from tortie.kernel.rtnl.link import Link, LinkChange, VethPeer
from tortie.kernel.rtnl.neighbour import Neighbour
from tortie.kernel.rtnl.route import Route
from tortie.kernel.rtnl.rule import Rule
from tortie.kernel.rtnl.shaper import Bucket, Shape
from tortie.lib.errors import (
    AlreadyExists,
    InvalidInput,
    KernelRefused,
    NotFound,
    TortieError,
    kernel_error,
)
from tortie.lib.ip import Network

T = TypeVar("T")

_BULK_COUNT = 256
"""Requests per send. Were all refused, their answers would still fit the 208 KB
receive queue of a socket that could not get a larger one."""

_GONE = frozenset({errno.ENODEV, errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL, errno.ENXIO})
"""What the kernel calls "there is no such thing": links and masters, rules and
neighbours, routes, addresses, in this order."""


class Rtnl:
    """Links, addresses, routes, rules and neighbours of one namespace.

    One thread at a time. Implements `backend.Backend`, where the calls that
    drivers use are described; what is documented here is beyond it.
    """

    def __init__(self, sock: NetlinkSocket) -> None:
        self._sock = sock

    @classmethod
    def open(cls) -> "Rtnl":
        """For the calling thread's namespace."""
        return cls(NetlinkSocket.open(NETLINK_ROUTE, strict=True))

    @classmethod
    def adopt(cls, descriptor: int) -> "Rtnl":
        """For the namespace where another process opened this NETLINK_ROUTE socket.

        Takes the descriptor over: closing this closes it.

        Raises:
            InvalidInput: it is something else; it is closed then, too.
        """
        try:
            sock = socket.socket(fileno=descriptor)
        except OSError as error:
            os.close(descriptor)
            raise InvalidInput("not a socket") from error
        if (sock.family, sock.proto) != (socket.AF_NETLINK, NETLINK_ROUTE):
            sock.close()
            raise InvalidInput("not a socket of rtnetlink")
        try:
            for option in (NETLINK_EXT_ACK, NETLINK_CAP_ACK, NETLINK_GET_STRICT_CHK):
                sock.setsockopt(SOL_NETLINK, option, 1)
            made = NetlinkSocket(sock)
        except OSError as error:
            sock.close()
            raise kernel_error("adopt a netlink socket", error.errno or errno.EIO) from error
        made.drain()
        return cls(made)

    def close(self) -> None:
        self._sock.close()

    def fileno(self) -> int:
        return self._sock.fileno()

    def __enter__(self) -> "Rtnl":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Links.

    def links(self) -> list[Link]:
        return list(map(link.decode, self._sock.dump(link.dump())))

    def link(self, name_or_index: str | int) -> Link:
        return link.decode(self._do(link.get(name_or_index))[0])

    def create_veth(
        self,
        name: str,
        peer: VethPeer,
        *,
        mac: bytes | None = None,
        mtu: int | None = None,
        group: int | None = None,
    ) -> Link:
        said = self._do(link.create_veth(name, peer, mac=mac, mtu=mtu, group=group))
        return link.decode(said[0]) if said else self.link(name)

    def create_bridge(
        self,
        name: str,
        *,
        mac: bytes | None = None,
        mtu: int | None = None,
        group: int | None = None,
    ) -> Link:
        """
        Raises:
            AlreadyExists: the name is taken.
        """
        self._do(link.create_bridge(name, mac=mac, mtu=mtu, group=group))
        return self.link(name)

    def change_link(self, index: int, wanted: LinkChange) -> None:
        self._do(link.change(index, wanted))

    def stop_address_generation(self, index: int) -> None:
        self._do(link.no_generated_address(index))

    def delete_link(self, name_or_index: str | int) -> None:
        """Delete one link; for a veth the kernel takes about 22 ms.

        Raises:
            NotFound: no such link.
        """
        self._do(link.delete(name_or_index))

    def delete_links(self, indexes: Collection[int]) -> None:
        doomed = LinkChange(group=link.DOOMED_GROUP)
        outcomes = self.run([link.change(index, doomed) for index in indexes])
        for outcome in outcomes:
            if outcome is not None and not isinstance(outcome, NotFound):
                raise outcome
        if any(outcome is None for outcome in outcomes):
            self.delete_group(link.DOOMED_GROUP)

    def delete_group(self, group: int) -> None:
        """Delete all links of a group in one wait of the kernel; none is fine."""
        self._attempt(link.delete_group(group))

    def guard_links(self, indexes: Sequence[int], mark_bit: int) -> Outcomes:
        return self._filter_links(indexes, lambda index: guard.add_filter(index, mark_bit))

    def mark_links(self, indexes: Sequence[int], mark: int, mask: int) -> Outcomes:
        return self._filter_links(indexes, lambda index: guard.add_marker(index, mark, mask))

    def _filter_links(self, indexes: Sequence[int], make: Callable[[int], Request]) -> Outcomes:
        outcomes = self.run([guard.add_hook(index) for index in indexes])
        hooked = [
            place
            for place, outcome in enumerate(outcomes)
            if outcome is None or isinstance(outcome, AlreadyExists)
        ]
        filters = self.run([make(indexes[place]) for place in hooked])
        for place, outcome in zip(hooked, filters, strict=True):
            if isinstance(outcome, NotFound):
                # The link is there, it has just got its hook: there are no such filters.
                outcome = KernelRefused(str(outcome), errno.EOPNOTSUPP)
            outcomes[place] = outcome
        return outcomes

    def unguard_links(self) -> None:
        found = map(guard.hook_of, self._sock.dump(guard.dump_hooks()))
        self.run([one for index in _present(found) for one in guard.delete_filters(index)])

    def create_ifb(self, name: str, *, mtu: int) -> Link:
        self._do(link.create_ifb(name, mtu=mtu))
        return self.link(name)

    def shape_links(self, wanted: Sequence[tuple[int, Bucket]]) -> Outcomes:
        return self.run([shaper.set_bucket(index, bucket) for index, bucket in wanted])

    def unshape_links(self, indexes: Sequence[int]) -> None:
        self.run([shaper.remove_bucket(index) for index in indexes])

    def divert_links(self, wanted: Sequence[tuple[int, int]]) -> Outcomes:
        indexes = [index for index, _ in wanted]
        self.run([guard.add_hook(index) for index in indexes])  # there may be one
        self.undivert_links(indexes)
        return self.run([shaper.divert(index, through) for index, through in wanted])

    def undivert_links(self, indexes: Sequence[int]) -> None:
        self.run([shaper.end_diversion(index) for index in indexes])

    def shapes(self) -> list[Shape]:
        return list(_present(map(shaper.shape_of, self._sock.dump(guard.dump_hooks()))))

    # Addresses.

    def addresses(self, family: int | None = None, *, interface: int = 0) -> list[Address]:
        """Addresses of one interface, or of all."""
        found = _present(map(address.decode, self._sock.dump(address.dump(family, interface))))
        return [entry for entry in found if interface in (0, entry.interface)]

    def add_address(
        self, wanted: Address, *, replace: bool = True, prefix_route: bool = True
    ) -> None:
        """
        Raises:
            NotFound: no such link.
            AlreadyExists: the link has it, and `replace` is False.
        """
        self._do(address.add(wanted, replace=replace, prefix_route=prefix_route))

    def delete_address(self, gone: Address) -> None:
        """
        Raises:
            NotFound: no such link, or it does not have this address.
        """
        self._do(address.delete(gone))

    # Routes.

    def routes(
        self,
        family: int | None = None,
        *,
        table: int = 0,
        protocol: int = 0,
        interface: int = 0,
    ) -> list[Route]:
        request = route.dump(family, table=table, protocol=protocol, interface=interface)
        try:
            answers = self._sock.dump(request)
        except KernelRefused as error:
            if error.errno != errno.ENOENT:  # a table that nobody has put a route in yet
                raise
            return []
        return [
            entry
            for entry in _present(map(route.decode, answers))
            if table in (0, entry.table)
            and protocol in (0, entry.protocol)
            and interface in (0, entry.interface)
        ]

    def interface_towards(self, address: Network) -> int:
        try:
            (answer,) = self._sock.request(route.lookup(address))
        except (KernelRefused, NotFound):  # unreachable, blackhole, prohibit
            return 0
        return route.decode_interface(answer)

    def add_route(self, wanted: Route) -> None:
        """
        Raises:
            AlreadyExists: a route with this key.
            NotFound: no such link.
        """
        self._one(route.add(wanted), wanted)

    def replace_route(self, wanted: Route) -> None:
        """
        Raises:
            NotFound: no such link.
        """
        self._one(route.replace(wanted), wanted)

    def delete_route(self, gone: Route) -> None:
        """
        Raises:
            NotFound: no such route.
        """
        self._one(route.delete(gone), gone)

    def add_routes(self, wanted: Sequence[Route]) -> Outcomes:
        return self._bulk([route.add(entry) for entry in wanted], wanted)

    def replace_routes(self, wanted: Sequence[Route]) -> Outcomes:
        return self._bulk([route.replace(entry) for entry in wanted], wanted)

    def delete_routes(self, gone: Sequence[Route]) -> Outcomes:
        return self._bulk([route.delete(entry) for entry in gone], gone)

    # Rules.

    def rules(self, family: int | None = None) -> list[Rule]:
        return _present(map(rule.decode, self._sock.dump(rule.dump(family))))

    def add_rule(self, wanted: Rule, *, again: bool = False) -> None:
        self._do(rule.add(wanted, again=again))

    def delete_rule(self, gone: Rule) -> None:
        self._do(rule.delete(gone))

    # Neighbours.

    def neighbours(
        self, family: int | None = None, *, proxy: bool = False, interface: int = 0
    ) -> list[Neighbour]:
        found = self._sock.dump(neighbour.dump(family, proxy=proxy))
        return [
            entry
            for entry in _present(map(neighbour.decode, found))
            if interface in (0, entry.interface)
        ]

    def replace_neighbours(self, wanted: Sequence[Neighbour]) -> Outcomes:
        return self.run([neighbour.replace(entry) for entry in wanted])

    def delete_neighbours(self, gone: Sequence[Neighbour]) -> Outcomes:
        return self.run([neighbour.delete(entry) for entry in gone])

    # Many at once.

    def run(self, requests: Sequence[Request]) -> Outcomes:
        """Do many things with few system calls, each on its own, in this order.

        Takes what the functions of the object modules return, such as
        `link.change` and `route.replace`.

        Returns:
            One entry for each request; None where it is done.

        Raises:
            OutcomeUnknown: answers were lost; some are done and some are not.
        """
        return self._bulk(requests, [""] * len(requests))

    def _bulk(self, requests: Sequence[Request], subjects: Sequence[object]) -> Outcomes:
        outcomes: Outcomes = [None] * len(requests)
        for start in range(0, len(requests), _BULK_COUNT):
            refusals = self._send_some(requests[start : start + _BULK_COUNT])
            for offset, said in refusals.items():
                position = start + offset
                name = f"{requests[position].operation} {subjects[position]}".rstrip()
                outcomes[position] = _error(name, said.code, said.detail)
        return outcomes

    def _send_some(self, requests: Sequence[Request]) -> dict[int, Acknowledgement]:
        """Refusals by position.

        The kernel answers a refused request in any case, and a granted one
        only if asked: asking for the last one alone says when all are handled.
        """
        count = len(requests)
        first = self._sock.reserve_sequences(count)
        parts = [
            message(kind, flags | NLM_F_REQUEST, sequence, payload)
            for sequence, (_, kind, flags, payload) in enumerate(requests, first)
        ]
        _, kind, flags, payload = requests[-1]
        parts[-1] = message(kind, flags | NLM_F_REQUEST | NLM_F_ACK, first + count - 1, payload)
        self._sock.send(b"".join(parts))
        refusals: dict[int, Acknowledgement] = {}
        while True:
            datagram = self._sock.receive()
            if datagram is None:
                raise OutcomeUnknown(f"{requests[0].operation}: the kernel did not answer")
            for answer in messages(datagram):
                position = answer.sequence - first
                if answer.kind != NLMSG_ERROR or not 0 <= position < count:
                    continue
                said = acknowledgement(answer)
                if said.code:
                    refusals[position] = said
                if position == count - 1:
                    return refusals

    def _one(self, request: Request, subject: object) -> None:
        (outcome,) = self._bulk([request], [subject])
        if outcome is not None:
            raise outcome

    def _do(self, request: Request) -> list[Message]:
        try:
            return self._sock.request(request)
        except KernelRefused as error:
            raise _error(request.operation, error.errno, str(error)) from error

    def _attempt(self, request: Request) -> None:
        try:
            self._do(request)
        except NotFound:
            return


def _error(operation: str, code: int, detail: str) -> TortieError:
    said = detail.removeprefix(f"{operation}: ")
    if code in _GONE:
        return NotFound(f"{operation}: {said}")
    if code == errno.EEXIST:
        return AlreadyExists(f"{operation}: {said}")
    return kernel_error(operation, code, said)


def _present(found: Iterable[T | None]) -> list[T]:
    return [entry for entry in found if entry is not None]
