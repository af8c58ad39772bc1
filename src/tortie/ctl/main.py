"""The `tortie` command: finds the command, loads it alone, and turns errors into exit codes.

Exit codes of the verbs are calicoctl's: 0 done, 1 failed, for whatever reason (`diff` has 2 for
that, as kubectl's). Programs of their own (agent, lab, demo) tell wrong input, 2, and what is
not available, 3, apart. `TORTIE_DEBUG=1` adds the traceback to a message. Nothing heavy is
imported here, not even `typing`: `tortie --help` costs little more than starting Python.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TextIO

    from tortie.ctl.grammar import Command, Given
    from tortie.ctl.screen import Screen

EXIT_FAILED = 1
EXIT_INPUT = 2
EXIT_UNAVAILABLE = 3
EXIT_INTERRUPTED = 130
"""What shells report for a command that SIGINT ended."""


class Verb:
    """A program of its own: where it is, and what the help says of it.

    Attributes:
        module: has `main(argv, …)` and is imported when the verb is used.
        is_ours: its main takes where to print, too.
    """

    def __init__(self, module: str, summary: str, is_ours: bool = True) -> None:
        self.module = module
        self.summary = summary
        self.is_ours = is_ours


VERBS = {
    "lab": Verb(
        "tortie.lab.main", "a cluster on this machine, to learn and to test", is_ours=False
    ),
    "demo": Verb(
        "tortie.demo.story", "the whole story in two minutes, in a lab of its own", is_ours=False
    ),
    "workload": Verb(
        "tortie.ctl.workload", "attach a namespace, tap or interface by hand", is_ours=False
    ),
    "cni": Verb("tortie.cni.main", "the plugins for container runtimes", is_ours=False),
    "kube": Verb("tortie.kube.main", "a Kubernetes cluster's controllers", is_ours=False),
    "docker": Verb("tortie.docker.main", "networks for Docker and its swarm mode", is_ours=False),
    "openstack": Verb(
        "tortie.dhcp.openstack", "OpenStack's own: DHCP agent, resync", is_ours=False
    ),
    "dhcp": Verb("tortie.dhcp.main", "addresses for virtual machines of this host", is_ours=False),
    "node": Verb("tortie.ctl.node", "this host's BGP sessions, and its address"),
    "policy": Verb("tortie.ctl.policy", "why a packet passes or not; what a change would do"),
    "bgp": Verb("tortie.ctl.bgp", "routes by BGP, and a plan for route reflectors"),
    "agent": Verb("tortie.agent.main", "the daemon of a host", is_ours=False),
}
"""Beside the commands of `tortie.ctl.commands`."""

LOG_LEVELS = ("panic", "fatal", "error", "warn", "info", "debug")

_WITH_VALUE = frozenset({"-c", "--config", "-l", "--log-level", "--context"})
_WITHOUT_VALUE = frozenset({"--allow-version-mismatch"})


def entry() -> None:
    """The console script."""
    sys.exit(main(sys.argv[1:]))


def main(argv: Sequence[str], out: TextIO | None = None, err: TextIO | None = None) -> int:
    """Run one command line and return its exit code; never raises for what users do."""
    out, err = out or sys.stdout, err or sys.stderr
    verb = ""
    try:
        before, words = _split(argv)
        verb = words[0] if words else ""
        code = _run(before, words, out, err)
        out.flush()
        return code
    except SystemExit as error:  # --help of a program of its own
        return error.code if isinstance(error.code, int) else EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # as in `tortie get … | head`
        _forget(out)
        return EXIT_FAILED
    except Exception as error:  # noqa: BLE001  (the edge of the program)
        return _complain(error, verb, err)


def _run(before: Sequence[str], words: Sequence[str], out: TextIO, err: TextIO) -> int:
    if not words or words[0] == "help":
        return _help(words[1:], out)
    command, rest = _find(words)
    if command is not None:
        return _run_command(command, [*before, *rest], out, err)
    from tortie.ctl.commands import GROUPS
    from tortie.ctl.help import group_help

    wants_help = words[1:2] in ([], ["-h"], ["--help"])
    if words[0] in VERBS and not (words[0] in GROUPS and wants_help):
        return _run_program(VERBS[words[0]], before, words, out)
    if words[0] not in GROUPS:
        raise _unknown(words, "")
    length = 2 if len(words) > 1 and " ".join(words[:2]) in GROUPS else 1
    group = " ".join(words[:length])
    if len(words) == length or words[length] in ("-h", "--help"):
        print(group_help(group), file=out)
        return 0
    raise _unknown(words[length:], group)


def _find(words: Sequence[str]) -> tuple[Command | None, Sequence[str]]:
    """The command that the first words name, and what follows."""
    from tortie.ctl.commands import BY_PATH

    for length in (3, 2, 1):
        command = BY_PATH.get(" ".join(words[:length]))
        if command is not None and len(words) >= length:
            return command, words[length:]
    return None, words


def _run_command(command: Command, argv: Sequence[str], out: TextIO, err: TextIO) -> int:
    from tortie.ctl.commands import COMMON
    from tortie.ctl.grammar import HelpWanted, read

    try:
        given = read(command, (*command.flags, *COMMON), argv)
    except HelpWanted:
        from tortie.ctl.help import command_help

        print(command_help(command), file=out)
        return 0
    from tortie.ctl.screen import Screen

    run: Callable[[Given, Screen], int] = import_module(command.module).main
    return run(given, Screen(out, err))


def _run_program(verb: Verb, before: Sequence[str], words: Sequence[str], out: TextIO) -> int:
    if verb.is_ours:
        ours: Callable[[Sequence[str], TextIO], int] = import_module(verb.module).main
        return ours([*before, *words[1:]], out)
    if before:
        raise _input_error(f"options of tortie {words[0]} come after it")
    program: Callable[[Sequence[str]], int] = import_module(verb.module).main
    return program(list(words[1:]))


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Options before the verb that mean the same after it; the verb and the rest."""
    before: list[str] = []
    rest = list(argv)
    while rest and rest[0].startswith("-"):
        option = rest.pop(0)
        name, equals, value = option.partition("=")
        if option in ("-h", "--help"):
            return [], []
        if option in ("-v", "--version"):
            return [], ["version", "--client"]
        if name in _WITHOUT_VALUE:
            continue
        if name not in _WITH_VALUE:
            if name.startswith("--"):
                raise _input_error(f"unknown flag: {name}; see tortie --help")
            raise _input_error(f"unknown shorthand flag: {name[1:2]!r} in {option}")
        if not equals:
            if not rest:
                raise _input_error(f"flag needs an argument: {name}")
            value = rest.pop(0)
        if name in ("-c", "--config"):
            before += ["--config", value]
        elif name != "--context" and value not in LOG_LEVELS:
            levels = ", ".join(LOG_LEVELS)
            raise _input_error(f"Unknown log level: {value}, expected one of: {levels}.")
    return before, rest


