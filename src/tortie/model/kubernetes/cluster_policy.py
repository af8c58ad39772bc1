"""Policies of Kubernetes' policy API (policy.networking.k8s.io) to global ones of ours.

ClusterNetworkPolicy (v1alpha2) in its tiers, and the two kinds that it has taken the place of:
AdminNetworkPolicy and BaselineAdminNetworkPolicy (v1alpha1). The tiers `kube-admin` and
`kube-baseline` stand around the default one and pass at their end, so that the baseline is asked
only about pods that no NetworkPolicy isolates. Equal priorities go by name.

A rule with a part that cannot be converted denies all if it was to deny or pass, and is left out
if it was to accept.

Source: sigs.k8s.io/network-policy-api, apis/v1alpha2; Calico,
libcalico-go/lib/backend/k8s/conversion/clusternetworkpolicy.go.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from tortie.lib.errors import InvalidInput
from tortie.lib.ip import parse_network
from tortie.model.keys import ResourceKey
from tortie.model.kubernetes.fields import (
    Object,
    mapping,
    metadata,
    objects,
    optional_mapping,
    required_text,
    sequence,
    text,
)
from tortie.model.kubernetes.label_selector import PODS, namespace_selector, pod_selector
from tortie.model.kubernetes.network_policy import Port, port_range, ports_by_protocol
from tortie.model.metadata import Metadata
from tortie.model.names import is_port_name
from tortie.model.policy import (
    Action,
    Direction,
    EntityRule,
    GlobalNetworkPolicy,
    GlobalNetworkPolicySpec,
    Rule,
    RuleMetadata,
    Tier,
    TierSpec,
)

ADMIN_TIER, BASELINE_TIER = "kube-admin", "kube-baseline"
RULE_NAME_ANNOTATION = "policy.networking.k8s.io/rule-name"

_ACTIONS: dict[str, Action] = {"Accept": "Allow", "Allow": "Allow", "Deny": "Deny", "Pass": "Pass"}
_TIERS = {"Admin": ADMIN_TIER, "Baseline": BASELINE_TIER}
_NAME_PREFIXES = {
    ("ClusterNetworkPolicy", ADMIN_TIER): "kcnp.admin.",
    ("ClusterNetworkPolicy", BASELINE_TIER): "kcnp.baseline.",
    ("AdminNetworkPolicy", ADMIN_TIER): "kanp.adminnetworkpolicy.",
    ("BaselineAdminNetworkPolicy", BASELINE_TIER): "kbanp.baselineadminnetworkpolicy.",
}
NAME_PREFIXES = tuple(_NAME_PREFIXES.values())
"""What the names of all that is made here begin with."""
_PROTOCOLS = ("TCP", "UDP", "SCTP")
_PRIORITY_MAX = 1000


class Converted(NamedTuple):
    key: ResourceKey
    resource: GlobalNetworkPolicy
    problems: tuple[str, ...]
    """What was left out, or denies for want of understanding; for people."""


def kubernetes_tiers() -> tuple[tuple[ResourceKey, Tier], ...]:
    """The tiers before and behind the default one, as every cluster has them."""
    return tuple(
        (
            ResourceKey("Tier", name),
            Tier(
                kind="Tier",
                metadata=Metadata(name=name),
                spec=TierSpec(order=order, default_action="Pass"),
            ),
        )
        for name, order in ((ADMIN_TIER, 1_000.0), (BASELINE_TIER, 10_000_000.0))
    )


def cluster_policy(policy: Object) -> Converted:
    """Any of the three kinds; `kind` says which.

    Raises:
        InvalidInput: not one of them, or no name, tier, priority or subject that can be told.
    """
    name = required_text(mapping(policy, "metadata"), "name")
    spec = mapping(policy, "spec")
    kind = text(policy, "kind")
    tier = _tier(kind, spec)
    prefix = _NAME_PREFIXES.get((kind, tier))
    if prefix is None:
        raise InvalidInput(f"{kind!r} is no policy for a whole cluster")
    namespaces, pods = _subject(mapping(spec, "subject"))
    problems: list[str] = []
    ingress = tuple(_rules(spec, "ingress", "from", problems))
    egress = tuple(_rules(spec, "egress", "to", problems))
    ways: tuple[tuple[Direction, tuple[Rule, ...]], ...] = (
        ("Ingress", ingress),
        ("Egress", egress),
    )
    types = tuple(way for way, rules in ways if rules)
    converted = GlobalNetworkPolicySpec(
        tier=tier,
        order=_priority(kind, spec),
        namespace_selector=namespaces,
        # No types mean Ingress; but the end of these tiers passes, so that it says nothing.
        selector=pods,
        ingress=ingress,
        egress=egress,
        types=types,
    )
    key = ResourceKey("GlobalNetworkPolicy", prefix + name)
    described = metadata(policy, key.name)
    resource = GlobalNetworkPolicy(kind=key.kind, metadata=described, spec=converted)
    return Converted(key, resource, tuple(problems))


def _tier(kind: str, spec: Object) -> str:
    if kind == "ClusterNetworkPolicy":
        tier = text(spec, "tier")
        if tier not in _TIERS:
            raise InvalidInput(f"tier {tier!r}")
        return _TIERS[tier]
    return ADMIN_TIER if kind == "AdminNetworkPolicy" else BASELINE_TIER


def equal_orders(policies: Iterable[GlobalNetworkPolicy]) -> tuple[str, ...]:
    """Which of them go by name alone, for want of different priorities; for people.

    The API leaves open what then happens; here it is the same on every host and every day, and
    may still not be what somebody meant.
    """
    names: dict[tuple[str, float], list[str]] = {}
    for policy in policies:
        if policy.spec.order is not None:
            place = policy.spec.tier, policy.spec.order
            names.setdefault(place, []).append(policy.metadata.name)
    return tuple(
        f"{' and '.join(sorted(several))} have the same order {order:g} in tier {tier}: where both "
        "select an endpoint, they are asked in this order"
        for (tier, order), several in sorted(names.items())
        if len(several) > 1
    )


def _priority(kind: str, spec: Object) -> float:
    if kind == "BaselineAdminNetworkPolicy":
        return 0.0  # there is only one
    priority = spec.get("priority")
    if type(priority) is not int or not 0 <= priority <= _PRIORITY_MAX:
        raise InvalidInput(f"priority {priority!r}")
    return float(priority)


def _subject(subject: Object) -> tuple[str, str]:
    """Namespace and pod selector; never host endpoints, so no pods on a host's own network."""
    namespaces = optional_mapping(subject, "namespaces")
    pods = optional_mapping(subject, "pods")
    if (namespaces is None) == (pods is None):
        raise InvalidInput("subject needs namespaces or pods, and not both")
    if pods is None:
        assert namespaces is not None
        return namespace_selector(namespaces), PODS
    return (
        namespace_selector(mapping(pods, "namespaceSelector")),
        pod_selector(mapping(pods, "podSelector")),
    )


