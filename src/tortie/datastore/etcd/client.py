"""The `Client` on etcd v3.

Reads are linearizable: they go through the leader, so a member that is cut
off cannot answer with the past. A watch ends with its connection; whoever
watches goes on from the revision it has (`syncer` does).
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence

from tortie.datastore.client import (
    PAGE_ENTRIES,
    Batch,
    Entry,
    Event,
    Lease,
    Listing,
    Page,
    Txn,
    TxnResult,
    check_key,
    check_transaction,
)
from tortie.datastore.etcd import messages
from tortie.datastore.etcd.auth import Auth
from tortie.datastore.etcd.messages import WatchResponse, range_end
from tortie.datastore.etcd.tls import TLSFiles, TLSText
from tortie.datastore.etcd.transport import Discovery, Login, Stream, Timing, Transport
from tortie.datastore.single import SingleKeyCalls
from tortie.lib.errors import Compacted, Denied, NotFound, TortieError, Unavailable
from tortie.model.keys import ResourceKey

_PAGE_KEYS = 10_000

_LIST_ATTEMPTS = 3
"""A listing starts over when its revision is compacted between two pages."""


_FIRST_KEY = b"\0"
"""Where a range over all keys starts."""

_READABLE_KEY = ResourceKey("ClusterInformation", "default").path.encode()
"""Every role, of Calico's and of ours, may read it; the answer's header is what we want."""

_NO_FILES = TLSFiles()
_USUAL = Timing()


class EtcdClient(SingleKeyCalls):
    """One client of a cluster; see `datastore.client.Client`.

    Use it inside one running loop.

    Args:
        endpoints: URLs, or where to find them; one is used at a time, the next when it fails.
    """

    def __init__(
        self,
        endpoints: Sequence[str] | Discovery,
        *,
        tls: TLSFiles | TLSText = _NO_FILES,
        login: Login | None = None,
        timing: Timing = _USUAL,
    ) -> None:
        self._transport = Transport(endpoints, tls, login, timing)
        self._timing = timing
        self._keepers: dict[int, asyncio.Task[None]] = {}

    async def get(self, key: str) -> Entry | None:
        check_key(key)
        request = messages.encode_range(key.encode())
        response = await self._transport.call("KV/Range", request, messages.decode_range)
        return response.entries[0] if response.entries else None

    async def list(
        self, prefix: str, *, revision: int | None = None, keys_only: bool = False
    ) -> Listing:
        for attempt in range(1, _LIST_ATTEMPTS + 1):
            try:
                return await self._list(prefix, revision, keys_only)
            except Compacted:
                if revision is not None or attempt == _LIST_ATTEMPTS:
                    raise
        raise AssertionError("the last attempt returns or raises")

    async def page(
        self, prefix: str, *, after: str = "", revision: int | None = None, keys_only: bool = False
    ) -> Page:
        start = after.encode(errors="surrogateescape") + b"\0" if after else prefix.encode()
        request = messages.encode_range(
            start or _FIRST_KEY,
            range_end(prefix.encode()),
            limit=_PAGE_KEYS if keys_only else PAGE_ENTRIES,
            revision=revision or 0,
            keys_only=keys_only,
        )
        page = await self._transport.call("KV/Range", request, messages.decode_range)
        at = revision or page.header.revision
        return Page(page.entries, at, _store_id(page.header.cluster_id), page.more)

    async def transact(self, txn: Txn) -> TxnResult:
        check_transaction(txn)
        response = await self._transport.call(
            "KV/Txn", messages.encode_txn(txn), messages.decode_txn, writes=True
        )
        return TxnResult(response.succeeded, response.header.revision, response.responses)

    async def watch(
        self, prefix: str, from_revision: int, *, store_id: str | None = None
    ) -> AsyncGenerator[Batch, None]:
        if from_revision < 1:  # to etcd that means "from now on"
            raise Compacted(1)
        stream = await self._open_watch(prefix, from_revision, store_id)
        try:
            fragments: list[Event] = []
            while True:
                response = messages.decode_watch(await stream.read())
                if response.canceled:
                    raise _canceled(response)
                fragments += response.events
                if response.fragment:
                    continue
                events, fragments = fragments, []
                # The header may be ahead of events that are still to come.
                yield Batch(events, events[-1].revision if events else response.header.revision)
        finally:
            stream.cancel()

    async def revision(self) -> int:
        request = messages.encode_range(_READABLE_KEY)
        return (await self._transport.call("KV/Range", request, messages.decode_header)).revision

    async def compact(self, revision: int) -> None:
        request = messages.encode_compaction(revision)
        await self._transport.call("KV/Compact", request, messages.decode_header, writes=True)

    async def grant_lease(self, ttl_seconds: int) -> Lease:
        granted = await self._transport.call(
            "Lease/LeaseGrant", messages.encode_lease_grant(ttl_seconds), messages.decode_lease
        )
        lease = Lease(granted.lease_id, granted.ttl_seconds)
        self._keepers[lease.id] = asyncio.create_task(lease.keep_alive(lambda: self._renew(lease)))
        return lease

    async def revoke(self, lease: Lease) -> None:
        if (keeper := self._keepers.pop(lease.id, None)) is not None:
            keeper.cancel()
        request = messages.encode_lease_id(lease.id)
        with contextlib.suppress(NotFound):
            # Twice does no harm, so an unknown outcome may go to another endpoint.
            await self._transport.call("Lease/LeaseRevoke", request, messages.decode_header)
        lease.lost.set()

    def auth(self) -> Auth:
        """Users and roles, over the same connection."""
        return Auth(self._transport)

    async def close(self) -> None:
        for keeper in self._keepers.values():
            keeper.cancel()
        self._keepers.clear()
        self._transport.close()

    async def _list(self, prefix: str, revision: int | None, keys_only: bool) -> Listing:
        entries: list[Entry] = []
        after = ""
        while True:
            page = await self.page(prefix, after=after, revision=revision, keys_only=keys_only)
            entries += page.entries
            if not page.more:
                return Listing(entries, page.revision, page.store_id)
            after, revision = page.entries[-1].key, page.revision

    async def _open_watch(self, prefix: str, from_revision: int, store_id: str | None) -> Stream:
        """A stream whose watch the server has confirmed."""
        key = prefix.encode()
        request = messages.encode_watch(key or _FIRST_KEY, range_end(key), from_revision)
        for fresh_token in (False, True):
            stream = await self._transport.open_stream("Watch/Watch", request)
            token = self._transport.token
            try:
                data = await stream.read(self._timing.call)
                response = messages.decode_watch(data)
                if not response.canceled:
                    _check_history(response, from_revision, store_id)
                    return stream
                # etcd 3.4 says "permission denied" for an expired token, too.
                if fresh_token or response.compact_revision:
                    raise _canceled(response)
                if not self._transport.forget_token(token):
                    raise _canceled(response)
            except BaseException:
                stream.cancel()
                raise
            stream.cancel()
        raise AssertionError("the second attempt returns or raises")

    async def _renew(self, lease: Lease) -> bool:
        """One renewal on a stream of its own: rare, and nothing to resume after a failure."""
        request = messages.encode_lease_id(lease.id)
        stream = await self._transport.open_stream("Lease/LeaseKeepAlive", request)
        try:
            data = await stream.read(self._timing.call)
        finally:
            stream.cancel()
        return messages.decode_lease(data).ttl_seconds > 0


def _store_id(cluster_id: int) -> str:
    return f"etcd-{cluster_id:x}"


def _check_history(response: WatchResponse, from_revision: int, store_id: str | None) -> None:
    """etcd waits silently for a revision that is far away; after a restore that loses events."""
    header = response.header
    if header.revision < from_revision - 1 or store_id not in (None, _store_id(header.cluster_id)):
        raise Compacted(header.revision)


def _canceled(response: WatchResponse) -> TortieError:
    if response.compact_revision:
        return Compacted(response.compact_revision)
    if "permission denied" in response.cancel_reason:
        return Denied(f"etcd: watch: {response.cancel_reason}")
    return Unavailable(f"etcd ended the watch: {response.cancel_reason or 'no reason given'}")
