"""NFLOG: packets that rules have logged to a group, as the kernel hands them out.

The kernel collects what is logged and sends it in one datagram, when
`QUEUE_PACKETS` have come or `QUEUE_SECONDS` after the first: so a listener
wakes a few times a second at most, whatever the traffic. Of a packet come its
first bytes, its mark, its links and the prefix of the rule.

A group has one listener; while nobody listens, logging costs next to nothing.
What the receive queue has no room for is lost, and counted by the gaps it
leaves in the kernel's numbers.

Source: include/uapi/linux/netfilter/nfnetlink_log.h, net/netfilter/nfnetlink_log.c.
"""

import errno
import struct
from typing import NamedTuple

from tortie.kernel import netlink
from tortie.kernel.netlink import (
    NETLINK_NETFILTER,
    OutcomeUnknown,
    Request,
    attribute,
    attribute_be16,
    attribute_be32,
    attribute_map,
    attribute_u8,
    be,
    text,
)
from tortie.kernel.netlink_socket import NetlinkSocket
from tortie.lib.errors import AlreadyExists, KernelRefused

_SUBSYSTEM = 4 << 8
_PACKET, _CONFIG = _SUBSYSTEM | 0, _SUBSYSTEM | 1

_HEADER = struct.Struct("=BB2s")
"""struct nfgenmsg: family, version, group in network byte order."""

_CONFIG_COMMAND, _CONFIG_MODE, _CONFIG_BUFFER, _CONFIG_TIMEOUT = 1, 2, 3, 4
_CONFIG_THRESHOLD, _CONFIG_FLAGS = 5, 6
_BIND = 1
_COPY_PACKET = 2
_FLAG_SEQUENCE = 1

_PACKET_HEADER, _MARK, _IN_LINK, _OUT_LINK, _PAYLOAD, _PREFIX, _SEQUENCE = 1, 2, 4, 5, 9, 10, 12
_NOTHING = memoryview(b"")

SNAP_BYTES = 128
"""Enough for an IPv6 header, an extension header or two, and ports."""
QUEUE_PACKETS = 64
QUEUE_SECONDS = 0.2
_BUFFER_BYTES = 32 << 10
"""Of the datagram that the kernel collects; holds `QUEUE_PACKETS` with all that they carry."""
_RECEIVE_QUEUE_BYTES = 1 << 20


class Packet(NamedTuple):
    """One logged packet."""

    family: int
    """4 or 6; 0 for anything else."""
    hook: int
    """NF_INET_*: 0 prerouting, 1 input, 2 forward, 3 output, 4 postrouting."""
    prefix: str
    """Of the rule that logged it."""
    mark: int
    in_link: int
    """Index of the link that it came by; 0 if it is the host's own."""
    out_link: int
    """Index of the link that it goes by; 0 before that is known."""
    payload: bytes
    """From the network header on, at most `SNAP_BYTES`."""


class Nflog:
    """Listens to one group, in the namespace where it was opened. Never blocks."""

    def __init__(self, sock: NetlinkSocket) -> None:
        self._sock = sock
        self._next_sequence: int | None = None
        self.lost_count = 0
        """Packets that were logged and never got here."""

    @classmethod
    def open(cls, group: int) -> "Nflog":
        """
        Raises:
            AlreadyExists: another process listens to this group.
            KernelRefused: the kernel has no NFLOG.
        """
        sock = NetlinkSocket.open(NETLINK_NETFILTER, queue_bytes=_RECEIVE_QUEUE_BYTES)
        try:
            _configure(sock, group)
        except KernelRefused as error:
            sock.close()
            # The same as for want of privilege, which whoever gets here has not.
            if error.errno == errno.EPERM:
                raise AlreadyExists(
                    f"NFLOG group {group} has another listener, or this needs CAP_NET_ADMIN"
                ) from error
            raise
        except BaseException:
            sock.close()
            raise
        return cls(sock)

    def fileno(self) -> int:
        """For `loop.add_reader`."""
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()

    def __enter__(self) -> "Nflog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self) -> list[Packet]:
        """All that has come, without waiting."""
        found: list[Packet] = []
        while True:
            try:
                datagram = self._sock.receive(wait=False)
            except OutcomeUnknown:
                continue  # the gap in the numbers will say how many
            if datagram is None:
                return found
            for one in netlink.messages(datagram):
                if one.kind == _PACKET:
                    found.append(self._decode(one.payload))

    def _decode(self, payload: memoryview) -> Packet:
        found = attribute_map(payload[_HEADER.size :])
        if _SEQUENCE in found:
            sequence = be(found[_SEQUENCE])
            if self._next_sequence is not None:
                self.lost_count += (sequence - self._next_sequence) & 0xFFFFFFFF
            self._next_sequence = (sequence + 1) & 0xFFFFFFFF
        header = found.get(_PACKET_HEADER, _NOTHING)
        return Packet(
            family=_FAMILIES.get(payload[0], 0) or _ETHERTYPES.get(be(header[:2]), 0),
            hook=header[2] if len(header) > 2 else 0,
            prefix=text(found.get(_PREFIX, _NOTHING)),
            mark=be(found.get(_MARK, _NOTHING)),
            in_link=be(found.get(_IN_LINK, _NOTHING)),
            out_link=be(found.get(_OUT_LINK, _NOTHING)),
            payload=bytes(found.get(_PAYLOAD, _NOTHING)),
        )


_FAMILIES = {2: 4, 10: 6}
_ETHERTYPES = {0x0800: 4, 0x86DD: 6}


def _configure(sock: NetlinkSocket, group: int) -> None:
    header = _HEADER.pack(0, 0, group.to_bytes(2, "big"))
    sock.request(
        Request(
            f"listen to NFLOG group {group}",
            _CONFIG,
            0,
            header + attribute_u8(_CONFIG_COMMAND, _BIND),
        )
    )
    settings = (
        attribute(_CONFIG_MODE, struct.pack("!IBB", SNAP_BYTES, _COPY_PACKET, 0)),
        attribute_be32(_CONFIG_BUFFER, _BUFFER_BYTES),
        attribute_be32(_CONFIG_TIMEOUT, round(QUEUE_SECONDS * 100)),
        attribute_be32(_CONFIG_THRESHOLD, QUEUE_PACKETS),
        attribute_be16(_CONFIG_FLAGS, _FLAG_SEQUENCE),
    )
    sock.request(Request(f"set up NFLOG group {group}", _CONFIG, 0, header + b"".join(settings)))
