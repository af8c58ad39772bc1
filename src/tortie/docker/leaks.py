"""Addresses that this host's Docker asked for and has forgotten: released at second sight.

Docker releases an address once. When the datastore is away then, or either of us was killed in
between, nobody would ever ask again.
"""

import logging
import time
from collections.abc import Collection, Iterable

from tortie.datastore.client import Client
from tortie.docker.ipam_driver import HANDLE_PREFIX, SWARM, IPAMDriver
from tortie.ipam.audit import allocations
from tortie.ipam.inventory import read_inventory
from tortie.lib.ip import Network, parse_address

log = logging.getLogger(__name__)

SECONDS = 600.0
"""Between two looks: each reads all of IPAM."""


class Leaks:
    def __init__(self, client: Client, host: str, ipam: IPAMDriver) -> None:
        self._client = client
        self._host = host
        self._ipam = ipam
        self._next = time.monotonic() + SECONDS
        self._seen: set[tuple[Network, str, int]] = set()

    async def look(self, used: Collection[Network], reserved: Iterable[str]) -> None:
        """Release what the last look saw, too; nothing if it is not time yet.

        Args:
            used: what endpoints have.
            reserved: what networks hold for others (`--aux-address`).
        """
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + SECONDS
        await self.collect({*used, *map(parse_address, reserved)})

    async def collect(self, used: Collection[Network]) -> list[Network]:
        """One look; returns what was released."""
        state = await read_inventory(self._client)
        found = {
            (allocation.address, allocation.handle_id, allocation.sequence)
            for allocation in allocations(state)
            if allocation.handle_id.startswith(HANDLE_PREFIX)
            and allocation.node == self._host
            and SWARM not in (allocation.attribute.secondary or {})
            and allocation.address not in used
        }
        proved, self._seen = found & self._seen, found
        released = []
        for address, _, _ in sorted(proved):
            log.warning("address %s had leaked; released", address.address_text)
            if await self.release(address):
                released.append(address)
        return released

    async def release(self, address: Network) -> bool:
        return await self._ipam.release(address)
