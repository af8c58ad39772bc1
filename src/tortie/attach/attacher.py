"""Add and Remove: the order of steps, and what happens when one fails.

    Add     journal → addresses → veth → endpoint → enforced? → journal → answer
    Remove  journal → endpoint gone → enforced? → veth gone → addresses free → journal gone

Each step may be repeated, so Add and Remove may be. When a step of Add fails,
Remove's steps undo it; what cannot be undone now (the datastore is away) stays
in the journal as *removing* and is finished by `replay`. After a crash the
journal says the same, so recovery is replay too.

An Add of what is already attached completes what is missing and never undoes.
Addresses that the handle held before Add began (a workload that moves here)
are kept when it fails.

Remove takes an address away only when this host no longer routes or protects
it: nobody else may get it while the kernel still delivers it here.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import NamedTuple, ParamSpec, TypeVar

from msgspec.structs import replace

from tortie.attach.journal import Entry, Journal
from tortie.attach.plumbing import Plumbing, Wanted
from tortie.attach.requests import (
    Add,
    Attached,
    Check,
    Checked,
    Listed,
    Nat,
    Remove,
    Removed,
    WorkloadKey,
)
from tortie.datastore.client import Client
from tortie.datastore.resources import Resources
from tortie.ipam.allocator import Allocator
from tortie.ipam.ownership import Collector, release_empty_blocks
from tortie.lib.errors import (
    AlreadyExists,
    InvalidInput,
    NotFound,
    TortieError,
    Unavailable,
)
from tortie.lib.ip import Network, parse_address, parse_network
from tortie.model.endpoint import (
    IPNAT,
    WorkloadEndpoint,
    WorkloadEndpointPort,
    WorkloadEndpointSpec,
)
from tortie.model.keys import ResourceKey
from tortie.model.metadata import Metadata
from tortie.model.names import workload_endpoint_name
from tortie.model.node import ClusterInformation
from tortie.model.validation import check, with_defaults

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

WaitProgrammed = Callable[[int, float], Awaitable[None]]
"""Wait until a datastore revision is enforced on this host, at most so many seconds.

Raises `Unavailable` when it is not in time.
"""

UNDO_SECONDS = 10.0
"""For undoing a failed Add while its caller waits; the rest is left to `replay`."""

TIDY_SECONDS = 300.0
"""Between looks for leaks; what the second of two in a row still sees is released."""

REPLAY_SECONDS = (1.0, 60.0)
"""Pause between attempts to finish what is pending: the first, and the longest."""


class Settings(NamedTuple):
    host: str
    interface_prefix: str = "cali"
    mtu: int = 0
    """Of new links; 0: the kernel's default."""


