"""Bringing one workload in: the steps of Add, in order.

    one read → journal ─┬─ link ──────────┬─► endpoint → inside → enforced? → journal
                        └─ addresses ─────┘

Each may be repeated. A container is new as a rule, and the agent watches whether the datastore is
ready; so nothing is read for one, and its endpoint is created in the transaction that assigns its
addresses, which compares that both are new. Where they are not, there are three round trips: one
read, one for the addresses, one for the endpoint.

An endpoint is stored when its link is there and its record is on disk, never before: what fails
until then is nobody else's business.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any, NamedTuple

from msgspec.structs import replace

from tortie.attach.endpoint import attached, endpoint_of, with_network
from tortie.attach.journal import Entry, Journal
from tortie.attach.plumbing import Made, Plumbing, Wanted
from tortie.attach.removal import WaitProgrammed
from tortie.attach.requests import Add, Attached, WorkloadKey
from tortie.attach.turns import Steps, Turns, begin_in_thread
from tortie.datastore.client import Client
from tortie.datastore.resources import Resources, Write
from tortie.ipam.allocator import Allocator, Beside, HandleExists
from tortie.ipam.stored import Stored, read, stored
from tortie.lib.errors import AlreadyExists, InvalidInput, Unavailable
from tortie.lib.ip import Network, parse_address
from tortie.model.endpoint import WorkloadEndpoint
from tortie.model.ipam import Handle
from tortie.model.keys import HandleKey, ResourceKey
from tortie.model.node import ClusterInformation

log = logging.getLogger(__name__)

CLUSTER = ResourceKey("ClusterInformation", "default")

PATIENCE_SECONDS = 0.5
"""From the beginning of an Add: how long all who want an address may wait for its link."""


class Settings(NamedTuple):
    host: str
    interface_prefix: str = "cali"
    mtu: int = 0
    """Of new links; 0: the kernel's default."""


class _Before(NamedTuple):
    """What there was when an Add began, as of one revision."""

    handle: Stored[Handle] | None
    """None: addresses are not IPAM's."""
    has_endpoint: bool
    is_assumed: bool = False
    """Not read: a new container has nothing."""

    @property
    def held(self) -> bool:
        """Did the handle have addresses already?"""
        return bool(self.handle and self.handle.value and self.handle.value.block)


class _UnderWay:
    """What goes on elsewhere while addresses are decided on and stored."""

    def __init__(self, synced: "asyncio.Future[None]", made: "asyncio.Future[Made]") -> None:
        """
        Args:
            synced: the record, written to the disk.
            made: the link.
        """
        self._synced = synced
        self._made = made
        self._both: list[asyncio.Future[Any]] = [synced, made]
        self._patience_ends = asyncio.get_running_loop().time() + PATIENCE_SECONDS
        self._configured: asyncio.Future[None] | None = None
        self._addresses: Sequence[Network] = ()

    async def settles(self) -> bool:
        """Is it over before others have waited too long for it? For good or bad."""
        left_seconds = self._patience_ends - asyncio.get_running_loop().time()
        _, slow = await asyncio.wait(self._both, timeout=max(left_seconds, 0))
        return not slow

    async def made(self) -> Made:
        """
        Raises:
            TortieError: the link cannot be made, or the record not be written.
        """
        # Whoever gives up asking ends neither: who began them sees them through.
        made = await asyncio.shield(self._made)
        await asyncio.shield(self._synced)
        return made

    async def begin_to_configure(self, addresses: Sequence[Network]) -> Made:
        """Give the workload these addresses; nobody can send to them before they are stored."""
        made = await self.made()
        if self._configured is None or self._addresses != addresses:
            await self._configuring_is_over()
            self._addresses = addresses
            self._configured = asyncio.ensure_future(made.configure(addresses))
        return made

    async def configured(self, addresses: Sequence[Network]) -> Made:
        """
        Raises:
            TortieError: also when the workload's end cannot be set up.
        """
        made = await self.begin_to_configure(addresses)
        assert self._configured is not None, "it has begun"
        await asyncio.shield(self._configured)
        return made

    async def end(self) -> None:
        """Wait for all of it, whatever comes of it: errors are of those who asked."""
        await asyncio.wait(self._both)
        self._synced.exception()
        await self._configuring_is_over()
        if self._made.exception() is None:
            self._made.result().close()

    async def _configuring_is_over(self) -> None:
        if self._configured is not None:
            await asyncio.wait({self._configured})
            self._configured.exception()


