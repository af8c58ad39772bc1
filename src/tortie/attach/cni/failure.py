"""CNI's error object, and which of our errors is which of its codes.

Source: CNI specification 1.1.0, "Error" and "Well-known Error Codes".
"""

import msgspec

from tortie.lib.errors import (
    AlreadyExists,
    Denied,
    InvalidInput,
    NotFound,
    TortieError,
    Unavailable,
)

INCOMPATIBLE_VERSION = 1
UNKNOWN_CONTAINER = 3
BAD_ENVIRONMENT = 4
IO_FAILURE = 5
NOT_DECODED = 6
BAD_CONFIG = 7
TRY_AGAIN_LATER = 11
NOT_AVAILABLE = 50

REFUSED = 100
"""From here on they are ours: the kernel, or something without a code of its own."""
TAKEN = 101
DENIED = 102
NOT_IN_PLACE = 103
"""CHECK found something missing."""


class CNIFailure(TortieError):
    """A request ends with this error object."""

    def __init__(self, code: int, message: str, details: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.details = details


def failure_of(error: TortieError) -> CNIFailure:
    if isinstance(error, CNIFailure):
        return error
    return CNIFailure(_code(error), str(error))


def encode_failure(error: CNIFailure, version: str) -> bytes:
    found: dict[str, object] = {"cniVersion": version, "code": error.code, "msg": str(error)}
    if error.details:
        found["details"] = error.details
    return msgspec.json.encode(found)


def _code(error: TortieError) -> int:
    if isinstance(error, Unavailable):
        return TRY_AGAIN_LATER
    if isinstance(error, InvalidInput):
        return BAD_CONFIG
    if isinstance(error, AlreadyExists):
        return TAKEN
    if isinstance(error, NotFound):
        return UNKNOWN_CONTAINER
    if isinstance(error, Denied):
        return DENIED
    return TRY_AGAIN_LATER if error.retryable else REFUSED
