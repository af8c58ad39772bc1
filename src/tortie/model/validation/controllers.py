"""Rules of what is about other programs: controllers, reports, reservations, migrations."""

from collections.abc import Iterator

from tortie.model.endpoint_slice import KubernetesEndpointSlice
from tortie.model.kube_controllers import AutoHostEndpoints, KubeControllersConfiguration
from tortie.model.live_migration import LiveMigration
from tortie.model.reservation import BlockAffinity, IPAMConfiguration
from tortie.model.service import KubernetesService
from tortie.model.validation import terms
from tortie.model.validation.terms import Problem


def endpoint_slice_problems(resource: KubernetesEndpointSlice) -> Iterator[Problem]:
    spec = resource.spec
    for index, endpoint in enumerate(spec.endpoints):
        path = f"spec.endpoints[{index}].addresses"
        if not endpoint.addresses:
            yield Problem(path, "", "is needed")
        for place, text in enumerate(endpoint.addresses):
            yield from terms.address_problems(f"{path}[{place}]", text)
    for index, port in enumerate(spec.ports):
        path = f"spec.ports[{index}]"
        if not terms.is_port_number(port.port):
            yield Problem(f"{path}.port", port.port, "must be 1 to 65535")
        if terms.protocol_number(port.protocol) not in terms.WITH_PORTS:
            yield Problem(f"{path}.protocol", port.protocol, "must be TCP, UDP or SCTP")


def service_problems(resource: KubernetesService) -> Iterator[Problem]:
    spec = resource.spec
    for field, texts in (
        ("clusterIPs", spec.cluster_ips),
        ("externalIPs", spec.external_ips),
        ("loadBalancerIPs", spec.load_balancer_ips),
    ):
        for place, text in enumerate(texts):
            yield from terms.address_problems(f"spec.{field}[{place}]", text)


def only_default_problems(
    resource: IPAMConfiguration | KubeControllersConfiguration,
) -> Iterator[Problem]:
    """Kinds of which there is one."""
    if resource.metadata.name != "default":
        yield Problem("metadata.name", resource.metadata.name, "must be default")


def block_affinity_problems(resource: BlockAffinity) -> Iterator[Problem]:
    if resource.spec.deleted:
        yield Problem("spec.deleted", True, "cannot be true: delete the resource")


def kube_controllers_problems(resource: KubeControllersConfiguration) -> Iterator[Problem]:
    yield from only_default_problems(resource)
    controllers = resource.spec.controllers
    node = controllers.node if controllers else None
    if node and node.host_endpoint:
        yield from _template_problems("spec.controllers.node.hostEndpoint", node.host_endpoint)


def _template_problems(path: str, endpoints: AutoHostEndpoints) -> Iterator[Problem]:
    seen: set[str] = set()
    default = endpoints.create_default_host_endpoint
    if default:
        yield from terms.choice_problems(
            f"{path}.createDefaultHostEndpoint", default, ("Enabled", "Disabled")
        )
    for index, template in enumerate(endpoints.templates):
        place = f"{path}.templates[{index}]"
        if not template.generate_name:
            yield Problem(f"{place}.generateName", "", "is needed")
        elif template.generate_name in seen:
            rule = "must differ from those of the other templates"
            yield Problem(f"{place}.generateName", template.generate_name, rule)
        seen.add(template.generate_name)
        if not template.interface_cidrs and not template.interface_pattern:
            yield Problem(f"{place}.interfaceCIDRs", (), "is needed, or interfacePattern")
        yield from terms.networks_problems(
            f"{place}.interfaceCIDRs", template.interface_cidrs, strict=False
        )
        yield from terms.labels_problems(f"{place}.labels", template.labels)


def live_migration_problems(resource: LiveMigration) -> Iterator[Problem]:
    source, target = resource.spec.source, resource.spec.target
    if source is None or (source.workload is None) == (source.workload_endpoint is None):
        yield Problem("spec.source", None, "must have either workload or workloadEndpoint")
    if target is None or (target.selector is None) == (target.workload_endpoint is None):
        yield Problem("spec.target", None, "must have either selector or workloadEndpoint")
