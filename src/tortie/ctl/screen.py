"""Where a command prints: results, messages, and on a terminal colour and progress."""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

PROGRESS_AFTER_SECONDS = 0.5
"""Work that is done before shows nothing."""

_REDRAW_SECONDS = 0.1

_COLOURS = {"red": 31, "green": 32, "yellow": 33, "cyan": 36}


def harmless(text: str) -> str:
    """Without what would command a terminal: messages quote names that others chose."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)


class Screen:
    """Standard output for results, standard error for everything about them."""

    def __init__(self, out: TextIO, err: TextIO) -> None:
        self.out = out
        self.err = err

    def print(self, text: str = "") -> None:
        try:
            print(text, file=self.out)
        except UnicodeEncodeError:  # nothing was written: a line is encoded as a whole
            encoding = self.out.encoding
            print(text.encode(encoding, "backslashreplace").decode(encoding), file=self.out)

    def can_show(self, text: str) -> bool:
        """Does standard output have these characters?"""
        try:
            text.encode(getattr(self.out, "encoding", None) or "utf-8")
        except UnicodeEncodeError:
            return False
        return True

    def warn(self, text: str) -> None:
        print(harmless(text), file=self.err)

    def paint(self, text: str, colour: str) -> str:
        """`text` in colour, if standard output is a terminal that wants it."""
        if not self.out.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
            return text
        return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"

    def progress(self, what: str, total: int) -> Progress:
        return Progress(self.err, what, total)


class Progress:
    """`writing 340/1000`, on one line of a terminal that is wiped in the end; else nothing."""

    def __init__(self, err: TextIO, what: str, total: int) -> None:
        self._err = err
        self._what = what
        self._total = total
        self._done = 0
        self._next = time.monotonic() + PROGRESS_AFTER_SECONDS
        self._is_on = err.isatty()
        self._is_drawn = False

    def step(self, count: int = 1) -> None:
        self._done += count
        if self._is_on and time.monotonic() >= self._next:
            self._next = time.monotonic() + _REDRAW_SECONDS
            self._is_drawn = True
            self._err.write(f"\r\x1b[K{self._what} {self._done}/{self._total}")
            self._err.flush()

    def wipe(self) -> None:
        if self._is_drawn:
            self._err.write("\r\x1b[K")
            self._err.flush()
            self._is_drawn = False
