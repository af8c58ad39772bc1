"""Docker's plugin protocol on a unix socket: HTTP/1.1, POST, JSON both ways.

Small enough to need no web framework: a request line, headers of which only the length counts,
and a body of a size that is known and bounded. Whatever else comes is answered with an error
and cut off. Only root may connect.

A caller that goes away stops nothing that it began; Docker repeats or undoes it.

Source: Docker Engine plugin API; RFC 9112.
"""

import asyncio
import json
import logging
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple

from tortie.lib.errors import Denied, InvalidInput, TortieError, Unavailable
from tortie.lib.unix_socket import UnixServer, listen

log = logging.getLogger(__name__)

HEAD_MAX_BYTES = 8 << 10
BODY_MAX_BYTES = 64 << 10
"""Docker's longest, with hundreds of published ports, has a tenth of that."""

REQUEST_SECONDS = 10.0
"""For the rest of a request whose first byte has come, and for taking its answer."""

CALL_SECONDS = 110.0
"""For one call; Docker's own limit is two minutes, and then it gives up on the plugin."""

CONNECTIONS_MAX = 256
"""Docker keeps a few open, and opens one more for each call at the same time."""

CONTENT_TYPE = "application/vnd.docker.plugins.v1.1+json"

Method = Callable[[bytes], Awaitable[Mapping[str, Any]]]
"""From the body of a request to what is answered as JSON."""


class _Refused(Exception):
    """What came is no request; say so and hang up."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Request(NamedTuple):
    path: str
    body: bytes
    keep_alive: bool


class PluginServer:
    """Serves `methods`, by name as in `NetworkDriver.Join`, at `path` while `run` runs."""

    def __init__(self, path: Path, methods: Mapping[str, Method]) -> None:
        self._path = path
        self._methods = methods
        self._listener: socket.socket | None = None
        self._server = UnixServer(
            path,
            self._serve,
            purpose="speak for Docker",
            connections_max=CONNECTIONS_MAX,
            limit_bytes=HEAD_MAX_BYTES,
        )

    def open(self) -> None:
        """Be there: who connects from now on is answered when `run` runs.

        Raises:
            AlreadyExists: another process listens there.
            Denied: the place is somebody else's, or others may write there.
        """
        prepare_directory(self._path.parent)
        self._listener = listen(self._path)

    async def run(self) -> None:
        """Serve until cancelled."""
        assert self._listener is not None, "opened before"
        await self._server.start(self._listener)
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self._server.admit(writer)
            while (request := await _read(reader)) is not None:
                status, answer = await self._answer(request)
                await _write(writer, status, answer, keep_alive=request.keep_alive)
                if not request.keep_alive:
                    return
        except _Refused as error:
            await _write(writer, error.status, {"Err": str(error)}, keep_alive=False)
        except (Denied, Unavailable) as error:
            is_denied = isinstance(error, Denied)
            status = HTTPStatus.FORBIDDEN if is_denied else HTTPStatus.SERVICE_UNAVAILABLE
            await _write(writer, status, {"Err": str(error)}, keep_alive=False)

    async def _answer(self, request: _Request) -> tuple[HTTPStatus, Mapping[str, Any]]:
        name = request.path.removeprefix("/")
        method = self._methods.get(name)
        if method is None:  # Docker tries what it may do without, and takes this for a no
            return HTTPStatus.NOT_FOUND, {"Err": f"there is no {name[:80]} here"}
        try:
            async with asyncio.timeout(CALL_SECONDS):
                return HTTPStatus.OK, await method(request.body)
        except TimeoutError:
            error: TortieError = Unavailable(f"{name} took more than {CALL_SECONDS:g} s")
        except TortieError as failure:
            error = failure
        except Exception as failure:
            log.exception("%s failed", name)
            error = Unavailable(f"internal error: {failure!r}; see the log of tortie docker")
        log.warning("%s: %s", name, error)
        status = HTTPStatus.INTERNAL_SERVER_ERROR
        if isinstance(error, InvalidInput):
            status = HTTPStatus.BAD_REQUEST
        return status, {"Err": str(error)}


async def _read(reader: asyncio.StreamReader) -> _Request | None:
    """One request; None at the end of a connection that is between two.

    Raises:
        _Refused: what came is not one.
        TimeoutError: it stopped in the middle.
    """
    first = await reader.read(1)  # Docker keeps connections for as long as it likes
    if not first:
        return None
    async with asyncio.timeout(REQUEST_SECONDS):
        try:
            head = first + await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            raise _Refused(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"more than {HEAD_MAX_BYTES} bytes"
            ) from None
        path, version, headers = _parse_head(head)
        body = await reader.readexactly(_length(headers))
    keep_alive = version == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
    return _Request(path, body, keep_alive)


def _parse_head(head: bytes) -> tuple[str, str, dict[str, str]]:
    lines = head.decode("latin-1").split("\r\n")
    words = lines[0].split(" ")
    if len(words) != 3 or words[2] not in ("HTTP/1.0", "HTTP/1.1"):
        raise _Refused(HTTPStatus.BAD_REQUEST, "this socket speaks HTTP/1.1, as Docker does")
    if words[0] != "POST":
        raise _Refused(HTTPStatus.METHOD_NOT_ALLOWED, "only POST, as Docker does")
    headers: dict[str, str] = {}
    for line in lines[1:-2]:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip() or name.lower() in headers:
            raise _Refused(HTTPStatus.BAD_REQUEST, "a header line is malformed, or there twice")
        headers[name.lower()] = value.strip()
    return words[1], words[2], headers


def _length(headers: Mapping[str, str]) -> int:
    if "transfer-encoding" in headers:
        raise _Refused(HTTPStatus.LENGTH_REQUIRED, "send the body's length")
    text = headers.get("content-length", "0")
    if not text.isascii() or not text.isdecimal() or len(text) > 12:
        raise _Refused(HTTPStatus.BAD_REQUEST, "Content-Length is no number")
    if int(text) > BODY_MAX_BYTES:
        raise _Refused(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a body of more than {BODY_MAX_BYTES} bytes"
        )
    return int(text)


async def _write(
    writer: asyncio.StreamWriter,
    status: HTTPStatus,
    answer: Mapping[str, Any],
    *,
    keep_alive: bool,
) -> None:
    body = json.dumps(answer).encode()
    head = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        f"Content-Type: {CONTENT_TYPE}",
        f"Content-Length: {len(body)}",
        *(() if keep_alive else ("Connection: close",)),
    ]
    async with asyncio.timeout(REQUEST_SECONDS):
        writer.write("\r\n".join([*head, "", ""]).encode() + body)
        await writer.drain()


def prepare_directory(directory: Path) -> None:
    """Make it if it is not there; Docker may come later.

    Raises:
        Denied: others may put sockets there.
    """
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    found = os.stat(directory)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (0, os.geteuid()):
        raise Denied(f"{directory} must be a directory of root")
    if found.st_mode & 0o022:
        raise Denied(f"{directory} must not be writable for others")
