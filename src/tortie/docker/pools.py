"""IPPools, as Docker's networks name them: by CIDR."""

from collections.abc import AsyncIterator

from tortie.datastore.client import Client
from tortie.ipam.block import holder
from tortie.ipam.pools import block_of, parse_pools, pool_of
from tortie.ipam.stored import list_blocks, list_resources, read_kind
from tortie.lib.ip import Network, parse_network
from tortie.model.ipam import Attribute, Block
from tortie.model.keys import BlockKey
from tortie.model.node import IPPool


class Pools:
    """Read anew at each call: they are few, and an operator's change counts at once."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def names(self) -> dict[Network, str]:
        """Of every readable pool, by CIDR.

        Raises:
            Unavailable: the datastore is away.
        """
        return {
            parse_network(pool.spec.cidr): pool.metadata.name for pool in await self._readable()
        }

    async def holder(self, address: Network) -> Attribute | None:
        """Who holds an address; None if it is free.

        Raises:
            Unavailable: the datastore is away.
        """
        async for cidr in self._blocks(address):
            [found] = await read_kind(self._client, [BlockKey(cidr)], Block)
            if found.value is not None:
                return holder(found.value, address)
        return None

    async def _blocks(self, address: Network) -> AsyncIterator[Network]:
        """Where it may be: one read tells, unless the pool's block size has changed."""
        pool = pool_of(parse_pools(await self._readable()).usable, address)
        if pool is not None:
            yield block_of(pool, address)
        for cidr in await list_blocks(self._client, address.family):
            if cidr.contains(address):
                yield cidr

    async def _readable(self) -> list[IPPool]:
        found = await list_resources(self._client, IPPool, "IPPool")
        return [stored.value for stored in found if stored.value is not None]
