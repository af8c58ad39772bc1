"""Tables in boxes, as calicoctl draws those of `node status` and `ipam show`."""

import re
from collections.abc import Sequence

_NUMBER = re.compile(r"\d+(\.\d+)?(e\+\d+)?")


def boxed(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Titles in the middle of their columns, numbers to the right, other cells to the left."""
    rows = [[_cell(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    line = "+".join(["", *("-" * (width + 2) for width in widths), ""])
    head = [f"{title:^{width}}" for title, width in zip(titles, widths, strict=True)]
    body = [[_aligned(cell, w) for cell, w in zip(row, widths, strict=True)] for row in rows]
    lines = ["| " + " | ".join(cells) + " |" for cells in [head, *body]]
    return "\n".join([line, lines[0], line, *lines[1:], line])


def _aligned(cell: str, width: int) -> str:
    return cell.rjust(width) if _NUMBER.fullmatch(cell) else cell.ljust(width)


def _cell(text: str) -> str:
    """What comes from outside does not reach the terminal as control characters."""
    return "".join(c if c.isprintable() else "?" for c in text)
