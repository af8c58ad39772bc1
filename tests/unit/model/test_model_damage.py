"""Whatever stands in the datastore or in a file, it is read, or refused as InvalidInput."""

import copy
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from tortie.lib.errors import InvalidInput
from tortie.model import codec
from tortie.model.documents import load
from tortie.model.keys import parse_key
from tortie.model.metadata import Resource
from tortie.model.validation import validate, with_defaults

STORED = Path(__file__).parents[2] / "wire" / "stored"
CASES = [path.read_bytes().splitlines()[:2] for path in sorted(STORED.glob("*.txt"))]

_nasty: st.SearchStrategy[Any] = st.sampled_from([
    None, True, False, 0, -1, 2**63, 1e300, "", "0", "a/b", "::", "10.0.0.0/8/9", "10.0.0.0/-1",
    "\x00", "global()", "a == ", "-", "1:", ":1", "65536:1", "'" * 5, [], {}, [[]], [{}], {"": ""},
])  # fmt: skip
_values = (_nasty | st.text(max_size=5) | st.integers() | st.lists(_nasty, max_size=2)).map(
    copy.deepcopy
)


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    return [path, *(found for key, inner in items for found in _paths(inner, (*path, key)))]


@st.composite
def _damaged(draw: st.DrawFn) -> tuple[str, Any]:
    key, stored = draw(st.sampled_from(CASES))
    document = msgspec.json.decode(stored)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(_paths(document)[1:] or [()]))
        if not path:
            break
        at = document
        for step in path[:-1]:
            at = at[step]
        if isinstance(at, dict) and draw(st.booleans()):
            at[draw(st.sampled_from([*at, "name", "newer"]))] = draw(_values)
        else:
            at[path[-1]] = draw(_values)
    return key.decode(), document


@settings(max_examples=400)
@given(_damaged())
def test_stored_values(case: tuple[str, Any]) -> None:
    text, document = case
    key = parse_key(text)
    assert key is not None
    raw = msgspec.json.encode(document)
    try:
        value = codec.decode(key, raw)
    except InvalidInput:
        return
    again = codec.encode(key, value, raw)
    assert codec.decode(key, again) == value
    assert codec.encode(key, value, again) == again
    if isinstance(value, Resource):
        for problem in (*validate(value), *validate(value, stored=True)):
            assert "\n" not in str(problem)
        assert with_defaults(with_defaults(value)) == with_defaults(value)


@settings(max_examples=300)
@given(_damaged(), st.booleans())
def test_files(case: tuple[str, Any], complete: bool) -> None:
    raw = msgspec.json.encode(case[1])
    try:
        documents = load(raw, "f.json", complete=complete)
    except InvalidInput as error:
        messages = str(error).splitlines()
    else:
        messages = []
        assert len(documents) == 1
    assert all(message.startswith("f.json:1:") for message in messages)
