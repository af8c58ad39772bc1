"""Whether one rule matches one packet, and what anything's labels are: the reference's half of
`oracle` that knows rules. As plain as that, and as far from what it judges.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

from tortie.lib.errors import InvalidInput
from tortie.lib.ip import Network, parse_network
from tortie.model.endpoint import (
    NAMESPACE_LABEL,
    ORCHESTRATOR_LABEL,
    SERVICE_ACCOUNT_LABEL,
    HostEndpoint,
    WorkloadEndpoint,
)
from tortie.model.endpoint_slice import KubernetesEndpointSlice, KubernetesEndpointSliceSpec
from tortie.model.keys import Key, ResourceKey
from tortie.model.network_set import GlobalNetworkSet, NetworkSet
from tortie.model.policy import ICMP, EntityRule, Profile, Rule, ServiceMatch
from tortie.selector import syntax

_PROTOCOLS = {"tcp": 6, "udp": 17, "icmp": 1, "icmpv6": 58, "sctp": 132, "udplite": 136}
_WITH_PORTS = frozenset({6, 17, 132, 136})

network_of = lru_cache(4096)(parse_network)
"""The same few texts are read for every packet."""

State = Mapping[Key, object]
"""The datastore's resources by key; what does not decode is simply not in it."""


class Packet(NamedTuple):
    """The first packet of a flow."""

    source: Network
    """An address, full length; so is `destination`."""
    destination: Network
    protocol: int
    source_port: int | None = None
    destination_port: int | None = None
    """None for protocols without ports."""
    icmp_type: int | None = None
    icmp_code: int | None = None


def labels_of(state: State, key: ResourceKey) -> dict[str, str]:
    """Its own labels over those of its profiles, an earlier profile over a later one.

    A network set inherits from its namespace's profile. Where something is (its namespace, and
    what that or a service account lends) nobody can claim by labels of their own.

    Source: Calico, libcalico-go/lib/backend/syncersv1/updateprocessors/
    workloadendpointprocessor.go, networksetprocessor.go.
    """
    resource = state[key]
    labels: dict[str, str] = {}
    for name in reversed(_profiles_of(resource)):
        profile = state.get(ResourceKey("Profile", name))
        if isinstance(profile, Profile):
            labels.update(profile.spec.labels_to_apply)
    if isinstance(resource, WorkloadEndpoint | HostEndpoint | NetworkSet | GlobalNetworkSet):
        own = resource.metadata.labels
        lent = ("pcns.", "pcsa.") if key.namespace else ()
        labels.update({label: own[label] for label in own if not label.startswith(lent)})
    if isinstance(resource, WorkloadEndpoint):
        if resource.spec.orchestrator:
            labels[ORCHESTRATOR_LABEL] = resource.spec.orchestrator
        if resource.spec.service_account_name:
            labels[SERVICE_ACCOUNT_LABEL] = resource.spec.service_account_name
    labels.pop(NAMESPACE_LABEL, None)
    if key.namespace:
        labels[NAMESPACE_LABEL] = key.namespace
    return labels


def _profiles_of(resource: object) -> tuple[str, ...]:
    if isinstance(resource, WorkloadEndpoint | HostEndpoint):
        return resource.spec.profiles
    if isinstance(resource, NetworkSet):
        return (f"kns.{resource.metadata.namespace}",)
    return ()


def rule_matches(state: State, rule: Rule, packet: Packet, namespace: str) -> bool:
    if not protocol_matches(rule, packet):
        return False
    for side, address, port in (
        (rule.source, packet.source, packet.source_port),
        (rule.destination, packet.destination, packet.destination_port),
    ):
        holders = list(holders_of(state, address))
        if not side_selects(state, side, address, holders, namespace):
            return False
        if not ports_match(state, rule, side, holders, port, packet, namespace):
            return False
    return reaches_service(state, rule, packet, namespace)


