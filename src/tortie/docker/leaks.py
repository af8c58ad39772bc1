"""Addresses that Docker asked for and has forgotten: released at second sight.

Docker releases an address once. When the datastore is away then, or either of us was killed in
between, nobody would ever ask again. Nor would swarm's managers for what one of them had chosen
and not yet told the others when it was killed.

The first proof is `ipam.audit`'s, that no endpoint anywhere has the address; the second is
Docker's word. Each service sees to what its own host's Docker asked for: containers' addresses
by its list of endpoints, those that its manager chose for swarm by the swarm's tasks and services,
as long as it is a manager.
"""

import logging
import time
from collections.abc import Collection, Iterable
from typing import NamedTuple

from tortie.datastore.client import Client
from tortie.docker.api import Docker
from tortie.docker.ipam_driver import SWARM, is_docker
from tortie.ipam.allocator import Allocator
from tortie.ipam.audit import Allocation, Leak, leaked, seen_twice
from tortie.ipam.inventory import read_inventory
from tortie.ipam.ownership import release_leak
from tortie.lib.errors import InvalidInput, TortieError
from tortie.lib.ip import Network, parse_network

log = logging.getLogger(__name__)

SECONDS = 600.0
"""Between two looks: each reads all of IPAM."""


class Forgotten(NamedTuple):
    """What the Docker of a host does not have."""

    host: str
    used: Collection[Network]
    of_swarm: Collection[Network] | None
    """What the swarm uses; None: nobody here can tell."""
    reason: str = "Docker has nothing of it"
    includes_foreign: bool = True

    def proves(self, allocation: Allocation) -> bool:
        if not is_docker(allocation.attribute) or allocation.address in self.used:
            return False
        manager = (allocation.attribute.secondary or {}).get(SWARM)
        if manager is None:
            return allocation.node == self.host
        return (
            manager == self.host
            and self.of_swarm is not None
            and allocation.address not in self.of_swarm
        )


class Leaks:
    def __init__(self, client: Client, host: str, docker: Docker) -> None:
        self._client = client
        self._host = host
        self._docker = docker
        self._allocator = Allocator(client, host)
        self._next = time.monotonic() + SECONDS
        self._seen: list[Leak] = []

    async def look(self, used: Collection[Network], reserved: Iterable[str]) -> None:
        """Release what the last look saw, too; nothing if it is not time yet.

        Args:
            used: what endpoints have.
            reserved: what networks hold for others (`--aux-address`).
        """
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + SECONDS
        await self.collect({*used, *_networks(reserved)})

    async def collect(self, used: Collection[Network]) -> list[Network]:
        """One look; returns what was released."""
        state = await read_inventory(self._client)
        # Asked after the datastore: what it holds by then has been told to the swarm, or will be
        # long before the next look.
        leaks = leaked(state, Forgotten(self._host, used, await self._of_swarm()))
        proved, self._seen = seen_twice(leaks, self._seen), leaks
        released = []
        for leak in proved:
            if await release_leak(self._allocator, leak):
                addresses = [allocation.address for allocation in leak.allocations]
                log.warning("address %s had leaked; released", addresses[0].address_text)
                released += addresses
        return released

    async def _of_swarm(self) -> set[Network] | None:
        try:
            texts = await self._docker.swarm_addresses()
        except TortieError as error:
            log.info("addresses of swarm mode are not looked at: %s", error)
            return None
        return None if texts is None else set(_networks(texts))


def _networks(texts: Iterable[str]) -> Iterable[Network]:
    """The addresses, whatever subnet Docker says with them; those that are none are nobody's."""
    for text in texts:
        try:
            yield parse_network(text.partition("/")[0])
        except InvalidInput as error:
            log.warning("Docker tells of an address that is none: %s", error)
