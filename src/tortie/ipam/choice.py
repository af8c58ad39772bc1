"""From which block the next address comes: own, claimed, or borrowed.

The order is Calico's: a free address in a block that this host owns; else a
block that nobody has, claimed in the same transaction; else, unless
`strict_affinity` forbids it, a free address in a block of another host.

This decides on what `look` has read; `allocator` writes.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence

from tortie.ipam import affinity
from tortie.ipam import block as blocks
from tortie.ipam.look import Look, cidr_of, is_confirmed
from tortie.ipam.pools import Pool, block_of, pool_of, serving
from tortie.ipam.source import Request, Source
from tortie.ipam.stored import Stored, read_kind
from tortie.lib.errors import InvalidInput, Unavailable
from tortie.lib.ip import Network
from tortie.model.ipam import Block, BlockAffinity
from tortie.model.keys import AffinityKey, BlockKey, ResourceKey

BLOCKS_PER_LOOK = 32
"""Foreign blocks read at a time in search of a free address."""


TAKE_OVER_SECONDS = 60
"""How long a block is its owner's, used or not. Source: Calico, lib/ipam, reclaiming blocks."""


class PoolExhausted(Unavailable):
    """No address is free now; one may be after the next release, or in a new pool."""


class Choice(Look):
    """A look at the datastore that knows which of its blocks serves a request."""

    async def sources(self, wanted: Request) -> list[Source]:
        """One source for each block that is needed, at most one of them claimed per family.

        Raises:
            InvalidInput, PoolExhausted, AlreadyExists: as `Allocator.assign`.
        """
        named: dict[Network, list[Network]] = defaultdict(list)
        found: dict[Network, Source] = {}
        for address in wanted.addresses:
            source = await self._holding(address, wanted.use)
            cidr = blocks.network(source.before)
            named[cidr].append(address)
            found[cidr] = source._replace(addresses=tuple(named[cidr]))
        claimed = [source for source in found.values() if source.mark is not None]
        if len(claimed) > len({blocks.network(source.before).family for source in claimed}):
            raise InvalidInput("the addresses asked for lie in several blocks that nobody has yet")
        for family in sorted(wanted.families - {a.family for a in wanted.addresses}):
            source = await self._any(family, wanted)
            found[blocks.network(source.before)] = source
        return list(found.values())

    async def _any(self, family: int, wanted: Request) -> Source:
        pools = serving(
            self._pools,
            family,
            self.node.value.metadata.labels if self.node.value else {},
            use=wanted.use,
            names=wanted.pools,
            namespace_labels=await self._namespace_labels(wanted),
        )
        if not pools:
            raise InvalidInput(self._no_pool(family, wanted))
        source = await self._own(family, pools)
        if source is None:
            source = await self._claim(family, pools)
        if source is None and not self._config.strict_affinity:
            source = await self._borrow(family, pools)
        if source is None:
            raise PoolExhausted(self._exhausted(family, pools))
        return source._replace(anyhow=1, reserved=self._reserved)

    async def _own(self, family: int, pools: Collection[Pool]) -> Source | None:
        confirmed = [
            found
            for found in self._affinities
            if is_confirmed(found) and cidr_of(found).family == family
        ]
        confirmed = [found for found in confirmed if pool_of(pools, cidr_of(found))]
        keys = [BlockKey(cidr_of(found)) for found in confirmed]
        read_blocks = await self._blocks(keys)
        for mine, found in zip(confirmed, read_blocks, strict=True):
            block = self._usable(found)
            if block and self._is_ours(block) and self._has_free(block):
                return self._source(found, block, mine)
        return None

    async def _claim(self, family: int, pools: Collection[Pool]) -> Source | None:
        if not self._may_claim(family):
            return None
        for mine in self._affinities:
            if not is_confirmed(mine) and pool_of(pools, cidr_of(mine)):
                source = await self._resume(mine, pools)
                if source is not None:
                    return source
        existing = await self._existing_blocks(family)
        for pool in pools:
            free = affinity.free_blocks(pool.cidr, pool.block_length, self._host, existing)
            cidr = next((block for block in free if not self._is_reserved(block)), None)
            if cidr is not None:
                return self._new(cidr)
        return await self._take_over(family, pools)

    async def _take_over(self, family: int, pools: Collection[Pool]) -> Source | None:
        """An empty block of a host that has more than it uses, or of nobody.

        Not before it has been theirs for a while: they may be about to use it.
        """
        inside = [c for c in await self._existing_blocks(family) if pool_of(pools, c)]
        for found in await self._look_through(affinity.host_order(inside, self._host)):
            block = self._usable(found)
            if block is None or self._is_ours(block) or not blocks.is_empty(block):
                continue
            if not self._has_free(block) or not self._is_settled(block):
                continue
            cidr = blocks.network(block)
            owner = (block.affinity or "").partition("host:")[2]
            if block.affinity and not owner:
                continue  # held by something that is not a host
            displaced = None
            if owner:
                key = AffinityKey(owner, cidr)
                [displaced] = await read_kind(self._client, [key], BlockAffinity)
            ours = blocks.claimed(block, self._host, self._now_ns, virtual=self._virtual)
            source = self._source(found, ours, self._affinity(cidr), claim=True)
            return source._replace(displaced=displaced)
        return None

    def _is_settled(self, block: Block) -> bool:
        """Claimed long ago, or by nobody knows when."""
        claimed = blocks.claim_time_ns(block)
        return claimed is None or self._now_ns - claimed >= TAKE_OVER_SECONDS * 1_000_000_000

    async def _resume(self, mine: Stored[BlockAffinity], pools: Collection[Pool]) -> Source | None:
        """Take up a block whose affinity an interrupted claim or release left unconfirmed."""
        cidr = cidr_of(mine)
        pool = pool_of(pools, cidr)
        if pool is None or pool.block_length != cidr.length:
            return None
        [found] = await self._blocks([BlockKey(cidr)])
        if found.entry is None:
            others = await self._existing_blocks(cidr.family)
            taken = any(cidr.overlaps(other) for other in others) or self._is_reserved(cidr)
            return None if taken else self._new(cidr)
        block = self._usable(found)
        if block is None or not self._is_ours(block) or not self._has_free(block):
            return None
        return self._source(found, block, mine, claim=True)

    async def _borrow(self, family: int, pools: Collection[Pool]) -> Source | None:
        inside = [c for c in await self._existing_blocks(family) if pool_of(pools, c)]
        for found in await self._look_through(affinity.host_order(inside, self._host)):
            block = self._usable(found)
            if block and not self._is_ours(block) and self._has_free(block):
                return self._source(found, block, None)
        return None

    async def _look_through(self, cidrs: Sequence[Network]) -> list[Stored[Block]]:
        """Blocks with a free address, in this order; the first look that finds some is all."""
        for start in range(0, len(cidrs), BLOCKS_PER_LOOK):
            keys = [BlockKey(cidr) for cidr in cidrs[start : start + BLOCKS_PER_LOOK]]
            found = await self._blocks(keys)
            if any((block := self._usable(each)) and self._has_free(block) for each in found):
                return found
        return []

    def _is_reserved(self, cidr: Network) -> bool:
        """Is there nothing in it that may be handed out?"""
        around = [kept for kept in self._reserved if kept.overlaps(cidr)]
        if not around:
            return False
        return not blocks.free_count(blocks.new_block(cidr, self._host, self._now_ns), around)

    def _has_free(self, block: Block) -> bool:
        return blocks.free_count(block, self._reserved) > 0

    async def _holding(self, address: Network, use: str) -> Source:
        """The block of an address that was asked for by name."""
        pool = pool_of(self._pools, address)
        if pool is None or pool.disabled or use not in pool.uses:
            raise InvalidInput(self._not_in_pool(address, pool, use))
        existing = await self._existing_blocks(address.family)
        cidr = next((cidr for cidr in existing if cidr.contains(address)), None)
        if cidr is None:
            cidr = block_of(pool, address)
            if not self._may_claim(address.family):
                raise PoolExhausted(self._exhausted(address.family, [pool]))
            if any(cidr.overlaps(other) for other in existing):
                raise InvalidInput(f"block {cidr} would overlap blocks of another size")
            return self._new(cidr)
        [found] = await self._blocks([BlockKey(cidr)])
        block = self._usable(found)
        if block is None:
            raise InvalidInput(f"block {cidr} is damaged or being deleted; run an IPAM check")
        mine = self._affinity(cidr)
        if self._is_ours(block) and is_confirmed(mine):
            return self._source(found, block, mine)
        if self._config.strict_affinity and not self._is_ours(block):
            raise InvalidInput(
                f"{address.address_text} is in block {cidr} of {block.affinity or 'nobody'}, and "
                "strict affinity forbids borrowing: attach there, or turn strict affinity off"
            )
        return self._source(found, block, None)

    def _new(self, cidr: Network) -> Source:
        block = blocks.new_block(cidr, self._host, self._now_ns, virtual=self._virtual)
        absent: Stored[Block] = self.known(Stored(BlockKey(cidr), None, None))
        return self._source(absent, block, self._affinity(cidr), claim=True)

    def _source(
        self,
        found: Stored[Block],
        block: Block,
        mine: Stored[BlockAffinity] | None,
        *,
        claim: bool = False,
    ) -> Source:
        pool = pool_of(self._pools, blocks.network(block))
        assert pool is not None, "blocks are chosen by pool"
        stored_pool = self._stored_pools[ResourceKey("IPPool", pool.name)]
        return Source(found, block, (), 0, stored_pool, mine, self._mark if claim else None)

    def _may_claim(self, family: int) -> bool:
        owned = sum(is_confirmed(a) and cidr_of(a).family == family for a in self._affinities)
        most = self._config.max_blocks_per_host or affinity.MAX_BLOCKS_PER_HOST
        return self._config.auto_allocate_blocks and owned < most

    def _no_pool(self, family: int, wanted: Request) -> str:
        if wanted.pools:
            return (
                f"no IPv{family} pool among {', '.join(sorted(wanted.pools))} can be used: enable "
                f"one, allow its use as {wanted.use}, or name another{self._trouble()}"
            )
        return (
            f"no IPv{family} pool serves host {self._host}: create an IPPool, enable one, "
            f"or let its nodeSelector match the labels of Node {self._host}{self._trouble()}"
        )

    def _exhausted(self, family: int, pools: Collection[Pool]) -> str:
        names = ", ".join(f"{pool.name} ({pool.cidr})" for pool in pools)
        if not self._may_claim(family):
            most = self._config.max_blocks_per_host or affinity.MAX_BLOCKS_PER_HOST
            reason = f"host {self._host} may not claim another block (it may have {most})"
        else:
            reason = "every block is taken"
        return (
            f"no IPv{family} address is free for host {self._host} in {names}: {reason}; "
            "release addresses or add an IPPool"
        )

    def _not_in_pool(self, address: Network, pool: Pool | None, use: str) -> str:
        if pool is not None:
            reason = "disabled" if pool.disabled else f"not for use as {use}"
            return f"{address.address_text} is in IPPool {pool.name}, which is {reason}"
        known = ", ".join(str(pool.cidr) for pool in self._pools) or "none"
        return (
            f"{address.address_text} is in no IPPool; ask for an address in one of: "
            f"{known}{self._trouble()}"
        )

    def _trouble(self) -> str:
        return f" (ignored: {'; '.join(self._problems)})" if self._problems else ""
