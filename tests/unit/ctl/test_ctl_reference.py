"""The reference pages are what the parser and the structs say today."""

import subprocess
import sys
from pathlib import Path

import pytest

from tortie.ctl.commands import COMMANDS
from tortie.ctl.fields import describe
from tortie.ctl.reference import pages
from tortie.model.catalogue import TYPES

ROOT = Path(__file__).parents[3]


def test_the_pages_are_current() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "reference"), "--check"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout == ""
    assert done.returncode == 0


def test_every_command_and_kind_has_its_page() -> None:
    made = pages()
    for command in COMMANDS:
        assert (f"## tortie {command.path}\n" in made["commands.md"]) is not command.is_hidden
    for kind in TYPES:
        assert f"[{kind}](resources/{kind.lower()}.md)" in made["README.md"]
        assert "| `metadata.name` |" in made[f"resources/{kind.lower()}.md"]


def test_rules_and_texts_are_those_of_the_structs() -> None:
    page = pages()["resources/ippool.md"]
    assert "| `spec.blockSize` | integer | 0 to 128 | Prefix length of a block;" in page
    assert "one of Never, Always, CrossSubnet; default Never" in page
    policy = pages()["resources/networkpolicy.md"]
    assert "| `spec.ingress[].action` | string | one of Allow, Deny, Log, Pass |" in policy


@pytest.mark.parametrize("kind", sorted(TYPES))
def test_every_field_has_a_shape(kind: str) -> None:
    waiting = [describe(TYPES[kind])]
    seen = 0
    while waiting and seen < 2000:
        described = waiting.pop()
        for field in described.fields.values():
            seen += 1
            assert field.shape
            assert "None" not in field.shape
            if field.resolved().fields is not described.fields:
                waiting.append(field.resolved())
    assert seen > 5
