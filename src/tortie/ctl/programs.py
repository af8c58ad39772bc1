"""What programs of their own take (`VERBS` in `tortie.ctl.main`), as commands like all others.

Each makes an argparse parser when it is called. We call it, keep the parser, and stop it there;
so manual pages, reference and completion know a new program without being told. argparse shows
its actions nowhere in public, hence the underscores, all of them here.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import patch

from tortie.ctl.commands import BY_PATH, COMMANDS, COMMON
from tortie.ctl.grammar import Command, Flag
from tortie.ctl.main import VERBS

_FILES = ("FILE", "DIRECTORY", "PATH")
_COMPLETES = {"PROFILE": "profile", "POOL": "ippool", "NETNS|PATH": "netns"}
"""What a value is by its name: the name of a resource, or of a network namespace."""


class _Found(BaseException):  # nothing on the way is to catch it
    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser


@functools.cache
def commands_of(verb: str) -> tuple[Command, ...]:
    """All commands of a program, itself alone if it has none; not those without help."""
    root = parser_of(verb)
    return tuple(
        command for command in _commands(verb, root, (), root) if command.path not in BY_PATH
    )


def all_commands() -> tuple[Command, ...]:
    """Of all programs, and those of the table; by their words."""
    found = [command for verb in VERBS for command in commands_of(verb)]
    shown = [command for command in COMMANDS if not command.is_hidden]
    return tuple(sorted([*shown, *found], key=lambda command: command.path.split()))


def command_at(words: Sequence[str]) -> Command | None:
    """The command with exactly these words."""
    path = " ".join(words)
    if path in BY_PATH or not words or words[0] not in VERBS:
        return BY_PATH.get(path)
    return next((found for found in commands_of(words[0]) if found.path == path), None)


def flags_of(command: Command) -> tuple[Flag, ...]:
    """Those that help shows."""
    flags = (*command.flags, *COMMON) if command.path in BY_PATH else command.flags
    return tuple(flag for flag in flags if not flag.is_hidden)


def parser_of(verb: str) -> argparse.ArgumentParser:
    """The parser that a program would read its command line with."""

    def stop(self: argparse.ArgumentParser, *_: object, **__: object) -> NoReturn:
        raise _Found(self)

    module = import_module(VERBS[verb].module)
    with patch.object(argparse.ArgumentParser, "parse_known_args", stop):
        try:
            module.main([], *([None] if VERBS[verb].is_ours else []))
        except _Found as found:
            return found.parser
    raise AssertionError(f"tortie {verb} reads its command line without argparse")


def _commands(
    path: str, parser: argparse.ArgumentParser, above: Sequence[Flag], root: argparse.ArgumentParser
) -> Iterator[Command]:
    flags = (*(_flag(parser, action) for action in _options(parser)), *above)
    below = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not below:
        summary = VERBS[path].summary if path in VERBS else ""
        yield _command(path, parser, flags, summary)
        return
    for action in below:
        for shown in action._choices_actions:
            if shown.help is argparse.SUPPRESS:
                continue
            inner = action.choices[shown.dest]
            for command in _commands(f"{path} {shown.dest}", inner, flags, root):
                command.summary = command.summary or str(shown.help or "")
                command.notes = tuple(n for n in command.notes if n != command.summary)
                yield command


def _command(
    path: str, parser: argparse.ArgumentParser, flags: Sequence[Flag], summary: str
) -> Command:
    words = [action for action in parser._actions if not action.option_strings]
    shown = " ".join(_word(action) for action in words)
    text = " ".join((parser.description or "").split())
    notes = tuple(part for part in (text, parser.epilog or "") if part)
    most = None if any(action.nargs in ("*", "+", "...") for action in words) else len(words)
    completes = "workload" if shown == "WORKLOAD" else ""
    return Command(
        path, "", summary, words=shown, most=most, flags=tuple(flags), notes=notes,
        completes=completes,
    )  # fmt: skip


def _word(action: argparse.Action) -> str:
    name = _value(action) or action.dest.upper()
    if action.nargs in ("*", "..."):
        return f"[{name} ...]"
    if action.nargs == "+":
        return f"{name} ..."
    return f"[{name}]" if action.nargs == "?" else name


def _options(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        is_help = isinstance(action, argparse._HelpAction)
        if action.option_strings and not is_help and action.help is not argparse.SUPPRESS:
            yield action


def _flag(parser: argparse.ArgumentParser, action: argparse.Action) -> Flag:
    long = [text[2:] for text in action.option_strings if text.startswith("--")]
    short = [text[1:] for text in action.option_strings if not text.startswith("--")]
    summary = parser._get_formatter()._expand_help(action) if action.help else ""
    return Flag(
        long[0] if long else "",
        " ".join(summary.split()),
        short="".join(short),
        value=_value(action) if action.nargs != 0 else "",
        optional=str(action.const) if action.nargs == "?" else None,
        choices=tuple(map(str, action.choices or ())) if action.metavar else (),
        repeats=isinstance(action, (argparse._AppendAction, argparse._ExtendAction)),
        completes=_completes(action),
    )


def _completes(action: argparse.Action) -> str:
    if action.type is Path or action.metavar in _FILES:
        return "file"
    return _COMPLETES.get(str(action.metavar), "")


def _value(action: argparse.Action) -> str:
    """What to call it in help."""
    metavar: Any = action.metavar
    if isinstance(metavar, tuple):
        return " ".join(metavar)
    if metavar:
        return str(metavar)
    if action.choices:
        return "|".join(map(str, action.choices))
    return action.dest.upper().replace("_", "-")
