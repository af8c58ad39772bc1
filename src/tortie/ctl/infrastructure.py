"""`tortie policy infrastructure`: a tier that keeps workloads from what runs the cluster.

A manifest to look at, and to apply or not: a tier before all others, which passes what it does
not deny; sets that say where the infrastructure is, so that another address is a change of a set;
and one policy that denies workloads the way there. Nothing of it is there unless somebody applies
it, as policy else decides exactly as in Calico.

Whom it is for is told by the namespace, which a workload cannot choose; not by a label.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_interface

from tortie.lib.errors import InvalidInput
from tortie.lib.ip import Network, parse_address, parse_network
from tortie.model.keys import Key
from tortie.model.metadata import Metadata, Resource
from tortie.model.names import is_dns_label
from tortie.model.network_set import GlobalNetworkSet, NetworkSetSpec
from tortie.model.node import Node
from tortie.model.policy import (
    EntityRule,
    GlobalNetworkPolicy,
    GlobalNetworkPolicySpec,
    Rule,
    Tier,
    TierSpec,
)

TIER = "infrastructure"
TIER_ORDER = 50.0
"""Before `kube-admin`, which is at 1000."""

METADATA = ("169.254.169.254/32", "fd00:ec2::254/128")
"""Where clouds tell a machine its name, and its keys."""
DATASTORE_PORTS = (2379, 2380)

_WORKLOADS = "has(projectcalico.org/namespace)"
"""Every workload endpoint has that label, and nothing else has."""


def manifest(
    management: Iterable[str], datastore: Iterable[str], exempt_namespaces: Iterable[str]
) -> Iterator[Resource]:
    """The resources, in the order in which they can be created.

    Raises:
        InvalidInput: something that is no network, or no namespace.
    """
    places = {
        "metadata": _networks(METADATA),
        "management": _networks(management),
        "datastore": _networks(datastore),
    }
    first = TierSpec(order=TIER_ORDER, default_action="Pass")
    yield Tier(kind="Tier", metadata=Metadata(name=TIER), spec=first)
    for place, networks in places.items():
        yield GlobalNetworkSet(
            kind="GlobalNetworkSet",
            metadata=Metadata(name=f"{TIER}-{place}", labels={TIER: place}),
            spec=NetworkSetSpec(nets=tuple(map(str, networks))),
        )
    spec = GlobalNetworkPolicySpec(
        tier=TIER,
        selector=_selector(exempt_namespaces),
        types=("Egress",),
        egress=(
            Rule(action="Deny", destination=_at("metadata")),
            Rule(action="Deny", destination=_at("management")),
            Rule(
                action="Deny",
                protocol="TCP",
                destination=_at("datastore", ports=DATASTORE_PORTS),
            ),
        ),
    )
    metadata = Metadata(name=f"{TIER}.deny")
    yield GlobalNetworkPolicy(kind="GlobalNetworkPolicy", metadata=metadata, spec=spec)


def node_addresses(state: Mapping[Key, object]) -> list[str]:
    """Every node's own addresses, as far as the datastore knows them."""
    found: set[Network] = set()
    for resource in state.values():
        if not isinstance(resource, Node):
            continue
        bgp = resource.spec.bgp
        texts = [bgp.ipv4_address, bgp.ipv6_address] if bgp else []
        texts += [one.address for one in resource.spec.addresses]
        for text in filter(None, texts):
            try:
                found.add(parse_address(str(ip_interface(text).ip)))
            except ValueError:
                continue  # a name, say
    return [str(one) for one in sorted(found)]


def _networks(texts: Iterable[str]) -> list[Network]:
    return sorted(set(map(parse_network, texts)))


def _at(place: str, ports: tuple[int, ...] = ()) -> EntityRule:
    """A workload that carries the label is not meant."""
    return EntityRule(selector=f"{TIER} == '{place}' && !{_WORKLOADS}", ports=ports)


def _selector(exempt_namespaces: Iterable[str]) -> str:
    exempt = sorted(set(exempt_namespaces))
    for name in exempt:
        if not is_dns_label(name):
            raise InvalidInput(f"{name!r} is no name of a namespace")
    if not exempt:
        return _WORKLOADS
    listed = ", ".join(f"'{name}'" for name in exempt)
    return f"{_WORKLOADS} && projectcalico.org/namespace not in {{ {listed} }}"
