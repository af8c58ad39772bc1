"""Repairs of IPAM's records: what `audit` finds and the datastore alone can prove.

    leak          its host has no Node and no endpoint has it: released, at second sight
    handle        its counts are those of the blocks: rewritten, made, or deleted
    affinity      its block is not there or another's: deleted
    unconfirmed   of a host that has no Node: deleted; a living host resumes its own

Nothing else is touched: a damaged block, two endpoints with one address or an endpoint whose
address is free to others need somebody who knows which of the two is right.

`plan` is pure. Each repair is one transaction that compares all that its proof rests on; one that
comes too late changes nothing.
"""

from collections import Counter, defaultdict
from typing import NamedTuple

from tortie.datastore.client import Client
from tortie.ipam.allocator import Allocator
from tortie.ipam.audit import Leak, allocations, hosts_gone, leaked, seen_twice
from tortie.ipam.holdings import damage
from tortie.ipam.inventory import Inventory
from tortie.ipam.ownership import release_leak
from tortie.ipam.stored import Change, Stored
from tortie.lib.errors import Conflict
from tortie.lib.ip import Network
from tortie.model.ipam import Block, BlockAffinity, Handle
from tortie.model.keys import AffinityKey, BlockKey, HandleKey

_BLOCKS_MAX = 60
"""Of one handle, in one transaction."""


class HandleRepair(NamedTuple):
    """A handle whose counts differ from what blocks hold."""

    handle: Stored[Handle]
    counts: dict[str, int]
    """As they should be; empty: the handle goes."""
    blocks: tuple[Stored[Block], ...]
    """That hold, or are said to hold, something for it."""

    def __str__(self) -> str:
        assert isinstance(self.handle.key, HandleKey)
        name = self.handle.key.handle_id
        if not self.counts:
            return f"delete handle {name}, which holds nothing"
        held = ", ".join(f"{count} of {cidr}" for cidr, count in sorted(self.counts.items()))
        verb = "make" if self.handle.entry is None else "correct"
        return f"{verb} handle {name}: it holds {held}"


class AffinityRepair(NamedTuple):
    """An affinity that gives its host nothing."""

    affinity: Stored[BlockAffinity]
    block: Stored[Block]

    def __str__(self) -> str:
        key = self.affinity.key
        assert isinstance(key, AffinityKey)
        return f"delete the affinity of {key.host} for {key.cidr}, whose block is not its own"


class LeakRepair(NamedTuple):
    leak: Leak

    def __str__(self) -> str:
        addresses = ", ".join(a.address.address_text for a in self.leak.allocations)
        return f"release {addresses} of handle {self.leak.handle_id}: {self.leak.reason}"


Repair = HandleRepair | AffinityRepair | LeakRepair


def plan(state: Inventory) -> list[Repair]:
    """What can be repaired, handles first: a leak is released by its handle. Pure."""
    return [
        *_handle_repairs(state),
        *_affinity_repairs(state),
        *map(LeakRepair, leaked(state, hosts_gone(state))),
    ]


def still_wanted(repairs: list[Repair], before: list[Repair]) -> list[Repair]:
    """Of a second plan: leaks that the first one had, too, and everything else."""
    first = [repair.leak for repair in before if isinstance(repair, LeakRepair)]
    second = [repair.leak for repair in repairs if isinstance(repair, LeakRepair)]
    proved = seen_twice(second, first)
    return [r for r in repairs if not isinstance(r, LeakRepair) or r.leak in proved]


async def make(client: Client, allocator: Allocator, repair: Repair) -> bool:
    """False: something it rests on has changed; nothing was done."""
    if isinstance(repair, LeakRepair):
        return await release_leak(allocator, repair.leak)
    change = Change()
    if isinstance(repair, HandleRepair):
        change.rest_on(*repair.blocks)
        change.write(repair.handle, Handle(block=repair.counts) if repair.counts else None)
    else:
        change.rest_on(repair.block)
        change.write(repair.affinity, None)
    try:
        await change.commit(client)
    except Conflict:
        return False
    return True


def _handle_repairs(state: Inventory) -> list[Repair]:
    """None for handles that name a damaged block: what it holds is not known."""
    by_key = {found.key: found for found in state.blocks}
    damaged = {found.key for found in state.blocks if damage(found)}
    held: dict[str, Counter[Network]] = defaultdict(Counter)
    for allocation in allocations(state):
        held[allocation.handle_id][allocation.block] += 1
    handles = {found.key: found for found in state.handles}
    for name in held:
        handles.setdefault(HandleKey(name), Stored(HandleKey(name), None, None))
    found: list[Repair] = []
    for key, handle in handles.items():
        assert isinstance(key, HandleKey)
        said = dict(handle.value.block) if handle.value else {}
        counts = {str(cidr): count for cidr, count in held[key.handle_id].items()}
        if (said and said == counts) or handle.problem:
            continue
        keys = {BlockKey(cidr) for cidr in held[key.handle_id]}
        keys |= {k for k in by_key if isinstance(k, BlockKey) and str(k.cidr) in said}
        if keys & damaged or len(keys) > _BLOCKS_MAX:
            continue
        found.append(HandleRepair(handle, counts, tuple(by_key[k] for k in sorted(keys))))
    return found


def _affinity_repairs(state: Inventory) -> list[Repair]:
    by_key = {found.key: found for found in state.blocks}
    found: list[Repair] = []
    for affinity in state.affinities:
        key = affinity.key
        assert isinstance(key, AffinityKey)
        block = by_key.get(BlockKey(key.cidr), Stored(BlockKey(key.cidr), None, None))
        if block.problem or affinity.problem:
            continue
        owner = f"{'virtual' if key.virtual else 'host'}:{key.host}"
        is_its = block.value is not None and block.value.affinity == owner
        state_name = affinity.value.state if affinity.value else ""
        is_abandoned = state_name != "confirmed" and key.host not in state.node_names
        if (state_name == "confirmed" and not is_its) or (is_abandoned and not is_its):
            found.append(AffinityRepair(affinity, block))
    return found
