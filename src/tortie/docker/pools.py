"""IPPools, as Docker's networks name them: by CIDR."""

from tortie.datastore.client import Client
from tortie.ipam.stored import list_resources
from tortie.lib.ip import Network, parse_network
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
        found = await list_resources(self._client, IPPool, "IPPool")
        pools = [stored.value for stored in found if stored.value is not None]
        return {parse_network(pool.spec.cidr): pool.metadata.name for pool in pools}
