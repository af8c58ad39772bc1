"""`tortie apply`: create or update resources from files."""

from collections.abc import Sequence
from typing import TextIO

from tortie.ctl.writing import Way, run


def main(argv: Sequence[str], out: TextIO) -> int:
    return run(Way.APPLY, "apply", "create or update resources from files", argv, out)
