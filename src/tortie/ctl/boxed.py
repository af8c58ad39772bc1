"""Tables in boxes, as `ipam show` has them. Pure."""

from collections.abc import Sequence


def boxed(
    titles: Sequence[str], rows: Sequence[Sequence[str]], *, right: frozenset[int] = frozenset()
) -> str:
    """
    Args:
        right: columns whose cells stand at the right.
    """
    widths = [max(map(len, cells)) for cells in zip(titles, *rows, strict=True)]
    rule = f"+{'+'.join('-' * (width + 2) for width in widths)}+"

    def line(cells: Sequence[str], *, heading: bool = False) -> str:
        padded = [
            cell.rjust(width) if place in right and not heading else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    body = [line(row) for row in rows]
    return "\n".join([rule, line(titles, heading=True), rule, *body, *([rule] if body else [])])
