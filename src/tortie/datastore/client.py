"""The datastore at the level of keys and bytes: one protocol, three back-ends.

    connect() ─► Client ◄─ etcd.client   etcd v3 over gRPC
                        ◄─ embedded      a SQLite file shared on one machine
                        ◄─ memory        verified fake for tests

All three behave alike, because they pass one contract suite
(`tests/datastore/test_datastore_contract.py`). The terms are etcd's: every transaction
that writes makes the store's revision one larger; an entry remembers the
revision that created it and the one that last changed it.

A write either happened, did not happen, or nobody knows: in the last case the
`Unavailable` that is raised has `maybe_applied` set. Reads never have it.
What keys and values mean is the model's business, not ours.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Literal, NamedTuple, Protocol

from tortie.lib.errors import InvalidInput, TortieError

# asyncio is imported where it is needed: there are users of these tuples without a loop.

MAX_OPERATIONS = 128
"""Compares or operations in one transaction: etcd's `--max-txn-ops` default."""

PAGE_ENTRIES = 1_000
"""At most in one page of a listing with values: about 1 MB of resources, for both sides."""

MAX_REQUEST_BYTES = 1_500_000
"""Keys and values in one transaction; etcd's `--max-request-bytes` is 1.5 MiB, with framing."""


class Entry(NamedTuple):
    """One key as stored."""

    key: str
    value: bytes
    """Empty when the listing asked for keys only."""
    mod_revision: int
    """The revision of the last write: the token for compare-and-swap."""
    create_revision: int
    version: int
    """Writes since creation, 1 for a new key."""
    lease: int = 0
    """Id of the lease it dies with; 0 means none."""


class Listing(NamedTuple):
    """Every entry under a prefix as of one revision, ordered by key."""

    entries: Sequence[Entry]
    revision: int
    """Watch from `revision + 1` to miss nothing."""
    store_id: str
    """Names the store's life: a restored or new cluster or file has another one."""


class Page(NamedTuple):
    """A part of a listing."""

    entries: Sequence[Entry]
    revision: int
    store_id: str
    more: bool
    """There are others, behind the last one here."""


class Event(NamedTuple):
    """One change of one key; `value` None means deleted."""

    key: str
    value: bytes | None
    revision: int


class Batch(NamedTuple):
    """What a watch yields: whole revisions, oldest first, never part of one.

    Without events it is a progress notice: nothing more will come for
    `revision` and before it.
    """

    events: Sequence[Event]
    revision: int


class Compare(NamedTuple):
    """One condition on one key, as etcd's Txn knows it.

    An absent key has 0 for each number; a compare of its value is false,
    whatever the operator.
    """

    key: str
    target: Literal["mod_revision", "create_revision", "version", "lease", "value"]
    operator: Literal["==", "!=", "<", ">"]
    operand: int | bytes


def absent(key: str) -> Compare:
    return Compare(key, "create_revision", "==", 0)


def present(key: str) -> Compare:
    return Compare(key, "create_revision", "!=", 0)


def unchanged(key: str, mod_revision: int) -> Compare:
    """True while nobody wrote `key` since it was read; 0 means still absent."""
    return Compare(key, "mod_revision", "==", mod_revision)


def value_is(key: str, value: bytes) -> Compare:
    return Compare(key, "value", "==", value)


class Put(NamedTuple):
    key: str
    value: bytes
    lease: int = 0


class Delete(NamedTuple):
    """Deleting an absent key is no error inside a transaction."""

    key: str


class Get(NamedTuple):
    """Reads inside the transaction, and sees the writes before it."""

    key: str


Operation = Put | Delete | Get


class Txn(NamedTuple):
    """All or nothing: `success` if every compare holds, else `otherwise`."""

    compares: Sequence[Compare] = ()
    success: Sequence[Operation] = ()
    otherwise: Sequence[Operation] = ()


class Response(NamedTuple):
    """The result of one operation, in the place of the operation."""

    entry: Entry | None = None
    """For Get: what was there; None means nothing. None for the others."""
    deleted: int = 0
    """For Delete: 1, or 0 if the key was absent."""


class TxnResult(NamedTuple):
    succeeded: bool
    revision: int
    """The store's revision afterwards; its own one if it wrote anything."""
    responses: Sequence[Response]


_RENEWAL_RETRY_SECONDS = 1.0


class Lease:
    """Keys put with `id` vanish when the lease ends.

    The client keeps it alive until it is revoked or the client closed; after
    a close, or a crash, it ends by itself within `ttl_seconds`.
    """

    def __init__(self, lease_id: int, ttl_seconds: float) -> None:
        import asyncio

        self.id = lease_id
        self.ttl_seconds = ttl_seconds
        self.lost = asyncio.Event()
        """Set once the store no longer knows it: grant a new one, put the keys again."""

    def __repr__(self) -> str:
        return f"Lease({self.id:x}, {self.ttl_seconds} s)"

    async def keep_alive(self, renew: Callable[[], Awaitable[bool]]) -> None:
        """Renew it at a third of its time; on failure again soon, until it is over.

        Args:
            renew: false once the store no longer knows the lease.
        """
        import asyncio

        delay = self.ttl_seconds / 3
        while True:
            await asyncio.sleep(delay)
            delay = self.ttl_seconds / 3
            try:
                alive = await renew()
            except TortieError:
                delay = min(delay, _RENEWAL_RETRY_SECONDS)
            else:
                if not alive:
                    self.lost.set()
                    return


