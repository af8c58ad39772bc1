"""One object of API v1 to today's resource; what `calicoctl convert` makes of it.

Source: Calico, libcalico-go/lib/upgrade/converters. Unlike there, an endpoint of a pod keeps its
namespace.
"""

import functools
from typing import Literal

from tortie.lib.errors import InvalidInput
from tortie.lib.ip import parse_address, parse_network
from tortie.model import endpoint, node, policy
from tortie.model.bgp_peer import BGPPeer, BGPPeerSpec
from tortie.model.documents import DEFAULT_NAMESPACE
from tortie.model.endpoint import NAMESPACE_LABEL
from tortie.model.metadata import Metadata, Resource
from tortie.model.names import workload_endpoint_name
from tortie.model.policy import DEFAULT_TIER, TIER_LABEL, Direction, GlobalNetworkPolicySpec
from tortie.model.version1 import names, rules
from tortie.model.version1 import resources as v1

Object = (
    v1.Policy
    | v1.Profile
    | v1.IPPool
    | v1.BGPPeer
    | v1.HostEndpoint
    | v1.WorkloadEndpoint
    | v1.Node
)

STRUCTS: dict[str, type[Object]] = {
    "policy": v1.Policy,
    "profile": v1.Profile,
    "ipPool": v1.IPPool,
    "bgpPeer": v1.BGPPeer,
    "hostEndpoint": v1.HostEndpoint,
    "workloadEndpoint": v1.WorkloadEndpoint,
    "node": v1.Node,
}
"""By kind."""

_DIRECTIONS: dict[str, Direction] = {"ingress": "Ingress", "egress": "Egress"}

_IPIP_MODES: dict[str, Literal["Always", "CrossSubnet"]] = {
    "": "Always",
    "always": "Always",
    "cross-subnet": "CrossSubnet",
}


@functools.singledispatch
def convert(given: Object) -> Resource:
    """
    Raises:
        InvalidInput: an address, network, number or action in it is none, what it must name is
            missing, or a profile has one word as a tag and as a label.
    """
    raise TypeError(f"{type(given).__name__} is no object of API v1")


@convert.register
def _policy(given: v1.Policy) -> policy.GlobalNetworkPolicy:
    spec, metadata = given.spec, given.metadata
    tier = names.policy_name(metadata.tier) if metadata.tier else DEFAULT_TIER
    name = names.policy_name(metadata.name)
    described = Metadata(
        name=name if tier == DEFAULT_TIER else f"{tier}.{name}",
        labels={TIER_LABEL: tier},
        annotations=metadata.annotations,
    )
    converted = GlobalNetworkPolicySpec(
        tier=tier,
        order=spec.order,
        ingress=rules.rules(spec.ingress),
        egress=rules.rules(spec.egress),
        selector=rules.selector(spec.selector),
        types=tuple(_DIRECTIONS[one] for one in dict.fromkeys(spec.types)),
        do_not_track=spec.do_not_track,
        pre_dnat=spec.pre_dnat,
        # Such policy always was for forwarded traffic too.
        apply_on_forward=spec.do_not_track or spec.pre_dnat,
    )
    return policy.GlobalNetworkPolicy(
        kind="GlobalNetworkPolicy", metadata=described, spec=converted
    )


@convert.register
def _profile(given: v1.Profile) -> policy.Profile:
    labels = given.metadata.labels
    both = [tag for tag in given.metadata.tags if tag in labels]
    if both:
        raise InvalidInput(
            f"metadata.tags: {both[0]!r} is a label, too, and a tag becomes a label: rename one"
        )
    spec = policy.ProfileSpec(
        ingress=rules.rules(given.spec.ingress),
        egress=rules.rules(given.spec.egress),
        labels_to_apply=labels | dict.fromkeys(given.metadata.tags, ""),
    )
    metadata = Metadata(name=names.profile_name(given.metadata.name))
    return policy.Profile(kind="Profile", metadata=metadata, spec=spec)


@convert.register
def _pool(given: v1.IPPool) -> node.IPPool:
    cidr = parse_network(given.metadata.cidr)
    ipip = given.spec.ipip
    spec = node.IPPoolSpec(
        cidr=str(cidr),
        ipip_mode=_IPIP_MODES[ipip.mode] if ipip.enabled else "Never",
        nat_outgoing=given.spec.nat_outgoing,
        disabled=given.spec.disabled,
    )
    metadata = Metadata(name=names.network_name(cidr))
    return node.IPPool(kind="IPPool", metadata=metadata, spec=spec)


@convert.register
def _peer(given: v1.BGPPeer) -> BGPPeer:
    metadata = given.metadata
    if (metadata.scope == "node") != bool(metadata.node):
        raise InvalidInput("metadata.node is for scope node, and only for it")
    address = parse_address(metadata.peer_ip)
    on = names.node_name(metadata.node)
    name = names.address_name(address)
    spec = BGPPeerSpec(
        node=on, peer_ip=address.address_text, as_number=_as_number(given.spec.as_number)
    )
    described = Metadata(name=f"{on}.{name}" if on else name)
    return BGPPeer(kind="BGPPeer", metadata=described, spec=spec)


