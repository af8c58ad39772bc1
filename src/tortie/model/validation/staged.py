"""Rules of staged policies: those of what they would become, and what Delete may say."""

from collections.abc import Iterator, Sequence

import msgspec

from tortie.lib.ip import parsed_network
from tortie.model import names
from tortie.model.staged_policy import (
    IPBlock,
    KubernetesPeer,
    KubernetesPort,
    LabelSelector,
    StagedGlobalNetworkPolicy,
    StagedKubernetesNetworkPolicy,
    StagedKubernetesNetworkPolicySpec,
    StagedNetworkPolicy,
)
from tortie.model.validation import policy as policies
from tortie.model.validation import terms
from tortie.model.validation.terms import Problem

_OPERATORS = {"In": True, "NotIn": True, "Exists": False, "DoesNotExist": False}
"""Of label expressions, and whether they take values."""

_ONLY_TIER = "must not be given with stagedAction Delete"


def staged_problems(
    resource: StagedNetworkPolicy | StagedGlobalNetworkPolicy, *, strict: bool
) -> Iterator[Problem]:
    spec = resource.spec
    if spec.staged_action != "Delete":
        yield from policies.policy_problems(resource, strict=strict)
        return
    yield from _different_fields(spec, type(spec)(tier=spec.tier, staged_action="Delete"))


def _different_fields(spec: msgspec.Struct, bare: msgspec.Struct) -> Iterator[Problem]:
    for field in msgspec.structs.fields(spec):
        value = getattr(spec, field.name)
        if value != getattr(bare, field.name):
            shown = value if isinstance(value, str | int | float) else "given"
            yield Problem(f"spec.{field.encode_name}", shown, _ONLY_TIER)


def staged_kubernetes_problems(resource: StagedKubernetesNetworkPolicy) -> Iterator[Problem]:
    spec = resource.spec
    if spec.staged_action == "Delete":
        bare = StagedKubernetesNetworkPolicySpec(staged_action="Delete")
        yield from _different_fields(spec, bare)
        return
    yield from _selector_problems("spec.podSelector", spec.pod_selector)
    for index, rule in enumerate(spec.ingress):
        yield from _rule_problems(f"spec.ingress[{index}]", "from", rule.from_, rule.ports)
    for index, egress in enumerate(spec.egress):
        yield from _rule_problems(f"spec.egress[{index}]", "to", egress.to, egress.ports)


def _rule_problems(
    path: str, side: str, peers: Sequence[KubernetesPeer], ports: Sequence[KubernetesPort]
) -> Iterator[Problem]:
    for index, peer in enumerate(peers):
        yield from _peer_problems(f"{path}.{side}[{index}]", peer)
    for index, port in enumerate(ports):
        yield from _port_problems(f"{path}.ports[{index}]", port)


def _peer_problems(path: str, peer: KubernetesPeer) -> Iterator[Problem]:
    if peer == KubernetesPeer():
        yield Problem(path, None, "must have podSelector, namespaceSelector or ipBlock")
    for name, selector in (
        ("podSelector", peer.pod_selector),
        ("namespaceSelector", peer.namespace_selector),
    ):
        if selector is not None:
            yield from _selector_problems(f"{path}.{name}", selector)
            if peer.ip_block is not None:
                yield Problem(f"{path}.{name}", "given", "cannot go with ipBlock")
    if peer.ip_block is not None:
        yield from _block_problems(f"{path}.ipBlock", peer.ip_block)


def _block_problems(path: str, block: IPBlock) -> Iterator[Problem]:
    whole = parsed_network(block.cidr)
    for index, text in enumerate(block.except_):
        part = parsed_network(text)
        if whole and part and not (whole.contains(part) and whole != part):
            yield Problem(f"{path}.except[{index}]", text, f"must be a part of {block.cidr}")


def _selector_problems(path: str, selector: LabelSelector) -> Iterator[Problem]:
    yield from terms.labels_problems(f"{path}.matchLabels", selector.match_labels)
    for index, expression in enumerate(selector.match_expressions):
        place = f"{path}.matchExpressions[{index}]"
        if expression.key and not names.is_label_key(expression.key):
            yield Problem(f"{place}.key", expression.key, "is not a legal name of a label")
        takes_values = _OPERATORS.get(expression.operator)
        if takes_values is None:
            rule = f"must be one of {', '.join(_OPERATORS)}"
            yield Problem(f"{place}.operator", expression.operator, rule)
        elif takes_values != bool(expression.values):
            rule = "is needed" if takes_values else "cannot go"
            yield Problem(
                f"{place}.values", expression.values, f"{rule} with operator {expression.operator}"
            )
        for number, value in enumerate(expression.values):
            if not names.is_label_value(value):
                yield Problem(f"{place}.values[{number}]", value, "is not a legal value of a label")


def _port_problems(path: str, port: KubernetesPort) -> Iterator[Problem]:
    if port.protocol is not None and port.protocol not in ("TCP", "UDP", "SCTP"):
        yield Problem(f"{path}.protocol", port.protocol, "must be TCP, UDP or SCTP")
    if isinstance(port.port, str):
        if not names.is_port_name(port.port):
            rule = "must be a number, or 1 to 15 of a-z, 0-9 and '-', one a letter"
            yield Problem(f"{path}.port", port.port, rule)
    else:
        yield from terms.range_problems(f"{path}.port", port.port, 1, 65535)
    if port.end_port is None:
        return
    if not isinstance(port.port, int):
        yield Problem(f"{path}.endPort", port.end_port, "needs a port that is a number")
    elif not port.port <= port.end_port <= 65535:
        yield Problem(f"{path}.endPort", port.end_port, f"must be {port.port} to 65535")
