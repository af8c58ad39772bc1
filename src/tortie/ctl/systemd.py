"""The systemd of this machine, if it is running."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tortie.lib.errors import TortieError, Unavailable

RUNNING = Path("/run/systemd/system")
"""Source: sd_booted(3)."""

PATIENCE_SECONDS = 120


def is_running() -> bool:
    return RUNNING.is_dir() and shutil.which("systemctl") is not None


def systemctl(*words: str) -> str:
    """Its answer.

    Raises:
        Unavailable: it failed, and what it said.
    """
    done = _run(words)
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())
        raise Unavailable(f"systemctl {' '.join(words)}: {said}")
    return done.stdout


def state(unit: str) -> str:
    """`active`, `inactive`, `failed`, `activating`, …; `unknown` where nobody can tell."""
    try:
        return _run(("is-active", unit)).stdout.strip() or "unknown"
    except TortieError:
        return "unknown"


def is_wanted(unit: str) -> bool:
    """Whether its own conditions let the unit start here; True if it was never tried."""
    asked = ("show", "-p", "ConditionResult", "-p", "ConditionTimestampMonotonic", unit)
    try:
        said = _run(asked).stdout.split()
    except TortieError:
        return True
    return "ConditionResult=no" not in said or "ConditionTimestampMonotonic=0" in said


def _run(words: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(  # noqa: S603 - our own words
            ("systemctl", *words), capture_output=True, text=True, check=False,  # noqa: S607
            timeout=PATIENCE_SECONDS, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"systemctl {' '.join(words)}: {error}") from None
