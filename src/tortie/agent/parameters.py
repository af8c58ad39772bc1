"""The agent's settings: names, types, defaults, as Calico's Felix has them.

Each parameter has one name for the environment (`FELIX_<Name>`, any case)
and `felix.cfg`, and one for FelixConfiguration (`yamlName`). Text from the
environment and the file is parsed here; durations there are seconds.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from tortie.lib.duration import parse_duration
from tortie.lib.errors import InvalidInput
from tortie.lib.ip import Network, parse_network


class Parameter(NamedTuple):
    name: str
    """As in `FELIX_<name>` and `felix.cfg`."""
    yaml_name: str
    """Field of FelixConfiguration's spec; empty when it can only be set locally."""
    parse: Callable[[str], Any]
    """From text. Raises ValueError."""
    default: Any


class ProtoPort(NamedTuple):
    protocol: str
    port: int
    network: Network | None = None
    """Of the other end; None: anybody."""


MARK_BITS = 3
"""Fewer and policy cannot be enforced; see `dataplane.settings`."""


class Rate(NamedTuple):
    packets: int
    unit_seconds: int


def _bool(text: str) -> bool:
    lowered = text.lower()
    if lowered in ("true", "1", "yes", "y", "t"):
        return True
    if lowered in ("false", "0", "no", "n", "f"):
        return False
    raise ValueError("must be true or false")


def _seconds(text: str) -> float:
    """`30`, `1.5`, and Go's durations as FelixConfiguration has them: `90s`, `1m30s`, `100ms`."""
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    try:
        return parse_duration(text)
    except InvalidInput:
        raise ValueError("must be a duration such as 30s") from None


