"""The kinds of the Kubernetes API that are read, and what each becomes."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from tortie.kube.api import Kind
from tortie.model.kubernetes.cluster_policy import cluster_policy
from tortie.model.kubernetes.fields import Object
from tortie.model.kubernetes.network_policy import network_policy
from tortie.model.kubernetes.workload import (
    namespace_profile,
    pod_endpoint,
    service_account_profile,
)
from tortie.model.metadata import Resource

NODES = Kind("", "v1", "nodes")
PODS = Kind("", "v1", "pods")
NAMESPACES = Kind("", "v1", "namespaces")
SERVICE_ACCOUNTS = Kind("", "v1", "serviceaccounts")
EVENTS = Kind("", "v1", "events")
LEASES = Kind("coordination.k8s.io", "v1", "leases")
NETWORK_POLICIES = Kind("networking.k8s.io", "v1", "networkpolicies")
ADMIN_NETWORK_POLICIES = Kind("policy.networking.k8s.io", "v1alpha1", "adminnetworkpolicies")
BASELINE_POLICIES = Kind("policy.networking.k8s.io", "v1alpha1", "baselineadminnetworkpolicies")
CLUSTER_NETWORK_POLICIES = Kind("policy.networking.k8s.io", "v1alpha2", "clusternetworkpolicies")

CLUSTER_POLICIES = (ADMIN_NETWORK_POLICIES, BASELINE_POLICIES, CLUSTER_NETWORK_POLICIES)
"""Custom resources: only where somebody has defined them."""

_KIND_NAMES = {
    NAMESPACES: "Namespace",
    SERVICE_ACCOUNTS: "ServiceAccount",
    PODS: "Pod",
    NODES: "Node",
    NETWORK_POLICIES: "NetworkPolicy",
    ADMIN_NETWORK_POLICIES: "AdminNetworkPolicy",
    BASELINE_POLICIES: "BaselineAdminNetworkPolicy",
    CLUSTER_NETWORK_POLICIES: "ClusterNetworkPolicy",
}


class Made(NamedTuple):
    resource: Resource | None
    """None: nothing is to be stored for it."""
    problems: tuple[str, ...] = ()
    """What of it cannot be enforced; for people."""


def kind_name(kind: Kind) -> str:
    """As objects name themselves; a list leaves it out of its items."""
    return _KIND_NAMES[kind]


def convert(kind: Kind, object_: Object) -> Made:
    """
    Raises:
        InvalidInput: nothing can be made of it.
    """
    return _CONVERTERS[kind](object_)


def _pod(pod: Object) -> Made:
    made = pod_endpoint(pod)
    return Made(made[1] if made else None)


def _network_policy(policy: Object) -> Made:
    made = network_policy(policy)
    return Made(made.resource, made.problems)


def _cluster_policy(kind: Kind) -> Callable[[Object], Made]:
    def run(policy: Object) -> Made:
        made = cluster_policy({**policy, "kind": _KIND_NAMES[kind]})
        return Made(made.resource, made.problems)

    return run


_CONVERTERS: Mapping[Kind, Callable[[Object], Made]] = {
    NAMESPACES: lambda namespace: Made(namespace_profile(namespace)[1]),
    SERVICE_ACCOUNTS: lambda account: Made(service_account_profile(account)[1]),
    PODS: _pod,
    NETWORK_POLICIES: _network_policy,
    **{kind: _cluster_policy(kind) for kind in CLUSTER_POLICIES},
}
