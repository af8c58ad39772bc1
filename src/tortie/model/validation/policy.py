"""Rules of tiers, policies, profiles, and of the rules in them."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tortie.lib.ip import parsed_network
from tortie.model import names
from tortie.model.policy import (
    DEFAULT_ALLOW_PROFILE,
    HTTP_MAX,
    ICMP,
    NETS_MAX,
    PORTS_MAX,
    RULES_MAX,
    EntityRule,
    GlobalNetworkPolicy,
    GlobalNetworkPolicySpec,
    HTTPMatch,
    NetworkPolicy,
    Profile,
    Rule,
    Tier,
)
from tortie.model.validation import terms
from tortie.model.validation.terms import Problem, forbidden

if TYPE_CHECKING:
    from tortie.model.staged_policy import StagedGlobalNetworkPolicy, StagedNetworkPolicy

FIXED_TIERS: dict[str, tuple[float, str]] = {
    "kube-admin": (1000.0, "Pass"),
    "default": (1000000.0, "Deny"),
    "kube-baseline": (10000000.0, "Pass"),
}
"""Tiers that every cluster has: their order and default action, which nobody may change."""

_ICMP_FAMILY = {1: 4, 58: 6}


def tier_problems(tier: Tier) -> Iterator[Problem]:
    fixed = FIXED_TIERS.get(tier.metadata.name)
    if fixed is None:
        return
    order, action = fixed
    if tier.spec.order != order:
        yield Problem("spec.order", tier.spec.order, f"of this tier must be {order:.0f}")
    if tier.spec.default_action != action:
        yield Problem(
            "spec.defaultAction", tier.spec.default_action, f"of this tier must be {action}"
        )


def profile_problems(profile: Profile, *, strict: bool) -> Iterator[Problem]:
    if profile.metadata.name == DEFAULT_ALLOW_PROFILE:
        yield Problem("metadata.name", DEFAULT_ALLOW_PROFILE, "is built in and cannot be changed")
    yield from terms.labels_problems("spec.labelsToApply", profile.spec.labels_to_apply)
    for direction, rules in (("ingress", profile.spec.ingress), ("egress", profile.spec.egress)):
        yield from _rules_problems(direction, rules, strict=strict, is_global=False)


def policy_problems(
    policy: "NetworkPolicy | GlobalNetworkPolicy | StagedNetworkPolicy | StagedGlobalNetworkPolicy",
    *,
    strict: bool,
) -> Iterator[Problem]:
    spec = policy.spec
    is_global = isinstance(spec, GlobalNetworkPolicySpec)
    if not names.is_dns_label(spec.tier):
        yield Problem("spec.tier", spec.tier, "must be the name of a tier")
    yield from terms.selector_problems("spec.selector", spec.selector)
    yield from terms.selector_problems("spec.serviceAccountSelector", spec.service_account_selector)
    yield from terms.unique_problems("spec.types", spec.types)
    for direction, rules in (("ingress", spec.ingress), ("egress", spec.egress)):
        yield from _rules_problems(direction, rules, strict=strict, is_global=is_global)
    if isinstance(spec, GlobalNetworkPolicySpec):
        yield from _global_problems(spec)


def _global_problems(spec: GlobalNetworkPolicySpec) -> Iterator[Problem]:
    yield from terms.selector_problems("spec.namespaceSelector", spec.namespace_selector)
    if spec.pre_dnat:
        yield from forbidden("spec.doNotTrack", spec.do_not_track, "cannot go with preDNAT")
        yield from forbidden("spec.egress", spec.egress, "cannot go with preDNAT")
        if "Egress" in spec.types:
            yield Problem("spec.types", spec.types, "cannot have Egress with preDNAT")
    if (spec.pre_dnat or spec.do_not_track) and not spec.apply_on_forward:
        yield Problem("spec.applyOnForward", False, "must be true with preDNAT and with doNotTrack")


def _rules_problems(
    direction: str, rules: tuple[Rule, ...], *, strict: bool, is_global: bool
) -> Iterator[Problem]:
    yield from terms.count_problems(f"spec.{direction}", rules, RULES_MAX)
    for index, rule in enumerate(rules):
        path = f"spec.{direction}[{index}]"
        yield from _match_problems(path, rule)
        yield from _entity_problems(f"{path}.source", rule.source, rule, strict=strict)
        yield from _entity_problems(f"{path}.destination", rule.destination, rule, strict=strict)
        yield from _service_problems(path, direction, rule, is_global=is_global)
        if rule.http is not None:
            yield from _http_problems(path, direction, rule, rule.http)


def _match_problems(path: str, rule: Rule) -> Iterator[Problem]:
    if rule.ip_version not in (None, 4, 6):
        yield Problem(f"{path}.ipVersion", rule.ip_version, "must be 4 or 6")
    for field, protocol in (("protocol", rule.protocol), ("notProtocol", rule.not_protocol)):
        if protocol is None:
            continue
        yield from terms.protocol_problems(f"{path}.{field}", protocol)
        family = _ICMP_FAMILY.get(terms.protocol_number(protocol) or 0)
        if family and rule.ip_version not in (None, family):
            yield Problem(f"{path}.ipVersion", rule.ip_version, f"must be {family} with {protocol}")
    for field, icmp in (("icmp", rule.icmp), ("notICMP", rule.not_icmp)):
        if icmp is not None:
            yield from _icmp_problems(f"{path}.{field}", icmp)
    if (rule.icmp or rule.not_icmp) and terms.protocol_number(rule.protocol) not in _ICMP_FAMILY:
        yield Problem(
            f"{path}.protocol", rule.protocol, "must be ICMP or ICMPv6 with icmp, notICMP"
        )


def _icmp_problems(path: str, icmp: ICMP) -> Iterator[Problem]:
    yield from terms.range_problems(f"{path}.type", icmp.type, 0, 254)
    yield from terms.range_problems(f"{path}.code", icmp.code, 0, 255)
    if icmp.code is not None and icmp.type is None:
        yield Problem(f"{path}.type", None, "is needed with code")


def _entity_problems(path: str, side: EntityRule, rule: Rule, *, strict: bool) -> Iterator[Problem]:
    for field, selector in (
        ("selector", side.selector),
        ("notSelector", side.not_selector),
        ("serviceAccounts.selector", side.service_accounts and side.service_accounts.selector),
    ):
        yield from terms.selector_problems(f"{path}.{field}", selector or "")
    yield from terms.selector_problems(
        f"{path}.namespaceSelector", side.namespace_selector, may_be_global=True
    )
    yield from _nets_problems(path, side, rule, strict=strict)
    for field, ports in (("ports", side.ports), ("notPorts", side.not_ports)):
        yield from _ports_problems(f"{path}.{field}", ports, rule)


def _nets_problems(path: str, side: EntityRule, rule: Rule, *, strict: bool) -> Iterator[Problem]:
    families: dict[int, str] = {}
    for field, nets in (("nets", side.nets), ("notNets", side.not_nets)):
        yield from terms.count_problems(f"{path}.{field}", nets, NETS_MAX)
        for index, text in enumerate(nets):
            place = f"{path}.{field}[{index}]"
            yield from terms.network_problems(place, text, strict=strict)
            network = parsed_network(text)
            if network is None:
                continue
            families.setdefault(network.family, place)
            if field == "notNets" and network.length == 0:
                yield Problem(place, text, "would exclude every address")
            if rule.ip_version not in (None, network.family):
                yield Problem(place, text, f"must be of the rule's ipVersion {rule.ip_version}")
    if len(families) > 1:
        yield Problem(families[6], None, "IPv4 and IPv6 cannot be mixed in a rule; make it two")


def _ports_problems(path: str, ports: tuple[int | str, ...], rule: Rule) -> Iterator[Problem]:
    yield from terms.count_problems(path, ports, PORTS_MAX)
    for index, port in enumerate(ports):
        yield from terms.port_problems(f"{path}[{index}]", port)
    if not ports:
        return
    only_named = all(map(terms.is_named_port, ports))
    if rule.protocol is None and only_named:
        return
    if terms.protocol_number(rule.protocol) not in terms.WITH_PORTS:
        yield Problem(path, ports, "needs the rule's protocol to be TCP, UDP or SCTP")


def _service_problems(
    path: str, direction: str, rule: Rule, *, is_global: bool
) -> Iterator[Problem]:
    for name, side in (("source", rule.source), ("destination", rule.destination)):
        services, place = side.services, f"{path}.{name}"
        if services is None:
            continue
        if not services.name:
            yield Problem(f"{place}.services.name", "", "is needed")
        if is_global and not services.namespace:
            yield Problem(f"{place}.services.namespace", "", "is needed in a global policy")
        if (direction, name) in (("egress", "source"), ("ingress", "destination")):
            yield Problem(
                f"{place}.services", services.name, f"cannot be in an {direction} rule's {name}"
            )
        why = "cannot go with services"
        for field, value in (
            ("namespaceSelector", side.namespace_selector),
            ("selector", side.selector),
            ("notSelector", side.not_selector),
            ("nets", side.nets),
            ("notNets", side.not_nets),
            ("serviceAccounts", side.service_accounts),
        ):
            yield from forbidden(f"{place}.{field}", value, why)
        if name == "destination":
            yield from forbidden(f"{place}.ports", side.ports, why)
            yield from forbidden(f"{place}.notPorts", side.not_ports, why)


def _http_problems(path: str, direction: str, rule: Rule, http: HTTPMatch) -> Iterator[Problem]:
    if rule.action != "Allow":
        yield Problem(f"{path}.http", rule.action, "can be only in rules that Allow")
    if rule.protocol is not None and terms.protocol_number(rule.protocol) != 6:
        yield Problem(f"{path}.protocol", rule.protocol, "must be TCP with http")
    if direction == "egress":
        yield Problem(f"{path}.http", None, "cannot be in an egress rule")
    yield from terms.count_problems(f"{path}.http.methods", http.methods, HTTP_MAX)
    yield from terms.unique_problems(f"{path}.http.methods", http.methods)
    yield from terms.count_problems(f"{path}.http.paths", http.paths, HTTP_MAX)
    for index, item in enumerate(http.paths):
        place, text = f"{path}.http.paths[{index}]", item.exact or item.prefix
        if bool(item.exact) == bool(item.prefix):
            yield Problem(place, text, "must have either exact or prefix")
        elif not text.startswith("/") or any(c in text for c in "?# "):
            yield Problem(place, text, "must begin with / and have no space, ? or #")
