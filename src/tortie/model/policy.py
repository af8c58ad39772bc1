"""Tiers, policies, profiles and the rules in them."""

from typing import Annotated, Literal

import msgspec

from tortie.model.limits import NAME_MAX_CHARACTERS, PRESENT, Limits, Selector
from tortie.model.metadata import Resource, Spec
from tortie.model.status import Status

Action = Literal["Allow", "Deny", "Log", "Pass"]
Direction = Literal["Ingress", "Egress"]
Hint = Annotated[str, Limits(choices=("AssumeNeededOnEveryNode",))]

RULES_MAX = 1024
"""In one direction of a policy."""
NETS_MAX = 256
PORTS_MAX = 50
HTTP_MAX = 20
"""Methods, and paths, of one rule."""
PATH_MAX_CHARACTERS = 1024

DEFAULT_TIER = "default"
TIER_LABEL = "projectcalico.org/tier"
DEFAULT_ALLOW_PROFILE = "projectcalico-default-allow"
"""Built in, never stored: allows everything both ways."""


class ICMP(Spec, frozen=True, kw_only=True):
    type: Annotated[int | None, Limits(low=0, high=254)] = None
    code: Annotated[int | None, Limits(low=0, high=255)] = None
    """Only with a type."""


class ServiceMatch(Spec, frozen=True, kw_only=True):
    name: Annotated[str, Limits(longest=NAME_MAX_CHARACTERS)] = ""
    namespace: Annotated[str, Limits(longest=NAME_MAX_CHARACTERS)] = ""


class ServiceAccountMatch(Spec, frozen=True, kw_only=True):
    names: Annotated[tuple[str, ...], Limits(unique=True)] = ()
    selector: Selector = ""


_Nets = Annotated[tuple[str, ...], Limits(most=NETS_MAX, unique=True)]
_Ports = Annotated[tuple[int | str, ...], Limits(most=PORTS_MAX)]


class EntityRule(Spec, frozen=True, kw_only=True):
    """One side of a rule; everything given must hold, an empty one matches all."""

    nets: _Nets = ()
    not_nets: _Nets = ()
    selector: Selector = ""
    not_selector: Selector = ""
    namespace_selector: Selector = ""
    services: ServiceMatch | None = None
    ports: _Ports = ()
    """Numbers, ranges as `8000:8100`, or names of endpoint ports."""
    not_ports: _Ports = ()
    service_accounts: ServiceAccountMatch | None = None


class HTTPPath(Spec, frozen=True, kw_only=True):
    exact: Annotated[str, Limits(longest=PATH_MAX_CHARACTERS)] = ""
    prefix: Annotated[str, Limits(longest=PATH_MAX_CHARACTERS)] = ""


class HTTPMatch(Spec, frozen=True, kw_only=True):
    methods: Annotated[tuple[str, ...], Limits(most=HTTP_MAX, unique=True)] = ()
    paths: Annotated[tuple[HTTPPath, ...], Limits(most=HTTP_MAX)] = ()


class RuleMetadata(Spec, frozen=True, kw_only=True):
    annotations: dict[str, str] = {}


class Rule(Spec, frozen=True, kw_only=True):
    action: Action
    ip_version: Annotated[int | None, Limits(choices=(4, 6))] = None
    """None means both."""
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
    spec: Annotated[TierSpec, PRESENT] = TierSpec()
    status: Status = Status()


_Rules = Annotated[tuple[Rule, ...], Limits(most=RULES_MAX)]


class NetworkPolicySpec(Spec, frozen=True, kw_only=True):
    tier: str = DEFAULT_TIER
    order: float | None = None
    """Lower first; None sorts last."""
    ingress: _Rules = ()
    egress: _Rules = ()
    selector: Selector = ""
    types: Annotated[tuple[Direction, ...], Limits(fewest=1, most=2, unique=True)] = ()
    """Empty means by the rules that there are: see `policy_types`."""
    service_account_selector: Selector = ""
    performance_hints: Annotated[tuple[Hint, ...], Limits(unique=True)] = ()


class NetworkPolicy(Resource, frozen=True, kw_only=True):
    spec: Annotated[NetworkPolicySpec, PRESENT] = NetworkPolicySpec()


class GlobalNetworkPolicySpec(NetworkPolicySpec, frozen=True, kw_only=True):
    do_not_track: bool = False
    pre_dnat: bool = msgspec.field(default=False, name="preDNAT")
    apply_on_forward: bool = False
    namespace_selector: Selector = ""


class GlobalNetworkPolicy(Resource, frozen=True, kw_only=True):
    spec: Annotated[GlobalNetworkPolicySpec, PRESENT] = GlobalNetworkPolicySpec()


class ProfileSpec(Spec, frozen=True, kw_only=True):
    ingress: tuple[Rule, ...] = ()
    egress: tuple[Rule, ...] = ()
    labels_to_apply: dict[str, str] = {}
    """Labels that every endpoint with this profile inherits; its own labels win."""


class Profile(Resource, frozen=True, kw_only=True):
    spec: ProfileSpec = ProfileSpec()


def unenforceable(spec: "NetworkPolicySpec | ProfileSpec", way: Direction) -> tuple[str, ...]:
    """What of one direction's rules no host can enforce as written; for people.

    Never more is allowed for it: an Allow or Pass matches nothing, a Deny denies regardless.
    """
    rules = spec.ingress if way == "Ingress" else spec.egress
    return tuple(
        f"rule {position}: HTTP cannot be matched here, so the rule "
        + ("denies whatever the request" if rule.action == "Deny" else "matches nothing")
        for position, rule in enumerate(rules, start=1)
        if rule.http is not None
    )


def policy_types(spec: NetworkPolicySpec) -> tuple[Direction, ...]:
    """The directions that a policy applies to, by Calico's default when it names none.

    No egress rules mean Ingress; egress rules alone mean Egress; both mean both.
    """
    if spec.types:
        return spec.types
    if not spec.egress:
        return ("Ingress",)
    return ("Ingress", "Egress") if spec.ingress else ("Egress",)
