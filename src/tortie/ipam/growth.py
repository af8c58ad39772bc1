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
from tortie.ipam.report import Held, disjoint, held
from tortie.lib.ip import Network
from tortie.model.ipam import Block

WINDOW_SECONDS = 7 * 86400.0
"""The pace is that of the last week, or of the time since the first claim if that is less."""

LEAST_SECONDS = 3600.0
"""Of history, below which nothing is foretold."""

STEPS = "·░▒▓█"
"""A block's use: empty, up to a third, up to two, more, full."""

PLAIN_STEPS = "_.-+#"
"""The same for terminals that know nothing but ASCII."""


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
    """Places for blocks, but for those that are reserved from end to end."""
    blocks_taken: int
    """Places that a block, perhaps of another size, lies in."""
    claims: int
    """Blocks that are there and were claimed within `seconds`."""
    seconds: float
    """Of history that this rests on; 0: none is recorded."""
    undated: int
    """Blocks without a time."""
    disabled: bool = False

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


def glyph(size: int, used: int, steps: str = STEPS) -> str:
    """One character for a block."""
    if used <= 0:
        return steps[0]
    if used >= size:
        return steps[-1]
    return steps[1 + min(2, 3 * used // size)]


def forecasts(
    pools: Iterable[Pool], found: Sequence[Block], now_ns: int, reserved: Iterable[Network] = ()
) -> list[Forecast]:
    """In the order of `pools`.

    Args:
        reserved: what IPReservations keep.
    """
    kept = disjoint(reserved)
    return [_forecast(pool, found, now_ns, kept) for pool in pools]


def _forecast(
    pool: Pool, found: Sequence[Block], now_ns: int, reserved: Sequence[Network]
) -> Forecast:
    inside = [block for block in found if pool.cidr.contains(blocks.network(block))]
    ages = [
        (now_ns - claimed) / 1e9
        for block in inside
        if (claimed := blocks.claim_time_ns(block)) is not None
    ]
    seconds = min(WINDOW_SECONDS, max(ages, default=0.0))
    taken = {place for block in inside for place in _places(pool, blocks.network(block))}
    lost = 0
    for kept in reserved:
        if kept.length <= pool.block_length and kept.overlaps(pool.cidr):
            places = _places(pool, kept)
            # A block that was there before the reservation stays.
            lost += places.stop - places.start - sum(place in places for place in taken)
    return Forecast(
        pool.name,
        (1 << max(0, pool.block_length - pool.cidr.length)) - lost,
        len(taken),
        # The oldest one is where history begins: claims are counted from there on.
        sum(age <= seconds for age in ages) - (seconds < WINDOW_SECONDS and bool(ages)),
        seconds,
        len(inside) - len(ages),
        pool.disabled,
    )


def _places(pool: Pool, network: Network) -> range:
    """Numbers of the pool's blocks that `network` overlaps."""
    shift = pool.cidr.bits - pool.block_length
    first = max(network.value, pool.cidr.value)
    last = min(network.value + network.size, pool.cidr.value + pool.cidr.size) - 1
    return range((first - pool.cidr.value) >> shift, ((last - pool.cidr.value) >> shift) + 1)
