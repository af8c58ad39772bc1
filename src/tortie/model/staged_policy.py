"""Policies on trial: stored and reported like policies, enforced by nobody."""

from typing import Annotated, Literal

import msgspec

from tortie.model.limits import PRESENT, REQUIRED, Limits, NetworkText
from tortie.model.metadata import Resource, Spec
from tortie.model.policy import (
    Direction,
    GlobalNetworkPolicySpec,
    NetworkPolicySpec,
)

StagedAction = Literal["Set", "Delete", "Learn", "Ignore"]
"""What the change would do to the enforced policy of the same name; Delete has no other spec."""


class StagedNetworkPolicySpec(NetworkPolicySpec, frozen=True, kw_only=True):
    staged_action: StagedAction = "Set"


class StagedNetworkPolicy(Resource, frozen=True, kw_only=True):
    spec: Annotated[StagedNetworkPolicySpec, PRESENT] = StagedNetworkPolicySpec()


class StagedGlobalNetworkPolicySpec(GlobalNetworkPolicySpec, frozen=True, kw_only=True):
    staged_action: StagedAction = "Set"


class StagedGlobalNetworkPolicy(Resource, frozen=True, kw_only=True):
    spec: Annotated[StagedGlobalNetworkPolicySpec, PRESENT] = StagedGlobalNetworkPolicySpec()


class LabelExpression(Spec, frozen=True, kw_only=True):
    key: Annotated[str, REQUIRED] = ""
    operator: Annotated[str, REQUIRED] = ""
    """`In`, `NotIn`, `Exists` or `DoesNotExist`."""
    values: tuple[str, ...] = ()
    """For `In` and `NotIn` only."""


class LabelSelector(Spec, frozen=True, kw_only=True):
    """Kubernetes' selector; an empty one matches everything."""

    match_labels: dict[str, str] = {}
    match_expressions: tuple[LabelExpression, ...] = ()


class IPBlock(Spec, frozen=True, kw_only=True):
    cidr: Annotated[NetworkText, REQUIRED] = ""
    except_: Annotated[tuple[NetworkText, ...], Limits()] = msgspec.field(default=(), name="except")


class KubernetesPeer(Spec, frozen=True, kw_only=True):
    """`ipBlock` alone, or selectors."""

    pod_selector: LabelSelector | None = None
    namespace_selector: LabelSelector | None = None
    ip_block: IPBlock | None = None


class KubernetesPort(Spec, frozen=True, kw_only=True):
    protocol: str | None = None
    port: int | str | None = None
    end_port: int | None = None


class KubernetesIngressRule(Spec, frozen=True, kw_only=True):
    ports: tuple[KubernetesPort, ...] = ()
    from_: tuple[KubernetesPeer, ...] = msgspec.field(default=(), name="from")


class KubernetesEgressRule(Spec, frozen=True, kw_only=True):
    ports: tuple[KubernetesPort, ...] = ()
    to: tuple[KubernetesPeer, ...] = ()


class StagedKubernetesNetworkPolicySpec(Spec, frozen=True, kw_only=True):
    staged_action: StagedAction = "Set"
    pod_selector: LabelSelector = LabelSelector()
    ingress: tuple[KubernetesIngressRule, ...] = ()
    egress: tuple[KubernetesEgressRule, ...] = ()
    policy_types: Annotated[tuple[Direction, ...], Limits(fewest=1, most=2, unique=True)] = ()


class StagedKubernetesNetworkPolicy(Resource, frozen=True, kw_only=True):
    spec: Annotated[StagedKubernetesNetworkPolicySpec, PRESENT] = (
        StagedKubernetesNetworkPolicySpec()
    )
