"""What BGP needs of the datastore's resources, kept as they come: one value for each name.

Of what is not valid nothing is kept: it counts as absent, and `problems` says so.
"""

from collections.abc import Mapping

import msgspec

from tortie.bgp.filters import parse_filter
from tortie.bgp.peers import Node, PeerSource, Workload
from tortie.bgp.snapshot import Filter
from tortie.desired.endpoint import Host
from tortie.lib.errors import InvalidInput
from tortie.lib.ip import Network, parse_network
from tortie.model.bgp_configuration import BGPConfiguration, BGPConfigurationSpec
from tortie.model.bgp_filter import BGPFilter
from tortie.model.bgp_peer import BGPPeer, BGPPeerSpec
from tortie.model.endpoint import WorkloadEndpoint
from tortie.model.keys import ResourceKey
from tortie.model.node import Node as NodeResource

BFD_ANNOTATION = "bgp.tortie.io/bfd"
"""`Enabled` on a BGPPeer or, for the mesh, on BGPConfiguration `default`: the API has no
field for it."""

NODE_PREFIX = "node."
"""Before a node's name: the BGPConfiguration of that node alone."""

KINDS = frozenset({"BGPConfiguration", "BGPFilter", "BGPPeer", "Node", "WorkloadEndpoint"})


class _NodeFacts(msgspec.Struct, frozen=True):
    """What only the resource says; addresses come from calc."""

    labels: Mapping[str, str]
    cluster_id: str


class BGPResources:
    def __init__(self, host: str) -> None:
        self._host = host
        self._configurations: dict[str, BGPConfigurationSpec] = {}
        self._peers: dict[str, BGPPeerSpec] = {}
        self._bfd: set[str] = set()
        self._filters: dict[str, Filter] = {}
        self._nodes: dict[str, _NodeFacts] = {}
        self._workloads: dict[ResourceKey, Workload] = {}
        self.problems: dict[ResourceKey, str] = {}

    def on_resource(self, key: ResourceKey, value: object | None) -> bool:
        """Take note; returns whether anything changed."""
        if key.kind not in KINDS:
            return False
        self.problems.pop(key, None)
        match key.kind, value:
            case "WorkloadEndpoint", _:
                return self._on_workload(key, value)
            case "Node", NodeResource():
                cluster_id = value.spec.bgp.route_reflector_cluster_id if value.spec.bgp else ""
                facts = _NodeFacts(value.metadata.labels, cluster_id)
                changed = self._nodes.get(key.name) != facts
                self._nodes[key.name] = facts
                return changed
            case "Node", _:
                return self._nodes.pop(key.name, None) is not None
            case "BGPConfiguration", BGPConfiguration():
                self._configurations[key.name] = value.spec
                if key.name == "default":
                    self._note_bfd("", value.metadata.annotations)
            case "BGPConfiguration", _:
                self._configurations.pop(key.name, None)
                if key.name == "default":
                    self._note_bfd("", {})
            case "BGPPeer", BGPPeer():
                self._peers[key.name] = value.spec
                self._note_bfd(key.name, value.metadata.annotations)
            case "BGPPeer", _:
                self._peers.pop(key.name, None)
                self._note_bfd(key.name, {})
            case _:
                self._on_filter(key, value)
        return True

    def source(self, hosts: Mapping[str, Host]) -> PeerSource:
        return PeerSource(
            host=self._host,
            nodes={name: self._node(name, host) for name, host in hosts.items()},
            configuration=self.configuration(),
            peers=self._peers,
            bfd_peers=frozenset(self._bfd),
            filters=frozenset(self._filters),
            workloads=tuple(self._workloads[key] for key in sorted(self._workloads)),
        )

    def configuration(self) -> BGPConfigurationSpec:
        """`default`, with what this node's own gives laid over it."""
        spec = self._configurations.get("default", BGPConfigurationSpec())
        own = self._configurations.get(NODE_PREFIX + self._host)
        if own is None:
            return spec
        given = {
            name: value
            for name in ("listen_port", "bind_mode", "log_severity_screen", "ignored_interfaces")
            if (value := getattr(own, name)) is not None
        }
        if own.prefix_advertisements:
            given["prefix_advertisements"] = own.prefix_advertisements
            given["communities"] = own.communities
        return msgspec.structs.replace(spec, **given)

    def filters(self) -> tuple[Filter, ...]:
        return tuple(self._filters[name] for name in sorted(self._filters))

    def own_labels(self) -> Mapping[str, str]:
        facts = self._nodes.get(self._host)
        return facts.labels if facts else {}

    def _node(self, name: str, host: Host) -> Node:
        facts = self._nodes.get(name, _NodeFacts({}, ""))
        own = self._configurations.get(NODE_PREFIX + name)
        return Node(
            ipv4=host.ipv4,
            ipv6=host.ipv6,
            as_number=host.as_number,
            cluster_id=facts.cluster_id,
            labels=facts.labels,
            listen_port=own.listen_port if own else None,
        )

    def _note_bfd(self, name: str, annotations: Mapping[str, str]) -> None:
        if annotations.get(BFD_ANNOTATION) == "Enabled":
            self._bfd.add(name)
        else:
            self._bfd.discard(name)

    def _on_filter(self, key: ResourceKey, value: object | None) -> None:
        self._filters.pop(key.name, None)
        if isinstance(value, BGPFilter):
            try:
                self._filters[key.name] = parse_filter(key.name, value.spec)
            except InvalidInput as error:
                self.problems[key] = str(error)

    def _on_workload(self, key: ResourceKey, value: object | None) -> bool:
        workload = None
        if isinstance(value, WorkloadEndpoint) and value.spec.node == self._host:
            try:
                workload = Workload(value.metadata.labels, _networks(value.spec.ip_networks))
            except InvalidInput as error:
                self.problems[key] = str(error)
        before = self._workloads.pop(key, None)
        if workload is not None:
            self._workloads[key] = workload
        # Only sessions rest on them, so where nobody asks for such a change is none.
        wanted = any(spec.local_workload_selector for spec in self._peers.values())
        return wanted and before != workload


def _networks(texts: tuple[str, ...]) -> tuple[Network, ...]:
    return tuple(dict.fromkeys(map(parse_network, texts)))
