"""BGP settings as a resource: `default` for the cluster, `node.<name>` for one host."""

import msgspec

from tortie.model.metadata import Resource, Spec


class Community(Spec, frozen=True, kw_only=True):
    """A name for a community."""

    name: str = ""
    value: str = ""
    """`aa:nn` with 16 bits each, or `aa:nn:mm` with 32 bits each."""


class PrefixAdvertisement(Spec, frozen=True, kw_only=True):
    cidr: str = ""
    communities: tuple[str, ...] = ()
    """Values, or names from `communities` of the configuration."""


class ServiceBlock(Spec, frozen=True, kw_only=True):
    """A network of service addresses to announce."""

    cidr: str = ""


class SecretKeySelector(Spec, frozen=True, kw_only=True):
    name: str = ""
    key: str = ""
    optional: bool | None = None


class NodeMeshPassword(Spec, frozen=True, kw_only=True):
    secret_key_ref: SecretKeySelector | None = None


class BGPConfigurationSpec(Spec, frozen=True, kw_only=True):
    as_number: int | None = None
    bind_mode: str | None = None
    communities: tuple[Community, ...] = ()
    ignored_interfaces: tuple[str, ...] | None = None
    ipv4_normal_route_priority: int | None = None
    ipv6_normal_route_priority: int | None = None
    listen_port: int | None = None
    local_workload_peering_ipv4: str | None = msgspec.field(
        default=None, name="localWorkloadPeeringIPV4"
    )
    local_workload_peering_ipv6: str | None = msgspec.field(
        default=None, name="localWorkloadPeeringIPV6"
    )
    log_severity_screen: str | None = None
    node_mesh_max_restart_time: str | None = None
    node_mesh_password: NodeMeshPassword | None = None
    node_to_node_mesh_enabled: bool | None = None
    prefix_advertisements: tuple[PrefixAdvertisement, ...] = ()
    program_cluster_routes: str | None = None
    service_cluster_ips: tuple[ServiceBlock, ...] = msgspec.field(
        default=(), name="serviceClusterIPs"
    )
    service_external_ips: tuple[ServiceBlock, ...] = msgspec.field(
        default=(), name="serviceExternalIPs"
    )
    service_load_balancer_aggregation: str | None = None
    service_load_balancer_ips: tuple[ServiceBlock, ...] = msgspec.field(
        default=(), name="serviceLoadBalancerIPs"
    )


class BGPConfiguration(Resource, frozen=True, kw_only=True):
    spec: BGPConfigurationSpec = BGPConfigurationSpec()
