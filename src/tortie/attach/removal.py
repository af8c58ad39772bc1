"""Taking workloads out: Remove's steps, the undoing of an Add, and what a crash left.

    endpoint gone → enforced? → veth gone → addresses free → journal gone

Remove takes an address away only when this host no longer routes or protects it: nobody else
may get it while the kernel still delivers it here. What cannot be done now (the datastore is
away, or locked by `datastoreReady`) stays in the journal as *removing*; `replay` finishes it.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from msgspec.structs import replace

from tortie.attach.endpoint import key_of
from tortie.attach.journal import Entry, Journal
from tortie.attach.plumbing import Plumbing
from tortie.attach.requests import Removed, WorkloadKey
from tortie.attach.turns import Turns, in_thread
from tortie.datastore.client import Client
from tortie.ipam.allocator import Allocator
from tortie.ipam.stored import read, stored
from tortie.lib.errors import AlreadyExists, InvalidInput, NotFound, TortieError, Unavailable
from tortie.lib.ip import parse_network
from tortie.model.endpoint import WorkloadEndpoint
from tortie.model.keys import ResourceKey, parse_key

log = logging.getLogger(__name__)

WaitProgrammed = Callable[[int, float], Awaitable[None]]
"""Wait until a datastore revision is enforced on this host, at most so many seconds.

