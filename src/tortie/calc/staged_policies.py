"""Staged policies: what they would be if they were enforced, and in whose stead.

`Set` and `Learn` stand in for the enforced policy of their name, `Delete` for its absence. One to
`Ignore` was turned down, and counts as absent.

Source: Calico, api/pkg/apis/projectcalico/v3/stagednetworkpolicy.go,
libcalico-go/lib/backend/syncersv1/updateprocessors/staged*.go (where Felix is not told of Delete).
"""

from typing import Any, NamedTuple

import msgspec

from tortie.calc.validation import ParsedPolicy, parse_policy
from tortie.desired.policy import PolicyId
from tortie.lib.errors import InvalidInput
from tortie.model.keys import ResourceKey
from tortie.model.kubernetes.network_policy import NAME_PREFIX, policy_spec
from tortie.model.metadata import Resource
from tortie.model.policy import GlobalNetworkPolicySpec, NetworkPolicySpec

_KUBERNETES = "StagedKubernetesNetworkPolicy"
_ENFORCED = {
    "StagedGlobalNetworkPolicy": "GlobalNetworkPolicy",
    "StagedNetworkPolicy": "NetworkPolicy",
    _KUBERNETES: "NetworkPolicy",
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
        InvalidInput: an unknown action, or a policy that could not be enforced.
    """
    if not isinstance(resource, Resource) or not hasattr(resource, "spec"):
        raise InvalidInput(f"a {type(resource).__name__} where a {key.kind} belongs")
    fields = msgspec.to_builtins(resource.spec)
    action = fields.pop("stagedAction", "Set")
    if action == "Delete":
        return Staged(None)
    if action == "Ignore":
        return None
    if action not in ("Set", "Learn"):
        raise InvalidInput(f"{action!r} is not a staged action")
    policy = PolicyId(key.kind, key.name, key.namespace)
    spec, problems = _spec(key.kind, fields)
    parsed = parse_policy(policy, spec, enforced=enforced_policy(policy))
    return Staged(parsed, (*problems, *parsed.problems))


def _spec(
    kind: str, fields: dict[str, Any]
) -> tuple[NetworkPolicySpec | GlobalNetworkPolicySpec, tuple[str, ...]]:
    if kind == _KUBERNETES:
        return policy_spec(fields)
    wanted = GlobalNetworkPolicySpec if _ENFORCED[kind] == "GlobalNetworkPolicy" else None
    try:
        return msgspec.convert(fields, wanted or NetworkPolicySpec), ()
    except msgspec.ValidationError as error:
        raise InvalidInput(f"spec: {error}") from error
