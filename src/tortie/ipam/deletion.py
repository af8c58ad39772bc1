"""Deleting resources that hold something: pools their blocks, nodes all that is on them.

The command line deletes through `delete` here, which does the same as `Resources.delete` for
every other kind. Each step may be repeated, so a deletion that broke off is finished by
asking again; the resource itself goes last, so until then it can be asked for again.

Source: Calico, libcalico-go/lib/clientv3/ippool.go and node.go.
"""

import asyncio
import contextlib
from collections.abc import Iterable
from typing import cast

import msgspec

from tortie.datastore.resources import Resources, key_of
from tortie.ipam import block as blocks
from tortie.ipam.allocator import Allocator
from tortie.ipam.giveback import release_host, release_pool
from tortie.ipam.stored import list_blocks, read_kind
from tortie.lib.errors import InvalidInput, NotFound
from tortie.lib.ip import Network, parsed_network
from tortie.model.bgp_peer import BGPPeer
from tortie.model.endpoint import HostEndpoint, WorkloadEndpoint
from tortie.model.ipam import Block
from tortie.model.keys import BlockKey, ResourceKey
from tortie.model.metadata import Resource
from tortie.model.node import IPPool, Node

PAUSE_SECONDS = 0.5
"""Between disabling a pool and taking its blocks: time for Calico's own allocators, which do
not compare the pool when they assign. Ours do."""


async def delete(
    resources: Resources,
    key: ResourceKey,
    revision: int | None = None,
    *,
    pause_seconds: float = PAUSE_SECONDS,
) -> None:
    """Delete a resource and what it holds; if `revision` is given, only that version.

    Raises:
        NotFound: it does not exist. What a node left behind is gone nevertheless.
        InvalidInput: it must not be deleted.
        Conflict: it was changed since `revision`, or is being changed all the time.
    """
    if key.kind == "IPPool":
        await _delete_pool(resources, key, revision, pause_seconds)
    elif key.kind == "Node":
        await _delete_node(resources, key, revision)
    else:
        await resources.delete(key, revision)


async def _delete_pool(
    resources: Resources, key: ResourceKey, revision: int | None, pause_seconds: float
) -> None:
    try:
        found = await resources.get(key)
    except InvalidInput:
        await resources.delete(key, revision)  # nobody can assign from what nobody can read
        return
    pool = cast(IPPool, found.resource)
    if not pool.spec.disabled:
        version = str(revision) if revision is not None else pool.metadata.resource_version
        disabled = msgspec.structs.replace(
            pool,
            spec=msgspec.structs.replace(pool.spec, disabled=True),
            metadata=msgspec.structs.replace(pool.metadata, resource_version=version),
        )
        # What others stored may break a rule of ours; that must not keep it for ever.
        with contextlib.suppress(InvalidInput):
            revision = (await resources.update(disabled)).revision
            await asyncio.sleep(pause_seconds)
    network = parsed_network(pool.spec.cidr)
    if network is not None:
        await release_pool(resources.client, network)
    await resources.delete(key, revision)


async def _delete_node(resources: Resources, key: ResourceKey, revision: int | None) -> None:
    host = key.name
    node = await _node(resources, key, revision)
    endpoints = [
        endpoint
        for endpoint in await resources.all_of(WorkloadEndpoint)
        if endpoint.spec.node == host
    ]
    texts = [text for endpoint in endpoints for text in endpoint.spec.ip_networks]
    if node is not None:
        texts += node.spec.tunnel_addresses
    addresses = [network for text in texts if (network := parsed_network(text))]
    await _release_addresses(resources, host, addresses)
    await _delete_all(resources, endpoints)
    await release_host(resources.client, host)
    peers = [peer for peer in await resources.all_of(BGPPeer) if peer.spec.node == host]
    await _delete_all(resources, peers)
    for kind in ("FelixConfiguration", "BGPConfiguration"):
        with contextlib.suppress(NotFound):
            await resources.delete(ResourceKey(kind, f"node.{host}"))
    host_endpoints = await resources.all_of(HostEndpoint)
    await _delete_all(resources, [found for found in host_endpoints if found.spec.node == host])
    await resources.delete(key, revision)


async def _node(resources: Resources, key: ResourceKey, revision: int | None) -> Node | None:
    """The node, if it can be read.

    Raises:
        Conflict: it is not at `revision`, so nothing of it must be touched.
    """
    try:
        if revision is not None:
            await resources.check_revision(key, revision)
        return cast(Node, (await resources.get(key)).resource)
    except (NotFound, InvalidInput):
        return None


async def _release_addresses(resources: Resources, host: str, addresses: Iterable[Network]) -> None:
    """Free them, unless their workload has moved: then they are another host's by now."""
    allocator = Allocator(resources.client, host)
    existing: dict[int, list[Network]] = {}
    for address in addresses:
        if address.family not in existing:
            existing[address.family] = await list_blocks(resources.client, address.family)
        cidr = next((c for c in existing[address.family] if c.contains(address)), None)
        if cidr is None:
            continue
        [found] = await read_kind(resources.client, [BlockKey(cidr)], Block)
        owner = blocks.holder(found.value, address) if found.value else None
        if owner is None or (owner.secondary or {}).get("node") not in (None, host):
            continue
        # A damaged block is for an IPAM check to repair; the node goes all the same.
        with contextlib.suppress(InvalidInput):
            await allocator.release_address(address, handle_id=owner.handle_id)


async def _delete_all(resources: Resources, found: Iterable[Resource]) -> None:
    for resource in found:
        with contextlib.suppress(NotFound):
            await resources.delete(key_of(resource))
