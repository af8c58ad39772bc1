"""The label index by hand: inheritance, exact events, tidy tables, and cost."""

from collections.abc import Callable

import pytest

from tortie.selector.index import LabelIndex
from tortie.selector.linear import LinearIndex
from tortie.selector.syntax import parse

Index = LabelIndex[str, str] | LinearIndex[str, str]


class Journal:
    """What an index said since it was last asked."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def started(self, selector: str, item: str) -> None:
        self.lines.append(f"+{selector}/{item}")

    def stopped(self, selector: str, item: str) -> None:
        self.lines.append(f"-{selector}/{item}")

    def take(self) -> list[str]:
        lines, self.lines = self.lines, []
        return lines


@pytest.fixture
def journal() -> Journal:
    return Journal()


@pytest.fixture(params=[LabelIndex, LinearIndex])
def index(request: pytest.FixtureRequest, journal: Journal) -> Index:
    make: Callable[..., Index] = request.param
    return make(journal.started, journal.stopped)


@pytest.fixture
def fast(journal: Journal) -> LabelIndex[str, str]:
    return LabelIndex(journal.started, journal.stopped)


def test_items_come_and_go(index: Index, journal: Journal) -> None:
    index.set_selector("web", parse("role == 'web'"))
    index.set_item("w1", {"role": "web"})
    index.set_item("d1", {"role": "db"})
    assert journal.take() == ["+web/w1"]

    index.set_item("w1", {"role": "web", "more": ""})
    assert journal.take() == []
    index.set_item("w1", {"role": "db"})
    index.set_item("d1", {"role": "web"})
    assert journal.take() == ["-web/w1", "+web/d1"]
    assert index.items_matching("web") == ["d1"]
    assert index.selectors_matching("d1") == ["web"]
    assert index.selectors_matching("w1") == []

    index.remove_item("d1")
    index.remove_item("d1")
    assert journal.take() == ["-web/d1"]
    assert index.items_matching("web") == index.selectors_matching("d1") == []


def test_selectors_come_and_go(index: Index, journal: Journal) -> None:
    index.set_item("a", {"x": "1"})
    index.set_item("b", {"x": "2"})
    index.set_selector("s", parse("has(x)"))
    assert sorted(journal.take()) == ["+s/a", "+s/b"]

    index.set_selector("s", parse("x != '1'"))
    assert journal.take() == ["-s/a"]
    index.set_selector("s", parse("x == '1'"))
    assert journal.take() == ["-s/b", "+s/a"]
    index.set_selector("s", parse('x == "1"'))
    assert journal.take() == []

    index.remove_selector("s")
    index.remove_selector("s")
    assert journal.take() == ["-s/a"]
    assert index.items_matching("s") == []


def test_labels_are_inherited_in_order(index: Index, journal: Journal) -> None:
    for value in ("own", "first", "second"):
        index.set_selector(value, parse(f"x == '{value}'"))
    index.set_parent("p1", {"x": "first"})
    index.set_parent("p2", {"x": "second"})
    index.set_item("i", {"x": "own"}, ("p1", "p2"))
    assert journal.take() == ["+own/i"]

    index.set_item("i", {}, ("p1", "p2"))
    assert journal.take() == ["-own/i", "+first/i"]
    index.set_item("i", {}, ("p2", "p1"))
    assert journal.take() == ["-first/i", "+second/i"]
    index.remove_parent("p2")
    assert journal.take() == ["-second/i", "+first/i"]
    index.set_parent("p1", {"y": ""})
    assert journal.take() == ["-first/i"]


def test_a_missing_parent_has_no_labels(index: Index, journal: Journal) -> None:
    index.set_selector("has", parse("has(x)"))
    index.set_selector("not", parse("!has(x)"))
    index.set_item("i", {}, ("later",))
    assert journal.take() == ["+not/i"]

    index.set_parent("later", {"x": ""})
    assert sorted(journal.take()) == ["+has/i", "-not/i"]
    index.remove_parent("later")
    assert sorted(journal.take()) == ["+not/i", "-has/i"]
    index.remove_parent("later")
    index.remove_parent("never heard of")
    assert journal.take() == []


def test_a_selector_finds_items_through_their_parents(index: Index, journal: Journal) -> None:
    index.set_parent("ns", {"pcns.team": "a"})
    index.set_item("i", {"app": "web"}, ("ns", "ns"))
    index.set_item("overrides", {"pcns.team": "b"}, ("ns",))

    index.set_selector("s", parse("pcns.team == 'a' && app == 'web'"))
    assert journal.take() == ["+s/i"]
    index.set_selector("t", parse("has(pcns.team)"))
    assert sorted(journal.take()) == ["+t/i", "+t/overrides"]
    index.set_selector("u", parse("pcns.team starts with 'a'"))
    assert journal.take() == ["+u/i"]


def test_a_parent_changes_several_selectors(index: Index, journal: Journal) -> None:
    index.set_selector("a", parse("x == '1' && has(own)"))
    index.set_selector("b", parse("x == '2' || own == 'no'"))
    index.set_selector("c", parse("has(own)"))
    index.set_parent("p", {"x": "1"})
    index.set_item("i", {"own": "yes"}, ("p",))
    index.set_item("j", {"own": "no"}, ("p",))
    assert sorted(journal.take()) == ["+a/i", "+a/j", "+b/j", "+c/i", "+c/j"]

    index.set_parent("p", {"x": "2"})
    assert sorted(journal.take()) == ["+b/i", "-a/i", "-a/j"]


@pytest.mark.parametrize("text", ["global()", "!global()", "all() || global()", "!(!global())"])
def test_global_matches_no_item_however_it_is_wrapped(
    index: Index, journal: Journal, text: str
) -> None:
    index.set_item("i", {"a": "b"})
    index.set_selector("s", parse(text))
    index.set_item("j", {})
    assert journal.take() == []

    index.set_selector("s", parse("all()"))
    assert sorted(journal.take()) == ["+s/i", "+s/j"]
    index.set_selector("s", parse(text))
    assert sorted(journal.take()) == ["-s/i", "-s/j"]


def test_replicas_share_a_group(fast: LabelIndex[str, str], journal: Journal) -> None:
    fast.set_selector("s", parse("all()"))
    for number in range(100):
        fast.set_item(f"i{number}", {"app": "web", "n": str(number % 2)}, ("p",))

    assert fast.statistics() == (100, 2, 1, 2, 2)
    assert len(journal.take()) == 100
    fast.set_parent("p", {"inherited": ""})
    assert fast.statistics().evaluation_count == 2  # all() does not look at any label
    for number in range(100):
        fast.remove_item(f"i{number}")
    assert fast.statistics()[:4] == (0, 0, 1, 0)


def test_listeners_see_a_consistent_index() -> None:
    seen: list[tuple[list[str], list[str]]] = []

    def look(selector: str, item: str) -> None:
        seen.append((watched.items_matching(selector), watched.selectors_matching(item)))

    watched: LabelIndex[str, str] = LabelIndex(look, look)
    watched.set_selector("s", parse("x == '1'"))
    watched.set_item("i", {"x": "1"})
    watched.set_item("i", {"x": "2"})
    watched.set_parent("p", {"x": "1"})
    watched.set_item("i", {}, ("p",))
    watched.remove_parent("p")
    watched.set_item("i", {"x": "1"})
    watched.remove_selector("s")

    assert seen == [(["i"], ["s"]), ([], [])] * 3


def test_events_come_in_a_reproducible_order(fast: LabelIndex[str, str], journal: Journal) -> None:
    for name in "cab":
        fast.set_selector(name, parse("has(x)"))
    fast.set_item("2", {"x": "2"})
    fast.set_item("1", {"x": "1"})
    assert journal.take() == ["+c/2", "+a/2", "+b/2", "+c/1", "+a/1", "+b/1"]


def test_the_order_of_labels_makes_no_difference(fast: LabelIndex[str, str]) -> None:
    fast.set_item("i", {"x": "1", "y": "2"}, ("p",))
    fast.set_item("j", {"y": "2", "x": "1"}, ("p",))
    assert fast.statistics().groups == 1
    fast.set_item("j", {"y": "1", "x": "2"}, ("p",))
    assert fast.statistics().groups == 2


def test_a_selector_that_demands_presence_avoids_the_crowd(fast: LabelIndex[str, str]) -> None:
    for number in range(50):
        fast.set_item(str(number), {"common": str(number)})
    fast.set_item("rare", {"common": "", "rare": ""})
    before = fast.statistics().evaluation_count
    fast.set_selector("s", parse("has(common) && has(rare)"))
    assert fast.items_matching("s") == ["rare"]
    assert fast.statistics().evaluation_count - before == 1


def test_nothing_is_left_behind(fast: LabelIndex[str, str]) -> None:
    empty = _tables(fast)
    texts = ["all()", "has(x)", "x == '1'", "x in {'1','2'} && y == '1'", "!has(x)", "global()"]
    for number, text in enumerate(texts):
        fast.set_selector(str(number), parse(text))
        fast.set_selector("replaced", parse(text))
    fast.set_parent("p", {"x": "1"})
    fast.set_item("i", {"y": "1"}, ("p", "q", "p"))
    fast.set_item("j", {"x": "2", "y": "1"}, ())
    assert _tables(fast) != empty

    fast.remove_item("i")
    fast.remove_item("j")
    fast.remove_parent("p")
    for number in range(len(texts)):
        fast.remove_selector(str(number))
    fast.remove_selector("replaced")
    assert _tables(fast) == empty


def _tables(index: LabelIndex[str, str]) -> dict[str, str]:
    return {
        name: repr(vars(value) if hasattr(value, "__dict__") else value)
        for name, value in vars(index).items()
        if not name.startswith("_on_") and name != "_evaluation_count"
    }


def test_an_item_meets_only_selectors_that_could_match(fast: LabelIndex[str, str]) -> None:
    """Every selector names the orchestrator, as converted Kubernetes policies do."""
    for number in range(1000):
        fast.set_selector(
            f"s{number}",
            parse(f"projectcalico.org/orchestrator == 'k8s' && app == 'a{number}'"),
        )
    fast.set_item("i", {"projectcalico.org/orchestrator": "k8s", "app": "a7"})

    assert fast.selectors_matching("i") == ["s7"]
    assert fast.statistics().evaluation_count <= 2


def test_a_selector_meets_only_items_that_could_match(fast: LabelIndex[str, str]) -> None:
    for number in range(1000):
        labels = {"projectcalico.org/orchestrator": "k8s", "app": f"a{number % 100}"}
        fast.set_item(f"i{number}", {**labels, "unique": str(number)}, (f"p{number % 10}",))
    fast.set_parent("p7", {"pcns.team": "x"})

    fast.set_selector("s", parse("app == 'a7' && projectcalico.org/orchestrator == 'k8s'"))
    assert len(fast.items_matching("s")) == fast.statistics().evaluation_count == 10
    fast.set_selector("t", parse("projectcalico.org/orchestrator == 'k8s' && pcns.team == 'x'"))
    assert len(fast.items_matching("t")) == fast.statistics().evaluation_count - 10 == 100


def test_a_parent_meets_only_selectors_that_look_at_the_change(
    fast: LabelIndex[str, str], journal: Journal
) -> None:
    for number in range(100):
        fast.set_selector(f"s{number}", parse(f"app == 'web' && x{number} != ''"))
    fast.set_item("i", {"app": "web"}, ("p",))
    before = fast.statistics().evaluation_count
    journal.take()

    fast.set_parent("p", {"x7": ""})
    assert journal.take() == ["-s7/i"]
    assert fast.statistics().evaluation_count == before + 1
