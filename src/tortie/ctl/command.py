"""Arguments of verbs that are programs of their own (`Verb` in `tortie.ctl.main`)."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from tortie.ctl import access
from tortie.ctl.access import with_resources
from tortie.ctl.grammar import Command, Given
from tortie.lib import arguments
from tortie.model.documents import Document

__all__ = [
    "Parser",
    "add_file_arguments",
    "add_namespace_argument",
    "parser",
    "read_files",
    "with_resources",
]


class Parser(arguments.Parser):
    """Words its mistakes as every other verb does."""

    def error(self, message: str) -> NoReturn:
        super().error(_as_cobra(message))


def _as_cobra(message: str) -> str:
    """Unknown flags and missing values as every other verb words them."""
    start, _, rest = message.partition(": ")
    if start == "unrecognized arguments":
        word = rest.partition(" ")[0]
        if word.startswith("--"):
            return f"unknown flag: {word.partition('=')[0]}"
        if word.startswith("-") and word != "-":
            return f"unknown shorthand flag: {word[1]!r} in {word}"
    if rest == "expected one argument":
        return f"flag needs an argument: {start.removeprefix('argument ').rpartition('/')[2]}"
    return message


def parser(verb: str, summary: str) -> Parser:
    made = Parser(prog=f"tortie {verb}", description=summary, allow_abbrev=False)
    made.add_argument(
        "-c", "--config", type=Path, metavar="FILE", help="where the datastore's address is"
    )
    for ignored in ("-l", "--log-level"), ("--context",):
        made.add_argument(*ignored, help=argparse.SUPPRESS)
    made.add_argument("--allow-version-mismatch", action="store_true", help=argparse.SUPPRESS)
    return made


def add_file_arguments(to: argparse.ArgumentParser, *, required: bool) -> None:
    to.add_argument(
        "-f", "--filename", dest="files", action="append", required=required, metavar="FILE",
        default=None, help="file or directory of YAML or JSON; - is standard input; repeatable",
    )  # fmt: skip
    to.add_argument("-R", "--recursive", action="store_true", help="directories within, too")
    to.add_argument(
        "--skip-empty", action="store_true", help="files without resources are no error"
    )


def add_namespace_argument(to: argparse.ArgumentParser) -> None:
    to.add_argument("-n", "--namespace", metavar="NS", help="of what names none; default")


def read_files(arguments: argparse.Namespace, *, complete: bool = True) -> list[Document]:
    """See `access.read_files`; `arguments` as `add_file_arguments` made them."""
    values: Mapping[str, list[str]] = {
        "filename": arguments.files or [],
        "recursive": ["true"] if arguments.recursive else ["false"],
        "skip-empty": ["true"] if arguments.skip_empty else ["false"],
        "namespace": [getattr(arguments, "namespace", None) or ""],
    }
    given = Given(Command("", "", ""), [], dict(values))
    return access.read_files(given, complete=complete)
