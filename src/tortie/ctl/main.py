"""The `tortie` command: finds the verb, loads it alone, and turns errors into exit codes.

Exit codes: 0 done, 1 failed, 2 your input is wrong, 3 something needed is not available.
Messages are one line each on stderr; `TORTIE_DEBUG=1` adds the traceback. Nothing heavy is
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

EXIT_FAILED = 1
EXIT_INPUT = 2
EXIT_UNAVAILABLE = 3
EXIT_INTERRUPTED = 130
"""What shells report for a command that SIGINT ended."""


class Verb:
    """Where a verb is, and what the help says of it.

    Attributes:
        module: has `main(argv, …)` and is imported when the verb is used.
        is_ours: its main takes where to print, too; else it is a program of its own.
    """

    def __init__(self, module: str, summary: str, is_ours: bool = True) -> None:
        self.module = module
        self.summary = summary
        self.is_ours = is_ours


VERBS = {
    "apply": Verb("tortie.ctl.apply", "create or update resources from files"),
    "create": Verb("tortie.ctl.create", "create resources from files; they must not exist"),
    "replace": Verb("tortie.ctl.replace", "replace resources from files; they must exist"),
    "delete": Verb("tortie.ctl.delete", "delete resources, by kind and name or from files"),
    "get": Verb("tortie.ctl.get", "show resources, by kind and name or from files"),
    "version": Verb("tortie.ctl.version", "show the version of this command and of the cluster"),
    "lab": Verb(
        "tortie.lab.main", "a cluster on this machine, to learn and to test", is_ours=False
    ),
    "demo": Verb(
        "tortie.demo.story", "the whole story in two minutes, in a lab of its own", is_ours=False
    ),
    "agent": Verb("tortie.agent.main", "the daemon of a host", is_ours=False),
}

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
        before, verb, rest = _split(argv)
        code = _run(before, verb, rest, out)
        out.flush()
        return code
    except SystemExit as error:  # argparse's --help
        return error.code if isinstance(error.code, int) else EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # as in `tortie get … | head`
        _forget(out)
        return EXIT_FAILED
    except Exception as error:  # noqa: BLE001  (the edge of the program)
        return _complain(error, verb, err)


def _run(before: Sequence[str], verb: str, rest: Sequence[str], out: TextIO) -> int:
    if verb in ("", "help"):
        print(_help(), file=out)
        return 0
    if verb not in VERBS:
        raise _unknown(verb)
    found = VERBS[verb]
    if found.is_ours:
        command: Callable[[Sequence[str], TextIO], int] = import_module(found.module).main
        return command([*before, *rest], out)
    if before:
        raise _input_error(f"options of tortie {verb} come after it")
    program: Callable[[Sequence[str]], int] = import_module(found.module).main
    return program(list(rest))


def _split(argv: Sequence[str]) -> tuple[list[str], str, list[str]]:
    """Options before the verb (they mean the same after it), the verb, and the rest."""
    before: list[str] = []
    rest = list(argv)
    while rest and rest[0].startswith("-"):
        option = rest.pop(0)
        name = option.partition("=")[0]
        if option in ("-h", "--help"):
            return [], "", []
        if option == "--version":
            return [], "version", ["--client"]
        if name not in _WITH_VALUE | _WITHOUT_VALUE:
            raise _input_error(f"unknown flag: {option}; see tortie --help")
        before.append(option)
        if option in _WITH_VALUE:
            if not rest:
                raise _input_error(f"{option} needs a value")
            before.append(rest.pop(0))
    return before, rest[0] if rest else "", rest[1:]


def _help() -> str:
    verbs = "\n".join(f"  {name:<10}{verb.summary}" for name, verb in VERBS.items())
    return f"""\
usage: tortie [-c CONFIG] VERB ...

{verbs}

`tortie VERB --help` shows what a verb takes. The datastore is named by DATASTORE_TYPE,
ETCD_ENDPOINTS and so on in the environment, or in the file that -c names
(/etc/calico/calicoctl.cfg)."""


def _unknown(verb: str) -> Exception:
    from difflib import get_close_matches

    close = get_close_matches(verb, VERBS, n=1)
    hint = f"did you mean {close[0]!r}?" if close else "see tortie --help"
    return _input_error(f"unknown verb {verb!r}; {hint}")


def _input_error(message: str) -> Exception:
    from tortie.lib.errors import InvalidInput

    return InvalidInput(message)


def _complain(error: Exception, verb: str, err: TextIO) -> int:
    from tortie.lib.errors import Denied, InvalidInput, TortieError, Unavailable

    if os.environ.get("TORTIE_DEBUG"):
        import traceback

        traceback.print_exception(error, file=err)
    if isinstance(error, TortieError):
        for line in str(error).splitlines():
            print(f"tortie: {line}", file=err)
        if isinstance(error, InvalidInput):
            return EXIT_INPUT
        return EXIT_UNAVAILABLE if isinstance(error, (Unavailable, Denied)) else EXIT_FAILED
    if verb == "agent":
        raise error  # a daemon's bug belongs in its log, whole
    text = str(error).splitlines()
    shown = f"{type(error).__name__}: {text[0] if text else ''}".rstrip(": ")
    if isinstance(error, OSError):
        print(f"tortie: {error}", file=err)
    else:
        print(f"tortie: internal error: {shown}; TORTIE_DEBUG=1 shows more", file=err)
    return EXIT_FAILED


def _forget(out: TextIO) -> None:
    """Keep Python from flushing a closed pipe once more at exit, and complaining about it."""
    if out is sys.stdout:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