class Attacher:
    """Brings workloads in and takes them out; one event loop only."""

    def __init__(
        self,
        settings: Settings,
        client: Client,
        plumbing: Plumbing,
        journal: Journal,
        wait_programmed: WaitProgrammed,
    ) -> None:
        self._settings = settings
        self._client = client
        self._resources = Resources(client)
        self._allocator = Allocator(client, settings.host)
        self._plumbing = plumbing
        self._journal = journal
        self._wait_programmed = wait_programmed
        self._turns = _Turns()
        self._pending = asyncio.Event()
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

    async def add(self, request: Add) -> Attached:
        """
        Raises:
            InvalidInput: the request cannot be fulfilled as it is.
            AlreadyExists: an address, or an interface's name, is taken.
            Unavailable: the datastore is away or not ready, or enforcing it
                took too long. The same call may succeed later.
        """
        steps = _Steps()
        endpoint = self._endpoint(request)
        async with self._turns.of(request.key):
            before = self._journal.get(request.key)
            self._check_interface(request)
            try:
                async with asyncio.timeout(request.timeout_seconds):
                    if before is not None and _is_another(before, request.container_id):
                        await self._replace(before)
                        before = None
                    return await self._add(request, endpoint, before, steps)
            except TimeoutError:
                failure: TortieError = Unavailable(
                    f"{request.key} is not attached after {request.timeout_seconds:g} s "
                    f"(done: {', '.join(steps.seconds) or 'nothing'})"
                )
            except TortieError as error:
                failure = error
            except BaseException:
                self._pending.set()  # whatever this is, the journal knows what was begun
                raise
            # Only what this Add began; what a finished one made stays.
            if before is None or before.phase != "attached":
                await self._undo(request.key)
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
            answered: told as soon as only the link is left, whose deletion the kernel takes its
                time for. No packet passes it any more, and the journal knows of it.
        """
        async with self._turns.of(request.key):
            entry = self._journal.get(request.key)
            if entry is None or _is_another(entry, request.container_id):
                return await self._remove_unknown(request)
            keep = request.keep_addresses or entry.keep_addresses
            entry = replace(entry, phase="removing", keep_addresses=keep)
            recorded = await self._record_removal(entry)
            try:
                async with asyncio.timeout(request.timeout_seconds):
                    await self._take_out(entry, answered if recorded else None)
            except (TimeoutError, TortieError) as error:
                await self._postpone(entry, error)
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
        await _blocking(self._journal.write, entry)
        await self._take_out(entry)

    async def _record_removal(self, entry: Entry) -> bool:
        """Whether it can be finished later. Removing must work on a full disk, too."""
        try:
            await _blocking(self._journal.write, entry)
        except Unavailable as error:
            log.warning("%s: removing it without a record: %s", entry.key, error)
            return False
        return True

    async def _remove_unknown(self, request: Remove) -> Removed:
        """Nothing is recorded; addresses kept for a move that never came are released."""
        if request.keep_addresses:
            return Removed(found=False)
        freed = await self._allocator.release(request.handle_id, only_host=True)
        return Removed(found=bool(freed))

    def listed(self) -> Listed:
        """What is attached, by key."""
        entries = [entry for entry in self._journal.entries if entry.phase == "attached"]
        return Listed(workloads=tuple(_attached(entry) for entry in entries))

    async def check(self, request: Check) -> Checked:
        """
        Raises:
            NotFound: the workload is not attached here.
        """
        async with self._turns.of(request.key):
            entry = self._journal.get(request.key)
            if entry is None or entry.phase != "attached":
                raise NotFound(f"{request.key} is not attached to host {self._settings.host}")
            addresses = tuple(map(parse_address, entry.addresses))
            wanted = Wanted(
                request.netns or entry.netns,
                entry.inside,
                entry.interface,
                addresses,
                default_routes=entry.default_routes,
                device=entry.device,
            )
            problems = await _blocking(self._plumbing.problems, wanted)
            held = await self._allocator.addresses_of(entry.handle_id) if entry.ipam else addresses
            problems += [
                f"IPAM does not know that {address.address_text} is in use"
                for address in addresses
                if address not in held
            ]
            try:
                await self._resources.get(self._key_of(entry))
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
            entry = self._journal.get(key)
            if entry is None or entry.phase != "attached":
                raise NotFound(f"{key} is not attached to host {self._settings.host}")
            found = (await self._resources.get(self._key_of(entry))).resource
            assert isinstance(found, WorkloadEndpoint)
            wanted = tuple(dict.fromkeys([*found.spec.profiles, *profiles]))
            if wanted != found.spec.profiles:
                spec = replace(found.spec, profiles=wanted)
                stored = await self._resources.update(replace(found, spec=spec))
                await self._wait_programmed(stored.revision, UNDO_SECONDS)
            return _attached(entry)

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

    async def tidy(self) -> None:
        """Give back what nobody here uses (empty blocks, leaked addresses), for ever."""
        collector = Collector(self._client, self._allocator)
        while True:
            await asyncio.sleep(TIDY_SECONDS)
            try:
                for leak in await collector.collect_attached(self._settings.host, self._handles):
                    log.warning("handle %s had leaked (%s); released", leak.handle_id, leak.reason)
                await release_empty_blocks(self._client, self._settings.host)
            except TortieError as error:
                log.warning("tidying up IPAM goes on later: %s", error)

    def _handles(self) -> frozenset[str]:
        return frozenset(entry.handle_id for entry in self._journal.entries)

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
                    await self._take_out(current)
                except TortieError as error:
                    log.warning("%s: cannot be cleaned up yet: %s", entry.key, error)
                    done = False
        return done

    async def _add(
        self, request: Add, endpoint: WorkloadEndpoint, before: Entry | None, steps: "_Steps"
    ) -> Attached:
        await self.check_ready()
        entry = await self._begin(request, endpoint, before)
        steps.done("journal")
        addresses = await self._assign(request)
        self._check_unused(request.key, addresses)
        entry = replace(entry, addresses=tuple(map(str, addresses)))
        steps.done("addresses")
        wanted = Wanted(
            request.netns,
            request.inside,
            request.interface(self._settings.interface_prefix),
            tuple(addresses),
            request.mac,
            request.mtu or self._settings.mtu,
            request.default_routes,
            request.forwarding,
            request.device,
        )
        mac = await _blocking(self._plumbing.connect, wanted)
        steps.done("link")
        endpoint = _with_network(endpoint, entry.addresses, mac, request.nats)
        stored = await self._resources.apply(endpoint)
        steps.done("endpoint")
        await self._wait_programmed(stored.revision, request.timeout_seconds)
        steps.done("enforced")
        entry = replace(
            entry, phase="attached", mac=mac, revision=stored.revision, keep_addresses=False
        )
        await _blocking(self._journal.write, entry)
        steps.done("recorded")
        return replace(_attached(entry), timings=steps.seconds)

    async def _begin(self, request: Add, endpoint: WorkloadEndpoint, before: Entry | None) -> Entry:
        """Write down what is about to be made, unless all of it was made before."""
        held = await self._allocator.addresses_of(request.handle_id) if request.ipam else ()
        entry = Entry(
            key=request.key,
            phase="adding",
            handle_id=request.handle_id,
            endpoint_name=endpoint.metadata.name,
            interface=request.interface(self._settings.interface_prefix),
            inside=request.inside,
            netns=request.netns,
            # What an unfinished Add or Remove of our own left is ours to release.
            keep_addresses=before.keep_addresses if before else bool(held),
            container_id=request.container_id,
            network=request.network,
            ipam=request.ipam,
            default_routes=request.default_routes,
            device=request.device,
        )
        if before is None:
            await _blocking(self._journal.write, entry)
            return entry
        for field in ("handle_id", "interface"):
            was, now = getattr(before, field), getattr(entry, field)
            if was != now:
                raise AlreadyExists(
                    f"{request.key} is attached with {field} {was!r}, not {now!r}; remove it first"
                )
        if before.phase != "attached":
            await _blocking(self._journal.write, entry)
        return entry

    async def _assign(self, request: Add) -> list[Network]:
        if not request.ipam:
            return sorted(request.requested)
        attributes = {"namespace": request.namespace, "pod": request.pod or request.workload}
        return await self._allocator.assign(
            request.families,
            request.handle_id,
            attributes,
            requested=request.requested,
            pools=request.pools,
        )

    async def _undo(self, key: WorkloadKey) -> None:
        entry = self._journal.get(key)
        if entry is None:
            return
        entry = replace(entry, phase="removing")
        try:
            async with asyncio.timeout(UNDO_SECONDS):
                await _blocking(self._journal.write, entry)
                await self._take_out(entry)
        except (TimeoutError, TortieError) as error:
            await self._postpone(entry, error)

    async def _postpone(self, entry: Entry, error: Exception) -> None:
        """Leave the rest to `replay`, but the link: without it no packet passes.

        Raises:
            TortieError: not even that; it is tried again, too.
        """
        log.warning("%s: taking it out goes on later: %s", entry.key, error or "it takes long")
        self._pending.set()
        await self._disconnect(entry)

    async def _take_out(
        self, entry: Entry, answered: "asyncio.Future[Removed] | None" = None
    ) -> None:
        """Every step of Remove, whatever of it is there."""
        revision = await self._delete_endpoint(entry)
        if revision:
            await self._wait_programmed(revision, UNDO_SECONDS)
        if answered is None:
            await self._disconnect(entry)
        if entry.ipam and not entry.keep_addresses:
            await self._allocator.release(entry.handle_id, only_host=True)
        if answered is not None:
            answered.set_result(Removed(found=True))
            await self._disconnect(entry)
        await _blocking(self._journal.forget, entry.key)

    async def _disconnect(self, entry: Entry) -> None:
        """An interface that others made stays; without an endpoint no packet passes it."""
        if entry.device != "existing":
            await _blocking(self._plumbing.disconnect, entry.interface)

    async def _delete_endpoint(self, entry: Entry) -> int:
        """The revision of the deletion; 0 if it was not there."""
        try:
            return await self._client.delete(self._key_of(entry).path)
        except NotFound:
            return 0

    async def check_ready(self) -> None:
        """
        Raises:
            Unavailable: the datastore is away, or says that it is not ready.
        """
        try:
            stored = await self._resources.get(ResourceKey("ClusterInformation", "default"))
        except NotFound:
            return
        information = stored.resource
        assert isinstance(information, ClusterInformation)
        if information.spec.datastore_ready is False:
            raise Unavailable(
                "the datastore is not ready: ClusterInformation default has datastoreReady false, "
                "as during an upgrade or a migration; try again when it is true"
            )

    def _check_interface(self, request: Add) -> None:
        prefix = self._settings.interface_prefix
        interface = request.interface(prefix)
        if not interface.startswith(prefix):
            raise InvalidInput(
                f"host_interface {interface!r} must start with {prefix!r}: an interface "
                "with another name would be outside all policy"
            )
        for entry in self._journal.entries:
            if entry.interface == interface and entry.key != request.key:
                raise AlreadyExists(
                    f"interface {interface} belongs to {entry.key}; remove that first, or "
                    "ask for another host_interface"
                )

    def _check_unused(self, key: WorkloadKey, addresses: Iterable[Network]) -> None:
        """What the datastore says is free may be in use here, after it lost what it knew."""
        texts = {str(address) for address in addresses}
        for entry in self._journal.entries:
            used = texts & set(entry.addresses)
            if used and entry.key != key and entry.phase == "attached":
                raise AlreadyExists(
                    f"{used.pop()} is in use by {entry.key} on this host; remove that first"
                )

    def _endpoint(self, request: Add) -> WorkloadEndpoint:
        """The resource without addresses and MAC, checked before anything is made.

        Raises:
            InvalidInput: a rule about endpoints is broken.
        """
        spec = WorkloadEndpointSpec(
            orchestrator=request.orchestrator,
            workload=request.workload,
            node=self._settings.host,
            container_id=request.container_id,
            pod=request.pod,
            endpoint=request.endpoint,
            service_account_name=request.service_account,
            profiles=request.profiles,
            interface_name=request.interface(self._settings.interface_prefix),
            mac=request.mac,
            allow_spoofed_source_prefixes=request.allowed_sources,
            ports=tuple(
                WorkloadEndpointPort(name=port.name, protocol=port.protocol, port=port.port)
                for port in request.ports
            ),
        )
        metadata = Metadata(
            name=workload_endpoint_name(spec), namespace=request.namespace, labels=request.labels
        )
        endpoint = with_defaults(
            WorkloadEndpoint(kind="WorkloadEndpoint", metadata=metadata, spec=spec)
        )
        check(endpoint)
        return endpoint

    def _key_of(self, entry: Entry) -> ResourceKey:
        return ResourceKey("WorkloadEndpoint", entry.endpoint_name, entry.key.namespace)


async def _blocking(call: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Run in a thread, and see it through even when cancelled.

    A step that went on by itself could make a link after its undoing.
    """
    work = asyncio.ensure_future(asyncio.to_thread(call, *arguments, **named))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait({work})
        raise


