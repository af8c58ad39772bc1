"""BGP settings as a resource: `default` for the cluster, `node.<name>` for one host."""

from typing import Annotated

import msgspec

from tortie.model.limits import NAME_MAX_CHARACTERS, PRESENT, REQUIRED, Limits, NetworkText
from tortie.model.metadata import Resource, Spec

COMMUNITIES_MAX = 500
"""Names, and advertised networks."""


class Community(Spec, frozen=True, kw_only=True):
    """A name for a community."""

    name: Annotated[str, Limits(longest=NAME_MAX_CHARACTERS)] = ""
    value: Annotated[str, Limits(longest=40)] = ""
    """`aa:nn` with 16 bits each, or `aa:nn:mm` with 32 bits each."""


class PrefixAdvertisement(Spec, frozen=True, kw_only=True):
    cidr: NetworkText = ""
    communities: Annotated[tuple[str, ...], Limits(most=50)] = ()
    """Values, or names from `communities` of the configuration."""


class ServiceBlock(Spec, frozen=True, kw_only=True):
    """A network of service addresses to announce."""

    cidr: str = ""


class SecretKeySelector(Spec, frozen=True, kw_only=True):
    name: str = ""
    key: Annotated[str, REQUIRED] = ""
    optional: bool | None = None


class NodeMeshPassword(Spec, frozen=True, kw_only=True):
    secret_key_ref: SecretKeySelector | None = None


class BGPConfigurationSpec(Spec, frozen=True, kw_only=True):
    as_number: int | None = None
    bind_mode: str | None = None
    communities: Annotated[tuple[Community, ...], Limits(most=COMMUNITIES_MAX)] = ()
    ignored_interfaces: Annotated[tuple[str, ...] | None, Limits(unique=True)] = None
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
    prefix_advertisements: Annotated[
        tuple[PrefixAdvertisement, ...], Limits(most=COMMUNITIES_MAX)
    ] = ()
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

    @property
    def service_blocks(self) -> tuple[ServiceBlock, ...]:
        """Of all three kinds."""
        return (
            *self.service_cluster_ips,
            *self.service_external_ips,
            *self.service_load_balancer_ips,
        )


class BGPConfiguration(Resource, frozen=True, kw_only=True):
    spec: Annotated[BGPConfigurationSpec, PRESENT] = BGPConfigurationSpec()
