"""Rules of the settings kinds: FelixConfiguration, BGPConfiguration, ClusterInformation."""

import re
from collections.abc import Iterator

import msgspec

from tortie.model import names
from tortie.model.bgp_configuration import BGPConfiguration, BGPConfigurationSpec
from tortie.model.felix_configuration import (
    BPFConntrackTimeouts,
    FelixConfiguration,
    FelixConfigurationSpec,
)
from tortie.model.node import ClusterInformation
from tortie.model.validation import terms
from tortie.model.validation.terms import Problem

_ON_OFF = ("Enabled", "Disabled")
_CLUSTER_ROUTES = ("Enabled", "Disabled", "EnabledIPIPOnly", "EnabledNoEncapOnly")
_SEVERITIES = ("Trace", "Debug", "Info", "Warning", "Error", "Fatal")

CHOICES: dict[str, tuple[str, ...]] = {
    "awsSrcDstCheck": ("DoNothing", "Enable", "Disable"),
    "bpfAttachType": ("TC", "TCX", "Netkit"),
    "bpfConnectTimeLoadBalancing": ("TCP", *_ON_OFF),
    "bpfConntrackLogLevel": ("Off", "Debug"),
    "bpfConntrackMode": ("Auto", "Userspace", "BPFProgram"),
    "bpfHostNetworkedNATWithoutCTLB": _ON_OFF,
    "bpfJITHardening": ("Auto", "Strict"),
    "bpfOverlayHostSourceIP": ("TunnelAddress", "HostAddress"),
    "bpfProfiling": _ON_OFF,
    "bpfRedirectToPeer": _ON_OFF,
    "floatingIPs": _ON_OFF,
    "flowLogsLocalReporter": _ON_OFF,
    "flowLogsPolicyEvaluationMode": ("None", "Continuous"),
    "ipForwarding": _ON_OFF,
    "istioAmbientMode": _ON_OFF,
    "localSubnetL2Reachability": ("Disabled", "PodsAndLoadBalancers"),
    "natOutgoingExclusions": ("IPPoolsOnly", "IPPoolsAndHostIPs"),
    "nftablesFlowTableOffload": ("All", "Disabled"),
    "nftablesMode": ("Disabled", "Enabled", "Auto"),
    "programClusterRoutes": _CLUSTER_ROUTES,
    "prometheusMetricsClientAuth": (
        "RequireAndVerifyClientCert",
        "RequireAnyClientCert",
        "VerifyClientCertIfGiven",
        "NoClientCert",
    ),
    "windowsManageFirewallRules": _ON_OFF,
}
"""FelixConfiguration's fields with a fixed set of values, spelled exactly so."""

CHOICES_IN_ANY_CASE: dict[str, tuple[str, ...]] = {
    "bpfEnforceRPF": ("Disabled", "Strict", "Loose"),
    "bpfExternalServiceMode": ("Tunnel", "DSR"),
    "bpfLogLevel": ("Off", "Info", "Debug"),
    "bpfMapSizeConntrackScaling": ("Disabled", "DoubleIfFull"),
    "chainInsertMode": ("Insert", "Append"),
    "defaultEndpointToHostAction": ("Drop", "Accept", "Return"),
    "iptablesBackend": ("Auto", "Legacy", "NFT"),
    "iptablesFilterAllowAction": ("Accept", "Return"),
    "iptablesFilterDenyAction": ("Drop", "Reject"),
    "iptablesMangleAllowAction": ("Accept", "Return"),
    "logSeverityFile": _SEVERITIES,
    "logSeverityScreen": _SEVERITIES,
    "logSeveritySys": _SEVERITIES,
    "nftablesFilterAllowAction": ("Accept", "Return"),
    "nftablesFilterDenyAction": ("Drop", "Reject"),
    "nftablesMangleAllowAction": ("Accept", "Return"),
    "routeSource": ("WorkloadIPs", "CalicoIPAM"),
    "serviceLoopPrevention": ("Drop", "Reject", "Disabled"),
    "workloadSourceSpoofing": ("Disabled", "Any"),
}
"""The same, where the API takes any case, and an empty text for "not given"."""

