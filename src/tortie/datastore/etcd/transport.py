"""Calls to a cluster of several endpoints, one connection at a time.

A connection that fails is dropped and the next endpoint is tried; a new
connection also reads the certificate files anew, so they can be renewed while
we run. Endpoints that were discovered are looked up anew when none of them
works. All calls and watches share it, so one keep-alive notices for all of
them that a server froze.
"""

import asyncio
import itertools
import os
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple, TypeVar
from urllib.parse import urlsplit

from tortie.datastore.etcd import messages
from tortie.datastore.etcd.discovery import discover
from tortie.datastore.etcd.http2 import Call, CallFailed, Connection, ConnectionLost
from tortie.datastore.etcd.status import LOGIN_NOT_WANTED, Code, StaleToken, judge
from tortie.datastore.etcd.tls import TLSFiles, TLSText, client_context
from tortie.lib.errors import InvalidInput, TortieError, Unavailable

T = TypeVar("T")

_MEMBER_IN_TROUBLE = (Code.DEADLINE_EXCEEDED, Code.UNAVAILABLE)
"""Such as no leader: another member may do better. What any other status refuses,
every member would, and the connection with its watches is sound."""


class Login(NamedTuple):
    username: str
    password: str

    def __repr__(self) -> str:
        return f"Login({self.username!r}, password=…)"


class Discovery(NamedTuple):
    """Instead of endpoints: the domain whose SRV records name them."""

    domain: str


class Timing(NamedTuple):
    """Seconds. A frozen server is noticed after keep-alive time plus time-out."""

    call: float = 5.0
    """How long one request, or connecting, may take; etcd gives up after about 7 s."""
    keep_alive: float = 10.0
    """Between pings while a call or watch is open. Servers refuse under 5 s."""
    keep_alive_timeout: float = 5.0


class Endpoint(NamedTuple):
    secure: bool
    host: str
    port: int
    path: str = ""
    """Of a unix socket, instead of host and port."""

    def __str__(self) -> str:
        return self.path or f"{self.host}:{self.port}"


class _Link(NamedTuple):
    endpoint: Endpoint
    connection: Connection


class Stream:
    """A call of many messages; made by `Transport.open_stream`."""

    def __init__(self, transport: "Transport", link: _Link, call: Call) -> None:
        self._transport = transport
        self._link = link
        self._call = call

    async def read(self, patience_seconds: float | None = None) -> bytes:
        """The next message; None waits for ever, relying on the keep-alive."""
        async with self._transport.guard(self._link, patience_seconds):
            message = await self._call.receive()
        if message is None:
            raise Unavailable(f"etcd at {self._link.endpoint} ended the stream")
        return message

    def cancel(self) -> None:
        self._call.cancel()