class _Turns:
    """One lock for each workload, for as long as somebody wants it."""

    def __init__(self) -> None:
        self._locks: dict[WorkloadKey, asyncio.Lock] = {}
        self._users: dict[WorkloadKey, int] = {}

    @contextlib.asynccontextmanager
    async def of(self, key: WorkloadKey) -> AsyncIterator[None]:
        lock = self._locks.setdefault(key, asyncio.Lock())
        self._users[key] = self._users.get(key, 0) + 1
        try:
            async with lock:
                yield
        finally:
            self._users[key] -= 1
            if not self._users[key]:
                del self._users[key], self._locks[key]


class _Steps:
    """How long each step took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def done(self, step: str) -> None:
        now = time.monotonic()
        self.seconds[step] = round(now - self._last, 6)
        self._last = now


def _is_another(entry: Entry, container_id: str) -> bool:
    """Is what is recorded of another container than the one that a call is about?"""
    return bool(container_id and entry.container_id and container_id != entry.container_id)


def _with_network(
    endpoint: WorkloadEndpoint, addresses: tuple[str, ...], mac: str, nats: Iterable[Nat]
) -> WorkloadEndpoint:
    """
    Raises:
        InvalidInput: an address is to be translated to a family that the workload lacks.
    """
    own = {address.family: address for address in map(parse_network, addresses)}
    translated = []
    for nat in nats:
        external = parse_address(nat.external)
        if external.family not in own:
            raise InvalidInput(f"{nat.external}: the workload has no IPv{external.family} address")
        internal = own[external.family].address_text
        translated.append(IPNAT(internal_ip=internal, external_ip=external.address_text))
    spec = replace(endpoint.spec, ip_networks=addresses, mac=mac, ip_nats=tuple(translated))
    return replace(endpoint, spec=spec)


def _attached(entry: Entry) -> Attached:
    return Attached(
        key=entry.key,
        addresses=entry.addresses,
        interface=entry.interface,
        inside=entry.inside,
        netns=entry.netns,
        mac=entry.mac,
        revision=entry.revision,
    )
