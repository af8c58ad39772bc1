"""RFC 6902, RFC 7386 and strategic merges on plain values."""

from copy import deepcopy
from typing import Any

import pytest

from tortie.ctl.patching import json_patch, merge, strategic
from tortie.lib.errors import InvalidInput


@pytest.mark.parametrize(
    ("document", "patch", "result"),
    [
        # The test cases of RFC 7386, appendix A.
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge(document: Any, patch: Any, result: Any) -> None:
    assert merge(document, patch) == result


@pytest.mark.parametrize(
    ("patch", "result"),
    [
        ({"a": {"$patch": "replace", "z": 1}}, {"a": {"z": 1}, "l": [1, 2, 3]}),
        ({"a": {"$patch": "delete"}}, {"l": [1, 2, 3]}),
        ({"a": {"x": None}}, {"a": {"y": 2}, "l": [1, 2, 3]}),
        ({"a": {"$retainKeys": ["y"]}}, {"a": {"y": 2}, "l": [1, 2, 3]}),
        ({"l": [9]}, {"a": {"x": 1, "y": 2}, "l": [9]}),
        ({"$deleteFromPrimitiveList/l": [2]}, {"a": {"x": 1, "y": 2}, "l": [1, 3]}),
        ({"$setElementOrder/l": [3, 1, 2]}, {"a": {"x": 1, "y": 2}, "l": [1, 2, 3]}),
    ],
)
def test_strategic(patch: Any, result: Any) -> None:
    assert strategic({"a": {"x": 1, "y": 2}, "l": [1, 2, 3]}, patch) == result


def test_unknown_directives_are_refused() -> None:
    with pytest.raises(InvalidInput, match=r"\$patch is replace, delete or merge"):
        strategic({}, {"$patch": "burn"})


@pytest.mark.parametrize(
    ("document", "patch", "result"),
    [
        # After RFC 6902, appendix A.
        ({"foo": "bar"}, [{"op": "add", "path": "/baz", "value": 1}], {"foo": "bar", "baz": 1}),
        ({"l": [1, 2]}, [{"op": "add", "path": "/l/1", "value": 9}], {"l": [1, 9, 2]}),
        ({"l": [1]}, [{"op": "add", "path": "/l/-", "value": [2]}], {"l": [1, [2]]}),
        ({"a": 1, "b": 2}, [{"op": "remove", "path": "/a"}], {"b": 2}),
        ({"l": [1, 2]}, [{"op": "remove", "path": "/l/0"}], {"l": [2]}),
        ({"a": 1}, [{"op": "replace", "path": "/a", "value": 2}], {"a": 2}),
        ({"a": {"b": 1}, "c": {}}, [{"op": "move", "from": "/a/b", "path": "/c/d"}],
         {"a": {}, "c": {"d": 1}}),
        ({"l": [1, 2, 3]}, [{"op": "move", "from": "/l/0", "path": "/l/2"}], {"l": [2, 3, 1]}),
        ({"a": [1]}, [{"op": "copy", "from": "/a", "path": "/b"}], {"a": [1], "b": [1]}),
        ({"a~/b": 1}, [{"op": "test", "path": "/a~0~1b", "value": 1}], {"a~/b": 1}),
        ({"a": 1}, [{"op": "replace", "path": "", "value": {}}], {}),
        ({"": {"": 1}}, [{"op": "remove", "path": "//"}], {"": {}}),
    ],
)  # fmt: skip
def test_json_patch(document: Any, patch: Any, result: Any) -> None:
    before = deepcopy(document)
    assert json_patch(document, patch) == result
    assert document == before


@pytest.mark.parametrize(
    ("patch", "says"),
    [
        ({}, "a list of operations"),
        ([1], "mapping with op and path"),
        ([{"op": "burn", "path": "/a"}], "not 'burn'"),
        ([{"op": "add", "path": "/a"}], "add needs a value"),
        ([{"op": "add", "path": "a", "value": 1}], "JSON pointer"),
        ([{"op": "remove", "path": "/b"}], "there is no /b"),
        ([{"op": "replace", "path": "/l/7", "value": 1}], "there is no /l/7"),
        ([{"op": "replace", "path": "/l/01", "value": 1}], "there is no /l/01"),
        ([{"op": "add", "path": "/l/9", "value": 1}], "there is no /l/9"),
        ([{"op": "add", "path": "/x/y", "value": 1}], "there is no /x"),
        ([{"op": "add", "path": "/a/b", "value": 1}], "neither a mapping nor a list"),
        ([{"op": "test", "path": "/a", "value": True}], "not as tested"),
        ([{"op": "move", "from": "/l", "path": "/l/0"}], "into itself"),
    ],
)
def test_patches_that_do_not_fit(patch: Any, says: str) -> None:
    document = {"a": 1, "l": [1]}
    with pytest.raises(InvalidInput, match=says):
        json_patch(document, patch)
    assert document == {"a": 1, "l": [1]}
