"""Delta against two plain dicts."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tortie.lib.delta import Delta

KEYS = st.sampled_from("abcd")
VALUES = st.integers(0, 2)


class DeltaMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.delta: Delta[str, int] = Delta()
        self.wanted: dict[str, int] = {}
        self.actual: dict[str, int] = {}

    @rule(key=KEYS, value=st.none() | VALUES)
    def want(self, key: str, value: int | None) -> None:
        self.delta.want(key, value)
        _put(self.wanted, key, value)

    @rule(key=KEYS, value=st.none() | VALUES)
    def observe(self, key: str, value: int | None) -> None:
        self.delta.observe(key, value)
        _put(self.actual, key, value)

    @rule(table=st.dictionaries(KEYS, VALUES))
    def observe_all(self, table: dict[str, int]) -> None:
        self.delta.observe_all(table)
        self.actual = dict(table)

    @rule(key=KEYS)
    def confirm(self, key: str) -> None:
        self.delta.confirm(key)
        _put(self.actual, key, self.wanted.get(key))

    @rule()
    def apply_all(self) -> None:
        for key, _ in self.delta.updates():
            self.delta.confirm(key)
        for key in self.delta.deletions():
            self.delta.confirm(key)
        self.actual = dict(self.wanted)
        assert self.delta.in_sync

    @invariant()
    def pending_is_the_difference(self) -> None:
        updates = dict(self.delta.updates())
        assert updates == {
            key: value for key, value in self.wanted.items() if self.actual.get(key) != value
        }
        assert set(self.delta.deletions()) == self.actual.keys() - self.wanted.keys()
        assert self.delta.in_sync == (self.wanted == self.actual)


def _put(table: dict[str, int], key: str, value: int | None) -> None:
    if value is None:
        table.pop(key, None)
    else:
        table[key] = value


TestDelta = DeltaMachine.TestCase
