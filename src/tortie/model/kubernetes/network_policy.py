"""networking.k8s.io/v1 NetworkPolicy to a NetworkPolicy of ours.

It becomes `knp.default.<name>` of the default tier, at order 1000, and only allows: what else
selects its pods adds to it, and the end of the tier denies the rest.

A peer or port that cannot be converted is left out, and its rule with it if it was the only one:
an allow rule less allows less. `{}` is such a peer: it names nobody. For a policy that cannot be
converted at all there is `isolation`.

Source: Kubernetes, networking/v1 (types.go, defaults.go: policyTypes, protocol); Calico,
libcalico-go/lib/backend/k8s/conversion/conversion.go, K8sNetworkPolicyToCalico.
"""

from collections.abc import Iterable, Mapping
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
from tortie.model.kubernetes.label_selector import (
    namespace_selector,
    pod_selector,
    widest_pod_selector,
)
from tortie.model.names import is_port_name
from tortie.model.policy import Direction, EntityRule, NetworkPolicy, NetworkPolicySpec, Rule

NAME_PREFIX = "knp.default."
ORDER = 1000.0

Port = int | str
_PROTOCOLS = ("TCP", "UDP", "SCTP")


class Converted(NamedTuple):
    key: ResourceKey
    resource: NetworkPolicy
    problems: tuple[str, ...]
    """What was left out; for people."""


class ConvertedSpec(NamedTuple):
    spec: NetworkPolicySpec
    problems: tuple[str, ...]


def network_policy(policy: Object) -> Converted:
    """
    Raises:
        InvalidInput: no name or namespace, or a podSelector or policyTypes that Kubernetes would
            not take: whom it would isolate cannot be told.
    """
    source = mapping(policy, "metadata")
    name = NAME_PREFIX + required_text(source, "name")
    namespace = required_text(source, "namespace")
    spec, problems = policy_spec(mapping(policy, "spec"))
    key = ResourceKey("NetworkPolicy", name, namespace)
    described = metadata(policy, name, namespace)
    return Converted(key, NetworkPolicy(kind=key.kind, metadata=described, spec=spec), problems)


def isolation(policy: Object) -> NetworkPolicy:
    """What stands in for a policy that cannot be converted: it allows nothing to its pods.

    Its pods, and maybe more of its namespace: what cannot be read of the podSelector narrows it
    no longer. The rules are left out, or they would allow something to those others. Directions
    are the policy's, or both if they cannot be read.

    Raises:
        InvalidInput: no name or namespace.
    """
    source = mapping(policy, "metadata")
    given = policy.get("spec")
    spec = given if isinstance(given, Mapping) else {}
    try:
        types = _types(spec)
    except InvalidInput:
        types = ("Ingress", "Egress")
    name = NAME_PREFIX + required_text(source, "name")
    described = metadata(policy, name, required_text(source, "namespace"))
    pods = widest_pod_selector(spec.get("podSelector"))
    closed = NetworkPolicySpec(order=ORDER, selector=pods, types=types)
    return NetworkPolicy(kind="NetworkPolicy", metadata=described, spec=closed)


def policy_spec(spec: Object) -> ConvertedSpec:
    """The `spec` of a NetworkPolicy, also as StagedKubernetesNetworkPolicy has it.

    Raises:
        InvalidInput: as `network_policy`.
    """
    problems: list[str] = []
    ingress = _rules(objects(spec, "ingress"), "from", "ingress", problems)
    egress = _rules(objects(spec, "egress"), "to", "egress", problems)
    converted = NetworkPolicySpec(
        order=ORDER,
        selector=pod_selector(mapping(spec, "podSelector")),
        ingress=tuple(ingress),
        egress=tuple(egress),
        types=_types(spec),
    )
    return ConvertedSpec(converted, tuple(problems))


def ports_by_protocol(
    ports: Iterable[tuple[str, Port | None]],
) -> dict[str | None, tuple[Port, ...]]:
    """Protocol → its ports; none: all of them. None in place of a port: all of its protocol."""
    found: dict[str, dict[Port, None] | None] = {}
    for protocol, port in ports:
        known = found.setdefault(protocol, {})
        if port is None:
            found[protocol] = None
        elif known is not None:
            known[port] = None
    return {protocol: tuple(several or ()) for protocol, several in sorted(found.items())}


