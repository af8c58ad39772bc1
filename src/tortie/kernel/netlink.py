"""Netlink messages and attributes: what nf_tables and rtnetlink share.

Everything is bytes in the kernel's own layout: packers return bytes that are already padded to 4,
so a message is a plain concatenation, and readers walk memoryviews without copying.
`netlink_socket` sends and receives them.

Source: include/uapi/linux/netlink.h; Documentation/userspace-api/netlink/intro.rst.
"""

import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

from tortie.lib.errors import KernelBusy

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12

NLM_F_REQUEST = 0x01
NLM_F_MULTI = 0x02
NLM_F_ACK = 0x04
NLM_F_ECHO = 0x08
NLM_F_DUMP_INTR = 0x10
NLM_F_DUMP = 0x300
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_APPEND = 0x800
NLM_F_NONREC = 0x100
NLM_F_BULK = 0x200
NLM_F_CAPPED = 0x100
NLM_F_ACK_TLVS = 0x200

NLMSG_NOOP = 1
NLMSG_ERROR = 2
NLMSG_DONE = 3
NLMSG_OVERRUN = 4

NLA_F_NESTED = 0x8000
NLA_TYPE_MASK = 0x3FFF

SOL_NETLINK = 270
NETLINK_ADD_MEMBERSHIP = 1
NETLINK_DROP_MEMBERSHIP = 2
NETLINK_CAP_ACK = 10
NETLINK_EXT_ACK = 11
NETLINK_GET_STRICT_CHK = 12

SO_SNDBUFFORCE = 32
SO_RCVBUFFORCE = 33

_NLMSGERR_ATTR_MSG = 1
_NLMSGERR_ATTR_OFFS = 2
_NLMSGERR_ATTR_MISS_TYPE = 5

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_I32 = struct.Struct("=i")
_U32 = struct.Struct("=I")
_U32_ATTRIBUTE = struct.Struct("=HHI")
_BE32_ATTRIBUTE = struct.Struct("=HH4s")
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")

HEADER_BYTES = _HEADER.size


class OutcomeUnknown(KernelBusy):
    """Answers or events were lost: read the kernel's state back, then go on."""


class Message(NamedTuple):
    """One netlink message as received."""

    kind: int
    flags: int
    sequence: int
    port_id: int
    """Our own port for answers; in an event, the port of whoever caused it; 0 is the kernel."""
    payload: memoryview
    """Everything behind the header, family header included."""


class Acknowledgement(NamedTuple):
    """What the kernel said to one request."""

    sequence: int
    code: int
    """A positive errno; 0 means done."""
    text: str = ""
    """The extended acknowledgement, empty if the kernel gave none."""
    offset: int = 0
    """Where in the request the bad attribute starts; 0 means not said."""
    missing: int = 0
    """The attribute type that the request should have had; 0 means not said."""

    @property
    def detail(self) -> str:
        """The reason in words, for an error message."""
        parts = [self.text or os.strerror(self.code)]
        if self.offset:
            parts.append(f"at byte {self.offset} of the message")
        if self.missing:
            parts.append(f"attribute {self.missing} is missing")
        return ", ".join(parts)


# Packing.


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded to 4 bytes."""
    length = len(payload)
    return _ATTRIBUTE.pack(length + 4, kind) + payload + _PADDING[length & 3]


def nested(kind: int, *parts: bytes) -> bytes:
    """An attribute that holds attributes, each already packed."""
    payload = b"".join(parts)
    return _ATTRIBUTE.pack(len(payload) + 4, kind | NLA_F_NESTED) + payload


def attribute_u8(kind: int, value: int) -> bytes:
    return attribute(kind, value.to_bytes(1, "big"))


def attribute_u16(kind: int, value: int) -> bytes:
    """Host byte order, as rtnetlink wants it."""
    return attribute(kind, struct.pack("=H", value))


def attribute_u32(kind: int, value: int) -> bytes:
    """Host byte order, as rtnetlink wants it."""
    return _U32_ATTRIBUTE.pack(8, kind, value)


def attribute_be16(kind: int, value: int) -> bytes:
    """Network byte order, as nfnetlink wants it."""
    return attribute(kind, value.to_bytes(2, "big"))


def attribute_be32(kind: int, value: int) -> bytes:
    """Network byte order, as nfnetlink wants it."""
    return _BE32_ATTRIBUTE.pack(8, kind, value.to_bytes(4, "big"))


def attribute_be64(kind: int, value: int) -> bytes:
    """Network byte order, as nfnetlink wants it."""
    return attribute(kind, value.to_bytes(8, "big"))


def attribute_string(kind: int, text: str) -> bytes:
    """With the NUL that the kernel's string attributes end in."""
    return attribute(kind, text.encode() + b"\0")


