"""Finding verbs, exit codes, and what it costs to start."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.unit.ctl.shell import Shell

from tortie.ctl import main as ctl
from tortie.ctl import version
from tortie.ctl.commands import COMMANDS
from tortie.ctl.grammar import Command
from tortie.lib.errors import Conflict, Denied, InvalidInput, NotFound, Unavailable


def test_help_lists_every_verb(tortie: Shell) -> None:
    for words in ([], ["help"], ["--help"], ["-h"]):
        outcome = tortie(*words)
        assert outcome.code == 0
        assert all(f"\n  {verb} " in outcome.out for verb in ctl.VERBS)
        shown = [c.path for c in COMMANDS if " " not in c.path and not c.is_hidden]
        assert all(f"\n  {verb} " in outcome.out for verb in [*shown, "ipam", "datastore"])


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.path)
def test_each_command_explains_itself(tortie: Shell, command: Command) -> None:
    for words in ([*command.path.split(), "--help"], ["help", *command.path.split()]):
        outcome = tortie(*words)
        assert outcome.code == 0
        assert outcome.out.startswith(f"usage: tortie {command.path} ")
        assert outcome.out.count("\n") > 2


def test_unknown_verbs_and_flags(tortie: Shell) -> None:
    assert tortie("appli") == (
        1,
        "",
        'unknown command "appli" for "tortie"; did you mean \'apply\'?\n',
    )
    assert tortie("x").err == 'unknown command "x" for "tortie"; see tortie --help\n'
    assert tortie("ipam", "shov").err == (
        'unknown command "shov" for "tortie ipam"; did you mean \'show\'?\n'
    )
    assert "unknown flag: --nope" in tortie("--nope", "get").err
    assert "unknown shorthand flag: 'm' in -m" in tortie("-m", "get").err
    assert tortie("-c").err == "flag needs an argument: -c\n"
    assert "Unknown log level: loud, expected one of: panic" in tortie("-l", "loud", "get").err


def test_verbs_with_parsers_of_their_own_word_mistakes_alike(tortie: Shell) -> None:
    for words, says in (
        (["node", "status", "--odd=1"], "unknown flag: --odd;"),
        (["node", "status", "-m"], "unknown shorthand flag: 'm' in -m;"),
        (["node", "autodetect", "--method"], "flag needs an argument: --method;"),
    ):
        outcome = tortie(*words)
        assert outcome.code == 1
        assert outcome.err.startswith(says)


def test_version(tortie: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = tortie("--version")
    assert outcome.code == 0
    assert outcome.out.startswith("Client Version:    ")
    unset = tortie("version")
    assert unset.code == 1
    assert unset.err == (
        "Unable to retrieve Cluster Version or Type: resource does not exist: "
        "ClusterInformation(default) with error: <nil>\n"
    )
    monkeypatch.setenv("TORTIE_EMBEDDED_PATH", "/nonexistent/x.db")
    assert tortie("version", "--client").code == 0
    assert "Unable to retrieve Cluster Version or Type: " in tortie("version").err


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (InvalidInput("a\nb"), 1, "a\nb\n"),
        (NotFound("gone"), 1, "gone\n"),
        (Conflict("raced"), 1, "raced\n"),
        (Unavailable("away"), 1, "away\n"),
        (Denied("no"), 1, "no\n"),
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
    def fail(given: object, screen: object) -> int:
        raise error

    monkeypatch.setattr("tortie.ctl.get.main", fail)
    assert tortie("get") == (code, "", message)


@pytest.mark.parametrize(
    ("error", "code"), [(InvalidInput("x"), 2), (Unavailable("x"), 3), (NotFound("x"), 1)]
)
def test_programs_tell_more_by_their_exit_codes(
    tortie: Shell, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
) -> None:
    def fail(argv: object) -> int:
        raise error

    monkeypatch.setattr("tortie.lab.main.main", fail)
    assert tortie("lab", "up") == (code, "", "tortie: x\n")


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


def test_the_commit_is_that_of_the_installation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From what pip wrote down, or from the working tree of an editable installation."""
    commit = "0123456789" * 4
    known = ""

    class Installed:
        def read_text(self, name: str) -> str:
            assert name == "direct_url.json"
            return known

    monkeypatch.setattr(version, "distribution", lambda name: Installed())
    assert version.client_commit() == "unknown"
    known = json.dumps({"url": "https://example.test", "vcs_info": {"commit_id": commit}})
    assert version.client_commit() == commit
    git = tmp_path / "a tree" / ".git"
    (git / "refs" / "heads").mkdir(parents=True)
    known = json.dumps({"url": git.parent.as_uri(), "dir_info": {"editable": True}})
    assert version.client_commit() == "unknown"
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    (git / "packed-refs").write_text(f"# pack-refs\n{commit} refs/heads/main\n")
    assert version.client_commit() == commit
    (git / "refs" / "heads" / "main").write_text("f" * 40 + "\n")
    assert version.client_commit() == "f" * 40
    (git / "HEAD").write_text("something else\n")
    assert version.client_commit() == "unknown"
