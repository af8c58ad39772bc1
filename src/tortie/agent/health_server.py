"""Health over HTTP, on loopback: `GET /liveness`, `GET /readiness`, `GET /enforced`.

The first two are 200 with one line per part when good, 503 when not, as
Calico's agents answer; the third is the datastore revision up to which this
host enforces.
"""

from collections.abc import Callable

from tortie.agent.http import HttpServer, Response
from tortie.lib.health import Health


class HealthServer(HttpServer):
    """
    Args:
        enforced: the datastore revision that is in the kernel.
    """

    def __init__(self, health: Health, enforced: Callable[[], int]) -> None:
        super().__init__(self._answer_path)
        self._health = health
        self._enforced = enforced

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
