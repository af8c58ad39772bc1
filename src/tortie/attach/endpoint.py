"""The WorkloadEndpoint of a workload. Pure."""

from collections.abc import Iterable

from msgspec.structs import replace

from tortie.attach.journal import Entry
from tortie.attach.requests import Add, Attached, Nat
from tortie.lib.errors import InvalidInput
from tortie.lib.ip import parse_address, parse_network
from tortie.model.endpoint import (
    DHCP_ANNOTATION,
    DNS_ANNOTATION,
    IPNAT,
    WorkloadEndpoint,
    WorkloadEndpointPort,
    WorkloadEndpointSpec,
)
from tortie.model.keys import ResourceKey
from tortie.model.metadata import Metadata
from tortie.model.names import workload_endpoint_name
from tortie.model.validation import check, with_defaults


def endpoint_of(request: Add, host: str, interface: str) -> WorkloadEndpoint:
    """The resource without addresses and MAC, checked before anything is made.

    Raises:
        InvalidInput: a rule about endpoints is broken.
    """
    spec = WorkloadEndpointSpec(
        orchestrator=request.orchestrator,
        workload=request.workload,
        node=host,
        container_id=request.container_id,
        pod=request.pod,
        endpoint=request.endpoint,
        service_account_name=request.service_account,
        profiles=request.profiles,
        interface_name=interface,
        mac=request.mac,
        allow_spoofed_source_prefixes=request.allowed_sources,
        qos_controls=request.qos,
        ports=tuple(
            WorkloadEndpointPort(
                name=port.name,
                protocol=port.protocol,
                port=port.port,
                host_port=port.host_port,
                host_ip=port.host_ip,
            )
            for port in request.ports
        ),
    )
    annotations = {DHCP_ANNOTATION: "yes"} if request.dhcp else {}
    if request.dns:
        annotations[DNS_ANNOTATION] = ",".join(request.dns)
    metadata = Metadata(
        name=workload_endpoint_name(spec),
        namespace=request.namespace,
        labels=request.labels,
        annotations=annotations,
    )
    endpoint = with_defaults(
        WorkloadEndpoint(kind="WorkloadEndpoint", metadata=metadata, spec=spec)
    )
    check(endpoint)
    return endpoint


def with_network(
    endpoint: WorkloadEndpoint, addresses: tuple[str, ...], mac: str, nats: Iterable[Nat]
) -> WorkloadEndpoint:
    """
    Raises:
        InvalidInput: an address is to be translated to a family that the workload lacks.
    """
    own = {address.family: address for address in map(parse_network, addresses)}
    translated = []
    for nat in nats:
        external = parse_address(nat.external)
        if external.family not in own:
            raise InvalidInput(f"{nat.external}: the workload has no IPv{external.family} address")
        internal = own[external.family].address_text
        translated.append(IPNAT(internal_ip=internal, external_ip=external.address_text))
    spec = replace(endpoint.spec, ip_networks=addresses, mac=mac, ip_nats=tuple(translated))
    return replace(endpoint, spec=spec)


def key_of(entry: Entry) -> ResourceKey:
    """Where the endpoint of a recorded workload is."""
    return ResourceKey("WorkloadEndpoint", entry.endpoint_name, entry.key.namespace)


def attached(entry: Entry) -> Attached:
    """What Add answers, from what is recorded."""
    return Attached(
        key=entry.key,
        addresses=entry.addresses,
        interface=entry.interface,
        inside=entry.inside,
        netns=entry.netns,
        mac=entry.mac,
        revision=entry.revision,
        network=entry.network,
    )
