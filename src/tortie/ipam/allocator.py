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

Between two transactions an allocator may keep what it last saw of pools, blocks and affinities
(`unchanged`): then an assignment costs one transaction and no read. What it decides on is
compared like anything else, so an old view costs a second try and never an address; and a
refusal is told only from a fresh one.

Every write of ours compares the host's Node, too: a host that was declared dead (its Node
deleted, its addresses given to others) gets nothing on what it knew before, not even by
borrowing, where there is no affinity to compare.

Source: Calico, libcalico-go/lib/ipam/ipam.go, design/ipam.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from msgspec.structs import replace

from tortie.datastore.client import Client
from tortie.datastore.resources import Write
from tortie.ipam import block as blocks
from tortie.ipam.choice import Choice, PoolExhausted
from tortie.ipam.holdings import (
    Held,
    block_keys,
    check_handle,
    damage,
    held_in,
    missing,
    node_of,
    refuse_damaged,
    set_count,
)
from tortie.ipam.source import Request
from tortie.ipam.stored import Change, Stored, list_blocks, read, read_kind, stored
from tortie.lib.errors import AlreadyExists, Conflict, InvalidInput, TortieError, Unavailable
from tortie.lib.ip import Network
from tortie.model.ipam import Attribute, Block, Handle, IPAMConfig
from tortie.model.keys import BlockKey, HandleKey, IPAMConfigKey

T = TypeVar("T")

Unchanged = Callable[[], object]
"""What it answers is equal as long as no pool, reservation, profile or Node has changed; None:
nobody knows. Kept by whoever watches the datastore anyway."""

VIEW_SECONDS = 10.0
"""How long a view is kept at most, whatever a watch says."""

ATTEMPTS = 100
"""Lost compares in a row before giving up. Source: Calico, datastoreRetries."""

UNKNOWN_ATTEMPTS = 3
"""Lost answers in a row before giving up: the datastore is away then."""

BLOCKS_PER_RELEASE = 60
"""Blocks in one transaction, of etcd's 128 operations and 1.5 MiB."""

BATCH_SIZE = 32
"""Assignments in one transaction."""
_COMPARES_BEFORE_LAST = 100
"""One more assignment adds at most 13 (two families: block, affinity, pool; handle, mark; what
is created beside it)."""

_LONGEST_PAUSE_SECONDS = 0.05


class HandleExists(AlreadyExists):
    """The handle was to be new, and holds addresses."""


class Beside:
    """What is to be created in the transaction of an assignment.

    It may come to nothing while the assignment does not: after a lost compare (it may have been
    there already) or a lost answer.
    """

    def __init__(self, prepare: "Callable[[list[Network]], Awaitable[Write[Any] | None]]") -> None:
        """
        Args:
            prepare: given the addresses: what to write, or None for nothing. What it raises is
                the outcome of the assignment; nothing is written then. All who want an address
                of this host wait for it.
        """
        self.prepare = prepare
        self.revision = 0
        """At which it was written; 0: it was not."""


