"""Everything that IPAM's state is judged by, read as of one revision.

Blocks, affinities, handles and settings say what is allocated; endpoints, nodes and pools say
what should be. `audit` compares them; `ctl` shows them.
"""

from collections.abc import Iterable
from typing import NamedTuple

from tortie.datastore.client import Client, Entry
from tortie.ipam.stored import Stored, stored
from tortie.lib.errors import InvalidInput
from tortie.lib.ip import Network, parse_network
from tortie.model.endpoint import WorkloadEndpoint
from tortie.model.ipam import Block, BlockAffinity, Handle, IPAMConfig
from tortie.model.keys import (
    IPAM,
    RESOURCES,
    AffinityKey,
    BlockKey,
    HandleKey,
    IPAMConfigKey,
    Key,
    ResourceKey,
    parse_key,
)
from tortie.model.node import IPPool, Node
from tortie.model.reservation import IPReservation

_PLURALS = ("ippools", "nodes", "workloadendpoints", "ipreservations")


class Inventory(NamedTuple):
    """What cannot be read is in there, too, with a problem and no value."""

    blocks: tuple[Stored[Block], ...]
    affinities: tuple[Stored[BlockAffinity], ...]
    handles: tuple[Stored[Handle], ...]
    config: IPAMConfig
    pools: tuple[Stored[IPPool], ...]
    nodes: tuple[Stored[Node], ...]
    endpoints: tuple[Stored[WorkloadEndpoint], ...]
    reservations: tuple[Stored[IPReservation], ...]
    revision: int

    @property
    def node_names(self) -> frozenset[str]:
        """Of those, too, that cannot be read: a node that is damaged is not gone."""
        keys = (found.key for found in self.nodes)
        return frozenset(key.name for key in keys if isinstance(key, ResourceKey))

    @property
    def endpoint_addresses(self) -> dict[Network, ResourceKey]:
        """Every address that an endpoint claims, and which one."""
        claimed: dict[Network, ResourceKey] = {}
        for found in self.endpoints:
            assert isinstance(found.key, ResourceKey)
            for network in _networks(found.value):
                claimed[network] = found.key
        return claimed


async def read_inventory(client: Client) -> Inventory:
    """
    Raises:
        Unavailable: the datastore is away.
    """
    ipam = await client.list(IPAM)
    entries: list[Entry] = list(ipam.entries)
    for plural in _PLURALS:
        listing = await client.list(f"{RESOURCES}{plural}/", revision=ipam.revision)
        entries += listing.entries
    return inventory((entry for entry in entries), ipam.revision)


def inventory(entries: Iterable[Entry], revision: int) -> Inventory:
    """Sort out entries of any kind. Pure."""
    by_kind: dict[str, list[tuple[Key, Entry]]] = {}
    config = IPAMConfig()
    for entry in entries:
        key = parse_key(entry.key)
        if key is None:
            continue
        if isinstance(key, IPAMConfigKey):
            config = stored(key, IPAMConfig, entry).value or config
        name = key.kind if isinstance(key, ResourceKey) else type(key).__name__
        by_kind.setdefault(name, []).append((key, entry))
    return Inventory(
        tuple(stored(k, Block, e) for k, e in by_kind.get(BlockKey.__name__, ())),
        tuple(stored(k, BlockAffinity, e) for k, e in by_kind.get(AffinityKey.__name__, ())),
        tuple(stored(k, Handle, e) for k, e in by_kind.get(HandleKey.__name__, ())),
        config,
        tuple(stored(k, IPPool, e) for k, e in by_kind.get("IPPool", ())),
        tuple(stored(k, Node, e) for k, e in by_kind.get("Node", ())),
        tuple(stored(k, WorkloadEndpoint, e) for k, e in by_kind.get("WorkloadEndpoint", ())),
        tuple(stored(k, IPReservation, e) for k, e in by_kind.get("IPReservation", ())),
        revision,
    )


def _networks(endpoint: WorkloadEndpoint | None) -> list[Network]:
    networks = []
    for text in endpoint.spec.ip_networks if endpoint else ():
        try:
            networks.append(parse_network(text))
        except InvalidInput:
            continue
    return networks
