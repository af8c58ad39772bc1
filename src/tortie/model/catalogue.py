"""Which struct holds which kind."""

from typing import TypeAlias

from tortie.model.bgp_configuration import BGPConfiguration
from tortie.model.bgp_filter import BGPFilter
from tortie.model.bgp_peer import BGPPeer
from tortie.model.endpoint import HostEndpoint, WorkloadEndpoint
from tortie.model.felix_configuration import FelixConfiguration
from tortie.model.metadata import Resource
from tortie.model.network_set import GlobalNetworkSet, NetworkSet
from tortie.model.node import ClusterInformation, IPPool, Node
from tortie.model.policy import GlobalNetworkPolicy, NetworkPolicy, Profile, Tier

TYPES: dict[str, type[Resource]] = {
    "BGPConfiguration": BGPConfiguration,
    "BGPFilter": BGPFilter,
    "BGPPeer": BGPPeer,
    "ClusterInformation": ClusterInformation,
    "FelixConfiguration": FelixConfiguration,
    "GlobalNetworkPolicy": GlobalNetworkPolicy,
    "GlobalNetworkSet": GlobalNetworkSet,
    "HostEndpoint": HostEndpoint,
    "IPPool": IPPool,
    "NetworkPolicy": NetworkPolicy,
    "NetworkSet": NetworkSet,
    "Node": Node,
    "Profile": Profile,
    "Tier": Tier,
    "WorkloadEndpoint": WorkloadEndpoint,
}
"""By kind. Kinds of the API that are missing here can be stored, but not read by us yet."""

AnyResource: TypeAlias = (
    BGPConfiguration
    | BGPFilter
    | BGPPeer
    | ClusterInformation
    | FelixConfiguration
    | GlobalNetworkPolicy
    | GlobalNetworkSet
    | HostEndpoint
    | IPPool
    | NetworkPolicy
    | NetworkSet
    | Node
    | Profile
    | Tier
    | WorkloadEndpoint
)
