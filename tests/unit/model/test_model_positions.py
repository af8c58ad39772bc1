"""What text means, and where each part of it stands."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tortie.model.positions import Place, TextSyntax, read_documents
from tortie.model.yaml_text import to_yaml

STORED = Path(__file__).parents[2] / "wire" / "stored"


def _only(text: str, *, is_json: bool = False) -> Any:
    (document,) = read_documents(text, is_json=is_json)
    return document.value


@pytest.mark.parametrize(
    ("scalar", "value"),
    [
        ("true", True), ("True", True), ("FALSE", False),
        ("yes", "yes"), ("no", "no"), ("NO", "NO"), ("on", "on"), ("off", "off"), ("y", "y"),
        ("1", 1), ("-7", -7), ("+7", 7), ("0", 0),
        ("010", "010"), ("0o10", "0o10"), ("0x1F", 31), ("1_000", "1_000"),
        ("1:30", "1:30"), ("10:20:30", "10:20:30"),
        ("1.5", 1.5), ("1e3", 1000.0), (".5", 0.5), ("1.", 1.0), ("00.5", "00.5"),
        ("1e999", "1e999"), (".inf", ".inf"), (".nan", ".nan"), ("nan", "nan"),
        ("2026-03-01", "2026-03-01"), ("2026-03-01T08:00:00Z", "2026-03-01T08:00:00Z"),
        ("~", None), ("null", None), ("", None),
        ("'1'", "1"), ('"true"', "true"), ("'~'", "~"), ("!!str 1", "1"), ("!!int 1", 1),
        ("fd00::/8", "fd00::/8"), ("10.0.0.0/8", "10.0.0.0/8"), ("=", "="), ("<<", "<<"),
        ("9" * 401, "9" * 401),
    ],
)  # fmt: skip
def test_yaml_scalars_mean_what_people_mean(scalar: str, value: object) -> None:
    read = _only(f"a: {scalar}\n")["a"]
    assert read == value
    assert type(read) is type(value)


def test_keys_are_always_text() -> None:
    assert _only("{1: a, true: b, null: c, on: d}") == {
        "1": "a",
        "true": "b",
        "null": "c",
        "on": "d",
    }


def test_places_count_lines_and_columns_from_one() -> None:
    (document,) = read_documents("---\nspec:\n  nets:\n  - a\n  -  b\n")
    assert document.place("spec.nets[1]") == Place(5, 6)
    assert document.key_place("spec.nets") == Place(3, 3)
    assert document.place("spec.nets[1].no.such[7]") == Place(5, 6)
    assert document.place("nothing") == Place(2, 1)


def test_json_places() -> None:
    (document,) = read_documents('{\n  "a": {"b": [1,\n 22]}}', is_json=True)
    assert document.place("a.b[1]") == Place(3, 2)
    assert document.key_place("a.b") == Place(2, 9)


def test_documents_without_content_are_left_out() -> None:
    assert [d.value for d in read_documents("---\n---\na: 1\n---\n# no\n---\n{}\n")] == [
        {"a": 1},
        {},
    ]
    assert read_documents("") == []
    assert [d.value for d in read_documents('{"a":1}\n[2] ', is_json=True)] == [{"a": 1}, [2]]


@pytest.mark.parametrize(
    ("text", "line", "column", "says"),
    [
        ("a: [1\nb: 2", 2, 2, "flow sequence"),
        ("a: b: c", 1, 5, "mapping values"),
        ("a:\n\tb: 1", 2, 1, "cannot start any token"),
        ("a: 'x", 1, 6, "quoted scalar"),
        ("a: 1\nb: 2\na: 3", 3, 1, "'a' is there twice"),
        ("a: *b", 1, 4, "no anchor &b"),
        ("a: !!python/name:os.system ''", 1, 4, "not supported"),
        ("a: !!timestamp 2026-01-01", 1, 4, "not supported"),
        ("a: !mine {}", 1, 4, "not supported"),
        ("? [a]\n: b", 1, 3, "needs a name"),
        ("a: \x07", 1, 4, "control characters"),
        ("[" * 65 + "]" * 65, 1, 65, "deeper than 64"),
        ("a: " + "[" * 200_000, 1, 67, "deeper than 64"),
    ],
)
def test_yaml_mistakes(text: str, line: int, column: int, says: str) -> None:
    with pytest.raises(TextSyntax) as caught:
        read_documents(text)
    assert says in caught.value.rule
    assert caught.value.place == Place(line, column)


@pytest.mark.parametrize(
    ("text", "line", "column", "says"),
    [
        ('{"a": 1,}', 1, 9, "name of a field"),
        ('{"a": 1,\n "b" 2}', 2, 6, "a colon"),
        ('{"a": 1 "b": 2}', 1, 9, "a comma or }"),
        ('{"a": [1, 2}', 1, 12, "a comma or ]"),
        ('{"a": nil}', 1, 7, "a value"),
        ('{"a": 01}', 1, 8, "a comma or }"),
        ('{"a": NaN}', 1, 7, "a value"),
        ('{"a": 1e999}', 1, 7, "too large"),
        ('{"a": "x\ny"}', 1, 9, "control character"),
        ('{"a": "\\q"}', 1, 8, "escape"),
        ('{"a": "\\ud800"}', 1, 7, "surrogate"),
        ('{"a": 1, "a": 2}', 1, 10, "'a' is there twice"),
        ('{"a": 1} x', 1, 10, "a value"),
        ("{", 1, 2, "the text ends"),
        ("a: 1", 1, 1, "a value"),
        ("[" * 100_000, 1, 65, "deeper than 64"),
        ("[" + "9" * 500 + "]", 1, 2, "digits"),
    ],
)
def test_json_mistakes(text: str, line: int, column: int, says: str) -> None:
    with pytest.raises(TextSyntax) as caught:
        read_documents(text, is_json=True)
    assert says in caught.value.rule
    assert caught.value.place == Place(line, column)


def test_what_begins_like_json_may_be_yaml() -> None:
    assert _only("{a: b, c: [d]}") == {"a": "b", "c": ["d"]}
    assert _only('{"a": "\\u00e9\\/\\ud83d\\ude00"}') == {"a": "é/😀"}
    with pytest.raises(TextSyntax, match="not JSON"):
        read_documents('{"a": 1')


def test_aliases_are_followed_within_bounds() -> None:
    assert _only("a: &x [1]\nb: *x\nc: &y k\nd: *y") == {"a": [1], "b": [1], "c": "k", "d": "k"}
    bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 30)
    )
    with pytest.raises(TextSyntax, match="aliases followed"):
        read_documents(bomb)


_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=3),
    max_leaves=20,
)  # fmt: skip


@given(_values.filter(lambda v: v is not None))
def test_reads_all_json(value: object) -> None:
    assert _only(msgspec.json.encode(value).decode(), is_json=True) == value


@given(st.text() | st.text("{}[]:,-'\"&*!|>%\n #ab1"))
@pytest.mark.parametrize("is_json", [False, True])
def test_any_text_is_read_or_refused_with_a_place(is_json: bool, text: str) -> None:
    place = Place(1, 1)
    try:
        documents = read_documents(text, is_json=is_json)
    except TextSyntax as error:
        documents, place = [], error.place
    assert min(place) >= 1
    assert all("" in document.values for document in documents)


_texts = st.text(st.characters(exclude_categories=["Cs"])) | st.text(
    "0123456789.eE+-:xo_~", max_size=6
)


@settings(deadline=2000)
@example({"k" * 200: ["a", {"b" * 1100: {"c": 1.5e-7}}], "é😀\x85\x7f": "a\nb: #"})
@given(st.dictionaries(_texts, _values | _texts, min_size=1))
def test_what_we_write_reads_back(value: Any) -> None:
    text = to_yaml(value)
    assert _only(text) == value
    assert yaml.safe_load(text) == value, "nor do readers of YAML 1.1 see anything else"


@given(
    st.recursive(_texts | _values, lambda inner: st.lists(inner) | st.dictionaries(_texts, inner))
)
def test_nested_values_read_back(value: Any) -> None:
    assert _only(to_yaml({"value": value})) == {"value": value}


def test_the_layout_is_pyyaml_s() -> None:
    """Of every example of what Calico stores."""
    examples = sorted(STORED.glob("*.txt"))
    assert examples
    for path in examples:
        _, _, text = path.read_text().partition("{")
        value, _ = json.JSONDecoder().raw_decode("{" + text)
        assert to_yaml(value) == yaml.safe_dump(value, sort_keys=False, width=1000), path.name


def test_written_yaml_is_plain() -> None:
    shared = ["a"]
    assert to_yaml({"b": shared, "a": shared, "n": "1e3", "t": "yes", "d": "10.0.0.0/8"}) == (
        "b:\n- a\na:\n- a\nn: '1e3'\nt: 'yes'\nd: 10.0.0.0/8\n"
    )
