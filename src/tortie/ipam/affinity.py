"""Which block a host claims next. Pure.

Hosts that claim at the same moment should not all try the same block, and a
host that starts again should try the same ones: so each walks its pool from a
place that its name decides, once around.
"""

from collections.abc import Collection, Iterator

from tortie.lib.ip import Network

DEFAULT_BLOCK_LENGTH = {4: 26, 6: 122}
"""64 addresses. Source: Calico, IPPool reference, blockSize."""

MAX_BLOCKS_PER_HOST = 20
"""For each family, where `maxBlocksPerHost` is 0. Source: Calico, lib/ipam/ipam.go."""

_FNV_PRIME = 0x100000001B3
_FNV_OFFSET = 0xCBF29CE484222325


def free_blocks(
    pool: Network, block_length: int, host: str, existing: Collection[Network]
) -> Iterator[Network]:
    """The blocks of `pool` that nobody has, in the order in which `host` tries them.

    Args:
        existing: all blocks that there are, of any size and in any pool; what
            overlaps one of them is not free. (A pool that was deleted and made
            again with another block size still has the old blocks.)
    """
    taken = {block for block in existing if block.length == block_length}
    odd = [block for block in existing if block.length != block_length and pool.overlaps(block)]
    count = 1 << (block_length - pool.length)
    size = 1 << (pool.bits - block_length)
    start = seed(host) % count
    for step in range(count):
        value = pool.value + (start + step) % count * size
        block = Network(pool.family, value, block_length)
        if block not in taken and not any(block.overlaps(other) for other in odd):
            yield block


def host_order(blocks: Collection[Network], host: str) -> list[Network]:
    """Blocks of others in the order in which `host` borrows from them.

    Each host starts elsewhere, so that borrowers spread.
    """
    ordered = sorted(blocks)
    start = seed(host) % len(ordered) if ordered else 0
    return ordered[start:] + ordered[:start]


def seed(host: str) -> int:
    """FNV-1 of the name, 64 bits, so that hosts diverge in large IPv6 pools too.

    Source: Fowler, Noll, Vo; draft-eastlake-fnv. Calico seeds a generator with
    the 32-bit one; only that it is deterministic matters.
    """
    value = _FNV_OFFSET
    for byte in host.encode():
        value = value * _FNV_PRIME % (1 << 64) ^ byte
    return value
