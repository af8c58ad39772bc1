"""Health over HTTP, on loopback: `GET /liveness`, `GET /readiness`, `GET /enforced`.

The first two are 200 with one line per part when good, 503 when not, as
Calico's agents answer; the third is the datastore revision up to which this
host enforces.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable

from tortie.agent.config import Config
from tortie.agent.http import HttpServer, Response
from tortie.lib.health import Health

log = logging.getLogger(__name__)

RETRY_SECONDS = 10.0


class HealthServer(HttpServer):
    """
    Args:
        enforced: the datastore revision that is in the kernel.
    """

    def __init__(self, health: Health, enforced: Callable[[], int]) -> None:
        super().__init__(self._answer_path)
        self._health = health
        self._enforced = enforced

    async def run(self, host: str, port: int) -> None:
        """Listen as soon as that is possible: somebody else may have the port.

        Nobody is worse protected because nobody can ask how we are.
        """
        while True:
            starting = asyncio.ensure_future(self.start(host, port))
            try:
                await asyncio.shield(starting)
            except asyncio.CancelledError:
                # Cut short it would leave a listener that nobody knows, and nobody closes.
                with contextlib.suppress(OSError):
                    await starting
                await self.close()
                raise
            except OSError as error:
                log.error("health is not served on %s port %d: %s", host, port, error)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                return

    async def _answer_path(self, path: str) -> Response:
        if path == "/enforced":
            return Response("200 OK", f"{self._enforced()}\n")
        if path == "/liveness":
            good = self._health.live
        elif path == "/readiness":
            good = self._health.ready
        else:
            return Response("404 Not Found", "try /liveness, /readiness or /enforced\n")
        lines = [
            f"{report.name}: {'live' if report.live else 'stuck'}, "
            f"{'ready' if report.ready else 'not ready'}"
            + (f" ({report.detail})" if report.detail else "")
            for report in self._health.reports()
        ]
        return Response("200 OK" if good else "503 Service Unavailable", "\n".join(lines) + "\n")


@contextlib.asynccontextmanager
async def waiting(config: Config) -> AsyncIterator[None]:
    """Alive and not ready, while the agent waits for its datastore.

    As Felix does, if the machine's own settings switch health on: whoever probes us
    must not end what only waits.
    """
    if not config["HealthEnabled"]:
        yield
        return
    health = Health()
    health.reporter("start").not_ready("waiting for the datastore")
    server = HealthServer(health, lambda: 0)
    task = asyncio.create_task(server.run(config["HealthHost"], config["HealthPort"]))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await server.close()
