"""The cluster's state as it would be if all that is staged were enforced.

Set and Learn stand in for the enforced policy of their name, Delete for its absence; Ignore was
turned down. What could not be enforced counts as absent. Like `oracle`, apart from what it judges.

Source: Calico, api/pkg/apis/projectcalico/v3/stagednetworkpolicy.go.
"""

from typing import NamedTuple

import msgspec

from tortie.explain.oracle import Policy, State
from tortie.lib.errors import InvalidInput
from tortie.model.keys import Key, ResourceKey
from tortie.model.kubernetes.network_policy import NAME_PREFIX, policy_spec
from tortie.model.policy import GlobalNetworkPolicy, NetworkPolicy
from tortie.model.staged_policy import (
    StagedGlobalNetworkPolicy,
    StagedKubernetesNetworkPolicy,
    StagedNetworkPolicy,
)

_Staged = StagedGlobalNetworkPolicy | StagedKubernetesNetworkPolicy | StagedNetworkPolicy


class Enforced(NamedTuple):
    state: State
    """What is staged is in it as policies of their enforced kinds."""
    origins: dict[ResourceKey, ResourceKey]
    """Enforced policy → the staged one that it comes from; those to be deleted are not in it."""


def enforce_staged(state: State) -> Enforced:
    """`origins` is empty, and the state the same, where nothing is staged."""
    after: dict[Key, object] = dict(state)
    origins: dict[ResourceKey, ResourceKey] = {}
    gone = []
    for key, resource in sorted(_staged_in(state), key=lambda item: item[0]):
        enforced, action = _enforced_key(key), resource.spec.staged_action
        if action == "Ignore":
            continue
        if action == "Delete":
            gone.append(enforced)
            continue
        try:
            policy = _policy(resource)
        except InvalidInput:
            continue
        # Two may stand in for one policy; then both would be there.
        place = key if enforced in origins else enforced
        after[place] = policy
        origins[place] = key
    for key in gone:
        if key not in origins:
            after.pop(key, None)
    return Enforced(after, origins)


def _staged_in(state: State) -> list[tuple[ResourceKey, _Staged]]:
    return [
        (key, resource)
        for key, resource in state.items()
        if isinstance(key, ResourceKey) and isinstance(resource, _Staged)
    ]


def _enforced_key(staged: ResourceKey) -> ResourceKey:
    match staged.kind:
        case "StagedGlobalNetworkPolicy":
            return ResourceKey("GlobalNetworkPolicy", staged.name)
        case "StagedKubernetesNetworkPolicy":
            return ResourceKey("NetworkPolicy", NAME_PREFIX + staged.name, staged.namespace)
    return ResourceKey("NetworkPolicy", staged.name, staged.namespace)


def _policy(resource: _Staged) -> Policy:
    """
    Raises:
        InvalidInput: Kubernetes' own form has something that cannot be converted.
    """
    if isinstance(resource, StagedGlobalNetworkPolicy):
        return GlobalNetworkPolicy(metadata=resource.metadata, spec=resource.spec)
    if isinstance(resource, StagedKubernetesNetworkPolicy):
        spec, _ = policy_spec(msgspec.to_builtins(resource.spec))
        return NetworkPolicy(metadata=resource.metadata, spec=spec)
    return NetworkPolicy(metadata=resource.metadata, spec=resource.spec)
