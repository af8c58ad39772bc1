"""Names that are computed or have a syntax of their own.

Source: Calico, libcalico-go/lib/names/workloadendpoint.go, lib/validator/v3/validator.go,
cni-plugin/pkg/plugin; Kubernetes, apimachinery/pkg/util/validation.
"""

import hashlib
import re

from tortie.lib.errors import InvalidInput
from tortie.model.endpoint import INTERFACE_NAME_MAX_BYTES, WorkloadEndpointSpec

NAME_MAX_CHARACTERS = 253
"""A DNS subdomain, RFC 1123."""

LABEL_MAX_CHARACTERS = 63
"""A DNS label; also a label's value and the name part of its key."""

ANNOTATIONS_MAX_BYTES = 256 * 1024
"""Keys and values together."""

_DNS_LABEL = "[a-z0-9](?:[-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = re.compile(rf"{_DNS_LABEL}(?:\.{_DNS_LABEL})*")
_SINGLE = re.compile(_DNS_LABEL)
_LABEL_PART = re.compile("(?:[A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_INTERFACE = re.compile("[a-zA-Z0-9_.-]{1,15}")
_PORT_NAME = re.compile("[a-z0-9-]{1,15}")
_NETWORK_POLICY = re.compile(
    rf"{_DNS_LABEL}(?:\.{_DNS_LABEL})?|(?:knp|ossg)\.default\.{_DNS_LABEL}(?:\.{_DNS_LABEL})*"
)
_GLOBAL_POLICY = re.compile(
    # Behind the prefixes is a name of Kubernetes' own policy API.
    rf"{_DNS_LABEL}(?:\.{_DNS_LABEL})?|(?:kcnp\.(?:admin|baseline)|kanp\.adminnetworkpolicy"
    rf"|kbanp\.baselineadminnetworkpolicy)\.{_DNS_LABEL}(?:\.{_DNS_LABEL})*"
)

NAME_RULE = (
    "lower-case letters, digits, '-' and '.', beginning and ending with one of the first two"
)


def is_dns_label(text: str) -> bool:
    return len(text) <= LABEL_MAX_CHARACTERS and _SINGLE.fullmatch(text) is not None


def is_name(kind: str, name: str) -> bool:
    """Is it a legal name for an object of that kind?"""
    if len(name) > NAME_MAX_CHARACTERS:
        return False
    if kind == "Tier":
        return is_dns_label(name)
    if kind in ("NetworkPolicy", "StagedNetworkPolicy"):
        return _NETWORK_POLICY.fullmatch(name) is not None
    if kind in ("GlobalNetworkPolicy", "StagedGlobalNetworkPolicy"):
        return _GLOBAL_POLICY.fullmatch(name) is not None
    return _SUBDOMAIN.fullmatch(name) is not None


def is_label_key(key: str) -> bool:
    """A name of at most 63 characters, with or without a DNS subdomain and `/` before it."""
    prefix, slash, name = key.rpartition("/")
    if slash and not (len(prefix) <= NAME_MAX_CHARACTERS and _SUBDOMAIN.fullmatch(prefix)):
        return False
    return len(name) <= LABEL_MAX_CHARACTERS and _LABEL_PART.fullmatch(name) is not None


def is_label_value(value: str) -> bool:
    return not value or (
        len(value) <= LABEL_MAX_CHARACTERS and _LABEL_PART.fullmatch(value) is not None
    )


def is_interface_name(name: str) -> bool:
    """What Linux and Calico both take; `.` and `..` are directories under /sys."""
    return _INTERFACE.fullmatch(name) is not None and name not in (".", "..")


def is_port_name(name: str) -> bool:
    """Kubernetes' rule: 1 to 15 of a-z, 0-9 and single inner dashes, at least one letter."""
    return (
        _PORT_NAME.fullmatch(name) is not None
        and any(c.isalpha() for c in name)
        and not (name.startswith("-") or name.endswith("-") or "--" in name)
    )


def workload_endpoint_name(spec: WorkloadEndpointSpec) -> str:
    """The name that a WorkloadEndpoint must have: its parts joined by `-`.

    A dash inside a part is doubled, so different parts never make the same name.

    Raises:
        InvalidInput: a part that the orchestrator's form needs is missing.
    """
    parts = {"node": spec.node, "orchestrator": spec.orchestrator}
    if spec.orchestrator == "k8s":
        parts["pod"] = spec.pod
    elif spec.orchestrator == "cni":
        parts["containerID"] = spec.container_id
    elif spec.orchestrator == "libnetwork":
        parts["workload"] = "libnetwork"
    else:
        parts["workload"] = spec.workload
    parts["endpoint"] = spec.endpoint
    for field, value in parts.items():
        if not value:
            raise InvalidInput(f"spec.{field} is needed to name a WorkloadEndpoint")
    return "-".join(value.replace("-", "--") for value in parts.values())


def interface_name(namespace: str, workload: str, prefix: str = "cali") -> str:
    """The host-side interface of a workload: the same for the same workload, anywhere.

    The hash is Calico's for Kubernetes: 11 hex digits of SHA-1 of `namespace.workload`.
    """
    digest = hashlib.sha1(f"{namespace}.{workload}".encode(), usedforsecurity=False).hexdigest()
    return f"{prefix}{digest}"[: len(prefix) + 11][:INTERFACE_NAME_MAX_BYTES]


def container_interface_name(container_id: str, prefix: str = "cali") -> str:
    """The host-side interface of a container that no orchestrator names: from its id."""
    return f"{prefix}{container_id}"[: len(prefix) + 11][:INTERFACE_NAME_MAX_BYTES]


def workload_of_endpoint(name: str) -> str:
    """The workload, pod or container in a WorkloadEndpoint's name; all of it if it has no such
    form. What `workload_endpoint_name` has joined."""
    parts = name.replace("--", "\0").split("-")
    return parts[2].replace("\0", "-") if len(parts) == 4 else name
