"""Rules of nodes, pools, endpoints and network sets."""

from collections.abc import Iterator

import msgspec

from tortie.lib.errors import InvalidInput
from tortie.lib.ip import Network, parse_network, parsed_network
from tortie.model import names
from tortie.model.endpoint import (
    IPNAT,
    NAMESPACE_LABEL,
    QOS_RANGES,
    EndpointPort,
    HostEndpoint,
    QoSControls,
    WorkloadEndpoint,
    WorkloadEndpointPort,
)
from tortie.model.network_set import GlobalNetworkSet, NetworkSet
from tortie.model.node import IPPool, IPPoolSpec, Node, NodeBGP
from tortie.model.validation import terms
from tortie.model.validation.terms import Problem

ADDRESS_TYPES = ("CalicoNodeIP", "InternalIP", "ExternalIP")

BLOCK_LENGTHS = {4: (20, 32), 6: (116, 128)}
"""Shortest and longest prefix of a block, by family."""

DEFAULT_BLOCK_LENGTH = {4: 26, 6: 122}

_LINK_LOCAL = (Network(4, 0xA9FE0000, 16), Network(6, 0xFE80 << 112, 10))


def node_problems(node: Node) -> Iterator[Problem]:
    spec = node.spec
    if spec.bgp is not None:
        if spec.bgp == NodeBGP():
            yield Problem("spec.bgp", None, "must not be empty: leave it out or give an address")
        yield from _bgp_problems(spec.bgp)
    if spec.ipv4_vxlan_tunnel_addr:
        yield from terms.address_problems(
            "spec.ipv4VXLANTunnelAddr", spec.ipv4_vxlan_tunnel_addr, 4
        )
    if spec.ipv6_vxlan_tunnel_addr:
        yield from terms.address_problems(
            "spec.ipv6VXLANTunnelAddr", spec.ipv6_vxlan_tunnel_addr, 6
        )
    for field, mac in (
        ("vxlanTunnelMACAddr", spec.vxlan_tunnel_mac_addr),
        ("vxlanTunnelMACAddrV6", spec.vxlan_tunnel_mac_addr_v6),
    ):
        if mac:
            yield from terms.mac_problems(f"spec.{field}", mac)
    for index, address in enumerate(spec.addresses):
        path = f"spec.addresses[{index}]"
        if parsed_network(address.address) is None:
            yield Problem(f"{path}.address", address.address, "must be an IP address")
        if address.type:
            yield from terms.choice_problems(f"{path}.type", address.type, ADDRESS_TYPES)
    for index, reference in enumerate(spec.orch_refs):
        if not reference.orchestrator:
            yield Problem(f"spec.orchRefs[{index}].orchestrator", "", "is needed")


def _bgp_problems(bgp: NodeBGP) -> Iterator[Problem]:
    yield from terms.range_problems("spec.bgp.asNumber", bgp.as_number, 1, 2**32 - 1)
    for family, text in ((4, bgp.ipv4_address), (6, bgp.ipv6_address)):
        if text:
            yield from terms.host_network_problems(f"spec.bgp.ipv{family}Address", text, family)
    if bgp.ipv4_ipip_tunnel_addr:
        path = "spec.bgp.ipv4IPIPTunnelAddr"
        yield from terms.address_problems(path, bgp.ipv4_ipip_tunnel_addr, 4)
    if bgp.route_reflector_cluster_id:
        path = "spec.bgp.routeReflectorClusterID"
        yield from terms.address_problems(path, bgp.route_reflector_cluster_id, 4)


def pool_problems(pool: IPPool) -> Iterator[Problem]:
    spec = pool.spec
    yield from terms.selector_problems("spec.nodeSelector", spec.node_selector)
    yield from terms.selector_problems("spec.namespaceSelector", spec.namespace_selector)
    yield from terms.unique_problems("spec.allowedUses", spec.allowed_uses)
    if not spec.cidr:
        yield Problem("spec.cidr", "", "is needed")
        return
    # Always strict: the pool's own text is its name in many places.
    yield from terms.network_problems("spec.cidr", spec.cidr, strict=True)
    network = parsed_network(spec.cidr)
    if network is None:
        return
    if any(network.overlaps(other) for other in _LINK_LOCAL):
        yield Problem("spec.cidr", spec.cidr, "must not overlap link-local addresses")
    yield from _block_size_problems(spec, network)
    yield from _mode_problems(spec, network)


def _block_size_problems(spec: IPPoolSpec, network: Network) -> Iterator[Problem]:
    low, high = BLOCK_LENGTHS[network.family]
    length = spec.block_size or DEFAULT_BLOCK_LENGTH[network.family]
    if not low <= length <= high:
        rule = f"must be {low} to {high} for IPv{network.family}"
        yield Problem("spec.blockSize", spec.block_size, rule)
    elif network.length > length and not spec.disabled:
        rule = f"is smaller than one block, /{length}; make it larger or set blockSize"
        yield Problem("spec.cidr", spec.cidr, rule)


def _mode_problems(spec: IPPoolSpec, network: Network) -> Iterator[Problem]:
    ipip, vxlan = spec.ipip_mode != "Never", spec.vxlan_mode != "Never"
    if ipip and vxlan:
        yield Problem("spec.vxlanMode", spec.vxlan_mode, "must be Never with ipipMode")
    if ipip and network.family == 6:
        yield Problem("spec.ipipMode", spec.ipip_mode, "must be Never for IPv6")
    if "Tunnel" in spec.allowed_uses and spec.namespace_selector:
        path = "spec.namespaceSelector"
        yield Problem(path, spec.namespace_selector, "cannot go with use Tunnel")
    if "LoadBalancer" not in spec.allowed_uses:
        return
    if len(spec.allowed_uses) > 1:
        yield Problem("spec.allowedUses", spec.allowed_uses, "must be LoadBalancer alone")
    if ipip or vxlan:
        path = "spec.ipipMode" if ipip else "spec.vxlanMode"
        yield Problem(path, "on", "must be Never with use LoadBalancer")
    if spec.disable_bgp_export:
        yield Problem("spec.disableBGPExport", True, "must be false with use LoadBalancer")
    if spec.node_selector != "all()":
        yield Problem(
            "spec.nodeSelector", spec.node_selector, "must be all() with use LoadBalancer"
        )


