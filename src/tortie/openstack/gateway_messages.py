"""The gateway's requests and answers. Bytes are base64, and numbers of 64 bits text, in JSON.

Source: etcd, api/etcdserverpb/rpc.swagger.json; protobuf's JSON mapping.
"""

from functools import cache
from typing import Any, TypeVar, cast

import msgspec

from tortie.datastore.client import Compare, Delete, Entry, Event, Get, Operation, Txn
from tortie.datastore.etcd.messages import range_end

M = TypeVar("M", bound=msgspec.Struct)

_RESULTS = {"==": "EQUAL", ">": "GREATER", "<": "LESS", "!=": "NOT_EQUAL"}
_TARGETS = {
    "version": "VERSION",
    "create_revision": "CREATE",
    "mod_revision": "MOD",
    "value": "VALUE",
    "lease": "LEASE",
}


class Anything(msgspec.Struct):
    """An answer of which nothing matters."""


class Header(msgspec.Struct):
    cluster_id: int = 0
    revision: int = 0


class KeyValue(msgspec.Struct):
    key: bytes = b""
    value: bytes = b""
    mod_revision: int = 0
    create_revision: int = 0
    version: int = 0
    lease: int = 0

    @property
    def name(self) -> str:
        return self.key.decode(errors="surrogateescape")

    @property
    def entry(self) -> Entry:
        return Entry(
            self.name, self.value, self.mod_revision, self.create_revision, self.version, self.lease
        )


class RangeResponse(msgspec.Struct):
    header: Header
    """Without one it is no etcd's answer, and does not mean that nothing is there."""
    kvs: list[KeyValue] = []
    more: bool = False


class DeleteRangeResponse(msgspec.Struct):
    deleted: int = 0


class OperationResponse(msgspec.Struct):
    response_range: RangeResponse | None = None
    response_delete_range: DeleteRangeResponse | None = None


class TxnResponse(msgspec.Struct):
    header: Header
    succeeded: bool = False
    responses: list[OperationResponse] = []


class LeaseResponse(msgspec.Struct):
    lease_id: int = msgspec.field(name="ID")
    ttl: int = msgspec.field(default=0, name="TTL")


class KeepAliveResponse(msgspec.Struct):
    result: LeaseResponse


class TokenResponse(msgspec.Struct):
    token: str = ""


class Refusal(msgspec.Struct):
    """What comes with an HTTP status that is not 200, and in the middle of a watch."""

    error: str = ""
    message: str = ""
    code: int = msgspec.field(default=0)


class StreamError(msgspec.Struct):
    message: str = ""
    grpc_code: int = 0
    code: int = 0


class KeyEvent(msgspec.Struct):
    kv: KeyValue = msgspec.field(default_factory=KeyValue)
    type: str = "PUT"

    @property
    def event(self) -> Event:
        value = None if self.type == "DELETE" else self.kv.value
        return Event(self.kv.name, value, self.kv.mod_revision)


class WatchResponse(msgspec.Struct):
    header: Header = msgspec.field(default_factory=Header)
    events: list[KeyEvent] = []
    created: bool = False
    canceled: bool = False
    compact_revision: int = 0
    cancel_reason: str = ""


class WatchMessage(msgspec.Struct):
    result: WatchResponse | None = None
    error: StreamError | None = None


@cache
def _decoder(kind: type[msgspec.Struct]) -> "msgspec.json.Decoder[Any]":
    return msgspec.json.Decoder(kind, strict=False)


def decode(kind: type[M], raw: bytes) -> M:
    """
    Raises:
        MsgspecError: it is nothing of the kind.
    """
    try:
        return cast(M, _decoder(kind).decode(raw))
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from None


def range_request(
    key: str,
    prefix: str = "",
    *,
    limit: int = 0,
    revision: int = 0,
    keys_only: bool = False,
) -> dict[str, Any]:
    """
    Args:
        key: the only one, or the first one under `prefix`.
    """
    request: dict[str, Any] = {"key": _bytes(key)}
    if prefix:
        request["range_end"] = range_end(_bytes(prefix))
    if limit:
        request["limit"] = limit
    if revision:
        request["revision"] = revision
    if keys_only:
        request["keys_only"] = True
    return request


def txn_request(txn: Txn) -> dict[str, Any]:
    return {
        "compare": [_compare(compare) for compare in txn.compares],
        "success": [_operation(operation) for operation in txn.success],
        "failure": [_operation(operation) for operation in txn.otherwise],
    }


def watch_request(prefix: str, from_revision: int) -> dict[str, Any]:
    return {
        "create_request": {
            "key": _bytes(prefix),
            "range_end": range_end(_bytes(prefix)),
            "start_revision": from_revision,
            "progress_notify": True,
        }
    }


def _bytes(key: str) -> bytes:
    return key.encode(errors="surrogateescape")


def _compare(compare: Compare) -> dict[str, Any]:
    return {
        "result": _RESULTS[compare.operator],
        "target": _TARGETS[compare.target],
        "key": _bytes(compare.key),
        compare.target: compare.operand,
    }


def _operation(operation: Operation) -> dict[str, Any]:
    key = _bytes(operation.key)
    if isinstance(operation, Get):
        return {"request_range": {"key": key}}
    if isinstance(operation, Delete):
        return {"request_delete_range": {"key": key}}
    put: dict[str, Any] = {"key": key, "value": operation.value}
    if operation.lease:
        put["lease"] = operation.lease
    return {"request_put": put}
