"""Mistakes that somebody could make in calc or in the renderer, each as a patch of one function.

Every one of them must be noticed by packets: a comparison that cannot fail proves nothing. They
are patched in where the name is used, before the hosts start.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import pytest
from msgspec.structs import replace

from tortie.calc import (
    active_policies,
    active_rules,
    endpoint_policy,
    graph,
    ip_sets,
    rule_scanner,
    services,
    validation,
)
from tortie.calc.endpoint_policy import TierSettings
from tortie.calc.policy_order import PolicyOrder, TierOrder
from tortie.calc.rule_scanner import ServiceName
from tortie.dataplane.driver.cover import Change, Cover
from tortie.dataplane.rules import lists, match, policy
from tortie.desired.policy import AddressPort, IPSetType, PortRange
from tortie.desired.policy import Rule as DesiredRule
from tortie.kernel.nft.expressions import ACCEPT, DROP, Counter
from tortie.selector.syntax import All

Patch = Callable[[pytest.MonkeyPatch], None]


class Mutant(NamedTuple):
    name: str
    patch: Patch
    theme: str = ""
    """Of the worlds where it should show first."""


def put(target: object, name: str, value: object) -> Patch:
    return lambda patcher: patcher.setattr(target, name, value)


def wrap(target: Any, name: str, wrapper: Callable[..., Any]) -> Patch:
    """`wrapper` gets the original before its arguments."""
    original = getattr(target, name)

    def wrapped(*arguments: Any, **named: Any) -> Any:
        return wrapper(original, *arguments, **named)

    return put(target, name, wrapped)


# calc: order and tiers.


def _reversed(original: Any, policies: Any) -> Any:
    return tuple(reversed(original(policies)))


def _unordered_first(policy_id: Any, order: float | None) -> PolicyOrder:
    return PolicyOrder(order is not None, order or 0.0, policy_id)


def _no_policy_order(policy_id: Any, order: float | None) -> PolicyOrder:
    return PolicyOrder(False, 0.0, policy_id)


def _no_tier_order(name: str, order: float | None, **_: Any) -> TierOrder:
    return TierOrder(False, False, 0.0, name)


def _passing(order: TierOrder, _: str) -> TierSettings:
    return TierSettings(order, "Pass")


def _denying(order: TierOrder, _: str) -> TierSettings:
    return TierSettings(order, "Deny")


def _without_missing_tiers(
    original: Any, direction: str, policies: Iterable[Any], tiers: Any, profiles: Any, **named: Any
) -> Any:
    known = [one for one in policies if one.tier in tiers]
    return original(direction, known, tiers, profiles, **named)


# calc: what rules mean.


def _any_protocol(spec: Any, member: Any) -> Iterator[Any]:
    if spec.type is IPSetType.NET:
        yield from member.networks
        return
    for port in member.ports:
        if port.name == spec.port_name:
            for network in member.networks:
                yield AddressPort(network, spec.protocol, port.port)


def _no_accounts(original: Any, entity: Any) -> Any:
    return original(replace(entity, service_accounts=None))


def _named_ports_of_all(original: Any, self: Any, _: Any, *arguments: Any) -> Any:
    return original(self, All(), *arguments)


def _without_removal(original: Any, self: Any, *arguments: Any) -> None:
    """A member stays in its set for ever."""


def _without_inner(original: Any, self: Any, network: Any) -> Change:
    """What the network that goes has covered does not come back."""
    return Change(removed=original(self, network).removed)


# The renderer.


def _in_set_without(*first_letters: str) -> Patch:
    def in_set(original: Any, load: Any, name: str, *, negate: bool = False) -> Any:
        if negate and name.startswith(first_letters):
            return ()
        return original(load, name, negate=negate)

    return wrap(match, "in_set", in_set)


def _without_not_ports(patcher: pytest.MonkeyPatch) -> None:
    def rule_port(original: Any, *arguments: Any, negate: bool = False) -> Any:
        return () if negate else original(*arguments)

    _in_set_without("q")(patcher)
    wrap(match, "rule_port", rule_port)(patcher)


def _action(action: str, *expressions: Any) -> Patch:
    def action_of(original: Any, rule: DesiredRule, *rest: Any) -> Any:
        return expressions if rule.action == action else original(rule, *rest)

    return wrap(policy, "_action", action_of)


def _rules(change: Callable[[DesiredRule], DesiredRule]) -> Patch:
    def rule(original: Any, self: Any, rule: DesiredRule) -> Any:
        return original(self, change(rule))

    return wrap(policy._Renderer, "_rule", rule)


def _swapped(original: Any, policy_id: Any, wanted: Any, *arguments: Any, **named: Any) -> Any:
    turned = replace(wanted, ingress=wanted.egress, egress=wanted.ingress)
    return original(policy_id, turned, *arguments, **named)


def _only_ipv4(original: Any, self: Any, rule: Any) -> Any:
    return tuple(family for family in original(self, rule) if family != 6)


def _short_ranges(original: Any, ranges: Any) -> Any:
    return [PortRange(one.first, max(one.first, one.last - 1)) for one in original(ranges)]


def _positive_protocol(original: Any, number: int, *, negate: bool = False) -> Any:
    return () if negate else original(number)


def _first_port(original: Any, spec: Any, member: Any) -> Any:
    return original(spec, replace(member, ports=member.ports[:1]) if spec.service else member)


def _silently_removed(self: Any, item: Any) -> None:
    """The sets that have the slice are not told that it goes."""
    if service := self._services.pop(item, None):
        del self._slices[service][item]


def _positive_named_port(original: Any, *arguments: Any, negate: bool = False, **named: Any) -> Any:
    return () if negate else original(*arguments, **named)


def _first_only(original: Any, networks: Any) -> Any:
    return original(networks)[:1]


def _without_profiles(original: Any, wanted: Any, *arguments: Any) -> Any:
    """The chain is found by its list's id, so the list itself must stay as it is."""
    content = original(wanted, *arguments)
    if not wanted.tiers:
        return content
    chains = {
        name: chain._replace(rules=chain.rules[: -1 - len(wanted.profiles)])
        for name, chain in content.chains.items()
    }
    return replace(content, chains=chains)


