"""How long an event loop is busy at a stretch: counted, and bounded.

Whatever comes next waits until what runs now is done: that is the loop's lag. A loop
asks its selector what is next, so the selector knows both ends of each stretch, and
nobody wakes an idle loop to find out.

A stretch that uses up more processor time than its limit ends the process, by SIGPROF
and with a traceback of every thread on standard error: whoever supervises it starts it
anew, and the kernel's state stands meanwhile. The signal's handler is C, so it comes
through where Python itself is held up, as by a regular expression. Processor time, not
time of day: a process that was stopped, or that has to share its machine with too many
others, is slow and not stuck. One that waits for something without end is told by
`lib.health`.
"""

import faulthandler
import selectors
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tortie.lib.metrics import Histogram

STARTING_SECONDS = 90.0
"""While everything is taken in at once."""
STUCK_SECONDS = 10.0


class WatchedSelector(selectors.DefaultSelector):
    """For one event loop, of the main thread."""

    def __init__(self) -> None:
        super().__init__()
        self.lag = Histogram()
        """Seconds of each stretch."""
        self.limit_seconds = STARTING_SECONDS
        """Of processor time, for one stretch; counts from the next one on."""
        self._began: float | None = None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self._began is not None:
            self.lag.observe(time.monotonic() - self._began)
        try:
            return super().select(timeout)
        finally:
            self._began = time.monotonic()
            signal.setitimer(signal.ITIMER_PROF, self.limit_seconds)


@contextmanager
def bounded() -> Iterator[WatchedSelector]:
    """A selector whose loop may be run within the block."""
    faulthandler.register(signal.SIGPROF, all_threads=True, chain=True)
    selector = WatchedSelector()
    try:
        yield selector
    finally:
        # A program that is executed next would inherit the timer.
        signal.setitimer(signal.ITIMER_PROF, 0)
        faulthandler.unregister(signal.SIGPROF)
