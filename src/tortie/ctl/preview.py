"""What a write would do, without doing it: `--dry-run` and `diff`."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from tortie.ctl.access import told
from tortie.datastore.resources import Resources
from tortie.lib.errors import AlreadyExists, Conflict, InvalidInput, NotFound
from tortie.model.codec import to_plain
from tortie.model.documents import Document
from tortie.model.metadata import Resource
from tortie.model.yaml_text import to_yaml

if TYPE_CHECKING:
    from tortie.ctl.writing import Way


class Change(NamedTuple):
    document: Document
    before: Resource | None
    """None: it does not exist."""

    @property
    def word(self) -> str:
        if self.before is None:
            return "created"
        is_same = _comparable(self.before) == _comparable(self.document.resource)
        return "unchanged" if is_same else "configured"


def client_lines(documents: Sequence[Document]) -> str:
    """What can be said without a datastore."""
    return "\n".join(f"{_name(document)} valid (client dry run)" for document in documents)


async def server_lines(resources: Resources, way: Way, documents: Sequence[Document]) -> str:
    """
    Raises:
        InvalidInput: the write would fail; says why.
    """
    lines: list[str] = []
    errors: list[str] = []
    from tortie.ctl.writing import check_together

    await check_together(resources, documents)
    for change in await changes(resources, documents):
        error = _refusal(change, way.name)
        if error:
            errors.append(error)
        else:
            lines.append(f"{_name(change.document)} {change.word} (server dry run)")
    if errors:
        raise InvalidInput("\n".join(errors))
    return "\n".join(lines)


async def changes(resources: Resources, documents: Sequence[Document]) -> list[Change]:
    found: list[Change] = []
    for document in documents:
        try:
            before = (await resources.get(document.key)).resource
        except NotFound:
            before = None
        found.append(Change(document, before))
    return found


def difference(change: Change) -> str:
    """The unified diff; empty where nothing changes."""
    key = change.document.key
    old = to_yaml(_comparable(change.before)) if change.before else ""
    new = to_yaml(_comparable(change.document.resource))
    found = difflib.unified_diff(
        old.splitlines(keepends=True), new.splitlines(keepends=True), f"live/{key}", f"file/{key}"
    )
    return "".join(found)


def _refusal(change: Change, way: str) -> str:
    key = change.document.key
    if way == "CREATE" and change.before is not None:
        return told(AlreadyExists(), key)
    if way == "REPLACE" and change.before is None:
        return told(NotFound(), key)
    wanted = change.document.resource.metadata.resource_version
    if change.before and wanted not in ("", change.before.metadata.resource_version):
        return told(Conflict(f"{key} was changed since it was read"), key)
    return ""


def _name(document: Document) -> str:
    return f"{document.key.kind.lower()}/{document.key.name}"


def _comparable(resource: Resource) -> Any:
    """Without what the datastore alone decides."""
    metadata = msgspec.structs.replace(
        resource.metadata, uid="", resource_version="", creation_timestamp=None, generation=0
    )
    plain = to_plain(msgspec.structs.replace(resource, metadata=metadata))
    plain.pop("status", None)
    return plain
