"""The sequencer tells differences only, and in an order in which references resolve."""

from collections.abc import Hashable

from tortie.calc.sequencer import Sequencer
from tortie.desired.kinds import Kind

Told = list[tuple[Kind, Hashable, object | None]]


def made() -> tuple[Sequencer, Told]:
    told: Told = []
    return Sequencer(lambda *call: told.append(call)), told


def test_additions_upwards_then_removals_downwards() -> None:
    sequencer, told = made()
    for kind in (Kind.ROUTE, Kind.IP_SET, Kind.ENDPOINT, Kind.IP_SET_MEMBER, Kind.POLICY):
        sequencer.put(kind, "old", 1)
    sequencer.flush()
    kinds = [kind for kind, _, _ in told]
    assert kinds == sorted(kinds)
    told.clear()
    for kind in (Kind.POLICY, Kind.ROUTE, Kind.IP_SET, Kind.IP_SET_MEMBER, Kind.ENDPOINT):
        sequencer.put(kind, "old", None)
        sequencer.put(kind, "new", 2)
    sequencer.flush()
    added, removed = told[:5], told[5:]
    assert [kind for kind, _, value in added if value] == kinds
    assert [kind for kind, _, value in removed if value is None] == kinds[::-1]


def test_the_newest_value_is_told_once() -> None:
    sequencer, told = made()
    for value in (1, 2, 3):
        sequencer.put(Kind.POLICY, "p", value)
    sequencer.flush()
    sequencer.flush()
    assert told == [(Kind.POLICY, "p", 3)]


def test_what_comes_back_to_what_was_told_is_not_told() -> None:
    sequencer, told = made()
    sequencer.put(Kind.POLICY, "p", 1)
    sequencer.put(Kind.IP_SET_MEMBER, ("s", 1), True)
    sequencer.put(Kind.POLICY, "never", 1)
    sequencer.put(Kind.POLICY, "never", None)
    sequencer.put(Kind.IP_SET_MEMBER, ("s", 2), True)
    sequencer.put(Kind.IP_SET_MEMBER, ("s", 2), None)
    sequencer.flush()
    told.clear()
    for value in (None, 2, 1):
        sequencer.put(Kind.POLICY, "p", value)
    for value in (None, True):
        sequencer.put(Kind.IP_SET_MEMBER, ("s", 1), value)
    assert sequencer.statistics().pending_count == 0
    sequencer.flush()
    assert told == []
    assert sequencer.statistics().emitted_count == 2


def test_gone_twice_is_gone_once() -> None:
    sequencer, told = made()
    sequencer.put(Kind.HOST, "h", 1)
    sequencer.flush()
    sequencer.put(Kind.HOST, "h", None)
    sequencer.put(Kind.HOST, "h", None)
    sequencer.flush()
    sequencer.put(Kind.HOST, "h", None)
    sequencer.flush()
    assert told == [(Kind.HOST, "h", 1), (Kind.HOST, "h", None)]
