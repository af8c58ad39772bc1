"""etcd's messages: encoders return bytes, decoders frozen tuples.

Field numbers are etcd's own and never change.

Source: etcd, api/etcdserverpb/rpc.proto, api/mvccpb/kv.proto and api/authpb/auth.proto.
"""

from enum import IntEnum
from typing import NamedTuple

from tortie.datastore.client import (
    Compare,
    Delete,
    Entry,
    Event,
    Get,
    Operation,
    Put,
    Response,
    Txn,
)
from tortie.datastore.etcd.wire import bytes_field, fields, number_field, signed
from tortie.lib.errors import Unavailable

_COMPARE_RESULT = {"==": 0, ">": 1, "<": 2, "!=": 3}
_COMPARE_TARGET = {
    "version": (0, 4),
    "create_revision": (1, 5),
    "mod_revision": (2, 6),
    "value": (3, 7),
    "lease": (4, 8),
}
"""Target → its enum value, and the number of the field for its operand."""


class Header(NamedTuple):
    cluster_id: int = 0
    revision: int = 0


class RangeResponse(NamedTuple):
    header: Header
    entries: list[Entry]
    more: bool


class TxnResponse(NamedTuple):
    header: Header
    succeeded: bool
    responses: list[Response]


class WatchResponse(NamedTuple):
    header: Header
    events: list[Event]
    created: bool = False
    canceled: bool = False
    compact_revision: int = 0
    cancel_reason: str = ""
    fragment: bool = False
    """More of the same revisions follow in the next response."""


class LeaseResponse(NamedTuple):
    lease_id: int
    ttl_seconds: int
    """0 or less: the lease is gone."""


class Access(IntEnum):
    """etcd's numbers; a role that only writes is of no use to us."""

    READ = 0
    WRITE = 1
    READ_WRITE = 2


class Permission(NamedTuple):
    """What a role may do with one key, or with a range of keys.

    Attributes:
        end: the first key behind the range; empty for one key, `\\0` for no end.
    """

    access: Access
    key: bytes
    end: bytes = b""


