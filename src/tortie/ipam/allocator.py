"""Addresses for one host: claim, assign and release over the datastore.

Every call is one transaction that compares everything it rests on (block,
affinity, handle, and for a claim the pool, the configuration and the host's
mark), so a crash leaves either all of it or nothing. What comes of it:

- a handle's counts and the blocks' allocations never differ;
- both families of one call are assigned together or not at all;
- two processes on one host never claim two blocks where one was enough.

Calling again with the same handle gives the same addresses: after a timeout,
a crash, or on another host (then the addresses stay and only the attributes
change, which is how a workload moves). Lost compares are tried again from a
fresh read; when an answer is lost, the handle tells what happened.

We write only `confirmed` affinities. Calico's own two-step claims leave
`pending` and `pendingDeletion` ones behind, which count as absent here until
this host takes such a block up again.

Source: Calico, libcalico-go/lib/ipam/ipam.go, design/ipam.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from msgspec.structs import replace

from tortie.datastore.client import Client
from tortie.ipam import block as blocks
from tortie.ipam.choice import Choice, PoolExhausted, Request
from tortie.ipam.stored import Change, Stored, list_blocks, read, read_kind, stored
from tortie.lib.errors import AlreadyExists, Conflict, InvalidInput, TortieError, Unavailable
from tortie.lib.ip import Network, parse_network
from tortie.model.ipam import Attribute, Block, Handle, IPAMConfig
from tortie.model.keys import BlockKey, HandleKey, IPAMConfigKey

T = TypeVar("T")

ATTEMPTS = 100
"""Lost compares in a row before giving up. Source: Calico, datastoreRetries."""

UNKNOWN_ATTEMPTS = 3
"""Lost answers in a row before giving up: the datastore is away then."""

HANDLE_MAX_BYTES = 512
BLOCKS_PER_RELEASE = 60
"""Blocks in one transaction, of etcd's 128 operations and 1.5 MiB."""

BATCH_SIZE = 32
"""Assignments in one transaction."""
_COMPARES_BEFORE_LAST = 100
"""One more assignment adds at most 12 (two families: block, affinity, pool; handle, mark)."""

_LONGEST_PAUSE_SECONDS = 0.05