def protocol_matches(rule: Rule, packet: Packet) -> bool:
    """All of a rule but its two sides."""
    if rule.http is not None and rule.action != "Deny":
        return False  # needs a proxy; what it allows must not be more than it says
    if rule.ip_version is not None and rule.ip_version != packet.source.family:
        return False
    if rule.protocol is not None and protocol_number(rule.protocol) != packet.protocol:
        return False
    if rule.not_protocol is not None and protocol_number(rule.not_protocol) == packet.protocol:
        return False
    if rule.icmp is not None and not icmp_matches(rule.icmp, packet):
        return False
    excluded = rule.not_icmp if rule.not_icmp and rule.not_icmp.type is not None else None
    return excluded is None or not icmp_matches(excluded, packet)


def ports_match(
    state: State,
    rule: Rule,
    side: EntityRule,
    holders: list[ResourceKey],
    port: int | None,
    packet: Packet,
    namespace: str,
) -> bool:
    """Whether a side's ports fit; its address fits already."""
    if not side.ports and not side.not_ports:
        return True
    # A named port is what the selected offer: the rule's selectors limit who counts, for
    # notPorts too (Calico, felix/calc/rule_scanner.go).
    selected = [
        key
        for key in holders
        if not limited_by_label(side, namespace) or entity_selected(state, key, side, namespace)
    ]
    if side.ports and not port_in(state, rule, side.ports, selected, port, packet):
        return False
    return not (side.not_ports and port_in(state, rule, side.not_ports, selected, port, packet))


def side_selects(
    state: State, side: EntityRule, address: Network, holders: list[ResourceKey], namespace: str
) -> bool:
    """Whether this side's networks, labels and service fit the address; ports are not looked at.

    Args:
        holders: of the address, as `holders_of` gives them.
    """
    if side.services is not None and not any(
        address in map(network_of, endpoint.addresses)
        for found in slices_of(state, side.services, namespace)
        for endpoint in found.endpoints
    ):
        return False
    if side.nets and not in_any(side.nets, address):
        return False
    if side.not_nets and in_any(side.not_nets, address):
        return False
    return _selectors_match(state, side, holders, namespace)


def reaches_service(state: State, rule: Rule, packet: Packet, namespace: str) -> bool:
    """Whether the packet goes to a port at which the destination's service is served.

    A source's service says where a packet comes from; its ports say nothing about that.
    """
    service = rule.destination.services
    return service is None or any(
        protocol_number(port.protocol) == packet.protocol
        and port.port == packet.destination_port
        and any(packet.destination in map(network_of, one.addresses) for one in found.endpoints)
        for found in slices_of(state, service, namespace)
        for port in found.ports
    )


def slices_of(
    state: State, service: ServiceMatch, namespace: str
) -> Iterator[KubernetesEndpointSliceSpec]:
    """All that is known of where a service is served; nothing of one that is missing.

    Args:
        namespace: of the policy; the service's, where the rule names none.
    """
    for key, resource in state.items():
        if (
            isinstance(resource, KubernetesEndpointSlice)
            and isinstance(key, ResourceKey)
            and key.namespace == (service.namespace or namespace)
            and resource.spec.service == service.name
        ):
            yield resource.spec


def limited_by_label(side: EntityRule, namespace: str) -> bool:
    """Whether the rule names what it means on this side by labels.

    Any selector, the negative one too, limits a namespaced policy to its namespace.
    """
    accounts = side.service_accounts
    by_account = accounts is not None and (accounts.names or accounts.selector)
    by_label = side.selector or side.namespace_selector or by_account
    return bool(by_label or (namespace and side.not_selector))


def _selectors_match(
    state: State, side: EntityRule, holders: list[ResourceKey], namespace: str
) -> bool:
    """`selector`, `namespaceSelector` and `serviceAccounts` name things by label."""
    if limited_by_label(side, namespace) and not any(
        entity_selected(state, key, side, namespace) for key in holders
    ):
        return False
    return not side.not_selector or not any(
        selector_matches(side.not_selector, labels_of(state, key)) for key in holders
    )


