"""The `Client` on a SQLite file; see the package for its parts.

Reads of keys and of news run on the loop (tens of µs); listings and writes
in threads of their own. A write holds the file lock only while it commits.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Coroutine
from pathlib import Path
from typing import TypeVar

from tortie.datastore.client import (
    Batch,
    Entry,
    Get,
    Lease,
    Listing,
    Page,
    Txn,
    TxnResult,
    check_key,
    check_transaction,
)
from tortie.datastore.embedded.bell import Bell
from tortie.datastore.embedded.file import KEPT_REVISIONS, StoreFile, prepare_file
from tortie.datastore.embedded.worker import Worker
from tortie.datastore.single import SingleKeyCalls
from tortie.lib.errors import Compacted, TortieError, Unavailable

T = TypeVar("T")

PATIENCE_SECONDS = 10.0
"""How long one call waits for the file: other writers take about 1 ms each."""

_BATCH_REVISIONS = 1_000
"""Bounds what one watch holds in memory when it is far behind."""

_RETRY_SECONDS = 1.0


class _Session:
    """The file as opened once: all connections, the bell, the threads."""

    def __init__(self, path: Path, create: bool, kept_revisions: int) -> None:
        prepare_file(path, create)
        self._path = path
        self._kept_revisions = kept_revisions
        self._inode = path.stat().st_ino
        self.bell = Bell(path.with_name(path.name + "-bell"))
        self.writing = Worker(self.bell.fd, self._flush, self._checkpoint)
        self.listing = Worker()
        self._to_flush: StoreFile | None = None
        self.writer: StoreFile
        self._lister: StoreFile | None = None
        self.reader: StoreFile

    async def open(self) -> None:
        """Make the connections under the file lock: the first one makes the tables."""

        def connect() -> None:
            self.writer, self.reader = (
                StoreFile(self._path, self._kept_revisions) for _ in range(2)
            )
            self._to_flush = self.writer

        try:
            await self.writing.run(connect, PATIENCE_SECONDS)
        except BaseException:
            self._stop_threads()
            raise

    def lister(self) -> StoreFile:
        """The connection for listings; for the listing thread, which makes it when needed."""
        if self._lister is None:
            self._lister = StoreFile(self._path)
        return self._lister

    def _flush(self) -> None:
        if self._to_flush is not None:
            self._to_flush.flush()

    def _checkpoint(self) -> None:
        if self._to_flush is not None:
            self._to_flush.checkpoint()

    def _stop_threads(self) -> None:
        self.listing.stop()
        self.writing.stop()

    @property
    def is_current(self) -> bool:
        """False once the file was deleted or replaced by another."""
        try:
            return self._path.stat().st_ino == self._inode
        except OSError:
            return False

    async def close(self) -> None:
        def disconnect() -> None:
            self._to_flush = None
            self.writer.close()

        self.bell.deafen()
        self.reader.close()
        with contextlib.suppress(Unavailable):
            if self._lister is not None:
                await self.listing.run(self._lister.close, PATIENCE_SECONDS)
            await self.writing.run(disconnect, 1.0)
            # Reached only when the writing thread is not waiting on this very file.
            self.bell.close()
        self._stop_threads()


class EmbeddedClient(SingleKeyCalls):
    """One process's access to the file; see `datastore.client.Client`.

    Opens on first use, and again when the file was replaced.

    Args:
        path: the database; its folder gets a few more files with that prefix.
        create: make it if it is missing; else calls raise NotFound.
        kept_revisions: how much history watches may lag behind.
    """

    def __init__(
        self, path: Path, *, create: bool = True, kept_revisions: int = KEPT_REVISIONS
    ) -> None:
        self._path = path
        self._create = create
        self._kept_revisions = kept_revisions
        self._session: _Session | None = None
        self._opening = asyncio.Lock()
        self._closed = False
        self._news: set[asyncio.Event] = set()
        self._expiry: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._keepers: dict[int, asyncio.Task[None]] = {}

    async def get(self, key: str) -> Entry | None:
        check_key(key)
        session = await self._open()
        await self._expire_due(session)
        return session.reader.entry(key)

    async def list(
        self, prefix: str, *, revision: int | None = None, keys_only: bool = False
    ) -> Listing:
        session = await self._open()
        await self._expire_due(session)
        return await session.listing.run(
            lambda: session.lister().listing(prefix, revision, keys_only), PATIENCE_SECONDS
        )

    async def page(
        self, prefix: str, *, after: str = "", revision: int | None = None, keys_only: bool = False
    ) -> Page:
        session = await self._open()
        await self._expire_due(session)
        return await session.listing.run(
            lambda: session.lister().page(prefix, after, revision, keys_only), PATIENCE_SECONDS
        )

    async def transact(self, txn: Txn) -> TxnResult:
        check_transaction(txn)
        if all(isinstance(operation, Get) for operation in (*txn.success, *txn.otherwise)):
            session = await self._open()
            await self._expire_due(session)
            return session.reader.answer(txn)
        return await self._write(lambda file: file.transact(txn))

    async def watch(
        self, prefix: str, from_revision: int, *, store_id: str | None = None
    ) -> AsyncGenerator[Batch, None]:
        session = await self._open()
        if store_id not in (None, session.reader.store_id):
            raise Compacted(session.reader.revision())
        news = asyncio.Event()
        self._listen(session, news)
        seen = from_revision - 1
        news.set()
        try:
            while True:
                await news.wait()
                news.clear()
                if self._session is not session:
                    raise Unavailable(f"{self._path} was closed or replaced")
                events, upto = session.reader.events(prefix, seen, _BATCH_REVISIONS)
                if upto - seen == _BATCH_REVISIONS:
                    news.set()
                seen = upto
                if events:
                    yield Batch(events, upto)
        finally:
            self._unlisten(session, news)

    async def revision(self) -> int:
        return (await self._open()).reader.revision()

    async def compact(self, revision: int) -> None:
        await self._write(lambda file: file.compact(revision))

    async def grant_lease(self, ttl_seconds: int) -> Lease:
        lease = Lease(await self._write(lambda file: file.grant(ttl_seconds)), ttl_seconds)
        self._keepers[lease.id] = asyncio.create_task(
            lease.keep_alive(lambda: self._write(lambda file: file.renew(lease.id)))
        )
        return lease

    async def revoke(self, lease: Lease) -> None:
        if (keeper := self._keepers.pop(lease.id, None)) is not None:
            keeper.cancel()
        await self._write(lambda file: file.revoke(lease.id))
        lease.lost.set()

    async def close(self) -> None:
        self._closed = True
        for task in (*self._keepers.values(), *self._tasks):
            task.cancel()
        await self._drop_session()

    async def _open(self) -> _Session:
        if self._closed:
            raise Unavailable("the datastore client is closed")
        session = self._session
        if session is not None and session.is_current:
            return session
        async with self._opening:
            if self._session is not None and not self._session.is_current:
                await self._drop_session()
            if self._session is None:
                session = _Session(self._path, self._create, self._kept_revisions)
                await session.open()
                self._session = session
            return self._session

    async def _drop_session(self) -> None:
        session, self._session = self._session, None
        if self._expiry is not None:
            self._expiry.cancel()
        for event in self._news:
            event.set()
        if session is not None:
            await session.close()

    async def _write(self, work: Callable[[StoreFile], T]) -> T:
        session = await self._open()
        writer, bell = session.writer, session.bell

        def commit() -> T:
            before = writer.revision()
            try:
                return work(writer)
            finally:
                if writer.revision() != before:
                    bell.ring()

        return await session.writing.run(commit, PATIENCE_SECONDS)

    def _listen(self, session: _Session, news: asyncio.Event) -> None:
        def heard() -> None:
            if not session.is_current and self._session is session:
                self._spawn(self._drop_session())
            for event in self._news:
                event.set()
            self._arm_expiry(session)

        self._news.add(news)
        if not session.bell.listening:
            session.bell.listen(heard)
        self._arm_expiry(session)

    def _unlisten(self, session: _Session, news: asyncio.Event) -> None:
        self._news.discard(news)
        if not self._news and self._session is session:
            session.bell.deafen()
            if self._expiry is not None:
                self._expiry.cancel()

    def _arm_expiry(self, session: _Session) -> None:
        """While somebody watches, wake up when the first lease of any process may end.

        A renewal does not ring the bell: then we wake once for nothing, and arm again.
        """
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        if self._session is not session:
            return
        try:
            remaining = session.reader.next_deadline()
        except Unavailable:
            remaining = _RETRY_SECONDS
        if remaining is not None:
            loop = asyncio.get_running_loop()
            delay = max(remaining, 0.0) + 0.005
            self._expiry = loop.call_later(delay, lambda: self._spawn(self._on_expiry(session)))

    async def _on_expiry(self, session: _Session) -> None:
        try:
            await self._expire_due(session)
        except TortieError:
            await asyncio.sleep(_RETRY_SECONDS)
        self._arm_expiry(session)

    async def _expire_due(self, session: _Session) -> None:
        remaining = session.reader.next_deadline()
        if remaining is not None and remaining <= 0:
            await self._write(StoreFile.expire)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
