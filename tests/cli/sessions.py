"""Scripted sessions: command lines, and what they must print.

    < NAME          a file, until a line that is only `.`
    @ assign HOST HANDLE ADDRESS      IPAM does that, as an agent would
    $ WORDS         `tortie WORDS`; then its standard output,
    2> TEXT         lines of its standard error,
    exit N          and its exit code, if it is not 0

`{uuid} {time} {number} {any}` stand for what differs from run to run; `{no newline}` ends an
output without one.
"""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

_PATTERNS = {
    "{uuid}": r"[0-9a-f-]{36}",
    "{time}": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ",
    "{number}": r"\d+",
    "{any}": r"[^\n]*",
}
_PLACEHOLDER = re.compile("|".join(map(re.escape, _PATTERNS)))
_NO_NEWLINE = "{no newline}\n"


class Step(NamedTuple):
    line: int
    words: list[str]
    out: str
    err: str
    code: int


class File(NamedTuple):
    name: str
    text: str


class Assign(NamedTuple):
    host: str
    handle: str
    address: str


def read(path: Path) -> list[Step | File | Assign]:
    lines = path.read_text().splitlines()
    found: list[Step | File | Assign] = []
    at = 0
    while at < len(lines):
        line = lines[at]
        at += 1
        if line.startswith("< "):
            end = lines.index(".", at)
            found.append(File(line[2:], "\n".join(lines[at:end]) + "\n"))
            at = end + 1
        elif line.startswith("@ assign "):
            found.append(Assign(*line.split()[2:]))
        elif line.startswith("$ "):
            start = at
            while at < len(lines) and not lines[at].startswith(("$ ", "< ", "@ ", "# ")):
                at += 1
            found.append(_step(start, line[2:], lines[start:at]))
        else:
            assert not line or line.startswith("#"), f"{path.name}:{at}: {line!r}"
    return found


def _step(line: int, command: str, rest: list[str]) -> Step:
    while rest and not rest[-1]:
        rest.pop()
    code = int(rest.pop().removeprefix("exit ")) if rest and rest[-1].startswith("exit ") else 0
    err = "".join(f"{text[3:]}\n" for text in rest if text.startswith("2> "))
    out = "".join(f"{text}\n" for text in rest if not text.startswith("2> "))
    if out.endswith(_NO_NEWLINE):
        out = out.removesuffix(_NO_NEWLINE)
    return Step(line, shlex.split(command), out, err, code)


def agree(expected: str, actual: str) -> bool:
    parts: list[str] = []
    at = 0
    for match in _PLACEHOLDER.finditer(expected):
        parts += [re.escape(expected[at : match.start()]), _PATTERNS[match[0]]]
        at = match.end()
    return re.fullmatch("".join(parts) + re.escape(expected[at:]), actual) is not None
