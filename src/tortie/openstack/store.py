"""What is stored, compared with what should be, and written with compare-and-swap.

Resources go through the model's codecs, so that they are byte for byte what the rest of this
project and Calico store. What the datastore owns of one (uid, time of creation) and fields that
we do not know survive; labels, annotations and the spec are the translation's alone.

A `Change` names the version that it rests on. Nothing here writes otherwise.
"""

import contextlib
import hashlib
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import NamedTuple, TypeAlias

import msgspec

from tortie.datastore.client import (
    MAX_OPERATIONS,
    Compare,
    Delete,
    Entry,
    Get,
    Operation,
    Put,
    Txn,
    unchanged,
)
from tortie.lib.errors import Conflict, InvalidInput, Unavailable
from tortie.model import codec
from tortie.model.keys import ResourceKey, parse_key
from tortie.model.metadata import Resource
from tortie.openstack.gateway import Gateway
from tortie.openstack.subnets import SubnetValue

Content: TypeAlias = Resource | SubnetValue
"""What can be stored at a path."""

BATCH_BYTES = 512 * 1024
"""Of values in one transaction; larger ones keep etcd, which writes one at a time, from others."""

Guard: TypeAlias = Callable[[], Sequence[Compare]]
"""What must hold for each write, beside the version; `NotMaster` when it cannot hold any more."""


class NotMaster(Conflict):
    """Another server does this now: leave it to that one."""


class Change(NamedTuple):
    path: str
    revision: int
    """The version that it rests on; 0: there was none."""
    value: bytes | None
    """None deletes."""

    @property
    def creates(self) -> bool:
        return self.revision == 0 and self.value is not None

    @property
    def operation(self) -> Operation:
        return Delete(self.path) if self.value is None else Put(self.path, self.value)


def fingerprint(content: Content) -> bytes:
    """Equal for equal contents, whatever the datastore owns of them: to compare, in 16 bytes."""
    if isinstance(content, SubnetValue):
        part: object = content
    else:
        # As it is written, so that an empty struct and an absent one are the same.
        spec = codec.to_plain(content)["spec"]
        part = (content.metadata.labels, content.metadata.annotations, spec)
    raw = msgspec.json.encode(part, order="sorted")
    return hashlib.blake2b(raw, digest_size=16).digest()


def stored_fingerprint(path: str, raw: bytes) -> bytes:
    """That of what is stored; empty, so equal to none, when nobody can read it."""
    try:
        return fingerprint(_decoded(path, raw))
    except (InvalidInput, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return b""


def encoded(path: str, content: Content, previous: bytes) -> bytes:
    """The bytes to store.

    Args:
        previous: what is there; empty for nothing.
    """
    if isinstance(content, SubnetValue):
        return msgspec.json.encode(content)
    key = _resource_key(path)
    before = None
    if previous:
        # Replacing what nobody can read is how to repair it.
        with contextlib.suppress(InvalidInput):
            before = codec.decode(key, previous)
    metadata = msgspec.structs.replace(
        content.metadata,
        uid=(before and before.metadata.uid) or str(uuid.uuid4()),
        creation_timestamp=(before and before.metadata.creation_timestamp)
        or datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )
    return codec.encode(key, msgspec.structs.replace(content, metadata=metadata), previous)


def change(path: str, there: Entry | None, content: Content | None) -> Change | None:
    """What makes `content` of what is there; None when it is there already."""
    if content is None:
        return None if there is None else Change(path, there.mod_revision, None)
    if there is None:
        return Change(path, 0, encoded(path, content, b""))
    if stored_fingerprint(path, there.value) == fingerprint(content):
        return None
    return Change(path, there.mod_revision, encoded(path, content, there.value))


class Store:
    """Reads and writes many keys in few transactions; shares its gateway with others.

    Args:
        guard: compares for each write; without one nothing but versions is compared.
    """

    def __init__(self, gateway: Gateway, guard: Guard = tuple) -> None:
        self.gateway = gateway
        self._guard = guard

    def read(self, paths: Iterable[str]) -> dict[str, Entry | None]:
        """Each as of some moment after the call; not all of the same one."""
        found: dict[str, Entry | None] = {}
        pending = list(dict.fromkeys(paths))
        for start in range(0, len(pending), MAX_OPERATIONS):
            some = pending[start : start + MAX_OPERATIONS]
            found.update(zip(some, self.gateway.get_all(some), strict=True))
        return found

    def write(self, changes: Iterable[Change]) -> list[Change]:
        """Make the changes whose versions are still there.

        Returns:
            The others, in any order: somebody wrote there since, or nobody knows.

        Raises:
            NotMaster: the guard does not hold; what it guarded is not written.
            Unavailable: nothing of the rest is written.
        """
        lost: list[Change] = []
        guards = list(self._guard())
        for batch in _batches(changes, MAX_OPERATIONS - len(guards)):
            lost += self._write_together(batch, guards)
        return lost

    def _write_together(self, batch: list[Change], guards: Sequence[Compare]) -> list[Change]:
        lost: list[Change] = []
        while batch:
            txn = Txn(
                [*guards, *(unchanged(each.path, each.revision) for each in batch)],
                [each.operation for each in batch],
                [Get(each.path) for each in batch],
            )
            try:
                result = self.gateway.transact(txn)
            except Unavailable as error:
                if not error.maybe_applied:
                    raise
                return lost + batch  # whoever reads them again sees what became of them
            if result.succeeded:
                return lost
            still: list[Change] = []
            for each, response in zip(batch, result.responses, strict=True):
                now = response.entry.mod_revision if response.entry is not None else 0
                (still if now == each.revision else lost).append(each)
            if len(still) == len(batch):
                raise NotMaster("this server is no longer the one that may write this")
            batch = still
        return lost


def _batches(changes: Iterable[Change], most: int) -> Iterator[list[Change]]:
    batch: list[Change] = []
    size = 0
    for each in changes:
        cost = len(each.value or b"")
        if batch and (len(batch) == most or size + cost > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(each)
        size += cost
    if batch:
        yield batch


def _resource_key(path: str) -> ResourceKey:
    key = parse_key(path)
    assert isinstance(key, ResourceKey)  # it came from one
    return key


def _decoded(path: str, raw: bytes) -> Content:
    key = parse_key(path)
    if isinstance(key, ResourceKey):
        return codec.decode(key, raw)
    return msgspec.json.decode(raw, type=SubnetValue)
