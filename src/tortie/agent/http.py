"""HTTP for those who only ask: one GET per connection, one answer, no framework.

Nothing of a request is used but its first line.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import ssl

REQUEST_LIMIT_BYTES = 8192
REQUEST_SECONDS = 5.0


class Response(NamedTuple):
    status: str
    """`200 OK`"""
    body: str
    content_type: str = "text/plain; charset=utf-8"


Answer = Callable[[str], Awaitable[Response]]
"""From a path; the part behind `?` is left out."""


class HttpServer:
    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int, context: "ssl.SSLContext | None" = None) -> int:
        """Listen, and return the port (useful when 0 was asked for).

        Raises:
            OSError: the address is not ours, or the port is taken.
        """
        self._server = await asyncio.start_server(
            self._serve, host, port, limit=REQUEST_LIMIT_BYTES, ssl=context
        )
        port_bound: int = self._server.sockets[0].getsockname()[1]
        return port_bound

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError, ValueError, asyncio.IncompleteReadError):
            async with asyncio.timeout(REQUEST_SECONDS):
                request = (await reader.readuntil(b"\r\n")).split()
            found = await self._respond(request)
            async with asyncio.timeout(REQUEST_SECONDS):
                writer.write(_packed(found))
                await writer.drain()
        writer.close()

    async def _respond(self, request: list[bytes]) -> Response:
        if len(request) != 3 or request[0] != b"GET":
            return Response("405 Method Not Allowed", "only GET\n")
        path, _, _ = request[1].decode("ascii", errors="replace").partition("?")
        return await self._answer(path)


def _packed(response: Response) -> bytes:
    body = response.body.encode()
    return (
        f"HTTP/1.1 {response.status}\r\nContent-Type: {response.content_type}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    ).encode() + body
