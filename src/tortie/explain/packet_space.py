"""The packet space cut into pieces within which no rule can tell two packets apart.

`address_classes` cuts addresses. Ports: the intervals between all numbers mentioned. Protocols
and ICMP types: those mentioned, and one that is not. So deciding one packet for each piece decides
them all.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from tortie.explain import matching
from tortie.explain.mismatch import protocol_name
from tortie.explain.oracle import State
from tortie.explain.passage import settings_of
from tortie.lib.ip import Network, parse_network
from tortie.model.endpoint import HostEndpoint, WorkloadEndpoint
from tortie.model.endpoint_slice import KubernetesEndpointSlice, KubernetesEndpointSliceSpec
from tortie.model.felix_configuration import ProtoPort
from tortie.model.keys import ResourceKey
from tortie.model.network_set import GlobalNetworkSet, NetworkSet
from tortie.model.policy import (
    EntityRule,
    GlobalNetworkPolicy,
    NetworkPolicy,
    Profile,
    Rule,
)

PORT_MAX = 65535
_UNMENTIONED_PROTOCOL = 253
"""For experiments (RFC 3692): stands for all that no rule names."""
_WITH_PORTS = (6, 17, 132, 136)


class Service(NamedTuple):
    """A piece of the space of protocols and ports."""

    text: str
    """`TCP 80`, `UDP 1-52`, `ICMP type 8`."""
    protocol: int
    source_port: int | None
    destination_port: int | None
    icmp_type: int | None
    icmp_code: int | None
    last_port: int | None = None
    """Where its range of destination ports ends."""
    last_source_port: int | None = None


def services(
    before: State, after: State, failsafe: Sequence[ProtoPort] = (), *, answers: bool = False
) -> dict[int, list[Service]]:
    """By family of addresses.

    Args:
        failsafe: ports that matter besides those of rules.
        answers: and where they answer: whether doNotTrack policies are asked.
    """
    asked = [rule for state in (before, after) for rule in rules(state)]
    more = {one.port for one in failsafe}
    destination = _cuts(before, after, [rule.destination for rule in asked], more)
    sources = [rule.source for rule in asked]
    source = _cuts(before, after, sources, more if answers else (), named=False)
    protocols = {6, 17} | {matching.protocol_number(one.protocol or "tcp") for one in failsafe}
    protocols |= {
        matching.protocol_number(protocol)
        for rule in asked
        for protocol in (rule.protocol, rule.not_protocol)
        if protocol is not None
    }
    protocols |= {
        matching.protocol_number(port.protocol)
        for state in (before, after)
        for found in slices_asked(state)
        for port in found.ports
    }
    plain = sorted(protocols - {1, 58, *_WITH_PORTS})
    found: dict[int, list[Service]] = {}
    for family, icmp in ((4, 1), (6, 58)):
        ports = [
            _with_ports(protocol, source_range, destination_range)
            for protocol in sorted(protocols & {*_WITH_PORTS})
            for source_range in source
            for destination_range in destination
        ]
        others = [
            Service(protocol_name(protocol), protocol, None, None, None, None)
            for protocol in [*plain, _UNMENTIONED_PROTOCOL]
        ]
        found[family] = [*ports, *_icmp(icmp, asked), *others]
    return found


def failsafe_ports(*states: State) -> list[ProtoPort]:
    """Of all hosts with host endpoints."""
    hosts = {
        (index, resource.spec.node)
        for index, state in enumerate(states)
        for resource in state.values()
        if isinstance(resource, HostEndpoint)
    }
    found = [settings_of(states[index], host) for index, host in sorted(hosts)]
    ports = [(*one.failsafe_inbound, *one.failsafe_outbound) for one in found]
    return list(dict.fromkeys(port for several in ports for port in several))


def mentioned_networks(state: State) -> set[Network]:
    """Every network that a rule, a network set, a host endpoint or a failsafe port names."""
    found: set[Network] = set()
    for rule in rules(state):
        for side in (rule.source, rule.destination):
            found.update(map(parse_network, (*side.nets, *side.not_nets)))
    for resource in state.values():
        if isinstance(resource, NetworkSet | GlobalNetworkSet):
            found.update(map(parse_network, resource.spec.nets))
        elif isinstance(resource, HostEndpoint):
            found.update(map(parse_network, resource.spec.expected_ips))
    found.update(parse_network(port.net) for port in failsafe_ports(state) if port.net)
    return found


def slices_asked(state: State) -> list[KubernetesEndpointSliceSpec]:
    """Of the services that rules name."""
    named = {
        (service.namespace or namespace, service.name)
        for rule, namespace in rules_in_namespaces(state)
        for service in (rule.source.services, rule.destination.services)
        if service is not None
    }
    return [
        resource.spec
        for key, resource in state.items()
        if isinstance(resource, KubernetesEndpointSlice)
        and isinstance(key, ResourceKey)
        and (key.namespace, resource.spec.service) in named
    ]


def rules(state: State) -> Iterator[Rule]:
    return (rule for rule, _ in rules_in_namespaces(state))


def rules_in_namespaces(state: State) -> Iterator[tuple[Rule, str]]:
    for key, resource in state.items():
        if isinstance(resource, NetworkPolicy | GlobalNetworkPolicy | Profile):
            namespace = key.namespace if isinstance(key, ResourceKey) else ""
            for rule in (*resource.spec.ingress, *resource.spec.egress):
                yield rule, namespace


def _cuts(
    before: State,
    after: State,
    sides: Sequence[EntityRule],
    more: Iterable[int],
    *,
    named: bool = True,
) -> list[tuple[int, int]]:
    """The intervals between the ports mentioned, first and last of each."""
    starts = {1, *more, *(port + 1 for port in more)}
    for side in sides:
        for port in (*side.ports, *side.not_ports):
            first, colon, last = str(port).partition(":")
            if first.isdigit():
                starts |= {int(first), int(last if colon else first) + 1}
    if named:
        for state in (before, after):
            for resource in state.values():
                if isinstance(resource, WorkloadEndpoint | HostEndpoint):
                    for offered in resource.spec.ports:
                        starts |= {offered.port, offered.port + 1}
            for found in slices_asked(state):
                for served in found.ports:
                    starts |= {served.port, served.port + 1}
    ordered = sorted(start for start in starts if 1 <= start <= PORT_MAX)
    return [
        (first, following - 1)
        for first, following in zip(ordered, [*ordered[1:], PORT_MAX + 1], strict=True)
    ]


def _with_ports(protocol: int, source: tuple[int, int], destination: tuple[int, int]) -> Service:
    text = _port_text(protocol, *destination)
    if source != (1, PORT_MAX):
        text += f" from {range_text(*source)}"
    return Service(text, protocol, source[0], destination[0], None, None, destination[1], source[1])


def _port_text(protocol: int, first: int, last: int) -> str:
    ports = "" if (first, last) == (1, PORT_MAX) else f" {range_text(first, last)}"
    return protocol_name(protocol) + ports


def merged_texts(pieces: Sequence[Service]) -> list[str]:
    """What the pieces are called, neighbouring ranges of ports as one."""
    texts: list[str] = []
    first: int | None = None
    for piece, following in zip(pieces, [*pieces[1:], None], strict=True):
        if piece.last_port is None or piece.destination_port is None:
            texts.append(piece.text)
            continue
        first = piece.destination_port if first is None else first
        if (
            following is not None
            and following.destination_port == piece.last_port + 1
            and (following.protocol, following.source_port) == (piece.protocol, piece.source_port)
        ):
            continue
        _, _, source = piece.text.partition(" from ")
        text = _port_text(piece.protocol, first, piece.last_port)
        texts.append(f"{text} from {source}" if source else text)
        first = None
    return texts


def range_text(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def _icmp(protocol: int, rules: Sequence[Rule]) -> Iterator[Service]:
    mentioned: dict[int, set[int]] = {}
    for rule in rules:
        for match in (rule.icmp, rule.not_icmp):
            if match is not None and match.type is not None:
                codes = mentioned.setdefault(match.type, set())
                codes |= set() if match.code is None else {match.code}
    name = protocol_name(protocol)
    for icmp_type, codes in sorted(mentioned.items()):
        for code in sorted(codes):
            yield Service(
                f"{name} type {icmp_type} code {code}", protocol, None, None, icmp_type, code
            )
        other = next(code for code in range(256) if code not in codes)
        text = f"{name} type {icmp_type}" + (" other codes" if codes else "")
        yield Service(text, protocol, None, None, icmp_type, other)
    other_type = next(number for number in range(254, 0, -1) if number not in mentioned)
    text = f"{name} other types" if mentioned else name
    yield Service(text, protocol, None, None, other_type, 0)
