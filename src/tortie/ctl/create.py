"""`tortie create`: create resources from files; they must not exist."""

from collections.abc import Sequence
from typing import TextIO

from tortie.ctl.writing import Way, run


def main(argv: Sequence[str], out: TextIO) -> int:
    return run(Way.CREATE, "create", "create resources from files; they must not exist", argv, out)