def port_range(first: Any, last: Any) -> Port:
    """
    Raises:
        InvalidInput: no range of ports.
    """
    numbers = isinstance(first, int) and isinstance(last, int)
    if not numbers or isinstance(first, bool) or not 0 < first <= last <= 65535:
        raise InvalidInput(f"{first!r} to {last!r} is not a range of ports")
    return first if first == last else f"{first}:{last}"


def _types(spec: Object) -> tuple[Direction, ...]:
    given = sequence(spec, "policyTypes")
    if any(one not in ("Ingress", "Egress") for one in given):
        raise InvalidInput(f"policyTypes {given!r}")
    if not given:
        given = ["Ingress", *(["Egress"] if spec.get("egress") else [])]
    return tuple(one for one in ("Ingress", "Egress") if one in given)


def _rules(rules: list[Object], field: str, way: str, problems: list[str]) -> list[Rule]:
    converted = []
    for position, rule in enumerate(rules, start=1):
        where = f"{way} rule {position}"
        ports = _ports(rule, where, problems)
        peers = _peers(rule, field, where, problems)
        for protocol, numbers in ports.items():
            converted += [_rule(way, protocol, numbers, peer) for peer in peers]
    return converted


def _rule(way: str, protocol: str | None, ports: tuple[Port, ...], peer: EntityRule) -> Rule:
    if way == "ingress":
        destination = EntityRule(ports=ports)
        return Rule(action="Allow", protocol=protocol, source=peer, destination=destination)
    destination = EntityRule(
        ports=ports,
        nets=peer.nets,
        not_nets=peer.not_nets,
        selector=peer.selector,
        namespace_selector=peer.namespace_selector,
    )
    return Rule(action="Allow", protocol=protocol, destination=destination)


def _ports(rule: Object, where: str, problems: list[str]) -> dict[str | None, tuple[Port, ...]]:
    given = sequence(rule, "ports")
    if not given:
        return {None: ()}
    usable = []
    for port in given:
        try:
            usable.append(_port(port))
        except InvalidInput as error:
            problems.append(f"{where}: {error}")
    return ports_by_protocol(usable)


def _port(port: Any) -> tuple[str, Port | None]:
    if not isinstance(port, dict):
        raise InvalidInput(f"{port!r} is not a port")
    protocol = text(port, "protocol") or "TCP"
    if protocol not in _PROTOCOLS:
        raise InvalidInput(f"{protocol!r} is not a protocol that has ports")
    number, last = port.get("port"), port.get("endPort")
    if number is None and last is None:
        return protocol, None
    if isinstance(number, str) and last is None:
        if not is_port_name(number):
            raise InvalidInput(f"{number!r} is not a port's name")
        return protocol, number
    return protocol, port_range(number, number if last is None else last)


def _peers(rule: Object, field: str, where: str, problems: list[str]) -> list[EntityRule]:
    """Nets without exceptions are matched together, others one by one."""
    given = sequence(rule, field)
    if not given:
        return [EntityRule()]
    peers: list[EntityRule] = []
    nets: dict[int, list[str]] = {}
    for peer in given:
        try:
            converted = _peer(peer)
        except InvalidInput as error:
            problems.append(f"{where}: {error}")
            continue
        if converted.nets and not converted.not_nets:
            nets.setdefault(parse_network(converted.nets[0]).family, []).extend(converted.nets)
        else:
            peers.append(converted)
    return peers + [EntityRule(nets=tuple(dict.fromkeys(several))) for several in nets.values()]


def _peer(peer: Any) -> EntityRule:
    if not isinstance(peer, dict):
        raise InvalidInput(f"{peer!r} is not a peer")
    block = optional_mapping(peer, "ipBlock")
    pods = optional_mapping(peer, "podSelector")
    namespaces = optional_mapping(peer, "namespaceSelector")
    if block is not None:
        if pods is not None or namespaces is not None:
            raise InvalidInput("a peer with ipBlock may have no selector")
        excluded = tuple(str(parse_network(one)) for one in _texts(block, "except"))
        cidr = str(parse_network(required_text(block, "cidr")))
        return EntityRule(nets=(cidr,), not_nets=excluded)
    if pods is None and namespaces is None:
        raise InvalidInput("a peer without ipBlock and selectors names nobody")
    return EntityRule(
        selector=pod_selector(pods),
        namespace_selector="" if namespaces is None else namespace_selector(namespaces),
    )


def _texts(parent: Object, field: str) -> list[str]:
    values = sequence(parent, field)
    if not all(isinstance(value, str) for value in values):
        raise InvalidInput(f"{field} holds something that is not a string")
    return values
