"""etcd's messages byte by byte; the contract suite proves them against a real server."""

import pytest

from tortie.datastore.client import Delete, Entry, Event, Get, Put, Txn, absent, value_is
from tortie.datastore.etcd import messages
from tortie.datastore.etcd.wire import bytes_field, fields, number_field, signed, varint
from tortie.lib.errors import Unavailable

NUMBERS = [0, 1, 127, 128, 300, 2**32, 2**63 - 1, -1, -(2**63)]


@pytest.mark.parametrize("number", NUMBERS)
def test_numbers_survive_the_wire(number: int) -> None:
    ((tag, value, content),) = fields(number_field(5, number))
    assert (tag, signed(value), content) == (5, number, b"")


def test_a_varint_is_written_as_in_protobufs_own_example() -> None:
    assert varint(150) == b"\x96\x01"
    assert number_field(1, 150) == b"\x08\x96\x01"
    assert bytes_field(2, b"testing") == b"\x12\x07testing"


def test_large_field_numbers_and_unknown_kinds_are_read_past() -> None:
    fixed = varint(1 << 3 | 1) + bytes(8) + varint(2 << 3 | 5) + bytes(4)
    data = fixed + number_field(1000, 7) + bytes_field(64, b"x" * 200)
    assert list(fields(data)) == [(1000, 7, b""), (64, 0, b"x" * 200)]


@pytest.mark.parametrize("data", [b"\x08", b"\x12\x05abc", b"\x80", b"\x0b\x01", b"HTTP/1.1 400"])
def test_what_is_no_protobuf_is_refused(data: bytes) -> None:
    with pytest.raises(Unavailable):
        list(fields(data))


def test_a_prefix_ends_before_the_next_one() -> None:
    assert messages.range_end(b"/a/") == b"/a0"
    assert messages.range_end(b"a\xff") == b"b"
    assert messages.range_end(b"\xff\xff") == b"\0"
    assert messages.range_end(b"") == b"\0"


def test_a_transaction_as_bytes() -> None:
    txn = Txn([absent("k"), value_is("k", b"v")], [Put("k", b"v", 3), Delete("k")], [Get("k")])
    compares = (
        b"\x0a\x09\x08\x00\x10\x01\x1a\x01k\x28\x00" + b"\x0a\x0a\x08\x00\x10\x03\x1a\x01k\x3a\x01v"
    )
    success = b"\x12\x0a\x12\x08\x0a\x01k\x12\x01v\x18\x03" + b"\x12\x05\x1a\x03\x0a\x01k"
    assert messages.encode_txn(txn) == compares + success + b"\x1a\x05\x0a\x03\x0a\x01k"


def test_a_watch_response_from_bytes() -> None:
    header = bytes_field(1, number_field(1, 2**64 - 1) + number_field(3, 9))
    entry = bytes_field(1, b"k") + number_field(3, 8) + bytes_field(5, b"v")
    gone = bytes_field(1, b"k") + number_field(3, 9)
    events = bytes_field(11, bytes_field(2, entry)) + bytes_field(
        11, number_field(1, 1) + bytes_field(2, gone)
    )
    response = messages.decode_watch(header + events + number_field(7, 1))
    assert response.header == messages.Header(2**64 - 1, 9)
    assert response.events == [Event("k", b"v", 8), Event("k", None, 9)]
    assert response.fragment
    assert not response.canceled
    canceled = messages.decode_watch(
        number_field(4, 1) + number_field(5, 77) + bytes_field(6, b"why")
    )
    assert (canceled.canceled, canceled.compact_revision, canceled.cancel_reason) == (
        True,
        77,
        "why",
    )


def test_a_listing_from_bytes() -> None:
    entry = (
        bytes_field(1, "ü".encode())
        + number_field(2, 1)
        + number_field(3, 2)
        + number_field(4, 3)
        + bytes_field(5, b"\xff")
        + number_field(6, 2**62)
    )
    response = messages.decode_range(bytes_field(2, entry) + number_field(3, 1))
    assert response.entries == [Entry("ü", b"\xff", 2, 1, 3, 2**62)]
    assert response.more