def _rules(spec: Object, way: str, field: str, problems: list[str]) -> Iterator[Rule]:
    for position, rule in enumerate(objects(spec, way), start=1):
        action = rule.get("action")
        try:
            yield from _rule(rule, way, field)
        except InvalidInput as error:
            closed = action not in ("Accept", "Allow")
            fate = "denies everything" if closed else "is left out"
            problems.append(f"{way} rule {position} {fate}: {error}")
            if closed:
                yield Rule(action="Deny")


def _rule(rule: Object, way: str, field: str) -> list[Rule]:
    action = rule.get("action")
    if not isinstance(action, str) or action not in _ACTIONS:
        raise InvalidInput(f"action {action!r}")
    name = text(rule, "name")
    described = RuleMetadata(annotations={RULE_NAME_ANNOTATION: name}) if name else None
    peers = [one for peer in objects(rule, field) for one in _peers(peer, way)]
    if not peers:
        raise InvalidInput(f"{field} is missing")
    rules = []
    for protocol, ports in _ports(rule).items():
        for peer in peers:
            source = peer if way == "ingress" else EntityRule()
            other = EntityRule() if way == "ingress" else peer
            destination = EntityRule(
                selector=other.selector,
                namespace_selector=other.namespace_selector,
                nets=other.nets,
                ports=ports,
            )
            rules.append(
                Rule(
                    action=_ACTIONS[action],
                    protocol=protocol,
                    source=source,
                    destination=destination,
                    metadata=described,
                )
            )
    return rules


def _peers(peer: Object, way: str) -> list[EntityRule]:
    """One, or one for each family."""
    known = {"namespaces", "pods", *(["networks"] if way == "egress" else [])}
    given = {field for field in peer if peer[field] is not None}
    if len(given) != 1 or not given <= known:
        raise InvalidInput(f"a peer by {', '.join(sorted(given)) or 'nothing'}")
    if "namespaces" in given:
        namespaces = namespace_selector(mapping(peer, "namespaces"))
        return [EntityRule(selector=PODS, namespace_selector=namespaces)]
    if "pods" in given:
        pods = mapping(peer, "pods")
        selector = pod_selector(mapping(pods, "podSelector"))
        namespaces = namespace_selector(mapping(pods, "namespaceSelector"))
        return [EntityRule(selector=selector, namespace_selector=namespaces)]
    networks = [parse_network(str(one)) for one in sequence(peer, "networks")]
    if not networks:
        raise InvalidInput("a peer by no network")
    by_family = ([one for one in networks if one.family == family] for family in (4, 6))
    return [EntityRule(nets=tuple(map(str, nets))) for nets in by_family if nets]


def _ports(rule: Object) -> dict[str | None, tuple[Port, ...]]:
    """Of v1alpha2's `protocols` or v1alpha1's `ports`."""
    given = [*objects(rule, "protocols"), *objects(rule, "ports")]
    if not given:
        return {None: ()}
    return ports_by_protocol(pair for one in given for pair in _port(one))


def _port(given: Object) -> Iterator[tuple[str, Port | None]]:
    if len([field for field in given if given[field] is not None]) != 1:
        raise InvalidInput("a protocol or port that is not exactly one thing")
    for protocol in _PROTOCOLS:
        if (wanted := optional_mapping(given, protocol.lower())) is not None:
            yield protocol, _number(mapping(wanted, "destinationPort"))
            return
    if (number := optional_mapping(given, "portNumber")) is not None:
        yield _protocol(number), port_range(number.get("port"), number.get("port"))
    elif (wide := optional_mapping(given, "portRange")) is not None:
        yield _protocol(wide), port_range(wide.get("start"), wide.get("end"))
    else:
        name = text(given, "destinationNamedPort") or text(given, "namedPort")
        if not is_port_name(name):
            raise InvalidInput(f"a protocol or port by {', '.join(given)}")
        for protocol in _PROTOCOLS:  # each endpoint says over which one it serves that name
            yield protocol, name


def _number(port: Mapping[str, Any]) -> Port | None:
    if not port:
        return None
    if (wide := optional_mapping(port, "range")) is not None:
        return port_range(wide.get("start"), wide.get("end"))
    return port_range(port.get("number"), port.get("number"))


def _protocol(port: Object) -> str:
    protocol = text(port, "protocol") or "TCP"
    if protocol not in _PROTOCOLS:
        raise InvalidInput(f"{protocol!r} is not a protocol that has ports")
    return protocol
