"""Health over HTTP, on loopback: `GET /liveness`, `GET /readiness`, `GET /enforced`.

The first two are 200 with one line per part when good, 503 when not, as
Calico's agents answer; the third is the datastore revision up to which this
host enforces. Small enough to need no web framework: one request per
connection, nothing of the request is used but its first line.
"""

import asyncio
import contextlib
from collections.abc import Callable

from tortie.lib.health import Health

REQUEST_LIMIT_BYTES = 8192
REQUEST_SECONDS = 5.0


class HealthServer:
    """
    Args:
        enforced: the datastore revision that is in the kernel.
    """

    def __init__(self, health: Health, enforced: Callable[[], int]) -> None:
        self._health = health
        self._enforced = enforced
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen, and return the port (useful when 0 was asked for)."""
        self._server = await asyncio.start_server(
            self._serve, host, port, limit=REQUEST_LIMIT_BYTES
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
                request = await reader.readuntil(b"\r\n")
                writer.write(self._answer(request.split()))
                await writer.drain()
        writer.close()

    def _answer(self, request: list[bytes]) -> bytes:
        if len(request) != 3 or request[0] != b"GET":
            return _response("405 Method Not Allowed", "only GET\n")
        if request[1] == b"/enforced":
            return _response("200 OK", f"{self._enforced()}\n")
        if request[1] == b"/liveness":
            good = self._health.live
        elif request[1] == b"/readiness":
            good = self._health.ready
        else:
            return _response("404 Not Found", "try /liveness, /readiness or /enforced\n")
        lines = [
            f"{report.name}: {'live' if report.live else 'stuck'}, "
            f"{'ready' if report.ready else 'not ready'}"
            + (f" ({report.detail})" if report.detail else "")
            for report in self._health.reports()
        ]
        return _response("200 OK" if good else "503 Service Unavailable", "\n".join(lines) + "\n")


def _response(status: str, body: str) -> bytes:
    payload = body.encode()
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(payload)}\r\nConnection: close\r\n\r\n"
    ).encode() + payload
