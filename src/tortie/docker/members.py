"""Learns from Docker's API who is behind each endpoint, and cleans up after those that are gone.

    events ──► look ──► networks: names            ──► records
                   └──► endpoint → container → labels ──► Endpoints.publish
                   └──► endpoints and addresses that Docker does not know ──► removed

Level-triggered: an event only says that it is time to look, and each look compares everything,
so that nothing is lost with a lost event, a restart of dockerd or of us. `connect` comes when
Docker has joined an endpoint and before it starts the container's process; libnetwork's list of
a network's endpoints, which waits for no container's lock, has its container by then.

What Docker does not list is removed at the second look in a row, `GONE_SECONDS` later: an
endpoint that is just being made is not listed yet.
"""

import asyncio
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from tortie.docker.api import Docker, Network
from tortie.docker.endpoints import Endpoint, Endpoints, Identity
from tortie.docker.forwarding import let_through
from tortie.docker.ipam_driver import IPAMDriver
from tortie.docker.leaks import Leaks
from tortie.docker.pools import Pools
from tortie.docker.profiles import endpoint_labels
from tortie.docker.records import Records
from tortie.docker.return_routes import Link, settle
from tortie.docker.settings import Settings
from tortie.lib.backoff import Backoff
from tortie.lib.errors import NotFound, TortieError, Unavailable

log = logging.getLogger(__name__)

DRIVERS = frozenset({"tortie", "calico"})
EVENTS = ["connect", "disconnect", "create", "destroy", "start"]
"""Of networks and containers."""

AGAIN_SECONDS = (1.0, 10.0)
"""To the next look while something is not as it should be: the first, and the longest."""
LOOK_SECONDS = 300.0
GONE_SECONDS = 15.0

# Not containers, in libnetwork's list of a network's endpoints.
_NOBODY, _BALANCER = "ep-", "lb-"


