"""Resources to what calc needs of them, parsed once per change.

A resource with a part that does not parse is refused whole: the graph then treats it as absent,
and what depends on it fails closed. The records are small and hold no resource: for most of the
cluster's endpoints, which live elsewhere, they are all that is remembered.
"""

from sys import intern
from typing import Literal

import msgspec

from tortie.calc.addresses import pack, unpack
from tortie.calc.limits import limits_of
from tortie.calc.policy_order import PolicyOrder, policy_order
from tortie.calc.rule_scanner import (
    NAMESPACE_PREFIX,
    SERVICE_ACCOUNT_PREFIX,
    ScannedRules,
    ServiceName,
    SetSpec,
    check_name,
    parse_namespace_selector,
    parse_protocol,
    parse_selector,
    parse_service_account_selector,
    scan_rules,
)
from tortie.desired.endpoint import FloatingAddress, Host, Limits, Pool
from tortie.desired.policy import Policy, PolicyId
from tortie.lib.errors import InvalidInput
from tortie.lib.ip import Network, outermost, parse_address, parse_network
from tortie.model.bgp_configuration import BGPConfiguration
from tortie.model.endpoint import (
    IPNAT,
    NAMESPACE_LABEL,
    ORCHESTRATOR_LABEL,
    SERVICE_ACCOUNT_LABEL,
    EndpointPort,
    HostEndpoint,
    WorkloadEndpoint,
    WorkloadEndpointPort,
    served_by_dhcp,
)
from tortie.model.endpoint_slice import KubernetesEndpointSlice
from tortie.model.keys import ResourceKey
from tortie.model.network_set import GlobalNetworkSet, NetworkSet
from tortie.model.node import IPPool, Node
from tortie.model.policy import (
    DEFAULT_TIER,
    Direction,
    GlobalNetworkPolicySpec,
    NetworkPolicySpec,
    Profile,
    Rule,
    policy_types,
)
from tortie.selector.normal import conjunction, in_namespace
from tortie.selector.syntax import Has, Not
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

    packed: bytes
    """See `networks`; the cluster has many of these."""
    ports: tuple[ServedPort, ...] = ()
    host: str = ""
    """Where a workload endpoint is."""
    floating: bytes = b""
    """Addresses that lead there beside its own, packed likewise; no set has them."""

    @property
    def networks(self) -> tuple[Network, ...]:
        """Made anew each time."""
        return unpack(self.packed)

    @property
    def destinations(self) -> tuple[Network, ...]:
        """What routes to it are for."""
        return unpack(self.packed + self.floating)


class Labelled(msgspec.Struct, frozen=True):
    """Labels, own and by inheritance, and what carries them."""

    labels: dict[str, str]
    parents: tuple[str, ...]
    """Profiles whose labels it inherits, the first to name a label wins."""
    member: Member


class Served(msgspec.Struct, frozen=True):
    """A part of where a service is served."""

    service: ServiceName
    member: Member
    """All its addresses serve all its ports."""


class Workload(msgspec.Struct, frozen=True):
    """A workload endpoint, on whichever host."""

    host: str
    interface: str
    mac: str
    labelled: Labelled
    floating: tuple[FloatingAddress, ...] = ()
    limits: Limits = Limits()
    sources: tuple[Network, ...] = ()
    """See `desired.endpoint.Endpoint`."""
    dhcp: bool = False
    """It gets its address by DHCP."""

    @property
    def networks(self) -> tuple[Network, ...]:
        return self.labelled.member.networks

    @property
    def destinations(self) -> tuple[Network, ...]:
        return self.labelled.member.destinations

    @property
    def profiles(self) -> tuple[str, ...]:
        return self.labelled.parents


class HostInterface(msgspec.Struct, frozen=True):
    """A host endpoint, on whichever host."""

    host: str
    interface: str
    labelled: Labelled

    @property
    def networks(self) -> tuple[Network, ...]:
        return self.labelled.member.networks

    @property
    def profiles(self) -> tuple[str, ...]:
        return self.labelled.parents


Place = Literal["normal", "untracked", "pre-dnat"]
"""Where on a packet's way a policy acts; all but the first are for host endpoints only."""