def entity_selected(state: State, key: ResourceKey, side: EntityRule, namespace: str) -> bool:
    labels = labels_of(state, key)
    accounts = side.service_accounts
    if accounts is not None:
        if accounts.names and labels.get(SERVICE_ACCOUNT_LABEL) not in accounts.names:
            return False
        if accounts.selector and not lent_labels_match(accounts.selector, "pcsa.", labels):
            return False
    if side.namespace_selector:
        if not namespace_matches(side.namespace_selector, labels):
            return False
    elif namespace and labels.get(NAMESPACE_LABEL) != namespace:
        return False  # a namespaced policy means its own namespace when it names none
    return selector_matches(side.selector, labels)


def holders_of(state: State, address: Network) -> Iterator[ResourceKey]:
    """Everything labelled that has the address: endpoints and network sets."""
    for key, resource in state.items():
        if not isinstance(key, ResourceKey):
            continue
        match resource:
            case WorkloadEndpoint():
                networks = resource.spec.ip_networks
            case HostEndpoint():
                networks = resource.spec.expected_ips
            case NetworkSet() | GlobalNetworkSet():
                networks = resource.spec.nets
            case _:
                continue
        if in_any(networks, address):
            yield key


def port_in(
    state: State,
    rule: Rule,
    ports: tuple[int | str, ...],
    selected: list[ResourceKey],
    port: int | None,
    packet: Packet,
) -> bool:
    if packet.protocol not in _WITH_PORTS or port is None:
        return False
    # Where a rule names no protocol, its named ports are TCP.
    named = packet.protocol == (6 if rule.protocol is None else protocol_number(rule.protocol))
    for wanted in ports:
        first, colon, last = str(wanted).partition(":")
        if first.isdigit():
            if int(first) <= port <= int(last if colon else first):
                return True
        elif named and _serves(state, selected, str(wanted), port, packet.protocol):
            return True
    return False


def _serves(state: State, selected: list[ResourceKey], name: str, port: int, protocol: int) -> bool:
    """Whether one of them offers the port under that name."""
    for key in selected:
        resource = state[key]
        if isinstance(resource, WorkloadEndpoint | HostEndpoint) and any(
            offered.name == name
            and offered.port == port
            and protocol_number(offered.protocol) == protocol
            for offered in resource.spec.ports
        ):
            return True
    return False


def icmp_matches(wanted: ICMP, packet: Packet) -> bool:
    if packet.protocol not in (1, 58):
        return False
    if wanted.type is not None and wanted.type != packet.icmp_type:
        return False
    return wanted.code is None or wanted.code == packet.icmp_code


def in_any(networks: Iterable[str], address: Network) -> bool:
    return any(network_of(text).contains(address) for text in networks)


def selector_matches(selector: str, labels: Mapping[str, str]) -> bool:
    try:
        return syntax.compile_selector(selector).matches(labels)
    except InvalidInput:
        return False


def namespace_matches(selector: str, labels: Mapping[str, str]) -> bool:
    """`global()` means what has no namespace; else the namespace's own labels decide."""
    if selector.strip() == "global()":
        return NAMESPACE_LABEL not in labels
    return NAMESPACE_LABEL in labels and lent_labels_match(selector, "pcns.", labels)


def lent_labels_match(selector: str, prefix: str, labels: Mapping[str, str]) -> bool:
    """Match against the labels that a namespace or service account lends, by their own names."""
    lent = {
        label.removeprefix(prefix): value
        for label, value in labels.items()
        if label.startswith(prefix)
    }
    return selector_matches(selector, lent)


def protocol_number(protocol: int | str) -> int:
    if isinstance(protocol, int):
        return protocol
    if protocol.isdigit():
        return int(protocol)
    return _PROTOCOLS[protocol.lower()]
