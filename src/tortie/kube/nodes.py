"""Kubernetes' nodes and ours: labels, host endpoints, and cleaning up after one that is gone.

A Node of ours belongs to Kubernetes if it says so (`orchRefs`), or if a node of the same name is
there: then it is made to say so. Its end needs two proofs: no list has the node any more, and the
API server, asked for it by name, does not know it. A host that joins may be here before its
kubelet has made it known there: so one whose end we have not seen ourselves has time for that.

Source: Calico, kube-controllers/pkg/controllers/node (labels.go, hostendpoints.go).
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import msgspec

from tortie.datastore.resources import Resources, key_of
from tortie.ipam import deletion
from tortie.kube.api import Api, Kind, Name
from tortie.kube.kinds import NODES
from tortie.kube.mirror import Mirror
from tortie.lib.errors import InvalidInput, NotFound
from tortie.lib.ip import Network, parse_address, parse_network
from tortie.model.endpoint import HostEndpoint, HostEndpointSpec
from tortie.model.keys import ResourceKey
from tortie.model.kube_controllers import HostEndpointTemplate
from tortie.model.kubernetes.fields import Object, mapping, objects, strings, text
from tortie.model.metadata import Metadata
from tortie.model.node import Node, OrchRef
from tortie.model.policy import DEFAULT_ALLOW_PROFILE
from tortie.selector.syntax import parse

log = logging.getLogger(__name__)

SYNCED_LABELS_ANNOTATION = "projectcalico.org/kube-labels"
"""JSON of the labels that came from Kubernetes, so that they can go with it."""
CREATED_BY_LABEL, CREATED_BY = "projectcalico.org/created-by", "calico-kube-controllers"
AUTO_SUFFIX = "-auto-hep"

DEFAULT_TEMPLATE = HostEndpointTemplate()

JOIN_SECONDS = 300.0
"""How long a Node may wait for its kubelet."""


class KubeNode(NamedTuple):
    labels: dict[str, str]
    addresses: tuple[str, ...]


class NodeController:
    """
    Args:
        host_endpoints: takes those that are made by themselves; None: none are.
        changed: told the name of each Node of ours that is to be reconciled.
        later: likewise, and in how many seconds.
    """

    def __init__(
        self,
        api: Api,
        resources: Resources,
        changed: Callable[[str], None],
        later: Callable[[str, float], None],
        *,
        syncs_labels: bool = True,
        host_endpoints: Mirror | None = None,
        templates: tuple[HostEndpointTemplate, ...] = (DEFAULT_TEMPLATE,),
    ) -> None:
        self._api = api
        self._resources = resources
        self._changed = changed
        self._later = later
        self._syncs_labels = syncs_labels
        self._host_endpoints = host_endpoints
        self._templates = templates
        self._kube: dict[str, KubeNode] = {}
        self._nodes: dict[str, Node] = {}
        self._ended: set[str] = set()
        """Nodes of Kubernetes that were there and are not."""
        self._missing_since: dict[str, float] = {}
        self._is_listed = self._is_store_read = False

    @property
    def is_ready(self) -> bool:
        return self._is_listed and self._is_store_read

    def seen(self, name: Name, node: Object) -> None:
        addresses = objects(mapping(node, "status"), "addresses")
        known = KubeNode(
            strings(mapping(node, "metadata"), "labels"),
            tuple(
                text(entry, "address")
                for entry in addresses
                if text(entry, "type") in ("InternalIP", "ExternalIP")
            ),
        )
        if self._kube.get(name.name) != known:  # its heartbeats are of no interest
            self._kube[name.name] = known
            self._ended.discard(name.name)
            self._tell(name.name)

    def gone(self, name: Name) -> None:
        if self._kube.pop(name.name, None) is not None:
            self._ended.add(name.name)
        self._tell(name.name)

    def listed(self) -> None:
        self._is_listed = True
        self.look_at_all()

    def observe(self, key: ResourceKey, node: Node | None) -> None:
        if node is None:
            self._nodes.pop(key.name, None)
        else:
            self._nodes[key.name] = node
        if self._host_endpoints is not None:
            self._want_host_endpoints(key.name, node)
        self._changed(key.name)

    def store_read(self) -> None:
        self._is_store_read = True
        if self._host_endpoints is not None:
            self._host_endpoints.listed(NODES)
        self.look_at_all()

    def look_at_all(self) -> None:
        if self.is_ready:
            for name in self._nodes:
                self._changed(name)

    def kube_names(self) -> Mapping[str, str]:
        """Our name of each node of Kubernetes → its name there."""
        return {name: kube for name, node in self._nodes.items() if (kube := _kube_name(node))}

    async def reconcile(self, name: str) -> None:
        """
        Raises:
            TortieError: try again later.
        """
        node = self._nodes.get(name)
        if node is None or not self.is_ready:
            return
        kube_name = _kube_name(node)
        kube = self._kube.get(kube_name or name)
        if kube is not None:
            self._missing_since.pop(name, None)
            updated = self._updated(node, kube_name or name, kube)
            if updated != node:
                await self._resources.update(updated)
                log.info("wrote", extra={"fields": {"resource": key_of(node)}})
        elif kube_name and self._has_ended(name, kube_name) and await self._is_gone(kube_name):
            log.info("its node is gone from Kubernetes", extra={"fields": {"node": name}})
            with contextlib.suppress(NotFound):
                await deletion.delete(self._resources, ResourceKey("Node", name))
            self._ended.discard(kube_name)
            self._missing_since.pop(name, None)

    def _has_ended(self, name: str, kube_name: str) -> bool:
        """Seen to end, or missing for so long that it will not come."""
        now = asyncio.get_running_loop().time()
        left_seconds = self._missing_since.setdefault(name, now) + JOIN_SECONDS - now
        if kube_name in self._ended or left_seconds <= 0:
            return True
        self._later(name, left_seconds)
        return False

    def _tell(self, kube_name: str) -> None:
        if not self.is_ready:
            return
        if kube_name in self._nodes:
            self._changed(kube_name)
        for name, node in self._nodes.items():
            if name != kube_name and _kube_name(node) == kube_name:
                self._changed(name)

    async def _is_gone(self, kube_name: str) -> bool:
        try:
            await self._api.get(NODES, Name("", kube_name))
        except NotFound:
            return True
        return False

    def _updated(self, node: Node, kube_name: str, kube: KubeNode) -> Node:
        if _kube_name(node) is None:
            reference = OrchRef(node_name=kube_name, orchestrator="k8s")
            spec = msgspec.structs.replace(node.spec, orch_refs=(*node.spec.orch_refs, reference))
            node = msgspec.structs.replace(node, spec=spec)
        if not self._syncs_labels:
            return node
        before = _synced_labels(node)
        ours = {
            name: value for name, value in node.metadata.labels.items() if before.get(name) != value
        }
        annotations = dict(node.metadata.annotations)
        annotations[SYNCED_LABELS_ANNOTATION] = msgspec.json.encode(
            kube.labels, order="deterministic"
        ).decode()
        metadata = msgspec.structs.replace(
            node.metadata, labels=ours | kube.labels, annotations=annotations
        )
        return msgspec.structs.replace(node, metadata=metadata)

    def _want_host_endpoints(self, name: str, node: Node | None) -> None:
        assert self._host_endpoints is not None
        for template in self._templates:
            origin = (Kind("", "", template.generate_name or "default"), Name("", name))
            made = host_endpoint(node, template) if node is not None else None
            self._host_endpoints.want(origin, made)


def host_endpoint(node: Node, template: HostEndpointTemplate) -> HostEndpoint | None:
    """The one that a template makes for a node; None if it selects the node not, or an address
    that it wants is not there."""
    if _kube_name(node) is None:
        return None
    if template.node_selector and not parse(template.node_selector).matches(node.metadata.labels):
        return None
    within = [parse_network(cidr) for cidr in template.interface_cidrs]
    addresses = [
        address
        for address in dict.fromkeys(_addresses(node))
        if not within or any(cidr.contains(address) for cidr in within)
    ]
    if within and not addresses:
        return None
    middle = f"-{template.generate_name}" if template.generate_name else ""
    labels = {**node.metadata.labels, **template.labels, CREATED_BY_LABEL: CREATED_BY}
    # With an interface named by its address only, the address decides; else all interfaces.
    interface = template.interface_pattern or ("" if within else "*")
    return HostEndpoint(
        kind="HostEndpoint",
        metadata=Metadata(
            name=f"{node.metadata.name}{middle}{AUTO_SUFFIX}",
            labels=labels,
            annotations=dict(template.annotations),
        ),
        spec=HostEndpointSpec(
            node=node.metadata.name,
            interface_name=interface,
            expected_ips=tuple(address.address_text for address in addresses),
            profiles=(DEFAULT_ALLOW_PROFILE,),
        ),
    )


def is_automatic(key: ResourceKey) -> bool:
    return key.name.endswith(AUTO_SUFFIX)


def _kube_name(node: Node) -> str | None:
    for reference in node.spec.orch_refs:
        if reference.orchestrator == "k8s" and reference.node_name:
            return reference.node_name
    return None


def _synced_labels(node: Node) -> dict[str, str]:
    try:
        return msgspec.json.decode(
            node.metadata.annotations.get(SYNCED_LABELS_ANNOTATION, "{}"), type=dict[str, str]
        )
    except msgspec.DecodeError:
        return {}


def _addresses(node: Node) -> Iterator[Network]:
    """Its own, those of its tunnels, and those that Kubernetes told it."""
    spec, bgp = node.spec, node.spec.bgp
    texts = [
        *((bgp.ipv4_address, bgp.ipv6_address) if bgp else ()),
        *spec.tunnel_addresses,
        *(entry.address for entry in spec.addresses),
    ]
    for one in texts:
        if one:
            with contextlib.suppress(InvalidInput):
                yield parse_address(one.partition("/")[0])
