"""What verbs share: reaching the datastore, reading files, and wording what happened."""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tortie.lib.errors import (
    AlreadyExists,
    Conflict,
    InvalidInput,
    NotFound,
    TortieError,
    Unavailable,
)
from tortie.model.keys import NAMESPACED, ResourceKey

if TYPE_CHECKING:
    from tortie.ctl.grammar import Given
    from tortie.datastore.client import Client
    from tortie.datastore.resources import Resources
    from tortie.model.documents import Document

SUFFIXES = (".json", ".yaml", ".yml")
"""Of the files in a directory that are read; others are left alone."""

FILE_MAX_BYTES = 256 * 1024 * 1024

T = TypeVar("T")


def config_file(given: Given) -> Path | None:
    return Path(given.text("config")) if given.has("config") else None


def with_client(config: Path | None, act: Callable[[Client], Awaitable[T]]) -> T:
    """Connect, act, close.

    Raises:
        Unavailable: there is no datastore.
    """
    import asyncio

    from tortie.datastore.connect import connect, from_environment

    async def run() -> T:
        try:
            client = await connect(from_environment(os.environ, config))
        except NotFound as error:
            raise Unavailable(str(error)) from error
        try:
            return await act(client)
        finally:
            await client.close()

    return asyncio.run(run())


def with_resources(config: Path | None, act: Callable[[Resources], Awaitable[T]]) -> T:
    """Like `with_client`, one level up."""
    from tortie.datastore.resources import Resources

    return with_client(config, lambda client: act(Resources(client)))


def read_files(given: Given, *, complete: bool = True) -> list[Document]:
    """All documents of all files, every mistake of any file reported at once.

    Raises:
        InvalidInput: files that are missing, empty or wrong. Nothing was done yet.
    """
    from tortie.model.documents import DEFAULT_NAMESPACE, InvalidFile, load

    names = given.texts("filename")
    if not names:
        raise InvalidInput('required flag(s) "filename" not set')
    namespace = given.text("namespace")
    documents: list[Document] = []
    messages: list[str] = []
    for name in names:
        count = len(documents) + len(messages)
        for source, raw in texts(name, recursive=given.has("recursive")):
            try:
                loaded = load(
                    raw, source, namespace=namespace or DEFAULT_NAMESPACE, complete=complete
                )
            except InvalidFile as error:
                messages += error.messages
                continue
            documents += loaded
        if len(documents) + len(messages) == count and not given.has("skip-empty"):
            where = "directory" if Path(name).is_dir() else "file"
            raise InvalidInput(f"No resources specified in {where} {name}")
    if messages:
        raise InvalidFile(messages)
    if namespace:
        for document in documents:
            _check_namespace(document, namespace)
    return documents


def _check_namespace(document: Document, namespace: str) -> None:
    if document.key.kind not in NAMESPACED:
        raise InvalidInput(f"{document.where}: {document.key.kind} is not namespaced")
    if document.key.namespace != namespace:
        raise InvalidInput(
            f"{document.where}: resource namespace does not match client namespace. "
            f"{document.key.namespace} != {namespace}"
        )


def texts(name: str, *, recursive: bool) -> list[tuple[str, bytes]]:
    """What files are called in messages, and what is in them: `-`, a file, or a directory's.

    Raises:
        InvalidInput: one cannot be read.
    """
    if name == "-":
        return [("standard input", sys.stdin.buffer.read(FILE_MAX_BYTES))]
    path = Path(name)
    if not path.is_dir():
        return [(name, read_bytes(path))]
    found = path.rglob("*") if recursive else path.iterdir()
    files = sorted(file for file in found if file.suffix in SUFFIXES and file.is_file())
    return [(str(file), read_bytes(file)) for file in files]


def read_bytes(path: Path) -> bytes:
    """
    Raises:
        InvalidInput: it cannot be read, or is far too large.
    """
    try:
        if path.stat().st_size > FILE_MAX_BYTES:
            raise InvalidInput(f"{path} is larger than {FILE_MAX_BYTES} bytes")
        return path.read_bytes()
    except (OSError, ValueError) as error:  # a name with a NUL is a ValueError
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidInput(f"cannot read {path}: {reason}") from error


def told(error: TortieError, key: ResourceKey) -> str:
    """An error about one resource in calicoctl's words."""
    if isinstance(error, NotFound):
        return f"resource does not exist: {key} with error: <nil>"
    if isinstance(error, AlreadyExists):
        return f"resource already exists: {key} with error: <nil>"
    if isinstance(error, Conflict):
        return f"update conflict: {error}"
    return str(error)


def single_kind(kinds: Sequence[str]) -> str:
    """The kind, if there is but one."""
    return kinds[0] if len(set(kinds)) == 1 else ""


def success(past: str, count: int, kind: str) -> str:
    """`Successfully applied 2 'NetworkPolicy' resource(s)`."""
    return f"Successfully {past} {count} {_quoted(kind)}resource(s)"


def partial(past: str, count: int, total: int, kind: str) -> str:
    return f"Partial success: {past} the first {count} out of {total} {_quoted(kind)}resources:"


def failure(verb: str, total: int, kind: str, errors: Sequence[str]) -> str:
    """None of them worked."""
    listed = f"[{' '.join(errors)}]"
    if total == 1:
        return f"failed to {verb} {_quoted(kind)}resource: {listed}"
    return f"failed to {verb} any {_quoted(kind)}resources: {listed}"


def _quoted(kind: str) -> str:
    return f"'{kind}' " if kind else ""
