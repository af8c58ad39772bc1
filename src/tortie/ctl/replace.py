"""`tortie replace`: replace resources from files; they must exist."""

from collections.abc import Sequence
from typing import TextIO

from tortie.ctl.writing import Way, run


def main(argv: Sequence[str], out: TextIO) -> int:
    return run(Way.REPLACE, "replace", "replace resources from files; they must exist", argv, out)
