"""The endpoints of this host's containers: made, opened when known, removed.

    CreateEndpoint ──► create: link, and either   held     no endpoint: nothing passes
                                          or      plain    endpoint with its network's profile
    Docker's API   ──► publish: endpoint with all profiles and labels of its container
    DeleteEndpoint ──► remove

Docker tells a driver neither a network's name nor a container's labels, so at first an endpoint
is less than it will be. It is held where that could make it more open: while the name of its
network is unknown there is no profile, and as soon as there is any policy, one may select it by
a label that it does not have yet. Without policies the profile alone decides, now and later.

A container on several networks is one workload with several addresses. Each of its endpoints has
the profiles of all its networks; which of its addresses it uses changes nothing.

Everything in the kernel and in the datastore is done by the agent's attach service, whose
journal outlives both of us; here is only memory, loaded from there.
"""

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

from tortie.attach.client import Client as AttachClient
from tortie.docker.profiles import Profiles, profile_name
from tortie.docker.records import Network, Records
from tortie.docker.settings import Settings
from tortie.lib.errors import Unavailable
from tortie.lib.ip import Network as IPNetwork
from tortie.lib.ip import parse_network

log = logging.getLogger(__name__)

T = TypeVar("T")

ORCHESTRATOR = "libnetwork"
"""Also the namespace and the workload of every endpoint. Source: Calico, libnetwork-plugin."""

CALL_SECONDS = 45.0
AGENT_SECONDS = 20.0
"""How long a restart of the agent may take before containers fail to start."""
_PAUSE_SECONDS = 0.3


class Identity(NamedTuple):
    """What policy sees of a container."""

    profiles: tuple[str, ...]
    labels: dict[str, str]
    container_id: str = ""


class Endpoint:
    """One link of a container; changed under its lock only."""

    def __init__(
        self, endpoint_id: str, network_id: str, addresses: tuple[IPNetwork, ...], mac: str
    ) -> None:
        self.id = endpoint_id
        self.network_id = network_id
        self.addresses = addresses
        self.mac = mac
        self.identity: Identity | None = None
        """As enforced; None while Docker has not told us."""
        self.is_held = False
        self.since = time.monotonic()
        self.lock = asyncio.Lock()

    @property
    def temporary_name(self) -> str:
        """Of the container's end, until Docker takes and renames it; at most 15 characters."""
        return f"tmp{hashlib.sha256(self.id.encode()).hexdigest()[:11]}"


