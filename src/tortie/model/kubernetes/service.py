"""Services, core/v1, to what hosts announce of them.

Source: Kubernetes, core/v1 (types.go).
"""

from tortie.lib.errors import InvalidInput
from tortie.lib.ip import parse_address
from tortie.model.kubernetes.fields import (
    Object,
    mapping,
    metadata,
    objects,
    required_text,
    sequence,
    text,
)
from tortie.model.service import KubernetesService, KubernetesServiceSpec

HEADLESS = "None"


def service(source: Object) -> KubernetesService | None:
    """None for one that has no address.

    Raises:
        InvalidInput: no name, or an address that is none.
    """
    described, spec = mapping(source, "metadata"), mapping(source, "spec")
    name, namespace = required_text(described, "name"), required_text(described, "namespace")
    # `clusterIPs` came with two families; `clusterIP` is the first of them.
    cluster_ips = sequence(spec, "clusterIPs") or [text(spec, "clusterIP")]
    ingress = objects(mapping(mapping(source, "status"), "loadBalancer"), "ingress")
    converted = KubernetesServiceSpec(
        cluster_ips=_addresses(cluster_ips),
        external_ips=_addresses(sequence(spec, "externalIPs")),
        load_balancer_ips=_addresses([text(entry, "ip") for entry in ingress]),
        external_traffic_policy="Local" if text(spec, "externalTrafficPolicy") == "Local" else "",
    )
    if converted in (
        KubernetesServiceSpec(),
        KubernetesServiceSpec(external_traffic_policy="Local"),
    ):
        return None
    return KubernetesService(
        kind="KubernetesService", metadata=metadata(source, name, namespace), spec=converted
    )


def _addresses(values: list[object]) -> tuple[str, ...]:
    found = []
    for value in values:
        if not isinstance(value, str):
            raise InvalidInput(f"{value!r} is not an address")
        if value and value != HEADLESS:
            found.append(parse_address(value).address_text)
    return tuple(dict.fromkeys(found))
