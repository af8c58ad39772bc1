"""What Kubernetes' own documentation says of NetworkPolicy, as plainly as it can be written.

Shares nothing with the product: no conversion, no selectors of ours. Source: Kubernetes,
networking/v1 types.go.
"""

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

Object = Mapping[str, Any]


class Pod(NamedTuple):
    name: str
    namespace: str
    labels: Mapping[str, str]
    namespace_labels: Mapping[str, str]
    address: str
    ports: Mapping[tuple[str, str], int]
    """(name, protocol) → number."""


def allowed(policies: Iterable[Object], source: Pod, target: Pod, protocol: str, port: int) -> bool:
    """A new connection from one pod to another."""
    known = list(policies)
    return _passes(known, "Egress", source, target, target, protocol, port) and _passes(
        known, "Ingress", target, source, target, protocol, port
    )


def _passes(
    policies: list[Object], way: str, subject: Pod, peer: Pod, server: Pod, protocol: str, port: int
) -> bool:
    selecting = [
        policy
        for policy in policies
        if policy["metadata"]["namespace"] == subject.namespace
        and way in _types(policy["spec"])
        and _selects(policy["spec"].get("podSelector", {}), subject.labels)
    ]
    if not selecting:
        return True
    field, peers = ("ingress", "from") if way == "Ingress" else ("egress", "to")
    return any(
        _has_peer(rule.get(peers), peer, policy["metadata"]["namespace"])
        and _has_port(rule.get("ports"), server, protocol, port)
        for policy in selecting
        for rule in policy["spec"].get(field) or ()
    )


def _types(spec: Object) -> list[str]:
    if spec.get("policyTypes"):
        types: list[str] = spec["policyTypes"]
        return types
    return ["Ingress", *(["Egress"] if spec.get("egress") else [])]


def _has_peer(peers: list[Object] | None, pod: Pod, namespace: str) -> bool:
    return not peers or any(_is_peer(peer, pod, namespace) for peer in peers)


def _is_peer(peer: Object, pod: Pod, namespace: str) -> bool:
    if "ipBlock" in peer:
        block = peer["ipBlock"]
        address = ipaddress.ip_address(pod.address)
        return address in ipaddress.ip_network(block["cidr"]) and not any(
            address in ipaddress.ip_network(cidr) for cidr in block.get("except", ())
        )
    if "namespaceSelector" in peer:
        if not _selects(peer["namespaceSelector"], pod.namespace_labels):
            return False
    elif pod.namespace != namespace:
        return False
    return _selects(peer.get("podSelector", {}), pod.labels)


def _has_port(ports: list[Object] | None, server: Pod, protocol: str, number: int) -> bool:
    return not ports or any(_is_port(port, server, protocol, number) for port in ports)


def _is_port(port: Object, server: Pod, protocol: str, number: int) -> bool:
    if port.get("protocol", "TCP") != protocol:
        return False
    wanted = port.get("port")
    if isinstance(wanted, str):
        return server.ports.get((wanted, protocol)) == number
    return wanted is None or wanted == number


def _selects(selector: Object, labels: Mapping[str, str]) -> bool:
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    return all(_holds(one, labels) for one in selector.get("matchExpressions", ()))


def _holds(expression: Object, labels: Mapping[str, str]) -> bool:
    value = labels.get(expression["key"])
    match expression["operator"]:
        case "In":
            return value in expression["values"]
        case "NotIn":
            return value not in expression["values"]
        case "Exists":
            return value is not None
        case _:
            return value is None
