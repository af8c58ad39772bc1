"""gRPC calls over one HTTP/2 connection, on the loop alone.

gRPC's own library keeps threads that look around several times a second: 950
context switches a minute in a process that does nothing, where this makes two
per keep-alive. HTTP/2 itself is `h2`'s, which does no I/O; here are the
socket, gRPC's five-byte framing and its trailers, flow control, keep-alive.

A connection is used until it fails, then thrown away; `transport` makes the
next one.

Source: github.com/grpc/grpc, doc/PROTOCOL-HTTP2.md.
"""

import asyncio
import ssl
import struct
from collections import deque
from collections.abc import Callable
from urllib.parse import unquote

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

_STREAM_WINDOW_BYTES = 4 << 20
"""What one call may have on its way; a listing's page is about 1 MB."""

_CONNECTION_WINDOW_BYTES = 32 << 20
"""So that one watch whose reader is slow does not stop the other calls."""

_RETURN_AT_BYTES = 1 << 20
"""Give received bytes back in portions of this, not after each frame."""

_PREFIX_BYTES = 5
"""Before each message: a flag for compression, and the length in four bytes."""


class CallFailed(Exception):  # the server's word, not an error of ours
    """The server answered with a status that is not OK."""

    def __init__(self, code: int, details: str) -> None:
        super().__init__(f"gRPC status {code}: {details}")
        self.code = code
        self.details = details


class ConnectionLost(Exception):
    """The connection broke, or the server fell silent; the text says how."""


class Call:
    """One stream of a `Connection`: send messages, receive messages."""

    def __init__(self, connection: "Connection", stream_id: int) -> None:
        self._connection = connection
        self._stream_id = stream_id
        self._buffer = bytearray()
        self._messages: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._owed_bytes = 0
        self._headers: dict[str, str] = {}
        self._news = asyncio.Event()
        self._end: Exception | None = None
        self._ended = False

    async def send(self, message: bytes, *, end: bool) -> None:
        """Send one message; `end` says that no other follows.

        Raises:
            ConnectionLost: it broke before everything was sent.
        """
        rest = memoryview(b"\0" + struct.pack(">I", len(message)) + message)
        while rest and not self._ended:
            room = self._connection.room(self._stream_id)
            if room == 0:
                await self._connection.more_room()
                continue
            self._connection.send(self._stream_id, bytes(rest[:room]), end and room >= len(rest))
            rest = rest[room:]
        if isinstance(self._end, ConnectionLost):
            raise self._end

    async def receive(self) -> bytes | None:
        """The next message; None when the server ended the call well.

        Raises:
            CallFailed: it ended with another status.
            ConnectionLost: it will never end.
        """
        while not self._messages:
            if self._ended:
                if self._end is not None:
                    raise self._end
                return None
            self._news.clear()
            await self._news.wait()
        message = self._messages.popleft()
        self._waiting_bytes -= len(message)
        self._give_back()
        return message

    def cancel(self) -> None:
        """Nothing more is wanted; no harm if the call has ended."""
        if not self._ended:
            self.end(None)
            self._connection.forget(self._stream_id)

    # From the connection

    def on_headers(self, headers: list[tuple[str, str]]) -> None:
        self._headers.update(headers)

    def on_data(self, data: bytes, flow_bytes: int) -> None:
        self._owed_bytes += flow_bytes
        self._buffer += data
        while len(self._buffer) >= _PREFIX_BYTES:
            end = _PREFIX_BYTES + int.from_bytes(self._buffer[1:_PREFIX_BYTES], "big")
            if len(self._buffer) < end:
                break
            self._messages.append(bytes(self._buffer[_PREFIX_BYTES:end]))
            self._waiting_bytes += end - _PREFIX_BYTES
            del self._buffer[:end]
        self._give_back()
        self._news.set()

    def on_end(self) -> None:
        """The server ended the stream: its status is in the last headers."""
        code = self._headers.get("grpc-status", "")
        if code == "0":
            self.end(None)
        elif code.isdecimal():
            self.end(CallFailed(int(code), unquote(self._headers.get("grpc-message", ""))))
        else:
            http_status = self._headers.get(":status", "none")
            self.end(ConnectionLost(f"no gRPC server answered (HTTP status {http_status})"))

    def end(self, reason: Exception | None) -> None:
        if not self._ended:
            self._ended, self._end = True, reason
            self._news.set()

    def _give_back(self) -> None:
        """Let the server send more, unless the reader has a window's worth to read."""
        if self._owed_bytes >= _RETURN_AT_BYTES and self._waiting_bytes < _STREAM_WINDOW_BYTES:
            self._connection.give_back(self._stream_id, self._owed_bytes)
            self._owed_bytes = 0


