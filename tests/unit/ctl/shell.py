"""A stand-in for the shell that runs `tortie`, in this process."""

import io
from pathlib import Path
from typing import NamedTuple

from tortie.ctl.main import main


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


class Shell:
    """Runs `tortie` with words as arguments; files named in them live in its directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def write(self, name: str, text: str) -> str:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return str(path)

    def __call__(self, *words: str) -> Outcome:
        out, err = io.StringIO(), io.StringIO()
        code = main(words, out, err)
        return Outcome(code, out.getvalue(), err.getvalue())
