"""Resources to what calc needs of them, parsed once per change.

A resource with a part that does not parse is refused whole: the graph then treats it as absent,
and what depends on it fails closed. The records are small and hold no resource: for most of the
cluster's endpoints, which live elsewhere, they are all that is remembered.
"""

from sys import intern
from typing import Literal

import msgspec

from tortie.calc.policy_order import PolicyOrder, policy_order
from tortie.calc.rule_scanner import (
    NAMESPACE_PREFIX,
    SERVICE_ACCOUNT_PREFIX,
    ScannedRules,
    SetSpec,
    check_name,
    parse_namespace_selector,
    parse_protocol,
    parse_selector,
    parse_service_account_selector,
    scan_rules,
)
from tortie.desired.endpoint import Host, Pool
from tortie.desired.policy import Policy, PolicyId
from tortie.lib.errors import InvalidInput
from tortie.lib.ip import Network, parse_address, parse_network
from tortie.model.endpoint import (
    NAMESPACE_LABEL,
    ORCHESTRATOR_LABEL,
    SERVICE_ACCOUNT_LABEL,
    EndpointPort,
    HostEndpoint,
    WorkloadEndpoint,
    WorkloadEndpointPort,
)
from tortie.model.keys import ResourceKey
from tortie.model.network_set import GlobalNetworkSet, NetworkSet
from tortie.model.node import IPPool, Node
from tortie.model.policy import (
    DEFAULT_TIER,
    Direction,
    GlobalNetworkPolicy,
    NetworkPolicy,
    Profile,
    policy_types,
)
from tortie.selector.normal import conjunction, in_namespace
from tortie.selector.syntax import Node as Selector

NAMESPACE_PROFILE_PREFIX = "kns."
"""Before a namespace's name: the profile that gives its labels."""


_LENT = (NAMESPACE_PREFIX, SERVICE_ACCOUNT_PREFIX)


class ServedPort(msgspec.Struct, frozen=True, gc=False):
    """A port that an endpoint serves under a name."""

    name: str
    protocol: int
    port: int


class Member(msgspec.Struct, frozen=True, gc=False):
    """What selectors can select, and what it brings into the sets of those that do."""

    networks: tuple[Network, ...]
    ports: tuple[ServedPort, ...] = ()


class Labelled(msgspec.Struct, frozen=True):
    """Labels, own and by inheritance, and what carries them."""

    labels: dict[str, str]
    parents: tuple[str, ...]
    """Profiles whose labels it inherits, the first to name a label wins."""
    member: Member


class Workload(msgspec.Struct, frozen=True):
    """A workload endpoint, on whichever host."""

    host: str
    interface: str
    mac: str
    labelled: Labelled

    @property
    def networks(self) -> tuple[Network, ...]:
        return self.labelled.member.networks

    @property
    def profiles(self) -> tuple[str, ...]:
        return self.labelled.parents


class ParsedPolicy(msgspec.Struct, frozen=True):
    """A policy, whether or not it applies to anything here."""

    selector: Selector
    """Of the workload endpoints that it applies to."""
    tier: str
    order: PolicyOrder
    directions: tuple[Direction, ...]
    passes: tuple[Direction, ...]
    """In which of them a packet can leave for the next tier."""
    active: "ActivePolicy"
    problems: tuple[str, ...] = ()


class ActivePolicy(msgspec.Struct, frozen=True):
    """What the dataplane needs of a policy or profile, and what that rests on."""

    policy: Policy
    sets: dict[str, SetSpec]


class ParsedProfile(msgspec.Struct, frozen=True):
    labels: dict[str, str]
    active: ActivePolicy
    problems: tuple[str, ...] = ()


class ParsedPool(msgspec.Struct, frozen=True):
    network: Network
    pool: Pool


def parse_workload_endpoint(key: ResourceKey, resource: WorkloadEndpoint) -> Workload:
    """
    Raises:
        InvalidInput: an address or port that does not parse, or a network of several addresses.
    """
    spec = resource.spec
    labels = _labels_in_namespace(resource.metadata.labels, key.namespace)
    if spec.orchestrator:
        labels[ORCHESTRATOR_LABEL] = spec.orchestrator
    if spec.service_account_name:
        labels[SERVICE_ACCOUNT_LABEL] = spec.service_account_name
    networks = tuple(dict.fromkeys(map(parse_address, spec.ip_networks)))
    return Workload(
        host=intern(spec.node),
        interface=spec.interface_name,
        mac=spec.mac.lower(),
        labelled=Labelled(labels, spec.profiles, Member(networks, _served_ports(spec.ports))),
    )


def parse_host_endpoint(resource: HostEndpoint) -> Labelled:
    """
    Raises:
        InvalidInput: an address or port that does not parse.
    """
    spec = resource.spec
    networks = tuple(dict.fromkeys(map(parse_address, spec.expected_ips)))
    member = Member(networks, _served_ports(spec.ports))
    return Labelled(_labels_outside_namespaces(resource.metadata.labels), spec.profiles, member)


def parse_network_set(key: ResourceKey, resource: NetworkSet) -> Labelled:
    """
    Raises:
        InvalidInput: a network that does not parse.
    """
    labels = _labels_in_namespace(resource.metadata.labels, key.namespace)
    parents = (NAMESPACE_PROFILE_PREFIX + key.namespace,)
    return Labelled(labels, parents, Member(_networks(resource.spec.nets)))


