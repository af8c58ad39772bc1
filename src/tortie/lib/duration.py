"""Durations as Go writes them: `90s`, `1m30s`, `200ms`."""

import re

from tortie.lib.errors import InvalidInput

_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_MAX_SECONDS = (2**63 - 1) * 1e-9
"""What Go's int64 of nanoseconds holds: 292 years."""
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(h|ms|m|us|µs|ns|s)")


def parse_duration(text: str) -> float:
    """Seconds. `0` needs no unit.

    Raises:
        InvalidInput: it is no duration.

    Source: Go, time.ParseDuration; signs are refused, for nothing here runs backwards.
    """
    if text == "0":
        return 0.0
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise InvalidInput(f"{text!r} is not a duration such as 90s, 1m30s or 200ms")
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if seconds > _MAX_SECONDS:
        raise InvalidInput(f"{text!r} is longer than {_MAX_SECONDS / 3600:.0f}h")
    return seconds