def network_set_problems(resource: NetworkSet | GlobalNetworkSet) -> Iterator[Problem]:
    yield from terms.networks_problems("spec.nets", resource.spec.nets, strict=False)
    if NAMESPACE_LABEL in resource.metadata.labels:
        path = f"metadata.labels.{NAMESPACE_LABEL}"
        yield Problem(path, resource.metadata.labels[NAMESPACE_LABEL], "is reserved")


def host_endpoint_problems(endpoint: HostEndpoint) -> Iterator[Problem]:
    spec = endpoint.spec
    if not spec.node:
        yield Problem("spec.node", "", "is needed")
    if spec.interface_name:
        yield from terms.interface_problems("spec.interfaceName", spec.interface_name, star=True)
    elif not spec.expected_ips:
        yield Problem("spec.interfaceName", "", "is needed, or expectedIPs")
    for index, text in enumerate(spec.expected_ips):
        yield from terms.address_problems(f"spec.expectedIPs[{index}]", text)
    for index, port in enumerate(spec.ports):
        if not port.name:
            yield Problem(f"spec.ports[{index}].name", "", "is needed")
        yield from _port_problems(f"spec.ports[{index}]", port)


def _port_problems(path: str, port: EndpointPort | WorkloadEndpointPort) -> Iterator[Problem]:
    if port.name and not names.is_port_name(port.name):
        yield Problem(
            f"{path}.name", port.name, "must be 1 to 15 of a-z, 0-9 and '-', one a letter"
        )
    if not terms.is_port_number(port.port):
        yield Problem(f"{path}.port", port.port, "must be 1 to 65535")
    if terms.protocol_number(port.protocol) not in terms.WITH_PORTS:
        yield Problem(f"{path}.protocol", port.protocol, "must be TCP, UDP or SCTP")


def workload_endpoint_problems(endpoint: WorkloadEndpoint) -> Iterator[Problem]:
    spec = endpoint.spec
    try:
        expected = names.workload_endpoint_name(spec)
    except InvalidInput as error:
        yield Problem("spec", None, str(error))
    else:
        if endpoint.metadata.name not in (expected, ""):
            rule = f"must be {expected}, which its spec spells out"
            yield Problem("metadata.name", endpoint.metadata.name, rule)
    if spec.interface_name:
        yield from terms.interface_problems("spec.interfaceName", spec.interface_name)
    if spec.mac:
        yield from terms.mac_problems("spec.mac", spec.mac)
    for index, text in enumerate(spec.ip_networks):
        yield from terms.address_problems(f"spec.ipNetworks[{index}]", text)
    owned = {parsed_network(text) for text in spec.ip_networks}
    for index, nat in enumerate(spec.ip_nats):
        yield from _nat_problems(f"spec.ipNATs[{index}]", nat, owned)
    for family, gateway in ((4, spec.ipv4_gateway), (6, spec.ipv6_gateway)):
        if gateway:
            yield from terms.address_problems(f"spec.ipv{family}Gateway", gateway, family)
    if spec.qos_controls is not None:
        yield from _qos_problems("spec.qosControls", spec.qos_controls)
    path = "spec.allowSpoofedSourcePrefixes"
    yield from terms.networks_problems(path, spec.allow_spoofed_source_prefixes, strict=False)
    for index, port in enumerate(spec.ports):
        yield from _port_problems(f"spec.ports[{index}]", port)
        if not port.name and not port.host_port:
            yield Problem(f"spec.ports[{index}].name", "", "is needed, or hostPort")
        yield from terms.range_problems(f"spec.ports[{index}].hostPort", port.host_port, 0, 65535)
        if port.host_ip:
            yield from terms.address_problems(f"spec.ports[{index}].hostIP", port.host_ip)


def _qos_problems(path: str, controls: QoSControls) -> Iterator[Problem]:
    for field in msgspec.structs.fields(controls):
        value = getattr(controls, field.name)
        limits = QOS_RANGES.get(field.encode_name.removeprefix("ingress").removeprefix("egress"))
        if limits and value:
            yield from terms.range_problems(f"{path}.{field.encode_name}", value, *limits)
    if isinstance(controls.dscp, int):
        yield from terms.range_problems(f"{path}.dscp", controls.dscp, 0, 63)


def _nat_problems(path: str, nat: IPNAT, owned: set[Network | None]) -> Iterator[Problem]:
    yield from terms.address_problems(f"{path}.internalIP", nat.internal_ip)
    yield from terms.address_problems(f"{path}.externalIP", nat.external_ip)
    inside, outside = parsed_network(nat.internal_ip), parsed_network(nat.external_ip)
    if inside is None or outside is None:
        return
    if inside not in owned:
        yield Problem(f"{path}.internalIP", nat.internal_ip, "must be one of ipNetworks")
    if inside.family != outside.family:
        yield Problem(f"{path}.externalIP", nat.external_ip, f"must be IPv{inside.family} as well")


def normal_network(text: str) -> str:
    """The one way to write a network; what is none stays as it is."""
    try:
        return str(parse_network(text, strict=True))
    except InvalidInput:
        return text