DURATIONS = frozenset(
    {
        "bpfIPFragTimeout",
        "bpfKubeProxyMinSyncPeriod",
        "dataplaneWatchdogTimeout",
        "debugSimulateCalcGraphHangAfter",
        "debugSimulateDataplaneApplyDelay",
        "debugSimulateDataplaneHangAfter",
        "endpointReportingDelay",
        "flowLogsFlushInterval",
        "interfaceRefreshInterval",
        "ipsetsRefreshInterval",
        "iptablesLockProbeInterval",
        "iptablesPostWriteCheckInterval",
        "iptablesRefreshInterval",
        "liveMigrationRouteConvergenceTime",
        "localSubnetL2ReachabilityRefreshInterval",
        "netlinkTimeout",
        "nftablesRefreshInterval",
        "reportingInterval",
        "reportingTTL",
        "routeRefreshInterval",
        "usageReportingInitialDelay",
        "usageReportingInterval",
        "wireguardKeepAlive",
        "xdpRefreshInterval",
    }
)

_DURATION = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:ms|s|m|h))+|0")
"""The agents' settings take no negative ones, and none below a millisecond."""

_TIMEOUT = re.compile(r"(?:(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:us|ms|s|m|h))+|Auto")

_PORT = (0, 65535)
_PRIORITY = (1, 2147483646)
RANGES: dict[str, tuple[int, int | None]] = {
    "bpfMapSizeConntrackCleanupQueue": (1, None),
    "healthPort": _PORT,
    "iptablesMarkMask": (0, 2**32 - 1),
    "ipv4ElevatedRoutePriority": _PRIORITY,
    "ipv4NormalRoutePriority": _PRIORITY,
    "ipv6ElevatedRoutePriority": _PRIORITY,
    "ipv6NormalRoutePriority": _PRIORITY,
    "logActionRateLimitBurst": (0, 9999),
    "metadataPort": _PORT,
    "nftablesMarkMask": (0, 2**32 - 1),
    "prometheusMetricsPort": _PORT,
    "vxlanPort": _PORT,
}
"""Lowest and highest value; None means no limit."""

PATTERNS: dict[str, tuple[re.Pattern[str], str]] = {
    "featureDetectOverride": (
        re.compile(r"([\w-]+=(true|false|),)*([\w-]+=(true|false|))?", re.ASCII),
        "must be name=true or name=false, with commas between",
    ),
    "featureGates": (
        re.compile(r"([\w-]+=([^=]+),)*([\w-]+=([^=]+))?", re.ASCII),
        "must be name=value, with commas between",
    ),
    "logActionRateLimit": (
        re.compile(r"[1-9][0-9]{0,3}/(second|minute|hour|day)"),
        "must be 1 to 9999, a slash, and second, minute, hour or day",
    ),
    "logPrefix": (re.compile(r"[a-zA-Z0-9%: /_-]*"), "must be letters, digits, spaces and %:/_-"),
}

PORT_RANGES_MAX = 7
_REGION_MAX_CHARACTERS = 46
_ROUTE_TABLES = (1, 250)
ROUTE_TABLES_MAX = 65535
_REPORTER = re.compile(r"[a-zA-Z0-9_ -]+")


def felix_problems(resource: FelixConfiguration) -> Iterator[Problem]:
    spec = resource.spec
    for field in msgspec.structs.fields(spec):
        value = getattr(spec, field.name)
        if value is not None:
            yield from _field_problems(f"spec.{field.encode_name}", field.encode_name, value)
    if spec.bpf_conntrack_timeouts is not None:
        yield from _timeout_problems("spec.bpfConntrackTimeouts", spec.bpf_conntrack_timeouts)
    for index, override in enumerate(spec.health_timeout_overrides):
        path = f"spec.healthTimeoutOverrides[{index}]"
        if not _REPORTER.fullmatch(override.name):
            rule = "must be letters, digits, spaces, '_' and '-'"
            yield Problem(f"{path}.name", override.name, rule)
        yield from terms.duration_problems(f"{path}.timeout", override.timeout, _DURATION)
    for name, networks in (
        ("bpfDSROptoutCIDRs", spec.bpf_dsr_optout_cidrs or ()),
        ("bpfExcludeCIDRsFromNAT", spec.bpf_exclude_cidrs_from_nat or ()),
        ("externalNodesList", spec.external_nodes_list or ()),
    ):
        yield from terms.networks_problems(f"spec.{name}", networks, strict=False)
    yield from _address_problems(spec)
    yield from _route_table_problems(spec)
    yield from _ports_problems(spec)
    if spec.openstack_region and not (
        names.is_dns_label(spec.openstack_region)
        and len(spec.openstack_region) <= _REGION_MAX_CHARACTERS
    ):
        rule = f"must be a DNS label of at most {_REGION_MAX_CHARACTERS} characters"
        yield Problem("spec.openstackRegion", spec.openstack_region, rule)
    if spec.node_selector:
        yield from terms.selector_problems("spec.nodeSelector", spec.node_selector)
        if _is_default_or_node(resource.metadata.name):
            rule = "cannot be in the settings named default or node.<name>"
            yield Problem("spec.nodeSelector", spec.node_selector, rule)


