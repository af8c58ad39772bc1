"""Rules about several fields: what breaks one is refused by its path, what keeps it passes."""

import asyncio
import json
from typing import Any

import msgspec
import pytest
from tests.model import samples
from tests.model.cross_field import EVERY_RULE, Fields, Rule
from tests.model.objects import minimal, put, refusal

from tortie.datastore.memory import MemoryClient, MemoryStore
from tortie.datastore.resources import Resources
from tortie.lib.errors import InvalidInput
from tortie.model.metadata import Metadata
from tortie.model.node import IPPool, IPPoolSpec


def _document(kind: str, place: str, fields: Fields) -> dict[str, Any]:
    made = minimal(kind)
    put(made, kind, f"{place}.x" if place else "spec")  # all on the way, as its seed has it
    for path, value in fields.items():
        put(made, kind, f"{place}.{path}" if place else path, value)
    return made


def _can_be_kept(kind: str, place: str, fields: Fields) -> bool:
    """Is there no other rule that forbids these fields at that place?"""
    paths = [f"{place}.{path}" for path in fields]
    if "services" in fields.get("destination", ()):
        paths.append(f"{place}.destination.services")
    return not any(samples.never_valid(kind, path) for path in paths)


@pytest.mark.parametrize("rule", EVERY_RULE, ids=lambda rule: rule.says)
def test_what_breaks_a_rule_is_refused(rule: Rule) -> None:
    for kind, place in rule.places:
        for fields in rule.broken:
            made = _document(kind, place, fields)
            message = refusal(made)
            assert rule.named in message, f"{kind} {place} {fields}: {message or 'is accepted'}"


@pytest.mark.parametrize("rule", EVERY_RULE, ids=lambda rule: rule.says)
def test_what_keeps_a_rule_is_accepted(rule: Rule) -> None:
    for kind, place in rule.places:
        kept = [fields for fields in rule.kept if _can_be_kept(kind, place, fields)]
        assert kept, f"nothing can keep it at {kind} {place}"
        for fields in kept:
            made = _document(kind, place, fields)
            assert not refusal(made), json.dumps(made)


def test_every_rule_of_the_schemas_is_here() -> None:
    compared_with_the_stored = 2
    places = [place for rule in EVERY_RULE for place in rule.places]
    assert len(places) + compared_with_the_stored == 249


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cidr": "10.1.0.0/16"}, r"IPPool\(p\): spec\.cidr: cannot change"),
        ({"block_size": 27}, r"IPPool\(p\): spec\.blockSize: cannot change"),
    ],
)
def test_what_cannot_change(changes: dict[str, Any], message: str) -> None:
    async def run() -> None:
        resources = Resources(MemoryClient(MemoryStore()))
        spec = IPPoolSpec(cidr="10.0.0.0/16", block_size=26)
        pool = IPPool(metadata=Metadata(name="p"), spec=spec)
        await resources.create(pool)
        changed = msgspec.structs.replace(spec, **changes)
        with pytest.raises(InvalidInput, match=message):
            await resources.update(msgspec.structs.replace(pool, spec=changed))
        same = msgspec.structs.replace(spec, nat_outgoing=True)
        await resources.update(msgspec.structs.replace(pool, spec=same))

    asyncio.run(run())
