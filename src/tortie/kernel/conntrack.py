"""The kernel's connection table: list flows, and cut them.

A policy decides on a flow's first packet; what follows is let through by the
entry here. So an entry outlives the policy that allowed it, and even the
workload: whoever gets its address next receives the old flow. The agent
deletes what its new verdict denies, and everything of an address before it
may be used again.

A delete names the entry by tuple *and* id, so that a newer flow over the same
ports is not cut in place of the one that was judged.

Source: include/uapi/linux/netfilter/nfnetlink_conntrack.h,
net/netfilter/nf_conntrack_netlink.c.
"""

import errno
import struct
import threading
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import msgspec

from tortie.kernel.netlink import (
    NETLINK_NETFILTER,
    Message,
    OutcomeUnknown,
    Request,
    attribute,
    attribute_be16,
    attribute_be32,
    attribute_map,
    attribute_u8,
    attribute_u32,
    be,
    nested,
)
from tortie.kernel.netlink_socket import NetlinkSocket
from tortie.lib.errors import InvalidInput, kernel_error
from tortie.lib.ip import Network, from_packed

_SUBSYSTEM = 1 << 8
_GET, _DELETE, _GET_STATS = _SUBSYSTEM | 1, _SUBSYSTEM | 2, _SUBSYSTEM | 5

_HEADER = struct.Struct("=BBH")
"""struct nfgenmsg: family, version, resource id."""

_TUPLE_ORIGINAL, _TUPLE_REPLY, _STATUS, _MARK, _ID, _ZONE, _FILTER = 1, 2, 3, 8, 12, 18, 25
_COUNTERS_ORIGINAL, _COUNTERS_REPLY = 9, 10
_COUNTED_PACKETS, _COUNTED_BYTES = 1, 2
_GROUP_DESTROY = 3
"""NFNLGRP_CONNTRACK_DESTROY."""
_TUPLE_IP, _TUPLE_PROTOCOL = 1, 2
_SOURCE = {4: 1, 6: 3}
_DESTINATION = {4: 2, 6: 4}
_NUMBER, _SOURCE_PORT, _DESTINATION_PORT = 1, 2, 3
_ICMP = {4: (4, 5, 6), 6: (7, 8, 9)}
"""Attributes of an echo's id, type and code."""
_FILTER_ORIGINAL, _FILTER_REPLY = 1, 2
_FILTER_BY_SOURCE, _FILTER_BY_DESTINATION = 1, 2
_STATS_ENTRIES, _STATS_LIMIT = 1, 2

_AF = {4: 2, 6: 10}
_SEEN_REPLY, _ASSURED = 0x2, 0x4
_ICMP_PROTOCOLS = frozenset({1, 58})
_NOTHING = memoryview(b"")

_WHOLE_DUMP_UP_TO = 8000
"""Entries up to which one whole dump is cheaper than four filtered ones for an
address: each walks all buckets, 9 ms for 262,144 of them, however few entries."""

_SEARCHED_ADDRESSES = 8
"""More addresses than this are looked for by decoding every flow."""

_FILTERED_FAMILY = 4
"""Kernels up to 6.18 at least compare IPv6 addresses of a filter the wrong way round, and so find
what has others (ctnetlink_filter_match_tuple)."""

_NO_FILTERED_DELETE = (errno.EINVAL, errno.EOPNOTSUPP)
"""What kernels before 6.8 say: they take the filter's tuple for that of one entry, and half of it
is missing."""


class FlowTuple(msgspec.Struct, frozen=True, gc=False):
    """One direction of a flow, as the kernel identifies it."""

    source: Network
    destination: Network
    protocol: int
    source_port: int = 0
    destination_port: int = 0
    """Ports are 0 for protocols that have none."""
    icmp_type: int = 0
    icmp_code: int = 0
    icmp_id: int = 0
    """The three are 0 unless the protocol is ICMP (1) or ICMPv6 (58)."""


