"""Durations as Go reads them."""

import pytest

from tortie.lib.duration import parse_duration
from tortie.lib.errors import InvalidInput


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("90s", 90.0),
        ("1m30s", 90.0),
        ("1h0.5m", 3630.0),
        (".5s", 0.5),
        ("200ms", 0.2),
        ("1m1ms", 60.001),
        ("3us", 3e-6),
        ("3µs", 3e-6),
        ("7ns", 7e-9),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "90", "s", "-1s", "1 s", "1s ", "1d", "1e9h", ".s", "9999999h", "9" * 400 + "s"]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_duration(text)
