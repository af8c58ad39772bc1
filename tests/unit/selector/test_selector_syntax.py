"""The selector language: what is accepted, what it matches, and what is refused where."""

import pytest

from tortie.lib.errors import InvalidInput
from tortie.selector.syntax import (
    FOREIGN,
    GENEROUS,
    All,
    Both,
    Contains,
    Either,
    EndsWith,
    Equals,
    Global,
    Has,
    In,
    Limits,
    Node,
    Not,
    NotEquals,
    NotIn,
    SelectorSyntax,
    StartsWith,
    compile_selector,
    parse,
)

NODES: list[tuple[str, Node]] = [
    ("", All()),
    (" \t ", All()),
    ("all()", All()),
    ("\tall( ) ", All()),
    ("((all()))", All()),
    ("global()", Global()),
    ("has(a)", Has("a")),
    ("has( a\t)", Has("a")),
    ("has(in)", Has("in")),
    ("has(has)", Has("has")),
    ("a == 'x'", Equals("a", "x")),
    ('a=="x"', Equals("a", "x")),
    ("a == ''", Equals("a", "")),
    ("a == 'é \"&& ||(\\n'", Equals("a", 'é "&& ||(\\n')),
    ("projectcalico.org/namespace == 'n-1'", Equals("projectcalico.org/namespace", "n-1")),
    ("a != 'x'", NotEquals("a", "x")),
    ("a!='x'", NotEquals("a", "x")),
    ("a in {'x', \"y\"}", In("a", frozenset("xy"))),
    ("a in{'x','x',}", In("a", frozenset("x"))),
    ("a in {}", In("a", frozenset())),
    ("a not in {'x'}", NotIn("a", frozenset("x"))),
    ("a notin{'x'}", NotIn("a", frozenset("x"))),
    ("a not \t in { }", NotIn("a", frozenset())),
    ("a contains 'x'", Contains("a", "x")),
    ("a contains'x'", Contains("a", "x")),
    ("a starts with 'x'", StartsWith("a", "x")),
    ("a startswith 'x'", StartsWith("a", "x")),
    ("a ends \t with 'x'", EndsWith("a", "x")),
    ('a endswith"x"', EndsWith("a", "x")),
    ("!a == 'x'", Not(Equals("a", "x"))),
    ("! a in {'x'}", Not(In("a", frozenset("x")))),
    ("!!has(a)", Has("a")),
    ("! !!has(a)", Not(Has("a"))),
    ("!(!has(a))", Has("a")),
    ("!!(!has(a))", Not(Has("a"))),
    ("has(a) && has(b) && has(c)", Both((Has("a"), Has("b"), Has("c")))),
    ("has(a)||has(b)", Either((Has("a"), Has("b")))),
    ("has(a) || has(b) && has(c)", Either((Has("a"), Both((Has("b"), Has("c")))))),
    ("(has(a) || has(b)) && has(c)", Both((Either((Has("a"), Has("b"))), Has("c")))),
    ("has(a) && (has(b) && has(c))", Both((Has("a"), Both((Has("b"), Has("c")))))),
    ("!(has(a) || !has(b))", Not(Either((Has("a"), Not(Has("b")))))),
    ("contains contains 'contains'", Contains("contains", "contains")),
    ("in in {'in'}", In("in", frozenset(["in"]))),
    ("not not in {'in'}", NotIn("not", frozenset(["in"]))),
    ("starts starts with 'with'", StartsWith("starts", "with")),
    ("all == 'x' && has == 'y'", Both((Equals("all", "x"), Equals("has", "y")))),
    ("xhas == 'y'", Equals("xhas", "y")),
    ("-./_9 == 'y'", Equals("-./_9", "y")),
]


@pytest.mark.parametrize(("text", "node"), NODES, ids=[text for text, _ in NODES])
def test_text_becomes_nodes(text: str, node: Node) -> None:
    assert parse(text) == node