class Allocator:
    """Assigns and releases addresses on behalf of `host`; one event loop only.

    Calls of one allocator wait for one another, so a host does not lose
    compares to itself; other processes on the host may have their own.
    Assignments that queue meanwhile are served together, in one transaction.
    """

    def __init__(
        self, client: Client, host: str, *, now_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self._client = client
        self._host = host
        self._now_ns = now_ns
        self._turn = asyncio.Lock()
        self._waiting: list[_Assignment] = []

    async def assign(
        self,
        families: Collection[int],
        handle_id: str,
        attributes: Mapping[str, str],
        *,
        requested: Collection[Network] = (),
        pools: Collection[str] = (),
        use: str = "Workload",
    ) -> list[Network]:
        """One address of each family, or those asked for by name.

        Args:
            families: 4, 6 or both.
            handle_id: who holds them; calling again with it changes nothing.
            attributes: stored with the addresses; `node` is set to this host.
            requested: these addresses. A family that has none here gets one
                of our choice.
            pools: take addresses of our choice from these pools only, by
                name, manual ones too. Empty: every automatic pool.
            use: `Workload` or `Tunnel`.

        Returns:
            All that the handle holds afterwards, IPv4 first.

        Raises:
            InvalidInput: no pool serves this host, an address is in no pool
                or may not be borrowed, or the handle is malformed.
            AlreadyExists: a requested address is taken, or the handle holds
                another one of its family.
            PoolExhausted: nothing is free.
            Conflict: others were faster `ATTEMPTS` times.
            Unavailable: the datastore is away. Call again with the same handle.
        """
        check_handle(handle_id)
        wanted = Request(
            families=frozenset(families) | {address.family for address in requested},
            addresses=tuple(dict.fromkeys(requested)),
            attribute=Attribute(handle_id=handle_id, secondary={**attributes, "node": self._host}),
            pools=frozenset(pools),
            use=use,
        )
        if not wanted.families or not wanted.families <= {4, 6}:
            raise InvalidInput(f"families are 4, 6 or both, not {sorted(wanted.families)}")
        mine = _Assignment(handle_id, wanted, asyncio.get_running_loop().create_future())
        self._waiting.append(mine)
        try:
            # Whoever has the turn serves everybody who waits.
            while not mine.outcome.done():
                await self._in_turn(lambda: self._serve(mine))
            return mine.outcome.result()
        finally:
            self._waiting.remove(mine)

    async def addresses_of(self, handle_id: str) -> list[Network]:
        """What a handle holds, IPv4 first; empty if nothing."""
        held = await self._held(handle_id)
        return sorted(address for found in held.blocks for address in held_in(found, handle_id))

    async def release(self, handle_id: str, *, only_host: bool = False) -> list[Network]:
        """Free everything that a handle holds; may be repeated.

        Args:
            only_host: leave addresses whose `node` attribute names another
                host: their workload has moved there.

        Returns:
            What this call freed.

        Raises:
            InvalidInput: a block is damaged and was left alone; the others
                have been released.
            Conflict, Unavailable: as for `assign`.
        """
        check_handle(handle_id)
        freed: list[Network] = []
        while await self._in_turn(lambda: self._try_release(handle_id, only_host, freed)):
            pass
        return sorted(set(freed))

    async def release_address(
        self, address: Network, *, handle_id: str | None = None, sequence: int | None = None
    ) -> bool:
        """Free one address, whoever holds it; False if it was free.

        Args:
            handle_id: only if this handle holds it.
            sequence: only if it was assigned at this sequence number.

        Raises:
            Conflict: it is not as `handle_id` and `sequence` say; not released.
        """
        return await self._in_turn(lambda: self._try_release_address(address, handle_id, sequence))

    async def _in_turn(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Try until no compare is lost; the outcome of a lost answer is read anew."""
        async with self._turn:
            unknown = 0
            lost = ""
            for count in range(ATTEMPTS):
                try:
                    return await attempt()
                except _LostCompare as error:
                    lost = str(error)
                except Unavailable as error:
                    unknown += 1
                    if not error.maybe_applied or unknown >= UNKNOWN_ATTEMPTS:
                        raise
                if count:
                    longest = min(0.001 * 2 ** min(count, 6), _LONGEST_PAUSE_SECONDS)
                    await asyncio.sleep(random.random() * longest)  # noqa: S311 - jitter
            raise Conflict(f"gave up after {ATTEMPTS} attempts: {lost}")

    async def _commit(self, change: Change) -> None:
        try:
            await change.commit(self._client)
        except Conflict as error:
            raise _LostCompare(str(error)) from error

    async def _held(self, handle_id: str) -> "_Held":
        [held] = await self._held_by([handle_id])
        for found in (held.handle, held.config):
            if found.problem:
                raise InvalidInput(found.problem)
        return held

    async def _held_by(self, handle_ids: Sequence[str]) -> "list[_Held]":
        """What each of them names, as read at one moment or nearly."""
        keys = [HandleKey(handle_id) for handle_id in handle_ids]
        config_entry, *entries = await read(self._client, [IPAMConfigKey(), *keys])
        config = stored(IPAMConfigKey(), IPAMConfig, config_entry)
        handles = [stored(key, Handle, entry) for key, entry in zip(keys, entries, strict=True)]
        wanted = {key for handle in handles for key in _block_keys(handle)}
        ordered = sorted(wanted)
        found = await read_kind(self._client, ordered, Block) if ordered else []
        by_key = dict(zip(ordered, found, strict=True))
        return [
            _Held(handle, config, [by_key[key] for key in _block_keys(handle)])
            for handle in handles
        ]

    async def _serve(self, mine: "_Assignment") -> None:
        """Assign to those who wait, as many as fit into one transaction.

        Nothing if `mine` was served while it waited for its turn: whoever came since then
        waits for a turn of their own, and more come meanwhile to share it.

        What one of them gets depends on what those before it get; so nobody is told anything,
        not even a failure, before all of it is written.
        """
        if mine.outcome.done():
            return
        batch = _first_of_each_handle(self._waiting)
        several = await self._held_by([item.handle_id for item in batch])
        config = several[0].config
        choice = await Choice.read(self._client, self._host, config, self._now_ns())
        change = Change()
        change.rest_on(config)
        decided: list[tuple[_Assignment, list[Network] | TortieError]] = []
        for item, held in zip(batch, several, strict=True):
            if change.size > _COMPARES_BEFORE_LAST:
                break
            try:
                decided.append((item, await self._decide(item, held, choice, change)))
            except Unavailable as error:
                if not isinstance(error, PoolExhausted):
                    raise
                decided.append((item, error))
            except (InvalidInput, AlreadyExists) as error:
                decided.append((item, error))
        if change.writes:
            await self._commit(change)
        for item, outcome in decided:
            if item.outcome.done():
                continue
            if isinstance(outcome, TortieError):
                item.outcome.set_exception(outcome)
                item.outcome.exception()  # its caller may be gone; nobody has to ask
            else:
                item.outcome.set_result(outcome)

    async def _decide(
        self, item: "_Assignment", held: "_Held", choice: Choice, change: Change
    ) -> list[Network]:
        """What one gets, added to the transaction; nothing is added when this raises."""
        handle_id, wanted = item.handle_id, item.wanted
        for found in (held.handle, held.config):
            if found.problem:
                raise InvalidInput(found.problem)
        for block in held.blocks:
            _refuse_damaged(block)
        mine = {address: found for found in held.blocks for address in held_in(found, handle_id)}
        missing = _missing(wanted, mine.keys(), handle_id)
        if not missing.families:
            self._rehome(held, mine, wanted.attribute, choice, change)
            return sorted(mine)
        counts = dict(held.handle.value.block) if held.handle.value else {}
        taken = []
        parts = []
        for source in await choice.sources(missing):
            after, addresses = source.taken(wanted.attribute)
            parts.append((source, after))
            counts[after.cidr] = counts.get(after.cidr, 0) + len(addresses)
            taken += addresses
        for source, after in parts:
            source.write(change, after)
            choice.took(source, after)
        change.write(held.handle, replace(held.handle.value or Handle(), block=counts))
        return sorted([*mine, *taken])

    def _rehome(
        self,
        held: "_Held",
        mine: Mapping[Network, Stored[Block]],
        attribute: Attribute,
        choice: Choice,
        change: Change,
    ) -> None:
        """Same addresses, other host: change only who the attributes say holds them."""
        moved = False
        for found in held.blocks:
            if found.value is None:
                continue
            here = [address for address, where in mine.items() if where is found]
            if any(_node(found.value, address) != self._host for address in here):
                known = choice.known(found)
                if known.value is None:
                    continue
                after = blocks.reattribute(choice.current(known), here, attribute)
                change.write(known, after)
                choice.changed(known, after)
                moved = True
        if moved:
            change.rest_on(held.handle)

    async def _try_release(self, handle_id: str, only_host: bool, freed: list[Network]) -> bool:
        """One transaction's worth; True if there is more to release."""
        held = await self._held(handle_id)
        if held.handle.value is None:
            return False
        change = Change()
        counts = dict(held.handle.value.block)
        cooldown = held.config.value.ip_cooldown_seconds if held.config.value else 0
        damaged, released = [], []
        for found in held.blocks[:BLOCKS_PER_RELEASE]:
            if problem := damage(found):
                damaged.append(problem)
                continue
            here = held_in(found, handle_id)
            gone = [a for a in here if not only_host or self._is_ours(found.value, a)]
            self._free(change, found, gone, cooldown)
            released += gone
            _set_count(counts, found.key, len(here) - len(gone))
        if counts != held.handle.value.block:
            value = replace(held.handle.value, block=counts) if counts else None
            change.write(held.handle, value)
            # Before the commit: if its answer is lost, the next look finds nothing to free.
            freed += released
            await self._commit(change)
            return len(held.blocks) > BLOCKS_PER_RELEASE
        if damaged:
            raise InvalidInput("; ".join(damaged))
        return False

    async def _try_release_address(
        self, address: Network, handle_id: str | None, sequence: int | None
    ) -> bool:
        existing = await list_blocks(self._client, address.family)
        cidr = next((cidr for cidr in existing if cidr.contains(address)), None)
        if cidr is None:
            return False
        config, found = await self._config_and_block(BlockKey(cidr))
        if found.value is None:
            return False
        _refuse_damaged(found)
        owner = blocks.holder(found.value, address)
        _, gone = blocks.release(found.value, [address], handle_id=handle_id, sequence=sequence)
        if not gone:
            return False
        change = Change()
        self._free(change, found, gone, config.ip_cooldown_seconds)
        if owner is not None and owner.handle_id is not None:
            key = HandleKey(owner.handle_id)
            [handle] = await read_kind(self._client, [key], Handle)
            if handle.value is not None:
                counts = dict(handle.value.block)
                _set_count(counts, found.key, len(held_in(found, owner.handle_id)) - 1)
                change.write(handle, replace(handle.value, block=counts) if counts else None)
        await self._commit(change)
        return True

    async def _config_and_block(self, key: BlockKey) -> tuple[IPAMConfig, Stored[Block]]:
        config_entry, block_entry = await read(self._client, [IPAMConfigKey(), key])
        config = stored(IPAMConfigKey(), IPAMConfig, config_entry)
        return config.value or IPAMConfig(), stored(key, Block, block_entry)

    def _free(
        self, change: Change, found: Stored[Block], gone: Iterable[Network], cooldown_seconds: int
    ) -> None:
        assert found.value is not None
        released_at = blocks.rfc3339(self._now_ns()) if cooldown_seconds else None
        after, released = blocks.release(found.value, gone, released_at=released_at)
        change.rest_on(found)
        if released:
            unused = blocks.is_empty(after) and after.affinity is None
            change.write(found, None if unused else after)

    def _is_ours(self, block: Block | None, address: Network) -> bool:
        return block is not None and _node(block, address) in (self._host, None)


class _Assignment(NamedTuple):
    """One call that waits for its addresses."""

    handle_id: str
    wanted: Request
    outcome: "asyncio.Future[list[Network]]"


class _LostCompare(Exception):
    """A compare of our transaction failed; unlike `Conflict`, never the caller's business."""


class _Held(NamedTuple):
    """What a handle names, as read at one moment or nearly."""

    handle: Stored[Handle]
    config: Stored[IPAMConfig]
    blocks: list[Stored[Block]]


def check_handle(handle_id: str) -> None:
    """
    Raises:
        InvalidInput: empty, too long, or with control characters, which other
            tools strip or choke on.
    """
    size = len(handle_id.encode())
    if not 0 < size <= HANDLE_MAX_BYTES or not handle_id.isprintable():
        raise InvalidInput(
            f"{handle_id[:80]!r} cannot be an IPAM handle: 1 to {HANDLE_MAX_BYTES} "
            "printable characters are needed"
        )


def _first_of_each_handle(waiting: Iterable[_Assignment]) -> list[_Assignment]:
    """Whom one transaction may serve; a handle twice would write its record twice."""
    found: dict[str, _Assignment] = {}
    for item in waiting:
        if not item.outcome.done() and len(found) < BATCH_SIZE:
            found.setdefault(item.handle_id, item)
    return list(found.values())


def _block_keys(handle: Stored[Handle]) -> list[BlockKey]:
    cidrs = handle.value.block if handle.value else {}
    return [BlockKey(parse_network(cidr, strict=True)) for cidr in cidrs]


def held_in(found: Stored[Block], handle_id: str) -> list[Network]:
    return blocks.held_by(found.value, handle_id) if found.value else []


def damage(found: Stored[Block]) -> str:
    """Why a block is unusable; empty if it is sound or absent."""
    if found.problem or found.value is None:
        return found.problem
    problems = blocks.problems(found.value)
    return f"block {found.value.cidr}: {', '.join(problems)}" if problems else ""


def _refuse_damaged(found: Stored[Block]) -> None:
    if problem := damage(found):
        raise InvalidInput(f"{problem}; run an IPAM check, and repair or delete the block")


def _missing(wanted: Request, mine: Collection[Network], handle_id: str) -> Request:
    """The part of a request that the handle does not hold yet."""
    has = {address.family: address for address in mine}
    for address in wanted.addresses:
        if address not in mine and address.family in has:
            raise AlreadyExists(
                f"handle {handle_id!r} holds {has[address.family].address_text}, not "
                f"{address.address_text}; remove the workload first, or do not ask for an address"
            )
    return wanted._replace(
        families=wanted.families - has.keys(),
        addresses=tuple(a for a in wanted.addresses if a not in mine),
    )


def _node(block: Block, address: Network) -> str | None:
    owner = blocks.holder(block, address)
    return (owner.secondary or {}).get("node") if owner else None


def _set_count(counts: dict[str, int], key: object, count: int) -> None:
    """Write a handle's count for one block, under whatever spelling of it is there."""
    assert isinstance(key, BlockKey)
    name = next((c for c in counts if parse_network(c) == key.cidr), str(key.cidr))
    counts.pop(name, None)
    if count:
        counts[name] = count
