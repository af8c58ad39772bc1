"""Edits of a chain: the result is right, and what stays is not touched."""

from hypothesis import given
from hypothesis import strategies as st

from tortie.dataplane.driver.rule_diff import Delete, Insert, Keep, rule_diff
from tortie.kernel.nft.expressions import ACCEPT, Counter
from tortie.kernel.nft.objects import Rule


def chain(text: str) -> list[Rule]:
    return [Rule("c", (ACCEPT,), letter.encode()) for letter in text]


def kept(old: str, new: str) -> str:
    return "".join(new[s.wanted] for s in rule_diff(chain(old), chain(new)) if isinstance(s, Keep))


def play(old: str, new: str) -> str:
    """Do what the kernel would: insertions before handles first, then deletions."""
    order: list[tuple[str, int | None]] = [(letter, n) for n, letter in enumerate(old)]
    steps = list(rule_diff(chain(old), chain(new)))
    for step in steps:
        if isinstance(step, Insert):
            handles = [handle for _, handle in order]
            at = len(order) if step.before is None else handles.index(step.before)
            order.insert(at, (new[step.position], None))
    gone = {step.position for step in steps if isinstance(step, Delete)}
    return "".join(letter for letter, handle in order if handle is None or handle not in gone)


@given(st.text("abc", max_size=12), st.text("abc", max_size=12))
def test_the_result_is_what_was_wanted(old: str, new: str) -> None:
    assert play(old, new) == new


@given(st.text("abcd", max_size=12), st.text("abcd", max_size=12))
def test_every_rule_is_kept_or_written_once(old: str, new: str) -> None:
    steps = list(rule_diff(chain(old), chain(new)))
    written = [s.position for s in steps if isinstance(s, Insert)]
    stays = [s for s in steps if isinstance(s, Keep)]
    assert sorted(written + [s.wanted for s in stays]) == list(range(len(new)))
    gone = [s.position for s in steps if isinstance(s, Delete)]
    assert sorted(gone + [s.actual for s in stays]) == list(range(len(old)))


def test_an_edit_touches_only_what_it_changes() -> None:
    assert kept("abcdef", "abXdef") == "abdef"
    assert kept("abc", "Xabc") == "abc"
    assert kept("abc", "abcX") == "abc"
    assert kept("abcdef", "bdf") == "bdf"
    assert kept("abc", "abc") == "abc"
    assert kept("", "abc") == ""


def test_counts_do_not_matter() -> None:
    old = [Rule("c", (Counter(5, 500), ACCEPT))]
    new = [Rule("c", (Counter(), ACCEPT))]
    assert list(rule_diff(old, new)) == [Keep(0, 0)]