class Members:
    """One event loop only; `run` runs once."""

    def __init__(
        self,
        settings: Settings,
        docker: Docker,
        records: Records,
        endpoints: Endpoints,
        ipam: IPAMDriver,
        leaks: Leaks,
        pools: Pools,
    ) -> None:
        self._settings = settings
        self._docker = docker
        self._records = records
        self._endpoints = endpoints
        self._ipam = ipam
        self._leaks = leaks
        self._pools = pools
        self._news = asyncio.Event()
        self._labels: dict[str, dict[str, str]] = {}
        """By container; they never change."""
        self._several: set[str] = set()
        """Containers on more than one network, of whatever driver, as of Docker's last copy."""
        self._routed: dict[str, tuple[int, frozenset[str]]] = {}
        """Process and endpoints of containers, as their return routes are."""
        self._missing: dict[str, float] = {}
        """Endpoints that Docker did not list, and since when."""
        self._trouble = ""
        """Why the last look failed; empty if it did not."""
        self._told: set[str] = set()
        """Endpoints that the log has complained about."""

    async def run(self) -> None:
        """For ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch())
            tasks.create_task(self._look_again_and_again())

    async def _watch(self) -> None:
        backoff = Backoff(0.2, 2.0)
        said = False
        while True:
            try:
                async with self._docker.events(EVENTS) as events:
                    log.info("listening to Docker at %s", self._settings.docker)
                    said = False
                    backoff.reset()
                    self._news.set()
                    if self._settings.opens_forwarding:  # once per start of dockerd
                        await let_through(self._settings.workload_prefix)
                    async for _ in events:
                        self._news.set()
            except TortieError as error:
                if not said:
                    log.info("%s; waiting for it", error)
                said = True
            await asyncio.sleep(backoff.next_seconds())

    async def _look_again_and_again(self) -> None:
        again = Backoff(*AGAIN_SECONDS)
        quiet = False
        while True:
            self._news.clear()
            try:
                if quiet:
                    await self._endpoints.load()
                settled = await self.look()
                self._trouble = ""
            except Unavailable as error:
                self._trouble = str(error)
                settled = not any(True for _ in self._endpoints)
            except TortieError as error:
                self._trouble = str(error)
                log.warning("looking at Docker's containers failed, will try again: %s", error)
                settled = False
            self._complain()
            if settled:
                again.reset()
            try:
                async with asyncio.timeout(LOOK_SECONDS if settled else again.next_seconds()):
                    await self._news.wait()
                quiet = False
                again.reset()
            except TimeoutError:
                quiet = settled

    async def look(self) -> bool:
        """Compare once; False if there is more to do soon.

        Raises:
            Unavailable: Docker is away.
            TortieError: what was found could not be followed in full.
        """
        networks = await self._networks()
        containers = {
            endpoint_id: container_id
            for network in networks
            for container_id, attached in (network.containers or {}).items()
            if (endpoint_id := attached.endpoint_id)
        }
        await self._learn(set(containers.values()))
        settled = await self._publish(containers)
        await self._route(containers)
        gone = await self._remove_missing(containers.keys())
        known = {address for endpoint in self._endpoints for address in endpoint.addresses}
        await self._leaks.look(known, [text for network in networks for text in network.reserved])
        return settled and gone

    async def _networks(self) -> list[Network]:
        """Ours, in full where we have endpoints; their names go to the records."""
        used = {endpoint.network_id for endpoint in self._endpoints}
        known = {network.id for network in self._records.networks}
        found = []
        listed = await self._docker.networks()
        for network in listed:
            if network.id not in known and network.driver.partition(":")[0] not in DRIVERS:
                continue
            self._records.describe(
                network.id, name=network.name, internal=network.internal, driver=network.driver
            )
            if network.id not in used:
                found.append(network)
                continue
            try:
                found.append(await self._docker.network(network.id))
            except NotFound:
                continue
        for network_id in known - {network.id for network in listed} - used:
            self._records.forget(network_id)
        return found

    async def _learn(self, wanted: set[str]) -> None:
        """What is to be known of containers; those that are gone are forgotten."""
        self._labels = {known: self._labels[known] for known in wanted & self._labels.keys()}
        listed = await self._docker.containers() if wanted else []
        found = {container.id: container for container in listed if container.id in wanted}
        self._several = {name for name, container in found.items() if container.network_count > 1}
        for container_id in found.keys() - self._labels.keys():
            labels, bad = endpoint_labels(found[container_id].labels or {})
            if bad:
                log.warning(
                    "container %s: these cannot be labels of an endpoint: %s",
                    container_id[:12],
                    ", ".join(sorted(bad)),
                )
            self._labels[container_id] = labels
        # Swarm's own load balancer of a network is a member without labels.
        self._labels |= {name: {} for name in wanted if name.startswith(_BALANCER)}

    async def _publish(self, containers: dict[str, str]) -> bool:
        profiles = {
            network_id: await self._endpoints.profile(network)
            for network_id in sorted({endpoint.network_id for endpoint in self._endpoints})
            if (network := self._records.get(network_id)) and network.name
        }
        by_container: dict[str, list[Endpoint]] = defaultdict(list)
        unknown = False
        for endpoint in self._endpoints:
            container_id = containers.get(endpoint.id, "")
            if container_id.startswith(_NOBODY):
                continue  # it has not been joined; that is an event
            if container_id not in self._labels:
                unknown = True
                continue
            by_container[container_id].append(endpoint)
        tasks = [
            self._publish_container(container_id, endpoints, profiles)
            for container_id, endpoints in by_container.items()
        ]
        return all(await asyncio.gather(*tasks)) and not unknown

    async def _publish_container(
        self, container_id: str, endpoints: list[Endpoint], profiles: Mapping[str, str]
    ) -> bool:
        networks = {endpoint.network_id for endpoint in endpoints}
        if not networks <= profiles.keys():
            return False  # Docker has not told its name yet
        labels = self._labels[container_id] if self._settings.label_endpoints else {}
        names = sorted({profiles[network_id] for network_id in networks})
        identity = Identity(tuple(names), labels, container_id)
        try:
            # Docker's copy of the container lags behind: one that is new is looked at again.
            new = [await self._endpoints.publish(endpoint, identity) for endpoint in endpoints]
        except TortieError as error:
            log.warning("container %s: %s; will try again", container_id[:12], error)
            return False
        return not any(new)

    async def _route(self, containers: dict[str, str]) -> None:
        """Where a container has several links, each answers by itself."""
        by_container = Counter(
            containers[endpoint.id] for endpoint in self._endpoints if endpoint.id in containers
        )
        several = {name for name, count in by_container.items() if count > 1}
        several = {name for name in several if not name.startswith((_NOBODY, _BALANCER))}
        concerned = several | self._several | (self._routed.keys() & by_container.keys())
        self._routed = {known: self._routed[known] for known in concerned & self._routed.keys()}
        for container_id in sorted(concerned):
            links = self._links(containers, container_id)
            process = await self._docker.process_of(container_id)
            now = process, frozenset(link.address.address_text for link in links)
            if not process or not links or self._routed.get(container_id) == now:
                continue
            pools = sorted(await self._pools.names())
            try:
                done = await asyncio.to_thread(settle, process, links, pools)
            except TortieError as error:
                log.warning("container %s: return routes: %s", container_id[:12], error)
                continue
            if done:
                self._routed[container_id] = now

    def _links(self, containers: dict[str, str], container_id: str) -> list[Link]:
        found = []
        for endpoint in self._endpoints:
            network = self._records.get(endpoint.network_id)
            if network is None or containers.get(endpoint.id) != container_id:
                continue
            found += [
                Link(address, network.gateway(address.family), network.number)
                for address in endpoint.addresses
            ]
        return sorted(found, key=lambda link: link.number)

    async def _remove_missing(self, listed: Iterable[str]) -> bool:
        """False if some may have to go at a later look."""
        there = set(listed)
        now = time.monotonic()
        missing = [endpoint for endpoint in self._endpoints if endpoint.id not in there]
        self._missing = {e.id: self._missing.get(e.id, now) for e in missing}
        for endpoint in missing:
            if now - max(self._missing[endpoint.id], endpoint.since) < GONE_SECONDS:
                continue
            log.warning("endpoint %s: Docker does not know it; removed", endpoint.id[:12])
            await self._endpoints.remove(endpoint.id)
            for address in endpoint.addresses:
                await self._ipam.release(address)
        return not missing

    def _complain(self) -> None:
        """Once, about each endpoint that is still closed because nobody knows whose it is."""
        now = time.monotonic()
        held = [endpoint for endpoint in self._endpoints if endpoint.is_held]
        self._told &= {endpoint.id for endpoint in held}
        for endpoint in held:
            late = now - endpoint.since > self._settings.patience_seconds
            if late and endpoint.id not in self._told:
                self._told.add(endpoint.id)
                log.warning(
                    "endpoint %s of network %s stays closed, for nobody knows whose it is: %s",
                    endpoint.id[:12],
                    endpoint.network_id[:12],
                    self._trouble or f"Docker at {self._settings.docker} has not told",
                )
