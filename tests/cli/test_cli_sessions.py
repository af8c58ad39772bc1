"""More than a hundred commands, and what calicoctl's users expect of them.

What they expect was written down before ours was run: from calicoctl's messages, tables and
exit codes, and from kubectl's where calicoctl has no such thing.
"""

import asyncio
import io
import os
from pathlib import Path

import pytest
from tests.cli import sessions

from tortie.ctl.main import main
from tortie.datastore.connect import connect, from_environment
from tortie.ipam.allocator import Allocator
from tortie.lib.ip import parse_address

SESSIONS = sorted((Path(__file__).parent / "session").glob("*.txt"))

COMMANDS_AT_LEAST = 100


@pytest.mark.parametrize("path", SESSIONS, ids=lambda path: path.stem)
def test_session(
    path: Path, datastore: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "files"
    directory.mkdir()
    monkeypatch.chdir(directory)
    wrong: list[str] = []
    for step in sessions.read(path):
        if isinstance(step, sessions.File):
            (directory / step.name).write_text(step.text)
        elif isinstance(step, sessions.Assign):
            _assign(step)
        else:
            wrong += _run(path, step)
    assert not wrong, "\n\n".join(wrong)


def _run(path: Path, step: sessions.Step) -> list[str]:
    out, err = io.StringIO(), io.StringIO()
    code = main(step.words, out, err)
    as_expected = (
        sessions.agree(step.out, out.getvalue())
        and sessions.agree(step.err, err.getvalue())
        and code == step.code
    )
    where = f"{path.name}:{step.line}: tortie {' '.join(step.words)}"
    return [] if as_expected else [f"{where}\n{out.getvalue()}{err.getvalue()}exit {code}"]


def _assign(step: sessions.Assign) -> None:
    async def assign() -> None:
        client = await connect(from_environment(os.environ))
        requested = [parse_address(step.address)]
        await Allocator(client, step.host).assign([4], step.handle, {}, requested=requested)
        await client.close()

    asyncio.run(assign())


def test_there_are_a_hundred() -> None:
    lines = {
        " ".join(step.words)
        for path in SESSIONS
        for step in sessions.read(path)
        if isinstance(step, sessions.Step)
    }
    assert len(lines) >= COMMANDS_AT_LEAST


def test_a_wrong_expectation_is_noticed() -> None:
    assert sessions.agree("uid: {uuid}\n", "uid: 0d9bb7b6-2c5c-4f3c-9d8e-0123456789ab\n")
    assert not sessions.agree("uid: {uuid}\n", "uid: none\n")
    assert not sessions.agree("a.c\n", "abc\n")
    assert not sessions.agree("a\n", "a\nb\n")