def _number(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = int(text, 0)
        if not low <= value <= high:
            raise ValueError(f"must be from {low} to {high}")
        return value

    return parse


def _one_of(*choices: str) -> Callable[[str], str]:
    by_lowered = {choice.lower(): choice for choice in choices}

    def parse(text: str) -> str:
        if text.lower() not in by_lowered:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return by_lowered[text.lower()]

    return parse


def _matching(pattern: str) -> Callable[[str], str]:
    compiled = re.compile(pattern)

    def parse(text: str) -> str:
        if not compiled.fullmatch(text):
            raise ValueError(f"must match {pattern}")
        return text

    return parse


_PORT = re.compile(r"(?:(tcp|udp|sctp):)?(?:\[([^]]+)\]:|([^:]+):)?(\d{1,5})", re.IGNORECASE)
"""Protocol, IPv6 network, IPv4 network, port."""


def _ports(text: str) -> tuple[ProtoPort, ...]:
    """`tcp:22,udp:10.0.0.0/8:68,tcp:[fd00::/8]:22`; `none` means the empty list."""
    if text.lower() in ("", "none"):
        return ()
    ports = []
    for item in text.split(","):
        found = _PORT.fullmatch(item.strip())
        if found is None or int(found[4]) > 65535:
            raise ValueError("must be a list such as tcp:22,udp:10.0.0.0/8:68, or none")
        network = found[2] or found[3]
        ports.append(
            ProtoPort(
                (found[1] or "tcp").lower(),
                int(found[4]),
                _network(network) if network else None,
            )
        )
    return tuple(ports)


def _network(text: str) -> Network:
    try:
        return parse_network(text)
    except InvalidInput as error:
        raise ValueError(f"has no network: {error}") from None


def _address(family: int) -> Callable[[str], Network | None]:
    """Empty means none."""

    def parse(text: str) -> Network | None:
        if not text:
            return None
        found = _network(text)
        if found.family != family or not found.is_address:
            raise ValueError(f"must be an IPv{family} address")
        return found

    return parse


def _interface_patterns(text: str) -> str:
    """`kube-ipvs0,/^lxc/`: names, and expressions between slashes; as one expression for all of a
    name. Empty means none."""
    parts = []
    for item in filter(None, (one.strip() for one in text.split(","))):
        if item.startswith("/") and item.endswith("/") and len(item) > 2:
            try:
                re.compile(item[1:-1])
            except re.error as error:
                raise ValueError(f"has no regular expression: {item}: {error}") from None
            parts.append(f"(?s:.*(?:{item[1:-1]}).*)")
        else:
            parts.append(re.escape(item))
    return "|".join(parts)


def _metadata_address(text: str) -> str:
    """Empty for `none`: nothing is done for metadata."""
    if text.lower() == "none":
        return ""
    found = _network(text)
    if found.family != 4 or not found.is_address:
        raise ValueError("must be an IPv4 address, or none")
    return found.address_text


def _port_range(text: str) -> tuple[int, int] | None:
    """`1024:65535`, or one port; empty and 0 mean none."""
    if text in ("", "0"):
        return None
    found = re.fullmatch(r"(\d{1,5})(?::(\d{1,5}))?", text)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 0 < first <= last <= 65535:
        raise ValueError("must be a range of ports such as 32768:65535")
    return first, last


def _mark_mask(text: str) -> int:
    value = _number(1, 0xFFFFFFFF)(text)
    if value.bit_count() < MARK_BITS:
        raise ValueError(f"must have at least {MARK_BITS} bits")
    return value


def _rate(text: str) -> Rate | None:
    """`10/second`; empty means no limit."""
    if not text:
        return None
    found = re.fullmatch(r"([1-9]\d{0,3})/(second|minute|hour|day)", text)
    if found is None:
        raise ValueError("must be such as 10/second, or 5/minute, hour or day")
    seconds = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
    return Rate(int(found[1]), seconds[found[2]])


def workload_prefixes(text: str) -> tuple[str, ...]:
    """Of `InterfacePrefix`, such as `cali,tap`: what workloads' interfaces begin with. Those that
    are made here get the first."""
    return tuple(dict.fromkeys(text.split(",")))


FELIX_REPORTERS = dict.fromkeys(
    ("asynccalcgraph", "calculationgraph", "internaldataplanemainloop"), "loop"
)
"""Parts of Felix → the part of this agent that does their work."""


def _time_limits(text: str) -> dict[str, float]:
    """`InternalDataplaneMainLoop=2m,...`, by our names in small letters, in seconds."""
    limits = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        if item == "none":
            continue
        name, equals, limit = item.partition("=")
        if not equals or not name.strip():
            raise ValueError("must be a list such as InternalDataplaneMainLoop=2m")
        lowered = name.strip().lower()
        limits[FELIX_REPORTERS.get(lowered, lowered)] = _seconds(limit.strip())
    return limits


_FAILSAFE_INBOUND = "tcp:22,udp:68,tcp:179,tcp:2379,tcp:2380,tcp:5473,tcp:6443,tcp:6666,tcp:6667"
_FAILSAFE_OUTBOUND = "udp:53,udp:67,tcp:179,tcp:2379,tcp:2380,tcp:5473,tcp:6443,tcp:6666,tcp:6667"
_ROUTES = _one_of("Disabled", "EnabledIPIPOnly", "EnabledNoEncapOnly", "Enabled")
_PRIORITY = _number(1, 2**31 - 2)
_HOST_NAME = _matching(r"[a-zA-Z0-9:._+-]{1,64}")
_PREFIXES = _matching(r"[a-zA-Z0-9_-]{1,14}(,[a-zA-Z0-9_-]{1,14})*")
"""See `workload_prefixes`."""
_FILE = _matching(r"[^\0]{0,4095}")
_CLIENT_AUTH = _one_of(
    "NoClientCert", "RequireAnyClientCert", "VerifyClientCertIfGiven", "RequireAndVerifyClientCert"
)
_SEVERITY = _one_of("Trace", "Debug", "Info", "Warning", "Error", "Fatal")

PARAMETERS = (
    Parameter("FelixHostname", "", _matching(r"[a-zA-Z0-9_.-]{1,253}"), ""),
    Parameter("OpenstackRegion", "openstackRegion", _matching(r"[a-z0-9-]{0,46}"), ""),
    Parameter("InterfacePrefix", "interfacePrefix", _PREFIXES, "cali"),
    Parameter(
        "DefaultEndpointToHostAction",
        "defaultEndpointToHostAction",
        _one_of("Drop", "Return", "Accept"),
        "Drop",
    ),
    Parameter("AllowVXLANPacketsFromWorkloads", "allowVXLANPacketsFromWorkloads", _bool, False),
    Parameter("AllowIPIPPacketsFromWorkloads", "allowIPIPPacketsFromWorkloads", _bool, False),
    Parameter(
        "WorkloadSourceSpoofing",
        "workloadSourceSpoofing",
        _one_of("Disabled", "Any"),
        "Disabled",
    ),
    Parameter("VXLANPort", "vxlanPort", _number(1, 65535), 4789),
    Parameter("Ipv6Support", "ipv6Support", _bool, True),
    Parameter(
        "FailsafeInboundHostPorts", "failsafeInboundHostPorts", _ports, _ports(_FAILSAFE_INBOUND)
    ),
    Parameter(
        "FailsafeOutboundHostPorts",
        "failsafeOutboundHostPorts",
        _ports,
        _ports(_FAILSAFE_OUTBOUND),
    ),
    Parameter("NftablesMarkMask", "nftablesMarkMask", _mark_mask, 0xFFFF0000),
    Parameter(
        "NftablesFilterDenyAction", "nftablesFilterDenyAction", _one_of("Drop", "Reject"), "Drop"
    ),
    Parameter(
        "ServiceLoopPrevention",
        "serviceLoopPrevention",
        _one_of("Drop", "Reject", "Disabled"),
        "Drop",
    ),
    Parameter("LogPrefix", "logPrefix", _matching(r"[ -~]{0,29}"), "calico-packet"),
    Parameter("LogActionRateLimit", "logActionRateLimit", _rate, None),
    Parameter("LogActionRateLimitBurst", "logActionRateLimitBurst", _number(0, 9999), 5),
    Parameter("LogSeverityScreen", "logSeverityScreen", _SEVERITY, "Info"),
    Parameter("HealthEnabled", "healthEnabled", _bool, False),
    Parameter("HealthHost", "healthHost", _HOST_NAME, "localhost"),
    Parameter("HealthPort", "healthPort", _number(0, 65535), 9099),
    Parameter("HealthTimeoutOverrides", "healthTimeoutOverrides", _time_limits, {}),
    # Dropped packets are always seen, unless this says no; Calico has no such setting.
    Parameter("FlowLogsDenied", "", _bool, True),
    Parameter(
        "FlowLogsLocalReporter",
        "flowLogsLocalReporter",
        _one_of("Disabled", "Enabled"),
        "Disabled",
    ),
    Parameter("FlowLogsFlushInterval", "flowLogsFlushInterval", _seconds, 300.0),
    Parameter(
        "FlowLogsPolicyEvaluationMode",
        "flowLogsPolicyEvaluationMode",
        _one_of("None", "Continuous"),
        "Continuous",
    ),
    Parameter("PrometheusMetricsEnabled", "prometheusMetricsEnabled", _bool, False),
    # Calico's own default is every address; ours is the closed choice, as for health.
    Parameter("PrometheusMetricsHost", "prometheusMetricsHost", _HOST_NAME, "localhost"),
    Parameter("PrometheusMetricsPort", "prometheusMetricsPort", _number(0, 65535), 9091),
    Parameter("PrometheusGoMetricsEnabled", "prometheusGoMetricsEnabled", _bool, True),
    Parameter("PrometheusProcessMetricsEnabled", "prometheusProcessMetricsEnabled", _bool, True),
    Parameter("PrometheusMetricsCertFile", "prometheusMetricsCertFile", _FILE, ""),
    Parameter("PrometheusMetricsKeyFile", "prometheusMetricsKeyFile", _FILE, ""),
    Parameter("PrometheusMetricsCAFile", "prometheusMetricsCAFile", _FILE, ""),
    Parameter(
        "PrometheusMetricsClientAuth", "prometheusMetricsClientAuth", _CLIENT_AUTH, "NoClientCert"
    ),
    Parameter("ReportingIntervalSecs", "reportingInterval", _seconds, 30.0),
    Parameter("ReportingTTLSecs", "reportingTTL", _seconds, 90.0),
    Parameter("EndpointReportingEnabled", "endpointReportingEnabled", _bool, False),
    Parameter("EndpointReportingDelaySecs", "endpointReportingDelay", _seconds, 1.0),
    # Calico's is 180; ours compares everything, not the rules alone, and reads little to do so.
    Parameter("NftablesRefreshInterval", "nftablesRefreshInterval", _seconds, 60.0),
    # Calico's own default is 3 (boot); ours must be a number that nobody else uses,
    # for by it a fresh process knows which routes are its own.
    Parameter("DeviceRouteProtocol", "deviceRouteProtocol", _number(5, 255), 80),
    # Calico's are 1024. Routes without a metric go before BIRD's, whatever those have.
    Parameter("IPv4NormalRoutePriority", "ipv4NormalRoutePriority", _PRIORITY, None),
    Parameter("IPv6NormalRoutePriority", "ipv6NormalRoutePriority", _PRIORITY, None),
    Parameter("ProgramClusterRoutes", "programClusterRoutes", _ROUTES, ""),
    Parameter("NATPortRange", "natPortRange", _port_range, None),
    Parameter("NATOutgoingAddress", "natOutgoingAddress", _address(4), None),
    # By its name for iptables alone; Calico goes by it with nftables, too.
    Parameter(
        "IptablesNATOutgoingInterfaceFilter",
        "iptablesNATOutgoingInterfaceFilter",
        _matching(r"([a-zA-Z0-9:._+-]{1,15})?"),
        "",
    ),
    Parameter("DeviceRouteSourceAddress", "deviceRouteSourceAddress", _address(4), None),
    Parameter("DeviceRouteSourceAddressIPv6", "deviceRouteSourceAddressIPv6", _address(6), None),
    Parameter("RouteSyncDisabled", "routeSyncDisabled", _bool, False),
    Parameter("IPForwarding", "ipForwarding", _one_of("Enabled", "Disabled"), "Enabled"),
    Parameter("InterfaceExclude", "interfaceExclude", _interface_patterns, "kube\\-ipvs0"),
    Parameter("DisableConntrackInvalidCheck", "disableConntrackInvalidCheck", _bool, False),
    Parameter("MetadataAddr", "metadataAddr", _metadata_address, "127.0.0.1"),
    Parameter("MetadataPort", "metadataPort", _number(1, 65535), 8775),
    Parameter("FloatingIPs", "floatingIPs", _one_of("Disabled", "Enabled"), "Disabled"),
    Parameter(
        "NATOutgoingExclusions",
        "natOutgoingExclusions",
        _one_of("IPPoolsOnly", "IPPoolsAndHostIPs"),
        "IPPoolsOnly",
    ),
)

BY_NAME = {parameter.name.lower(): parameter for parameter in PARAMETERS}
BY_YAML_NAME = {parameter.yaml_name: parameter for parameter in PARAMETERS if parameter.yaml_name}


def parse_parameter(parameter: Parameter, text: str, origin: str) -> Any:
    """
    Raises:
        InvalidInput: naming the parameter, its value and where it was set.
    """
    try:
        return parameter.parse(text.strip())
    except ValueError as error:
        raise InvalidInput(f"{origin}: {parameter.name} = {text!r} {error}") from None


def _item_text(item: Mapping[str, Any]) -> str:
    """Of a list of ports or of time limits, as the environment has it."""
    if "timeout" in item:
        return f"{item['name']}={item['timeout']}"
    network = item.get("net") or ""
    if network:
        network = f"[{network}]:" if ":" in network else f"{network}:"
    return f"{item.get('protocol') or 'tcp'}:{network}{item['port']}"


def parse_yaml_value(parameter: Parameter, value: Any, origin: str) -> Any:
    """A value of FelixConfiguration's spec: JSON, not text."""
    if isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, list | tuple):
        text = ",".join(map(_item_text, value)) or "none"
    else:
        text = str(value)
    return parse_parameter(parameter, text, origin)
