"""Bringing one workload in: the steps of Add, in order.

    one read → journal → addresses → veth → endpoint → enforced? → journal

Each may be repeated. On the datastore they are three round trips where nothing of the workload
is there yet: one read, one transaction for the addresses, one for the endpoint. A container is
new as a rule, and the agent watches whether the datastore is ready; so nothing is read for one,
and both transactions compare that it is new. The read follows where it is not.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import NamedTuple

from msgspec.structs import replace

from tortie.attach.endpoint import attached, endpoint_of, with_network
from tortie.attach.journal import Entry, Journal
from tortie.attach.plumbing import Plumbing, Wanted
from tortie.attach.removal import WaitProgrammed
from tortie.attach.requests import Add, Attached, WorkloadKey
from tortie.attach.turns import Steps, in_thread
from tortie.datastore.client import Client
from tortie.datastore.resources import Resources
from tortie.ipam.allocator import Allocator, HandleExists
from tortie.ipam.stored import Stored, read, stored
from tortie.lib.errors import AlreadyExists, InvalidInput, Unavailable
from tortie.lib.ip import Network, parse_address
from tortie.model.endpoint import WorkloadEndpoint
from tortie.model.ipam import Handle
from tortie.model.keys import HandleKey, ResourceKey
from tortie.model.node import ClusterInformation

log = logging.getLogger(__name__)

CLUSTER = ResourceKey("ClusterInformation", "default")


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
        for entry in self._journal.unordered:
            if entry.interface == interface and entry.key != request.key:
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
        # On disk before the endpoint is stored; what is made until then leaves no trace.
        synced = asyncio.ensure_future(in_thread(self._journal.sync, entry.key))
        steps.done("journal")
        try:
            entry, mac = await self._make(request, endpoint, entry, there, steps)
        finally:
            await asyncio.wait({synced})
        synced.result()
        revision = 0
        if not request.held:
            endpoint = with_network(endpoint, entry.addresses, mac, request.nats)
            revision = await self._store(endpoint, there)
            steps.done("endpoint")
            await self._wait_programmed(revision, request.timeout_seconds)
            steps.done("enforced")
        entry = replace(entry, phase="attached", mac=mac, revision=revision, keep_addresses=False)
        self._journal.note(entry)
        steps.done("recorded")
        return replace(attached(entry), timings=steps.seconds)

    async def _make(
        self,
        request: Add,
        endpoint: WorkloadEndpoint,
        entry: Entry,
        there: _Before,
        steps: Steps,
    ) -> tuple[Entry, str]:
        """Addresses and link; returns the entry with the first, and the MAC inside."""
        try:
            addresses = await self._assign(request, there)
        except HandleExists:
            there = await self._look(request, endpoint)
            entry = replace(entry, keep_addresses=there.held)
            self._journal.note(entry)
            addresses = await self._assign(request, there)
        self._check_unused(request.key, addresses)
        steps.done("addresses")
        wanted = Wanted(
            request.netns,
            request.inside,
            entry.interface,
            tuple(addresses),
            request.mac,
            request.mtu or self._settings.mtu,
            request.default_routes,
            request.forwarding,
            request.device,
            tuple(map(parse_address, request.gateways)),
        )
        mac = await in_thread(self._plumbing.connect, wanted)
        steps.done("link")
        return replace(entry, addresses=tuple(map(str, addresses))), mac

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

    async def _assign(self, request: Add, there: _Before) -> list[Network]:
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
        """What the datastore says is free may be in use here, after it lost what it knew."""
        texts = {str(address) for address in addresses}
        for entry in self._journal.unordered:
            used = texts.intersection(entry.addresses)
            if used and entry.key != key and entry.phase == "attached":
                raise AlreadyExists(
                    f"{used.pop()} is in use by {entry.key} on this host; remove that first"
                )


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
