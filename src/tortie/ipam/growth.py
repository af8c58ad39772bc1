"""How full pools are, host by host, and when the last block will be taken. Pure.

What there is to tell the future by is the time at which each block was claimed
(`affinityClaimTime`, kept by Calico since v3.28 and by us). Blocks outlive pods, so a rolling
update does not look like growth. Blocks that were given back meanwhile have left no trace: the
pace is that of claims, an upper bound, and the day that of the earliest end. Nor is it the end
of addresses: hosts go on with what is free in their blocks, and borrow.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tortie.ipam import block as blocks
from tortie.ipam.pools import Pool
from tortie.ipam.report import Held, held
from tortie.lib.ip import Network
from tortie.model.ipam import Block

WINDOW_SECONDS = 7 * 86400.0
"""The pace is that of the last week, or of the time since the first claim if that is less."""

LEAST_SECONDS = 3600.0
"""Of history, below which nothing is foretold."""

_STEPS = "·░▒▓█"
"""A block's use: empty, up to a third, up to two, more, full."""


class HostUse(NamedTuple):
    """One host's blocks."""

    host: str
    """Empty: blocks that nobody owns."""
    blocks: tuple[tuple[Network, int], ...]
    """Each with how many of its addresses are held, by address."""
    lent: int
    """Addresses of these blocks that are used on other hosts."""
    borrowed: int
    """Addresses that this host uses from blocks of others."""

    @property
    def total(self) -> int:
        return sum(cidr.size for cidr, _ in self.blocks)

    @property
    def used(self) -> int:
        return sum(count for _, count in self.blocks)


class Forecast(NamedTuple):
    pool: str
    blocks_total: int
    blocks_taken: int
    claims: int
    """Blocks that are there and were claimed within `seconds`."""
    seconds: float
    """Of history that this rests on; 0: none is recorded."""
    undated: int
    """Blocks without a time."""

    @property
    def blocks_free(self) -> int:
        return max(0, self.blocks_total - self.blocks_taken)

    @property
    def seconds_left(self) -> float | None:
        """Until every block is taken, if claims go on at this pace; None: not foreseeable."""
        if not self.blocks_free:
            return 0.0
        if not self.claims or self.seconds < LEAST_SECONDS:
            return None
        return self.blocks_free * self.seconds / self.claims


def by_host(found: Iterable[Block]) -> list[HostUse]:
    """Fullest first."""
    owned: dict[str, list[tuple[Network, int]]] = defaultdict(list)
    lent: dict[str, int] = defaultdict(int)
    borrowed: dict[str, int] = defaultdict(int)
    for block in found:
        here: list[Held] = held(block)
        owner = (block.affinity or "").partition(":")[2]
        owned[owner].append((blocks.network(block), len(here)))
        for one in here:
            if one.is_borrowed and one.node:
                lent[owner] += 1
                borrowed[one.node] += 1
    uses = [
        HostUse(host, tuple(sorted(owned[host])), lent[host], borrowed[host])
        for host in owned.keys() | borrowed.keys()
    ]
    return sorted(uses, key=lambda use: (-(use.used / use.total if use.total else 1), use.host))


def glyph(size: int, used: int) -> str:
    """One character for a block."""
    if used <= 0:
        return _STEPS[0]
    if used >= size:
        return _STEPS[-1]
    return _STEPS[1 + min(2, 3 * used // size)]


def forecasts(pools: Iterable[Pool], found: Sequence[Block], now_ns: int) -> list[Forecast]:
    """In the order of `pools`."""
    return [_forecast(pool, found, now_ns) for pool in pools]


def _forecast(pool: Pool, found: Sequence[Block], now_ns: int) -> Forecast:
    inside = [block for block in found if pool.cidr.contains(blocks.network(block))]
    ages = [
        (now_ns - claimed) / 1e9
        for block in inside
        if (claimed := blocks.claim_time_ns(block)) is not None
    ]
    seconds = min(WINDOW_SECONDS, max(ages, default=0.0))
    return Forecast(
        pool.name,
        1 << (pool.block_length - pool.cidr.length),
        len(inside),
        # The oldest one is where history begins: claims are counted from there on.
        sum(age <= seconds for age in ages) - (seconds < WINDOW_SECONDS and bool(ages)),
        seconds,
        len(inside) - len(ages),
    )
