"""The kinds of the Kubernetes API that are read, and what each becomes."""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec

from tortie.kube.api import Kind
from tortie.lib.errors import InvalidInput
from tortie.model.kubernetes.cluster_policy import cluster_policy
from tortie.model.kubernetes.endpoint_slice import endpoint_slice
from tortie.model.kubernetes.fields import Object
from tortie.model.kubernetes.network_policy import isolation, network_policy
from tortie.model.kubernetes.service import service
from tortie.model.kubernetes.workload import (
    namespace_profile,
    pod_endpoint,
    service_account_profile,
)
from tortie.model.metadata import Resource
from tortie.model.policy import RULES_MAX, GlobalNetworkPolicy, NetworkPolicy, Rule
from tortie.model.validation import check, validate, with_defaults

NODES = Kind("", "v1", "nodes")
PODS = Kind("", "v1", "pods")
NAMESPACES = Kind("", "v1", "namespaces")
SERVICES = Kind("", "v1", "services")
SERVICE_ACCOUNTS = Kind("", "v1", "serviceaccounts")
EVENTS = Kind("", "v1", "events")
LEASES = Kind("coordination.k8s.io", "v1", "leases")
NETWORK_POLICIES = Kind("networking.k8s.io", "v1", "networkpolicies")
ADMIN_NETWORK_POLICIES = Kind("policy.networking.k8s.io", "v1alpha1", "adminnetworkpolicies")
BASELINE_POLICIES = Kind("policy.networking.k8s.io", "v1alpha1", "baselineadminnetworkpolicies")
CLUSTER_NETWORK_POLICIES = Kind("policy.networking.k8s.io", "v1alpha2", "clusternetworkpolicies")

ENDPOINT_SLICES = Kind("discovery.k8s.io", "v1", "endpointslices")

OLDER = {ENDPOINT_SLICES: Kind("discovery.k8s.io", "v1beta1", "endpointslices")}
"""Where a server does not know a kind in this version: until 1.20, removed in 1.25."""

CLUSTER_POLICIES = (ADMIN_NETWORK_POLICIES, BASELINE_POLICIES, CLUSTER_NETWORK_POLICIES)
"""Custom resources: only where somebody has defined them."""

_KIND_NAMES = {
    NAMESPACES: "Namespace",
    SERVICES: "Service",
    SERVICE_ACCOUNTS: "ServiceAccount",
    PODS: "Pod",
    NODES: "Node",
    ENDPOINT_SLICES: "EndpointSlice",
    NETWORK_POLICIES: "NetworkPolicy",
    ADMIN_NETWORK_POLICIES: "AdminNetworkPolicy",
    BASELINE_POLICIES: "BaselineAdminNetworkPolicy",
    CLUSTER_NETWORK_POLICIES: "ClusterNetworkPolicy",
}


_RULE = re.compile(r"spec\.(ingress|egress)\[(\d+)\]")


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
    try:
        converted = network_policy(policy)
        made = _storable(converted.resource, converted.problems)
        assert made.resource is not None
        check(with_defaults(made.resource))
    except InvalidInput as error:
        stand_in = isolation(policy)
        pods = stand_in.spec.selector
        return Made(stand_in, (f"nothing is allowed to any pod with {pods}: {error}",))
    return made


def _storable(policy: NetworkPolicy | GlobalNetworkPolicy, problems: tuple[str, ...]) -> Made:
    """Without those rules that break a limit of ours and not of Kubernetes'.

    An allow rule less allows less. One that denies or passes must not be left out: then all of
    the policy is refused, and said to be.
    """
    policy, too_many = _without_the_last(policy)
    problems = (*problems, *too_many)
    wrong: dict[tuple[str, int], str] = {}
    for problem in validate(with_defaults(policy)):
        if found := _RULE.match(problem.path):
            wrong.setdefault((found[1], int(found[2])), f"{problem.path} {problem.rule}")
    left: dict[str, tuple[Rule, ...]] = {}
    for way, rules in (("ingress", policy.spec.ingress), ("egress", policy.spec.egress)):
        left[way] = tuple(
            rule
            for index, rule in enumerate(rules)
            if (way, index) not in wrong or rule.action != "Allow"
        )
    spec = msgspec.structs.replace(policy.spec, **left)
    return Made(msgspec.structs.replace(policy, spec=spec), (*problems, *wrong.values()))


def _without_the_last(
    policy: NetworkPolicy | GlobalNetworkPolicy,
) -> tuple[NetworkPolicy | GlobalNetworkPolicy, tuple[str, ...]]:
    """No more rules than are stored, if those that are left out are all to allow."""
    problems, left = [], {}
    for way, rules in (("ingress", policy.spec.ingress), ("egress", policy.spec.egress)):
        if len(rules) > RULES_MAX and all(rule.action == "Allow" for rule in rules[RULES_MAX:]):
            left[way] = rules[:RULES_MAX]
            problems.append(
                f"{way}: it becomes {len(rules)} rules, and those after {RULES_MAX} are left out"
            )
    spec = msgspec.structs.replace(policy.spec, **left)
    return msgspec.structs.replace(policy, spec=spec), tuple(problems)


def _cluster_policy(kind: Kind) -> Callable[[Object], Made]:
    def run(policy: Object) -> Made:
        made = cluster_policy({**policy, "kind": _KIND_NAMES[kind]})
        return _storable(made.resource, made.problems)

    return run


_CONVERTERS: Mapping[Kind, Callable[[Object], Made]] = {
    NAMESPACES: lambda namespace: Made(namespace_profile(namespace)[1]),
    SERVICE_ACCOUNTS: lambda account: Made(service_account_profile(account)[1]),
    PODS: _pod,
    SERVICES: lambda service_: Made(service(service_)),
    ENDPOINT_SLICES: lambda slice_: Made(endpoint_slice(slice_)),
    NETWORK_POLICIES: _network_policy,
    **{kind: _cluster_policy(kind) for kind in CLUSTER_POLICIES},
}
