"""User data: bytes that the kernel keeps with an object and never looks at.

nft(8) stores TLVs there (1 byte type, 1 byte length), comments among them, and
skips types that it does not know; so do we.

Source: libnftnl include/libnftnl/udata.h.
"""

import struct
from collections.abc import Iterator

from tortie.kernel.nft.constants import USERDATA_BYTES

RULE_COMMENT = 0
RULE_TAG = 0x54
"""Ours: far from the types that nft(8) numbers from 0 up."""

SET_KEY_BYTEORDER = 0
SET_DATA_BYTEORDER = 1
SET_COMMENT = 7

HOST_ORDER = 1
NETWORK_ORDER = 2

COMMENT_BYTES = 128
"""nft(8) refuses longer ones on the way back in."""


def tlv(kind: int, value: bytes) -> bytes:
    return bytes((kind, len(value))) + value


def tlv_u32(kind: int, value: int) -> bytes:
    """Host byte order, as nft(8) writes it."""
    return tlv(kind, struct.pack("=I", value))


def tlvs(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Walk (type, value); stops where it is not TLVs any more."""
    offset = 0
    while offset + 2 <= len(data):
        kind, length = data[offset], data[offset + 1]
        if offset + 2 + length > len(data):
            return
        yield kind, data[offset + 2 : offset + 2 + length]
        offset += 2 + length


def find(data: bytes, kind: int) -> bytes:
    """The value of the first such TLV, empty if there is none."""
    return next((value for found, value in tlvs(data) if found == kind), b"")


def comment_tlv(kind: int, comment: str) -> bytes:
    """A comment, cut to what nft(8) takes; quotes and line ends would break its listing."""
    clean = "".join(c if c.isprintable() and c not in '"\\' else "?" for c in comment)
    return tlv(kind, clean.encode()[: COMMENT_BYTES - 1].decode(errors="ignore").encode() + b"\0")


def pack_rule(*, comment: str = "", tag: bytes = b"") -> bytes:
    """User data of a rule.

    Args:
        comment: for people, cut at 127 bytes.
        tag: for us, at most 120 bytes.
    """
    packed = comment_tlv(RULE_COMMENT, comment) if comment else b""
    if tag:
        packed += tlv(RULE_TAG, tag)
    assert len(packed) <= USERDATA_BYTES
    return packed


def rule_comment(data: bytes) -> str:
    return _text(find(data, RULE_COMMENT))


def rule_tag(data: bytes) -> bytes:
    return find(data, RULE_TAG)


def set_comment(data: bytes) -> str:
    return _text(find(data, SET_COMMENT))


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")
