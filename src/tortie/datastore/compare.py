"""Judges compares where no server does it for us."""

import operator

from tortie.datastore.client import Compare, Entry

_OPERATORS = {"==": operator.eq, "!=": operator.ne, "<": operator.lt, ">": operator.gt}


def holds(compare: Compare, entry: Entry | None) -> bool:
    """Whether `compare` is true of `entry`, None being an absent key.

    Source: etcd, server/etcdserver/apply.go, applyCompare.
    """
    if entry is None:
        if compare.target == "value":
            return False
        actual: int | bytes = 0
    else:
        actual = getattr(entry, compare.target)
    return bool(_OPERATORS[compare.operator](actual, compare.operand))
