"""From which block the next address comes: own, claimed, or borrowed.

The order is Calico's: a free address in a block that this host owns; else a
block that nobody has, claimed in the same transaction; else, unless
`strict_affinity` forbids it, a free address in a block of another host.

This reads and decides; `allocator` writes.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from tortie.datastore.client import Client
from tortie.ipam import affinity
from tortie.ipam import block as blocks
from tortie.ipam.pools import Pool, block_of, parse_pools, pool_of, serving
from tortie.ipam.stored import (
    Change,
    Stored,
    list_affinities,
    list_blocks,
    list_resources,
    read,
    read_kind,
    stored,
)
from tortie.lib.errors import AlreadyExists, InvalidInput, Unavailable
from tortie.lib.ip import Network, parse_network
from tortie.model.ipam import Attribute, Block, BlockAffinity, IPAMConfig, IPAMHost
from tortie.model.keys import AffinityKey, BlockKey, IPAMConfigKey, IPAMHostKey, ResourceKey
from tortie.model.node import IPPool, Node
from tortie.model.policy import Profile
from tortie.model.reservation import IPReservation

BLOCKS_PER_LOOK = 32
"""Foreign blocks read at a time in search of a free address."""


TAKE_OVER_SECONDS = 60
"""How long a block is its owner's, used or not. Source: Calico, lib/ipam, reclaiming blocks."""


class PoolExhausted(Unavailable):
    """No address is free now; one may be after the next release, or in a new pool."""


class Request(NamedTuple):
    families: frozenset[int]
    addresses: tuple[Network, ...]
    """By name; a family without one here gets an address of our choice."""
    attribute: Attribute
    pools: frozenset[str] = frozenset()
    use: str = "Workload"


class Source(NamedTuple):
    """A block to take addresses from, and what taking them rests on."""

    found: Stored[Block]
    """As read; absent for a block that is being made."""
    before: Block
    """What to assign from: as read with cooled addresses freed, or new."""
    addresses: tuple[Network, ...]
    """These by name; empty means one of our choice."""
    anyhow: int
    """How many of our choice."""
    pool: Stored[IPPool]
    affinity: Stored[BlockAffinity] | None
    """Ours, absent or not confirmed if the block is being claimed; None when borrowing."""
    mark: Stored[IPAMHost] | None
    """Written with each claim, so that two claims of one host exclude each other."""
    reserved: tuple[Network, ...] = ()
    displaced: Stored[BlockAffinity] | None = None
    """Of the host whose empty block is taken over."""

    def taken(self, attribute: Attribute) -> tuple[Block, list[Network]]:
        """
        Raises:
            AlreadyExists: one of `addresses` is in use.
        """
        after = self.before
        for address in self.addresses:
            try:
                after = blocks.assign_address(after, address, attribute)
            except AlreadyExists as error:
                raise AlreadyExists(
                    f"{error}; release it first, or ask for another address"
                ) from None
        if not self.anyhow:
            return after, list(self.addresses)
        after, more = blocks.assign(after, self.anyhow, attribute, self.reserved)
        return after, [*self.addresses, *more]

    def write(self, change: Change, after: Block) -> None:
        change.write(self.found, after)
        change.rest_on(self.pool)
        if self.affinity is None:
            return
        if self.mark is None:
            change.rest_on(self.affinity)
        else:
            change.write(self.affinity, BlockAffinity(state="confirmed"))
            change.write(self.mark, IPAMHost())
            if self.displaced is not None:
                change.write(self.displaced, None)


class _Seen(NamedTuple):
    """What the datastore says about pools and this host."""

    config: Stored[IPAMConfig]
    pools: list[Stored[IPPool]]
    node: Stored[Node]
    affinities: list[Stored[BlockAffinity]]
    """Of this host, both families, in whatever state."""
    mark: Stored[IPAMHost]
    reserved: tuple[Network, ...] = ()


