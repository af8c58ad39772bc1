"""What the verbs on resources share: arguments, the datastore, reading files."""

import argparse
import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

from tortie.datastore.connect import connect, from_environment
from tortie.datastore.resources import Resources
from tortie.lib.errors import InvalidInput, NotFound, Unavailable
from tortie.model.documents import DEFAULT_NAMESPACE, Document, InvalidFile, load

SUFFIXES = (".json", ".yaml", ".yml")
"""Of the files in a directory that are read; others are left alone."""

FILE_MAX_BYTES = 256 * 1024 * 1024

T = TypeVar("T")


class Parser(argparse.ArgumentParser):
    """Mistakes are `InvalidInput`, on one line, like everybody else's."""

    def error(self, message: str) -> NoReturn:
        raise InvalidInput(f"{message}; see {self.prog} --help")


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
    to.add_argument(
        "-n", "--namespace", metavar="NS", help=f"of what names none; {DEFAULT_NAMESPACE}"
    )


def with_resources(config: Path | None, act: Callable[[Resources], Awaitable[T]]) -> T:
    """Connect, act, close.

    Raises:
        Unavailable: there is no datastore.
    """

    async def run() -> T:
        try:
            client = await connect(from_environment(os.environ, config))
        except NotFound as error:
            raise Unavailable(str(error)) from error
        try:
            return await act(Resources(client))
        finally:
            await client.close()

    return asyncio.run(run())


def read_files(arguments: argparse.Namespace, *, complete: bool = True) -> list[Document]:
    """All documents of all files, every mistake of any file reported at once.

    Raises:
        InvalidInput: files that are missing, empty or wrong. Nothing was done yet.
    """
    documents: list[Document] = []
    messages: list[str] = []
    for name in arguments.files:
        for source, raw in _texts(name, recursive=arguments.recursive):
            try:
                documents += load(raw, source, namespace=_namespace(arguments), complete=complete)
            except InvalidFile as error:
                messages += error.messages
    if messages:
        raise InvalidFile(messages)
    if not documents and not arguments.skip_empty:
        raise InvalidInput("No resources specified")
    return documents


def _namespace(arguments: argparse.Namespace) -> str:
    return arguments.namespace or DEFAULT_NAMESPACE


def _texts(name: str, *, recursive: bool) -> list[tuple[str, bytes]]:
    if name == "-":
        return [("standard input", sys.stdin.buffer.read(FILE_MAX_BYTES))]
    path = Path(name)
    if not path.is_dir():
        return [(name, _read(path))]
    found = path.rglob("*") if recursive else path.iterdir()
    files = sorted(file for file in found if file.suffix in SUFFIXES and file.is_file())
    return [(str(file), _read(file)) for file in files]


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > FILE_MAX_BYTES:
            raise InvalidInput(f"{path} is larger than {FILE_MAX_BYTES} bytes")
        return path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}") from error


def count_of(kinds: Sequence[str]) -> str:
    """`2 'NetworkPolicy' resource(s)`, or without the kind where there are several."""
    kind = f"'{kinds[0]}' " if len(set(kinds)) == 1 else ""
    return f"{len(kinds)} {kind}resource(s)"
