"""The Docker service, put together: sockets first, then what they need.

The sockets are there before the datastore or the agent answer, for dockerd must find its
plugins when it starts; calls that come too early wait a little, and then say what is missing.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from tortie.datastore.client import Client
from tortie.docker import ipam_driver, network_driver
from tortie.docker.api import Docker
from tortie.docker.endpoints import Endpoints
from tortie.docker.ipam_driver import IPAMDriver
from tortie.docker.leaks import Leaks
from tortie.docker.members import Members
from tortie.docker.network_driver import NetworkDriver
from tortie.docker.plugin_server import Method, PluginServer
from tortie.docker.pools import Pools
from tortie.docker.profiles import Profiles
from tortie.docker.records import Records
from tortie.docker.settings import Scope, Settings
from tortie.lib.backoff import Backoff
from tortie.lib.errors import Unavailable

log = logging.getLogger(__name__)

T = TypeVar("T")

READY_SECONDS = 20.0
"""How long a call waits for what is not there yet."""

BOTH = ("NetworkDriver", "IpamDriver")


class _Face(NamedTuple):
    """One socket: what it is called, and what it says it is."""

    file: str
    implements: tuple[str, ...]
    interface_prefix: str


FACES = (
    _Face("tortie.sock", BOTH, "eth"),
    _Face("tortie-ipam.sock", BOTH[1:], ""),
    _Face("calico.sock", BOTH[:1], "cali"),
    _Face("calico-ipam.sock", BOTH[1:], ""),
)


class Service:
    """
    Args:
        connect: reaches the datastore; raises `Unavailable` while that is away.
    """

    def __init__(self, settings: Settings, connect: Callable[[], Awaitable[Client]]) -> None:
        self._settings = settings
        self._connect = connect
        self._records = Records(settings.state)
        self._ready: asyncio.Future[_Parts] | None = None
        self._missing = ""
        """Why calls cannot be answered yet."""

    async def run(self, listening: Callable[[], object] = lambda: None) -> None:
        """Serve until cancelled.

        Args:
            listening: called when every socket is there.

        Raises:
            AlreadyExists: another one runs.
            Denied: a place that should be ours alone is not.
        """
        self._ready = asyncio.get_running_loop().create_future()
        swarm = _Face("", BOTH, "eth")
        servers = [
            PluginServer(self._settings.swarm, self._methods(swarm, "global")),
            *(
                PluginServer(
                    self._settings.plugins / face.file, self._methods(face, self._settings.scope)
                )
                for face in FACES
            ),
        ]
        for server in servers:
            server.open()
        listening()
        async with asyncio.TaskGroup() as tasks:
            for server in servers:
                tasks.create_task(server.run())
            tasks.create_task(self._work())

    async def _work(self) -> None:
        """Reach datastore and agent, however long it takes; then follow Docker for ever."""
        client = await self._patiently(self._connect, "the datastore is not reachable")
        try:
            endpoints = Endpoints(self._settings, self._records, Profiles(client))
            ipam = IPAMDriver(client, self._settings.host, self._records)
            docker = Docker(self._settings.docker)
            leaks = Leaks(client, self._settings.host, docker)
            pools = Pools(client)
            members = Members(self._settings, docker, self._records, endpoints, ipam, leaks, pools)
            await self._patiently(endpoints.load, "the agent is not reachable")
            assert self._ready is not None, "made by `run`"
            self._ready.set_result(_Parts(endpoints, ipam))
            await members.run()
        finally:
            await client.close()

    async def _patiently(self, attempt: Callable[[], Awaitable[T]], what: str) -> T:
        backoff = Backoff(0.1, 2.0)
        while True:
            try:
                return await attempt()
            except Unavailable as error:
                if self._missing != f"{what}: {error}":
                    self._missing = f"{what}: {error}"
                    log.warning("%s; will try again", self._missing)
            await asyncio.sleep(backoff.next_seconds())

    def _methods(self, face: _Face, scope: Scope) -> Mapping[str, Method]:
        found = {"Plugin.Activate": _constant({"Implements": face.implements})}
        if "NetworkDriver" in face.implements:
            prefix = self._settings.interface_prefix or face.interface_prefix
            capabilities = {"Scope": scope, "ConnectivityScope": "global"}
            found["NetworkDriver.GetCapabilities"] = _constant(capabilities)
            for name, call in network_driver.CALLS.items():
                found[f"NetworkDriver.{name}"] = self._network_method(call, prefix)
        if "IpamDriver" in face.implements:
            found["IpamDriver.GetCapabilities"] = _constant(ipam_driver.CAPABILITIES)
            found["IpamDriver.GetDefaultAddressSpaces"] = _constant(ipam_driver.SPACES)
            for name, call_ipam in ipam_driver.CALLS.items():
                found[f"IpamDriver.{name}"] = self._ipam_method(call_ipam)
        return found

    def _network_method(self, call: network_driver.Call, prefix: str) -> Method:
        async def method(body: bytes) -> Mapping[str, Any]:
            parts = await self._parts()
            return await call(NetworkDriver(self._records, parts.endpoints, prefix), body)

        return method

    def _ipam_method(self, call: ipam_driver.Call) -> Method:
        async def method(body: bytes) -> Mapping[str, Any]:
            return await call((await self._parts()).ipam, body)

        return method

    async def _parts(self) -> "_Parts":
        """
        Raises:
            Unavailable: datastore or agent could not be reached yet.
        """
        assert self._ready is not None, "asked while `run` runs"
        try:
            return await asyncio.wait_for(asyncio.shield(self._ready), READY_SECONDS)
        except TimeoutError:
            raise Unavailable(self._missing) from None


class _Parts(NamedTuple):
    endpoints: Endpoints
    ipam: IPAMDriver


def _constant(answer: Mapping[str, Any]) -> Method:
    async def method(_: bytes) -> Mapping[str, Any]:
        return answer

    return method