class Connection(asyncio.Protocol):
    """One HTTP/2 connection; made by `connect`."""

    def __init__(self, authority: str, secure: bool, keep_alive: float, patience: float) -> None:
        self._keep_alive_seconds = keep_alive
        self._patience_seconds = patience
        self._base_headers = [
            (":method", "POST"),
            (":scheme", "https" if secure else "http"),
            (":authority", authority),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", "tortie"),
        ]
        config = h2.config.H2Configuration(header_encoding="utf-8", validate_inbound_headers=False)
        self._h2 = h2.connection.H2Connection(config)
        self._calls: dict[int, Call] = {}
        self._room = asyncio.Event()
        self._owed_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport
        self._greeted = False
        self.lost: ConnectionLost | None = None

    @classmethod
    async def connect(
        cls,
        address: tuple[str, int] | str,
        tls: ssl.SSLContext | None,
        keep_alive: float,
        patience: float,
    ) -> "Connection":
        """Connect and shake hands.

        Args:
            address: host and port, or the path of a unix socket.
            keep_alive: seconds between pings, while calls are open.
            patience: seconds that a ping may go unanswered.

        Raises:
            OSError: no connection; `ssl.SSLError` is one.
        """
        loop = asyncio.get_running_loop()
        if isinstance(address, str):
            _, connection = await loop.create_unix_connection(
                lambda: cls("localhost", False, keep_alive, patience), address
            )
            return connection
        host, port = address
        authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        _, connection = await loop.create_connection(
            lambda: cls(authority, tls is not None, keep_alive, patience), host, port, ssl=tls
        )
        return connection

    def call(self, path: str, metadata: list[tuple[str, str]]) -> Call:
        """Open a stream for the method at `path`.

        Raises:
            ConnectionLost: it broke already.
        """
        if self.lost is not None:
            raise self.lost
        try:
            stream_id = self._h2.get_next_available_stream_id()
            self._h2.send_headers(stream_id, [(":path", path), *self._base_headers, *metadata])
        except h2.exceptions.ProtocolError as error:  # too many streams, or no ids left
            raise ConnectionLost(str(error)) from None
        self._calls[stream_id] = call = Call(self, stream_id)
        if self._timer is None:
            self._arm(self._keep_alive_seconds, self._ping)
        return call

    def close(self, reason: str = "closed") -> None:
        """Break the connection at once; every call ends with ConnectionLost."""
        self._lose(reason)
        self._transport.abort()

    # For calls

    def room(self, stream_id: int) -> int:
        """How many bytes the stream may send now."""
        window = self._h2.local_flow_control_window(stream_id)
        return max(0, min(window, self._h2.max_outbound_frame_size))

    async def more_room(self) -> None:
        self._room.clear()
        await self._room.wait()

    def send(self, stream_id: int, data: bytes, end: bool) -> None:
        self._h2.send_data(stream_id, data, end_stream=end)
        self._flush()

    def give_back(self, stream_id: int, count: int) -> None:
        if self.lost is None and stream_id in self._calls:
            self._h2.increment_flow_control_window(count, stream_id)
            self._flush()

    def forget(self, stream_id: int) -> None:
        if self._calls.pop(stream_id, None) is not None and self.lost is None:
            self._h2.reset_stream(stream_id, h2.errors.ErrorCodes.CANCEL)
            self._flush()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._h2.local_settings = h2.settings.Settings(
            initial_values={
                h2.settings.SettingCodes.ENABLE_PUSH: 0,
                h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: _STREAM_WINDOW_BYTES,
            }
        )
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(_CONNECTION_WINDOW_BYTES)
        self._flush()

    def data_received(self, data: bytes) -> None:
        if not self._greeted and data.startswith(b"HTTP/1"):
            # h2 would take it for a frame of 4.7 MB and wait for the rest.
            self.close("a web server answered, which speaks no gRPC")
            return
        self._greeted = True
        try:
            events = self._h2.receive_data(data)
        except h2.exceptions.ProtocolError as error:
            self.close(f"protocol error: {error}")
            return
        for event in events:
            self._on_event(event)
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose(str(exc) if exc else "the server closed the connection")

    # Inside

    def _on_event(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.ResponseReceived() | h2.events.TrailersReceived():
                if (call := self._calls.get(event.stream_id)) is not None:
                    call.on_headers([(_text(name), _text(value)) for name, value in event.headers])
            case h2.events.DataReceived():
                self._on_data(event)
            case h2.events.StreamEnded():
                if (call := self._calls.pop(event.stream_id, None)) is not None:
                    call.on_end()
            case h2.events.StreamReset():
                if (call := self._calls.pop(event.stream_id, None)) is not None:
                    call.end(ConnectionLost(f"the server reset the call ({event.error_code})"))
            case h2.events.PingAckReceived():
                self._arm(self._keep_alive_seconds, self._ping)
            case h2.events.WindowUpdated() | h2.events.RemoteSettingsChanged():
                self._room.set()
            case h2.events.ConnectionTerminated():
                said = (event.additional_data or b"").decode(errors="replace")
                self.close(f"the server is going away {said}".rstrip())
            case _:
                pass

    def _on_data(self, event: h2.events.DataReceived) -> None:
        count = event.flow_controlled_length
        self._owed_bytes += count
        if self._owed_bytes >= _RETURN_AT_BYTES:
            self._h2.increment_flow_control_window(self._owed_bytes)
            self._owed_bytes = 0
        if (call := self._calls.get(event.stream_id)) is not None:
            call.on_data(event.data, count)

    def _flush(self) -> None:
        if self.lost is None and (data := self._h2.data_to_send()):
            self._transport.write(data)

    def _lose(self, reason: str) -> None:
        if self.lost is not None:
            return
        self.lost = ConnectionLost(reason)
        if self._timer is not None:
            self._timer.cancel()
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.end(self.lost)
        self._room.set()

    def _ping(self) -> None:
        """Ask whether the server lives, if anybody waits for it; else fall asleep."""
        self._timer = None
        if self._calls:
            self._h2.ping(b"tortie..")
            self._flush()
            patience = self._patience_seconds
            self._arm(patience, lambda: self.close(f"the server was silent for {patience} s"))

    def _arm(self, seconds: float, action: Callable[[], None]) -> None:
        """The one timer: either the next ping, or the patience with the last."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, action)


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode(errors="replace")