def range_end(prefix: bytes) -> bytes:
    """The first key behind all that start with `prefix`; `\\0` means no end."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes((stem[-1] + 1,)) if stem else b"\0"


def encode_range(
    key: bytes, end: bytes = b"", *, limit: int = 0, revision: int = 0, keys_only: bool = False
) -> bytes:
    return (
        bytes_field(1, key)
        + (bytes_field(2, end) if end else b"")
        + (number_field(3, limit) if limit else b"")
        + (number_field(4, revision) if revision else b"")
        + (number_field(8, 1) if keys_only else b"")
    )


def encode_txn(txn: Txn) -> bytes:
    return b"".join(
        [
            *(bytes_field(1, _encode_compare(compare)) for compare in txn.compares),
            *(bytes_field(2, _encode_operation(operation)) for operation in txn.success),
            *(bytes_field(3, _encode_operation(operation)) for operation in txn.otherwise),
        ]
    )


def encode_compaction(revision: int) -> bytes:
    return number_field(1, revision)


def encode_watch(key: bytes, end: bytes, start_revision: int) -> bytes:
    """A WatchRequest that creates one watch, with progress notices and fragments."""
    create = (
        bytes_field(1, key)
        + bytes_field(2, end)
        + number_field(3, start_revision)
        + number_field(4, 1)
        + number_field(8, 1)
    )
    return bytes_field(1, create)


def encode_lease_grant(ttl_seconds: int) -> bytes:
    return number_field(1, ttl_seconds)


def encode_lease_id(lease_id: int) -> bytes:
    """LeaseRevokeRequest and LeaseKeepAliveRequest alike."""
    return number_field(1, lease_id)


def encode_authenticate(username: str, password: str) -> bytes:
    return bytes_field(1, username.encode()) + bytes_field(2, password.encode())


def encode_permission(permission: Permission) -> bytes:
    return (
        number_field(1, permission.access)
        + bytes_field(2, permission.key)
        + bytes_field(3, permission.end)
    )


def decode_header(data: bytes) -> Header:
    """The header of a response of which nothing else matters."""
    for number, _, content in fields(data):
        if number == 1:
            return _header(content)
    return Header()


def decode_range(data: bytes) -> RangeResponse:
    header, entries, more = Header(), [], False
    for number, value, content in fields(data):
        if number == 1:
            header = _header(content)
        elif number == 2:
            entries.append(_entry(content))
        elif number == 3:
            more = bool(value)
    return RangeResponse(header, entries, more)


def decode_txn(data: bytes) -> TxnResponse:
    header, succeeded, responses = Header(), False, []
    for number, value, content in fields(data):
        if number == 1:
            header = _header(content)
        elif number == 2:
            succeeded = bool(value)
        elif number == 3:
            responses.append(_response(content))
    return TxnResponse(header, succeeded, responses)


def decode_watch(data: bytes) -> WatchResponse:
    header, events = Header(), []
    flags = {3: 0, 4: 0, 5: 0, 7: 0}
    reason = ""
    for number, value, content in fields(data):
        if number == 1:
            header = _header(content)
        elif number == 11:
            events.append(_event(content))
        elif number == 6:
            reason = content.decode(errors="replace")
        elif number in flags:
            flags[number] = value
    return WatchResponse(
        header, events, bool(flags[3]), bool(flags[4]), signed(flags[5]), reason, bool(flags[7])
    )


def decode_lease(data: bytes) -> LeaseResponse:
    """LeaseGrantResponse and LeaseKeepAliveResponse alike."""
    found = {number: value for number, value, _ in fields(data)}
    return LeaseResponse(signed(found.get(2, 0)), signed(found.get(3, 0)))


def decode_token(data: bytes) -> str:
    token = next((content for number, _, content in fields(data) if number == 2), b"")
    text = token.decode("ascii", errors="replace")
    if not text.isprintable() or not text.isascii():
        raise Unavailable("whatever answers is no etcd: its token is no text")
    return text


def decode_permission(data: bytes) -> Permission:
    access, key, end = 0, b"", b""
    for number, value, content in fields(data):
        if number == 1:
            access = value
        elif number == 2:
            key = content
        elif number == 3:
            end = content
    if access not in (*Access,):
        raise Unavailable(f"whatever answers is no etcd that we know: permission type {access}")
    return Permission(Access(access), key, end)


def _encode_compare(compare: Compare) -> bytes:
    target, operand_field = _COMPARE_TARGET[compare.target]
    operand = compare.operand
    return (
        number_field(1, _COMPARE_RESULT[compare.operator])
        + number_field(2, target)
        + bytes_field(3, compare.key.encode())
        + (
            bytes_field(operand_field, operand)
            if isinstance(operand, bytes)
            else number_field(operand_field, operand)
        )
    )


def _encode_operation(operation: Operation) -> bytes:
    key = bytes_field(1, operation.key.encode())
    if isinstance(operation, Get):
        return bytes_field(1, key)
    if isinstance(operation, Delete):
        return bytes_field(3, key)
    assert isinstance(operation, Put)
    return bytes_field(2, key + bytes_field(2, operation.value) + number_field(3, operation.lease))


def _header(data: bytes) -> Header:
    found = {number: value for number, value, _ in fields(data)}
    return Header(found.get(1, 0), signed(found.get(3, 0)))


def _entry(data: bytes) -> Entry:
    key = value = b""
    created = modified = version = lease = 0
    for number, varint, content in fields(data):
        if number == 1:
            key = content
        elif number == 2:
            created = varint
        elif number == 3:
            modified = varint
        elif number == 4:
            version = varint
        elif number == 5:
            value = content
        elif number == 6:
            lease = signed(varint)
    return Entry(key.decode(errors="surrogateescape"), value, modified, created, version, lease)


def _event(data: bytes) -> Event:
    deleted = 0
    entry = Entry("", b"", 0, 0, 0)
    for number, value, content in fields(data):
        if number == 1:
            deleted = value
        elif number == 2:
            entry = _entry(content)
    return Event(entry.key, None if deleted else entry.value, entry.mod_revision)


def _response(data: bytes) -> Response:
    for number, _, content in fields(data):
        if number == 1:
            found = decode_range(content).entries
            return Response(entry=found[0] if found else None)
        if number == 3:
            deleted = {field: value for field, value, _ in fields(content)}
            return Response(deleted=deleted.get(2, 0))
    return Response()
