"""Tiers, policies, profiles and the rules in them."""

from typing import Any, Literal

import msgspec

from tortie.model.metadata import Resource, Spec

Action = Literal["Allow", "Deny", "Log", "Pass"]
Direction = Literal["Ingress", "Egress"]

DEFAULT_TIER = "default"
TIER_LABEL = "projectcalico.org/tier"
DEFAULT_ALLOW_PROFILE = "projectcalico-default-allow"
"""Built in, never stored: allows everything both ways."""


class ICMP(Spec, frozen=True, kw_only=True):
    type: int | None = None
    """0 to 254."""
    code: int | None = None
    """0 to 255; only with a type."""


class ServiceMatch(Spec, frozen=True, kw_only=True):
    name: str = ""
    namespace: str = ""


class ServiceAccountMatch(Spec, frozen=True, kw_only=True):
    names: tuple[str, ...] = ()
    selector: str = ""


class EntityRule(Spec, frozen=True, kw_only=True):
    """One side of a rule; everything given must hold, an empty one matches all."""

    nets: tuple[str, ...] = ()
    not_nets: tuple[str, ...] = ()
    selector: str = ""
    not_selector: str = ""
    namespace_selector: str = ""
    services: ServiceMatch | None = None
    ports: tuple[int | str, ...] = ()
    """Numbers, ranges as `8000:8100`, or names of endpoint ports."""
    not_ports: tuple[int | str, ...] = ()
    service_accounts: ServiceAccountMatch | None = None


class HTTPPath(Spec, frozen=True, kw_only=True):
    exact: str = ""
    prefix: str = ""


class HTTPMatch(Spec, frozen=True, kw_only=True):
    methods: tuple[str, ...] = ()
    paths: tuple[HTTPPath, ...] = ()


class RuleMetadata(Spec, frozen=True, kw_only=True):
    annotations: dict[str, str] = {}


class Rule(Spec, frozen=True, kw_only=True):
    action: Action
    ip_version: int | None = None
    """4 or 6; None means both."""
    protocol: int | str | None = None
    """`TCP` `UDP` `ICMP` `ICMPv6` `SCTP` `UDPLite`, or 1 to 255."""
    icmp: ICMP | None = None
    not_protocol: int | str | None = None
    not_icmp: ICMP | None = msgspec.field(default=None, name="notICMP")
    source: EntityRule = EntityRule()
    destination: EntityRule = EntityRule()
    http: HTTPMatch | None = None
    metadata: RuleMetadata | None = None


class TierSpec(Spec, frozen=True, kw_only=True):
    order: float | None = None
    """Lower first; None sorts last."""
    default_action: Literal["Deny", "Pass"] = "Deny"
    """What happens at the end of the tier to a packet that no rule decided."""


class Tier(Resource, frozen=True, kw_only=True):
    spec: TierSpec = TierSpec()
    status: dict[str, Any] = {}


class NetworkPolicySpec(Spec, frozen=True, kw_only=True):
    tier: str = DEFAULT_TIER
    order: float | None = None
    """Lower first; None sorts last."""
    ingress: tuple[Rule, ...] = ()
    egress: tuple[Rule, ...] = ()
    selector: str = ""
    types: tuple[Direction, ...] = ()
    """Empty means by the rules that there are: see `policy_types`."""
    service_account_selector: str = ""
    performance_hints: tuple[str, ...] = ()


class NetworkPolicy(Resource, frozen=True, kw_only=True):
    spec: NetworkPolicySpec = NetworkPolicySpec()


class GlobalNetworkPolicySpec(NetworkPolicySpec, frozen=True, kw_only=True):
    do_not_track: bool = False
    pre_dnat: bool = msgspec.field(default=False, name="preDNAT")
    apply_on_forward: bool = False
    namespace_selector: str = ""


class GlobalNetworkPolicy(Resource, frozen=True, kw_only=True):
    spec: GlobalNetworkPolicySpec = GlobalNetworkPolicySpec()


class ProfileSpec(Spec, frozen=True, kw_only=True):
    ingress: tuple[Rule, ...] = ()
    egress: tuple[Rule, ...] = ()
    labels_to_apply: dict[str, str] = {}
    """Labels that every endpoint with this profile inherits; its own labels win."""


class Profile(Resource, frozen=True, kw_only=True):
    spec: ProfileSpec = ProfileSpec()


def policy_types(spec: NetworkPolicySpec) -> tuple[Direction, ...]:
    """The directions that a policy applies to, by Calico's default when it names none.

    No egress rules mean Ingress; egress rules alone mean Egress; both mean both.
    """
    if spec.types:
        return spec.types
    if not spec.egress:
        return ("Ingress",)
    return ("Ingress", "Egress") if spec.ingress else ("Egress",)
