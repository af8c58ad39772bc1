"""IPAM's records: what the schemas say of blocks and handles, where they are kept in etcd.

There they are plain JSON at keys of their own, without kind, metadata or spec, and a handle's
id is in its key. Of a block, `attributes` and `strictAffinity` may be missing: old data has no
such fields. Text is not checked against patterns: what is wrong there is found where it counts.
"""

import copy
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from tests.model.test_constraints import SCHEMAS

from tortie.lib.errors import InvalidInput
from tortie.model import codec
from tortie.model.keys import Key, parse_key

_RECORDS: dict[str, tuple[str, dict[str, Any]]] = {
    "IPAMBlock": (
        "/calico/ipam/v2/assignment/ipv4/block/10.0.0.0-30",
        {
            "cidr": "10.0.0.0/30",
            "affinity": "host:n",
            "affinity_claim_time": "2026-01-01T00:00:00Z",
            "allocations": [0, None, None, None],
            "unallocated": [1, 2, 3],
            "attributes": [
                {
                    "handle_id": "h",
                    "secondary": {"key": "v"},
                    "releasedAt": "2026-01-01T00:00:00Z",
                    "alternateOwnerAttrs": {"key": "v"},
                }
            ],
            "sequenceNumber": 1,
            "sequenceNumberForAllocation": {"key": 0},
            "deleted": False,
            "strictAffinity": False,
        },
    ),
    "IPAMHandle": ("/calico/ipam/v2/handle/h", {"block": {"key": 1}, "deleted": False}),
}
_ELSEWHERE = {"apiVersion", "kind", "metadata", "spec", "spec.handleID"}
_MAY_BE_MISSING = {"spec.attributes", "spec.strictAffinity", "spec.block"}
_WRONG: dict[str, Any] = {
    "string": 7, "integer": "x", "boolean": "yes", "array": "x", "object": "x",
}  # fmt: skip


def _facts(name: str) -> Iterator[tuple[str, str, Any]]:
    """Kind, path in the record, and the fact's value."""
    for kind in _RECORDS:
        for path, facts in SCHEMAS[kind].items():
            if name in facts and path not in _ELSEWHERE:
                yield kind, path.replace("affinityClaimTime", "affinity_claim_time"), facts[name]


def _with(kind: str, path: str, *value: Any) -> tuple[Key, bytes]:
    text, record = _RECORDS[kind]
    record = copy.deepcopy(record)
    at: Any = record
    *steps, last = path.removeprefix("spec.").replace("[]", ".0").replace("{}", ".key").split(".")
    for step in steps:
        at = at[int(step)] if isinstance(at, list) else at[step]
    if value:
        at[int(last) if isinstance(at, list) else last] = value[0]
    else:
        del at[last]
    key = parse_key(text)
    assert key is not None
    return key, msgspec.json.encode(record)


@pytest.mark.parametrize("kind", _RECORDS)
def test_sound_records_are_read(kind: str) -> None:
    text, record = _RECORDS[kind]
    key = parse_key(text)
    assert key is not None
    found = codec.decode(key, msgspec.json.encode(record))
    assert msgspec.json.decode(codec.encode(key, found, msgspec.json.encode(record))) is not None


@pytest.mark.parametrize(("kind", "path", "kind_of_value"), list(_facts("type")))
def test_a_wrong_type_is_refused(kind: str, path: str, kind_of_value: str) -> None:
    key, raw = _with(kind, path, _WRONG[kind_of_value])
    with pytest.raises(InvalidInput, match=r"\$"):
        codec.decode(key, raw)


@pytest.mark.parametrize(("kind", "path", "_"), list(_facts("required")))
def test_what_is_needed(kind: str, path: str, _: bool) -> None:
    key, raw = _with(kind, path)
    if path in _MAY_BE_MISSING:
        codec.decode(key, raw)
        return
    with pytest.raises(InvalidInput, match=path.removeprefix("spec.")):
        codec.decode(key, raw)


def test_a_block_is_of_a_network() -> None:
    for wrong in ("10.0.0.0/33", "word", "10.0.0.4/30", "10.0.0.1/30"):
        key, raw = _with("IPAMBlock", "spec.cidr", wrong)
        with pytest.raises(InvalidInput):
            codec.decode(key, raw)