def _field_problems(path: str, name: str, value: object) -> Iterator[Problem]:
    if isinstance(value, str):
        if name in CHOICES:
            yield from terms.choice_problems(path, value, CHOICES[name])
        elif name in CHOICES_IN_ANY_CASE:
            choices = CHOICES_IN_ANY_CASE[name]
            yield from terms.choice_problems(path, value, choices, any_case=True)
        elif name in DURATIONS:
            yield from terms.duration_problems(path, value, _DURATION)
        elif name in PATTERNS and not PATTERNS[name][0].fullmatch(value):
            yield Problem(path, value, PATTERNS[name][1])
    elif isinstance(value, int) and name in RANGES:
        yield from terms.range_problems(path, value, *RANGES[name])


def _timeout_problems(path: str, timeouts: BPFConntrackTimeouts) -> Iterator[Problem]:
    for field in msgspec.structs.fields(timeouts):
        value = getattr(timeouts, field.name)
        if value is not None and not _TIMEOUT.fullmatch(value):
            rule = "must be a duration such as 90s, or Auto"
            yield Problem(f"{path}.{field.encode_name}", value, rule)


def _address_problems(spec: FelixConfigurationSpec) -> Iterator[Problem]:
    for name, text, family in (
        ("natOutgoingAddress", spec.nat_outgoing_address, 4),
        ("deviceRouteSourceAddress", spec.device_route_source_address, 4),
        ("deviceRouteSourceAddressIPv6", spec.device_route_source_address_ipv6, 6),
    ):
        if text and "/" in text:
            yield Problem(f"spec.{name}", text, "must be an address, without a length")
        elif text:
            yield from terms.address_problems(f"spec.{name}", text, family)


def _route_table_problems(spec: FelixConfigurationSpec) -> Iterator[Problem]:
    low, high = _ROUTE_TABLES
    if spec.route_table_range is not None:
        first, last = spec.route_table_range.min, spec.route_table_range.max
        if not low <= first <= last <= high:
            rule = f"must be min and max within {low} to {high}"
            yield Problem("spec.routeTableRange", f"{first}-{last}", rule)
        if spec.route_table_ranges:
            yield Problem("spec.routeTableRanges", None, "cannot go with routeTableRange")
    for index, tables in enumerate(spec.route_table_ranges):
        if not low <= tables.min <= tables.max:
            rule = f"must be min and max, from {low} up"
            yield Problem(f"spec.routeTableRanges[{index}]", f"{tables.min}-{tables.max}", rule)
    count = sum(tables.max - tables.min + 1 for tables in spec.route_table_ranges)
    if count > ROUTE_TABLES_MAX:
        rule = f"must be at most {ROUTE_TABLES_MAX} tables together"
        yield Problem("spec.routeTableRanges", f"{count} tables", rule)


def _ports_problems(spec: FelixConfigurationSpec) -> Iterator[Problem]:
    for name, ports in (
        ("failsafeInboundHostPorts", spec.failsafe_inbound_host_ports or ()),
        ("failsafeOutboundHostPorts", spec.failsafe_outbound_host_ports or ()),
    ):
        for index, port in enumerate(ports):
            path = f"spec.{name}[{index}]"
            yield from terms.range_problems(f"{path}.port", port.port, 0, 65535)
            yield from terms.choice_problems(
                f"{path}.protocol", port.protocol, ("TCP", "UDP", "SCTP"), any_case=True
            )
            if port.net:
                yield from terms.network_problems(f"{path}.net", port.net, strict=False)
    ranges = spec.kube_node_port_ranges or ()
    yield from terms.count_problems("spec.kubeNodePortRanges", ranges, PORT_RANGES_MAX)
    for index, value in enumerate(ranges):
        path = f"spec.kubeNodePortRanges[{index}]"
        if terms.is_named_port(value):
            yield Problem(path, value, "must be a number or a range low:high")
        else:
            yield from terms.port_problems(path, value)


def _is_default_or_node(name: str) -> bool:
    return name == "default" or name.startswith("node.")


