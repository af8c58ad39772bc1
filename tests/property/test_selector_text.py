"""Any text is a selector or a SelectorSyntax; any selector survives its canonical text."""

from hypothesis import example, given
from hypothesis import strategies as st

from tortie.selector.normal import (
    ANY_VALUE,
    canonical,
    in_namespace,
    labels_named,
    required,
    selector_id,
    with_prefix,
)
from tortie.selector.syntax import GENEROUS, Node, SelectorSyntax, parse

LABELS = ["a", "b", "in", "not", "has", "all", "contains", "starts", "projectcalico.org/namespace"]
VALUES = ["", "x", "y", "xy", "é", "it's", 'say "x"', "&& all()"]
TOKENS = [
    *LABELS,
    *("==", "!=", "!", "&&", "||", "(", ")", "{", "}", ",", "=", "&", "'", '"', "%", "\n", "\x00"),
    *("has(", "all()", "global()", "in", "not in", "notin", "startswith", "ends with", "with"),
    *("'x'", '"y"', "''", '"it\'s"', "{'x', 'y'}", "has(a)", "a == 'x'"),
]


def quoted(value: str) -> str:
    return f"'{value}'" if '"' in value else f'"{value}"'


labels = st.sampled_from(LABELS)
strings = st.sampled_from(VALUES).map(quoted)
gaps = st.sampled_from(["", " ", "\t "])
string_operators = st.sampled_from(
    ["==", "!=", "contains", "startswith", "starts with", "endswith", "ends \t with"]
)
string_terms = st.builds("{} {} {}".format, labels, string_operators, strings)
set_terms = st.builds(
    lambda label, operator, items, comma: f"{label} {operator}{{{', '.join(items)}{comma}}}",
    labels,
    st.sampled_from(["in", "not in", "notin", "not \tin"]),
    st.lists(strings, min_size=1, max_size=4),
    st.sampled_from(["", ","]),
)
simple_terms = st.one_of(
    string_terms,
    set_terms,
    st.builds("has({}{})".format, labels, gaps),
    st.sampled_from(["all()", "a in {}", "b not in { }"]),
)


def _longer(terms: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    several = st.lists(terms, min_size=2, max_size=3)
    return st.one_of(
        st.builds("{}!{}{}".format, gaps, gaps, terms),
        st.builds("({}{})".format, gaps, terms),
        several.map(" && ".join),
        several.map("||".join),
    )


selectors = st.recursive(simple_terms, _longer, max_leaves=8)
label_sets = st.dictionaries(labels, st.sampled_from(VALUES), max_size=5)


token_texts = st.one_of(
    st.lists(st.sampled_from(TOKENS), max_size=25).map(" ".join),
    st.lists(st.sampled_from(TOKENS), max_size=25).map("".join),
)


def refused_column(text: str) -> int | None:
    try:
        parse(text)
    except SelectorSyntax as error:
        return error.column
    return None


@given(st.one_of(st.text(max_size=60), token_texts))
@example("\ud800")
@example("has(")
def test_any_text_parses_or_names_a_column(text: str) -> None:
    column = refused_column(text)
    if column is None:
        node = parse(text)
        assert parse(canonical(node), GENEROUS) == node
    else:
        assert 1 <= column <= len(text) + 1


@given(selectors, label_sets)
def test_canonical_text_means_the_same(text: str, some_labels: dict[str, str]) -> None:
    node = parse(text)
    again = parse(canonical(node), GENEROUS)

    assert again == node
    assert canonical(again) == canonical(node)
    assert selector_id(again) == selector_id(node)
    assert again.matches(some_labels) == node.matches(some_labels)


@given(selectors, label_sets)
def test_demands_are_necessary(text: str, some_labels: dict[str, str]) -> None:
    node = parse(text)
    if node.matches(some_labels):
        for label, restriction in required(node).items():
            assert label in some_labels
            assert restriction is ANY_VALUE or some_labels[label] in restriction


@given(selectors, label_sets, label_sets)
def test_only_named_labels_matter(
    text: str, some_labels: dict[str, str], other_labels: dict[str, str]
) -> None:
    node = parse(text)
    named = labels_named(node)
    same = {k: v for k, v in some_labels.items() if k in named}
    noise = {k: v for k, v in other_labels.items() if k not in named}

    assert node.matches(same | noise) == node.matches(some_labels)


@given(selectors, label_sets)
def test_a_prefix_moves_a_selector_to_prefixed_labels(
    text: str, some_labels: dict[str, str]
) -> None:
    node = parse(text)
    prefixed = {f"pcns.{label}": value for label, value in some_labels.items()}

    assert with_prefix(node, "pcns.").matches(prefixed) == node.matches(some_labels)


@given(selectors, label_sets)
def test_scoping_holds_whatever_the_selector(text: str, some_labels: dict[str, str]) -> None:
    node: Node = parse(text)
    inside = some_labels | {"projectcalico.org/namespace": "blue"}
    outside = some_labels | {"projectcalico.org/namespace": "red"}

    assert in_namespace(node, "blue").matches(inside) == node.matches(inside)
    assert not in_namespace(node, "blue").matches(outside)
