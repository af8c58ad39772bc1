"""discovery.k8s.io EndpointSlices, v1 and v1beta1, to ours.

Slices of names (`addressType: FQDN`) serve nothing here, nor do those that belong to no service.

Source: Kubernetes, discovery/v1 and v1beta1 (types.go, labels).
"""

from tortie.lib.errors import InvalidInput
from tortie.lib.ip import parse_address
from tortie.model.endpoint_slice import (
    KubernetesEndpointSlice,
    KubernetesEndpointSliceSpec,
    SliceEndpoint,
    SlicePort,
)
from tortie.model.kubernetes.fields import (
    Object,
    mapping,
    metadata,
    objects,
    required_text,
    sequence,
    strings,
    text,
)

SERVICE_LABEL = "kubernetes.io/service-name"
_HOSTNAME = "kubernetes.io/hostname"


def endpoint_slice(source: Object) -> KubernetesEndpointSlice | None:
    """
    Raises:
        InvalidInput: no name, or an address or port that is none.
    """
    described = mapping(source, "metadata")
    service = strings(described, "labels").get(SERVICE_LABEL, "")
    if not service or text(source, "addressType") not in ("IPv4", "IPv6"):
        return None
    name, namespace = required_text(described, "name"), required_text(described, "namespace")
    spec = KubernetesEndpointSliceSpec(
        service=service,
        endpoints=tuple(
            endpoint
            for one in objects(source, "endpoints")
            if (endpoint := _endpoint(one)).addresses
        ),
        ports=tuple(_port(port) for port in objects(source, "ports") if port.get("port")),
    )
    return KubernetesEndpointSlice(
        kind="KubernetesEndpointSlice", metadata=metadata(source, name, namespace), spec=spec
    )


def _endpoint(source: Object) -> SliceEndpoint:
    ready = mapping(source, "conditions").get("ready")
    # v1beta1 has the node among the labels of its topology.
    node = text(source, "nodeName") or strings(source, "topology").get(_HOSTNAME, "")
    return SliceEndpoint(
        addresses=tuple(parse_address(_text(one)).address_text
                        for one in sequence(source, "addresses")),
        node_name=node,
        ready=ready is not False,
    )  # fmt: skip


def _port(source: Object) -> SlicePort:
    number = source.get("port")
    if not isinstance(number, int) or not 0 < number <= 65535:
        raise InvalidInput(f"{number!r} is not a port")
    return SlicePort(
        name=text(source, "name"), protocol=text(source, "protocol") or "TCP", port=number
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise InvalidInput("addresses holds something that is not a string")
    return value
