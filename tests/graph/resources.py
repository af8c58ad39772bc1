"""Short ways to write datastore entries: each returns one (key, value)."""

from collections.abc import Sequence

import msgspec

from tortie.lib.ip import parse_network
from tortie.model.bgp_configuration import BGPConfiguration, BGPConfigurationSpec, ServiceBlock
from tortie.model.catalogue import TYPES
from tortie.model.endpoint import (
    EndpointPort,
    HostEndpoint,
    HostEndpointSpec,
    WorkloadEndpoint,
    WorkloadEndpointPort,
    WorkloadEndpointSpec,
)
from tortie.model.endpoint_slice import (
    KubernetesEndpointSlice,
    KubernetesEndpointSliceSpec,
    SliceEndpoint,
    SlicePort,
)
from tortie.model.ipam import BlockAffinity
from tortie.model.keys import AffinityKey, Key, ResourceKey
from tortie.model.live_migration import (
    LiveMigration,
    LiveMigrationSpec,
    LiveMigrationTarget,
    WorkloadEndpointIdentifier,
)
from tortie.model.metadata import Metadata
from tortie.model.network_set import GlobalNetworkSet, NetworkSet, NetworkSetSpec
from tortie.model.node import IPPool, IPPoolSpec, Node, NodeAddress, NodeBGP, NodeSpec
from tortie.model.policy import (
    EntityRule,
    GlobalNetworkPolicy,
    GlobalNetworkPolicySpec,
    NetworkPolicy,
    NetworkPolicySpec,
    Profile,
    ProfileSpec,
    Rule,
    Tier,
    TierSpec,
)

Entry = tuple[Key, object]
State = dict[Key, object]
"""What the datastore holds at one moment."""


def workload(
    path: str,
    host: str,
    *addresses: str,
    labels: dict[str, str] | None = None,
    profiles: Sequence[str] | None = None,
    interface: str | None = None,
    ports: Sequence[tuple[str, str, int]] = (),
    account: str = "",
) -> Entry:
    """`path` is namespace/name; profile `kns.<namespace>` and an interface if none are given."""
    namespace, name = path.split("/")
    spec = WorkloadEndpointSpec(
        orchestrator="k8s",
        node=host,
        ip_networks=addresses,
        profiles=(f"kns.{namespace}",) if profiles is None else tuple(profiles),
        interface_name=f"cali-{name}" if interface is None else interface,
        service_account_name=account,
        ports=tuple(
            WorkloadEndpointPort(name=port_name, protocol=protocol, port=port)
            for port_name, protocol, port in ports
        ),
    )
    metadata = Metadata(name=name, namespace=namespace, labels=labels or {})
    key = ResourceKey("WorkloadEndpoint", name, namespace)
    return key, WorkloadEndpoint(metadata=metadata, spec=spec)


def machine(host: str, workload: str, *addresses: str) -> Entry:
    """A VM of OpenStack on a host, or on its way there."""
    spec = WorkloadEndpointSpec(
        orchestrator="openstack",
        node=host,
        workload=workload,
        endpoint="port",
        ip_networks=addresses,
        interface_name=f"tap-{workload}",
    )
    name = f"{host}-openstack-{workload}-port"
    key = ResourceKey("WorkloadEndpoint", name, "openstack")
    metadata = Metadata(name=name, namespace="openstack")
    return key, WorkloadEndpoint(metadata=metadata, spec=spec)


def migration(host: str, workload: str) -> Entry:
    """Of a `machine` to that host."""
    to = WorkloadEndpointIdentifier(
        hostname=host,
        orchestrator_id="openstack",
        workload_id=f"openstack/{workload}",
        endpoint_id="port",
    )
    name = f"{host}-openstack-{workload}-port"
    metadata = Metadata(name=name, namespace="openstack")
    spec = LiveMigrationSpec(target=LiveMigrationTarget(workload_endpoint=to))
    key = ResourceKey("LiveMigration", name, "openstack")
    return key, LiveMigration(metadata=metadata, spec=spec)


def service_networks(
    cluster: Sequence[str] = (),
    external: Sequence[str] = (),
    balancers: Sequence[str] = (),
    *,
    name: str = "default",
) -> Entry:
    spec = BGPConfigurationSpec(
        service_cluster_ips=tuple(ServiceBlock(cidr=one) for one in cluster),
        service_external_ips=tuple(ServiceBlock(cidr=one) for one in external),
        service_load_balancer_ips=tuple(ServiceBlock(cidr=one) for one in balancers),
    )
    metadata = Metadata(name=name)
    return ResourceKey("BGPConfiguration", name), BGPConfiguration(metadata=metadata, spec=spec)


def host_endpoint(
    name: str,
    *addresses: str,
    labels: dict[str, str],
    ports: Sequence[tuple[str, str, int]] = (),
    host: str = "h2",
    interface: str = "",
    profiles: Sequence[str] = (),
) -> Entry:
    spec = HostEndpointSpec(
        node=host,
        interface_name=interface,
        profiles=tuple(profiles),
        expected_ips=addresses,
        ports=tuple(EndpointPort(name=n, protocol=p, port=number) for n, p, number in ports),
    )
    metadata = Metadata(name=name, labels=labels)
    return ResourceKey("HostEndpoint", name), HostEndpoint(metadata=metadata, spec=spec)


