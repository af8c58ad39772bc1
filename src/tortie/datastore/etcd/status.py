"""What a gRPC status from etcd means to us; the only place that knows.

Source: etcd, api/v3rpc/rpctypes/error.go; gRPC, doc/statuscodes.md.
"""

from enum import IntEnum

from tortie.lib.errors import (
    Compacted,
    Denied,
    InvalidInput,
    NotFound,
    TortieError,
    Unavailable,
)


class Code(IntEnum):
    """The gRPC status codes that etcd gives a meaning of their own."""

    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    OUT_OF_RANGE = 11
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


LOGIN_NOT_WANTED = "authentication is not enabled"

_STALE_TOKEN = ("invalid auth token", "revision in header is old")
_REFUSED_LOGIN = ("authentication failed", "user name is empty", "user name not found")


class StaleToken(Denied):
    """The token expired, or users changed: log in again, then retry once."""


def judge(code: int, details: str, endpoint: str, *, writes: bool) -> TortieError:
    """A status that is not OK as one of our errors, naming the endpoint."""
    text = f"etcd at {endpoint}: {details.removeprefix('etcdserver: ') or f'gRPC status {code}'}"
    if any(phrase in details for phrase in _STALE_TOKEN):
        return StaleToken(text)
    if any(phrase in details for phrase in _REFUSED_LOGIN):
        return Denied(text)
    match code:
        case Code.PERMISSION_DENIED | Code.UNAUTHENTICATED:
            return Denied(text)
        case Code.OUT_OF_RANGE:
            lost = Compacted(0)
            lost.add_note(text)
            return lost
        case Code.NOT_FOUND:
            return NotFound(text)
        case Code.INVALID_ARGUMENT:
            return InvalidInput(text)
        case Code.RESOURCE_EXHAUSTED | Code.FAILED_PRECONDITION:
            # The space alarm and "too many requests" refuse before anything is applied.
            return Unavailable(text)
        case _:
            return Unavailable(text, maybe_applied=writes)
