"""A port as a WorkloadEndpoint, on its way to another host as two and a LiveMigration. Pure.

    fixed addresses              ipNetworks, /32 and /128
    allowed pairs, addresses     ipNetworks too, and allowedIps: DHCP must not offer them
    allowed pairs, networks      allowSpoofedSourcePrefixes: they may be a source, not a route
    security groups              labels; their policies select by them
    port security off            the built-in profile that allows everything; any source
    floating addresses           ipNATs
    QoS rules and `[calico]`     qosControls

A port without security groups has port security on and nothing that allows anything: closed,
as Neutron has it. A port that is administratively down has no endpoint.

Source: Calico, networking-calico, drivers/calico/endpoints.py.
"""

from collections.abc import Iterator

import msgspec

from tortie.lib.errors import InvalidInput
from tortie.lib.ip import Network, parse_address, parse_network, parsed_network
from tortie.model.endpoint import (
    IPNAT,
    NAMESPACE_LABEL,
    ORCHESTRATOR_LABEL,
    WorkloadEndpoint,
    WorkloadEndpointSpec,
)
from tortie.model.live_migration import (
    LiveMigration,
    LiveMigrationSource,
    LiveMigrationSpec,
    LiveMigrationTarget,
    WorkloadEndpointIdentifier,
)
from tortie.model.metadata import Metadata, Resource
from tortie.model.policy import DEFAULT_ALLOW_PROFILE
from tortie.model.validation import check, terms
from tortie.openstack import labels, qos
from tortie.openstack.inventory import Port
from tortie.openstack.settings import Settings
from tortie.openstack.translation import Translated

ANY_SOURCE = ("0.0.0.0/0", "::/0")


def translate_port(port: Port, settings: Settings) -> Translated:
    """Everything to store for a port; nothing for one that has no endpoint.

    One that cannot be expressed at all has problems and no resources.
    """
    if not (port.is_endpoint and port.host and port.device_id and port.admin_state_up):
        return Translated()
    problems: list[str] = []
    resources: list[Resource] = []
    try:
        resources.append(_endpoint(port, port.host, settings, problems))
        if port.migrating_to and port.migrating_to != port.host:
            ignored: list[str] = []  # the same once more
            # The migration first: hosts must not see two equals, not for a moment.
            resources.append(_migration(port, settings.namespace))
            resources.append(_endpoint(port, port.migrating_to, settings, ignored))
    except InvalidInput as error:
        problems.append(f"{error}")
        resources.clear()
    texts = (terms.printable(f"port {port.id}: {problem}") for problem in problems)
    return Translated(tuple(resources), tuple(texts))


def _endpoint(port: Port, host: str, settings: Settings, problems: list[str]) -> WorkloadEndpoint:
    """
    Raises:
        InvalidInput: it cannot be expressed.
    """
    for what, part in (("host", host), ("device", port.device_id), ("port", port.id)):
        if not labels.is_plain(part):
            raise InvalidInput(f"{what} {part!r} is no plain name, so there is no endpoint")
    key = labels.endpoint_key(settings.namespace, host, port.device_id, port.id)
    endpoint = WorkloadEndpoint(
        kind="WorkloadEndpoint",
        metadata=Metadata(
            name=key.name,
            namespace=key.namespace,
            labels=_labels(port, settings.namespace, problems),
            annotations=_annotations(port),
        ),
        spec=_spec(port, host, settings, problems),
    )
    check(endpoint, stored=True)
    return endpoint


def _spec(port: Port, host: str, settings: Settings, problems: list[str]) -> WorkloadEndpointSpec:
    own = [parse_address(fixed.address) for fixed in port.fixed_ips]
    pairs, sources = _allowed_pairs(port, problems)
    networks = tuple(dict.fromkeys([*own, *pairs]))
    gateways = {
        gateway.family: gateway.address_text
        for fixed in port.fixed_ips
        if (gateway := parsed_network(fixed.gateway or "")) is not None
    }
    return WorkloadEndpointSpec(
        orchestrator=labels.ORCHESTRATOR,
        workload=port.device_id,
        node=host,
        endpoint=port.id,
        ip_networks=tuple(map(str, networks)),
        allowed_ips=tuple(str(pair) for pair in pairs if pair not in own),
        ip_nats=tuple(_nats(port, frozenset(networks), problems)),
        ipv4_gateway=gateways.get(4, ""),
        ipv6_gateway=gateways.get(6, ""),
        profiles=() if port.port_security_enabled else (DEFAULT_ALLOW_PROFILE,),
        interface_name=labels.interface_name(port.id),
        mac=port.mac_address,
        allow_spoofed_source_prefixes=(
            tuple(map(str, sources)) if port.port_security_enabled else ANY_SOURCE
        ),
        qos_controls=qos.controls(port, settings),
    )