class ParsedPolicy(msgspec.Struct, frozen=True):
    """A policy, whether or not it applies to anything here."""

    policy: PolicyId
    selector: Selector
    """Of the endpoints that it applies to."""
    tier: str
    order: PolicyOrder
    directions: tuple[Direction, ...]
    passes: tuple[Direction, ...]
    """In which of them a packet can leave for the next tier."""
    rules: "KeptRules"
    problems: tuple[str, ...] = ()
    place: Place = "normal"
    on_forward: bool = False
    """Of a host endpoint: also for what is only passing through the host."""


class ActivePolicy(msgspec.Struct, frozen=True):
    """What the dataplane needs of a policy or profile, and what that rests on."""

    policy: Policy
    sets: dict[str, SetSpec]


_Rules = tuple[tuple[Rule, ...], tuple[Rule, ...]]
"""Ingress, egress."""

_rules_decoder = msgspec.msgpack.Decoder(_Rules)


class KeptRules(msgspec.Struct, frozen=True):
    """Rules that can be had when an endpoint here needs them; most policies of a cluster wait.

    A tenth of what they are as `ActivePolicy`.
    """

    kept: bytes | _Rules
    """Encoded, unless they hold text that is not Unicode."""
    tier: str
    """Empty for a profile."""
    namespace: str

    def active(self) -> ActivePolicy:
        """Worked out anew; never fails, as they were once before."""
        kept = self.kept
        ingress, egress = _rules_decoder.decode(kept) if isinstance(kept, bytes) else kept
        return _activatable(
            scan_rules(ingress, self.namespace), scan_rules(egress, self.namespace), self.tier
        )


def _kept(ingress: tuple[Rule, ...], egress: tuple[Rule, ...], tier: str, space: str) -> KeptRules:
    try:
        return KeptRules(msgspec.msgpack.encode((ingress, egress)), tier, space)
    except UnicodeEncodeError:
        return KeptRules((ingress, egress), tier, space)


class ParsedProfile(msgspec.Struct, frozen=True):
    labels: dict[str, str]
    rules: KeptRules
    problems: tuple[str, ...] = ()


class ParsedPool(msgspec.Struct, frozen=True):
    network: Network
    pool: Pool


def parse_workload_endpoint(
    key: ResourceKey, resource: WorkloadEndpoint, *, floating_addresses: bool = False
) -> Workload:
    """
    Args:
        floating_addresses: honour those of every orchestrator; OpenStack's always are.

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
    host = intern(spec.node)
    floating: tuple[FloatingAddress, ...] = ()
    if floating_addresses or spec.orchestrator == "openstack":
        floating = _floating(spec.ip_nats, networks)
    packed = pack(one.external for one in floating)
    member = Member(pack(networks), _served_ports(spec.ports), host, packed)
    return Workload(
        host=host,
        interface=spec.interface_name,
        mac=spec.mac.lower(),
        labelled=Labelled(labels, spec.profiles, member),
        floating=floating,
        limits=limits_of(spec.qos_controls),
        sources=tuple(outermost(map(parse_network, spec.allow_spoofed_source_prefixes))),
        dhcp=served_by_dhcp(resource),
    )


def _floating(
    translations: tuple[IPNAT, ...], networks: tuple[Network, ...]
) -> tuple[FloatingAddress, ...]:
    """Those that lead to one of the endpoint's own addresses; each leads to one."""
    found: dict[Network, FloatingAddress] = {}
    for one in sorted(translations, key=lambda one: one.internal_ip):
        external, internal = parse_address(one.external_ip), parse_address(one.internal_ip)
        if internal in networks and external.family == internal.family:
            found.setdefault(external, FloatingAddress(external, internal))
    return tuple(sorted(found.values()))


def parse_host_endpoint(resource: HostEndpoint) -> HostInterface:
    """
    Raises:
        InvalidInput: an address or port that does not parse.
    """
    spec = resource.spec
    networks = tuple(dict.fromkeys(map(parse_address, spec.expected_ips)))
    member = Member(pack(networks), _served_ports(spec.ports))
    labels = _labels_outside_namespaces(resource.metadata.labels)
    labelled = Labelled(labels, spec.profiles, member)
    return HostInterface(intern(spec.node), spec.interface_name, labelled)


def parse_network_set(key: ResourceKey, resource: NetworkSet) -> Labelled:
    """
    Raises:
        InvalidInput: a network that does not parse.
    """
    labels = _labels_in_namespace(resource.metadata.labels, key.namespace)
    parents = (NAMESPACE_PROFILE_PREFIX + key.namespace,)
    return Labelled(labels, parents, Member(_packed(resource.spec.nets)))


