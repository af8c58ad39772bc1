"""Canonical text and ids, scoping, and what a selector demands of labels."""

import pytest

from tortie.selector.normal import (
    ANY_VALUE,
    Restriction,
    canonical,
    conjunction,
    in_namespace,
    labels_named,
    required,
    selector_id,
    uses_global,
    with_prefix,
)
from tortie.selector.syntax import GENEROUS, All, Both, Equals, Global, Has, SelectorSyntax, parse

ALL_ID = "s:5y5I3VdRZfDU01O--xXAPx2yxCQQqMf0M6IWug"

CANONICAL = [
    ("", "all()"),
    (" (all() )", "all()"),
    ("global( )", "global()"),
    ("! (has( b)||! has(a ))", "!(has(b) || !has(a))"),
    ('! (a == "b"&&! c != "d")', '!(a == "b" && !c != "d")'),
    ("!!has(a)", "has(a)"),
    ("!(!has(a))", "has(a)"),
    ('a == "\'"', 'a == "\'"'),
    ("a == '\"'", "a == '\"'"),
    ("a!='x'", 'a != "x"'),
    ("a contains '\"'", "a contains '\"'"),
    ("a startswith 'x'", 'a starts with "x"'),
    ('a endswith "\'"', 'a ends with "\'"'),
    ("a in {}", "a in {}"),
    ("a in {'z', 'z', 'x', 'y', 'x', 'a'}", 'a in {"a", "x", "y", "z"}'),
    ("a notin {'\"', 'b'}", 'a not in {\'"\', "b"}'),
    ("has(a) || has(b) && has(c)", "(has(a) || (has(b) && has(c)))"),
    ("(has(a) && has(b)) && has(c)", "((has(a) && has(b)) && has(c))"),
]


@pytest.mark.parametrize(("text", "expected"), CANONICAL)
def test_canonical_text(text: str, expected: str) -> None:
    assert canonical(parse(text)) == expected
    assert canonical(parse(expected)) == expected


@pytest.mark.parametrize(
    "text",
    ["a in{}||a in{}&&(" * 32 + "has(a)" + ")" * 32, "||".join(['a in{"","b"}'] * 580)],
    ids=["deep", "long"],
)
def test_the_canonical_text_of_any_foreign_text_can_be_read_back(text: str) -> None:
    node = parse(text)

    assert parse(canonical(node), GENEROUS) == node


# The ids that Calico's own parser tests expect.
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ALL_ID),
        (" all() ", ALL_ID),
        (" (all() )", ALL_ID),
        ("! (has( b)||! has(a ))", "s:Iss0uCleLYv1GSv_pNm7hAO58kE9jAx1NKyG3Q"),
        ('! (a == "b"&&! c != "d")', "s:lh3haoY1ikTRkd4UZu0nWSaIBknYLPJLX16d-w"),
    ],
)
def test_ids_are_those_of_calico(text: str, expected: str) -> None:
    assert selector_id(text) == expected
    assert selector_id(parse(text)) == expected


def test_a_bad_text_has_no_id() -> None:
    with pytest.raises(SelectorSyntax):
        selector_id("a ==")


def test_an_unknown_node_is_a_bug() -> None:
    class Odd:
        def matches(self, labels: object) -> bool:
            return True

    for function in (canonical, labels_named, lambda node: with_prefix(node, "x")):
        with pytest.raises(TypeError, match="Odd"):
            function(Odd())


def test_conjunction_leaves_out_what_adds_nothing() -> None:
    assert conjunction() == All()
    assert conjunction(All(), All()) == All()
    assert conjunction(All(), Has("a")) == Has("a")
    assert conjunction(Has("a"), Has("b")) == Both((Has("a"), Has("b")))


@pytest.mark.parametrize(
    "text", ["all()", "", "all() || has(b)", "!has(a)", "a != 'x'", "has(a) || all()"]
)
def test_no_selector_leaves_its_namespace(text: str) -> None:
    scoped = in_namespace(parse(text), "blue")

    assert scoped.matches({"projectcalico.org/namespace": "blue"})
    assert not scoped.matches({"projectcalico.org/namespace": "red", "b": ""})
    assert not scoped.matches({"b": ""})