class Choice:
    """One look at the datastore, for a transaction, and for the next one once it is written.

    Several assignments may go into a transaction: each tells what it `took`, and the next
    one decides on top of that. Before another transaction, `settle` and `renew` it.
    """

    def __init__(
        self, client: Client, host: str, now_ns: int, seen: _Seen, *, virtual: bool = False
    ) -> None:
        self._client = client
        self._host = host
        self._virtual = virtual
        self._now_ns = now_ns
        self._seen = seen
        self._config = seen.config.value or IPAMConfig()
        self._mark = seen.mark
        self._affinities = seen.affinities
        self._stored_pools = {found.key: found for found in seen.pools}
        parsed = parse_pools(found.value for found in seen.pools if found.value is not None)
        self._pools = parsed.usable
        unreadable = (found.problem for found in seen.pools if found.problem)
        self._problems = (*unreadable, *parsed.problems)
        self._existing: dict[int, list[Network]] = {}
        self._reserved = seen.reserved
        self._read: dict[BlockKey, Stored[Block]] = {}
        self._after: dict[BlockKey, Block] = {}
        """Blocks as they will be when the transaction is written."""
        self._namespaces: dict[str, dict[str, str]] = {}

    @classmethod
    async def read(
        cls, client: Client, host: str, now_ns: int, *, virtual: bool = False
    ) -> "Choice":
        config_key, node_key, mark_key = (
            IPAMConfigKey(),
            ResourceKey("Node", host),
            IPAMHostKey(host),
        )
        # At the same time: on etcd each is a round trip.
        pools, reservations, (config, node, mark), affinities = await asyncio.gather(
            list_resources(client, IPPool, "IPPool"),
            list_resources(client, IPReservation, "IPReservation"),
            read(client, [config_key, node_key, mark_key]),
            list_affinities(client, host, virtual=virtual),
        )
        seen = _Seen(
            stored(config_key, IPAMConfig, config),
            pools,
            stored(node_key, Node, node),
            [stored(key, BlockAffinity, entry) for key, entry in affinities],
            stored(mark_key, IPAMHost, mark),
            reserved_networks(reservations),
        )
        return cls(client, host, now_ns, seen, virtual=virtual)

    @property
    def config(self) -> Stored[IPAMConfig]:
        return self._seen.config

    @property
    def node(self) -> Stored[Node]:
        """This host's; absent for a host that has none."""
        return self._seen.node

    def settle(self, written: Mapping[str, Stored[Any]]) -> None:
        """What was decided, or something else, has been written: it is how things are now.

        Args:
            written: by path, as `Change.written` says.
        """
        self._after.clear()
        for key in self._read:
            self._read[key] = written.get(key.path, self._read[key])
        self._affinities = [written.get(found.key.path, found) for found in self._affinities]
        self._mark = written.get(self._mark.key.path, self._mark)

    def renew(self, now_ns: int) -> None:
        """For another transaction; what hosts own is listed anew where it matters."""
        self._now_ns = now_ns
        self._after.clear()
        self._existing.clear()

    def seen(self, keys: Sequence[BlockKey]) -> list[Stored[Block]] | None:
        """These blocks as last seen; None if one of them was not."""
        if any(key not in self._read for key in keys):
            return None
        return [self._read[key] for key in keys]

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

    def took(self, source: Source, after: Block) -> None:
        """The transaction will write that; what comes next counts on it."""
        cidr = blocks.network(after)
        self.changed(source.found, after)
        if source.mark is not None and source.affinity is not None:
            confirmed = source.affinity._replace(value=BlockAffinity(state="confirmed"), problem="")
            others = [found for found in self._affinities if found.key != confirmed.key]
            self._affinities = [*others, confirmed]
            known = self._existing.get(cidr.family)  # None: not listed yet
            if known is not None and cidr not in known:
                known.append(cidr)

    def changed(self, found: Stored[Block], after: Block) -> None:
        assert isinstance(found.key, BlockKey)
        self._read.setdefault(found.key, found)
        self._after[found.key] = after

    def known(self, found: Stored[Block]) -> Stored[Block]:
        """A block as first read for this transaction."""
        assert isinstance(found.key, BlockKey)
        return self._read.setdefault(found.key, found)

    def current(self, found: Stored[Block]) -> Block:
        assert isinstance(found.key, BlockKey)
        block = self._after.get(found.key, found.value)
        assert block is not None, "who asks has seen it"
        return block

    async def _blocks(self, keys: Sequence[BlockKey]) -> list[Stored[Block]]:
        missing = [key for key in keys if key not in self._read]
        for found in await read_kind(self._client, missing, Block) if missing else ():
            self.known(found)
        return [self._read[key] for key in keys]

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

    async def _namespace_labels(self, wanted: Request) -> dict[str, str]:
        """Of the namespace that the addresses are for, where some pool asks.

        Source: Calico keeps them in the profile `kns.<namespace>`, with `pcns.` before each key.
        """
        name = (wanted.attribute.secondary or {}).get("namespace", "")
        if not name or all(pool.namespace_selector is None for pool in self._pools):
            return {}
        if name not in self._namespaces:
            key = ResourceKey("Profile", f"kns.{name}")
            [profile] = await read_kind(self._client, [key], Profile)
            applied = profile.value.spec.labels_to_apply if profile.value else {}
            self._namespaces[name] = {
                label.removeprefix("pcns."): value
                for label, value in applied.items()
                if label.startswith("pcns.")
            }
        return self._namespaces[name]

    async def _own(self, family: int, pools: Collection[Pool]) -> Source | None:
        confirmed = [
            found
            for found in self._affinities
            if _is_confirmed(found) and _cidr(found).family == family
        ]
        confirmed = [found for found in confirmed if pool_of(pools, _cidr(found))]
        keys = [BlockKey(_cidr(found)) for found in confirmed]
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
            if not _is_confirmed(mine) and pool_of(pools, _cidr(mine)):
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
        cidr = _cidr(mine)
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
        if self._is_ours(block) and _is_confirmed(mine):
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

    def _affinity(self, cidr: Network) -> Stored[BlockAffinity]:
        key = AffinityKey(self._host, cidr, self._virtual)
        return next((a for a in self._affinities if a.key == key), Stored(key, None, None))

    def _usable(self, found: Stored[Block]) -> Block | None:
        assert isinstance(found.key, BlockKey)
        block = self._after.get(found.key, found.value)
        if block is None or block.deleted or blocks.problems(block):
            return None
        return blocks.collect_cooled(block, self._now_ns, self._config.ip_cooldown_seconds)

    def _is_ours(self, block: Block) -> bool:
        return block.affinity == blocks.host_affinity(self._host, virtual=self._virtual)

    def _may_claim(self, family: int) -> bool:
        owned = sum(_is_confirmed(a) and _cidr(a).family == family for a in self._affinities)
        most = self._config.max_blocks_per_host or affinity.MAX_BLOCKS_PER_HOST
        return self._config.auto_allocate_blocks and owned < most

    async def _existing_blocks(self, family: int) -> list[Network]:
        if family not in self._existing:
            self._existing[family] = await list_blocks(self._client, family)
        return self._existing[family]

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


def reserved_networks(reservations: Iterable[Stored[IPReservation]]) -> tuple[Network, ...]:
    """What is never handed out by our choice. One that cannot be read reserves nothing."""
    found: list[Network] = []
    for reservation in reservations:
        for text in reservation.value.spec.reserved_cidrs if reservation.value else ():
            with contextlib.suppress(InvalidInput):
                found.append(parse_network(text))
    return tuple(found)


def _cidr(found: Stored[BlockAffinity]) -> Network:
    assert isinstance(found.key, AffinityKey)
    return found.key.cidr


def _is_confirmed(found: Stored[BlockAffinity]) -> bool:
    return found.value is not None and found.value.state == "confirmed" and not found.value.deleted
