"""Structured logs: one line per event, `key=value` or JSON.

log.info("applied", extra={"fields": {"revision": 7, "ms": 0.4}})
"""

import logging
import sys
import time
from typing import TextIO

import msgspec

_LEVELS = {
    "Trace": logging.DEBUG,
    "Debug": logging.DEBUG,
    "Info": logging.INFO,
    "Warning": logging.WARNING,
    "Error": logging.ERROR,
    "Fatal": logging.CRITICAL,
}


class TextFormatter(logging.Formatter):
    """`2026-11-23T10:00:00.123Z INFO agent.loop: applied revision=7 ms=0.4`."""

    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def format(self, record: logging.LogRecord) -> str:
        line = (
            f"{self.formatTime(record)} {record.levelname} "
            f"{record.name.removeprefix('tortie.')}: {_one_line(record.getMessage())}"
        )
        for name, value in getattr(record, "fields", {}).items():
            line += f" {name}={_quoted(str(value))}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class JSONFormatter(logging.Formatter):
    default_time_format = TextFormatter.default_time_format
    default_msec_format = TextFormatter.default_msec_format

    def format(self, record: logging.LogRecord) -> str:
        event = {
            "time": self.formatTime(record),
            "level": record.levelname,
            "from": record.name,
            "event": record.getMessage(),
            **{name: str(value) for name, value in getattr(record, "fields", {}).items()},
        }
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(event).decode()


def configure(severity: str = "Info", *, json: bool = False, stream: TextIO | None = None) -> None:
    """Log to `stream` (standard error) from `severity` on. May be called again."""
    formatter: logging.Formatter = JSONFormatter() if json else TextFormatter()
    formatter.converter = time.gmtime
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_LEVELS[severity])


def _one_line(text: str) -> str:
    """Users' text in a message must not forge a line of the log."""
    return text.replace("\n", "\\n").replace("\r", "\\r")


def _quoted(text: str) -> str:
    if text and all(character.isprintable() and character not in ' "=' for character in text):
        return text
    return msgspec.json.encode(text).decode()