Raises `Unavailable` when it is not in time.
"""

UNDO_SECONDS = 10.0
"""For undoing a failed Add while its caller waits; the rest is left to `replay`."""

REPLAY_SECONDS = (1.0, 60.0)
"""Pause between attempts to finish what is pending: the first, and the longest."""


class Removal:
    """Every way out; the attacher's other half."""

    def __init__(
        self,
        host: str,
        client: Client,
        allocator: Allocator,
        plumbing: Plumbing,
        journal: Journal,
        wait_programmed: WaitProgrammed,
        turns: Turns,
        check_ready: Callable[[], Awaitable[None]],
    ) -> None:
        """
        Args:
            check_ready: raises `Unavailable` while nobody is to write.
        """
        self._host = host
        self._check_ready = check_ready
        self._client = client
        self._allocator = allocator
        self._plumbing = plumbing
        self._journal = journal
        self._wait_programmed = wait_programmed
        self._turns = turns
        self._pending = asyncio.Event()

    def resume(self) -> None:
        """Something is half-done: have `replay` look."""
        self._pending.set()

    async def take_out(
        self, entry: Entry, answered: "asyncio.Future[Removed] | None" = None
    ) -> None:
        """Every step of Remove, whatever of it is there.

        Args:
            answered: told as soon as the endpoint is gone from the datastore and the rest is
                sure to be done: closing the interface, cutting its connections (the kernel
                takes 20 ms to look through a large table), freeing the addresses and deleting
                the link (another 22) are nothing to wait for when a container ends.

        Raises:
            TortieError: the datastore is away, or not ready (what is written while it is locked
                would be lost when it moves): the rest is for later.
        """
        await self._check_ready()
        if answered is None:
            revision = await self._delete_endpoint(entry)
        else:
            revision, _ = await asyncio.gather(
                self._delete_endpoint(entry), in_thread(self._journal.sync, entry.key)
            )
            answered.set_result(Removed(found=True))
        if revision:
            await self._wait_programmed(revision, UNDO_SECONDS)
        if answered is None:
            await self._disconnect(entry)
        elsewhere = await self._elsewhere(entry) if entry.ipam and entry.moved else None
        if elsewhere is not None and elsewhere.spec.ip_networks:
            await self._give_back(entry, elsewhere)
        elif entry.ipam and not entry.keep_addresses:
            await self._allocator.release(entry.handle_id, only_host=True)
        if answered is not None:
            await self._disconnect(entry)
        # In a thread: a file system that is writing makes even this wait.
        await in_thread(self._journal.forget, entry.key)

    async def _elsewhere(self, entry: Entry) -> WorkloadEndpoint | None:
        """The same workload on another host: a move that came to nothing ends where it began."""
        own = key_of(entry)
        listing = await self._client.list(f"{own.path.rpartition('/')[0]}/", keys_only=True)
        # A name is `<host>-<orchestrator>-<workload>-<endpoint>`, a dash in each of them doubled.
        end = entry.endpoint_name.removeprefix(f"{self._host.replace('-', '--')}-")
        for found in listing.entries:
            key = parse_key(found.key)
            if not (isinstance(key, ResourceKey) and key.name.endswith(f"-{end}")) or key == own:
                continue
            [present] = await read(self._client, [key])
            other = stored(key, WorkloadEndpoint, present).value
            if other is not None and _workload_of(other) == entry.key:
                return other
        return None

    async def _give_back(self, entry: Entry, elsewhere: WorkloadEndpoint) -> None:
        """Have IPAM know its addresses as the other host's, which it would else never release."""
        addresses = [parse_network(text) for text in elsewhere.spec.ip_networks]
        own = {address.address_text for address in addresses}
        log.info("%s: %s stay with it on %s", entry.key, ", ".join(own), elsewhere.spec.node)
        try:
            await Allocator(self._client, elsewhere.spec.node).assign(
                {address.family for address in addresses},
                entry.handle_id,
                {"namespace": entry.key.namespace, "pod": entry.key.workload},
                requested=addresses,
            )
        except (AlreadyExists, InvalidInput) as error:  # nor would it ever be otherwise
            log.warning("%s: IPAM knows them as somebody else's: %s", entry.key, error)

    def record(self, entry: Entry) -> bool:
        """Whether it can be finished later. Removing must work on a full disk, too."""
        try:
            self._journal.note(entry)
        except Unavailable as error:
            log.warning("%s: removing it without a record: %s", entry.key, error)
            return False
        return True

    async def postpone(self, entry: Entry, error: Exception) -> None:
        """Leave the rest to `replay`, but the link: without it no packet passes.

        Raises:
            TortieError: not even that; it is tried again, too.
        """
        log.warning("%s: taking it out goes on later: %s", entry.key, error or "it takes long")
        self._pending.set()
        with contextlib.suppress(Unavailable):  # no record is worse than one that may be lost
            await in_thread(self._journal.sync, entry.key)
        await self._disconnect(entry)

    async def undo(self, key: WorkloadKey) -> None:
        """Take out what an Add has begun."""
        entry = self._journal.get(key)
        if entry is None:
            return
        entry = replace(entry, phase="removing")
        try:
            async with asyncio.timeout(UNDO_SECONDS):
                self._journal.note(entry)
                await self.take_out(entry)
        except (TimeoutError, TortieError) as error:
            await self.postpone(entry, error)

    async def replay(self) -> None:
        """Finish what a crash or an absent datastore left half-done, for ever."""
        self._pending.set()
        pause = REPLAY_SECONDS[0]
        while True:
            await self._pending.wait()
            self._pending.clear()
            if await self.recover():
                pause = REPLAY_SECONDS[0]
                continue
            await asyncio.sleep(pause)
            pause = min(pause * 2, REPLAY_SECONDS[1])
            self._pending.set()

    async def recover(self) -> bool:
        """One attempt at everything half-done; False if some of it is still to do."""
        done = True
        for entry in self._journal.entries:
            if entry.phase == "attached":
                continue
            async with self._turns.of(entry.key):
                current = self._journal.get(entry.key)
                if current is None or current.phase == "attached":
                    continue  # an Add or a Remove came first
                try:
                    await self.take_out(current)
                except TortieError as error:
                    log.warning("%s: cannot be cleaned up yet: %s", entry.key, error)
                    done = False
        return done

    async def _disconnect(self, entry: Entry) -> None:
        """An interface that others made stays; without an endpoint no packet passes it."""
        if entry.device != "existing":
            await self._plumbing.disconnect(entry.interface, entry.device)

    async def _delete_endpoint(self, entry: Entry) -> int:
        """The revision of the deletion; 0 if it was not there."""
        try:
            return await self._client.delete(key_of(entry).path)
        except NotFound:
            return 0


def _workload_of(endpoint: WorkloadEndpoint) -> WorkloadKey:
    spec = endpoint.spec
    return WorkloadKey(endpoint.metadata.namespace, spec.orchestrator, spec.workload, spec.endpoint)
