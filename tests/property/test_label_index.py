"""The incremental index says exactly what a linear scan says, after any history."""

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tortie.selector.index import LabelIndex
from tortie.selector.linear import LinearIndex
from tortie.selector.syntax import parse

names = st.sampled_from("xyz")
values = st.sampled_from(["1", "2", "12"])
labels = st.dictionaries(names, values, max_size=3)
items = st.sampled_from(["i1", "i2", "i3", "i4", "i5"])
parents = st.sampled_from(["p1", "p2", "p3"])
selector_ids = st.sampled_from(["s1", "s2", "s3", "s4"])

terms = st.one_of(
    st.sampled_from(["all()", "global()"]),
    st.builds("has({})".format, names),
    st.builds("{} {} '{}'".format, names, st.sampled_from(["==", "!=", "starts with"]), values),
    st.builds(
        "{} {} {{'{}', '{}'}}".format, names, st.sampled_from(["in", "not in"]), values, values
    ),
    st.builds("{} in {{}}".format, names),
)
selectors = st.recursive(
    terms,
    lambda inner: st.one_of(
        inner.map("!({})".format),
        st.lists(inner, min_size=2, max_size=3).map(" && ".join).map("({})".format),
        st.lists(inner, min_size=2, max_size=3).map(" || ".join).map("({})".format),
    ),
    max_leaves=5,
)

Pairs = Counter[tuple[str, str, str]]


class IndexMachine(RuleBasedStateMachine):
    """Both indexes get the same changes; each change must cause the same events."""

    def __init__(self) -> None:
        super().__init__()
        self.said: dict[str, list[tuple[str, str, str]]] = {"fast": [], "slow": []}
        self.fast: LabelIndex[str, str] = LabelIndex(*self._listeners("fast"))
        self.slow: LinearIndex[str, str] = LinearIndex(*self._listeners("slow"))

    def _listeners(self, who: str):  # type: ignore[no-untyped-def]
        def listener(sign: str):  # type: ignore[no-untyped-def]
            return lambda selector, item: self.said[who].append((sign, selector, item))

        return listener("+"), listener("-")

    @initialize(
        contents=st.lists(st.tuples(items, labels, st.lists(parents, max_size=2)), max_size=5),
        wanted=st.lists(st.tuples(selector_ids, selectors), max_size=4),
    )
    def fill(
        self,
        contents: list[tuple[str, dict[str, str], list[str]]],
        wanted: list[tuple[str, str]],
    ) -> None:
        for item, own, inherited in contents:
            self.set_item(item, own, inherited)
        for selector, text in wanted:
            self.set_selector(selector, text)

    @rule(item=items, own=labels, inherited=st.lists(parents, max_size=3))
    def set_item(self, item: str, own: dict[str, str], inherited: list[str]) -> None:
        self.fast.set_item(item, own, tuple(inherited))
        self.slow.set_item(item, own, tuple(inherited))

    @rule(item=items)
    def remove_item(self, item: str) -> None:
        self.fast.remove_item(item)
        self.slow.remove_item(item)

    @rule(parent=parents, inherited=labels)
    def set_parent(self, parent: str, inherited: dict[str, str]) -> None:
        self.fast.set_parent(parent, inherited)
        self.slow.set_parent(parent, inherited)

    @rule(parent=parents)
    def remove_parent(self, parent: str) -> None:
        self.fast.remove_parent(parent)
        self.slow.remove_parent(parent)

    @rule(selector=selector_ids, text=selectors)
    def set_selector(self, selector: str, text: str) -> None:
        self.fast.set_selector(selector, parse(text))
        self.slow.set_selector(selector, parse(text))

    @rule(selector=selector_ids)
    def remove_selector(self, selector: str) -> None:
        self.fast.remove_selector(selector)
        self.slow.remove_selector(selector)

    @invariant()
    def same_events(self) -> None:
        fast, slow = self.said["fast"], self.said["slow"]
        assert Counter(fast) == Counter(slow)
        fast.clear()
        slow.clear()

    @invariant()
    def same_answers(self) -> None:
        for selector in ("s1", "s2", "s3", "s4"):
            expected = sorted(self.slow.items_matching(selector))
            assert sorted(self.fast.items_matching(selector)) == expected
        for item in ("i1", "i2", "i3", "i4", "i5"):
            expected = sorted(self.slow.selectors_matching(item))
            assert sorted(self.fast.selectors_matching(item)) == expected

    def teardown(self) -> None:
        """Emptied by whatever way it got here, it holds nothing."""
        for item in ("i1", "i2", "i3", "i4", "i5"):
            self.fast.remove_item(item)
        assert self.fast.statistics().pairs == 0
        for selector in ("s1", "s2", "s3", "s4"):
            self.fast.remove_selector(selector)
        for parent in ("p1", "p2", "p3"):
            self.fast.remove_parent(parent)
        assert self.fast.statistics()[:3] == (0, 0, 0)
        assert tables(self.fast) == tables(LabelIndex(print, print))


def tables(index: LabelIndex[str, str]) -> dict[str, str]:
    return {
        name: repr(vars(value) if hasattr(value, "__dict__") else value)
        for name, value in vars(index).items()
        if not name.startswith("_on_") and name != "_evaluation_count"
    }


TestLabelIndex = IndexMachine.TestCase
TestLabelIndex.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
