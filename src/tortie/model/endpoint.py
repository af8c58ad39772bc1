"""Workload and host endpoints."""

from typing import Annotated, Any

import msgspec

from tortie.model.limits import NAME_MAX_CHARACTERS, PRESENT, REQUIRED, Limits
from tortie.model.metadata import Resource, Spec

NAMESPACE_LABEL = "projectcalico.org/namespace"
ORCHESTRATOR_LABEL = "projectcalico.org/orchestrator"
SERVICE_ACCOUNT_LABEL = "projectcalico.org/serviceaccount"

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
    qos_controls: dict[str, Any] | None = None


class WorkloadEndpoint(Resource, frozen=True, kw_only=True):
    spec: WorkloadEndpointSpec = WorkloadEndpointSpec()


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
