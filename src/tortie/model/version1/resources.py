"""The seven kinds of Calico's API v1 as structs, field by field as its files have them.

Source: Calico, libcalico-go/lib/apis/v1.
"""

from typing import Literal

import msgspec

from tortie.model.metadata import Spec


class ICMP(Spec, frozen=True, kw_only=True):
    type: int | None = None
    code: int | None = None


class EntityRule(Spec, frozen=True, kw_only=True):
    tag: str = ""
    """A tag of a profile; today it is a label with an empty value."""
    net: str = ""
    """One more of `nets`."""
    nets: tuple[str, ...] = ()
    selector: str = ""
    ports: tuple[int | str, ...] = ()
    not_tag: str = ""
    not_net: str = ""
    not_nets: tuple[str, ...] = ()
    not_selector: str = ""
    not_ports: tuple[int | str, ...] = ()


class Rule(Spec, frozen=True, kw_only=True):
    action: str = ""
    """`allow` (also when empty), `deny`, `log` or `pass`, in either case."""
    ip_version: int | None = None
    protocol: int | str | None = None
    icmp: ICMP | None = None
    not_protocol: int | str | None = None
    not_icmp: ICMP | None = msgspec.field(default=None, name="notICMP")
    source: EntityRule = EntityRule()
    destination: EntityRule = EntityRule()


class PolicyMetadata(Spec, frozen=True, kw_only=True):
    name: str
    tier: str = ""
    annotations: dict[str, str] = {}


class PolicySpec(Spec, frozen=True, kw_only=True):
    order: float | None = None
    ingress: tuple[Rule, ...] = ()
    egress: tuple[Rule, ...] = ()
    selector: str = ""
    do_not_track: bool = False
    pre_dnat: bool = msgspec.field(default=False, name="preDNAT")
    types: tuple[Literal["ingress", "egress"], ...] = ()


class ProfileMetadata(Spec, frozen=True, kw_only=True):
    name: str
    tags: tuple[str, ...] = ()
    labels: dict[str, str] = {}


class ProfileSpec(Spec, frozen=True, kw_only=True):
    ingress: tuple[Rule, ...] = ()
    egress: tuple[Rule, ...] = ()


class IPPoolMetadata(Spec, frozen=True, kw_only=True):
    cidr: str


class IPIP(Spec, frozen=True, kw_only=True):
    enabled: bool = False
    mode: Literal["", "always", "cross-subnet"] = ""


class IPPoolSpec(Spec, frozen=True, kw_only=True):
    ipip: IPIP = IPIP()
    nat_outgoing: bool = msgspec.field(default=False, name="nat-outgoing")
    disabled: bool = False


class BGPPeerMetadata(Spec, frozen=True, kw_only=True):
    scope: Literal["global", "node"]
    peer_ip: str = msgspec.field(name="peerIP")
    node: str = ""


class BGPPeerSpec(Spec, frozen=True, kw_only=True):
    as_number: int | str
    """A number, or two with a dot between them."""


class EndpointPort(Spec, frozen=True, kw_only=True):
    name: str
    protocol: int | str
    port: int


class HostEndpointMetadata(Spec, frozen=True, kw_only=True):
    name: str
    node: str
    labels: dict[str, str] = {}


class HostEndpointSpec(Spec, frozen=True, kw_only=True):
    interface_name: str = ""
    expected_ips: tuple[str, ...] = msgspec.field(default=(), name="expectedIPs")
    profiles: tuple[str, ...] = ()
    ports: tuple[EndpointPort, ...] = ()


class WorkloadEndpointMetadata(Spec, frozen=True, kw_only=True):
    name: str
    workload: str
    orchestrator: str
    node: str
    active_instance_id: str = msgspec.field(default="", name="activeInstanceID")
    labels: dict[str, str] = {}


class IPNAT(Spec, frozen=True, kw_only=True):
    internal_ip: str = msgspec.field(name="internalIP")
    external_ip: str = msgspec.field(name="externalIP")


class WorkloadEndpointSpec(Spec, frozen=True, kw_only=True):
    ip_networks: tuple[str, ...] = ()
    ip_nats: tuple[IPNAT, ...] = msgspec.field(default=(), name="ipNATs")
    ipv4_gateway: str = ""
    ipv6_gateway: str = ""
    profiles: tuple[str, ...] = ()
    interface_name: str = ""
    mac: str = ""
    ports: tuple[EndpointPort, ...] = ()


class NodeMetadata(Spec, frozen=True, kw_only=True):
    name: str


class NodeBGP(Spec, frozen=True, kw_only=True):
    as_number: int | str | None = None
    ipv4_address: str = ""
    ipv6_address: str = ""


class OrchRef(Spec, frozen=True, kw_only=True):
    node_name: str = ""
    orchestrator: str = ""


class NodeSpec(Spec, frozen=True, kw_only=True):
    bgp: NodeBGP | None = None
    orch_refs: tuple[OrchRef, ...] = ()


class _Object(Spec, frozen=True, kw_only=True):
    kind: str = ""
    api_version: str = "v1"


class Policy(_Object, frozen=True, kw_only=True):
    metadata: PolicyMetadata
    spec: PolicySpec = PolicySpec()


class Profile(_Object, frozen=True, kw_only=True):
    metadata: ProfileMetadata
    spec: ProfileSpec = ProfileSpec()


class IPPool(_Object, frozen=True, kw_only=True):
    metadata: IPPoolMetadata
    spec: IPPoolSpec = IPPoolSpec()


class BGPPeer(_Object, frozen=True, kw_only=True):
    metadata: BGPPeerMetadata
    spec: BGPPeerSpec


class HostEndpoint(_Object, frozen=True, kw_only=True):
    metadata: HostEndpointMetadata
    spec: HostEndpointSpec = HostEndpointSpec()


class WorkloadEndpoint(_Object, frozen=True, kw_only=True):
    metadata: WorkloadEndpointMetadata
    spec: WorkloadEndpointSpec = WorkloadEndpointSpec()


class Node(_Object, frozen=True, kw_only=True):
    metadata: NodeMetadata
    spec: NodeSpec = NodeSpec()