def test_scoping_is_a_conjunction_around_the_selector() -> None:
    scoped = in_namespace(parse("has(a) || has(b)"), "blue")

    assert canonical(scoped) == ('(projectcalico.org/namespace == "blue" && (has(a) || has(b)))')
    assert in_namespace(All(), "blue") == Equals("projectcalico.org/namespace", "blue")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("k == 'v'", 'p/k == "v"'),
        ("k != 'v'", 'p/k != "v"'),
        ("k contains 'v'", 'p/k contains "v"'),
        ("k starts with 'v'", 'p/k starts with "v"'),
        ("k ends with 'v'", 'p/k ends with "v"'),
        ("k == 'v' && x == 'y'", '(p/k == "v" && p/x == "y")'),
        ("k == 'v' || has(x)", '(p/k == "v" || has(p/x))'),
        ("!(k == 'v')", '!p/k == "v"'),
        ("k in {'v'}", 'p/k in {"v"}'),
        ("k not in {'v'}", 'p/k not in {"v"}'),
        ("all() || global()", "(all() || global())"),
        (
            "!(!(k == 'v' && has(t) || all()) && (a in {'b', 'c'}))",
            '!(!((p/k == "v" && has(p/t)) || all()) && p/a in {"b", "c"})',
        ),
    ],
)
def test_labels_get_a_prefix(text: str, expected: str) -> None:
    assert canonical(with_prefix(parse(text), "p/")) == expected


def test_global_is_found_anywhere() -> None:
    assert uses_global(Global())
    assert uses_global(parse("has(a) || !(has(b) && !global())"))
    assert not uses_global(parse("has(global) || all() && !(global == 'global()')"))


def test_labels_named() -> None:
    text = "a == '1' || b != '2' && !(has(c) || d in {'x'}) && all() && e contains 'f'"
    assert labels_named(parse(text)) == frozenset("abcde")
    assert labels_named(parse("all() || global()")) == frozenset()


X, Y, XY, NONE = frozenset("x"), frozenset("y"), frozenset("xy"), frozenset[str]()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("global()", {}),
        ("a == 'x'", {"a": X}),
        ("a in {'x','y'}", {"a": XY}),
        ("a in {}", {"a": NONE}),
        ("a != 'x'", {}),
        ("a not in {'x'}", {}),
        ("has(a)", {"a": ANY_VALUE}),
        ("a contains ''", {"a": ANY_VALUE}),
        ("a starts with 'x'", {"a": ANY_VALUE}),
        ("a ends with 'x'", {"a": ANY_VALUE}),
        ("!has(a)", {}),
        ("!a == 'x'", {}),
        ("!a != 'x'", {"a": X}),
        ("!a not in {'x','y'}", {"a": XY}),
        ("!a contains 'x'", {}),
        ("a == 'x' && has(b)", {"a": X, "b": ANY_VALUE}),
        ("a in {'x','y'} && has(a) && a in {'y'}", {"a": Y}),
        ("a == 'x' && a == 'y'", {"a": NONE}),
        ("a == 'x' && b != 'y'", {"a": X}),
        ("a == 'x' || a == 'y'", {"a": XY}),
        ("a == 'x' || has(a)", {"a": ANY_VALUE}),
        ("a == 'x' || b == 'y'", {}),
        ("a == 'x' && b == 'y' || a == 'y' && has(b)", {"a": XY, "b": ANY_VALUE}),
        ("a == 'x' || all()", {}),
        ("!(a != 'x' || !has(b))", {"a": X, "b": ANY_VALUE}),
        ("!(a != 'x' && a != 'y')", {"a": XY}),
        ("!(a != 'x' && has(b))", {}),
        ("!(a == 'x' && has(b))", {}),
    ],
)
def test_what_a_match_demands(text: str, expected: dict[str, Restriction]) -> None:
    assert required(parse(text)) == expected
