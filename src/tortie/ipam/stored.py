"""Reading what a decision rests on, and writing it as one transaction.

`Stored` is a value with the revision at which it was read; `Change` collects
what to write and compares every single thing it was told to rest on. Absence
counts as something read: revision 0 compares as "still absent".
"""

from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from tortie.datastore.client import Client, Delete, Entry, Get, Put, Txn, unchanged
from tortie.datastore.resources import Write
from tortie.lib.errors import Conflict, InvalidInput
from tortie.lib.ip import Network
from tortie.model.codec import Value, decode, encode
from tortie.model.keys import IPAM, AffinityKey, BlockKey, Key, ResourceKey, parse_key

V = TypeVar("V", bound=Value)

GETS_PER_READ = 64
"""Half of what a transaction may hold; a block is 1 to 20 KB."""


class Stored(NamedTuple, Generic[V]):
    key: Key
    value: V | None
    """None: absent, or unreadable (then `problem` says why)."""
    entry: Entry | None
    problem: str = ""
    is_plain: bool = False
    """Known to have no field that the model does not know: written anew without looking back."""

    @property
    def revision(self) -> int:
        return self.entry.mod_revision if self.entry else 0


def stored(key: Key, kind: type[V], entry: Entry | None) -> Stored[V]:
    """Decode one entry as `kind`; what cannot be read is absent with a problem."""
    if entry is None:
        return Stored(key, None, None)
    try:
        value = decode(key, entry.value)
    except InvalidInput as error:
        return Stored(key, None, entry, str(error))
    assert isinstance(value, kind), f"{key} decodes as {type(value).__name__}"
    return Stored(key, value, entry)


async def read(client: Client, keys: Sequence[Key]) -> list[Entry | None]:
    """Entries in the order of `keys`; those of one read are of one revision."""
    found: list[Entry | None] = []
    for start in range(0, len(keys), GETS_PER_READ):
        gets = [Get(key.path) for key in keys[start : start + GETS_PER_READ]]
        result = await client.transact(Txn(success=gets))
        found.extend(response.entry for response in result.responses)
    return found


async def read_kind(client: Client, keys: Sequence[Key], kind: type[V]) -> list[Stored[V]]:
    entries = await read(client, keys)
    return [stored(key, kind, entry) for key, entry in zip(keys, entries, strict=True)]


async def list_resources(client: Client, kind: type[V], name: str) -> list[Stored[V]]:
    """Every resource of a global kind, ordered by key."""
    listing = await client.list(ResourceKey(name, "").path)
    found = []
    for entry in listing.entries:
        key = parse_key(entry.key)
        if isinstance(key, ResourceKey):
            found.append(stored(key, kind, entry))
    return found


async def list_blocks(client: Client, family: int) -> list[Network]:
    """The CIDR of every block that there is, of any host."""
    listing = await client.list(f"{IPAM}assignment/ipv{family}/block/", keys_only=True)
    keys = (parse_key(entry.key) for entry in listing.entries)
    return [key.cidr for key in keys if isinstance(key, BlockKey)]


async def list_affinities(
    client: Client, host: str, *, virtual: bool = False
) -> list[tuple[AffinityKey, Entry]]:
    """Of one host, both families, ordered by key."""
    prefix = AffinityKey(host, Network(4, 0, 32), virtual).path.partition("/ipv4/")[0] + "/"
    listing = await client.list(prefix)
    pairs = ((parse_key(entry.key), entry) for entry in listing.entries)
    return [(key, entry) for key, entry in pairs if isinstance(key, AffinityKey)]


class Change:
    """One transaction in the making. Values are encoded when it is written, each once."""

    def __init__(self) -> None:
        self._revisions: dict[str, int] = {}
        self._writes: dict[str, Stored[Any]] = {}
        """By path, what was read with the value to write in its place."""
        self._operations: dict[str, Put | Delete] = {}
        self._others: list[Write[Any]] = []

    def rest_on(self, *read: Stored[Any]) -> None:
        """The change is right only while these are as they were read."""
        for found in read:
            self._revisions[found.key.path] = found.revision

    def write(self, read: Stored[V], value: V | None) -> None:
        """Replace what was read; None deletes it. Rests on it, too. The last value counts."""
        self.rest_on(read)
        self._writes[read.key.path] = read._replace(value=value, problem="")

    def take_along(self, other: Write[Any]) -> None:
        """Something that is no business of IPAM, in the same transaction."""
        self._others.append(other)

    @property
    def size(self) -> int:
        """How many compares; there are never more writes."""
        return len(self._revisions) + sum(len(other.compares) for other in self._others)

    @property
    def writes(self) -> int:
        return len(self._writes)

    async def commit(self, client: Client) -> int:
        """Returns the revision at which it was written.

        Raises:
            Conflict: something has changed since it was read; nothing was written.
            Unavailable: with `maybe_applied`, read again to learn what happened.
        """
        self._operations = {path: self._encoded(path) for path in self._writes}
        compares = [unchanged(path, revision) for path, revision in self._revisions.items()]
        operations: list[Put | Delete] = list(self._operations.values())
        for other in self._others:
            compares.extend(other.compares)
            operations.append(Put(other.path, other.raw))
        result = await client.transact(Txn(compares, operations))
        if not result.succeeded:
            raise Conflict(f"one of {', '.join(one.key for one in compares)} has changed")
        return result.revision

    def written(self, revision: int) -> dict[str, Stored[Any]]:
        """By path, what is stored after `commit`, which returned `revision`."""
        return {path: self._at(path, revision) for path in self._writes}

    def _encoded(self, path: str) -> Put | Delete:
        found = self._writes[path]
        if found.value is None:
            return Delete(path)
        plain = encode(found.key, found.value)
        if found.is_plain or found.entry is None:
            return Put(path, plain)
        raw = encode(found.key, found.value, found.entry.value)
        self._writes[path] = found._replace(is_plain=raw == plain)
        return Put(path, raw)

    def _at(self, path: str, revision: int) -> Stored[Any]:
        found, operation = self._writes[path], self._operations[path]
        if isinstance(operation, Delete):
            return found._replace(entry=None)
        before = found.entry
        created = before.create_revision if before else revision
        version = before.version + 1 if before else 1
        entry = Entry(path, operation.value, revision, created, version)
        return found._replace(entry=entry, is_plain=found.is_plain or before is None)
