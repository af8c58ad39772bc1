"""Pods to endpoints; namespaces and service accounts to the profiles that lend their labels.

Source: Calico, libcalico-go/lib/backend/k8s/conversion (conversion.go,
workload_endpoint_default.go).
"""

from typing import Any

from tortie.lib.errors import InvalidInput
from tortie.lib.ip import parse_address
from tortie.model.endpoint import (
    NAMESPACE_LABEL,
    ORCHESTRATOR_LABEL,
    SERVICE_ACCOUNT_LABEL,
    WorkloadEndpoint,
    WorkloadEndpointPort,
    WorkloadEndpointSpec,
)
from tortie.model.keys import ResourceKey
from tortie.model.kubernetes.fields import (
    Object,
    mapping,
    metadata,
    objects,
    required_text,
    strings,
    text,
)
from tortie.model.metadata import Metadata
from tortie.model.names import interface_name, workload_endpoint_name
from tortie.model.policy import Profile, ProfileSpec, Rule

NAME_LABEL = "projectcalico.org/name"
NAMESPACE_NAME_LABEL = "kubernetes.io/metadata.name"
"""Put on every namespace by the API server."""

POD_IPS_ANNOTATION = "cni.projectcalico.org/podIPs"
POD_IP_ANNOTATION = "cni.projectcalico.org/podIP"
"""Written by the plugin before the kubelet reports; empty once the address is given back."""

_FINISHED = ("Failed", "Succeeded", "Completed")
_PROTOCOLS = {"": "TCP", "TCP": "TCP", "UDP": "UDP", "SCTP": "SCTP"}


def namespace_profile(namespace: Object) -> tuple[ResourceKey, Profile]:
    """`kns.<name>`: its labels, and what its pods may do while no policy selects them: all.

    Raises:
        InvalidInput: no name, or labels that are none.
    """
    source = mapping(namespace, "metadata")
    name = required_text(source, "name")
    labels = strings(source, "labels") | {NAMESPACE_NAME_LABEL: name, NAME_LABEL: name}
    spec = ProfileSpec(
        ingress=(Rule(action="Allow"),),
        egress=(Rule(action="Allow"),),
        labels_to_apply={f"pcns.{label}": value for label, value in labels.items()},
    )
    return _profile(namespace, f"kns.{name}", spec)


def service_account_profile(account: Object) -> tuple[ResourceKey, Profile]:
    """`ksa.<namespace>.<name>`: its labels, and no rules. Raises as `namespace_profile`."""
    source = mapping(account, "metadata")
    name = required_text(source, "name")
    labels = strings(source, "labels") | {NAME_LABEL: name}
    spec = ProfileSpec(labels_to_apply={f"pcsa.{label}": value for label, value in labels.items()})
    return _profile(account, f"ksa.{text(source, 'namespace') or 'default'}.{name}", spec)


def pod_endpoint(pod: Object) -> tuple[ResourceKey, WorkloadEndpoint] | None:
    """None for a pod on the host's own network, and for one that has no host yet.

    A finished pod has no addresses: they are somebody else's by now. One that is being deleted
    keeps its own, and its policy, until it is finished or the plugin has taken them back.

    Raises:
        InvalidInput: no name, or an address or port that is none.
    """
    source, spec = mapping(pod, "metadata"), mapping(pod, "spec")
    node = text(spec, "nodeName")
    if spec.get("hostNetwork") is True or not node:
        return None
    name, namespace = required_text(source, "name"), required_text(source, "namespace")
    account = text(spec, "serviceAccountName")
    lent = [f"kns.{namespace}", *([f"ksa.{namespace}.{account}"] if account else [])]
    endpoint = WorkloadEndpointSpec(
        orchestrator="k8s",
        node=node,
        pod=name,
        endpoint="eth0",
        service_account_name=account,
        ip_networks=() if _is_finished(pod) else _addresses(pod),
        profiles=tuple(lent),
        interface_name=interface_name(namespace, name),
        ports=tuple(_ports(spec)),
    )
    labels = strings(source, "labels")
    labels |= {NAMESPACE_LABEL: namespace, ORCHESTRATOR_LABEL: "k8s"}
    if account and len(account) <= 63:
        labels[SERVICE_ACCOUNT_LABEL] = account
    key = ResourceKey("WorkloadEndpoint", workload_endpoint_name(endpoint), namespace)
    described = Metadata(name=key.name, namespace=namespace, labels=labels)
    return key, WorkloadEndpoint(kind=key.kind, metadata=described, spec=endpoint)


def _profile(source: Object, name: str, spec: ProfileSpec) -> tuple[ResourceKey, Profile]:
    key = ResourceKey("Profile", name)
    return key, Profile(kind=key.kind, metadata=metadata(source, name), spec=spec)


def _is_finished(pod: Object) -> bool:
    source = mapping(pod, "metadata")
    if (
        source.get("deletionTimestamp")
        and strings(source, "annotations").get(POD_IP_ANNOTATION) == ""
    ):
        return True
    return text(mapping(pod, "status"), "phase") in _FINISHED


def _addresses(pod: Object) -> tuple[str, ...]:
    status = mapping(pod, "status")
    annotations = strings(mapping(pod, "metadata"), "annotations")
    texts = [text(entry, "ip") for entry in objects(status, "podIPs")]
    texts = texts or [text(status, "podIP")]
    if not any(texts):
        texts = annotations.get(POD_IPS_ANNOTATION, "").split(",")
    if not any(texts):
        texts = [annotations.get(POD_IP_ANNOTATION, "")]
    return tuple(dict.fromkeys(str(parse_address(one)) for one in texts if one))


def _ports(spec: Object) -> list[WorkloadEndpointPort]:
    containers = objects(spec, "containers") + objects(spec, "initContainers")
    return [
        _port(port)
        for container in containers
        for port in objects(container, "ports")
        if (port.get("name") or port.get("hostPort")) and (port.get("protocol") or "") in _PROTOCOLS
    ]


def _port(port: Object) -> WorkloadEndpointPort:
    return WorkloadEndpointPort(
        name=text(port, "name"),
        protocol=_PROTOCOLS[text(port, "protocol")],
        port=_number(port.get("containerPort")),
        host_port=_number(port.get("hostPort") or 0),
        host_ip=text(port, "hostIP"),
    )


def _number(value: Any) -> int:
    if not isinstance(value, int) or not 0 <= value <= 65535:
        raise InvalidInput(f"{value!r} is not a port")
    return value
