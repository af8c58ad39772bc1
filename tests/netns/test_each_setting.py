"""Each setting of FelixConfiguration that is about packets changes what is in the kernel.

From a resource's text to rules, routes and sysctls, by the agent's own wiring: a setting that is
parsed and then reaches nothing, or that does what another one should, is found here. What the
packets make of each is the matter of other tests.
"""

import asyncio
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from msgspec.structs import replace
from tests.graph.resources import (
    Entry,
    affinity,
    allow,
    deny,
    host_endpoint,
    node,
    policy,
    pool,
    profile,
    service_networks,
    tier,
    workload,
)

from tortie.agent import observing, wiring
from tortie.agent.config import Local, resolve
from tortie.agent.ingest import AgentInbox
from tortie.calc.graph import Graph
from tortie.ctl.felix_settings import HONOURED
from tortie.kernel.conntrack import Conntrack
from tortie.kernel.nft.connection import Nft
from tortie.kernel.rtnl.connection import Rtnl
from tortie.lib.inbox import Inbox
from tortie.model.endpoint import IPNAT, WorkloadEndpoint
from tortie.model.policy import Rule

pytestmark = pytest.mark.usefixtures("netns")

LINKS = ("cali-web", "tap-web", "up0", "kube-ipvs0")


class Row(NamedTuple):
    setting: str
    value: Any
    comes: tuple[str, ...]
    """Each is part of a line that is not there without the setting."""
    goes: tuple[str, ...] = ()
    """The other way round."""
    beside: Mapping[str, Any] = {}
    """Other settings, in both cases."""


TUNNELS = ("meta l4proto gre", "meta l4proto ipencap", "meta l4proto ipv6 ")
METADATA = {"metadataAddr": "192.0.2.9"}
LIMITED = {"logActionRateLimit": "7/minute"}
OWN_ROUTES = tuple(
    f"{one} proto 80"
    for one in (
        "blackhole 10.65.0.0/26",
        "unicast 10.65.0.1 dev cali-web",
        "unicast 10.65.1.0/26 via 192.0.2.2 dev up0",
        "unicast fd00:65::1 dev cali-web",
        "unicast fd00:65::100/122 via fd00:2::2 dev up0",
    )
)
TESTS = Path(__file__).parents[1]
ROWS = (
    Row("allowIPIPPacketsFromWorkloads", True, (), TUNNELS),
    Row("allowVXLANPacketsFromWorkloads", True, (), ("th dport 4789",)),
    Row("defaultEndpointToHostAction", "Accept", ("meta mark | 0x00020000 counter accept",)),
    Row("defaultEndpointToHostAction", "Return", ("meta mark & 0xfffdffff counter return",)),
    Row(
        "deviceRouteProtocol",
        199,
        tuple(one.replace(" 80", " 199") for one in OWN_ROUTES),
        OWN_ROUTES,
    ),
    Row(
        "deviceRouteSourceAddress", "192.0.2.1", ("10.65.0.1 dev cali-web proto 80 scope link src",)
    ),
    Row("deviceRouteSourceAddressIPv6", "fd00:2::1", ("scope global src fd00:2::1",)),
    Row("disableConntrackInvalidCheck", True, (), ("ct state invalid",)),
    Row(
        "failsafeInboundHostPorts",
        [{"protocol": "tcp", "port": 2222}],
        ("tcp . 2222",),
        ("tcp . 22,", "udp . 68,"),
    ),
    Row(
        "failsafeOutboundHostPorts",
        [{"protocol": "udp", "port": 3333}],
        ("udp . 3333",),
        ("udp . 53,",),
    ),
    Row("floatingIPs", "Enabled", ("chain floating-prerouting", "198.51.100.1 : 10.65.0.1")),
    Row("flowLogsLocalReporter", "Enabled", ("goto allowed-egress", "nf_conntrack_acct = 1")),
    Row("interfaceExclude", "/^up/", ('"kube-ipvs0" : 0x00000000',)),
    Row("interfacePrefix", "cali,tap", ('iifname "tap*" goto from-workload',)),
    Row(
        "ipForwarding",
        "Disabled",
        ("net.ipv4.ip_forward = 0", "conf.all.forwarding = 0"),
        ("net.ipv4.ip_forward = 1", "conf.all.forwarding = 1"),
    ),
    Row(
        "iptablesNATOutgoingInterfaceFilter",
        "up0",
        ('oifname "up0" ip saddr @masquerade4', 'oifname "up0" ip6 saddr @masquerade6'),
    ),
    Row(
        "ipv4NormalRoutePriority",
        77,
        ("scope link metric 77", "scope global metric 77"),
    ),
    Row("ipv6NormalRoutePriority", 88, ("scope global metric 88",), ("metric 1024",)),
    Row("ipv6Support", False, ("meta nfproto ipv6 counter",), ("fd00:65::1", "forwarding = 1")),
    Row("logActionRateLimit", "7/minute", ("limit rate 7/minute log prefix",)),
    Row("logActionRateLimitBurst", 9, ("7/minute burst 9 packets log",), (), LIMITED),
    Row("logPrefix", "seen-here", ('log prefix "seen-here: "',), ('log prefix "calico-packet: "',)),
    Row("metadataAddr", "192.0.2.9", ("ip daddr 169.254.169.254 tcp dport 80 counter dnat",)),
    Row("metadataPort", 9999, ("to 192.0.2.9:9999",), ("to 192.0.2.9:8775",), METADATA),
    Row("natOutgoingAddress", "192.0.2.50", ("counter snat ip to 192.0.2.50",)),
    Row("natOutgoingExclusions", "IPPoolsAndHostIPs", ("ip daddr != @hosts4", "!= @hosts6")),
    Row("natPortRange", "40000:50000", ("tcp counter masquerade to :40000-50000",)),
    Row("nftablesFilterDenyAction", "Reject", ("reject with tcp reset", "goto rejected-ingress")),
    Row("nftablesMarkMask", 0xF00, ("meta mark & 0x00000100 ==",), ("meta mark & 0x00010000 ==",)),
    Row("routeSyncDisabled", True, (), OWN_ROUTES),
    Row("serviceLoopPrevention", "Disabled", (), ("ip daddr @services4",)),
    Row("serviceLoopPrevention", "Reject", ("counter reject",)),
    Row("vxlanPort", 8472, ("th dport 8472",), ("th dport 4789",)),
    Row("workloadSourceSpoofing", "Any", ("goto other-source", "203.0.113.0/24")),
)

