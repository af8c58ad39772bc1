"""The running agent: its tasks, and in what order they start and stop."""

import asyncio
import contextlib
import logging
import os

from tortie.agent import observing, remembered, wiring
from tortie.agent.config import Config
from tortie.agent.effective import Effective, StoredSettings
from tortie.agent.flow_record import SOCKET_NAME
from tortie.agent.flow_server import FlowServer
from tortie.agent.handover import FormerMetric, ToBIRD, has_remote_routes, retire
from tortie.agent.health_server import HealthServer
from tortie.agent.ingest import PREFIXES, AgentInbox, Ingest
from tortie.agent.loop import Consumer, Loop
from tortie.agent.metrics import Parts
from tortie.agent.node_status import NodeStatusReporter
from tortie.agent.routing import Routing
from tortie.agent.settings_watch import SettingsWatch
from tortie.agent.status import Progress
from tortie.agent.wiring import Paths
from tortie.attach.namespaces import Namespaces
from tortie.calc.graph import Graph
from tortie.datastore.client import Client
from tortie.datastore.resources import Resources
from tortie.datastore.syncer import Syncer
from tortie.lib.errors import Unavailable
from tortie.lib.files import replace_file
from tortie.lib.health import Health
from tortie.lib.inbox import Inbox
from tortie.lib.loop_watch import WatchedSelector

log = logging.getLogger(__name__)


async def serve(
    stored: StoredSettings,
    running: Effective,
    client: Client,
    paths: Paths,
    namespaces: Namespaces,
    watch: WatchedSelector,
) -> None:
    """Run until cancelled.

    Raises:
        Restart: a stored setting changed, or the namespace helper is gone.
        AlreadyExists: another agent runs on this host.
        TortieError: something that only a restart may repair.
    """
    config, routing = running
    inbox: AgentInbox = Inbox(wiring.INBOX_LIMIT)
    health = Health(stuck_after_seconds=config["HealthTimeoutOverrides"])
    progress = Progress()
    async with contextlib.AsyncExitStack() as stack:
        kernel = wiring.open_kernel(paths, inbox)
        stack.callback(kernel.close)
        # Now that no other agent runs here.
        adopted = remembered.adopt_routes(kernel.rtnl, remembered.recall(paths.state), config)
        if adopted:
            log.info("routes have another protocol number", extra={"fields": {"routes": adopted}})
        _leave_notes(config, paths)
        by_bgp = routing is Routing.BGP
        # Former routes of ours stay until BIRD has them.
        moving = by_bgp and has_remote_routes(kernel.rtnl, config["DeviceRouteProtocol"])
        remote_routes = moving or routing is Routing.DIRECT
        logging_ = observing.open_logging(config)
        stack.callback(logging_.close)
        dataplane = wiring.build_dataplane(
            config, kernel, logging_, inbox, remote_routes=remote_routes
        )
        bird = wiring.build_bird(paths)
        bgp = wiring.build_bgp(config, bird) if by_bgp else None
        to_bird = ToBIRD(kernel.rtnl, dataplane) if moving else None
        former_metric = FormerMetric(kernel.rtnl, bgp) if bgp is not None else None
        if bgp is not None:
            stack.push_async_callback(bgp.close)
        endpoint_status = wiring.build_endpoint_status(
            config, client, dataplane, lambda: (*graph.problems, *ingest.invalid)
        )
        others: tuple[Consumer, ...] = tuple(
            part for part in (bgp, to_bird, former_metric, endpoint_status) if part
        )
        graph = Graph(
            config.host,
            wiring.fan_out((dataplane, *others)),
            floating_addresses=config["FloatingIPs"] == "Enabled",
        )
        flow_log = observing.build_flow_log(config, kernel.conntrack, logging_, dataplane, graph)
        flows = FlowServer(
            paths.run / SOCKET_NAME,
            flow_log,
            lambda: observing.greeting(config, logging_, flow_log, dataplane),
        )
        node_status = NodeStatusReporter(config.host, Resources(client), bird)
        settings = SettingsWatch(stored, running, bgp, node_status)
        loop = Loop(inbox, graph, dataplane, others, progress, health.reporter("loop"), settings)
        ingest = Ingest(inbox)
        syncer = Syncer(client, PREFIXES, ingest)
        attach = wiring.build_attach(config, client, paths, namespaces, progress, ingest)
        status = wiring.build_status(config, client)
        firewall = wiring.build_firewall_watch(config, health)
        if config["HealthEnabled"]:
            server = HealthServer(health, lambda: progress.revision)
            stack.push_async_callback(server.close)
            serving = asyncio.create_task(server.run(config["HealthHost"], config["HealthPort"]))
            stack.callback(serving.cancel)
        parts = Parts(
            config.host,
            graph,
            dataplane,
            loop,
            inbox,
            ingest,
            syncer,
            progress,
            flow_log,
            watch.lag,
        )
        metrics = await observing.serve_metrics(config, parts)
        if metrics is not None:
            stack.push_async_callback(metrics.close)
        await flows.start()
        stack.push_async_callback(flows.close)
        if flow_log is not None:
            flow_log.start()
            stack.callback(flow_log.stop)
        kernel.links.start()
        wiring.watch_changes(kernel, inbox)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(loop.run(), name="loop")
            tasks.create_task(syncer.run(), name="syncer")
            tasks.create_task(wiring.audit(inbox, config["NftablesRefreshInterval"]), name="audit")
            tasks.create_task(wiring.tell_supervisor(progress, health), name="supervisor")
            tasks.create_task(wiring.tighten(watch, config, progress), name="loop's limit")
            tasks.create_task(status.run(), name="status")
            tasks.create_task(firewall.run(), name="firewall")
            if endpoint_status is not None:
                tasks.create_task(endpoint_status.run(), name="endpoint status")
            if not by_bgp:
                tasks.create_task(retire(bird, progress), name="retire BIRD")
            tasks.create_task(node_status.run(), name="node status")
            tasks.create_task(attach.run(), name="attach")
            tasks.create_task(wiring.keep_helper(namespaces), name="namespace helper")


def _leave_notes(config: Config, paths: Paths) -> None:
    """For people, scripts and `tortie node close`. Nobody's policy waits for a disk."""
    try:
        replace_file(paths.run / "agent.pid", b"%d\n" % os.getpid(), 0o644)
        remembered.remember(config, paths.state)
    except (Unavailable, OSError) as error:
        log.warning("not written down, the rest goes on: %s", error)
