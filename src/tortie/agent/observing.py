"""What lets others see: the log of packets, flows, and metrics, as the settings want them.

Nothing that is enforced depends on any of it: what cannot be is said, and left out.
"""

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, NamedTuple

from tortie.agent.config import Config
from tortie.agent.flow_log import FlowLog
from tortie.agent.flow_record import Greeting
from tortie.agent.flows import FlowTable
from tortie.agent.http import HttpServer
from tortie.agent.metrics import Metrics, Parts
from tortie.calc.graph import Graph
from tortie.dataplane.dataplane import Dataplane
from tortie.dataplane.driver.nftables import INET
from tortie.dataplane.rules.seen import GROUP
from tortie.kernel.conntrack import Conntrack, Ended
from tortie.kernel.nflog import Nflog
from tortie.kernel.nft import counters
from tortie.lib.errors import TortieError

if TYPE_CHECKING:
    import ssl

log = logging.getLogger(__name__)


class Logging(NamedTuple):
    """How packets are seen."""

    logged: Nflog | None
    ended: Ended | None
    """None where packets that are let through are not logged."""
    why: str = ""
    """Why not more is seen."""

    def close(self) -> None:
        for part in self:
            if isinstance(part, Nflog | Ended):
                part.close()


def open_logging(config: Config) -> Logging:
    """Whoever cannot see packets enforces nevertheless."""
    if not config["FlowLogsDenied"]:
        return Logging(None, None, "FlowLogsDenied is off")
    try:
        logged = Nflog.open(GROUP)
    except TortieError as error:
        log.warning("packets are not logged: %s", error)
        return Logging(None, None, str(error))
    if config["FlowLogsLocalReporter"] == "Disabled":
        return Logging(logged, None, "FlowLogsLocalReporter is Disabled")
    return Logging(logged, Ended())


def build_flow_log(
    config: Config, conntrack: Conntrack, logging_: Logging, dataplane: Dataplane, graph: Graph
) -> FlowLog | None:
    """None where nothing is logged."""
    if logging_.logged is None:
        return None
    table = FlowTable(max(1.0, config["FlowLogsFlushInterval"]), graph.endpoint_at)
    return FlowLog(dataplane, table, logging_.logged, logging_.ended, conntrack.flows)


async def greeting(
    config: Config, logging_: Logging, flow_log: FlowLog | None, dataplane: Dataplane
) -> Greeting:
    beyond: dict[str, int] = {}
    if flow_log is not None:
        with contextlib.suppress(TortieError):  # then how many is not known
            by_handle = await asyncio.to_thread(counters.read, INET)
            verdicts = dataplane.counts(by_handle).verdicts
            beyond = {one.name: one.all.packets - one.logged.packets for one in verdicts}
    return Greeting(
        host=config.host,
        sees="nothing" if flow_log is None else "all" if flow_log.sees_allowed else "denied",
        why=logging_.why,
        lost=flow_log.statistics().lost_count if flow_log else 0,
        beyond_limit=beyond,
    )


async def serve_metrics(config: Config, parts: Parts) -> HttpServer | None:
    """None where that is not wanted, or cannot be: nothing else depends on it."""
    if not config["PrometheusMetricsEnabled"]:
        return None
    metrics = Metrics(
        parts,
        interpreter=config["PrometheusGoMetricsEnabled"],
        process=config["PrometheusProcessMetricsEnabled"],
    )
    server = HttpServer(metrics.answer)
    host, port = config["PrometheusMetricsHost"], config["PrometheusMetricsPort"]
    try:
        await server.start(host, port, metrics_tls(config))
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        log.error("no metrics at %s port %s: %s", host, port, error)
        return None
    return server


def metrics_tls(config: Config) -> "ssl.SSLContext | None":
    """None where no certificate is set.

    Raises:
        OSError, ValueError: a file is not there, or is not what it should be.
    """
    certificate, key = config["PrometheusMetricsCertFile"], config["PrometheusMetricsKeyFile"]
    if not certificate and not key:
        return None
    import ssl

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    wanted = config["PrometheusMetricsClientAuth"]
    if wanted != "NoClientCert":
        context.load_verify_locations(config["PrometheusMetricsCAFile"])
        # Any certificate at all, which Calico has too, would be nobody's: it must verify.
        optional = wanted == "VerifyClientCertIfGiven"
        context.verify_mode = ssl.CERT_OPTIONAL if optional else ssl.CERT_REQUIRED
    return context
