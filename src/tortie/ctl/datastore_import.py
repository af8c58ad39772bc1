"""`tortie datastore migrate import`: what `export` printed, into a datastore without resources.

It stays locked afterwards, as the exported one was. Run again after a failure: what is there
already and the same is left alone.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from tortie.ctl import access
from tortie.ctl.datastore_export import SEPARATOR
from tortie.ctl.grammar import Given
from tortie.ctl.screen import Screen
from tortie.ctl.writing import Way, in_order, write
from tortie.datastore.client import Client
from tortie.datastore.resources import Resources
from tortie.lib.errors import AlreadyExists, InvalidInput, NotFound
from tortie.model.codec import decode
from tortie.model.documents import Document, load
from tortie.model.keys import IPAM, RESOURCES, ResourceKey, parse_key
from tortie.model.node import ClusterInformation

_PARTS = 3

_FRESH = ("/tiers/", "/clusterinformations/")
"""What an agent makes in a new datastore."""


class Export(NamedTuple):
    documents: list[Document]
    information: ClusterInformation
    records: list[tuple[str, bytes]]
    """IPAM's, by path."""


def main(given: Given, screen: Screen) -> int:
    name = given.text("filename")
    if not name:
        raise InvalidInput('required flag(s) "filename" not set')
    raw = sys.stdin.buffer.read() if name == "-" else access.read_bytes(Path(name))
    found = parse(raw, "standard input" if name == "-" else name)

    async def act(client: Client) -> None:
        resources = Resources(client)
        await _refuse_foreign(client, resources, found)
        outcome = await write(resources, Way.APPLY, in_order(found.documents), screen)
        if outcome.errors:
            raise InvalidInput(f"hit error: [{' '.join(outcome.errors)}]")
        for path, value in found.records:
            await _put(client, path, value)
        await _write_information(resources, found.information)

    access.with_client(access.config_file(given), act)
    total = len(found.documents) + len(found.records)
    screen.print(f"Successfully imported {total} resource(s); the datastore is locked")
    return 0


def parse(raw: bytes, source: str) -> Export:
    """
    Raises:
        InvalidInput: it is not what `export` prints.
    """
    parts: list[list[bytes]] = [[]]
    for line in raw.splitlines(keepends=True):
        if line.strip() == SEPARATOR.encode():
            parts.append([])
        else:
            parts[-1].append(line)
    if len(parts) != _PARTS:
        raise InvalidInput(f"{source}: has {len(parts)} parts, not {_PARTS} between lines of ===")
    texts = [b"".join(lines) for lines in parts]
    documents = load(texts[0], source)
    key = ResourceKey("ClusterInformation", "default")
    try:
        information = decode(key, texts[1])
        ipam = msgspec.json.decode(texts[2], type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise InvalidInput(f"{source}: the third part: {error}") from None
    assert isinstance(information, ClusterInformation)
    return Export(documents, information, _records(ipam, source))


def _records(ipam: dict[str, Any], source: str) -> list[tuple[str, bytes]]:
    config = ipam.get("config")
    listed = [r for name in ("block_affinities", "blocks", "handles") for r in ipam.get(name) or ()]
    records: list[tuple[str, bytes]] = []
    for record in [*listed, *([config] if config else [])]:
        path = record.get("Key") if isinstance(record, dict) else None
        key = parse_key(path) if isinstance(path, str) else None
        if key is None or isinstance(key, ResourceKey):
            raise InvalidInput(f"{source}: {path!r} is not where a record of IPAM is")
        raw = msgspec.json.encode(record.get("Value"))
        decode(key, raw)
        records.append((key.path, raw))
    return records


async def _refuse_foreign(client: Client, resources: Resources, found: Export) -> None:
    """Two clusters in one datastore would be the end of both."""
    key = ResourceKey("ClusterInformation", "default")
    try:
        existing = (await resources.get(key)).resource
    except NotFound:
        return
    assert isinstance(existing, ClusterInformation)
    if existing.spec.cluster_guid == found.information.spec.cluster_guid:
        return  # an import that was interrupted
    for prefix in (RESOURCES, IPAM):
        for entry in (await client.list(prefix, keys_only=True)).entries:
            if not any(part in entry.key for part in _FRESH):
                raise InvalidInput(
                    f"the datastore is another cluster's: {entry.key} is in it; "
                    "import into an empty one"
                )


async def _put(client: Client, path: str, value: bytes) -> None:
    try:
        await client.create(path, value)
    except AlreadyExists:
        await client.put(path, value)


async def _write_information(resources: Resources, information: ClusterInformation) -> None:
    metadata = msgspec.structs.replace(information.metadata, resource_version="")
    spec = msgspec.structs.replace(information.spec, datastore_ready=False)
    await resources.apply(msgspec.structs.replace(information, metadata=metadata, spec=spec))