SERVER, OF_METRICS = "unit/agent/test_health_server.py", "unit/agent/test_metrics_server.py"
AGENT = "e2e/test_settings.py"
ELSEWHERE = {
    "endpointReportingDelay": "e2e/test_datastore.py",
    "endpointReportingEnabled": AGENT,
    "flowLogsFlushInterval": "unit/agent/test_flows.py",
    "flowLogsPolicyEvaluationMode": AGENT,
    "healthEnabled": SERVER,
    "healthHost": SERVER,
    "healthPort": AGENT,
    "healthTimeoutOverrides": SERVER,
    "logSeverityScreen": AGENT,
    "nftablesRefreshInterval": AGENT,
    "openstackRegion": AGENT,
    "programClusterRoutes": "bgp/test_switch.py",
    "prometheusGoMetricsEnabled": AGENT,
    "prometheusMetricsCAFile": OF_METRICS,
    "prometheusMetricsCertFile": OF_METRICS,
    "prometheusMetricsClientAuth": OF_METRICS,
    "prometheusMetricsEnabled": AGENT,
    "prometheusMetricsHost": OF_METRICS,
    "prometheusMetricsKeyFile": OF_METRICS,
    "prometheusMetricsPort": AGENT,
    "prometheusProcessMetricsEnabled": AGENT,
    "reportingInterval": AGENT,
    "reportingTTL": AGENT,
}
"""What is not about packets."""


