"""Workload and host endpoints."""

from typing import Annotated

import msgspec

from tortie.model.limits import NAME_MAX_CHARACTERS, PRESENT, REQUIRED, Limits
from tortie.model.metadata import Resource, Spec

NAMESPACE_LABEL = "projectcalico.org/namespace"
ORCHESTRATOR_LABEL = "projectcalico.org/orchestrator"
SERVICE_ACCOUNT_LABEL = "projectcalico.org/serviceaccount"

DHCP_ANNOTATION = "tortie/dhcp"
"""`yes`: the workload gets its address by DHCP, from this host."""
DNS_ANNOTATION = "tortie/dns"
"""Addresses of the name servers that DHCP tells it, with commas."""

INTERFACE_NAME_MAX_BYTES = 15
"""IFNAMSIZ minus its NUL, from include/uapi/linux/if.h."""


class WorkloadEndpointPort(Spec, frozen=True, kw_only=True):
    name: str = ""
    protocol: int | str = "TCP"
    port: int = 0
    host_port: int = 0
    host_ip: str = msgspec.field(default="", name="hostIP")


class IPNAT(Spec, frozen=True, kw_only=True):
    internal_ip: str = msgspec.field(default="", name="internalIP")
    external_ip: str = msgspec.field(default="", name="externalIP")


class QoSControls(Spec, frozen=True, kw_only=True):
    """Limits of traffic, towards the workload (ingress) and from it; 0 means none.

    Source: Calico, libcalico-go/lib/apis/internalapi/workloadendpoint.go.
    """

    ingress_bandwidth: int = 0
    """Bits per second."""
    ingress_burst: int = 0
    """Bits; 0 means 4 Gi."""
    ingress_peakrate: int = 0
    """Bits per second; 0 means that bursts go at line rate."""
    ingress_minburst: int = 0
    """Bytes; 0 means the interface's MTU."""
    egress_bandwidth: int = 0
    egress_burst: int = 0
    egress_peakrate: int = 0
    egress_minburst: int = 0
    ingress_packet_rate: int = 0
    """Packets per second."""
    ingress_packet_burst: int = 0
    egress_packet_rate: int = 0
    egress_packet_burst: int = 0
    ingress_max_connections: int = 0
    egress_max_connections: int = 0
    dscp: int | str | None = msgspec.field(default=None, name="dscp")
    """The mark of packets that leave: 0 to 63, or a name such as EF."""


QOS_RANGES = {
    "Bandwidth": (1000, 10**15),
    "Burst": (1000, 34359738360),
    "Peakrate": (1010, 1010 * 10**12),
    "Minburst": (1000, 10**8),
    "PacketRate": (1, 10**4),
    "PacketBurst": (1, 10**4),
    "MaxConnections": (1, 2**32 - 1),
}
"""Lowest and highest value of those that are given, for both directions."""


class WorkloadEndpointSpec(Spec, frozen=True, kw_only=True):
    orchestrator: str = ""
    workload: str = ""
    node: str = ""
    container_id: str = msgspec.field(default="", name="containerID")
    pod: str = ""
    endpoint: str = ""
    service_account_name: str = ""
    ip_networks: tuple[str, ...] = ()
    """Each a /32 or /128."""
    allowed_ips: tuple[str, ...] = ()
    """Those of `ip_networks` that OpenStack allows beside the port's own; DHCP offers none."""
    ip_nats: tuple[IPNAT, ...] = msgspec.field(default=(), name="ipNATs")
    ipv4_gateway: str = ""
    ipv6_gateway: str = ""
    profiles: tuple[str, ...] = ()
    interface_name: str = ""
    """Of the host's side."""
    mac: str = ""
    """Of the workload's side; empty means any."""
    ports: tuple[WorkloadEndpointPort, ...] = ()
    allow_spoofed_source_prefixes: tuple[str, ...] = ()
    """What it may send from beside its own addresses, where the hosts' `workloadSourceSpoofing`
    is Any."""
    qos_controls: QoSControls | None = msgspec.field(default=None, name="qosControls")


class WorkloadEndpoint(Resource, frozen=True, kw_only=True):
    spec: WorkloadEndpointSpec = WorkloadEndpointSpec()


def served_by_dhcp(endpoint: WorkloadEndpoint) -> bool:
    """May the workload ask this host for its address? OpenStack's always may."""
    annotated = endpoint.metadata.annotations.get(DHCP_ANNOTATION) == "yes"
    return annotated or endpoint.spec.orchestrator == "openstack"


class EndpointPort(Spec, frozen=True, kw_only=True):
    name: Annotated[str, REQUIRED] = ""
    protocol: Annotated[int | str, REQUIRED] = "TCP"
    port: Annotated[int, Limits(present=True, low=1, high=65535)] = 0


class HostEndpointSpec(Spec, frozen=True, kw_only=True):
    node: Annotated[str, Limits(longest=NAME_MAX_CHARACTERS)] = ""
    interface_name: Annotated[str, Limits(longest=INTERFACE_NAME_MAX_BYTES)] = ""
    """`*` means all interfaces of the host."""
    expected_ips: Annotated[tuple[str, ...], Limits(unique=True)] = msgspec.field(
        default=(), name="expectedIPs"
    )
    profiles: Annotated[tuple[str, ...], Limits(unique=True)] = ()
    ports: tuple[EndpointPort, ...] = ()


class HostEndpoint(Resource, frozen=True, kw_only=True):
    spec: Annotated[HostEndpointSpec, PRESENT] = HostEndpointSpec()
