"""Puts the agent together: one function per part, each returning what the next needs."""

import asyncio
import contextlib
import logging
import math
import os
from collections.abc import Callable, Hashable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tortie.agent.config import Config
from tortie.agent.endpoint_status import EndpointReporter, invalid_here
from tortie.agent.firewall_watch import FirewallWatch
from tortie.agent.ingest import AUDIT, CONNECTIONS, AgentInbox, Ingest
from tortie.agent.loop import Consumer
from tortie.agent.observing import Logging
from tortie.agent.ownership import Ownership, obtain
from tortie.agent.parameters import ProtoPort as ConfiguredPort
from tortie.agent.settings_watch import Restart
from tortie.agent.status import Progress, StatusReporter
from tortie.attach.addition import Settings as AttachSettings
from tortie.attach.attacher import Attacher
from tortie.attach.cni.service import CniService
from tortie.attach.journal import Journal
from tortie.attach.namespaces import Namespaces
from tortie.attach.plumbing import Veths
from tortie.attach.server import Server
from tortie.bgp.bird import Bird
from tortie.bgp.manager import SECRETS_DIRECTORY, BGPManager
from tortie.calc.rule_scanner import parse_protocol
from tortie.dataplane.dataplane import Dataplane
from tortie.dataplane.driver.nftables import ARP, INET
from tortie.dataplane.settings import LogLimit, MetadataServer, ProtoPort, Settings
from tortie.datastore.client import Client
from tortie.desired.endpoint import EndpointId
from tortie.desired.kinds import Emit, Kind
from tortie.ipam.allocator import Allocator
from tortie.kernel.conntrack import Conntrack
from tortie.kernel.netlink import OutcomeUnknown
from tortie.kernel.netlink_socket import NetlinkSocket
from tortie.kernel.nft.connection import Changes, Nft, supports_owner_tables
from tortie.kernel.own_connections import own_connections
from tortie.kernel.rtnl.connection import Rtnl
from tortie.kernel.rtnl.monitor import (
    AddressChanged,
    AddressGone,
    Event,
    Group,
    LinkChanged,
    LinkGone,
    Monitor,
    RulesChanged,
)
from tortie.lib import supervisor
from tortie.lib.health import Health
from tortie.lib.ip import parse_address
from tortie.lib.loop_watch import STUCK_SECONDS, WatchedSelector
from tortie.model.keys import Key

if TYPE_CHECKING:
    pass

log = logging.getLogger(__name__)

INBOX_LIMIT = 1_000
"""Of decoded resources, 3 KB each: what waits at the start is memory that stays in use."""
AUDIT_SECONDS = 60.0
BIRD_ENVIRONMENT = "TORTIE_BIRD"
"""`external`: BIRD is somebody else's to start, such as systemd's."""
OWNED_TABLES_ENVIRONMENT = "TORTIE_OWNED_TABLES"
"""`never`: do as on a kernel without owner tables: repair, with guarded links."""
SECRETS_ENVIRONMENT = "TORTIE_BGP_SECRETS"
"""Names the directory of the passwords of BGP sessions."""


class Paths(NamedTuple):
    run: Path
    """Sockets, BIRD's files; gone after a reboot."""
    state: Path
    """What must outlive a reboot."""


class Kernel(NamedTuple):
    """Everything that is open towards the kernel."""

    ownership: Ownership
    nft: Nft
    rtnl: Rtnl
    conntrack: Conntrack
    links: Monitor
    changes: Changes | None
    """Others' changes of nf_tables; None where nobody else can change our tables."""

    def close(self) -> None:
        for part in (self.links, self.changes, self.conntrack, self.rtnl, self.nft):
            if part is not None:
                part.close()
        self.ownership.close()


def open_kernel(paths: Paths, inbox: AgentInbox) -> Kernel:
    """
    Raises:
        AlreadyExists: another agent runs on this host.
        KernelRefused: no permission, or no nf_tables.
    """

    ownership = obtain(paths.run)
    owned = os.environ.get(OWNED_TABLES_ENVIRONMENT) != "never" and supports_owner_tables()
    if not owned:
        log.warning("tables are not owned; changes by others are repaired, not refused")
    return Kernel(
        ownership,
        Nft(NetlinkSocket.adopt(ownership.netlink.detach())),
        Rtnl.open(),
        Conntrack.open(),
        Monitor.open(partial(put_event, inbox), groups=listened_to(owned=owned)),
        None if owned else Changes(),
    )


