"""Changes of links, addresses, routes, neighbours and rules, as they happen.

The kernel keeps a bounded queue for each listener and drops what does not
fit. Then one ENOBUFS is reported, and *everything* until the queue has been
read empty is dropped silently. So the order is: read the queue empty, then
tell `Overflow`; a consumer that reads the kernel's state back after that
misses nothing, and one that did so earlier would.

Events say what is, not what was asked for: `LinkChanged` holds the link as it
is now. Consumers put them in their inbox by `key`, newest value wins.
"""

import asyncio
import errno
import socket
from collections.abc import Callable, Iterable
from enum import IntEnum

import msgspec

from tortie.kernel.netlink import NETLINK_ROUTE, Message, OutcomeUnknown, messages
from tortie.kernel.netlink_socket import NetlinkSocket
from tortie.kernel.rtnl import address, kinds, link, neighbour, route
from tortie.kernel.rtnl.address import Address
from tortie.kernel.rtnl.link import Link
from tortie.kernel.rtnl.neighbour import Neighbour
from tortie.kernel.rtnl.route import Route
from tortie.lib.errors import kernel_error

QUEUE_BYTES = 16 << 20
"""The kernel accounts about 2.3 KB for a link event: some 7,000 of them."""

_SO_RCVBUFFORCE = 33
_DATAGRAMS_PER_TURN = 256
"""Then others get the loop's attention; the socket stays readable meanwhile."""


class Group(IntEnum):
    """Multicast groups. Source: include/uapi/linux/rtnetlink.h, rtnetlink_groups."""

    LINK = 1
    NEIGHBOUR = 3
    """Proxy entries are not told of (Linux 6.18): read them back now and then."""
    IPV4_ADDRESS = 5
    IPV4_ROUTE = 7
    IPV4_RULE = 8
    IPV6_ADDRESS = 9
    IPV6_ROUTE = 11
    IPV6_RULE = 19


class LinkChanged(msgspec.Struct, frozen=True):
    """The link is new or differs."""

    link: Link


class LinkGone(msgspec.Struct, frozen=True):
    """Deleted, or moved to another namespace."""

    link: Link
    """As it was at the end."""


class AddressChanged(msgspec.Struct, frozen=True):
    address: Address


class AddressGone(msgspec.Struct, frozen=True):
    address: Address


class RouteChanged(msgspec.Struct, frozen=True):
    """New, or in the place of the route with the same key.

    When a link goes or is set down, the kernel removes its IPv4 routes
    *without* telling (IPv6 tells): read the routes back after such an event.
    """

    route: Route


class RouteGone(msgspec.Struct, frozen=True):
    route: Route


class NeighbourChanged(msgspec.Struct, frozen=True):
    neighbour: Neighbour


class NeighbourGone(msgspec.Struct, frozen=True):
    neighbour: Neighbour


class RulesChanged(msgspec.Struct, frozen=True):
    """A routing rule is new or gone: what counts is their order, so read them back."""


class Overflow(msgspec.Struct, frozen=True):
    """Events were lost: read the state back. What follows is complete again."""


Event = (
    LinkChanged
    | LinkGone
    | AddressChanged
    | AddressGone
    | RouteChanged
    | RouteGone
    | NeighbourChanged
    | NeighbourGone
    | RulesChanged
    | Overflow
)


class Monitor:
    """Listens for the namespace where it was opened; calls back on the loop.

    From `open` on nothing is missed, so: open, read the state, then `start`;
    events about what the reading has seen already are repeated, harmlessly.
    """

    def __init__(self, sock: NetlinkSocket, on_event: Callable[[Event], None]) -> None:
        self._sock = sock
        self._on_event = on_event
        self._loop: asyncio.AbstractEventLoop | None = None
        self._overflowed = False

    @classmethod
    def open(
        cls,
        on_event: Callable[[Event], None],
        *,
        groups: Iterable[Group] = (Group.LINK,),
        queue_bytes: int = QUEUE_BYTES,
    ) -> "Monitor":
        """
        Args:
            on_event: called in the loop's thread, in the kernel's order; must
                not raise and must not take long.
            queue_bytes: how much the kernel keeps for us; without
                CAP_NET_ADMIN no more than net.core.rmem_max.
        """
        sock = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_ROUTE
        )
        try:
            sock.bind((0, 0))
            try:
                sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, queue_bytes)
            except PermissionError:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, queue_bytes)
            made = NetlinkSocket(sock)
            for group in groups:
                made.join(group)
        except OSError as error:
            sock.close()
            raise kernel_error("listen to rtnetlink", error.errno or errno.EIO) from error
        return cls(made, on_event)

    def start(self) -> None:
        """Begin calling back; within the running loop."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._sock.fileno(), self._on_readable)

    def close(self) -> None:
        """Stop; nothing is called back after this."""
        if self._loop is not None:
            self._loop.remove_reader(self._sock.fileno())
            self._loop = None
        self._sock.close()

    def _on_readable(self) -> None:
        for _ in range(_DATAGRAMS_PER_TURN):
            try:
                datagram = self._sock.receive(wait=False)
            except OutcomeUnknown:
                self._overflowed = True
                continue
            if datagram is None:
                if self._overflowed:
                    self._overflowed = False
                    self._on_event(Overflow())
                return
            for message in messages(datagram):
                event = decode(message)
                if event is not None:
                    self._on_event(event)
                if self._loop is None:  # closed by the consumer
                    return


def decode(message: Message) -> Event | None:
    """None for messages that are no change of an object we have a value for."""
    match message.kind:
        case kinds.NEW_LINK | kinds.DELETE_LINK:
            return _link_event(message)
        case kinds.NEW_ADDRESS | kinds.DELETE_ADDRESS:
            owned = address.decode(message)
            if owned is None:
                return None
            is_new = message.kind == kinds.NEW_ADDRESS
            return AddressChanged(owned) if is_new else AddressGone(owned)
        case kinds.NEW_ROUTE | kinds.DELETE_ROUTE:
            path = route.decode(message)
            if path is None:
                return None
            return RouteChanged(path) if message.kind == kinds.NEW_ROUTE else RouteGone(path)
        case kinds.NEW_NEIGHBOUR | kinds.DELETE_NEIGHBOUR:
            known = neighbour.decode(message)
            if known is None:
                return None
            is_new = message.kind == kinds.NEW_NEIGHBOUR
            return NeighbourChanged(known) if is_new else NeighbourGone(known)
        case kinds.NEW_RULE | kinds.DELETE_RULE:
            return RulesChanged()
    return None


def _link_event(message: Message) -> Event | None:
    # A bridge tells of its ports in the same group and with the same types:
    # AF_BRIDGE messages, where "deleted" means "no longer a port".
    if message.payload[0] != kinds.AF_UNSPEC:
        return None
    described = link.decode(message)
    return LinkChanged(described) if message.kind == kinds.NEW_LINK else LinkGone(described)