MUTANTS = (
    Mutant("policies in reverse order", wrap(endpoint_policy, "_in_order", _reversed)),
    Mutant("policies by name alone", put(validation, "policy_order", _no_policy_order)),
    Mutant("policies without an order first", put(validation, "policy_order", _unordered_first)),
    Mutant("tiers by name alone", put(graph, "tier_order", _no_tier_order)),
    Mutant("the end of every tier passes", put(graph, "TierSettings", _passing)),
    Mutant("the end of every tier denies", put(graph, "TierSettings", _denying)),
    Mutant(
        "a missing tier passes at its end",
        wrap(
            endpoint_policy,
            "missing_tier",
            lambda original, name: replace(original(name), default_action="Pass"),
        ),
    ),
    Mutant(
        "policies of a missing tier count for nothing",
        wrap(active_policies, "policy_list", _without_missing_tiers),
    ),
    Mutant("profiles never follow tiers", put(endpoint_policy, "_can_leave", lambda *_: False)),
    Mutant("a missing profile allows", put(active_rules, "DENY_ALL", active_rules.ALLOW_ALL)),
    Mutant(
        "a policy's own selector reaches beyond its namespace",
        put(validation, "in_namespace", lambda node, _: node),
    ),
    Mutant(
        "a rule's selectors reach beyond the namespace",
        put(rule_scanner, "in_namespace", lambda node, _: node),
        "sets",
    ),
    Mutant(
        "namespaceSelector selects all",
        put(rule_scanner, "parse_namespace_selector", lambda _: All()),
        "namespace_selector",
    ),
    Mutant(
        "serviceAccounts is ignored",
        wrap(rule_scanner, "_label_terms", _no_accounts),
        "service_accounts",
    ),
    Mutant(
        "an endpoint may claim a namespace's labels",
        put(validation, "_LENT", ("pcsx.",)),
        "namespace_selector",
    ),
    Mutant(
        "named ports are served over any protocol",
        put(ip_sets, "_elements", _any_protocol),
        "named ports",
    ),
    Mutant(
        "named ports are everybody's",
        wrap(rule_scanner._Scanner, "_port_sets", _named_ports_of_all),
    ),
    Mutant(
        "a service is served at one of its ports",
        wrap(ip_sets, "_elements", _first_port),
        "services",
    ),
    Mutant(
        "a service of any namespace will do",
        put(rule_scanner, "ServiceName", lambda namespace, name: ServiceName("red", name)),
        "services",
    ),
    Mutant(
        "a slice that goes stays in its sets",
        put(services.Services, "remove_slice", _silently_removed),
        "services",
    ),
    Mutant("members never leave a set", wrap(ip_sets.IPSets, "_discard", _without_removal), "sets"),
    Mutant("a covered network is lost", wrap(Cover, "remove", _without_inner), "sets"),
    Mutant("Pass is Allow", _action("Pass", Counter(), ACCEPT)),
    Mutant("Pass goes on in its tier", _action("Pass", Counter())),
    Mutant("Pass is forgotten at the end", put(match, "mark_is_clear", lambda _: ())),
    Mutant("Deny does nothing", _action("Deny", Counter())),
    Mutant("Log denies", _action("Log", Counter(), DROP)),
    Mutant("notNets is lost", _in_set_without("n4", "n6"), "not_nets"),
    Mutant("notSelector is lost", _in_set_without("i4", "i6", "s4", "s6"), "not_selector"),
    Mutant("notPorts is lost", _without_not_ports, "not_ports"),
    Mutant(
        "named notPorts is lost", wrap(policy, "_named_port", _positive_named_port), "named ports"
    ),
    Mutant("notProtocol is lost", wrap(match, "protocol", _positive_protocol), "not_protocol"),
    Mutant("ipVersion is ignored", _rules(lambda rule: replace(rule, family=None))),
    Mutant("protocol is ignored", _rules(lambda rule: replace(rule, protocol=None))),
    Mutant("notICMP is lost", _rules(lambda rule: replace(rule, not_icmp=None)), "icmp"),
    Mutant(
        "ICMP's code is ignored",
        put(policy, "_icmp_bytes", lambda icmp: bytes((icmp.type,))),
        "icmp",
    ),
    Mutant(
        "source and destination are swapped",
        _rules(lambda rule: replace(rule, source=rule.destination, destination=rule.source)),
    ),
    Mutant("ingress and egress are swapped", wrap(policy, "policy_chain", _swapped)),
    Mutant("no rules for IPv6", wrap(policy._Renderer, "_families", _only_ipv4)),
    Mutant("a range of ports ends too early", wrap(policy, "disjoint", _short_ranges), "ports"),
    Mutant("of several networks the first", wrap(policy, "outermost", _first_only), "nets"),
    Mutant("a list's profiles are not jumped to", wrap(lists, "list_chain", _without_profiles)),
)
