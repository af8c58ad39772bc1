"""Tell systemd how we are (sd_notify(3)); nothing where nobody asked.

`READY=1` once started, `STATUS=` for people, `WATCHDOG=1` while all is well: a
unit with `WatchdogSec` is started anew when that stops coming.
"""

import os
import socket
from collections.abc import Mapping

ADDRESS = "NOTIFY_SOCKET"


def is_there(environment: Mapping[str, str] = os.environ) -> bool:
    return bool(environment.get(ADDRESS))


def watchdog_seconds(environment: Mapping[str, str] = os.environ) -> float | None:
    """How long we may be silent; None: nobody listens. Source: sd_watchdog_enabled(3)."""
    text = environment.get("WATCHDOG_USEC", "")
    for_us = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return int(text) / 1e6 if for_us and text.isascii() and text.isdecimal() else None


def notify(environment: Mapping[str, str] = os.environ, **states: str) -> bool:
    """Send assignments such as `READY="1"`; returns whether there was anyone to tell.

    Never raises: whoever supervises us has other ways to see that we are there.
    """
    address = environment.get(ADDRESS, "")
    if not address.startswith(("/", "@")):
        return False
    # systemd takes one assignment a line: a line break in a text would make two.
    lines = [f"{name}={' '.join(value.split())}" for name, value in states.items()]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as door:
            door.connect("\0" + address[1:] if address.startswith("@") else address)
            door.send("\n".join(lines).encode())
    except OSError:
        return False
    return True


def alive() -> None:
    """For the watchdog: nothing hangs."""
    notify(WATCHDOG="1")
