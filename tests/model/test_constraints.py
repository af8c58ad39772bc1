"""Every constraint of the API's schemas: what breaks it is refused, what is just right passes.

The cases are made from `constraints.yaml`: for each field and each of its constraints one
document that breaks nothing else, and one on the boundary.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from tests.model import samples
from tests.model.objects import accepted, document, refusal, remove, values_at

SCHEMAS: dict[str, dict[str, dict[str, Any]]] = msgspec.yaml.decode(
    (Path(__file__).parent / "constraints.yaml").read_bytes()
)

RECORDS = frozenset({"IPAMBlock", "IPAMHandle"})
"""How Kubernetes stores IPAM's records. In etcd they are no resources: `tortie.model.ipam`."""


class Constraint(NamedTuple):
    kind: str
    path: str
    name: str
    value: Any
    facts: dict[str, Any]
    """All constraints of that field."""


def _all() -> list[Constraint]:
    return [
        Constraint(kind, path, name, value, facts)
        for kind, fields in SCHEMAS.items()
        if kind not in RECORDS
        for path, facts in fields.items()
        for name, value in facts.items()
    ]


ALL = _all()
GROUPS = sorted({(c.kind, c.name) for c in ALL})


def broken(c: Constraint) -> Iterator[dict[str, Any]]:
    """Documents that break the constraint."""
    match c.name:
        case "required":
            if "default" not in c.facts:
                made = document(c.kind, c.path, samples.valid(c.kind, c.path, c.facts))
                remove(made, c.path)
                yield made
        case "default":
            return  # nothing can break it
        case _:
            for value in samples.wrong(c.kind, c.path, c.name, c.value, c.facts):
                yield document(c.kind, c.path, value)


def exact(c: Constraint) -> Iterator[dict[str, Any]]:
    """Documents that just keep it."""
    if c.name == "default":
        return
    for value in samples.right(c.kind, c.path, c.name, c.value, c.facts):
        yield document(c.kind, c.path, value)


def _names_the_field(message: str, path: str) -> bool:
    """By its path; what is missing may be named by the path of what it is missing from."""
    full = path.replace("[]", "[0]").replace("{}", ".key")
    parent, _, leaf = full.rpartition(".")
    return f" {full}" in message or (f"{leaf} is needed" in message and parent in message)


def _says_the_value(message: str) -> bool:
    """Unless the point is that there is none."""
    said = ("(it is ", "is wrong; it must be", "is needed", "be left out")
    return any(words in message for words in said)


def _group(kind: str, name: str) -> list[Constraint]:
    return [c for c in ALL if (c.kind, c.name) == (kind, name)]


@pytest.mark.parametrize(("kind", "name"), GROUPS)
def test_what_breaks_it_is_refused_by_its_path(kind: str, name: str) -> None:
    failures = []
    for c in _group(kind, name):
        for made in broken(c):
            message = refusal(made)
            if not _names_the_field(message, c.path) or not _says_the_value(message):
                failures.append(f"{c.path} {c.name} {c.value}: {message or 'is accepted'}")
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize(("kind", "name"), GROUPS)
def test_what_just_keeps_it_is_accepted(kind: str, name: str) -> None:
    failures = []
    for c in _group(kind, name):
        if samples.never_valid(c.kind, c.path):
            continue
        for made in exact(c):
            if message := refusal(made):
                failures.append(f"{c.path} {c.name} {c.value}: {message}")
    assert not failures, "\n".join(failures)


DEFAULTS = [c for c in ALL if c.name == "default" and c.value != ""]


@pytest.mark.parametrize("c", DEFAULTS, ids=lambda c: f"{c.kind}-{c.path}")
def test_what_is_left_out_gets_its_default(c: Constraint) -> None:
    made = document(c.kind, c.path, samples.valid(c.kind, c.path, c.facts))
    remove(made, c.path)
    found = list(values_at(accepted(made), c.path))
    assert found == [c.value] or (not c.value and not found)


def test_every_constraint_has_its_cases() -> None:
    """None slips through because nothing is known about it."""
    for c in ALL:
        if c.name != "default" and not (c.name == "required" and "default" in c.facts):
            assert any(True for _ in broken(c)), f"nothing breaks {c}"
            assert any(True for _ in exact(c)), f"nothing keeps {c}"
    assert len(ALL) > 2000