class Client(Protocol):
    """A connection to the datastore, used from one event loop.

    Every method may raise:
        Unavailable: not reachable or busy; `maybe_applied` on writes.
        Denied: credentials are missing, wrong or not enough.
        InvalidInput: empty key, or more than a transaction can hold.
    """

    async def get(self, key: str) -> Entry | None: ...

    async def list(
        self, prefix: str, *, revision: int | None = None, keys_only: bool = False
    ) -> Listing:
        """Everything that starts with `prefix`; an empty prefix means all.

        Args:
            revision: as of that one; None means now.
            keys_only: leave values empty, which is cheaper.

        Raises:
            Compacted: `revision` is too old.
        """
        ...

    async def page(
        self, prefix: str, *, after: str = "", revision: int | None = None, keys_only: bool = False
    ) -> Page:
        """The next entries of what `list` gives, for listings that are too large to hold.

        Args:
            after: the last key of the page before; empty for the first one.
            revision: that of the page before; None for the first one, which is as of now.

        Raises:
            Compacted: `revision` is too old.
        """
        ...

    async def create(self, key: str, value: bytes, lease: Lease | None = None) -> int:
        """Put a key that must not exist.

        Returns:
            Its mod_revision.

        Raises:
            AlreadyExists: it does.
            NotFound: the lease is gone.
        """
        ...

    async def update(
        self, key: str, value: bytes, *, mod_revision: int, lease: Lease | None = None
    ) -> int:
        """Put over exactly the version that was read.

        Returns:
            The new mod_revision.

        Raises:
            Conflict: somebody wrote it since.
            NotFound: it (or the lease) is gone.
        """
        ...

    async def put(self, key: str, value: bytes, lease: Lease | None = None) -> int:
        """Write whatever is there, and return the new mod_revision."""
        ...

    async def delete(self, key: str, *, mod_revision: int | None = None) -> int:
        """Delete it, if `mod_revision` is given only that version.

        Returns:
            The revision of the deletion.

        Raises:
            Conflict: somebody wrote it since `mod_revision`.
            NotFound: it is not there.
        """
        ...

    async def transact(self, txn: Txn) -> TxnResult: ...

    def watch(
        self, prefix: str, from_revision: int, *, store_id: str | None = None
    ) -> AsyncGenerator[Batch, None]:
        """Changes under `prefix` from `from_revision` on (1 or more), in order.

        Ends only by an error: go on with the last batch's revision + 1.
        Close it (`contextlib.aclosing`) when done.

        Args:
            store_id: of the listing that this watch continues.

        Raises:
            Compacted: the history from there is gone, or is another store's
                (revision regress, other `store_id`): list anew.
            Unavailable: the connection is lost.
        """
        ...

    async def revision(self) -> int:
        """The store's newest revision: cheap, and shows that it answers."""
        ...

    async def compact(self, revision: int) -> None:
        """Forget history before `revision`; for tests and administrators."""
        ...

    async def grant_lease(self, ttl_seconds: int) -> Lease:
        """A lease that this client keeps alive; etcd's shortest is about 2 s."""
        ...

    async def revoke(self, lease: Lease) -> None:
        """End the lease now and delete its keys; no error if it is gone."""
        ...

    async def close(self) -> None:
        """Release everything; watches end with Unavailable. May be called twice."""
        ...


def check_transaction(txn: Txn) -> None:
    """Refuse what etcd would, on every back-end alike.

    Raises:
        InvalidInput: an empty key, too many operations, too many bytes, or
            two writes of one key in the same branch.
    """
    size = 0
    for compare in txn.compares:
        check_key(compare.key)
        size += len(compare.key)
    for branch in (txn.success, txn.otherwise):
        size += _check_branch(branch)
    most = max(len(txn.compares), len(txn.success), len(txn.otherwise))
    if most > MAX_OPERATIONS:
        raise InvalidInput(f"a transaction of {most} operations; at most {MAX_OPERATIONS}")
    if size > MAX_REQUEST_BYTES:
        raise InvalidInput(f"a transaction of {size} bytes; at most {MAX_REQUEST_BYTES}")


def check_key(key: str) -> None:
    if not key:
        raise InvalidInput("a key must not be empty")


def _check_branch(branch: Sequence[Operation]) -> int:
    put: set[str] = set()
    deleted: set[str] = set()
    size = 0
    for operation in branch:
        check_key(operation.key)
        size += len(operation.key)
        if isinstance(operation, Put):
            size += len(operation.value)
            if operation.key in put:
                raise InvalidInput(f"{operation.key} is written twice in one transaction")
            put.add(operation.key)
        elif isinstance(operation, Delete):
            deleted.add(operation.key)
    for key in put & deleted:
        raise InvalidInput(f"{key} is written and deleted in one transaction")
    return size