MATCHES: list[tuple[str, list[dict[str, str]], list[dict[str, str]]]] = [
    ("all()", [{}, {"a": "b"}], []),
    ("global()", [], [{}, {"a": "b"}]),
    ("has(a)", [{"a": "b"}, {"a": ""}], [{}, {"b": "a"}]),
    ("!has(a)", [{}, {"b": "b"}], [{"a": "b"}]),
    ("a == 'b'", [{"a": "b"}, {"a": "b", "c": "d"}], [{}, {"a": "c"}, {"c": "b"}, {"a": "bb"}]),
    ("a == ''", [{"a": ""}], [{}, {"a": "b"}]),
    ("a != 'b'", [{}, {"a": "c"}, {"c": "b"}], [{"a": "b"}]),
    ("a in {'b', 'c'}", [{"a": "b"}, {"a": "c"}], [{}, {"a": "bc"}, {"a": ""}]),
    ("a in {\"'\", '\"'}", [{"a": "'"}, {"a": '"'}], [{"a": "'\""}]),
    ("a in {}", [], [{}, {"a": ""}]),
    ("a not in {'b', 'c'}", [{}, {"a": "d"}], [{"a": "b"}, {"a": "c"}]),
    ("a not in {}", [{}, {"a": ""}], []),
    ("!a in {'b'}", [{}, {"a": "c"}], [{"a": "b"}]),
    ("a contains 'b'", [{"a": "b"}, {"a": "abc"}], [{}, {"a": "a"}, {"b": "b"}]),
    ("a contains ''", [{"a": ""}, {"a": "x"}], [{}]),
    ("a starts with 'b'", [{"a": "b"}, {"a": "bc"}], [{}, {"a": "ab"}, {"b": "b"}]),
    ("a ends with 'b'", [{"a": "b"}, {"a": "ab"}], [{}, {"a": "bc"}, {"b": "b"}]),
    ("!a starts with 'b'", [{}, {"a": "c"}], [{"a": "b"}]),
    ("a == 'b' && c == 'd'", [{"a": "b", "c": "d"}], [{}, {"a": "b"}, {"c": "d"}]),
    ("a == 'b' || c == 'd'", [{"a": "b"}, {"c": "d"}], [{}, {"a": "d", "c": "b"}]),
    ("a != 'b' && !c == 'd'", [{}, {"a": "x"}], [{"a": "b"}, {"c": "d"}]),
    ("a != 'b' || c != 'd'", [{}, {"a": "b"}, {"c": "d"}], [{"a": "b", "c": "d"}]),
    ("!(!has(a) || has(b))", [{"a": "x"}], [{}, {"b": "x"}, {"a": "x", "b": "x"}]),
    ("has(a) || has(b) && has(c)", [{"a": ""}, {"b": "", "c": ""}], [{"b": ""}, {"c": ""}]),
]


@pytest.mark.parametrize(("text", "yes", "no"), MATCHES, ids=[case[0] for case in MATCHES])
def test_nodes_match_labels(text: str, yes: list[dict[str, str]], no: list[dict[str, str]]) -> None:
    node = parse(text)

    assert [labels for labels in yes if not node.matches(labels)] == []
    assert [labels for labels in no if node.matches(labels)] == []


REFUSED: list[tuple[str, int, str]] = [
    ("b == b", 6, "quoted string"),
    ("b contains b", 12, "quoted string"),
    ("b starts with b", 15, "quoted string"),
    ("b starts 'b'", 3, "after the label"),
    ("b containsb", 11, "quoted string"),
    ("'b' == b", 1, "a label"),
    ("b", 2, "after the label"),
    ("b ", 3, "after the label"),
    ("a b", 3, "after the label"),
    ("a has(b)", 3, "after the label"),
    ("!", 2, "a label"),
    ("! = 'b'", 3, "=="),
    ("a = 'b'", 3, "=="),
    ("a == 'b' & c == 'd'", 10, "&&"),
    ("a == 'b' | c == 'd'", 10, "||"),
    ("a == 'b' && ", 13, "a label"),
    ("has(a) ||", 10, "a label"),
    ("a != ||", 6, "quoted string"),
    ("a in {'', ||", 11, "}"),
    ("a in {'' ''}", 10, "comma"),
    ("a in {,}", 7, "quoted string"),
    ("a in ''", 6, "{"),
    ("a in {'b'", 10, "}"),
    ("a not {'b'}", 3, "after the label"),
    ('a == "b', 6, 'closing "'),
    ("a == 'b\"", 6, "closing '"),
    ("(", 2, "a label"),
    ("()", 2, "a label"),
    (")", 1, "a label"),
    ("(has(a)", 8, ")"),
    ("has(a))", 7, "the end"),
    ("has(a) has(b)", 8, "the end"),
    ("has(a) b == 'c'", 8, "the end"),
    ("has (a)", 5, "after the label"),
    ("all ()", 5, "after the label"),
    ("has()", 5, "a label"),
    ("has('a')", 5, "a label"),
    ("has(a", 6, ")"),
    ("all(a)", 5, ")"),
    ("global(", 8, ")"),
    ("%", 1, "instead of '%'"),
    ("has(a)\n", 7, "instead of '\\n'"),
    ("has(a)\u00a0", 7, "instead of"),
    ("é == 'x'", 1, "instead of 'é'"),
    ("a == '\ud800'", 7, "valid Unicode"),
    ("x" * 513 + " == 'a'", 513, "at most 512"),
]