def parse_global_network_set(resource: GlobalNetworkSet) -> Labelled:
    """
    Raises:
        InvalidInput: a network that does not parse.
    """
    labels = _labels_outside_namespaces(resource.metadata.labels)
    return Labelled(labels, (), Member(_networks(resource.spec.nets)))


def parse_policy(
    key: ResourceKey, resource: NetworkPolicy | GlobalNetworkPolicy
) -> ParsedPolicy | None:
    """None for a policy that is not for workload endpoints (untracked or before DNAT).

    Raises:
        InvalidInput: a selector or a part of a rule that does not parse.
    """
    spec = resource.spec
    namespace = check_name(key.namespace) if isinstance(resource, NetworkPolicy) else ""
    terms = [parse_selector(spec.selector)]
    if spec.service_account_selector:
        terms.append(parse_service_account_selector(spec.service_account_selector))
    if isinstance(resource, GlobalNetworkPolicy) and resource.spec.namespace_selector:
        terms.insert(0, parse_namespace_selector(resource.spec.namespace_selector))
    selector = conjunction(*terms)
    directions = policy_types(spec)
    scanned = {
        "Ingress": scan_rules(spec.ingress if "Ingress" in directions else (), namespace),
        "Egress": scan_rules(spec.egress if "Egress" in directions else (), namespace),
    }
    tier = spec.tier or DEFAULT_TIER
    if isinstance(resource, GlobalNetworkPolicy) and (
        resource.spec.do_not_track or resource.spec.pre_dnat
    ):
        return None
    return ParsedPolicy(
        selector=in_namespace(selector, namespace) if namespace else selector,
        tier=tier,
        order=policy_order(PolicyId(key.kind, key.name, namespace), spec.order),
        directions=directions,
        passes=tuple(direction for direction in directions if scanned[direction].passes),
        active=_activatable(scanned["Ingress"], scanned["Egress"], tier),
        problems=_problems(scanned["Ingress"], scanned["Egress"]),
    )


def parse_profile(resource: Profile) -> ParsedProfile:
    """
    Raises:
        InvalidInput: a part of a rule that does not parse.
    """
    ingress = scan_rules(resource.spec.ingress, "")
    egress = scan_rules(resource.spec.egress, "")
    return ParsedProfile(
        labels=_labels_outside_namespaces(resource.spec.labels_to_apply),
        active=_activatable(ingress, egress, tier=""),
        problems=_problems(ingress, egress),
    )


def parse_pool(resource: IPPool) -> ParsedPool:
    """
    Raises:
        InvalidInput: its CIDR does not parse.
    """
    spec = resource.spec
    pool = Pool(masquerade=spec.nat_outgoing, export=not spec.disable_bgp_export)
    return ParsedPool(parse_network(spec.cidr), pool)


def parse_node(resource: Node) -> Host:
    """Its addresses are those of BGP, else the first of the node's own or internal ones.

    Raises:
        InvalidInput: an address that does not parse.
    """
    bgp = resource.spec.bgp
    texts = [bgp.ipv4_address, bgp.ipv6_address] if bgp else []
    for wanted in ("CalicoNodeIP", "InternalIP"):
        texts += [entry.address for entry in resource.spec.addresses if entry.type == wanted]
    addresses: dict[int, Network] = {}
    subnets: dict[int, Network] = {}
    for text in filter(None, texts):
        subnet = parse_network(text)
        if subnet.family not in addresses:
            addresses[subnet.family] = parse_address(text.partition("/")[0])
            if not subnet.is_address:
                subnets[subnet.family] = subnet
    return Host(
        ipv4=addresses.get(4),
        ipv6=addresses.get(6),
        ipv4_subnet=subnets.get(4),
        ipv6_subnet=subnets.get(6),
        as_number=bgp.as_number if bgp else None,
    )


def _activatable(
    ingress: ScannedRules, egress: ScannedRules, tier: Literal[""] | str
) -> ActivePolicy:
    return ActivePolicy(Policy(ingress.rules, egress.rules, tier), {**ingress.sets, **egress.sets})


def _problems(ingress: ScannedRules, egress: ScannedRules) -> tuple[str, ...]:
    return (
        *(f"ingress {problem}" for problem in ingress.problems),
        *(f"egress {problem}" for problem in egress.problems),
    )


def _labels_in_namespace(labels: dict[str, str], namespace: str) -> dict[str, str]:
    """With the label that says so, and without any that only profiles may give.

    Whoever may label an endpoint must not thereby choose its namespace or service account.

    Source: Calico, libcalico-go/lib/backend/syncersv1/updateprocessors/
    workloadendpointprocessor.go (there for workload endpoints only).
    """
    own = {label: value for label, value in labels.items() if not label.startswith(_LENT)}
    return own | {NAMESPACE_LABEL: namespace}


def _labels_outside_namespaces(labels: dict[str, str]) -> dict[str, str]:
    """Without the label that would put their bearer into a namespace."""
    return {label: value for label, value in labels.items() if label != NAMESPACE_LABEL}


def _networks(texts: tuple[str, ...]) -> tuple[Network, ...]:
    return tuple(dict.fromkeys(map(parse_network, texts)))


def _served_ports(
    ports: tuple[WorkloadEndpointPort, ...] | tuple[EndpointPort, ...],
) -> tuple[ServedPort, ...]:
    return tuple(
        ServedPort(intern(port.name), parse_protocol(port.protocol), _port_number(port.port))
        for port in ports
        if port.name
    )


def _port_number(port: int) -> int:
    if not 0 < port < 65536:
        raise InvalidInput(f"{port} is not a port")
    return port