def network_set(path: str, *nets: str, labels: dict[str, str]) -> Entry:
    """Global without a namespace in `path`."""
    namespace, _, name = path.rpartition("/")
    spec = NetworkSetSpec(nets=nets)
    metadata = Metadata(name=name, namespace=namespace, labels=labels)
    if namespace:
        key = ResourceKey("NetworkSet", name, namespace)
        return key, NetworkSet(metadata=metadata, spec=spec)
    return ResourceKey("GlobalNetworkSet", name), GlobalNetworkSet(metadata=metadata, spec=spec)


def endpoint_slice(
    path: str, service: str, *addresses: str, ports: Sequence[tuple[str, int]] = (("TCP", 80),)
) -> Entry:
    """`path` is namespace/name; each address an endpoint of its own."""
    namespace, name = path.split("/")
    spec = KubernetesEndpointSliceSpec(
        service=service,
        endpoints=tuple(SliceEndpoint(addresses=(address,)) for address in addresses),
        ports=tuple(SlicePort(protocol=protocol, port=number) for protocol, number in ports),
    )
    metadata = Metadata(name=name, namespace=namespace)
    key = ResourceKey("KubernetesEndpointSlice", name, namespace)
    return key, KubernetesEndpointSlice(metadata=metadata, spec=spec)


def policy(path: str, **spec: object) -> Entry:
    """Global without a namespace in `path`; `spec` as in the resource."""
    namespace, _, name = path.rpartition("/")
    metadata = Metadata(name=name, namespace=namespace)
    if namespace:
        key = ResourceKey("NetworkPolicy", name, namespace)
        return key, NetworkPolicy(metadata=metadata, spec=NetworkPolicySpec(**spec))  # type: ignore[arg-type]
    key = ResourceKey("GlobalNetworkPolicy", name)
    return key, GlobalNetworkPolicy(metadata=metadata, spec=GlobalNetworkPolicySpec(**spec))  # type: ignore[arg-type]


def staged(path: str, action: str = "Set", *, kubernetes: bool = False, **spec: object) -> Entry:
    """Like `policy`; with `kubernetes` the `spec` is Kubernetes' JSON."""
    namespace, _, name = path.rpartition("/")
    kind = "StagedNetworkPolicy" if namespace else "StagedGlobalNetworkPolicy"
    key = ResourceKey("StagedKubernetesNetworkPolicy" if kubernetes else kind, name, namespace)
    fields = msgspec.to_builtins(spec) if kubernetes else _camel(spec)
    value = {"kind": key.kind, "spec": {**fields, "stagedAction": action}}
    return key, msgspec.convert(value, TYPES[key.kind])


def _camel(spec: dict[str, object]) -> dict[str, object]:
    found = {}
    for field, value in spec.items():
        first, *others = field.split("_")
        found[first + "".join(map(str.capitalize, others))] = msgspec.to_builtins(value)
    return found


def tier(name: str, order: float | None, default_action: str = "Deny") -> Entry:
    spec = TierSpec(order=order, default_action=default_action)  # type: ignore[arg-type]
    return ResourceKey("Tier", name), Tier(metadata=Metadata(name=name), spec=spec)


def profile(
    name: str,
    labels: dict[str, str] | None = None,
    ingress: Sequence[Rule] = (),
    egress: Sequence[Rule] = (),
) -> Entry:
    spec = ProfileSpec(ingress=tuple(ingress), egress=tuple(egress), labels_to_apply=labels or {})
    return ResourceKey("Profile", name), Profile(metadata=Metadata(name=name), spec=spec)


def node(name: str, ipv4: str = "", ipv6: str = "", internal: str = "") -> Entry:
    bgp = NodeBGP(ipv4_address=ipv4, ipv6_address=ipv6) if ipv4 or ipv6 else None
    addresses = (NodeAddress(address=internal, type="InternalIP"),) if internal else ()
    spec = NodeSpec(bgp=bgp, addresses=addresses)
    return ResourceKey("Node", name), Node(metadata=Metadata(name=name), spec=spec)


def pool(name: str, cidr: str, **spec: object) -> Entry:
    value = IPPool(metadata=Metadata(name=name), spec=IPPoolSpec(cidr=cidr, **spec))  # type: ignore[arg-type]
    return ResourceKey("IPPool", name), value


def affinity(host: str, cidr: str, state: str = "confirmed") -> Entry:
    return AffinityKey(host, parse_network(cidr)), BlockAffinity(state=state)  # type: ignore[arg-type]


def allow(
    source: EntityRule | None = None, destination: EntityRule | None = None, **rule: object
) -> Rule:
    return _rule("Allow", source, destination, rule)


def deny(
    source: EntityRule | None = None, destination: EntityRule | None = None, **rule: object
) -> Rule:
    return _rule("Deny", source, destination, rule)


def _rule(
    action: str,
    source: EntityRule | None,
    destination: EntityRule | None,
    rule: dict[str, object],
) -> Rule:
    return Rule(
        action=action,  # type: ignore[arg-type]
        source=source or EntityRule(),
        destination=destination or EntityRule(),
        **rule,  # type: ignore[arg-type]
    )