@convert.register
def _host_endpoint(given: v1.HostEndpoint) -> endpoint.HostEndpoint:
    metadata, spec = given.metadata, given.spec
    on = names.node_name(metadata.node)
    addresses = sorted(map(parse_address, spec.expected_ips), key=lambda one: one.family)
    converted = endpoint.HostEndpointSpec(
        node=on,
        interface_name=spec.interface_name,
        expected_ips=tuple(address.address_text for address in addresses),
        profiles=tuple(map(names.profile_name, spec.profiles)),
        ports=tuple(
            endpoint.EndpointPort(
                name=port.name, protocol=rules.protocol(port.protocol), port=port.port
            )
            for port in spec.ports
        ),
    )
    name = names.resource_name(f"{on}.{metadata.name}")
    described = Metadata(name=name, labels=metadata.labels)
    return endpoint.HostEndpoint(kind="HostEndpoint", metadata=described, spec=converted)


@convert.register
def _workload_endpoint(given: v1.WorkloadEndpoint) -> endpoint.WorkloadEndpoint:
    spec = given.spec
    namespace, identity = _identity(given.metadata)
    networks = sorted(map(parse_network, spec.ip_networks), key=lambda one: one.family)
    nats = sorted(spec.ip_nats, key=lambda nat: parse_address(nat.internal_ip).family)
    converted = endpoint.WorkloadEndpointSpec(
        orchestrator=names.resource_name(given.metadata.orchestrator),
        node=names.node_name(given.metadata.node),
        endpoint=names.resource_name(given.metadata.name),
        workload=identity.workload,
        pod=identity.pod,
        container_id=identity.container_id,
        ip_networks=tuple(map(str, networks)),
        ip_nats=tuple(
            endpoint.IPNAT(internal_ip=nat.internal_ip, external_ip=nat.external_ip) for nat in nats
        ),
        ipv4_gateway=spec.ipv4_gateway,
        ipv6_gateway=spec.ipv6_gateway,
        profiles=tuple(map(names.profile_name, spec.profiles)),
        interface_name=spec.interface_name,
        mac=spec.mac.lower(),
        ports=tuple(
            endpoint.WorkloadEndpointPort(
                name=port.name, protocol=rules.protocol(port.protocol), port=port.port
            )
            for port in spec.ports
        ),
    )
    labels = dict(given.metadata.labels)
    if "calico/k8s_ns" in labels:
        labels[NAMESPACE_LABEL] = labels.pop("calico/k8s_ns")
    described = Metadata(name=workload_endpoint_name(converted), namespace=namespace, labels=labels)
    return endpoint.WorkloadEndpoint(kind="WorkloadEndpoint", metadata=described, spec=converted)


def _identity(
    metadata: v1.WorkloadEndpointMetadata,
) -> tuple[str, endpoint.WorkloadEndpointSpec]:
    """The namespace, and a spec with only that of workload, pod and container that names it."""
    named = endpoint.WorkloadEndpointSpec
    match metadata.orchestrator:
        case "k8s":
            namespace, dot, pod = metadata.workload.partition(".")
            if not (namespace and dot and pod):
                raise InvalidInput(
                    f"metadata.workload: {metadata.workload!r} is not NAMESPACE.POD: it was not "
                    "made by Calico's plugin for Kubernetes and cannot be converted"
                )
            return namespace, named(pod=pod, container_id=metadata.active_instance_id)
        case "cni":
            return DEFAULT_NAMESPACE, named(container_id=metadata.workload)
        case "libnetwork":
            return DEFAULT_NAMESPACE, named(workload="libnetwork")
    return DEFAULT_NAMESPACE, named(workload=names.resource_name(metadata.workload))


@convert.register
def _node(given: v1.Node) -> node.Node:
    spec = node.NodeSpec(
        bgp=_node_bgp(given.spec.bgp),
        orch_refs=tuple(
            node.OrchRef(node_name=ref.node_name, orchestrator=ref.orchestrator)
            for ref in given.spec.orch_refs
        ),
    )
    metadata = Metadata(name=names.node_name(given.metadata.name))
    return node.Node(kind="Node", metadata=metadata, spec=spec)


def _node_bgp(given: v1.NodeBGP | None) -> node.NodeBGP | None:
    if given is None:
        return None
    if not given.ipv4_address and not given.ipv6_address:
        raise InvalidInput("spec.bgp: ipv4Address or ipv6Address is needed")
    return node.NodeBGP(
        as_number=None if given.as_number is None else _as_number(given.as_number),
        ipv4_address=_with_length(given.ipv4_address),
        ipv6_address=_with_length(given.ipv6_address),
    )


def _with_length(address: str) -> str:
    """An address of a node with its subnet's length; alone it is alone in its subnet."""
    if not address or "/" in address:
        return address
    return str(parse_address(address))


def _as_number(given: int | str) -> int:
    """
    Raises:
        InvalidInput: neither a number nor `HIGH.LOW`, 16 bits each (RFC 5396).
    """
    halves = str(given).split(".")
    if not all(half.isascii() and half.isdigit() for half in halves) or len(halves) > 2:
        raise InvalidInput(f"spec.asNumber: {given!r} is no AS number")
    if len(halves) == 1:
        return int(halves[0])
    high, low = map(int, halves)
    if high > 0xFFFF or low > 0xFFFF:
        raise InvalidInput(f"spec.asNumber: each half of {given!r} is 65535 at most")
    return high << 16 | low
