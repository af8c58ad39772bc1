"""Add, Remove and Check of workloads: the order of steps, and what happens when one fails.

    Add     journal → addresses → veth → endpoint → enforced? → journal → answer
    Remove  journal → endpoint gone → enforced? → veth gone → addresses free → journal gone

Each step may be repeated, so Add and Remove may be. When a step of Add fails,
Remove's steps undo it (`removal`). After a crash the journal says what was
under way, so recovery is finishing that, too.

An Add of what is already attached completes what is missing and never undoes.
Addresses that the handle held before Add began (a workload that moves here)
are kept when it fails.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable

from msgspec.structs import replace

from tortie.attach.addition import Addition, Settings
from tortie.attach.endpoint import attached, key_of
from tortie.attach.journal import Entry, Journal
from tortie.attach.plumbing import Plumbing, Wanted
from tortie.attach.removal import UNDO_SECONDS, Removal, WaitProgrammed
from tortie.attach.requests import (
    Add,
    Attached,
    Check,
    Checked,
    Listed,
    Remove,
    Removed,
    WorkloadKey,
)
from tortie.attach.turns import Steps, Turns
from tortie.datastore.client import Client
from tortie.datastore.resources import Resources
from tortie.ipam.allocator import Allocator
from tortie.ipam.ownership import Collector, release_empty_blocks
from tortie.lib.errors import InvalidInput, NotFound, TortieError, Unavailable
from tortie.lib.ip import parse_address
from tortie.model.endpoint import WorkloadEndpoint

log = logging.getLogger(__name__)

TIDY_SECONDS = 300.0
"""Between looks for leaks; what the second of two in a row still sees is released."""


class Attacher:
    """Brings workloads in and takes them out; one event loop only."""

    def __init__(
        self,
        settings: Settings,
        client: Client,
        plumbing: Plumbing,
        journal: Journal,
        wait_programmed: WaitProgrammed,
        allocator: Allocator | None = None,
        is_ready: Callable[[], bool] = lambda: False,
    ) -> None:
        """
        Args:
            allocator: the host's, if it has one already.
            is_ready: is the datastore known to be there and ready, by whoever watches it?
        """
        self._settings = settings
        self._client = client
        self._resources = Resources(client)
        self._allocator = allocator or Allocator(client, settings.host)
        self._plumbing = plumbing
        self._journal = journal
        self._wait_programmed = wait_programmed
        self._turns = Turns()
        self._addition = Addition(
            settings,
            client,
            self._allocator,
            plumbing,
            journal,
            wait_programmed,
            self._turns,
            is_ready,
        )
        self._is_ready = is_ready
        self._removal = Removal(
            settings.host,
            client,
            self._allocator,
            plumbing,
            journal,
            wait_programmed,
            self._turns,
            self.check_ready,
        )
        self._finishing: set[asyncio.Task[Removed]] = set()
        """Removals that have been answered, and whose links are being deleted."""

    @property
    def host(self) -> str:
        return self._settings.host

    @property
    def interface_prefix(self) -> str:
        return self._settings.interface_prefix

    @property
    def allocator(self) -> Allocator:
        """The host's only one: whoever needs addresses without a workload uses it, too."""
        return self._allocator

    @property
    def entries(self) -> list[Entry]:
        """All that is attached, or being so, or going, by key."""
        return self._journal.entries

    def entry_of(self, container_id: str, endpoint: str) -> Entry | None:
        """What is recorded of one interface of a container."""
        for entry in self._journal.unordered:
            if (entry.container_id, entry.key.endpoint) == (container_id, endpoint):
                return entry
        return None

    async def check_ready(self) -> None:
        """
        Raises:
            Unavailable: the datastore is away, or says that it is not ready.
        """
        if not self._is_ready():
            await self._addition.check_ready()

    async def add(self, request: Add) -> Attached:
        """
        Raises:
            InvalidInput: the request cannot be fulfilled as it is.
            AlreadyExists: an address, or an interface's name, is taken.
            Unavailable: the datastore is away or not ready, or enforcing it
                took too long. The same call may succeed later.
        """
        steps = Steps()
        async with self._turns.of(request.key):
            before = self._journal.get(request.key)
            endpoint = self._addition.endpoint(request)
            try:
                async with asyncio.timeout(request.timeout_seconds):
                    if before is not None and _is_another(before, request.container_id):
                        await self._replace(before)
                        before = None
                    return await self._addition.bring_in(request, endpoint, before, steps)
            except TimeoutError:
                failure: TortieError = Unavailable(
                    f"{request.key} is not attached after {request.timeout_seconds:g} s "
                    f"(done: {', '.join(steps.seconds) or 'nothing'})"
                )
            except TortieError as error:
                failure = error
            except BaseException:
                self._removal.resume()  # whatever this is, the journal knows what was begun
                raise
            # Only what this Add began; what a finished one made stays.
            if before is None or before.phase != "attached":
                await self._removal.undo(request.key)
            raise failure

    async def remove(self, request: Remove) -> Removed:
        """
        Raises:
            TortieError: the link could not be deleted; call again.
        """
        if request.wait_for_link:
            return await self._remove(request, None)
        answered: asyncio.Future[Removed] = asyncio.get_running_loop().create_future()
        work = asyncio.create_task(self._remove(request, answered))
        self._finishing.add(work)
        work.add_done_callback(self._on_finished)
        await asyncio.wait({work, answered}, return_when=asyncio.FIRST_COMPLETED)
        return answered.result() if answered.done() else work.result()

    def _on_finished(self, work: "asyncio.Task[Removed]") -> None:
        self._finishing.discard(work)
        if not work.cancelled() and (error := work.exception()) is not None:
            log.warning("a link is not deleted yet: %s", error)

    async def _remove(self, request: Remove, answered: "asyncio.Future[Removed] | None") -> Removed:
        """
        Args:
            answered: as in `Removal.take_out`.
        """
        async with self._turns.of(request.key):
            entry = self._journal.get(request.key)
            if entry is None or _is_another(entry, request.container_id):
                return await self._remove_unknown(request)
            keep = request.keep_addresses or entry.keep_addresses
            entry = replace(entry, phase="removing", keep_addresses=keep)
            recorded = self._removal.record(entry)
            try:
                async with asyncio.timeout(request.timeout_seconds):
                    await self._removal.take_out(entry, answered if recorded else None)
            except (TimeoutError, TortieError) as error:
                await self._removal.postpone(entry, error)
                if recorded and isinstance(error, TimeoutError | Unavailable):
                    return Removed(found=True, pending=True)
                if isinstance(error, TimeoutError):
                    seconds = request.timeout_seconds
                    raise Unavailable(f"{request.key} is not gone after {seconds:g} s") from error
                raise
            return Removed(found=True)

    async def _replace(self, entry: Entry) -> None:
        """Another container takes the place of one whose Remove never came, or comes late."""
        log.info("%s: container %s is superseded", entry.key, entry.container_id)
        entry = replace(entry, phase="removing")
        self._journal.note(entry)
        await self._removal.take_out(entry)

    async def _remove_unknown(self, request: Remove) -> Removed:
        """Nothing is recorded; addresses kept for a move that never came are released."""
        if request.keep_addresses:
            return Removed(found=False)
        try:
            await self.check_ready()
        except Unavailable as error:
            if not request.container_id:
                raise
            # It would be asked for ever; whatever is there is found as a leak.
            log.warning(
                "%s: nothing is known of it, and nobody can be asked: %s", request.key, error
            )
            return Removed(found=False)
        freed = await self._allocator.release(request.handle_id, only_host=True)
        return Removed(found=bool(freed))

    def listed(self) -> Listed:
        """What is attached, by key."""
        entries = [entry for entry in self._journal.entries if entry.phase == "attached"]
        return Listed(workloads=tuple(attached(entry) for entry in entries))

    async def check(self, request: Check) -> Checked:
        """
        Raises:
            NotFound: the workload is not attached here.
        """
        async with self._turns.of(request.key):
            entry = self._attached_entry(request.key)
            addresses = tuple(map(parse_address, entry.addresses))
            wanted = Wanted(
                request.netns or entry.netns,
                entry.inside,
                entry.interface,
                default_routes=entry.default_routes,
                device=entry.device,
            )
            problems = await self._plumbing.problems(wanted, addresses)
            held = await self._allocator.addresses_of(entry.handle_id) if entry.ipam else addresses
            problems += [
                f"IPAM does not know that {address.address_text} is in use"
                for address in addresses
                if address not in held
            ]
            try:
                await self._resources.get(key_of(entry))
            except (NotFound, InvalidInput) as error:
                problems.append(str(error))
            return Checked(problems=tuple(problems))

    async def add_profiles(self, key: WorkloadKey, profiles: Iterable[str]) -> Attached:
        """More profiles for what is attached: a second network over the same interface.

        Raises:
            NotFound: it is not attached here.
            Unavailable: the datastore is away, or enforcing it took too long.
        """
        async with self._turns.of(key):
            entry = self._attached_entry(key)
            found = (await self._resources.get(key_of(entry))).resource
            assert isinstance(found, WorkloadEndpoint)
            wanted = tuple(dict.fromkeys([*found.spec.profiles, *profiles]))
            if wanted != found.spec.profiles:
                spec = replace(found.spec, profiles=wanted)
                changed = await self._resources.update(replace(found, spec=spec))
                await self._wait_programmed(changed.revision, UNDO_SECONDS)
            return attached(entry)

    def _attached_entry(self, key: WorkloadKey) -> Entry:
        entry = self._journal.get(key)
        if entry is None or entry.phase != "attached":
            raise NotFound(f"{key} is not attached to host {self._settings.host}")
        return entry

    async def replay(self) -> None:
        """Finish what a crash or an absent datastore left half-done, for ever."""
        await self._removal.replay()

    async def recover(self) -> bool:
        """One attempt at everything half-done; False if some of it is still to do."""
        return await self._removal.recover()

    async def tidy(self) -> None:
        """Give back what nobody here uses (empty blocks, leaked addresses), for ever."""
        collector = Collector(self._client, self._allocator)
        while True:
            await asyncio.sleep(TIDY_SECONDS)
            try:
                await self.check_ready()
                for leak in await collector.collect_attached(self._settings.host, self._handles):
                    log.warning("handle %s had leaked (%s); released", leak.handle_id, leak.reason)
                await release_empty_blocks(self._client, self._settings.host)
            except TortieError as error:
                log.warning("tidying up IPAM goes on later: %s", error)

    def _handles(self) -> frozenset[str]:
        return frozenset(entry.handle_id for entry in self._journal.entries)


def _is_another(entry: Entry, container_id: str) -> bool:
    """Is what is recorded of another container than the one that a call is about?"""
    return bool(container_id and entry.container_id and container_id != entry.container_id)