@pytest.mark.parametrize(("text", "column", "expected"), REFUSED)
def test_mistakes_name_the_column_and_what_was_expected(
    text: str, column: int, expected: str
) -> None:
    with pytest.raises(SelectorSyntax) as caught:
        parse(text)

    assert caught.value.column == column
    assert expected in caught.value.expected
    assert f"column {column}: expected" in str(caught.value)
    assert isinstance(caught.value, InvalidInput)
    assert not caught.value.retryable


def test_nodes_of_different_classes_are_never_equal() -> None:
    several: list[Node] = [
        *(Equals("a", "b"), NotEquals("a", "b"), Contains("a", "b")),
        *(StartsWith("a", "b"), EndsWith("a", "b"), In("a", frozenset()), NotIn("a", frozenset())),
        *(All(), Global(), Has("a"), Not(Has("a"))),
        *(Both((Has("a"), Has("b"))), Either((Has("a"), Has("b")))),
    ]
    assert len(set(several)) == len(several)


def test_the_longest_label_is_accepted() -> None:
    assert parse("x" * 512 + " == 'a'") == Equals("x" * 512, "a")


def test_depth_is_bounded() -> None:
    fitting = "(" * 32 + "has(a)" + ")" * 32
    assert parse(fitting) == Has("a")
    assert parse("(has(a)) && " * 40 + "has(b)")  # side by side is not deep

    with pytest.raises(SelectorSyntax, match="column 33: expected at most 32 nested"):
        parse(f"({fitting})")


def test_negations_are_bounded() -> None:
    assert parse("!" * 32 + "has(a)") == Has("a")

    with pytest.raises(SelectorSyntax, match="column 33: expected at most 32 times"):
        parse("!" * 33 + "has(a)")


def test_a_thousand_parentheses_are_refused_without_recursion() -> None:
    with pytest.raises(SelectorSyntax, match="nested parentheses"):
        parse("!(" * 1000)


def test_text_is_bounded_in_bytes() -> None:
    frame = len("a == ''")
    assert parse(f"a == '{'x' * (8192 - frame)}'")

    with pytest.raises(SelectorSyntax, match="column 8193: expected at most 8192 bytes"):
        parse(f"a == '{'x' * (8193 - frame)}'")
    with pytest.raises(SelectorSyntax, match="column 4100: expected at most 8192 bytes"):
        parse(f"a == '{'é' * 4094}'")  # the 4094th character would end at byte 8194
    assert parse(f"a == '{'x' * 8193}'", GENEROUS)


def test_sets_are_bounded() -> None:
    limits = Limits(FOREIGN.text_bytes, FOREIGN.depth, set_items=3)
    assert parse("a in {'x','x','x',}", limits) == In("a", frozenset("x"))

    with pytest.raises(SelectorSyntax, match="column 19: expected at most 3 strings"):
        parse("a in {'x','x','x','x'}", limits)
    assert FOREIGN.set_items == GENEROUS.set_items == 4096


def test_compiled_selectors_are_shared() -> None:
    assert compile_selector("a == 'shared'") is compile_selector("a == 'shared'")
    with pytest.raises(SelectorSyntax):
        compile_selector("a ==")