def parse_global_network_set(resource: GlobalNetworkSet) -> Labelled:
    """
    Raises:
        InvalidInput: a network that does not parse.
    """
    labels = _labels_outside_namespaces(resource.metadata.labels)
    return Labelled(labels, (), Member(_packed(resource.spec.nets)))


def parse_endpoint_slice(key: ResourceKey, resource: KubernetesEndpointSlice) -> Served:
    """
    Raises:
        InvalidInput: an address or port that does not parse.
    """
    spec = resource.spec
    texts = (text for endpoint in spec.endpoints for text in endpoint.addresses)
    ports = tuple(
        ServedPort(intern(port.name), parse_protocol(port.protocol), _port_number(port.port))
        for port in spec.ports
    )
    member = Member(pack(dict.fromkeys(map(parse_address, texts))), ports)
    return Served(ServiceName(key.namespace, spec.service), member)


def parse_policy(
    policy: PolicyId,
    spec: NetworkPolicySpec | GlobalNetworkPolicySpec,
    *,
    enforced: PolicyId | None = None,
) -> ParsedPolicy:
    """
    Args:
        policy: global if it has no namespace.
        enforced: what a staged policy would be if it were enforced; its order depends on that.

    Raises:
        InvalidInput: a selector or a part of a rule that does not parse.
    """
    namespace = "" if isinstance(spec, GlobalNetworkPolicySpec) else check_name(policy.namespace)
    place = _place(spec)
    directions = policy_types(spec)
    ingress = spec.ingress if "Ingress" in directions else ()
    egress = spec.egress if "Egress" in directions else ()
    scanned = {"Ingress": scan_rules(ingress, namespace), "Egress": scan_rules(egress, namespace)}
    tier = spec.tier or DEFAULT_TIER
    return ParsedPolicy(
        policy=policy,
        selector=_policy_selector(spec, namespace, place),
        tier=tier,
        order=policy_order(enforced or policy, spec.order),
        directions=directions,
        passes=tuple(direction for direction in directions if scanned[direction].passes),
        rules=_kept(ingress, egress, tier, namespace),
        problems=_problems(scanned["Ingress"], scanned["Egress"]),
        place=place,
        on_forward=isinstance(spec, GlobalNetworkPolicySpec) and spec.apply_on_forward,
    )


def _policy_selector(
    spec: NetworkPolicySpec | GlobalNetworkPolicySpec, namespace: str, place: Place
) -> Selector:
    terms = [parse_selector(spec.selector)]
    if spec.service_account_selector:
        terms.append(parse_service_account_selector(spec.service_account_selector))
    if isinstance(spec, GlobalNetworkPolicySpec) and spec.namespace_selector:
        terms.insert(0, parse_namespace_selector(spec.namespace_selector))
    if place != "normal":
        # Host endpoints are in no namespace, and workloads always in one.
        terms.insert(0, Not(Has(NAMESPACE_LABEL)))
    selector = conjunction(*terms)
    return in_namespace(selector, namespace) if namespace else selector


def _place(spec: NetworkPolicySpec | GlobalNetworkPolicySpec) -> Place:
    if isinstance(spec, GlobalNetworkPolicySpec):
        if spec.do_not_track:
            return "untracked"
        if spec.pre_dnat:
            return "pre-dnat"
    return "normal"


def parse_profile(resource: Profile) -> ParsedProfile:
    """
    Raises:
        InvalidInput: a part of a rule that does not parse.
    """
    ingress = scan_rules(resource.spec.ingress, "")
    egress = scan_rules(resource.spec.egress, "")
    return ParsedProfile(
        labels=_labels_outside_namespaces(resource.spec.labels_to_apply),
        rules=_kept(resource.spec.ingress, resource.spec.egress, tier="", space=""),
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


def parse_service_networks(resource: BGPConfiguration) -> frozenset[Network]:
    """Where services have addresses.

    Raises:
        InvalidInput: a CIDR does not parse.
    """
    return frozenset(parse_network(block.cidr) for block in resource.spec.service_blocks)


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


def _packed(nets: tuple[str, ...]) -> bytes:
    return pack(dict.fromkeys(map(parse_network, nets)))


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
