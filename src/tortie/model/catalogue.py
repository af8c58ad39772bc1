"""Which struct holds which kind."""

from typing import TypeAlias

from tortie.model.bgp_configuration import BGPConfiguration
from tortie.model.bgp_filter import BGPFilter
from tortie.model.bgp_peer import BGPPeer
from tortie.model.endpoint import HostEndpoint, WorkloadEndpoint
from tortie.model.felix_configuration import FelixConfiguration
from tortie.model.kube_controllers import KubeControllersConfiguration
from tortie.model.live_migration import LiveMigration
from tortie.model.metadata import Resource
from tortie.model.network_set import GlobalNetworkSet, NetworkSet
from tortie.model.node import ClusterInformation, IPPool, Node
from tortie.model.node_status import CalicoNodeStatus
from tortie.model.policy import GlobalNetworkPolicy, NetworkPolicy, Profile, Tier
from tortie.model.reservation import BlockAffinity, IPAMConfiguration, IPReservation
from tortie.model.staged_policy import (
    StagedGlobalNetworkPolicy,
    StagedKubernetesNetworkPolicy,
    StagedNetworkPolicy,
)

TYPES: dict[str, type[Resource]] = {
    "BGPConfiguration": BGPConfiguration,
    "BGPFilter": BGPFilter,
    "BGPPeer": BGPPeer,
    "BlockAffinity": BlockAffinity,
    "CalicoNodeStatus": CalicoNodeStatus,
    "ClusterInformation": ClusterInformation,
    "FelixConfiguration": FelixConfiguration,
    "GlobalNetworkPolicy": GlobalNetworkPolicy,
    "GlobalNetworkSet": GlobalNetworkSet,
    "HostEndpoint": HostEndpoint,
    "IPAMConfiguration": IPAMConfiguration,
    "IPPool": IPPool,
    "IPReservation": IPReservation,
    "KubeControllersConfiguration": KubeControllersConfiguration,
    "LiveMigration": LiveMigration,
    "NetworkPolicy": NetworkPolicy,
    "NetworkSet": NetworkSet,
    "Node": Node,
    "Profile": Profile,
    "StagedGlobalNetworkPolicy": StagedGlobalNetworkPolicy,
    "StagedKubernetesNetworkPolicy": StagedKubernetesNetworkPolicy,
    "StagedNetworkPolicy": StagedNetworkPolicy,
    "Tier": Tier,
    "WorkloadEndpoint": WorkloadEndpoint,
}
"""By kind. Kinds of the API that are missing here can be stored, but not read by us yet."""

AnyResource: TypeAlias = (
    BGPConfiguration
    | BGPFilter
    | BGPPeer
    | BlockAffinity
    | CalicoNodeStatus
    | ClusterInformation
    | FelixConfiguration
    | GlobalNetworkPolicy
    | GlobalNetworkSet
    | HostEndpoint
    | IPAMConfiguration
    | IPPool
    | IPReservation
    | KubeControllersConfiguration
    | LiveMigration
    | NetworkPolicy
    | NetworkSet
    | Node
    | Profile
    | StagedGlobalNetworkPolicy
    | StagedKubernetesNetworkPolicy
    | StagedNetworkPolicy
    | Tier
    | WorkloadEndpoint
)