def _allowed_pairs(port: Port, problems: list[str]) -> tuple[list[Network], list[Network]]:
    """Addresses that it may have beside its own, and networks that it may send from."""
    addresses: dict[Network, None] = {}
    sources: dict[Network, None] = {}
    for pair in port.allowed_address_pairs:
        try:
            network = parse_network(pair.ip_address)
        except InvalidInput as error:
            problems.append(f"allowed address pair is left out: {error}")
            continue
        if pair.mac_address and pair.mac_address.lower() != port.mac_address.lower():
            problems.append(
                f"allowed address pair {network}: another MAC address, {pair.mac_address!r}, "
                "cannot be allowed; the address is, with the port's own"
            )
        (addresses if network.is_address else sources)[network] = None
    return [*addresses], [*sources]


def _nats(port: Port, owned: frozenset[Network], problems: list[str]) -> Iterator[IPNAT]:
    for floating in sorted(port.floating_ips, key=lambda f: (f.external, f.internal)):
        inside, outside = parsed_network(floating.internal), parsed_network(floating.external)
        if inside is None or inside not in owned or outside is None or not outside.is_address:
            why = f"its address {floating.internal!r} is not the port's"
        elif inside.family != outside.family:
            why = "it is of another family than what is behind it"
        else:
            yield IPNAT(internal_ip=inside.address_text, external_ip=outside.address_text)
            continue
        problems.append(f"floating address {floating.external!r} is left out: {why}")


def _labels(port: Port, namespace: str, problems: list[str]) -> dict[str, str]:
    found = {NAMESPACE_LABEL: namespace, ORCHESTRATOR_LABEL: labels.ORCHESTRATOR}
    for group_id in sorted(port.security_groups if port.port_security_enabled else ()):
        if not labels.is_plain(group_id):
            problems.append(f"security group {group_id!r} is left out: the id is no plain name")
            continue
        name = labels.label_text(port.security_groups[group_id], labels.GROUP_NAME_MAX_CHARACTERS)
        found[labels.GROUP_LABEL + group_id] = name
        if name:
            found[labels.GROUP_NAME_LABEL + name] = group_id
    for key, text in (
        (labels.PROJECT_ID_LABEL, port.project_id or None),
        (labels.PROJECT_NAME_LABEL, port.project_name),
        (labels.PROJECT_PARENT_LABEL, port.project_parent_id),
        (labels.NETWORK_NAME_LABEL, port.network_name),
    ):
        if text is not None:
            found[key] = labels.label_text(text)
    return found


def _annotations(port: Port) -> dict[str, str]:
    found = {labels.NETWORK_ANNOTATION: port.network_id}
    if port.fqdn:
        found[labels.FQDN_ANNOTATION] = port.fqdn
    if port.dhcp_options:
        options = msgspec.json.encode(port.dhcp_options).decode()
        found[labels.DHCP_OPTIONS_ANNOTATION] = options
    return found


def _migration(port: Port, namespace: str) -> LiveMigration:
    """Named like the endpoint on the host that it goes to."""

    def on(host: str) -> WorkloadEndpointIdentifier:
        return WorkloadEndpointIdentifier(
            hostname=host,
            orchestrator_id=labels.ORCHESTRATOR,
            workload_id=f"{namespace}/{port.device_id}",
            endpoint_id=port.id,
        )

    name = labels.endpoint_name(port.migrating_to, port.device_id, port.id)
    return LiveMigration(
        kind="LiveMigration",
        metadata=Metadata(name=name, namespace=namespace),
        spec=LiveMigrationSpec(
            source=LiveMigrationSource(workload_endpoint=on(port.host)),
            target=LiveMigrationTarget(workload_endpoint=on(port.migrating_to)),
        ),
    )
