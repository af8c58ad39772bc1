"""etcd v3 by its JSON gateway over `http.client`: synchronous, for any thread and process.

May be shared by threads and inherited by forks (see `gateway_connections`). That suits threads,
and eventlet, where everything that blocks here is a patched socket.

What was not sent is safe to send to the next endpoint; a write that was sent and not answered may
have happened, and says so (`maybe_applied`). The gateway knows users by token only, not by
certificates' names.

Source: etcd, api/etcdserverpb/rpc.swagger.json.
"""

import http.client
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import msgspec

from tortie.datastore.client import (
    PAGE_ENTRIES,
    Delete,
    Entry,
    Get,
    Operation,
    Page,
    Put,
    Response,
    Txn,
    TxnResult,
    check_transaction,
)
from tortie.datastore.etcd.status import LOGIN_NOT_WANTED, StaleToken, judge
from tortie.lib.errors import NotFound, TortieError, Unavailable
from tortie.model.keys import ResourceKey
from tortie.openstack import gateway_messages as messages
from tortie.openstack.gateway_connections import Connections
from tortie.openstack.gateway_watch import Watch
from tortie.openstack.settings import Settings

if TYPE_CHECKING:
    from tortie.datastore.etcd.tls import TLSFiles

_READABLE_KEY = ResourceKey("ClusterInformation", "default").path
"""Every role, of Calico's and of ours, may read it; the answer's header is what we want."""

LOGINS = 3
"""Tries of a request whose token etcd does not know any more."""

M = TypeVar("M", bound=msgspec.Struct)


class AlreadyCompacted(TortieError):
    """Somebody compacted to there, or further, before."""


class Login(NamedTuple):
    username: str
    password: str

    def __repr__(self) -> str:
        return f"Login({self.username!r}, …)"


