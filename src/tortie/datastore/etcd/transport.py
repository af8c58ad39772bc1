"""Calls to a cluster of several endpoints, one connection at a time.

A connection that fails is dropped and the next endpoint is tried; dropping
also re-reads the certificate files, so they can be renewed while we run. All
calls and watches share the connection, so one keep-alive notices for all of
them that a server froze.

Channels are made on first use, because a gRPC channel that was made outside
the running loop hangs for ever.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast
from urllib.parse import urlsplit

import grpc
import grpc.aio

from tortie.datastore.etcd import messages
from tortie.datastore.etcd.status import StaleToken, translate
from tortie.lib.errors import Denied, InvalidInput, TortieError, Unavailable

T = TypeVar("T")


class TLSFiles(NamedTuple):
    """PEM files; None means the system's authorities, or no client certificate."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


class Login(NamedTuple):
    username: str
    password: str

    def __repr__(self) -> str:
        return f"Login({self.username!r}, password=…)"


class Timing(NamedTuple):
    """Seconds. A frozen server is noticed after keep-alive time plus time-out."""

    call: float = 5.0
    """How long one request may take; etcd itself gives up after about 7 s."""
    keep_alive: float = 10.0
    """Between pings while a call or watch is open. Servers refuse under 5 s."""
    keep_alive_timeout: float = 5.0


class _Connection(NamedTuple):
    endpoint: str
    channel: grpc.aio.Channel


class Stream:
    """One bidirectional stream; made by `Transport.open_stream`."""

    def __init__(self, transport: "Transport", connection: _Connection, call: Any) -> None:
        self._transport = transport
        self._connection = connection
        self._call = call

    async def write(self, request: bytes) -> None:
        async with self._transport.guard(self._connection):
            await self._call.write(request)

    async def read(self, patience_seconds: float | None = None) -> bytes:
        """The next message; None waits for ever, relying on the keep-alive."""
        async with self._transport.guard(self._connection, patience_seconds):
            data = await self._call.read()
            if data is grpc.aio.EOF:
                raise Unavailable(f"etcd at {self._connection.endpoint} ended the stream")
            return cast("bytes", data)

    def cancel(self) -> None:
        self._call.cancel()


