"""`tortie convert`: policies of Kubernetes, and Calico's resources before v3.0, as today's.

On standard output, for `apply`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tortie.ctl import access
from tortie.ctl.grammar import Given
from tortie.ctl.printing import listed, structured
from tortie.ctl.screen import Screen
from tortie.lib.errors import InvalidInput
from tortie.model import documents
from tortie.model.codec import to_plain
from tortie.model.documents import DEFAULT_NAMESPACE, InvalidFile, Item
from tortie.model.kubernetes.cluster_policy import cluster_policy
from tortie.model.kubernetes.network_policy import network_policy
from tortie.model.metadata import API_VERSION, Resource
from tortie.model.validation.defaults import with_defaults
from tortie.model.validation.entry import check
from tortie.model.version1 import conversion as version1

CLUSTER_KINDS = ("AdminNetworkPolicy", "BaselineAdminNetworkPolicy", "ClusterNetworkPolicy")


def main(given: Given, screen: Screen) -> int:
    converted: list[dict[str, Any]] = []
    messages: list[str] = []
    for item in _items(given):
        try:
            resource, problems = _converted(item, given)
        except InvalidFile as error:
            messages += error.messages
        except InvalidInput as error:
            messages.append(item.at("", str(error)))
        else:
            converted.append(to_plain(resource))
            for problem in problems:
                screen.warn(f"warning: {item.at('', problem)}")
    if messages:
        raise InvalidFile(messages)
    if not converted:
        raise InvalidInput(f"No resources specified in {', '.join(given.texts('filename'))}")
    data = converted[0] if len(converted) == 1 else listed(converted)
    screen.print(structured(data, given.text("output", "yaml")))
    return 0


def _items(given: Given) -> Iterator[Item]:
    for name in given.texts("filename"):
        for source, raw in access.texts(name, recursive=given.has("recursive")):
            for item in documents.items(raw, source):
                if item.value is not None:
                    yield item


def _converted(item: Item, given: Given) -> tuple[Resource, tuple[str, ...]]:
    """
    Raises:
        InvalidInput: it cannot be converted, or what comes of it is not valid.
    """
    value = item.value if isinstance(item.value, dict) else {}
    version, kind = str(value.get("apiVersion")), str(value.get("kind"))
    strict = not given.has("ignore-validation")
    namespace = given.text("namespace") or DEFAULT_NAMESPACE
    if version == API_VERSION:
        return documents.read(item, namespace, complete=strict).resource, ()
    if version == "v1" and kind in version1.STRUCTS:
        old = documents.as_struct(item, kind, version1.STRUCTS[kind])
        return _finished(version1.convert(old), strict=strict), ()
    convert: Callable[[Any], Any]
    if version.startswith("networking.k8s.io/") and kind == "NetworkPolicy":
        convert, metadata = network_policy, value.get("metadata")
        if isinstance(metadata, dict) and not metadata.get("namespace"):
            value = {**value, "metadata": {**metadata, "namespace": namespace}}
    elif version.startswith("policy.networking.k8s.io/") and kind in CLUSTER_KINDS:
        convert = cluster_policy
    else:
        known = (
            f"NetworkPolicy, {', '.join(CLUSTER_KINDS)} of Kubernetes, "
            f"{', '.join(version1.STRUCTS)} of Calico's v1, and {API_VERSION}"
        )
        raise InvalidInput(f"{kind} of {version} cannot be converted; known: {known}")
    found = convert(value)
    return _finished(found.resource, strict=strict), found.problems


def _finished(resource: Resource, *, strict: bool) -> Resource:
    """
    Raises:
        InvalidInput: it is not valid, and `strict`.
    """
    resource = with_defaults(resource)
    if strict:
        check(resource)
    return resource