class Counted(NamedTuple):
    """0 where net.netfilter.nf_conntrack_acct was off when the flow began."""

    packets: int = 0
    bytes: int = 0


class Flow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One entry of the connection table."""

    original: FlowTuple
    """As the first packet was sent, before any NAT."""
    reply: FlowTuple
    """As answers arrive: with NAT this is not the mirror of `original`."""
    status: int = 0
    """IPS_* bits, include/uapi/linux/netfilter/nf_conntrack_common.h."""
    mark: int = 0
    zone: int = 0
    id: int = 0
    """Tells this entry from a later one with the same tuple."""
    sent: Counted = Counted()
    """In the direction of `original`."""
    answered: Counted = Counted()

    @property
    def seen_reply(self) -> bool:
        return bool(self.status & _SEEN_REPLY)

    @property
    def assured(self) -> bool:
        """Traffic in both directions; not dropped early when the table is full."""
        return bool(self.status & _ASSURED)

    @property
    def addresses(self) -> tuple[Network, Network, Network, Network]:
        """Every address that it involves, NAT's included."""
        return (
            self.original.source,
            self.original.destination,
            self.reply.source,
            self.reply.destination,
        )


class TableSize(NamedTuple):
    """How full the connection table is."""

    entries: int
    """Of this namespace."""
    limit: int
    """Of all namespaces together; 0 if the kernel does not say (before 5.12)."""


class Conntrack:
    """The connection table of the namespace where it was opened. Threads take turns."""

    def __init__(self, sock: NetlinkSocket) -> None:
        self._sock = sock
        self._turn = threading.RLock()
        self._deletes_by_filter = True
        """Until the kernel says no."""

    @classmethod
    def open(cls) -> "Conntrack":
        return cls(NetlinkSocket.open(NETLINK_NETFILTER))

    def close(self) -> None:
        self._sock.close()

    def __enter__(self) -> "Conntrack":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def size(self) -> TableSize:
        with self._turn:
            (answer,) = self._sock.request(Request("count flows", _GET_STATS, 0, _header(None)))
        found = attribute_map(answer.payload[_HEADER.size :])
        return TableSize(
            be(found.get(_STATS_ENTRIES, _NOTHING)), be(found.get(_STATS_LIMIT, _NOTHING))
        )

    def flows(self, family: int | None = None) -> list[Flow]:
        """All flows, or those of family 4 or 6.

        About 25 µs for each: to look for few addresses in a full table, let
        the kernel filter (`flows_involving`).
        """
        return _decode_all(self._dump(family))

    def flows_involving(self, addresses: Collection[Network]) -> list[Flow]:
        """Flows with one of these addresses at any end, before or after NAT.

        Raises:
            InvalidInput: a network of more than one address.
        """
        wanted = _addresses(addresses)
        # A listing walks all buckets, those of other namespaces too: 10 ms for nothing.
        if not wanted or not self.size().entries:
            return []
        # Kernels before 5.8 ignore filters and list everything, so look again here.
        # A flow may match several filters: a dict drops the doubles and keeps order.
        found = (flow for flow in self._candidates(wanted) if not wanted.isdisjoint(flow.addresses))
        return list({flow.id: flow for flow in found}.values())

    def _candidates(self, wanted: frozenset[Network]) -> Iterable[Flow]:
        """All flows of these addresses, and possibly others."""
        if len(wanted) > _SEARCHED_ADDRESSES:
            return self.flows()
        filters = all(address.family == _FILTERED_FAMILY for address in wanted)
        if filters and self.size().entries > _WHOLE_DUMP_UP_TO:
            return [flow for address in wanted for flow in self._filtered(address)]
        # Searching bytes costs a tenth of decoding.
        packed = [address.packed for address in wanted]
        return _decode_all(
            answer
            for answer in self._dump(None)
            if any(address in bytes(answer.payload) for address in packed)
        )

    def delete(self, flows: Sequence[Flow]) -> int:
        """Delete entries; those that are gone or replaced meanwhile are left alone.

        Returns:
            How many were there to delete.

        Raises:
            KernelRefused: no permission.
            OutcomeUnknown: answers were lost; list again.
        """
        deleted = 0
        with self._turn:
            answers = self._sock.request_all([_delete(flow) for flow in flows])
        for said in answers:
            if said.code not in (0, errno.ENOENT):
                raise kernel_error("delete flow", said.code, said.detail)
            deleted += said.code == 0
        return deleted

    def delete_involving(self, addresses: Collection[Network]) -> int:
        """Delete every flow of these addresses, in any role; about how many there were.

        Close the way for new flows first, or they appear behind the listing.
        Raises as `flows_involving` and `delete`.
        """
        wanted = _addresses(addresses)
        before = self.size().entries if wanted else 0
        if not before:
            return 0
        quickly = {address for address in wanted if address.family == _FILTERED_FAMILY}
        if len(quickly) > _SEARCHED_ADDRESSES or not self._delete_filtered(quickly):
            quickly.clear()
        deleted = max(0, before - self.size().entries) if quickly else 0
        return deleted + self.delete(self.flows_involving(wanted - quickly))

    def _dump(self, family: int | None) -> list[Message]:
        with self._turn:
            return self._sock.dump(Request("list flows", _GET, 0, _header(family)))

    def _filtered(self, address: Network) -> list[Flow]:
        found: list[Flow] = []
        for body in _filters(address):
            request = Request(f"list flows of {address.address_text}", _GET, 0, body)
            with self._turn:
                dumped = self._sock.dump(request)
            found += _decode_all(dumped)
        return found

    def _delete_filtered(self, addresses: Collection[Network]) -> bool:
        """Have the kernel delete all flows of these; False if it cannot.

        It looks into full buckets only, and takes no lock for the others: 0.2 ms for each of an
        address's four roles, where a listing takes 9.
        """
        if not self._deletes_by_filter:
            return False
        bodies = [body for address in addresses for body in _filters(address)]
        with self._turn:
            answers = self._sock.request_all(
                [Request("delete flows", _DELETE, 0, body) for body in bodies]
            )
        for said in answers:
            if said.code in _NO_FILTERED_DELETE:
                self._deletes_by_filter = False
            elif said.code not in (0, errno.ENOENT):
                raise kernel_error("delete flows", said.code, said.detail)
        return self._deletes_by_filter