def bgp_problems(resource: BGPConfiguration) -> Iterator[Problem]:
    spec = resource.spec
    yield from terms.range_problems("spec.asNumber", spec.as_number, 0, 2**32 - 1)
    yield from terms.range_problems("spec.listenPort", spec.listen_port, 1, 65535)
    for family, priority in (
        (4, spec.ipv4_normal_route_priority),
        (6, spec.ipv6_normal_route_priority),
    ):
        yield from terms.range_problems(
            f"spec.ipv{family}NormalRoutePriority", priority, *_PRIORITY
        )
    for name, value, choices in (
        ("bindMode", spec.bind_mode, ("None", "NodeIP")),
        ("programClusterRoutes", spec.program_cluster_routes, _CLUSTER_ROUTES),
        ("serviceLoadBalancerAggregation", spec.service_load_balancer_aggregation, _ON_OFF),
    ):
        yield from terms.choice_problems(f"spec.{name}", value, choices)
    yield from terms.choice_problems(
        "spec.logSeverityScreen", spec.log_severity_screen, _SEVERITIES, any_case=True
    )
    yield from terms.duration_problems(
        "spec.nodeMeshMaxRestartTime", spec.node_mesh_max_restart_time
    )
    for family, text in (
        (4, spec.local_workload_peering_ipv4),
        (6, spec.local_workload_peering_ipv6),
    ):
        if text:
            yield from terms.address_problems(f"spec.localWorkloadPeeringIPV{family}", text, family)
    yield from _announced_problems(spec)
    yield from _mesh_problems(resource.metadata.name, spec)


def _announced_problems(spec: BGPConfigurationSpec) -> Iterator[Problem]:
    for name, blocks in (
        ("serviceClusterIPs", spec.service_cluster_ips),
        ("serviceExternalIPs", spec.service_external_ips),
        ("serviceLoadBalancerIPs", spec.service_load_balancer_ips),
    ):
        for index, block in enumerate(blocks):
            yield from terms.network_problems(
                f"spec.{name}[{index}].cidr", block.cidr, strict=False
            )
    defined = {community.name for community in spec.communities}
    for index, community in enumerate(spec.communities):
        if not is_community(community.value):
            yield Problem(f"spec.communities[{index}].value", community.value, _COMMUNITY_RULE)
    for index, prefix in enumerate(spec.prefix_advertisements):
        path = f"spec.prefixAdvertisements[{index}]"
        yield from terms.network_problems(f"{path}.cidr", prefix.cidr, strict=False)
        for place, value in enumerate(prefix.communities):
            if value not in defined and not is_community(value):
                rule = f"must be the name of one in communities, or {_COMMUNITY_RULE}"
                yield Problem(f"{path}.communities[{place}]", value, rule)
    if spec.communities and not spec.prefix_advertisements:
        rule = "are used nowhere: there are no prefixAdvertisements"
        yield Problem("spec.communities", [c.name for c in spec.communities], rule)


_COMMUNITY_RULE = "must be aa:nn with 16 bits each, or aa:nn:mm with 32 bits each"


def is_community(text: str) -> bool:
    parts = text.split(":")
    if len(parts) not in (2, 3) or not all(map(terms.is_digits, parts)):
        return False
    bits = 16 if len(parts) == 2 else 32
    return all(int(part) < 1 << bits for part in parts)


def _mesh_problems(name: str, spec: BGPConfigurationSpec) -> Iterator[Problem]:
    if spec.node_to_node_mesh_enabled is False:
        for field, value in (
            ("nodeMeshPassword", spec.node_mesh_password),
            ("nodeMeshMaxRestartTime", spec.node_mesh_max_restart_time),
        ):
            if value is not None:
                yield Problem(
                    f"spec.{field}", "given", "cannot go with nodeToNodeMeshEnabled false"
                )
    if name == "default":
        return
    for field, given in (
        ("nodeToNodeMeshEnabled", spec.node_to_node_mesh_enabled is not None),
        ("asNumber", spec.as_number is not None),
        ("serviceClusterIPs", bool(spec.service_cluster_ips)),
        ("serviceExternalIPs", bool(spec.service_external_ips)),
        ("serviceLoadBalancerIPs", bool(spec.service_load_balancer_ips)),
        ("nodeMeshPassword", spec.node_mesh_password is not None),
        ("nodeMeshMaxRestartTime", spec.node_mesh_max_restart_time is not None),
    ):
        if given:
            yield Problem(
                f"spec.{field}", "given", "can be only in the BGPConfiguration named default"
            )


def cluster_information_problems(resource: ClusterInformation) -> Iterator[Problem]:
    if resource.metadata.name != "default":
        yield Problem("metadata.name", resource.metadata.name, "must be default")
