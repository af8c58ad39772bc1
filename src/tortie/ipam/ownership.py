"""Giving up what nobody uses: empty blocks of this host, and addresses that have leaked.

Each block is one transaction that compares the block and both sides of its affinity. What is
interrupted is found again by the next call: everything here may be repeated. Pools and hosts
that go are the business of `giveback`.
"""

import time
from collections.abc import Callable

from tortie.datastore.client import Client
from tortie.ipam import block as blocks
from tortie.ipam.allocator import Allocator
from tortie.ipam.audit import (
    Leak,
    leaked,
    not_attached,
    seen_twice,
)
from tortie.ipam.holdings import damage
from tortie.ipam.inventory import read_inventory
from tortie.ipam.stored import Change, Stored, list_affinities, read_kind
from tortie.lib.errors import Conflict
from tortie.lib.ip import Network
from tortie.model.ipam import Block, BlockAffinity
from tortie.model.keys import AffinityKey, BlockKey

ATTEMPTS = 20
"""Lost compares in a row for one block, before it is left to its users."""

EMPTY_SECONDS = 300.0
"""How long a block of ours must have been ours before we give it back."""


FULL_TURNS = 12
"""How often a collector looks at everything: each so many turns."""


async def release_empty_blocks(
    client: Client,
    host: str,
    *,
    older_than_seconds: float = EMPTY_SECONDS,
    now_ns: Callable[[], int] = time.time_ns,
) -> list[Network]:
    """Give back blocks of `host` that nobody uses, but one of each family.

    Args:
        older_than_seconds: leave those that were claimed later than that ago.
    """
    found = await list_affinities(client, host)
    given_back = []
    for family in (4, 6):
        mine = [(key, entry) for key, entry in found if key.cidr.family == family]
        keys = [BlockKey(key.cidr) for key, _ in mine]
        read = await read_kind(client, keys, Block) if keys else []
        left = len(mine)
        for (key, _), block in zip(mine, read, strict=True):
            if left == 1:
                break
            if not _is_unused(block, now_ns(), older_than_seconds):
                continue
            if await _give_up(client, key):
                given_back.append(key.cidr)
                left -= 1
    return given_back


class Collector:
    """Finds leaks of one host and releases them at second sight."""

    def __init__(self, client: Client, allocator: Allocator) -> None:
        self._client = client
        self._allocator = allocator
        self._seen: list[Leak] = []
        self._turns = 0

    async def collect_attached(
        self, host: str, attached: Callable[[], frozenset[str]]
    ) -> list[Leak]:
        """Look once; release what the last look saw, too.

        Args:
            attached: handles of all that this host has, is making or is removing. Asked before
                the datastore is read and again before anything is released.
        """
        before = attached()
        self._turns += 1
        # The whole inventory costs a listing of every endpoint. What looks odd in our own
        # blocks is worth it at once; leaks in borrowed addresses wait for their turn.
        odd = bool(self._seen) or await self._is_odd(host, before)
        if not odd and self._turns % FULL_TURNS:
            return []
        state = await read_inventory(self._client)
        leaks = leaked(state, not_attached(host, before | attached()))
        return await self._second_sight(leaks, lambda leak: leak.handle_id not in attached())

    async def _is_odd(self, host: str, attached: frozenset[str]) -> bool:
        """Does a block of ours hold something for us that is not attached?"""
        keys = [BlockKey(key.cidr) for key, _ in await list_affinities(self._client, host)]
        for found in await read_kind(self._client, keys, Block) if keys else ():
            for attribute in found.value.attributes if found.value else ():
                node = (attribute.secondary or {}).get("node")
                if attribute.handle_id and node == host and attribute.handle_id not in attached:
                    return True
        return False

    async def _second_sight(self, leaks: list[Leak], still: Callable[[Leak], bool]) -> list[Leak]:
        proved = seen_twice(leaks, self._seen)
        self._seen = leaks
        return [
            leak for leak in proved if still(leak) and await release_leak(self._allocator, leak)
        ]


async def release_leak(allocator: Allocator, leak: Leak) -> bool:
    """Release a leak's addresses; False if one of them is somebody else's by now."""
    try:
        for allocation in leak.allocations:
            await allocator.release_address(
                allocation.address, handle_id=leak.handle_id, sequence=allocation.sequence
            )
    except Conflict:
        return False
    return True


async def _give_up(client: Client, key: AffinityKey) -> bool:
    """End an affinity and delete its block; False if the block is in use by now."""
    for _ in range(ATTEMPTS):
        [found] = await read_kind(client, [BlockKey(key.cidr)], Block)
        [mine] = await read_kind(client, [key], BlockAffinity)
        change = Change()
        if mine.entry is not None:
            change.write(mine, None)
        if damage(found):
            return False
        owner = f"{'virtual' if key.virtual else 'host'}:{key.host}"
        if found.value is not None and found.value.affinity == owner:
            if not blocks.is_empty(found.value):
                return False
            change.write(found, None)
        else:
            change.rest_on(found)
        try:
            await change.commit(client)
        except Conflict:
            continue
        return True
    return False


def _is_unused(found: Stored[Block], now_ns: int, older_than_seconds: float) -> bool:
    block = found.value
    if block is None or damage(found) or not blocks.is_empty(block):
        return False
    claimed = blocks.claim_time_ns(block)
    return claimed is None or now_ns - claimed >= older_than_seconds * 1e9