class Transport:
    """Makes calls to whichever endpoint works.

    Raises (from every call): see `datastore.client.Client`.
    """

    def __init__(
        self, endpoints: Sequence[str], tls: TLSFiles, login: Login | None, timing: Timing
    ) -> None:
        if not endpoints:
            raise InvalidInput("no etcd endpoint is given; set ETCD_ENDPOINTS")
        self._targets = [parse_endpoint(endpoint) for endpoint in endpoints]
        self._tls = tls
        self._login = login
        self._timing = timing
        self._next = 0
        self._connection: _Connection | None = None
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
        for attempt in range(len(self._targets)):
            try:
                return await self._call_with_token(method, request, decode, writes)
            except Unavailable as error:
                last = attempt == len(self._targets) - 1
                if last or error.maybe_applied or self._closed:
                    raise
        raise AssertionError("there is at least one endpoint")

    async def open_stream(self, method: str, first: bytes) -> Stream:
        """A stream on which `first` was sent; reads give bytes."""
        metadata = await self._metadata()
        connection = self._connect()
        call = connection.channel.stream_stream(
            f"/etcdserverpb.{method}",
            request_serializer=_identity,
            response_deserializer=_identity,
        )(metadata=metadata)
        stream = Stream(self, connection, call)
        await stream.write(first)
        return stream

    @asynccontextmanager
    async def guard(
        self, connection: _Connection, patience: float | None = None, *, writes: bool = False
    ) -> AsyncIterator[None]:
        """Translate whatever goes wrong inside, and drop the connection if that is at fault."""
        problem: TortieError
        try:
            async with asyncio.timeout(patience):
                yield
            return
        except grpc.aio.AioRpcError as error:
            problem = translate(error, connection.endpoint, writes=writes)
            at_fault = error.code() in _CONNECTION_TROUBLE
        except TimeoutError:
            problem = Unavailable(f"etcd at {connection.endpoint} does not answer")
            at_fault = True
        except (grpc.aio.UsageError, asyncio.InvalidStateError, asyncio.CancelledError):
            # gRPC cancels the calls of a channel that another task dropped.
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
            problem = Unavailable(
                f"the connection to etcd at {connection.endpoint} was lost", maybe_applied=writes
            )
            at_fault = False
        if at_fault and isinstance(problem, Unavailable):
            await self._drop(connection)
        raise problem

    def forget_token(self) -> bool:
        """Log in again before the next call; False if there is no login."""
        self._token = None
        return self._login is not None

    async def close(self) -> None:
        self._closed = True
        await self._drop(self._connection)

    async def _call_with_token(
        self, method: str, request: bytes, decode: Callable[[bytes], T], writes: bool
    ) -> T:
        try:
            return decode(await self._request(method, request, await self._metadata(), writes))
        except StaleToken:
            if not self.forget_token():
                raise
            return decode(await self._request(method, request, await self._metadata(), writes))

    async def _request(
        self, method: str, request: bytes, metadata: list[tuple[str, str]], writes: bool
    ) -> bytes:
        connection = self._connect()
        unary = connection.channel.unary_unary(
            f"/etcdserverpb.{method}",
            request_serializer=_identity,
            response_deserializer=_identity,
        )
        async with self.guard(connection, writes=writes):
            response: bytes = await unary(request, timeout=self._timing.call, metadata=metadata)
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
            if "authentication is not enabled" in str(error):
                return ""
            raise

    def _connect(self) -> _Connection:
        if self._closed:
            raise Unavailable("the datastore client is closed")
        if self._connection is None:
            secure, target = self._targets[self._next]
            options = _channel_options(self._timing)
            if secure:
                channel = grpc.aio.secure_channel(target, self._credentials(), options)
            else:
                channel = grpc.aio.insecure_channel(target, options)
            self._connection = _Connection(target, channel)
        return self._connection

    def _credentials(self) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(
            _contents(self._tls.ca), _contents(self._tls.key), _contents(self._tls.certificate)
        )

    async def _drop(self, connection: "_Connection | None") -> None:
        """Give up on a connection, once, and turn to the next endpoint."""
        if connection is not None and self._connection is connection:
            self._connection = None
            self._next = (self._next + 1) % len(self._targets)
            await connection.channel.close()


_CONNECTION_TROUBLE = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
)


def parse_endpoint(endpoint: str) -> tuple[bool, str]:
    """Whether `endpoint` is TLS, and gRPC's name for it.

    Raises:
        InvalidInput: not `http://host:port`, `https://host:port` or `unix:///path`.
    """
    try:
        parts = urlsplit(endpoint)
        port = parts.port or 2379
    except ValueError as error:
        raise InvalidInput(f"etcd endpoint {endpoint!r}: {error}") from None
    if parts.scheme == "unix" and parts.path.startswith("/") and not parts.netloc:
        return False, f"unix:{parts.path}"
    if parts.scheme not in ("http", "https") or not parts.hostname:
        example = "http://127.0.0.1:2379"
        raise InvalidInput(f"etcd endpoint {endpoint!r} is no URL such as {example}")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return parts.scheme == "https", f"{host}:{port}"


def _channel_options(timing: Timing) -> list[tuple[str, int]]:
    timeout_ms = int(timing.keep_alive_timeout * 1000)
    return [
        ("grpc.keepalive_time_ms", int(timing.keep_alive * 1000)),
        ("grpc.keepalive_timeout_ms", timeout_ms),
        # Without this one gRPC core lets a ping go unanswered for a minute.
        ("grpc.http2.ping_timeout_ms", timeout_ms),
        ("grpc.http2.max_pings_without_data", 0),
        # An idle channel without a watch needs no pings: the next call finds out.
        ("grpc.keepalive_permit_without_calls", 0),
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        ("grpc.enable_retries", 0),
        # Channels of one process must not share connections: each drops its own.
        ("grpc.use_local_subchannel_pool", 1),
        # The datastore is never behind $http_proxy.
        ("grpc.enable_http_proxy", 0),
    ]


def _contents(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except PermissionError:
        raise Denied(f"no permission to read {path}") from None
    except OSError as error:
        raise InvalidInput(f"{path}: {error.strerror}") from None


def _identity(data: bytes) -> bytes:
    return data
