"""Keys and values as a cluster stores them: read, and written back byte for byte.

A case in `stored/` is a key, what is stored there, and, where older writers wrote it
differently, what we write today.
"""

from pathlib import Path
from typing import get_args

import msgspec
import pytest

from tortie.model import codec
from tortie.model.keys import PLURALS, Key, ResourceKey, parse_key

CASES = sorted((Path(__file__).parent / "stored").glob("*.txt"))

CALICOS = {kind for kind in PLURALS if not kind.startswith("Kubernetes")}
"""Kinds that its own tools and agents know."""


def _case(path: Path) -> tuple[str, bytes, bytes]:
    key, stored, *written = path.read_bytes().splitlines()
    return key.decode(), stored, written[0] if written else stored


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_the_key_reads_back_as_itself(path: Path) -> None:
    text, _, _ = _case(path)
    key = parse_key(text)
    assert key is not None
    assert key.path == text


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_a_value_is_written_as_the_field_writes_it(path: Path) -> None:
    text, stored, written = _case(path)
    key = parse_key(text)
    assert key is not None
    assert codec.encode(key, codec.decode(key, stored)) == written


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_writing_what_was_read_loses_nothing(path: Path) -> None:
    """With a field that we do not know at the top and in the spec."""
    text, stored, written = _case(path)
    key = parse_key(text)
    assert key is not None
    document = msgspec.json.decode(stored)
    document["newer"] = {"deep": [1, {"a": None}]}
    if "spec" in document:
        document["spec"]["newer"] = ["x"]
    before = msgspec.json.encode(document)

    after = msgspec.json.decode(codec.encode(key, codec.decode(key, before), before))

    assert after.pop("newer") == document["newer"]
    if "spec" in document:
        assert after["spec"].pop("newer") == ["x"]
    assert after == msgspec.json.decode(written)


def test_every_kind_is_here() -> None:
    keys = [parse_key(_case(path)[0]) for path in CASES]
    assert {type(key) for key in keys} == set(get_args(Key))
    there = {key.kind for key in keys if isinstance(key, ResourceKey)}
    assert CALICOS - there == set()