def _help(words: Sequence[str], out: TextIO) -> int:
    from tortie.ctl.commands import GROUPS
    from tortie.ctl.help import command_help, group_help, overview

    command, _ = _find(words)
    if command is not None:
        print(command_help(command), file=out)
    elif " ".join(words) in GROUPS:
        print(group_help(" ".join(words)), file=out)
    elif words and words[0] not in VERBS:
        raise _unknown(words, "")
    else:
        programs = {name: verb.summary for name, verb in VERBS.items()}
        print(overview(programs), file=out)
    return 0


def _unknown(words: Sequence[str], group: str) -> Exception:
    from tortie.ctl.commands import COMMANDS
    from tortie.ctl.grammar import nearest

    prefix = f"{group} " if group else ""
    paths = [c.path for c in COMMANDS if not c.is_hidden and c.path.startswith(prefix)]
    known = [path.removeprefix(prefix).partition(" ")[0] for path in paths]
    close = nearest(words[0], [*dict.fromkeys(known), *(() if group else VERBS)])
    hint = f"did you mean {close!r}?" if close else f"see tortie {prefix}--help"
    return _input_error(f'unknown command "{words[0]}" for "{f"tortie {group}".strip()}"; {hint}')


def _input_error(message: str) -> Exception:
    from tortie.lib.errors import InvalidInput

    return InvalidInput(message)


def _complain(error: Exception, verb: str, err: TextIO) -> int:
    from tortie.lib.errors import Denied, InvalidInput, TortieError, Unavailable

    if os.environ.get("TORTIE_DEBUG"):
        import traceback

        traceback.print_exception(error, file=err)
    is_program = verb in VERBS and not VERBS[verb].is_ours
    if isinstance(error, TortieError):
        from tortie.ctl.screen import harmless

        for line in str(error).splitlines():
            print(f"tortie: {harmless(line)}" if is_program else harmless(line), file=err)
        if not is_program:
            return EXIT_INPUT if verb == "diff" else EXIT_FAILED
        if isinstance(error, InvalidInput):
            return EXIT_INPUT
        return EXIT_UNAVAILABLE if isinstance(error, (Unavailable, Denied)) else EXIT_FAILED
    if verb in ("agent", "kube"):
        raise error  # a daemon's bug belongs in its log, whole
    text = str(error).splitlines()
    shown = f"{type(error).__name__}: {text[0] if text else ''}".rstrip(": ")
    if isinstance(error, OSError):
        print(f"tortie: {error}", file=err)
    else:
        print(f"tortie: internal error: {shown}; TORTIE_DEBUG=1 shows more", file=err)
    return EXIT_INPUT if verb == "diff" else EXIT_FAILED


def _forget(out: TextIO) -> None:
    """Keep Python from flushing a closed pipe once more at exit, and complaining about it."""
    if out is sys.stdout:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
