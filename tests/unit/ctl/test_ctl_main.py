"""Finding verbs, exit codes, and what it costs to start."""

import subprocess
import sys

import pytest
from tests.unit.ctl.shell import Shell

from tortie.ctl import main as ctl
from tortie.lib.errors import Conflict, Denied, InvalidInput, NotFound, Unavailable


def test_help_lists_every_verb(tortie: Shell) -> None:
    for words in ([], ["help"], ["--help"], ["-h"]):
        outcome = tortie(*words)
        assert outcome.code == 0
        assert all(f"\n  {verb} " in outcome.out for verb in ctl.VERBS)


@pytest.mark.parametrize("verb", ["apply", "create", "replace", "delete", "get", "version"])
def test_each_verb_explains_itself(
    tortie: Shell, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tortie(verb, "--help").code == 0
    assert f"usage: tortie {verb}" in capsys.readouterr().out


def test_unknown_verbs_and_flags(tortie: Shell) -> None:
    assert tortie("appli") == (2, "", "tortie: unknown verb 'appli'; did you mean 'apply'?\n")
    assert tortie("x") == (2, "", "tortie: unknown verb 'x'; see tortie --help\n")
    assert "unknown flag: --nope" in tortie("--nope", "get").err
    assert "-c needs a value" in tortie("-c").err


def test_version(tortie: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = tortie("--version")
    assert outcome.code == 0
    assert outcome.out.startswith("Client Version:    ")
    assert "no agent has initialized" in tortie("version").out
    monkeypatch.setenv("TORTIE_EMBEDDED_PATH", "/nonexistent/x.db")
    assert tortie("version").code == 0
    assert "Cluster Version:   unknown" in tortie("version").out


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (InvalidInput("a\nb"), 2, "tortie: a\ntortie: b\n"),
        (NotFound("gone"), 1, "tortie: gone\n"),
        (Conflict("raced"), 1, "tortie: raced\n"),
        (Unavailable("away"), 3, "tortie: away\n"),
        (Denied("no"), 3, "tortie: no\n"),
        (KeyError("k"), 1, "tortie: internal error: KeyError: 'k'; TORTIE_DEBUG=1 shows more\n"),
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(), 1, ""),
        (SystemExit(2), 2, ""),
        (OSError(28, "No space left on device"), 1, "tortie: [Errno 28] No space left on device\n"),
    ],
)
def test_errors_become_exit_codes(
    tortie: Shell,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    message: str,
) -> None:
    def fail(argv: object, out: object) -> int:
        raise error

    monkeypatch.setattr("tortie.ctl.get.main", fail)
    assert tortie("get") == (code, "", message)


def test_debug_adds_the_traceback(tortie: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORTIE_DEBUG", "1")
    outcome = tortie("get", "nod")
    assert "Traceback" in outcome.err
    assert outcome.err.endswith("did you mean 'node'?\n")


def test_help_imports_nothing_heavy() -> None:
    """The cost of starting is what is imported; three times a bare interpreter is the limit."""
    code = (
        "import sys; bare = set(sys.modules)\n"
        "from tortie.ctl.main import main\n"
        "main(['--help'])\n"
        "print(' '.join(sorted(set(sys.modules) - bare)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    loaded = set(done.stderr.split())
    heavy = {"argparse", "asyncio", "msgspec", "yaml", "json", "re", "logging", "inspect", "grpc"}
    assert not heavy & loaded
    assert "apply" in done.stdout


def test_a_closed_pipe_is_no_error_message() -> None:
    """As in `tortie get … | head -1`."""
    code = "from tortie.ctl.main import entry; entry()"
    script = f"{sys.executable} -c '{code}' --help | true"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=30)
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