def message(kind: int, flags: int, sequence: int, payload: bytes) -> bytes:
    """One message; `payload` must be padded to 4 bytes, as all packers here leave it."""
    return _HEADER.pack(HEADER_BYTES + len(payload), kind, flags, sequence, 0) + payload


def host_u32(value: int) -> bytes:
    """The bare number in host byte order."""
    return _U32.pack(value)


# Reading.


def attributes(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Walk (type without flag bits, value); stops at a malformed length."""
    offset, end = 0, len(data)
    unpack = _ATTRIBUTE.unpack_from
    while offset + 4 <= end:
        length, kind = unpack(data, offset)
        if length < 4 or offset + length > end:
            return
        yield kind & NLA_TYPE_MASK, data[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def attribute_map(data: memoryview) -> dict[int, memoryview]:
    """Attributes by type; the last one wins where a type repeats."""
    return dict(attributes(data))


def u32(data: memoryview) -> int:
    """Host byte order."""
    return int.from_bytes(data[:4], "little" if _LITTLE else "big")


def u16(data: memoryview) -> int:
    """Host byte order."""
    return int.from_bytes(data[:2], "little" if _LITTLE else "big")


def be(data: memoryview) -> int:
    """Network byte order, of any width."""
    return int.from_bytes(data, "big")


def text(data: memoryview) -> str:
    """A string attribute without its NUL."""
    return bytes(data).rstrip(b"\0").decode(errors="replace")


_LITTLE = struct.pack("=H", 1) == b"\1\0"


def messages(data: bytes) -> Iterator[Message]:
    """Walk the messages of one datagram; stops at a malformed length."""
    view = memoryview(data)
    offset, end = 0, len(data)
    while offset + HEADER_BYTES <= end:
        length, kind, flags, sequence, port_id = _HEADER.unpack_from(data, offset)
        if length < HEADER_BYTES or offset + length > end:
            return
        payload = view[offset + HEADER_BYTES : offset + length]
        yield Message(kind, flags, sequence, port_id, payload)
        offset += (length + 3) & ~3


def acknowledgement(answer: Message) -> Acknowledgement:
    """Read an NLMSG_ERROR, or the NLMSG_DONE that ends a dump.

    Source: struct nlmsgerr and enum nlmsgerr_attrs, include/uapi/linux/netlink.h.
    """
    payload = answer.payload
    code = -_I32.unpack_from(payload)[0] if len(payload) >= 4 else 0
    if not answer.flags & NLM_F_ACK_TLVS:
        return Acknowledgement(answer.sequence, code)
    start = 4
    if answer.kind == NLMSG_ERROR:
        start += HEADER_BYTES
        if not answer.flags & NLM_F_CAPPED:
            start += (_U32.unpack_from(payload, 4)[0] - HEADER_BYTES + 3) & ~3
    found = attribute_map(payload[start:])
    return Acknowledgement(
        answer.sequence,
        code,
        text(found[_NLMSGERR_ATTR_MSG]) if _NLMSGERR_ATTR_MSG in found else "",
        u32(found[_NLMSGERR_ATTR_OFFS]) if _NLMSGERR_ATTR_OFFS in found else 0,
        u32(found[_NLMSGERR_ATTR_MISS_TYPE]) if _NLMSGERR_ATTR_MISS_TYPE in found else 0,
    )


class Request(NamedTuple):
    """One message to send; NLM_F_REQUEST and the sequence number are added on the way."""

    operation: str
    """For error messages: what this is meant to do, "add link cali1234"."""
    kind: int
    flags: int
    payload: bytes
