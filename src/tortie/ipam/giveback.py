"""Taking blocks away from who holds them: when a pool or a host goes.

Addresses in use stay in use: a block that is not empty loses only its owner, so nobody
assigns from it without asking, and goes with its last address.

Source: Calico, libcalico-go/lib/ipam/ipam.go, ReleasePoolAffinities and RemoveIPAMHost.
"""

import asyncio
import random

from tortie.datastore.client import Client
from tortie.ipam import block as blocks
from tortie.ipam.stored import Change, list_affinities, read_kind
from tortie.lib.errors import Conflict
from tortie.lib.ip import Network
from tortie.model.ipam import Block, BlockAffinity, IPAMHost
from tortie.model.keys import IPAM, AffinityKey, BlockKey, IPAMHostKey, parse_key

ATTEMPTS = 100
"""Lost compares in a row before giving up. Source: Calico, datastoreRetries."""

_LONGEST_PAUSE_SECONDS = 0.05


async def release_pool(client: Client, pool: Network) -> list[Network]:
    """Nobody owns a block of the pool any more.

    Returns:
        The blocks that somebody owned.

    Raises:
        Conflict: others changed one of them all the time.
    """
    owned = set(await _affinities_within(client, pool))
    prefix = f"{IPAM}assignment/ipv{pool.family}/block/"
    listing = await client.list(prefix)
    for entry in listing.entries:
        key = parse_key(entry.key)
        if isinstance(key, BlockKey) and pool.contains(key.cidr):
            [found] = await read_kind(client, [key], Block)
            owner = _owner(found.value) if found.value else None
            if owner is not None:
                owned.add(owner)
    for key in sorted(owned):
        await release_affinity(client, key)
    return sorted({key.cidr for key in owned})


async def release_host(client: Client, host: str) -> list[Network]:
    """A host owns no block any more, and takes no part in IPAM.

    Returns:
        The blocks that it owned.

    Raises:
        Conflict: others changed one of them all the time.
    """
    keys = [key for key, _ in await list_affinities(client, host)]
    for key in keys:
        await release_affinity(client, key)
    [mark] = await read_kind(client, [IPAMHostKey(host)], IPAMHost)
    if mark.entry is not None:
        await client.delete(IPAMHostKey(host).path)
    return sorted(key.cidr for key in keys)


async def release_affinity(client: Client, key: AffinityKey) -> None:
    """One block loses its owner, and goes if it is empty; one transaction, may be repeated."""
    for attempt in range(ATTEMPTS):
        try:
            await _release_once(client, key)
        except Conflict:
            longest = min(0.001 * 2 ** min(attempt, 6), _LONGEST_PAUSE_SECONDS)
            await asyncio.sleep(random.random() * longest)  # noqa: S311 - jitter
        else:
            return
    raise Conflict(f"{key.path} is being changed by others all the time; try again")


async def _release_once(client: Client, key: AffinityKey) -> None:
    [affinity] = await read_kind(client, [key], BlockAffinity)
    [found] = await read_kind(client, [BlockKey(key.cidr)], Block)
    change = Change()
    change.rest_on(affinity)
    change.rest_on(found)
    if affinity.entry is not None:
        change.write(affinity, None)
    if found.value is not None and _owner(found.value) == key:
        is_empty = blocks.is_empty(found.value)
        change.write(found, None if is_empty else blocks.disowned(found.value))
    await change.commit(client)


def _owner(block: Block) -> AffinityKey | None:
    kind, _, name = (block.affinity or "").partition(":")
    if kind not in ("host", "virtual") or not name:
        return None
    return AffinityKey(name, blocks.network(block), kind == "virtual")


async def _affinities_within(client: Client, pool: Network) -> list[AffinityKey]:
    found = []
    for owner in ("host", "virtual"):
        listing = await client.list(f"{IPAM}{owner}/", keys_only=True)
        for entry in listing.entries:
            key = parse_key(entry.key)
            if isinstance(key, AffinityKey) and pool.contains(key.cidr):
                found.append(key)
    return found