class Gateway:
    """A client of one etcd cluster; may be shared by threads and inherited by forks.

    Args:
        endpoints: hosts and ports, at least one.
        timeout_seconds: for each request, once connected.

    Every method may raise:
        Unavailable: no endpoint answers, or etcd is busy; `maybe_applied` on writes.
        Denied: credentials are missing, wrong or not enough.
        InvalidInput: etcd does not take it, or a certificate's file is none.
    """

    def __init__(
        self,
        endpoints: Sequence[tuple[str, int]],
        *,
        tls: "TLSFiles | None" = None,
        login: Login | None = None,
        timeout_seconds: float = 60.0,
    ) -> None:
        self._connections = Connections(endpoints, tls, timeout_seconds)
        self._login = login
        self._token: str | None = None
        """None: not asked for yet; empty: etcd has no authentication."""

    @classmethod
    def of(cls, settings: Settings) -> "Gateway":
        tls = None
        if settings.etcd_scheme == "https":
            from tortie.datastore.etcd.tls import TLSFiles

            tls = TLSFiles(
                *(
                    Path(name) if name else None
                    for name in (
                        settings.etcd_ca_cert_file,
                        settings.etcd_cert_file,
                        settings.etcd_key_file,
                    )
                )
            )
        login = None
        if settings.etcd_username:
            login = Login(settings.etcd_username, settings.etcd_password or "")
        timeout_seconds = float(settings.etcd_timeout)
        return cls(settings.endpoints, tls=tls, login=login, timeout_seconds=timeout_seconds)

    # --- keys ---

    def get(self, key: str) -> Entry | None:
        found = self._call("kv/range", messages.range_request(key), messages.RangeResponse)
        return found.kvs[0].entry if found.kvs else None

    def get_all(self, keys: Sequence[str]) -> Sequence[Entry | None]:
        """Several keys as of one revision, in their order; at most what a transaction holds."""
        result = self.transact(Txn(success=[Get(key) for key in keys]))
        return [response.entry for response in result.responses]

    def pages(self, prefix: str, *, keys_only: bool = False) -> Iterator[Page]:
        """Everything under `prefix` as of one revision, ordered by key; at least one page.

        Raises:
            Compacted: it took so long that the revision is gone.
        """
        start, revision = prefix, 0
        while True:
            request = messages.range_request(
                start, prefix, limit=PAGE_ENTRIES, revision=revision, keys_only=keys_only
            )
            found = self._call("kv/range", request, messages.RangeResponse)
            revision = revision or found.header.revision
            entries = [kv.entry for kv in found.kvs]
            yield Page(entries, revision, f"{found.header.cluster_id:x}", found.more)
            if not found.more or not entries:
                return
            start = entries[-1].key + "\0"

    def transact(self, txn: Txn) -> TxnResult:
        check_transaction(txn)
        branches = (*txn.success, *txn.otherwise)
        writes = any(isinstance(operation, Put | Delete) for operation in branches)
        found = self._call("kv/txn", messages.txn_request(txn), messages.TxnResponse, writes=writes)
        done: Sequence[Operation] = txn.success if found.succeeded else txn.otherwise
        responses = [
            _response(operation, answer)
            for operation, answer in zip(done, found.responses, strict=True)
        ]
        return TxnResult(found.succeeded, found.header.revision, responses)

    def revision(self) -> int:
        """The store's newest revision."""
        request = messages.range_request(_READABLE_KEY, keys_only=True)
        return self._call("kv/range", request, messages.RangeResponse).header.revision

    def compact(self, revision: int) -> bool:
        """Forget history before `revision`; False if somebody did that before."""
        try:
            self._call("kv/compaction", {"revision": revision}, messages.Anything, writes=True)
        except AlreadyCompacted:
            return False
        return True

    # --- leases ---

    def grant(self, ttl_seconds: int) -> int:
        """The id of a new lease, which ends unless `keep_alive` is called in time."""
        request = {"TTL": ttl_seconds}
        return self._call("lease/grant", request, messages.LeaseResponse, writes=True).lease_id

    def keep_alive(self, lease_id: int) -> int:
        """Renew a lease: the seconds that it has again, 0 when there is no such lease."""
        request = {"ID": lease_id}
        found = self._call("lease/keepalive", request, messages.KeepAliveResponse)
        return max(found.result.ttl, 0)

    def revoke(self, lease_id: int) -> None:
        """End it, with its keys; no error if it is gone."""
        with suppress(NotFound):
            self._call("lease/revoke", {"ID": lease_id}, messages.Anything, writes=True)

    # --- watching ---

    def watch(self, prefix: str, from_revision: int) -> Watch:
        """Changes under `prefix` from `from_revision` on; close it when done."""
        request = msgspec.json.encode(messages.watch_request(prefix, from_revision))
        last: TortieError | None = None
        for _ in range(LOGINS):
            connection, endpoint = self._connections.take()
            try:
                response = self._send(connection, "watch", request)
                if response.status == http.client.OK:
                    return Watch(connection, response, self._connections.name(endpoint))
                last = self._error(response.status, response.read(), endpoint, writes=False)
            except (OSError, http.client.HTTPException) as error:
                last = self._connections.lost(endpoint, error, writes=False)
            connection.close()
            if not isinstance(last, StaleToken):
                break
            self._token = None
        assert last is not None
        raise last

    def close(self) -> None:
        """Close what is idle."""
        self._connections.close()

    # --- how ---

    def _call(self, path: str, request: Any, kind: type[M], *, writes: bool = False) -> M:
        body = msgspec.json.encode(request)
        for left in reversed(range(LOGINS)):
            try:
                return self._attempt(path, body, kind, writes)
            except StaleToken:
                if not left or self._login is None:
                    raise
                self._token = None  # expired, or etcd was restarted: it was refused, so not applied
        raise AssertionError("unreachable")

    def _attempt(self, path: str, body: bytes, kind: type[M], writes: bool) -> M:
        """On an idle connection, or on a new one to whatever endpoint answers."""
        last: TortieError | None = None
        for _ in range(1 + len(self._connections)):
            connection, endpoint = self._connections.take()
            try:
                response = self._send(connection, path, body)
                answer = response.read()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                last = self._connections.lost(endpoint, error, writes=writes)
                if writes or isinstance(error, TimeoutError):
                    break
                continue
            if response.status != http.client.OK:
                self._connections.give_back(connection, endpoint, response)
                raise self._error(response.status, answer, endpoint, writes)
            self._connections.give_back(connection, endpoint, response)
            return self._decoded(kind, answer, endpoint, writes)
        assert last is not None
        raise last

    def _send(
        self, connection: http.client.HTTPConnection, path: str, body: bytes
    ) -> http.client.HTTPResponse:
        headers = {"Content-Type": "application/json"}
        if self._login is not None and path != "auth/authenticate":
            token = self._authenticate() if self._token is None else self._token
            if token:
                headers["Authorization"] = token
        connection.request("POST", f"/v3/{path}", body, headers)
        return connection.getresponse()

    def _authenticate(self) -> str:
        assert self._login is not None
        username, password = self._login
        request = msgspec.json.encode({"name": username, "password": password})
        try:
            found = self._attempt("auth/authenticate", request, messages.TokenResponse, False)
        except TortieError as error:
            if LOGIN_NOT_WANTED not in str(error):
                raise
            self._token = ""  # it refuses any token, while it has no use for them
            return ""
        if not (found.token.isascii() and found.token.isprintable()):
            raise Unavailable("whatever answers is no etcd: its token is no text")
        self._token = found.token
        return found.token

    def _error(self, status: int, answer: bytes, endpoint: int, writes: bool) -> TortieError:
        try:
            refused = messages.decode(messages.Refusal, answer)
        except msgspec.MsgspecError:
            refused = messages.Refusal()
        text = refused.message or refused.error
        if not text:
            return Unavailable(
                f"etcd at {self._connections.name(endpoint)}: HTTP status {status}, and no reason",
                maybe_applied=writes,
            )
        if "user name is empty" in text and self._login is not None:
            return StaleToken(text)  # authentication was switched on since we asked
        if "required revision has been compacted" in text and writes:
            return AlreadyCompacted(text)
        return judge(refused.code, text, self._connections.name(endpoint), writes=writes)

    def _decoded(self, kind: type[M], answer: bytes, endpoint: int, writes: bool) -> M:
        try:
            return messages.decode(kind, answer)
        except msgspec.MsgspecError as error:
            where = self._connections.name(endpoint)
            text = f"whatever answers at {where} is no etcd that we know: {error}"
            raise Unavailable(text, maybe_applied=writes) from None


def _response(operation: Operation, answer: messages.OperationResponse) -> Response:
    if isinstance(operation, Get):
        kvs = answer.response_range.kvs if answer.response_range is not None else []
        return Response(entry=kvs[0].entry if kvs else None)
    if isinstance(operation, Delete) and answer.response_delete_range is not None:
        return Response(deleted=answer.response_delete_range.deleted)
    return Response()
