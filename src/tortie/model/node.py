"""Nodes, the cluster's identity, and address pools."""

from typing import Annotated, Any, Literal

import msgspec

from tortie.model.limits import PRESENT, Limits, Selector
from tortie.model.metadata import Resource, Spec
from tortie.model.status import Status


class NodeAddress(Spec, frozen=True, kw_only=True):
    address: str = ""
    type: str = ""
    """`CalicoNodeIP`, `InternalIP` or `ExternalIP`."""


class NodeBGP(Spec, frozen=True, kw_only=True):
    as_number: int | None = None
    ipv4_address: str = ""
    """With the length of its subnet, as in `10.0.0.1/24`."""
    ipv6_address: str = ""
    ipv4_ipip_tunnel_addr: str = msgspec.field(default="", name="ipv4IPIPTunnelAddr")
    route_reflector_cluster_id: str = msgspec.field(default="", name="routeReflectorClusterID")


class OrchRef(Spec, frozen=True, kw_only=True):
    node_name: str = ""
    orchestrator: str = ""


class NodeSpec(Spec, frozen=True, kw_only=True):
    bgp: NodeBGP | None = None
    ipv4_vxlan_tunnel_addr: str = msgspec.field(default="", name="ipv4VXLANTunnelAddr")
    vxlan_tunnel_mac_addr: str = msgspec.field(default="", name="vxlanTunnelMACAddr")
    ipv6_vxlan_tunnel_addr: str = msgspec.field(default="", name="ipv6VXLANTunnelAddr")
    vxlan_tunnel_mac_addr_v6: str = msgspec.field(default="", name="vxlanTunnelMACAddrV6")
    orch_refs: tuple[OrchRef, ...] = ()
    wireguard: dict[str, Any] | None = None
    addresses: tuple[NodeAddress, ...] = ()

    @property
    def tunnel_addresses(self) -> tuple[str, ...]:
        """Those that are set, of IPIP, VXLAN and WireGuard."""
        wireguard = self.wireguard or {}
        texts = (
            self.bgp.ipv4_ipip_tunnel_addr if self.bgp else "",
            self.ipv4_vxlan_tunnel_addr,
            self.ipv6_vxlan_tunnel_addr,
            *(wireguard.get(f"interfaceIPv{family}Address") for family in (4, 6)),
        )
        return tuple(text for text in texts if isinstance(text, str) and text)


class Node(Resource, frozen=True, kw_only=True):
    spec: NodeSpec = NodeSpec()
    status: dict[str, Any] = {}


class ClusterInformationSpec(Spec, frozen=True, kw_only=True):
    cluster_guid: str = msgspec.field(default="", name="clusterGUID")
    cluster_type: str = ""
    calico_version: str = ""
    datastore_ready: bool | None = None
    variant: str = ""


class ClusterInformation(Resource, frozen=True, kw_only=True):
    spec: Annotated[ClusterInformationSpec, PRESENT] = ClusterInformationSpec()


Use = Literal["Workload", "Tunnel", "LoadBalancer"]


class IPPoolSpec(Spec, frozen=True, kw_only=True):
    cidr: Annotated[str, Limits(required=True, longest=48)] = ""
    vxlan_mode: Literal["Never", "Always", "CrossSubnet"] = "Never"
    ipip_mode: Literal["Never", "Always", "CrossSubnet"] = "Never"
    nat_outgoing: bool = False
    disabled: bool = False
    disable_bgp_export: bool = msgspec.field(default=False, name="disableBGPExport")
    block_size: Annotated[int, Limits(low=0, high=128)] = 0
    """Prefix length of a block; 0 means 26 for IPv4 and 122 for IPv6."""
    node_selector: Selector = "all()"
    namespace_selector: Selector = ""
    allowed_uses: Annotated[tuple[Use, ...], Limits(most=10, unique=True)] = ()
    """Empty means Workload and Tunnel."""
    assignment_mode: Literal["Automatic", "Manual"] = "Automatic"


class IPPool(Resource, frozen=True, kw_only=True):
    spec: Annotated[IPPoolSpec, PRESENT] = IPPoolSpec()
    status: Status = Status()
