"""What is filled in where a user's resource says nothing, before it is stored.

Only defaults that Calico stores too: what a daemon assumes at run time is not written, so
that it can change with the daemon.
"""

from typing import Any, TypeVar, cast

import msgspec

from tortie.lib.errors import InvalidInput
from tortie.model.catalogue import TYPES
from tortie.model.codec import with_pool_defaults
from tortie.model.endpoint import NAMESPACE_LABEL, ORCHESTRATOR_LABEL, WorkloadEndpoint
from tortie.model.metadata import API_VERSION, Metadata, Resource
from tortie.model.names import workload_endpoint_name
from tortie.model.node import IPPool
from tortie.model.policy import (
    DEFAULT_TIER,
    TIER_LABEL,
    NetworkPolicySpec,
    Tier,
    policy_types,
)
from tortie.model.validation.network import normal_network
from tortie.model.validation.policy import FIXED_TIERS

DEFAULT_ORDER = 1000000.0
"""Of a tier that gives none."""

_FELIX: dict[str, str] = {
    "bpf_connect_time_load_balancing": "TCP",
    "bpf_host_networked_nat_without_ctlb": "Enabled",
    "floating_ips": "Disabled",
    "nftables_flow_table_offload": "Disabled",
    "nftables_mode": "Auto",
}
_BGP: dict[str, str] = {
    "log_severity_screen": "Info",
    "service_load_balancer_aggregation": "Enabled",
}

R = TypeVar("R", bound=Resource)


def with_defaults(resource: R) -> R:
    """The resource as it is stored: kind, labels and defaults filled in, CIDRs written one way.

    Idempotent. What is invalid stays as it is, for `validate` to find.
    """
    name = type(resource).__name__
    kind = resource.kind or (name if name in TYPES else "")
    complete = msgspec.structs.replace(resource, kind=kind, api_version=API_VERSION)
    return cast(R, _complete(complete))


def _complete(resource: Resource) -> Resource:
    spec = getattr(resource, "spec", None)
    if isinstance(spec, NetworkPolicySpec):
        return _policy(resource, spec)
    if isinstance(resource, IPPool):
        cidr = normal_network(resource.spec.cidr)
        return with_pool_defaults(_with_spec(resource, cidr=cidr))
    if isinstance(resource, WorkloadEndpoint):
        return _workload_endpoint(resource)
    if isinstance(resource, Tier) and resource.spec.order is None:
        order = FIXED_TIERS.get(resource.metadata.name, (DEFAULT_ORDER, ""))[0]
        return _with_spec(resource, order=order)
    if resource.kind == "FelixConfiguration":
        return _with_absent(resource, _FELIX)
    if resource.kind == "BGPConfiguration":
        return _with_absent(resource, _BGP)
    return resource


def _policy(policy: Resource, spec: NetworkPolicySpec) -> Resource:
    tier = spec.tier or DEFAULT_TIER
    is_deletion = getattr(spec, "staged_action", "Set") == "Delete"
    types = spec.types if is_deletion else policy_types(spec)
    completed = _with_spec(policy, tier=tier, types=types)
    return _with_labels(completed, {TIER_LABEL: tier})


def _workload_endpoint(endpoint: WorkloadEndpoint) -> Resource:
    labels = {
        NAMESPACE_LABEL: endpoint.metadata.namespace,
        ORCHESTRATOR_LABEL: endpoint.spec.orchestrator,
    }
    completed = _with_labels(endpoint, {k: v for k, v in labels.items() if v})
    if completed.metadata.name:
        return completed
    try:
        name = workload_endpoint_name(endpoint.spec)
    except InvalidInput:
        return completed
    metadata = msgspec.structs.replace(completed.metadata, name=name)
    return msgspec.structs.replace(completed, metadata=metadata)


def _with_absent(resource: R, defaults: dict[str, str]) -> R:
    spec: Any = resource.spec  # type: ignore[attr-defined]
    absent = {name: value for name, value in defaults.items() if getattr(spec, name) is None}
    return _with_spec(resource, **absent)


def _with_spec(resource: R, **changes: Any) -> R:
    spec: Any = resource.spec  # type: ignore[attr-defined]
    return msgspec.structs.replace(resource, spec=msgspec.structs.replace(spec, **changes))


def _with_labels(resource: R, labels: dict[str, str]) -> R:
    metadata: Metadata = resource.metadata
    metadata = msgspec.structs.replace(metadata, labels={**metadata.labels, **labels})
    return msgspec.structs.replace(resource, metadata=metadata)