class Allocator:
    """Assigns and releases addresses on behalf of `host`; one event loop only.

    Calls of one allocator wait for one another, so a host does not lose
    compares to itself; other processes on the host may have their own.
    Assignments that queue meanwhile are served together, in one transaction.

    Args:
        virtual: `host` is none, but something like the load balancer.
    """

    def __init__(
        self,
        client: Client,
        host: str,
        *,
        now_ns: Callable[[], int] = time.time_ns,
        unchanged: Unchanged = lambda: None,
        virtual: bool = False,
    ) -> None:
        self._client = client
        self._host = host
        self._virtual = virtual
        self._node = {} if virtual else {"node": host}
        self._now_ns = now_ns
        self._unchanged = unchanged
        self._turn = asyncio.Lock()
        self._waiting: list[_Assignment] = []
        self._view: _View | None = None

    async def assign(
        self,
        families: Collection[int],
        handle_id: str,
        attributes: Mapping[str, str],
        *,
        requested: Collection[Network] = (),
        pools: Collection[str] = (),
        use: str = "Workload",
        handle: Stored[Handle] | None = None,
        is_new: bool = False,
        beside: Beside | None = None,
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
            handle: as the caller has just read it, or believes it to be, which saves reading it.
            is_new: only if the handle holds nothing yet.
            beside: is created in the same transaction, if it is to be.

        Returns:
            All that the handle holds afterwards, IPv4 first.

        Raises:
            InvalidInput: no pool serves this host, an address is in no pool
                or may not be borrowed, or the handle is malformed.
            AlreadyExists: a requested address is taken, or the handle holds
                another one of its family.
            HandleExists: `is_new`, and the handle holds something.
            PoolExhausted: nothing is free.
            Conflict: others were faster `ATTEMPTS` times.
            Unavailable: the datastore is away. Call again with the same handle.
        """
        check_handle(handle_id)
        wanted = Request(
            families=frozenset(families) | {address.family for address in requested},
            addresses=tuple(dict.fromkeys(requested)),
            attribute=Attribute(handle_id=handle_id, secondary={**attributes, **self._node}),
            pools=frozenset(pools),
            use=use,
        )
        if not wanted.families or not wanted.families <= {4, 6}:
            raise InvalidInput(f"families are 4, 6 or both, not {sorted(wanted.families)}")
        mine = _Assignment(handle_id, wanted, handle, is_new, beside)
        self._waiting.append(mine)
        try:
            # Whoever has the turn serves everybody who waits.
            while not mine.outcome.done():
                await self._in_turn(lambda: self._serve(mine))
            return mine.outcome.result()
        except asyncio.CancelledError:
            # Whoever serves us now uses what our caller holds open, and may write for us yet.
            mine.outcome.cancel()
            async with self._turn:
                raise
        finally:
            self._waiting.remove(mine)

    async def addresses_of(self, handle_id: str) -> list[Network]:
        """What a handle holds, IPv4 first; empty if nothing."""
        [held] = await self._held_by([handle_id])
        held.check()
        return sorted(held.addresses(handle_id))

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

    async def _commit(self, change: Change) -> int:
        """Write it, and see it written in the view that is kept; returns its revision."""
        view, self._view = self._view, None  # until it is known to be right
        try:
            revision = await change.commit(self._client)
        except Conflict as error:
            raise _LostCompare(str(error)) from error
        if view is not None:
            view.choice.settle(change.written(revision))
            self._view = view
        return revision

    async def _look(self) -> "tuple[_View, bool]":
        """What is known of pools and of this host, and whether it was read just now."""
        view, token = self._view, self._unchanged()
        now = time.monotonic()
        if view is not None and view.token == token and now - view.read_at < VIEW_SECONDS:
            view.choice.renew(self._now_ns())
            return view, False
        choice = await Choice.read(self._client, self._host, self._now_ns(), virtual=self._virtual)
        return _View(choice, token, now), True

    async def _held_by(self, handle_ids: Sequence[str]) -> list[Held]:
        """What each of them names, as read at one moment or nearly."""
        handles = await read_kind(self._client, [HandleKey(name) for name in handle_ids], Handle)
        wanted = sorted({key for handle in handles for key in block_keys(handle)})
        found = await read_kind(self._client, wanted, Block) if wanted else []
        by_key = dict(zip(wanted, found, strict=True))
        return [Held(handle, [by_key[key] for key in block_keys(handle)]) for handle in handles]

    async def _held_by_all(self, batch: "Sequence[_Assignment]") -> list[Held]:
        """The same for those who wait; what they have read themselves is believed once."""
        known: dict[str, Held] = {}
        for item in batch:
            hint, item.handle = item.handle, None
            if hint is not None and hint.entry is None:
                known[item.handle_id] = Held(hint, [])
        unknown = [item.handle_id for item in batch if item.handle_id not in known]
        if unknown:
            known |= dict(zip(unknown, await self._held_by(unknown), strict=True))
        return [known[item.handle_id] for item in batch]

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
        (view, is_fresh), several = await asyncio.gather(self._look(), self._held_by_all(batch))
        choice, change = view.choice, Change()
        decided: list[tuple[_Assignment, list[Network] | TortieError]] = []
        for item, held in zip(batch, several, strict=True):
            if change.size > _COMPARES_BEFORE_LAST:
                break
            if item.outcome.done():  # it has been given up meanwhile
                continue
            outcome = await self._outcome(item, held, choice, change)
            if isinstance(outcome, TortieError) and not is_fresh:
                self._view = None
                raise _LostCompare(f"not by a view of {VIEW_SECONDS:g} s: {outcome}")
            decided.append((item, outcome))
        self._view = view if view.token is not None else None
        if change.writes:
            change.rest_on(choice.config, choice.node)
            try:
                revision = await self._commit(change)
            except _LostCompare:
                for item, _ in decided:
                    item.beside = None  # it may be that which is there
                raise
            except (Unavailable, asyncio.CancelledError):
                for item, _ in decided:
                    item.is_new = False  # what its handle holds by the next look is of this try
                    item.beside = None
                raise
            for item, _ in decided:
                item.note_written(revision)
        for item, outcome in decided:
            item.tell(outcome)

    async def _outcome(
        self, item: "_Assignment", held: Held, choice: Choice, change: Change
    ) -> list[Network] | TortieError:
        try:
            return await self._decide(item, held, choice, change)
        except PoolExhausted as error:
            return error
        except (InvalidInput, AlreadyExists) as error:
            return error

    async def _decide(
        self, item: "_Assignment", held: Held, choice: Choice, change: Change
    ) -> list[Network] | TortieError:
        """What one gets, added to the transaction; nothing is added when it gets an error."""
        handle_id, wanted = item.handle_id, item.wanted
        item.is_beside_in = False
        held.check()
        if choice.config.problem:
            raise InvalidInput(choice.config.problem)
        mine = held.addresses(handle_id)
        if item.is_new and mine:
            raise HandleExists(f"handle {handle_id} holds addresses already")
        lacking = missing(wanted, mine.keys(), handle_id)
        if not lacking.families:
            self._rehome(held, mine, wanted.attribute, choice, change)
            return sorted(mine)
        counts = dict(held.handle.value.block) if held.handle.value else {}
        taken = []
        parts = []
        for source in await choice.sources(lacking):
            after, addresses = source.taken(wanted.attribute)
            parts.append((source, after))
            counts[after.cidr] = counts.get(after.cidr, 0) + len(addresses)
            taken += addresses
        given = sorted([*mine, *taken])
        if item.beside is not None:
            try:
                other = await item.beside.prepare(given)
            except TortieError as error:
                return error
            if other is not None:
                change.take_along(other)
                item.is_beside_in = True
        for source, after in parts:
            source.write(change, after)
            choice.took(source, after)
        change.write(held.handle, replace(held.handle.value or Handle(), block=counts))
        # What it has is of one host: else no agent could say that all of it has leaked.
        self._rehome(held, mine, wanted.attribute, choice, change)
        return given

    def _rehome(
        self,
        held: Held,
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
            if any(node_of(found.value, address) != self._node.get("node") for address in here):
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
        config, held = await self._config_and_held(handle_id)
        if held.handle.value is None:
            return False
        change = Change()
        counts = dict(held.handle.value.block)
        damaged, released = [], []
        for found in held.blocks[:BLOCKS_PER_RELEASE]:
            if problem := damage(found):
                damaged.append(problem)
                continue
            here = held_in(found, handle_id)
            gone = [a for a in here if not only_host or self._is_ours(found.value, a)]
            self._free(change, found, gone, config.ip_cooldown_seconds)
            released += gone
            set_count(counts, found.key, len(here) - len(gone))
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
        refuse_damaged(found)
        if found.value is None:
            return False
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
                set_count(counts, found.key, len(held_in(found, owner.handle_id)) - 1)
                change.write(handle, replace(handle.value, block=counts) if counts else None)
        await self._commit(change)
        return True

    async def _config_and_held(self, handle_id: str) -> tuple[IPAMConfig, Held]:
        """
        Raises:
            InvalidInput: one of the two cannot be read.
        """
        key = HandleKey(handle_id)
        config_entry, handle_entry = await read(self._client, [IPAMConfigKey(), key])
        config = stored(IPAMConfigKey(), IPAMConfig, config_entry)
        handle = stored(key, Handle, handle_entry)
        for found in (config, handle):
            if found.problem:
                raise InvalidInput(found.problem)
        keys = block_keys(handle)
        view = self._view
        held = view.choice.seen(keys) if view else None
        if held is None:
            held = await read_kind(self._client, keys, Block) if keys else []
        return config.value or IPAMConfig(), Held(handle, held)

    async def _config_and_block(self, key: BlockKey) -> tuple[IPAMConfig, Stored[Block]]:
        config_entry, block_entry = await read(self._client, [IPAMConfigKey(), key])
        config = stored(IPAMConfigKey(), IPAMConfig, config_entry)
        return config.value or IPAMConfig(), stored(key, Block, block_entry)

    def _free(
        self, change: Change, found: Stored[Block], gone: Iterable[Network], cooldown_seconds: int
    ) -> None:
        change.rest_on(found)
        if found.value is None:
            return  # gone, and what it held with it
        released_at = blocks.rfc3339(self._now_ns()) if cooldown_seconds else None
        after, released = blocks.release(found.value, gone, released_at=released_at)
        if released:
            unused = blocks.is_empty(after) and after.affinity is None
            change.write(found, None if unused else after)

    def _is_ours(self, block: Block | None, address: Network) -> bool:
        return block is not None and node_of(block, address) in (self._host, None)


class _Assignment:
    """One call that waits for its addresses."""

    def __init__(
        self,
        handle_id: str,
        wanted: Request,
        handle: Stored[Handle] | None,
        is_new: bool,
        beside: Beside | None,
    ) -> None:
        self.handle_id = handle_id
        self.is_new = is_new
        self.beside = beside
        self.wanted = wanted
        self.handle = handle
        """As its caller has read it; None: not, or it was of no use."""
        self.is_beside_in = False
        """Is `beside` in the transaction that is being made?"""
        self.outcome: asyncio.Future[list[Network]] = asyncio.get_running_loop().create_future()

    def note_written(self, revision: int) -> None:
        if self.beside is not None and self.is_beside_in:
            self.beside.revision = revision

    def tell(self, outcome: list[Network] | TortieError) -> None:
        if self.outcome.done():
            return
        if isinstance(outcome, TortieError):
            self.outcome.set_exception(outcome)
            self.outcome.exception()  # its caller may be gone; nobody has to ask
        else:
            self.outcome.set_result(outcome)


class _View(NamedTuple):
    """A look at the datastore that may serve more than one transaction."""

    choice: Choice
    token: object
    """Of `unchanged`, before it was read."""
    read_at: float
    """Monotonic seconds."""


class _LostCompare(Exception):
    """A compare of our transaction failed; unlike `Conflict`, never the caller's business."""


def _first_of_each_handle(waiting: Iterable[_Assignment]) -> list[_Assignment]:
    """Whom one transaction may serve; a handle twice would write its record twice."""
    found: dict[str, _Assignment] = {}
    for item in waiting:
        if not item.outcome.done() and len(found) < BATCH_SIZE:
            found.setdefault(item.handle_id, item)
    return list(found.values())
