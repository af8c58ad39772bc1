"""Which struct holds which kind.

Modules are imported when a kind of theirs is first asked for: a command sees two or three
kinds, an agent ten, and each module costs about a millisecond to start.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from typing import cast

from tortie.model.metadata import Resource

_MODULES = {
    "BGPConfiguration": "bgp_configuration",
    "BGPFilter": "bgp_filter",
    "BGPPeer": "bgp_peer",
    "BlockAffinity": "reservation",
    "CalicoNodeStatus": "node_status",
    "ClusterInformation": "node",
    "FelixConfiguration": "felix_configuration",
    "GlobalNetworkPolicy": "policy",
    "GlobalNetworkSet": "network_set",
    "HostEndpoint": "endpoint",
    "IPAMConfiguration": "reservation",
    "IPPool": "node",
    "IPReservation": "reservation",
    "KubeControllersConfiguration": "kube_controllers",
    "KubernetesEndpointSlice": "endpoint_slice",
    "KubernetesService": "service",
    "LiveMigration": "live_migration",
    "NetworkPolicy": "policy",
    "NetworkSet": "network_set",
    "Node": "node",
    "Profile": "policy",
    "StagedGlobalNetworkPolicy": "staged_policy",
    "StagedKubernetesNetworkPolicy": "staged_policy",
    "StagedNetworkPolicy": "staged_policy",
    "Tier": "policy",
    "WorkloadEndpoint": "endpoint",
}
"""The struct is named like the kind."""


@cache
def _struct(kind: str) -> type[Resource]:
    module = import_module(f"tortie.model.{_MODULES[kind]}")
    return cast(type[Resource], getattr(module, kind))


class _Types(Mapping[str, type[Resource]]):
    def __getitem__(self, kind: str) -> type[Resource]:
        return _struct(kind)

    def __contains__(self, kind: object) -> bool:
        return kind in _MODULES

    def __iter__(self) -> Iterator[str]:
        return iter(_MODULES)

    def __len__(self) -> int:
        return len(_MODULES)


TYPES: Mapping[str, type[Resource]] = _Types()
"""By kind. Kinds of the API that are missing here can be stored, but not read by us yet."""