def resources() -> Iterator[Entry]:
    yield node("h1", ipv4="192.0.2.1/24", ipv6="fd00:2::1/64")
    yield node("h2", ipv4="192.0.2.2/24", ipv6="fd00:2::2/64")
    yield pool("four", "10.65.0.0/16", nat_outgoing=True)
    yield pool("six", "fd00:65::/64", nat_outgoing=True)
    yield affinity("h1", "10.65.0.0/26")
    yield affinity("h2", "10.65.1.0/26")
    yield affinity("h2", "fd00:65::100/122")
    yield tier("default", 1000)
    yield policy(
        "log-and-deny", selector="all()", ingress=(Rule(action="Log"), deny()), egress=(allow(),)
    )
    yield profile("kns.shop", egress=[allow()])
    for name, addresses in (("web", ("10.65.0.1/32", "fd00:65::1/128")), ("db", ("10.65.0.2/32",))):
        key, endpoint = workload(f"shop/{name}", "h1", *addresses)
        assert isinstance(endpoint, WorkloadEndpoint)
        if name == "web":
            spec = replace(
                endpoint.spec,
                ip_nats=(IPNAT(internal_ip="10.65.0.1", external_ip="198.51.100.1"),),
                allow_spoofed_source_prefixes=("203.0.113.0/24",),
            )
            endpoint = replace(endpoint, spec=spec)
        else:
            endpoint = replace(endpoint, spec=replace(endpoint.spec, interface_name="tap-web"))
        yield key, endpoint
    yield host_endpoint("up", labels={"a": "b"}, host="h1", interface="up0")
    yield host_endpoint("balancer", "192.0.2.77", labels={"a": "b"}, host="h1")
    yield service_networks(["10.96.0.0/12"])


def in_kernel(spec: Mapping[str, Any]) -> set[str]:
    """Lines of rules, routes and sysctls, as tools list them, with these settings."""
    config = resolve(Local({"felixhostname": "h1"}, {}, ""), [("default", spec)])
    with ExitStack() as stack:
        logging_ = observing.open_logging(config)
        stack.callback(logging_.close)
        subprocess.run(["sh", "-ec", FRESH], check=True)
        nft, rtnl, conntrack = Nft.open(), Rtnl.open(), Conntrack.open()
        for one in (nft, rtnl, conntrack):
            stack.callback(one.close)
        kernel = wiring.Kernel(None, nft, rtnl, conntrack, None, None)  # type: ignore[arg-type]
        inbox: AgentInbox = Inbox(100)
        dataplane = wiring.build_dataplane(config, kernel, logging_, inbox, remote_routes=True)
        floating = config["FloatingIPs"] == "Enabled"
        graph = Graph(config.host, dataplane.on_update, floating_addresses=floating)
        for key, value in resources():
            graph.on_update(key, value)
        graph.flush()
        asyncio.run(dataplane.apply())
        listed = subprocess.run(["sh", "-ec", SHOW], check=True, capture_output=True, text=True)
    return {line.strip() for line in listed.stdout.splitlines()}


FRESH = """for name in cali-web tap-web up0 kube-ipvs0; do
    ip link del $name 2> /dev/null || true
    ip link add $name type veth peer name p-$name; ip link set $name up; ip link set p-$name up
done
ip addr add 192.0.2.1/24 dev up0; ip addr add fd00:2::1/64 dev up0 nodad
ip addr add 192.0.2.77/32 dev kube-ipvs0
ip route flush type blackhole; ip -6 route flush type blackhole
nft delete table inet tortie 2> /dev/null || true; nft delete table arp tortie 2> /dev/null || true
sysctl -qw net.netfilter.nf_conntrack_acct=0 net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0"""
SHOW = """nft -s list ruleset; ip -d route; ip -6 -d route
sysctl net.ipv4.ip_forward net.ipv6.conf.all.forwarding net.netfilter.nf_conntrack_acct"""


@cache
def plain(beside: tuple[tuple[str, Any], ...]) -> frozenset[str]:
    """Most rows are compared with the same."""
    return frozenset(in_kernel(dict(beside)))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.setting}-{row.value}")
def test_it_reaches_the_kernel(row: Row) -> None:
    without = plain(tuple(row.beside.items()))
    found = in_kernel({row.setting: row.value, **row.beside})
    for text in row.comes:
        assert any(text in line for line in found - without), f"{text} does not come"
    for text in row.goes:
        assert any(text in line for line in without), text
        assert not any(text in line for line in found), f"{text} does not go"


def test_none_is_forgotten() -> None:
    for setting, file in ELSEWHERE.items():
        assert setting.lower() in (TESTS / file).read_text().lower(), f"{setting} in {file}"
    assert {row.setting for row in ROWS} | ELSEWHERE.keys() == HONOURED.keys()
    assert not {row.setting for row in ROWS} & ELSEWHERE.keys()