class Transport:
    """Makes calls to whichever endpoint works.

    Raises (from every call): see `datastore.client.Client`.
    """

    def __init__(
        self,
        endpoints: Sequence[str] | Discovery,
        tls: TLSFiles | TLSText,
        login: Login | None,
        timing: Timing,
    ) -> None:
        if not endpoints:
            raise InvalidInput("no etcd endpoint is given; set ETCD_ENDPOINTS")
        self._discovery = endpoints if isinstance(endpoints, Discovery) else None
        given = () if isinstance(endpoints, Discovery) else endpoints
        self._endpoints = [parse_endpoint(endpoint) for endpoint in given]
        self._tls = tls
        self._login = login
        self._timing = timing
        self._next = 0
        self._failed = 0
        """Endpoints in a row that did not work."""
        self._link: _Link | None = None
        self._linking = asyncio.Lock()
        self._token: str | None = None
        self._logging_in = asyncio.Lock()
        self._closed = False

    async def call(
        self, method: str, request: bytes, decode: Callable[[bytes], T], *, writes: bool = False
    ) -> T:
        """One request, one response.

        Args:
            method: service and name, as in `KV/Range`.
            writes: repeating it is not harmless, so it goes to another
                endpoint only if it surely was not sent.
        """
        for attempt in itertools.count(1):
            try:
                return await self._call_with_token(method, request, decode, writes)
            except Unavailable as error:
                if attempt >= len(self._endpoints) or error.maybe_applied or self._closed:
                    raise
        raise AssertionError("the last attempt returns or raises")

    async def open_stream(self, method: str, first: bytes) -> Stream:
        """A stream on which `first` was sent."""
        metadata = await self._metadata()
        link = await self._connect()
        async with self.guard(link, self._timing.call):
            call = link.connection.call(f"/etcdserverpb.{method}", metadata)
            await call.send(first, end=False)
        return Stream(self, link, call)

    @asynccontextmanager
    async def guard(
        self, link: _Link, patience_seconds: float | None, *, writes: bool = False
    ) -> AsyncIterator[None]:
        """Translate what goes wrong inside, and drop the connection if that is at fault."""
        problem: TortieError
        try:
            async with asyncio.timeout(patience_seconds):
                yield
            return
        except CallFailed as error:
            problem = judge(error.code, error.details, str(link.endpoint), writes=writes)
            if error.code not in _MEMBER_IN_TROUBLE:
                raise problem from None
        except ConnectionLost as error:
            problem = Unavailable(f"etcd at {link.endpoint}: {error}", maybe_applied=writes)
        except TimeoutError:
            text = f"etcd at {link.endpoint} did not answer within {patience_seconds} s"
            problem = Unavailable(text, maybe_applied=writes)
        self._drop(link)
        raise problem

    @property
    def token(self) -> str | None:
        return self._token

    def forget_token(self, stale: str | None) -> bool:
        """Log in again before the next call; False if there is no login.

        Args:
            stale: the token that was refused; if another call has a new one already, it stays.
        """
        if self._token == stale:
            self._token = None
        return self._login is not None

    def close(self) -> None:
        self._closed = True
        if self._link is not None:
            self._drop(self._link)

    async def _call_with_token(
        self, method: str, request: bytes, decode: Callable[[bytes], T], writes: bool
    ) -> T:
        metadata = await self._metadata()
        used = self._token
        try:
            return decode(await self._request(method, request, metadata, writes))
        except StaleToken:
            if not self.forget_token(used):
                raise
            return decode(await self._request(method, request, await self._metadata(), writes))

    async def _request(
        self, method: str, request: bytes, metadata: list[tuple[str, str]], writes: bool
    ) -> bytes:
        link = await self._connect()
        # The server may stop working on what we shall not wait for.
        limit = ("grpc-timeout", f"{int(self._timing.call * 1000)}m")
        async with self.guard(link, self._timing.call, writes=writes):
            call = link.connection.call(f"/etcdserverpb.{method}", [limit, *metadata])
            try:
                await call.send(request, end=True)
                response = await call.receive()
                if response is not None:
                    await call.receive()  # the status, which follows the message
            finally:
                call.cancel()
        if response is None:
            text = f"etcd at {link.endpoint} answered nothing"
            raise Unavailable(text, maybe_applied=writes)
        return response

    async def _metadata(self) -> list[tuple[str, str]]:
        if self._login is None:
            return []
        async with self._logging_in:
            if self._token is None:
                self._token = await self._authenticate(self._login)
        return [("token", self._token)] if self._token else []

    async def _authenticate(self, login: Login) -> str:
        """A token, or an empty one if the server wants none."""
        request = messages.encode_authenticate(login.username, login.password)
        try:
            return messages.decode_token(
                await self._request("Auth/Authenticate", request, [], writes=False)
            )
        except Unavailable as error:
            if LOGIN_NOT_WANTED in str(error):
                return ""
            raise

    async def _connect(self) -> _Link:
        async with self._linking:
            if self._closed:
                raise Unavailable("the datastore client is closed")
            if self._link is None or self._link.connection.lost is not None:
                if self._failed >= len(self._endpoints):
                    await self._discover()
                self._link = await self._link_to(self._endpoints[self._next])
                self._failed = 0
            return self._link

    async def _discover(self) -> None:
        """Look members up, for the first time or because none of those we know works."""
        if self._discovery is None:
            return
        try:
            found = await asyncio.to_thread(discover, self._discovery.domain)
        except TortieError:
            if not self._endpoints:
                raise
        else:
            self._endpoints, self._next = [parse_endpoint(endpoint) for endpoint in found], 0

    async def _link_to(self, endpoint: Endpoint) -> _Link:
        context = client_context(self._tls) if endpoint.secure else None
        timing = self._timing
        try:
            async with asyncio.timeout(timing.call):
                connection = await Connection.connect(
                    endpoint.path or (endpoint.host, endpoint.port),
                    context,
                    timing.keep_alive,
                    timing.keep_alive_timeout,
                )
        except (OSError, TimeoutError) as error:
            self._turn()
            raise Unavailable(f"etcd at {endpoint}: {_reason(error)}") from None
        return _Link(endpoint, connection)

    def _drop(self, link: _Link) -> None:
        """Give up on a connection, once, and turn to the next endpoint."""
        if self._link is link:
            self._link = None
            self._turn()
        link.connection.close("the connection was given up")

    def _turn(self) -> None:
        self._next = (self._next + 1) % len(self._endpoints)
        self._failed += 1


def _reason(error: OSError) -> str:
    """Why there is no connection; asyncio's own text repeats the address."""
    if isinstance(error, ssl.SSLError):
        return f"TLS: {getattr(error, 'verify_message', '') or error.reason or error}"
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return str(error) or "no connection in time"


def parse_endpoint(text: str) -> Endpoint:
    """Read `http://host:port`, `https://host:port` or `unix:///path`; 2379 if there is no port.

    Raises:
        InvalidInput: it is none of them.
    """
    try:
        parts = urlsplit(text)
        port = parts.port or 2379
    except ValueError as error:
        raise InvalidInput(f"etcd endpoint {text!r}: {error}") from None
    if parts.scheme == "unix" and parts.path and not parts.netloc:
        return Endpoint(False, "localhost", port, parts.path)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        example = "http://127.0.0.1:2379"
        raise InvalidInput(f"etcd endpoint {text!r} is no URL such as {example}")
    return Endpoint(parts.scheme == "https", parts.hostname, port)