def put_event(inbox: AgentInbox, event: Event) -> None:
    """Newest of each object wins; that events were lost is replaced by nothing else."""
    match event:
        case LinkChanged(link) | LinkGone(link):
            inbox.put_now(("link", link.index), event)
        case AddressChanged(address) | AddressGone(address):
            inbox.put_now(("address", address.interface), event)
        case RulesChanged():
            inbox.put_now(("rules", 0), event)
        case _:
            inbox.put_now(("link", 0), event)


def listened_to(*, owned: bool) -> tuple[Group, ...]:
    """Routing rules are of interest to the second line alone, behind tables that are not owned."""
    rules = () if owned else (Group.IPV4_RULE, Group.IPV6_RULE)
    return (Group.LINK, Group.IPV4_ADDRESS, Group.IPV6_ADDRESS, *rules)


def build_dataplane(
    config: Config, kernel: Kernel, logging_: Logging, inbox: AgentInbox, *, remote_routes: bool
) -> Dataplane:
    """
    Args:
        remote_routes: install those to other hosts, too.
    """
    rate = config["LogActionRateLimit"]
    settings = Settings(
        host=config.host,
        interface_prefixes=config.workload_prefixes,
        ipv6=config["Ipv6Support"],
        endpoint_to_host_action=config["DefaultEndpointToHostAction"],
        deny_action=config["NftablesFilterDenyAction"],
        service_loops=config["ServiceLoopPrevention"],
        allow_vxlan_from_workloads=config["AllowVXLANPacketsFromWorkloads"],
        allow_ipip_from_workloads=config["AllowIPIPPacketsFromWorkloads"],
        vxlan_port=config["VXLANPort"],
        other_sources=config["WorkloadSourceSpoofing"] == "Any",
        mark_mask=config["NftablesMarkMask"],
        metadata=_metadata(config),
        log_prefix=config["LogPrefix"],
        log_limit=rate
        and LogLimit(rate.packets, rate.unit_seconds, config["LogActionRateLimitBurst"] or 1),
        log_denied=logging_.logged is not None,
        log_allowed=logging_.ended is not None,
        evaluate_staged=config["FlowLogsPolicyEvaluationMode"] == "Continuous",
        failsafe_inbound=_ports(config["FailsafeInboundHostPorts"]),
        failsafe_outbound=_ports(config["FailsafeOutboundHostPorts"]),
        nat_exclusions=config["NATOutgoingExclusions"],
        nat_address=config["NATOutgoingAddress"],
        nat_ports=config["NATPortRange"],
        nat_interface=config["IptablesNATOutgoingInterfaceFilter"],
        route_sources=tuple(
            one
            for name in ("DeviceRouteSourceAddress", "DeviceRouteSourceAddressIPv6")
            if (one := config[name]) is not None
        ),
        install_routes=not config["RouteSyncDisabled"],
        forwarding=config["IPForwarding"] == "Enabled",
        drop_invalid=not config["DisableConntrackInvalidCheck"],
        excluded_interfaces=config["InterfaceExclude"],
        route_protocol=config["DeviceRouteProtocol"],
        route_metric4=config["IPv4NormalRoutePriority"] or 0,
        route_metric6=config["IPv6NormalRoutePriority"] or 0,
        install_remote_routes=remote_routes,
        guard_links=kernel.changes is not None,
    )
    return Dataplane(
        settings,
        kernel.nft,
        kernel.rtnl,
        kernel.conntrack,
        owned_tables=kernel.changes is None,
        on_found=lambda: inbox.put_now(CONNECTIONS, None),
        spared=own_connections,
    )


def _metadata(config: Config) -> MetadataServer | None:
    """Where it is asked for: by its setting, or by workloads that are OpenStack's."""
    is_openstack = "tap" in config.workload_prefixes
    if not (is_openstack or config.origin("MetadataAddr") != "default"):
        return None
    text = config["MetadataAddr"]
    if not text:
        return None
    is_here = text.startswith("127.")
    return MetadataServer(None if is_here else parse_address(text), config["MetadataPort"])


def _ports(ports: tuple[ConfiguredPort, ...]) -> tuple[ProtoPort, ...]:
    return tuple(ProtoPort(parse_protocol(one.protocol), one.port, one.network) for one in ports)


def build_bird(paths: Paths) -> Bird:
    return Bird(paths.run / "bird", starts=os.environ.get(BIRD_ENVIRONMENT) != "external")