class Ended:
    """Hears of flows that end, with what they have carried; of those alone that began since
    somebody listens (net.netfilter.nf_conntrack_events is 2). Never blocks."""

    QUEUE_BYTES = 1 << 20
    """Some thousand flows: who hears of more between two reads has to do without them."""

    def __init__(self) -> None:
        self._sock = NetlinkSocket.open(
            NETLINK_NETFILTER, groups=(_GROUP_DESTROY,), queue_bytes=self.QUEUE_BYTES
        )
        self.overflow_count = 0
        """How often flows were missed."""

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()

    def read(self) -> list[Flow]:
        """All that have come."""
        while True:
            try:
                return _decode_all(self._sock.events())
            except OutcomeUnknown:
                self.overflow_count += 1


def decode(message: Message) -> Flow | None:
    """A flow from a NEW or DELETE message; None if it is not IP."""
    found = attribute_map(message.payload[_HEADER.size :])
    original = _decode_tuple(found.get(_TUPLE_ORIGINAL, _NOTHING))
    reply = _decode_tuple(found.get(_TUPLE_REPLY, _NOTHING))
    if original is None or reply is None:
        return None
    return Flow(
        original=original,
        reply=reply,
        status=be(found.get(_STATUS, _NOTHING)),
        mark=be(found.get(_MARK, _NOTHING)),
        zone=be(found.get(_ZONE, _NOTHING)),
        id=be(found.get(_ID, _NOTHING)),
        sent=_counted(found.get(_COUNTERS_ORIGINAL)),
        answered=_counted(found.get(_COUNTERS_REPLY)),
    )


