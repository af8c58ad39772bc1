"""The packet space cut into pieces within which no rule can tell two packets apart.

Addresses: workloads that nothing distinguishes (labels, profiles, named ports,
and which of all networks and services mentioned contain them) are one class; addresses of
no workload are one class for each region that the networks mentioned cut out.
Ports: the intervals between all numbers mentioned. Protocols and ICMP types:
those mentioned, and one that is not. So deciding one packet for each piece
decides them all.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tortie.explain import matching
from tortie.explain.mismatch import protocol_name, short_name
from tortie.explain.oracle import State
from tortie.lib.ip import Network, parse_address, parse_network
from tortie.model.endpoint import HostEndpoint, WorkloadEndpoint
from tortie.model.endpoint_slice import KubernetesEndpointSlice, KubernetesEndpointSliceSpec
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


class AddressClass(NamedTuple):
    """Addresses that no rule can tell apart."""

    name: str
    """Of the first member; for addresses of no workload, the region."""
    family: int
    members: int
    """Workloads in it; 0 for a region of other addresses."""
    address: Network
    """Of the first member."""
    other: Network | None
    """Of a second one, to ask about packets within the class; None if there is none."""


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


def address_classes(before: State, after: State) -> list[AddressClass]:
    """All classes, of both states together: workloads first, by name, then regions."""
    networks = mentioned_networks(before) | mentioned_networks(after)
    serving = [_addresses_in(found) for state in (before, after) for found in _slices(state)]
    members: dict[object, list[tuple[str, Network]]] = {}
    taken: set[Network] = set()
    for name, address, signature in _workloads(before, after, networks):
        serves = tuple(address in addresses for addresses in serving)
        members.setdefault((signature, serves), []).append((name, address))
        taken.add(address)
    networks = networks.union(*serving) - taken
    classes = [
        AddressClass(
            found[0][0],
            found[0][1].family,
            len(found),
            found[0][1],
            found[1][1] if len(found) > 1 else None,
        )
        for found in members.values()
    ]
    return [*sorted(classes), *_regions(networks, taken)]


def services(before: State, after: State) -> dict[int, list[Service]]:
    """By family of addresses."""
    rules = [rule for state in (before, after) for rule in _rules(state)]
    destination = _cuts(before, after, [rule.destination for rule in rules])
    source = _cuts(before, after, [rule.source for rule in rules], named=False)
    protocols = {6, 17} | {
        matching.protocol_number(protocol)
        for rule in rules
        for protocol in (rule.protocol, rule.not_protocol)
        if protocol is not None
    }
    protocols |= {
        matching.protocol_number(port.protocol)
        for state in (before, after)
        for found in _slices(state)
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
        found[family] = [*ports, *_icmp(icmp, rules), *others]
    return found


def mentioned_networks(state: State) -> set[Network]:
    """Every network that a rule, a network set or a host endpoint names."""
    found: set[Network] = set()
    for rule in _rules(state):
        for side in (rule.source, rule.destination):
            found.update(map(parse_network, (*side.nets, *side.not_nets)))
    for resource in state.values():
        if isinstance(resource, NetworkSet | GlobalNetworkSet):
            found.update(map(parse_network, resource.spec.nets))
        elif isinstance(resource, HostEndpoint):
            found.update(map(parse_network, resource.spec.expected_ips))
    return found


def _slices(state: State) -> list[KubernetesEndpointSliceSpec]:
    """Of the services that rules name."""
    named = {
        (service.namespace or namespace, service.name)
        for rule, namespace in _rules_in_namespaces(state)
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


def _addresses_in(found: KubernetesEndpointSliceSpec) -> frozenset[Network]:
    return frozenset(parse_network(text) for one in found.endpoints for text in one.addresses)


def _rules(state: State) -> Iterator[Rule]:
    return (rule for rule, _ in _rules_in_namespaces(state))


def _rules_in_namespaces(state: State) -> Iterator[tuple[Rule, str]]:
    for key, resource in state.items():
        if isinstance(resource, NetworkPolicy | GlobalNetworkPolicy | Profile):
            namespace = key.namespace if isinstance(key, ResourceKey) else ""
            for rule in (*resource.spec.ingress, *resource.spec.egress):
                yield rule, namespace


def _workloads(
    before: State, after: State, networks: set[Network]
) -> Iterator[tuple[str, Network, object]]:
    """Name, address and signature of every workload's addresses, in either state."""
    keys = {
        key
        for state in (before, after)
        for key, resource in state.items()
        if isinstance(key, ResourceKey) and isinstance(resource, WorkloadEndpoint)
    }
    seen: set[Network] = set()
    for key in sorted(keys):
        signature = (_signature(before, key), _signature(after, key))
        resource = after.get(key) or before[key]
        assert isinstance(resource, WorkloadEndpoint)
        state = after if key in after else before
        for address in map(parse_address, resource.spec.ip_networks):
            if address not in seen:
                seen.add(address)
                inside = frozenset(network for network in networks if network.contains(address))
                yield short_name(state, key), address, (address.family, inside, signature)


def _signature(state: State, key: ResourceKey) -> object:
    """All of an endpoint that policy can see, but its addresses."""
    resource = state.get(key)
    if not isinstance(resource, WorkloadEndpoint):
        return None
    labels = frozenset(matching.labels_of(state, key).items())
    ports = frozenset((port.name, str(port.protocol), port.port) for port in resource.spec.ports)
    return key.namespace, labels, ports, resource.spec.profiles


def _regions(networks: set[Network], taken: set[Network]) -> Iterator[AddressClass]:
    """One address that is in exactly the same networks as all others of its region."""
    for family, everything in ((4, Network(4, 0, 0)), (6, Network(6, 0, 0))):
        own = {network for network in networks if network.family == family}
        for network in sorted({everything, *own}):
            inner = [other for other in own if other != network and network.contains(other)]
            free = _free_address(network, inner, taken)
            if free is not None:
                name = "elsewhere" if network == everything else f"elsewhere in {network}"
                yield AddressClass(f"{name} (IPv{family})", family, 0, free, None)


def _free_address(
    network: Network, inner: Sequence[Network], taken: set[Network]
) -> Network | None:
    """An address in it, in none of the inner ones, and nobody's; None if there is none."""
    value = network.first
    holes = sorted((hole.first, hole.last) for hole in inner)
    while value <= network.last:
        for first, last in holes:
            if first <= value <= last:
                value = last + 1
                break
        else:
            address = Network(network.family, value, network.bits)
            if address not in taken:
                return address
            value += 1
    return None


def _cuts(
    before: State, after: State, sides: Sequence[EntityRule], *, named: bool = True
) -> list[tuple[int, int]]:
    """The intervals between the ports mentioned, first and last of each."""
    starts = {1}
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
            for found in _slices(state):
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
    return Service(text, protocol, source[0], destination[0], None, None, destination[1])


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
