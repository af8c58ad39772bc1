"""The tables of the embedded datastore and every statement on them.

`changes` holds each version of each key, a NULL value being a deletion; the
newest row of a key is its state. It is history and state in one, so a watch,
a listing of an old revision and a listing of now all read the same rows.
Row ids grow with revisions, and order the changes inside one revision.

History is bounded: after `KEPT_REVISIONS`, rows that are superseded go, in
the transaction of every (KEPT_REVISIONS / 10)th write.

A write that was acknowledged survives loss of power, as with etcd: else a power
cut could undo the policy by which an operator had just closed something. But
others see it before it is on disk: whoever could see it, dies by the same power
cut. So SQLite runs with `synchronous=NORMAL` (commits without waiting, safe
against crashes of processes), and the writer flushes the WAL (`flush`) after it
gave up the lock and rang the bell, and before it acknowledges. Flushing inside
the commit (`FULL`) would add the disk's 0.3 to 5 ms to every event.

A lease's deadline is in seconds of CLOCK_BOOTTIME, which every process shares
and nobody can set; leases from before a reboot are void. Whoever comes across
an expired lease deletes its keys, before it reads or writes anything.

All synchronous. A `StoreFile` is used by one thread at a time.
"""

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from tortie.datastore.client import (
    PAGE_ENTRIES,
    Delete,
    Entry,
    Event,
    Get,
    Listing,
    Operation,
    Page,
    Put,
    Response,
    Txn,
    TxnResult,
)
from tortie.datastore.compare import holds
from tortie.lib.errors import (
    Compacted,
    Denied,
    InvalidInput,
    NotFound,
    TortieError,
    Unavailable,
)

KEPT_REVISIONS = 10_000
"""History for watches that fall behind; at some 1 kB each about 10 MB."""

_BUSY_SECONDS = 5.0
"""Patience with foreign users of the file (an sqlite3 shell); ours use the file lock."""

_CHECKPOINT_COMMITS = 200
"""Between checkpoints, by each process that writes: some 4 MB of WAL."""

_CHECKPOINT_PAGES = 8_000
"""SQLite's own checkpoint, as the last resort: 32 MB of WAL."""

_FORMAT = 1

_AFTER_ANY_KEY = "\U0010ffff"
"""Sorts behind everything that may follow a prefix."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS store (
    format INTEGER NOT NULL, id TEXT NOT NULL, revision INTEGER NOT NULL,
    compacted INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS changes (
    id INTEGER PRIMARY KEY, revision INTEGER NOT NULL, key TEXT NOT NULL, value BLOB,
    create_revision INTEGER NOT NULL, version INTEGER NOT NULL, lease INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS changes_by_key ON changes (key);
CREATE INDEX IF NOT EXISTS changes_by_revision ON changes (revision);
CREATE INDEX IF NOT EXISTS changes_by_lease ON changes (lease) WHERE lease != 0;
CREATE TABLE IF NOT EXISTS leases (
    id INTEGER PRIMARY KEY AUTOINCREMENT, ttl REAL NOT NULL, deadline REAL NOT NULL,
    boot TEXT NOT NULL
);
INSERT INTO store SELECT 1, lower(hex(randomblob(8))), 1, 0
    WHERE NOT EXISTS (SELECT 1 FROM store);
"""

_ENTRY = "key, value, revision, create_revision, version, lease"


