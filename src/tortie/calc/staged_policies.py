"""Staged policies: what they would be if they were enforced, and in whose stead.

`Set` and `Learn` stand in for the enforced policy of their name, `Delete` for its absence. One to
`Ignore` was turned down, and counts as absent.

Source: Calico, api/pkg/apis/projectcalico/v3/stagednetworkpolicy.go,
libcalico-go/lib/backend/syncersv1/updateprocessors/staged*.go (where Felix is not told of Delete).
"""

from typing import NamedTuple

import msgspec

from tortie.calc.validation import ParsedPolicy, parse_policy
from tortie.desired.policy import PolicyId
from tortie.lib.errors import InvalidInput
from tortie.model.keys import ResourceKey
from tortie.model.kubernetes.network_policy import NAME_PREFIX, policy_spec
from tortie.model.policy import NetworkPolicySpec
from tortie.model.staged_policy import (
    StagedGlobalNetworkPolicy,
    StagedKubernetesNetworkPolicy,
    StagedNetworkPolicy,
)

_Resource = StagedGlobalNetworkPolicy | StagedKubernetesNetworkPolicy | StagedNetworkPolicy

_KUBERNETES = "StagedKubernetesNetworkPolicy"
_ENFORCED = {
    "StagedGlobalNetworkPolicy": "GlobalNetworkPolicy",
    "StagedNetworkPolicy": "NetworkPolicy",
    _KUBERNETES: "NetworkPolicy",
}
_TYPES: dict[str, type[_Resource]] = {
    "StagedGlobalNetworkPolicy": StagedGlobalNetworkPolicy,
    "StagedNetworkPolicy": StagedNetworkPolicy,
    _KUBERNETES: StagedKubernetesNetworkPolicy,
}


class Staged(NamedTuple):
    parsed: ParsedPolicy | None
    """None: the enforced one would be deleted."""
    problems: tuple[str, ...] = ()


def enforced_policy(staged: PolicyId) -> PolicyId:
    """The policy that this one stands in for, whether or not there is one."""
    prefix = NAME_PREFIX if staged.kind == _KUBERNETES else ""
    return PolicyId(_ENFORCED[staged.kind], prefix + staged.name, staged.namespace)


def parse_staged_policy(key: ResourceKey, resource: object) -> Staged | None:
    """None for one to be ignored.

    Raises:
        InvalidInput: a policy that could not be enforced.
    """
    if not isinstance(resource, _TYPES[key.kind]):
        raise InvalidInput(f"a {type(resource).__name__} where a {key.kind} belongs")
    action = resource.spec.staged_action
    if action == "Delete":
        return Staged(None)
    if action == "Ignore":
        return None
    policy = PolicyId(key.kind, key.name, key.namespace)
    spec, problems = _enforceable(resource)
    parsed = parse_policy(policy, spec, enforced=enforced_policy(policy))
    return Staged(parsed, (*problems, *parsed.problems))


def _enforceable(resource: _Resource) -> tuple[NetworkPolicySpec, tuple[str, ...]]:
    if isinstance(resource, StagedKubernetesNetworkPolicy):
        return policy_spec(msgspec.to_builtins(resource.spec))
    return resource.spec, ()
