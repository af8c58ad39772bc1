"""Reads docs/quickstart.md as a script: which commands on which host, and what they should say."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PAGE = Path(__file__).parents[2] / "docs" / "quickstart.md"

_BLOCK = re.compile(r"^```sh (every|h\d)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ELSEWHERE = re.compile(
    r"apt-get |systemctl disable --now bird|python3 -m venv |/opt/tortie/|ln -sf "
)
"""Done already: the test machine has these packages, and this clone is the program."""


class Step(NamedTuple):
    host: str
    """Or `every`."""
    script: str
    """Commands for one shell; with their here-documents."""
    expected: str
    """Part of what the last of them prints."""


def steps(text: str) -> Iterator[Step]:
    for host, block in _BLOCK.findall(text):
        script: list[str] = []
        ends = ""
        for line in block.splitlines():
            if not ends and _ELSEWHERE.match(line):
                continue
            script.append(line)
            if ends:
                ends = "" if line == ends else ends
            elif found := re.search(r"<<'(\w+)'$", line):
                ends = found[1]
            _, arrow, expected = line.partition("# → ")
            if arrow:
                yield Step(host, "\n".join(script), expected.strip())
                script = []
        if script:
            yield Step(host, "\n".join(script), "")


def packages(text: str) -> set[str]:
    """Debian's, that the page has one install."""
    found = re.findall(r"^apt-get install -y (.*)$", text, re.MULTILINE)
    return {name for line in found for name in line.split()}