class Addition:
    """Every way in; the attacher's other half is `Removal`."""

    def __init__(
        self,
        settings: Settings,
        client: Client,
        allocator: Allocator,
        plumbing: Plumbing,
        journal: Journal,
        wait_programmed: WaitProgrammed,
        turns: Turns,
        is_ready: Callable[[], bool],
    ) -> None:
        """
        Args:
            is_ready: is the datastore known to be there and ready? If not it is asked.
        """
        self._settings = settings
        self._client = client
        self._is_ready = is_ready
        self._resources = Resources(client)
        self._allocator = allocator
        self._plumbing = plumbing
        self._journal = journal
        self._wait_programmed = wait_programmed
        self._turns = turns

    def endpoint(self, request: Add) -> WorkloadEndpoint:
        """What will be stored, but for addresses and MAC.

        Raises:
            InvalidInput: the request breaks a rule; nothing has been made.
            AlreadyExists: another workload has the interface's name.
        """
        prefix = self._settings.interface_prefix
        interface = request.interface(prefix)
        endpoint = endpoint_of(request, self._settings.host, interface)
        if not interface.startswith(prefix):
            raise InvalidInput(
                f"interface {interface!r} must start with {prefix!r}: with another name it would "
                "be outside all policy"
            )
        entry = self._journal.at_interface(interface)
        if entry is not None and entry.key != request.key:
            raise AlreadyExists(
                f"interface {interface} belongs to {entry.key}; remove that first, or "
                "ask for another name"
            )
        return endpoint

    async def bring_in(
        self, request: Add, endpoint: WorkloadEndpoint, before: Entry | None, steps: Steps
    ) -> Attached:
        """
        Args:
            before: what the journal says of it: completed, not made anew.
        """
        if before is None and request.container_id and request.ipam and self._is_ready():
            unused = Stored[Handle](HandleKey(request.handle_id), None, None)
            there = _Before(unused, has_endpoint=False, is_assumed=True)
        else:
            there = await self._look(request, endpoint)
        entry = self._begin(request, endpoint, before, there)
        async with self._under_way(request, entry) as under_way:
            steps.done("journal")
            beside = None
            if there.is_assumed and not request.held:
                beside = self._creation(request, endpoint, under_way)
            addresses, there = await self._addresses(request, endpoint, there, beside)
            texts = tuple(map(str, addresses))
            steps.done("addresses")
            made = await under_way.configured(addresses)
            steps.done("link")
            revision = beside.revision if beside else 0
            if not revision and not request.held:
                endpoint = with_network(endpoint, texts, made.mac, request.nats)
                revision = await self._store(endpoint, there)
                steps.done("endpoint")
        if revision:
            await self._wait_programmed(revision, request.timeout_seconds)
            steps.done("enforced")
        entry = replace(
            entry,
            phase="attached",
            addresses=texts,
            mac=made.mac,
            revision=revision,
            keep_addresses=False,
        )
        self._journal.note(entry)
        steps.done("recorded")
        return replace(attached(entry), timings=steps.seconds)

    @contextlib.asynccontextmanager
    async def _under_way(self, request: Add, entry: Entry) -> "AsyncIterator[_UnderWay]":
        """Begin what needs no addresses, and see it through whatever happens."""
        wanted = Wanted(
            request.netns,
            request.inside,
            entry.interface,
            request.mac,
            request.mtu or self._settings.mtu,
            request.default_routes,
            request.forwarding,
            request.device,
            tuple(map(parse_address, request.gateways)),
        )
        under_way = _UnderWay(
            begin_in_thread(self._journal.sync, entry.key),
            asyncio.ensure_future(self._make(wanted)),
        )
        try:
            yield under_way
        finally:
            await under_way.end()

    async def _make(self, wanted: Wanted) -> Made:
        """The link; one that a container before it has in its namespace may be on its way out."""
        try:
            return await self._plumbing.make(wanted)
        except AlreadyExists:
            leaving = [
                entry.key
                for entry in self._journal.unordered
                if (entry.phase, entry.netns, entry.inside)
                == ("removing", wanted.netns, wanted.inside)
                and entry.interface != wanted.interface
            ]
            if not leaving:
                raise
        for key in leaving:
            async with self._turns.of(key):
                pass  # whoever removes it has the turn until all of it is gone
        return await self._plumbing.make(wanted)

    def _creation(self, request: Add, endpoint: WorkloadEndpoint, under_way: "_UnderWay") -> Beside:
        """The endpoint, to be created with its addresses, when its link and record are there."""

        async def prepare(addresses: list[Network]) -> Write[WorkloadEndpoint] | None:
            if not await under_way.settles() or self._user_of(request.key, addresses):
                return None
            made = await under_way.begin_to_configure(addresses)
            texts = tuple(map(str, addresses))
            return await self._resources.prepare(
                with_network(endpoint, texts, made.mac, request.nats), None
            )

        return Beside(prepare)

    async def _addresses(
        self,
        request: Add,
        endpoint: WorkloadEndpoint,
        there: _Before,
        beside: Beside | None,
    ) -> tuple[list[Network], _Before]:
        """Addresses, and what there really was before."""
        try:
            addresses = await self._assign(request, there, beside)
        except HandleExists:
            there = await self._look(request, endpoint)
            entry = self._journal.get(request.key)
            assert entry is not None, "it has begun"
            self._journal.note(replace(entry, keep_addresses=there.held))
            addresses = await self._assign(request, there)
        self._check_unused(request.key, addresses)
        return addresses, there

    async def check_ready(self) -> None:
        """
        Raises:
            Unavailable: the datastore is away, or says that it is not ready.
        """
        [entry] = await read(self._client, [CLUSTER])
        _refuse_unless_ready(stored(CLUSTER, ClusterInformation, entry).value)

    async def _look(self, request: Add, endpoint: WorkloadEndpoint) -> _Before:
        """Everything that an Add rests on but pools and blocks, in one read.

        Raises:
            Unavailable: the datastore is away, or says that it is not ready.
        """
        name, namespace = endpoint.metadata.name, endpoint.metadata.namespace
        handle_key = HandleKey(request.handle_id)
        cluster, present, handle = await read(
            self._client,
            [CLUSTER, ResourceKey("WorkloadEndpoint", name, namespace), handle_key],
        )
        _refuse_unless_ready(stored(CLUSTER, ClusterInformation, cluster).value)
        held = stored(handle_key, Handle, handle) if request.ipam else None
        return _Before(held, present is not None)

    def _begin(
        self, request: Add, endpoint: WorkloadEndpoint, before: Entry | None, there: _Before
    ) -> Entry:
        """Write down what is about to be made, unless all of it was made before."""
        entry = Entry(
            key=request.key,
            phase="adding",
            handle_id=request.handle_id,
            endpoint_name=endpoint.metadata.name,
            interface=endpoint.spec.interface_name,
            inside=request.inside,
            netns=request.netns,
            # What an unfinished Add or Remove of our own left is ours to release.
            keep_addresses=before.keep_addresses if before else there.held,
            moved=before.moved if before else there.held,
            container_id=request.container_id,
            network=request.network,
            ipam=request.ipam,
            default_routes=request.default_routes,
            device=request.device,
        )
        if before is None:
            self._journal.note(entry)
            return entry
        for field in ("handle_id", "interface", "device"):
            was, now = getattr(before, field), getattr(entry, field)
            if was != now:
                raise AlreadyExists(
                    f"{request.key} is attached with {field} {was!r}, not {now!r}; remove it first"
                )
        if before.phase != "attached":
            self._journal.note(entry)
        return entry

    async def _assign(
        self, request: Add, there: _Before, beside: Beside | None = None
    ) -> list[Network]:
        if not request.ipam:
            return sorted(request.requested)
        attributes = {"namespace": request.namespace, "pod": request.pod or request.workload}
        return await self._allocator.assign(
            request.families,
            request.handle_id,
            attributes,
            requested=request.requested,
            pools=request.pools,
            handle=there.handle,
            is_new=there.is_assumed,
            beside=beside,
        )

    async def _store(self, endpoint: WorkloadEndpoint, there: _Before) -> int:
        """The revision at which the endpoint is as wanted."""
        if not there.has_endpoint:
            try:
                return (await self._resources.create(endpoint, look_first=False)).revision
            except AlreadyExists:
                log.info("endpoint %s came meanwhile", endpoint.metadata.name)
        return (await self._resources.apply(endpoint)).revision

    def _check_unused(self, key: WorkloadKey, addresses: Iterable[Network]) -> None:
        """What the datastore says is free may be in use here, after it lost what it knew.

        Asked when they are assigned: being given back, they are the last to be assigned again.
        """
        used = self._user_of(key, addresses)
        if used is not None:
            address, entry = used
            raise AlreadyExists(
                f"{address.address_text} is in use by {entry.key} on this host; remove that first"
            )

    def _user_of(
        self, key: WorkloadKey, addresses: Iterable[Network]
    ) -> tuple[Network, Entry] | None:
        """An address of these that another workload of this host has."""
        for address in addresses:
            entry = self._journal.at_address(str(address))
            if entry is not None and entry.key != key:
                return address, entry
        return None


def _refuse_unless_ready(information: ClusterInformation | None) -> None:
    """
    Raises:
        Unavailable: the datastore says that it is not ready.
    """
    if information is not None and information.spec.datastore_ready is False:
        raise Unavailable(
            "the datastore is not ready: ClusterInformation default has datastoreReady false, "
            "as during an upgrade or a migration; try again when it is true"
        )
