"""How the story looks: headings, real commands, what they print, promises kept."""

import os
import subprocess
import sys
import textwrap

from tortie.lib.errors import TortieError

WIDTH = 92


class PromiseBroken(TortieError):
    """Something is not as the story says."""


class Terminal:
    """Writes to standard output; colours only where that is a terminal."""

    def __init__(self) -> None:
        self._colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self._chapter = 0

    def chapter(self, title: str, *text: str) -> None:
        self._chapter += 1
        print(f"\n{self._styled('1', f'{self._chapter}. {title}')}")
        self.say(*text)

    def say(self, *text: str) -> None:
        for paragraph in text:
            print(textwrap.fill(paragraph, WIDTH, initial_indent="   ", subsequent_indent="   "))

    def show(self, text: str) -> None:
        """Output of something, set off."""
        print(textwrap.indent(text.rstrip(), "     "), flush=True)

    def command(self, *arguments: str, environment: dict[str, str] | None = None) -> str:
        """Run `tortie …`, showing the command line and all that it prints.

        Raises:
            PromiseBroken: it failed.
        """
        print(self._styled("36", f"   $ tortie {' '.join(map(_quoted, arguments))}"), flush=True)
        done = subprocess.run(  # noqa: S603 - ourselves
            [sys.executable, "-m", "tortie", *arguments],
            env={**os.environ, **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        self.show(done.stdout)
        if done.returncode != 0:
            raise PromiseBroken(f"tortie {' '.join(arguments)} failed")
        return done.stdout

    def promise(self, kept: bool, text: str) -> None:
        """
        Raises:
            PromiseBroken: if it is not.
        """
        if not kept:
            print(self._styled("31", f"   ✘ {text}"))
            raise PromiseBroken(text)
        print(self._styled("32", f"   ✔ {text}"), flush=True)

    def _styled(self, code: str, text: str) -> str:
        return f"\033[{code}m{text}\033[0m" if self._colours else text


def _quoted(argument: str) -> str:
    return f"'{argument}'" if set(argument) & set(" '|&;<>()$`") else argument
