"""Why a rule does not match a packet: every condition that fails, and what would satisfy it.

Says in words what `matching.rule_matches` says in yes or no; the tests hold the
two together: a rule matches exactly if nothing is said here.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from tortie.explain import matching, oracle
from tortie.explain.oracle import Packet, State
from tortie.lib.errors import InvalidInput
from tortie.lib.ip import Network
from tortie.model.keys import ResourceKey
from tortie.model.policy import EntityRule, Rule
from tortie.selector import syntax
from tortie.selector.normal import ANY_VALUE, labels_named, required

PROTOCOL_NAMES = {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6", 132: "SCTP", 136: "UDPLite"}


class Mismatch(NamedTuple):
    field: str
    """Of the rule: `protocol`, `source.selector`, `destination.ports`."""
    reason: str
    fix: str = ""
    """What would make this condition hold; empty where there is no simple answer."""


def mismatches(state: State, rule: Rule, packet: Packet, namespace: str) -> list[Mismatch]:
    """Everything about the rule that the packet does not meet; empty if it matches.

    Args:
        namespace: of the policy; empty for a global one and for a profile.
    """
    return [
        *_protocol(rule, packet),
        *_side(state, rule, "source", packet, namespace),
        *_side(state, rule, "destination", packet, namespace),
    ]


def protocol_name(protocol: int | str) -> str:
    number = matching.protocol_number(protocol)
    return PROTOCOL_NAMES.get(number, f"protocol {number}")


def describe_holder(state: State, address: Network) -> str:
    """Who has the address, for people: `default/web-1 (10.0.0.1)`, or the address alone."""
    workload = oracle.workload_with(state, address)
    if workload is None:
        return address.address_text
    return f"{short_name(state, workload)} ({address.address_text})"


def short_name(state: State, key: ResourceKey) -> str:
    """`namespace/workload` for an endpoint, as people name it."""
    spec = getattr(state.get(key), "spec", None)
    name = getattr(spec, "pod", "") or getattr(spec, "workload", "") or key.name
    return f"{key.namespace}/{name}" if key.namespace else name


def _protocol(rule: Rule, packet: Packet) -> Iterator[Mismatch]:
    has = protocol_name(packet.protocol)
    if rule.http is not None and rule.action != "Deny":
        yield Mismatch("http", "HTTP is matched by proxies only, not here")
    if rule.ip_version is not None and rule.ip_version != packet.source.family:
        yield Mismatch("ipVersion", f"the packet is IPv{packet.source.family}")
    if rule.protocol is not None and matching.protocol_number(rule.protocol) != packet.protocol:
        yield Mismatch("protocol", f"is {protocol_name(rule.protocol)}, the packet is {has}")
    if (
        rule.not_protocol is not None
        and matching.protocol_number(rule.not_protocol) == packet.protocol
    ):
        yield Mismatch("notProtocol", f"excludes {has}")
    kind = f"type {packet.icmp_type} code {packet.icmp_code}"
    if rule.icmp is not None and not matching.icmp_matches(rule.icmp, packet):
        yield Mismatch("icmp", f"the packet is {has} {kind}")
    excluded = rule.not_icmp
    if (
        excluded is not None
        and excluded.type is not None
        and matching.icmp_matches(excluded, packet)
    ):
        yield Mismatch("notICMP", f"excludes {kind}")


def _side(
    state: State, rule: Rule, name: str, packet: Packet, namespace: str
) -> Iterator[Mismatch]:
    source = name == "source"
    side = rule.source if source else rule.destination
    address = packet.source if source else packet.destination
    port = packet.source_port if source else packet.destination_port
    who = describe_holder(state, address)
    yield from _service(state, rule, name, packet, namespace)
    if side.nets and not matching.in_any(side.nets, address):
        nets = ", ".join(side.nets)
        yield Mismatch(f"{name}.nets", f"{who} is not in {nets}", f"add {address} to {name}.nets")
    if side.not_nets and matching.in_any(side.not_nets, address):
        yield Mismatch(f"{name}.notNets", f"{who} is excluded by {', '.join(side.not_nets)}")
    yield from _labels(state, side, name, address, namespace)
    yield from _ports(state, rule, side, name, address, port, packet, namespace)


def _service(
    state: State, rule: Rule, name: str, packet: Packet, namespace: str
) -> Iterator[Mismatch]:
    source = name == "source"
    service = (rule.source if source else rule.destination).services
    if service is None:
        return
    slices = list(matching.slices_of(state, service, namespace))
    title = f"service {service.namespace or namespace}/{service.name}"
    field = f"{name}.services"
    if not any(found.endpoints for found in slices):
        yield Mismatch(field, f"nobody serves {title}, as far as is known here")
        return
    address = packet.source if source else packet.destination
    fits = matching.side_selects(state, EntityRule(services=service), address, [], namespace)
    if not fits:
        yield Mismatch(field, f"{describe_holder(state, address)} does not serve {title}")
    elif not source and not matching.reaches_service(state, rule, packet, namespace):
        served = sorted({(port.port, str(port.protocol)) for one in slices for port in one.ports})
        ports = ", ".join(f"{port}/{protocol}" for port, protocol in served) or "no port"
        yield Mismatch(field, f"{title} is served at {ports}")


def _labels(
    state: State, side: EntityRule, name: str, address: Network, namespace: str
) -> Iterator[Mismatch]:
    holders = list(matching.holders_of(state, address))
    who = describe_holder(state, address)
    if matching.limited_by_label(side, namespace) and not any(
        matching.entity_selected(state, key, side, namespace) for key in holders
    ):
        yield _not_selected(state, side, name, holders, who, namespace)
    excluded = [
        key
        for key in holders
        if side.not_selector
        and matching.selector_matches(side.not_selector, matching.labels_of(state, key))
    ]
    if excluded:
        yield Mismatch(f"{name}.notSelector", f"{side.not_selector!r} excludes {who}")


def _not_selected(
    state: State,
    side: EntityRule,
    name: str,
    holders: list[ResourceKey],
    who: str,
    namespace: str,
) -> Mismatch:
    if not holders:
        return Mismatch(
            f"{name}.selector", f"{who} belongs to no endpoint or network set, so it has no labels"
        )
    labels = matching.labels_of(state, holders[0])
    if side.namespace_selector and not matching.namespace_matches(side.namespace_selector, labels):
        return Mismatch(
            f"{name}.namespaceSelector",
            f"{side.namespace_selector!r} does not select the namespace of {who}",
        )
    if not side.namespace_selector and namespace and holders[0].namespace != namespace:
        return Mismatch(
            f"{name}.selector",
            f"{who} is not in namespace {namespace}, and without a namespaceSelector a policy "
            "means its own",
            f"give {name} a namespaceSelector",
        )
    if side.service_accounts is not None and matching.selector_matches(side.selector, labels):
        return Mismatch(f"{name}.serviceAccounts", f"{who} runs under another service account")
    return Mismatch(
        f"{name}.selector",
        f"{side.selector!r}: {who} has {_relevant(side.selector, labels)}",
        _label_fix(side.selector, labels, who),
    )


def _ports(
    state: State,
    rule: Rule,
    side: EntityRule,
    name: str,
    address: Network,
    port: int | None,
    packet: Packet,
    namespace: str,
) -> Iterator[Mismatch]:
    if not side.ports and not side.not_ports:
        return
    selected = [
        key
        for key in matching.holders_of(state, address)
        if not matching.limited_by_label(side, namespace)
        or matching.entity_selected(state, key, side, namespace)
    ]
    shown = "no port" if port is None else str(port)
    if side.ports and not matching.port_in(state, rule, side.ports, selected, port, packet):
        listed = ", ".join(map(str, side.ports))
        fix = "" if port is None else f"add {port} to {name}.ports"
        yield Mismatch(f"{name}.ports", f"{shown} is not among {listed}", fix)
    if side.not_ports and matching.port_in(state, rule, side.not_ports, selected, port, packet):
        listed = ", ".join(map(str, side.not_ports))
        yield Mismatch(f"{name}.notPorts", f"{shown} is among {listed}")


def _relevant(selector: str, labels: Mapping[str, str]) -> str:
    """The labels that the selector asks about, as they are."""
    asked = _labels_asked(selector)
    present = [f"{label}={labels[label]}" for label in asked if label in labels]
    missing = [f"no {label}" for label in asked if label not in labels]
    return ", ".join([*present, *missing]) or "other labels"


def _labels_asked(selector: str) -> list[str]:
    try:
        return sorted(labels_named(syntax.parse(selector)))
    except InvalidInput:
        return []


def _label_fix(selector: str, labels: Mapping[str, str], who: str) -> str:
    """One label to set that makes the selector match, if there is one."""
    try:
        node = syntax.parse(selector)
    except InvalidInput as error:
        return f"mend the selector: {error}"
    for label, values in sorted(required(node).items()):
        for value in ["true"] if values is ANY_VALUE else sorted(values):
            if node.matches({**labels, label: value}):
                return f"set label {label}={value} on {who.partition(' ')[0]}"
    return ""
