"""The reference pages are what the parser and the structs say today."""

import argparse
import subprocess
import sys
import types
from pathlib import Path

import msgspec
import pytest

from tortie.agent.parameters import BY_YAML_NAME, PARAMETERS
from tortie.ctl.commands import COMMANDS
from tortie.ctl.complete import candidates
from tortie.ctl.felix_settings import HONOURED, NOT_HONOURED, why_not
from tortie.ctl.fields import describe
from tortie.ctl.main import VERBS, Verb
from tortie.ctl.manual import page_name
from tortie.ctl.programs import commands_of
from tortie.ctl.reference import pages
from tortie.model.catalogue import TYPES
from tortie.model.felix_configuration import FelixConfigurationSpec

ROOT = Path(__file__).parents[3]


def test_the_pages_are_current() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "reference"), "--check"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout == ""
    assert done.returncode == 0


def test_every_setting_of_felix_has_its_line() -> None:
    """Honoured with a word on what it does, or not with the reason; and never both."""
    names = {field.encode_name for field in msgspec.structs.fields(FelixConfigurationSpec)}
    assert HONOURED.keys() == BY_YAML_NAME.keys()
    others = names - HONOURED.keys()
    assert all(why_not(name) for name in others)
    assert NOT_HONOURED.keys() <= others
    assert len(names) > 180


def test_a_setting_that_counts_is_asked_for_somewhere() -> None:
    """One that is parsed, and then read by nobody, would be a promise."""
    source = "".join(
        path.read_text()
        for path in (ROOT / "src" / "tortie").rglob("*.py")
        if path.name not in ("parameters.py", "felix_settings.py")
    )
    assert [one.name for one in PARAMETERS if f'"{one.name}"' not in source] == []


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


def test_programs_of_their_own_are_found_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every verb that reads its command line with argparse, a new one too."""
    written = pages()
    for verb in VERBS:
        for command in commands_of(verb):
            assert command.summary, command.path
            assert f"man/{page_name(command)}.1" in written
    made = types.ModuleType("tortie.ctl.made_up")

    def main(argv: list[str]) -> int:
        parser = argparse.ArgumentParser("tortie made-up")
        verbs = parser.add_subparsers()
        shine = verbs.add_parser("shine", help="as a lamp does")
        shine.add_argument("--bright", action="store_true", help="%(default)s unless given")
        verbs.add_parser("hidden")
        parser.parse_args(argv)
        raise AssertionError("it is not to run")

    made.main = main  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, made.__name__, made)
    monkeypatch.setitem(VERBS, "made-up", Verb(made.__name__, "a test", is_ours=False))
    (command,) = commands_of("made-up")
    assert (command.path, command.summary) == ("made-up shine", "as a lamp does")
    assert [flag.spelled for flag in command.flags] == ["--bright"]
    assert command.flags[0].summary == "False unless given"
    assert candidates(["made-up"], "") == ["shine"]
    assert candidates(["made-up", "shine"], "--b") == ["--bright"]
    assert "As a lamp does." in pages()["commands.md"]
