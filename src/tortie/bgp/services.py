"""Addresses of services: which of them this host announces.

A network of service addresses that is configured (`serviceClusterIPs` and its like) is announced
whole by every host. An address in one of them is announced singly, beside it, by

- hosts that serve the service, where its `externalTrafficPolicy` is `Local`;
- every host, where what is configured is that one address, or is a network for load balancers
  that is not to be announced whole (`serviceLoadBalancerAggregation: Disabled`).

Source: Calico, confd/pkg/backends/calico/routes.go.
"""

from collections.abc import Iterable, Iterator

from tortie.lib.errors import InvalidInput
from tortie.lib.ip import Network, parse_address, parse_network
from tortie.model.bgp_configuration import BGPConfigurationSpec, ServiceBlock
from tortie.model.endpoint_slice import KubernetesEndpointSlice
from tortie.model.keys import ResourceKey
from tortie.model.node import Node
from tortie.model.service import KubernetesService, KubernetesServiceSpec

KINDS = frozenset({"KubernetesService", "KubernetesEndpointSlice"})
_Serving = tuple["ServiceName", frozenset[str]]

ServiceName = tuple[str, str]
"""Namespace and name."""


class Services:
    """
    Args:
        host: this one, by its name in the datastore.
    """

    def __init__(self, host: str) -> None:
        self._host = host
        self._names = frozenset({host})
        """This host's: Kubernetes may have another one for it."""
        self._services: dict[ServiceName, KubernetesServiceSpec] = {}
        self._serving: dict[ResourceKey, _Serving] = {}
        """Slice → whose it is, and the nodes with an endpoint that is ready."""

    def on_resource(self, key: ResourceKey, value: object | None) -> bool:
        """Take note; returns whether anything changed that may be announced."""
        if key.kind == "KubernetesService":
            name = (key.namespace, key.name)
            spec = value.spec if isinstance(value, KubernetesService) else None
            if self._services.get(name) == spec:
                return False
            if spec is None:
                del self._services[name]
            else:
                self._services[name] = spec
            return True
        before = self._serving.pop(key, None)
        if isinstance(value, KubernetesEndpointSlice):
            nodes = frozenset(one.node_name for one in value.spec.endpoints if one.ready)
            self._serving[key] = (key.namespace, value.spec.service), nodes
        return self._is_here(before) or self._is_here(self._serving.get(key))

    def on_own_node(self, node: object | None) -> bool:
        """Likewise, of what is stored of this host."""
        references = node.spec.orch_refs if isinstance(node, Node) else ()
        names = frozenset({self._host, *(reference.node_name for reference in references)})
        changed = names != self._names
        self._names = names
        return changed

    def announced(self, configured: BGPConfigurationSpec) -> Iterator[Network]:
        """Single addresses; the networks are `whole`'s."""
        served = {found[0] for found in self._serving.values() if self._is_here(found)}
        balancers_singly = configured.service_load_balancer_aggregation == "Disabled"
        for name, spec in self._services.items():
            local = spec.external_traffic_policy == "Local"
            for texts, blocks, singly in (
                (spec.cluster_ips, configured.service_cluster_ips, False),
                (spec.external_ips, configured.service_external_ips, False),
                (spec.load_balancer_ips, configured.service_load_balancer_ips, balancers_singly),
            ):
                networks = [*_networks(blocks)]
                for address in _addresses(texts):
                    around = [network for network in networks if network.contains(address)]
                    if local:
                        if around and name in served:
                            yield address
                    elif around and (singly or any(network.is_address for network in around)):
                        yield address

    def _is_here(self, found: _Serving | None) -> bool:
        return found is not None and not self._names.isdisjoint(found[1])


def whole(configured: BGPConfigurationSpec) -> tuple[Network, ...]:
    """Networks that every host announces."""
    blocks: list[ServiceBlock] = [*configured.service_cluster_ips, *configured.service_external_ips]
    if configured.service_load_balancer_aggregation != "Disabled":
        blocks += configured.service_load_balancer_ips
    return tuple(sorted({network for network in _networks(blocks) if not network.is_address}))


def around(configured: BGPConfigurationSpec) -> tuple[Network, ...]:
    """Where service addresses may lie, announced whole or not: a reflector passes them on."""
    return tuple(sorted(set(_networks(configured.service_blocks))))


def _networks(blocks: Iterable[ServiceBlock]) -> Iterator[Network]:
    for block in blocks:
        try:
            yield parse_network(block.cidr)
        except InvalidInput:
            continue


def _addresses(texts: Iterable[str]) -> Iterator[Network]:
    for text in texts:
        try:
            yield parse_address(text)
        except InvalidInput:
            continue
