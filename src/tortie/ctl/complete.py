"""`tortie __complete WORD …`: what the last word could become, one candidate a line.

The scripts of `tortie completion` ask this. Never a message, never an error: a shell is
waiting. Names come from the datastore, if it answers at once.
"""

from __future__ import annotations

import contextlib
from itertools import pairwise

from tortie.ctl.commands import BY_PATH, COMMANDS, COMMON, ELSEWHERE
from tortie.ctl.grammar import Command, Flag, Given
from tortie.ctl.kinds import ALIASES, NAMESPACED, at, plural
from tortie.ctl.main import VERBS
from tortie.ctl.printing import FORMATS, FORMATS_WITH_VALUE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from tortie.ctl.screen import Screen

SHELLS = ("bash", "zsh", "fish")


def main(given: Given, screen: Screen) -> int:
    words = given.words
    with contextlib.suppress(Exception):
        for candidate in candidates(words[:-1], words[-1] if words else ""):
            screen.print(candidate)
    return 0


def candidates(before: Sequence[str], word: str) -> list[str]:
    """What `word` could become after the words `before` it.

    A single `:files` asks the shell to complete names of files.
    """
    command, rest = _command(before)
    if command is None:
        return [name for name in _next_words(before) if name.startswith(word)]
    flags = [flag for flag in _flags(command) if not flag.is_hidden]
    if rest and (flag := _waiting(flags, rest[-1])):
        return _values(flag, word)
    if word.startswith("--") and "=" in word:
        name, _, value = word.partition("=")
        named = next((flag for flag in flags if f"--{flag.name}" == name), None)
        return [f"{name}={found}" for found in _values(named, value)] if named else []
    if word.startswith("-"):
        long = [f"--{flag.name}" for flag in flags if flag.name]
        return [name for name in long if name.startswith(word)]
    words = _plain_words(flags, rest)
    return _words(command, words, word, _namespace(flags, rest), rest)


def _command(before: Sequence[str]) -> tuple[Command | None, list[str]]:
    for length in (3, 2, 1):
        command = BY_PATH.get(" ".join(before[:length])) or _of_program(before[:length])
        if command is not None and len(before) >= length:
            return command, list(before[length:])
    return None, []


def _of_program(words: Sequence[str]) -> Command | None:
    """Of one with a parser of its own, which is imported only if it was named."""
    if not words or words[0] not in VERBS:
        return None
    from tortie.ctl.programs import command_at

    return command_at(words)


def _flags(command: Command) -> tuple[Flag, ...]:
    return (*command.flags, *COMMON) if command.path in BY_PATH else command.flags


def _next_words(before: Sequence[str]) -> list[str]:
    prefix = "".join(f"{word} " for word in before)
    known = [*(c.path for c in COMMANDS if not c.is_hidden), *ELSEWHERE]
    if before and before[0] in VERBS:
        from tortie.ctl.programs import commands_of

        known += [command.path for command in commands_of(before[0])]
    paths = [path for path in known if path.startswith(prefix)]
    names = [path.removeprefix(prefix).partition(" ")[0] for path in paths]
    return sorted({*names, *(() if before else (*VERBS, "help"))})


def _waiting(flags: Sequence[Flag], word: str) -> Flag | None:
    """The flag whose value comes next."""
    for flag in flags:
        spelled = {f"--{flag.name}", *(f"-{letter}" for letter in flag.short)}
        if word in spelled and flag.value and flag.optional is None:
            return flag
    return None


def _values(flag: Flag, word: str) -> list[str]:
    if flag.completes == "file":
        return [":files"]
    if flag.completes == "output":
        known: Sequence[str] = [*FORMATS, *(f"{form}=" for form in FORMATS_WITH_VALUE)]
    elif flag.completes == "netns":
        known = _namespaces()
    elif flag.completes in ALIASES:
        known = _names(ALIASES[flag.completes], "")
    elif flag.choices:
        known = flag.choices
    else:
        known = [value for value in flag.value.split("|") if not value.isupper()]
        known = known if "|" in flag.value else ()
    return [value for value in known if value.startswith(word)]


def _plain_words(flags: Sequence[Flag], rest: Sequence[str]) -> list[str]:
    words: list[str] = []
    previous = ""
    for word in rest:
        if not word.startswith("-") and not _waiting(flags, previous):
            words.append(word)
        previous = word
    return words


def _namespace(flags: Sequence[Flag], rest: Sequence[str]) -> str:
    for name, value in pairwise(rest):
        if name in ("-n", "--namespace"):
            return value
    return next((w.partition("=")[2] for w in rest if w.startswith("--namespace=")), "default")


def _words(
    command: Command, words: Sequence[str], word: str, namespace: str, rest: Sequence[str]
) -> list[str]:
    if command.completes == "shell":
        return [shell for shell in SHELLS if shell.startswith(word)]
    if command.completes == "workload":
        return [] if words else [one for one in _attached(rest, namespace) if one.startswith(word)]
    if command.completes not in ("kind", "resource"):
        return []
    if not words and "/" not in word:
        kinds = sorted({plural(kind) for kind in ALIASES.values()})
        return [kind for kind in kinds if kind.startswith(word.lower())]
    if command.completes == "kind":
        return []
    kind_text, slash, start = word.partition("/")
    if not slash:
        kind_text, start = words[0], word
    kind = ALIASES.get(kind_text.lower())
    if kind is None:
        return []
    prefix = f"{kind_text}/" if slash else ""
    taken = set(words[1:])
    return [prefix + n for n in _names(kind, namespace) if n.startswith(start) and n not in taken]


def _namespaces() -> list[str]:
    from pathlib import Path

    with contextlib.suppress(OSError):
        return sorted(path.name for path in Path("/run/netns").iterdir())
    return []


def _attached(rest: Sequence[str], namespace: str) -> list[str]:
    """What this host's agent has attached in that namespace, by whomever."""
    from tortie.attach.client import DEFAULT_PATH, Client

    socket = next((value for name, value in pairwise(rest) if name == "--socket"), DEFAULT_PATH)
    with Client(socket, grace_seconds=0.5) as agent:
        workloads = agent.call("list", {"timeout_seconds": 0.5})["workloads"]
    keys = [found["key"] for found in workloads]
    return sorted({key["workload"] for key in keys if key["namespace"] == namespace})


def _names(kind: str, namespace: str) -> list[str]:
    from tortie.ctl.plain import read
    from tortie.ctl.selection import Selection

    scope = namespace if kind in NAMESPACED else ""
    found = read(None, [Selection(kind, None)], scope, everywhere=False)
    return [str(at(item, "metadata.name")) for item in found.items[0]]