def build_bgp(config: Config, bird: Bird) -> BGPManager:
    directory = os.environ.get(SECRETS_ENVIRONMENT)
    return BGPManager(
        config.host,
        bird,
        route_protocol=config["DeviceRouteProtocol"],
        own_metric4=config["IPv4NormalRoutePriority"] or 0,
        own_metric6=config["IPv6NormalRoutePriority"] or 0,
        secrets=Path(directory) if directory else SECRETS_DIRECTORY,
    )


def fan_out(consumers: tuple[Consumer, ...]) -> Emit:
    """What calc emits goes to every consumer."""

    def emit(kind: Kind, name: Hashable, value: object | None) -> None:
        for consumer in consumers:
            consumer.on_update(kind, name, value)

    return emit


def build_status(config: Config, client: Client) -> StatusReporter:
    return StatusReporter(
        client,
        config.host,
        config.region,
        config["ReportingIntervalSecs"],
        config["ReportingTTLSecs"],
    )


def build_firewall_watch(config: Config, health: Health) -> FirewallWatch:
    reporter = health.reporter("other firewalls")
    return FirewallWatch(config.workload_prefixes, reporter, ipv6=config["Ipv6Support"])


def build_endpoint_status(
    config: Config, client: Client, dataplane: Dataplane, wrong: Callable[[], Iterable[Key]]
) -> EndpointReporter | None:
    """None where nobody asked for it.

    Args:
        wrong: what is stored and counts as absent.
    """
    if not config["EndpointReportingEnabled"]:
        return None

    def closed() -> Iterator[EndpointId]:
        yield from dataplane.endpoints_refused()
        yield from invalid_here(config.host, wrong())

    return EndpointReporter(
        client,
        config.host,
        config.region,
        config["EndpointReportingDelaySecs"],
        dataplane.endpoints_up,
        closed,
        dataplane.host_endpoint_statuses,
        lambda: dataplane.in_sync,
    )


def build_attach(
    config: Config,
    client: Client,
    paths: Paths,
    namespaces: Namespaces,
    progress: Progress,
    ingest: Ingest,
) -> Server:
    attacher = Attacher(
        AttachSettings(config.host, config.workload_prefixes[0]),
        client,
        Veths(namespaces),
        Journal(paths.state / "attach"),
        progress.wait,
        Allocator(client, config.host, unchanged=ingest.allocation_unchanged),
        ingest.datastore_ready,
    )
    # Removals that found no agent wait beside the journal.
    cni = CniService(attacher, client, paths.state / "cni")
    return Server(attacher, paths.run / "attach.sock", cni)


async def keep_helper(namespaces: Namespaces) -> None:
    """
    Raises:
        Restart: it is gone, and with it every way into a container; a new agent forks another.
    """
    await namespaces.lost()
    raise Restart("the namespace helper is gone")


async def audit(inbox: AgentInbox, interval_seconds: float) -> None:
    """Now and then have the kernel compared with what we want, for ever; 0 means never."""
    while interval_seconds:
        await asyncio.sleep(interval_seconds)
        inbox.put_now(AUDIT, None)


async def tell_supervisor(progress: Progress, health: Health) -> None:
    """systemd: how we are, and that we are alive, as often as it wants to hear it."""
    if not supervisor.is_there():
        return
    limit_seconds = supervisor.watchdog_seconds()
    interval_seconds = min(limit_seconds / 3, AUDIT_SECONDS) if limit_seconds else AUDIT_SECONDS
    supervisor.notify(STATUS="reading the datastore")
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(interval_seconds):
            await progress.wait(1, math.inf)
    while True:
        if health.live:
            supervisor.alive()
        said = (f"{one.name}: {one.detail}" for one in health.reports() if one.detail)
        supervisor.notify(STATUS="; ".join(said))
        await asyncio.sleep(interval_seconds)


async def tighten(watch: WatchedSelector, config: Config, progress: Progress) -> None:
    """Once all there is has been taken in, nothing may hold up the loop for long."""
    await progress.wait(1, math.inf)
    limits: dict[str, float] = config["HealthTimeoutOverrides"]
    watch.limit_seconds = limits.get("event loop", STUCK_SECONDS)


def watch_changes(kernel: Kernel, inbox: AgentInbox) -> None:
    """Have the kernel compared as soon as another process changes our tables."""
    changes = kernel.changes
    if changes is None:
        return

    def on_readable() -> None:
        try:
            foreign = any(
                change.table in (INET, ARP) and change.port_id != kernel.nft.port_id
                for change in changes.read()
            )
        except OutcomeUnknown:
            foreign = True
        if foreign:
            inbox.put_now(AUDIT, None)

    asyncio.get_running_loop().add_reader(changes.fileno(), on_readable)