class Endpoints:
    """All of this host, by id; one event loop only."""

    def __init__(self, settings: Settings, records: Records, profiles: Profiles) -> None:
        self._settings = settings
        self._records = records
        self._profiles = profiles
        self._endpoints: dict[str, Endpoint] = {}

    def __iter__(self) -> Iterator[Endpoint]:
        return iter(list(self._endpoints.values()))

    def get(self, endpoint_id: str) -> Endpoint | None:
        return self._endpoints.get(endpoint_id)

    async def load(self) -> None:
        """What a process before us made, or a call that nobody waited for any more.

        Raises:
            Unavailable: the agent does not run.
        """
        listed = await self._ask(lambda agent: agent.list())
        for found in listed:
            if found["key"]["orchestrator"] != ORCHESTRATOR or not found["network"]:
                continue
            addresses = tuple(map(parse_network, found["addresses"]))
            endpoint_id = found["key"]["endpoint"]
            endpoint = Endpoint(endpoint_id, found["network"], addresses, found["mac"])
            endpoint.is_held = not found["revision"]
            self._endpoints.setdefault(endpoint_id, endpoint)
            self._records.ensure(endpoint.network_id)

    async def create(self, endpoint: Endpoint) -> None:
        """Make the link, and open it as far as is right before more is known.

        Raises:
            AlreadyExists: one of its addresses is in use.
            Unavailable: agent or datastore are away; nothing is left.
        """
        async with endpoint.lock:
            network = self._records.ensure(endpoint.network_id)
            plain = await self._plain(network)
            endpoint.is_held = plain is None
            before = self._endpoints.get(endpoint.id)  # where Docker asks again
            self._endpoints[endpoint.id] = endpoint
            try:
                await self._add(endpoint, network, plain or Identity((), {}))
            except BaseException:
                self._endpoints.pop(endpoint.id, None)
                if before is not None:
                    self._endpoints[endpoint.id] = before
                raise

    async def publish(self, endpoint: Endpoint, identity: Identity) -> bool:
        """Let policy see a container as it is, unless it is gone meanwhile; True if that is news.

        Raises:
            TortieError: not done; to be tried again.
        """
        async with endpoint.lock:
            if self._endpoints.get(endpoint.id) is not endpoint or endpoint.identity == identity:
                return False
            network = self._records.ensure(endpoint.network_id)
            was_held, endpoint.is_held = endpoint.is_held, False
            try:
                await self._add(endpoint, network, identity)
            except BaseException:
                endpoint.is_held = was_held
                raise
            endpoint.identity = identity
            return True

    async def remove(self, endpoint_id: str) -> None:
        """No packet passes when this returns; also for one that nobody knows.

        Raises:
            Unavailable: the agent is away.
        """
        endpoint = self._endpoints.get(endpoint_id)
        async with endpoint.lock if endpoint else contextlib.nullcontext():
            await self._ask(
                lambda agent: agent.remove(**_key(endpoint_id), wait_for_link=False),
            )
            if self._endpoints.get(endpoint_id) is endpoint:
                self._endpoints.pop(endpoint_id, None)

    async def profile(self, network: Network) -> str:
        """The network's profile, made if it is not there and ours to make."""
        if self._settings.create_profiles:
            return await self._profiles.ensure(network.name, internal=network.internal)
        return profile_name(network.name, internal=network.internal)

    async def _plain(self, network: Network) -> Identity | None:
        """What an endpoint may be before its container is known; None: nothing yet."""
        if not network.name:
            return None
        if self._settings.label_endpoints and await self._profiles.has_policies():
            return None
        return Identity((await self.profile(network),), {})

    async def _add(self, endpoint: Endpoint, network: Network, identity: Identity) -> None:
        families = sorted({address.family for address in endpoint.addresses})
        request = {
            **_key(endpoint.id),
            "device": "pair",
            "inside": endpoint.temporary_name,
            "ipam": False,
            "addresses": [address.address_text for address in endpoint.addresses],
            "mac": endpoint.mac,
            "mtu": self._settings.mtu,
            "gateways": [network.gateway(family).address_text for family in families],
            "network": endpoint.network_id,
            "held": endpoint.is_held,
            "profiles": list(identity.profiles),
            "labels": identity.labels,
            "container_id": identity.container_id,
        }
        await self._ask(lambda agent: agent.add(**request))

    async def _ask(self, call: Callable[[AttachClient], T]) -> T:
        """Call the agent, in a thread; one that is being restarted is waited for."""
        give_up = time.monotonic() + AGENT_SECONDS
        while True:
            try:
                return await asyncio.to_thread(self._call, call)
            except Unavailable as error:
                absent = isinstance(error.__cause__, FileNotFoundError | ConnectionError)
                if not absent or time.monotonic() > give_up:
                    raise
            await asyncio.sleep(_PAUSE_SECONDS)

    def _call(self, call: Callable[[AttachClient], T]) -> T:
        with AttachClient(self._settings.agent) as agent:
            return call(agent)


def made_mac(endpoint_id: str) -> str:
    """A MAC for who did not ask for one: local, unicast, the same for the same endpoint."""
    digest = hashlib.sha256(endpoint_id.encode()).digest()
    return ":".join(f"{byte:02x}" for byte in (0x02, *digest[:5]))


def _key(endpoint_id: str) -> dict[str, Any]:
    return {
        "namespace": ORCHESTRATOR,
        "orchestrator": ORCHESTRATOR,
        "workload": ORCHESTRATOR,
        "endpoint": endpoint_id,
        "timeout_seconds": CALL_SECONDS,
    }
