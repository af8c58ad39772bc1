"""What a gRPC status from etcd means to us; the only place that knows.

Source: etcd, api/v3rpc/rpctypes/error.go.
"""

import grpc

from tortie.lib.errors import (
    Compacted,
    Denied,
    InvalidInput,
    NotFound,
    TortieError,
    Unavailable,
)

_NEVER_SENT = "failed to connect to all addresses"
"""How gRPC says that no connection was there, so the request left nowhere."""

_STALE_TOKEN = ("invalid auth token", "revision in header is old")
_REFUSED_LOGIN = ("authentication failed", "user name is empty", "user name not found")


class StaleToken(Denied):
    """The token expired, or users changed: log in again, then retry once."""


def translate(error: grpc.aio.AioRpcError, endpoint: str, *, writes: bool) -> TortieError:
    """One RPC's failure as one of our errors, naming the endpoint."""
    return judge(error.code(), error.details() or error.code().name, endpoint, writes=writes)


def judge(code: grpc.StatusCode, details: str, endpoint: str, *, writes: bool) -> TortieError:
    """See `translate`."""
    text = f"etcd at {endpoint}: {details.removeprefix('etcdserver: ')}"
    if any(phrase in details for phrase in _STALE_TOKEN):
        return StaleToken(text)
    if code is grpc.StatusCode.PERMISSION_DENIED or code is grpc.StatusCode.UNAUTHENTICATED:
        return Denied(text)
    if any(phrase in details for phrase in _REFUSED_LOGIN):
        return Denied(text)
    if code is grpc.StatusCode.OUT_OF_RANGE:
        lost = Compacted(0)
        lost.add_note(text)
        return lost
    if code is grpc.StatusCode.NOT_FOUND:
        return NotFound(text)
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return InvalidInput(text)
    # The space alarm and "too many requests" refuse before anything is applied.
    refused = code is grpc.StatusCode.RESOURCE_EXHAUSTED or details.startswith(_NEVER_SENT)
    return Unavailable(text, maybe_applied=writes and not refused)
