"""The least change from the rules of a chain to others, so that counters live on.

Pure. A rule that stays keeps its handle and with it its counters; equality is
that of expressions and comment, not of counts.
"""

from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import NamedTuple

from tortie.kernel.nft.objects import Rule


class Insert(NamedTuple):
    position: int
    """In the wanted rules."""
    before: int | None
    """Position in the actual rules of the one to stand before; None appends."""


class Delete(NamedTuple):
    position: int
    """In the actual rules."""


class Keep(NamedTuple):
    wanted: int
    actual: int


Step = Insert | Delete | Keep


def rule_diff(actual: Sequence[Rule], wanted: Sequence[Rule]) -> Iterator[Step]:
    """Steps in the order of the wanted rules.

    `Insert.before` may name a rule that another step deletes: insertions are
    done first (see `kernel.nft.transaction`).
    """
    head = _common(actual, wanted)
    tail = _common(actual[head:][::-1], wanted[head:][::-1])
    for position in range(head):
        yield Keep(position, position)
    middle_actual = actual[head : len(actual) - tail]
    middle_wanted = wanted[head : len(wanted) - tail]
    for tag, i1, i2, j1, j2 in _blocks(middle_actual, middle_wanted):
        if tag == "equal":
            yield from (Keep(head + j1 + n, head + i1 + n) for n in range(i2 - i1))
            continue
        # What is inserted stands before the first rule behind the change.
        before = head + i2 if head + i2 < len(actual) else None
        yield from (Insert(head + position, before) for position in range(j1, j2))
        yield from (Delete(head + position) for position in range(i1, i2))
    for offset in range(tail, 0, -1):
        yield Keep(len(wanted) - offset, len(actual) - offset)


def _common(one: Sequence[Rule], other: Sequence[Rule]) -> int:
    count = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        count += 1
    return count


def _blocks(
    actual: Sequence[Rule], wanted: Sequence[Rule]
) -> Sequence[tuple[str, int, int, int, int]]:
    if not actual and not wanted:
        return []
    return SequenceMatcher(None, actual, wanted, autojunk=False).get_opcodes()