def _counted(data: memoryview | None) -> Counted:
    if data is None:
        return Counted()
    found = attribute_map(data)
    return Counted(
        be(found.get(_COUNTED_PACKETS, _NOTHING)), be(found.get(_COUNTED_BYTES, _NOTHING))
    )


def _decode_all(messages: Iterable[Message]) -> list[Flow]:
    return [flow for flow in map(decode, messages) if flow is not None]


def _decode_tuple(data: memoryview) -> FlowTuple | None:
    parts = attribute_map(data)
    ends = attribute_map(parts.get(_TUPLE_IP, _NOTHING))
    family = 4 if _SOURCE[4] in ends else 6
    source, destination = ends.get(_SOURCE[family]), ends.get(_DESTINATION[family])
    if source is None or destination is None:
        return None
    found = attribute_map(parts.get(_TUPLE_PROTOCOL, _NOTHING))
    icmp_id, icmp_type, icmp_code = (be(found.get(kind, _NOTHING)) for kind in _ICMP[family])
    return FlowTuple(
        from_packed(bytes(source)),
        from_packed(bytes(destination)),
        be(found.get(_NUMBER, _NOTHING)),
        be(found.get(_SOURCE_PORT, _NOTHING)),
        be(found.get(_DESTINATION_PORT, _NOTHING)),
        icmp_type,
        icmp_code,
        icmp_id,
    )


def _addresses(given: Collection[Network]) -> frozenset[Network]:
    for address in given:
        if not address.is_address:
            raise InvalidInput(f"{address} is a network where one address is expected")
    return frozenset(given)


def _filters(address: Network) -> Iterable[bytes]:
    """For each place that an address may have in a flow, a request about the flows where it does.

    Each has a tuple, so that a kernel that knows no filters takes it for one flow, not for all.
    """
    for by, kind in ((_FILTER_BY_SOURCE, _SOURCE), (_FILTER_BY_DESTINATION, _DESTINATION)):
        end = nested(_TUPLE_IP, attribute(kind[address.family], address.packed))
        for side, flags in ((_TUPLE_ORIGINAL, _FILTER_ORIGINAL), (_TUPLE_REPLY, _FILTER_REPLY)):
            # Both words of flags are required; 0 does not look at that direction.
            words = (
                attribute_u32(word, by if word == flags else 0)
                for word in (_FILTER_ORIGINAL, _FILTER_REPLY)
            )
            yield _header(address.family) + nested(side, end) + nested(_FILTER, *words)


def _delete(flow: Flow) -> Request:
    # A delete without a tuple would empty the whole table: it is always there.
    body = _header(flow.original.source.family)
    body += nested(_TUPLE_ORIGINAL, *_encode_tuple(flow.original))
    if flow.zone:
        body += attribute_be16(_ZONE, flow.zone)
    if flow.id:
        body += attribute_be32(_ID, flow.id)
    return Request("delete flow", _DELETE, 0, body)


def _encode_tuple(tuple_: FlowTuple) -> tuple[bytes, bytes]:
    family = tuple_.source.family
    ends = nested(
        _TUPLE_IP,
        attribute(_SOURCE[family], tuple_.source.packed),
        attribute(_DESTINATION[family], tuple_.destination.packed),
    )
    parts = [attribute_u8(_NUMBER, tuple_.protocol)]
    if tuple_.protocol in _ICMP_PROTOCOLS:
        id_kind, type_kind, code_kind = _ICMP[family]
        parts.append(attribute_be16(id_kind, tuple_.icmp_id))
        parts.append(attribute_u8(type_kind, tuple_.icmp_type))
        parts.append(attribute_u8(code_kind, tuple_.icmp_code))
    else:
        parts.append(attribute_be16(_SOURCE_PORT, tuple_.source_port))
        parts.append(attribute_be16(_DESTINATION_PORT, tuple_.destination_port))
    return ends, nested(_TUPLE_PROTOCOL, *parts)


def _header(family: int | None) -> bytes:
    return _HEADER.pack(_AF[family] if family else 0, 0, 0)
