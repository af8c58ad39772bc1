"""What IPAM's records say about the use of addresses: sums, borrowed and leaked ones. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from tortie.ipam import block as blocks
from tortie.lib.ip import Network
from tortie.model.ipam import Attribute, Block


class Usage(NamedTuple):
    """Of a pool or block. An address that is held and reserved counts as both."""

    cidr: Network
    total: int
    in_use: int
    reserved: int
    free: int


class PoolUsage(NamedTuple):
    pool: Usage | None
    """None: of blocks that no pool covers."""
    blocks: tuple[Usage, ...]


class Held(NamedTuple):
    """One address that is not free."""

    address: Network
    block: Network
    owner: str
    """Of the block: the host, or empty if nobody's."""
    attribute: Attribute
    sequence: int | None

    @property
    def node(self) -> str | None:
        """Where it is used; None in very old data, and while it cools down."""
        return (self.attribute.secondary or {}).get("node")

    @property
    def is_borrowed(self) -> bool:
        return self.node is not None and self.node != self.owner

    @property
    def is_cooling(self) -> bool:
        return self.attribute.released_at is not None and self.attribute.handle_id is None


def held(block: Block) -> list[Held]:
    """Every address of the block that is not free, in order."""
    cidr = blocks.network(block)
    owner = (block.affinity or "").partition(":")[2]
    numbers = block.sequence_number_for_allocation
    return [
        Held(cidr.address(n), cidr, owner, block.attributes[index], numbers.get(str(n)))
        for n, index in enumerate(block.allocations)
        if index is not None and 0 <= index < len(block.attributes)
    ]


def usage(
    pools: Sequence[Network], found: Iterable[Block], reserved: Sequence[Network]
) -> list[PoolUsage]:
    """In the order of `pools`, blocks by address; those without a pool last."""
    kept = disjoint(reserved)
    ordered = sorted(found, key=blocks.network)
    used: list[PoolUsage] = []
    rest = list(ordered)
    for pool in pools:
        inside = [block for block in rest if pool.contains(blocks.network(block))]
        rest = [block for block in rest if block not in inside]
        addresses = [one.address for block in inside for one in held(block)]
        total = _usage(pool, addresses, kept)
        used.append(PoolUsage(total, tuple(_block_usage(block, kept) for block in inside)))
    if rest:
        used.append(PoolUsage(None, tuple(_block_usage(block, kept) for block in rest)))
    return used


def _block_usage(block: Block, kept: Sequence[Network]) -> Usage:
    return _usage(blocks.network(block), [one.address for one in held(block)], kept)


def _usage(cidr: Network, addresses: Sequence[Network], kept: Sequence[Network]) -> Usage:
    reserved = sum(_overlap(cidr, network) for network in kept)
    both = sum(any(network.contains(address) for network in kept) for address in addresses)
    in_use = len(addresses)
    return Usage(cidr, cidr.size, in_use, reserved, cidr.size - in_use - reserved + both)


def _overlap(first: Network, second: Network) -> int:
    return min(first.size, second.size) if first.overlaps(second) else 0


def disjoint(networks: Iterable[Network]) -> list[Network]:
    """Without those that lie in others."""
    kept: list[Network] = []
    for network in sorted(set(networks), key=lambda n: n.length):
        if not any(other.overlaps(network) for other in kept):
            kept.append(network)
    return kept


class Findings(NamedTuple):
    """What does not fit together."""

    leaked: tuple[Held, ...]
    """Held, and used by nobody."""
    unknown: tuple[Network, ...]
    """Used, and in no enabled pool."""
    unassigned: tuple[Network, ...]
    """Used, in a pool, and held by nobody."""
    shared: tuple[Network, ...]
    """Used by several."""
    empty_handles: tuple[str, ...]
    """Handles that hold nothing."""
    missing_handles: tuple[str, ...]
    """Named in blocks, but not there."""

    @property
    def problem_count(self) -> int:
        return sum(map(len, self))


def findings(
    everything: Sequence[Held],
    users: Mapping[Network, Sequence[str]],
    pools: Sequence[Network],
    handles: Iterable[str],
) -> Findings:
    """Compare what is held with what is used.

    Args:
        users: of each address that a workload or node uses, who.
        pools: the enabled ones.
        handles: ids of those that are there.
    """
    assigned = [one for one in everything if not one.is_cooling]
    taken = {one.address for one in assigned}
    named = {one.attribute.handle_id for one in assigned if one.attribute.handle_id}
    known = set(handles)
    loose = sorted(address for address in users if address not in taken)
    in_pool = {a for a in loose if any(pool.contains(a) for pool in pools)}
    return Findings(
        leaked=tuple(one for one in assigned if one.address not in users),
        unknown=tuple(address for address in loose if address not in in_pool),
        unassigned=tuple(address for address in loose if address in in_pool),
        shared=tuple(sorted(a for a, who in users.items() if len(who) > 1)),
        empty_handles=tuple(sorted(known - named)),
        missing_handles=tuple(sorted(named - known)),
    )


def split(pool: Network, parts: int) -> list[Network]:
    """`pool` in equal parts.

    Raises:
        ValueError: `parts` is no power of two above one, or more than there are addresses.
    """
    if parts < 2 or parts & (parts - 1):
        raise ValueError(f"number to split CIDR into is not a valid power of 2: {parts}")
    length = pool.length + parts.bit_length() - 1
    if length > pool.bits:
        raise ValueError(f"the CIDR {pool} is not large enough to be split into {parts} parts")
    step = 1 << (pool.bits - length)
    return [Network(pool.family, pool.value + n * step, length) for n in range(parts)]
