"""Kinds that most processes never check: settings, sessions, trials, reports.

Imported when the first one of them is there.
"""

from collections.abc import Iterator

from tortie.model.bgp_configuration import BGPConfiguration
from tortie.model.bgp_filter import BGPFilter
from tortie.model.bgp_peer import BGPPeer
from tortie.model.endpoint_slice import KubernetesEndpointSlice
from tortie.model.felix_configuration import FelixConfiguration
from tortie.model.kube_controllers import KubeControllersConfiguration
from tortie.model.live_migration import LiveMigration
from tortie.model.metadata import Resource
from tortie.model.node import ClusterInformation
from tortie.model.reservation import BlockAffinity, IPAMConfiguration
from tortie.model.service import KubernetesService
from tortie.model.staged_policy import (
    StagedGlobalNetworkPolicy,
    StagedKubernetesNetworkPolicy,
    StagedNetworkPolicy,
)
from tortie.model.validation import bgp, controllers, settings, staged
from tortie.model.validation.terms import Problem


def spec_problems(resource: Resource, *, strict: bool) -> Iterator[Problem]:
    match resource:
        case StagedNetworkPolicy() | StagedGlobalNetworkPolicy():
            yield from staged.staged_problems(resource, strict=strict)
        case StagedKubernetesNetworkPolicy():
            yield from staged.staged_kubernetes_problems(resource)
        case FelixConfiguration():
            yield from settings.felix_problems(resource)
        case BGPConfiguration():
            yield from settings.bgp_problems(resource)
        case ClusterInformation():
            yield from settings.cluster_information_problems(resource)
        case BGPPeer():
            yield from bgp.peer_problems(resource)
        case BGPFilter():
            yield from bgp.filter_problems(resource, strict=strict)
        case BlockAffinity():
            yield from controllers.block_affinity_problems(resource)
        case IPAMConfiguration():
            yield from controllers.only_default_problems(resource)
        case KubeControllersConfiguration():
            yield from controllers.kube_controllers_problems(resource)
        case KubernetesEndpointSlice():
            yield from controllers.endpoint_slice_problems(resource)
        case KubernetesService():
            yield from controllers.service_problems(resource)
        case LiveMigration():
            yield from controllers.live_migration_problems(resource)