class StoreFile:
    """One connection to the file; the tables are made if they are missing.

    Raises (every method):
        Unavailable: locked by a foreign process, disk full or failing.
        InvalidInput: not a datastore file.
    """

    def __init__(self, path: Path, kept_revisions: int = KEPT_REVISIONS) -> None:
        self._path = path
        self._kept_revisions = kept_revisions
        self._wal: int | None = None
        self._commits = 0
        self._boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        with translated(path):
            self._db = sqlite3.connect(
                path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
            self._ensure_tables()
        self.store_id = str(self._one("SELECT id FROM store"))

    def close(self) -> None:
        self._db.close()
        if self._wal is not None:
            os.close(self._wal)
            self._wal = None

    def flush(self) -> None:
        """Wait until what was committed is on disk.

        Opening the WAL beside SQLite is safe: its locks are on other files, and
        the WAL stays the same file while any connection is open.

        Raises:
            OSError: the disk failed.
        """
        if self._wal is None:
            self._wal = os.open(f"{self._path}-wal", os.O_RDWR | os.O_CLOEXEC)
        os.fdatasync(self._wal)

    def checkpoint(self) -> None:
        """Move the WAL into the database, if it is time, while others go on writing.

        SQLite would do it inside some commit, and keep everybody waiting for
        two flushes of the disk. It still does where processes live too shortly
        to get here.
        """
        if self._commits >= _CHECKPOINT_COMMITS:
            self._commits = 0
            with contextlib.suppress(sqlite3.Error):  # the next one will do it
                self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    # Reading

    def revision(self) -> int:
        with translated(self._path):
            return self._one("SELECT revision FROM store")

    def entry(self, key: str) -> Entry | None:
        with translated(self._path):
            row = self._db.execute(
                f"SELECT {_ENTRY} FROM changes WHERE key = ? ORDER BY id DESC LIMIT 1",  # noqa: S608
                (key,),
            ).fetchone()
        return None if row is None or row[1] is None else Entry(*row)

    def answer(self, txn: Txn) -> TxnResult:
        """What a transaction that only reads finds: one state of the store, and no wait for
        those who write."""
        with translated(self._path), self._transaction("DEFERRED"):
            succeeded = all(holds(compare, self.entry(compare.key)) for compare in txn.compares)
            branch = txn.success if succeeded else txn.otherwise
            found = [Response(entry=self.entry(operation.key)) for operation in branch]
            return TxnResult(succeeded, self.revision(), found)

    def listing(self, prefix: str, revision: int | None, keys_only: bool) -> Listing:
        """See `Client.list`; one read transaction, so one state of the store."""
        page = self._page(prefix, "", revision, keys_only, None)
        return Listing(page.entries, page.revision, page.store_id)

    def page(self, prefix: str, after: str, revision: int | None, keys_only: bool) -> Page:
        """See `Client.page`."""
        return self._page(prefix, after, revision, keys_only, PAGE_ENTRIES)

    def _page(
        self, prefix: str, after: str, revision: int | None, keys_only: bool, most: int | None
    ) -> Page:
        with translated(self._path), self._transaction("DEFERRED"):
            now, compacted = self._db.execute("SELECT revision, compacted FROM store").fetchone()
            at = now if revision is None else revision
            if not compacted <= at <= now:
                raise Compacted(compacted)
            last = self._one("SELECT coalesce(max(id), 0) FROM changes WHERE revision <= ?", at)
            columns = _ENTRY.replace("value", "iif(value IS NULL, NULL, x'')", int(keys_only))
            rows = self._db.execute(
                f"SELECT {columns}, max(id) FROM changes INDEXED BY changes_by_key "  # noqa: S608
                "WHERE key >= ? AND key > ? AND key < ? AND id <= ? GROUP BY key ORDER BY key",
                (prefix, after, prefix + _AFTER_ANY_KEY, last),
            )
            there = (Entry(*row[:6]) for row in rows if row[1] is not None)
            # Rows are found as they are asked for: what is behind the page costs nothing.
            entries = list(islice(there, most))
            more = most is not None and next(there, None) is not None
            rows.close()
        return Page(entries, at, self.store_id, more)

    def events(self, prefix: str, after: int, most_revisions: int) -> tuple[list[Event], int]:
        """Changes later than revision `after`, and up to which revision they go.

        Raises:
            Compacted: some of them are gone, or `after` is in the future.
        """
        # One statement sees one state of the store, and is cheaper than a transaction.
        with translated(self._path):
            rows = self._db.execute(
                "SELECT store.revision, compacted, key, value, changes.revision FROM store "
                "LEFT JOIN changes INDEXED BY changes_by_revision ON changes.revision > ?1 "
                "AND changes.revision <= ?2 AND key >= ?3 AND key < ?4 ORDER BY changes.id",
                (after, after + most_revisions, prefix, prefix + _AFTER_ANY_KEY),
            ).fetchall()
        now, compacted = rows[0][:2]
        if not compacted <= after <= now:
            raise Compacted(compacted)
        events = [Event(*row[2:]) for row in rows if row[2] is not None]
        return events, min(now, after + most_revisions)

    def next_deadline(self) -> float | None:
        """Seconds from now until the first lease ends, if there is any; may be negative."""
        with translated(self._path):
            row = self._db.execute(
                "SELECT min(iif(boot = ?, deadline, 0)) FROM leases", (self._boot,)
            ).fetchone()
        return None if row[0] is None else row[0] - _now()

    # Writing

    def transact(self, txn: Txn) -> TxnResult:
        with self._write():
            self._expire()
            revision = self.revision() + 1
            succeeded = all(holds(compare, self.entry(compare.key)) for compare in txn.compares)
            branch = txn.success if succeeded else txn.otherwise
            self._check_leases(branch)
            wrote = self._db.total_changes
            responses = [self._apply(operation, revision) for operation in branch]
            if self._db.total_changes == wrote:
                revision -= 1
            else:
                self._advance(revision)
            return TxnResult(succeeded, revision, responses)

    def compact(self, revision: int) -> None:
        """See `Client.compact`."""
        with self._write():
            if revision > self.revision():
                raise InvalidInput(f"cannot compact at {revision}, which is in the future")
            self._compact(revision)

    def grant(self, ttl_seconds: float) -> int:
        with self._write():
            cursor = self._db.execute(
                "INSERT INTO leases (ttl, deadline, boot) VALUES (?, ?, ?)",
                (ttl_seconds, _now() + ttl_seconds, self._boot),
            )
            assert cursor.lastrowid is not None
            return cursor.lastrowid

    def renew(self, lease_id: int) -> bool:
        """Start its time to live anew; False if it is gone."""
        with self._write():
            self._expire()
            cursor = self._db.execute(
                "UPDATE leases SET deadline = ? + ttl WHERE id = ?", (_now(), lease_id)
            )
            return cursor.rowcount > 0

    def revoke(self, lease_id: int) -> None:
        with self._write():
            self._end_leases([lease_id])

    def expire(self) -> None:
        """End the leases whose time is over, and delete their keys."""
        with self._write():
            self._expire()

    # Inside a write transaction

    def _expire(self) -> None:
        rows = self._db.execute(
            "SELECT id FROM leases WHERE deadline <= ? OR boot != ?", (_now(), self._boot)
        )
        self._end_leases([row[0] for row in rows])

    def _end_leases(self, lease_ids: Sequence[int]) -> None:
        for lease_id in lease_ids:
            self._db.execute("DELETE FROM leases WHERE id = ?", (lease_id,))
            keys = self._db.execute(
                "SELECT DISTINCT key FROM changes WHERE lease = ? ORDER BY key", (lease_id,)
            ).fetchall()
            entries = [entry for (key,) in keys if (entry := self.entry(key)) is not None]
            revision = self.revision() + 1
            dying = [entry.key for entry in entries if entry.lease == lease_id]
            for key in dying:
                self._apply(Delete(key), revision)
            if dying:
                self._advance(revision)

    def _check_leases(self, branch: Sequence[Operation]) -> None:
        for operation in branch:
            if isinstance(operation, Put) and operation.lease:
                known = self._db.execute("SELECT 1 FROM leases WHERE id = ?", (operation.lease,))
                if known.fetchone() is None:
                    raise NotFound(f"lease {operation.lease:x} does not exist")

    def _apply(self, operation: Operation, revision: int) -> Response:
        before = self.entry(operation.key)
        if isinstance(operation, Get):
            return Response(entry=before)
        if isinstance(operation, Put):
            created, version = (before.create_revision, before.version) if before else (revision, 0)
            row: tuple[bytes | None, int, int, int]
            row = (operation.value, created, version + 1, operation.lease)
        elif before is None:
            return Response()
        else:
            row = (None, 0, 0, 0)
        self._db.execute(
            "INSERT INTO changes (revision, key, value, create_revision, version, lease) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (revision, operation.key, *row),
        )
        return Response(deleted=int(isinstance(operation, Delete)))

    def _advance(self, revision: int) -> None:
        self._db.execute("UPDATE store SET revision = ?", (revision,))
        oldest = revision - self._kept_revisions
        if oldest > 0 and oldest % max(1, self._kept_revisions // 10) == 0:
            self._compact(oldest)

    def _compact(self, revision: int) -> None:
        self._db.execute("UPDATE store SET compacted = max(compacted, ?)", (revision,))
        self._db.execute(
            "DELETE FROM changes WHERE id IN (SELECT id FROM changes old WHERE revision <= ?1 "
            "AND (value IS NULL OR EXISTS (SELECT 1 FROM changes newer WHERE newer.key = old.key "
            "AND newer.id > old.id AND newer.revision <= ?1)))",
            (revision,),
        )

    # Plumbing

    def _ensure_tables(self) -> None:
        tables = self._one("SELECT count(*) FROM sqlite_master WHERE name IN ('store', 'leases')")
        if tables != 2:
            with self._transaction("IMMEDIATE"):
                for statement in _SCHEMA.split(";"):
                    self._db.execute(statement)
        found = self._one("SELECT format FROM store")
        if found != _FORMAT:
            raise InvalidInput(f"{self._path} has format {found}; this version reads {_FORMAT}")

    @contextmanager
    def _write(self) -> Iterator[None]:
        self._commits += 1
        with translated(self._path), self._transaction("IMMEDIATE"):
            yield

    @contextmanager
    def _transaction(self, kind: str) -> Iterator[None]:
        self._db.execute(f"BEGIN {kind}")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        try:
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise Unavailable(f"{self._path}: {error}", maybe_applied=True) from error

    def _one(self, statement: str, *parameters: object) -> int:
        return self._db.execute(statement, parameters).fetchone()[0]  # type: ignore[no-any-return]


def prepare_file(path: Path, create: bool) -> None:
    """Make the file (0600) and its folder (0700) if they are missing and `create` says so.

    Never opens a file that exists: closing it would drop the locks that
    another connection of this process holds on it (POSIX locks do so).

    Raises:
        NotFound: missing, and not `create`.
        Denied: we may not.
        InvalidInput: something else has that name.
        Unavailable: no space, or a read-only file system.
    """
    try:
        if not create and not path.exists():
            raise NotFound(f"there is no datastore at {path}")
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        if not path.is_file():
            raise InvalidInput(f"{path} is not a file") from None
        if not os.access(path, os.R_OK | os.W_OK):
            raise Denied(f"no permission to read and write {path}") from None
    except PermissionError:
        raise Denied(f"no permission to make {path}") from None
    except OSError as error:
        raise Unavailable(f"{path}: {error.strerror}") from error


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours; the only place that knows them."""
    try:
        yield
    except TortieError:
        raise
    except sqlite3.OperationalError as error:
        raise Unavailable(f"{path}: {error}") from error
    except sqlite3.DatabaseError as error:
        raise InvalidInput(f"{path} is no usable datastore: {error}") from error


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
