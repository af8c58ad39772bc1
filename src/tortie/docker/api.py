"""Docker's own API, as much of it as we ask: networks, containers' labels, events.

Asked in HTTP/1.0, so that an answer simply ends with its connection, and a stream of events is
lines until then. Never called while Docker waits for us: dockerd asks its plugins while it
starts, before its API answers, and under locks that its API wants, too.

Source: Docker Engine API v1.24 and later.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import msgspec

from tortie.lib.errors import NotFound, TortieError, Unavailable

ANSWER_SECONDS = 20.0
HEAD_MAX_BYTES = 64 << 10
ANSWER_MAX_BYTES = 64 << 20
"""Thousands of containers; an event is far smaller."""

T = TypeVar("T")


class Network(msgspec.Struct, frozen=True, rename="pascal"):
    id: str = ""
    name: str = ""
    driver: str = ""
    internal: bool = False
    ipam: "IPAM | None" = msgspec.field(default=None, name="IPAM")
    containers: "dict[str, Attachment] | None" = None
    """By container id; filled in where one network is asked for."""

    @property
    def reserved(self) -> Iterator[str]:
        """Addresses that the network holds without an endpoint."""
        for config in self.ipam.config or () if self.ipam else ():
            yield from (config.auxiliary_addresses or {}).values()


class IPAMConfig(msgspec.Struct, frozen=True, rename="pascal"):
    auxiliary_addresses: dict[str, str] | None = None


class IPAM(msgspec.Struct, frozen=True, rename="pascal"):
    driver: str = ""
    config: list[IPAMConfig] | None = None


class Attachment(msgspec.Struct, frozen=True):
    endpoint_id: str = msgspec.field(default="", name="EndpointID")
    name: str = msgspec.field(default="", name="Name")


class NetworkSettings(msgspec.Struct, frozen=True, rename="pascal"):
    networks: dict[str, msgspec.Raw] | None = None


class Container(msgspec.Struct, frozen=True, rename="pascal"):
    id: str = ""
    labels: dict[str, str] | None = None
    network_settings: NetworkSettings | None = None

    @property
    def network_count(self) -> int:
        settings = self.network_settings
        return len(settings.networks or ()) if settings else 0


class State(msgspec.Struct, frozen=True, rename="pascal"):
    pid: int = 0
    """0: it does not run."""


class Inspected(msgspec.Struct, frozen=True, rename="pascal"):
    state: State | None = None


class _Swarm(msgspec.Struct, frozen=True, rename="pascal"):
    control_available: bool = False
    """This node is one of its managers."""


class _Info(msgspec.Struct, frozen=True, rename="pascal"):
    swarm: _Swarm | None = None


class _TaskNetwork(msgspec.Struct, frozen=True, rename="pascal"):
    addresses: list[str] | None = None


class _Task(msgspec.Struct, frozen=True, rename="pascal"):
    networks_attachments: list[_TaskNetwork] | None = None


class _Virtual(msgspec.Struct, frozen=True, rename="pascal"):
    addr: str = ""


class _Endpoint(msgspec.Struct, frozen=True, rename="pascal"):
    virtual_ips: list[_Virtual] | None = msgspec.field(default=None, name="VirtualIPs")


class _Service(msgspec.Struct, frozen=True, rename="pascal"):
    endpoint: _Endpoint | None = None


class Docker:
    """One dockerd, by its socket; a connection for each question."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def networks(self) -> list[Network]:
        """All of them, without their containers.

        Raises:
            Unavailable: dockerd does not run, or not yet.
        """
        return _decoded(await self._get("/networks"), list[Network])

    async def network(self, network_id: str) -> Network:
        """With its containers, as libnetwork knows them: also those that are being started.

        Raises:
            NotFound: it is gone.
            Unavailable: dockerd does not run, or not yet.
        """
        return _decoded(await self._get(f"/networks/{quote(network_id, safe='')}"), Network)

    async def containers(self) -> list[Container]:
        """All of them, running or not. From a copy that dockerd keeps: waits for no lock.

        Raises:
            Unavailable: dockerd does not run, or not yet.
        """
        return _decoded(await self._get("/containers/json?all=1"), list[Container])

    async def process_of(self, container_id: str) -> int:
        """A running container's first process; 0 if it does not run.

        Waits while Docker starts or stops it.

        Raises:
            NotFound: it is gone.
            Unavailable: dockerd does not run, or not yet.
        """
        raw = await self._get(f"/containers/{quote(container_id, safe='')}/json")
        state = _decoded(raw, Inspected).state
        return state.pid if state else 0

    async def swarm_addresses(self) -> set[str] | None:
        """Of all tasks of swarm mode, also of those that have ended, and of services; with the
        length of their subnet. None if this node is none of its managers.

        Raises:
            Unavailable: dockerd does not run, or the swarm has no leader.
        """
        swarm = _decoded(await self._get("/info"), _Info).swarm
        if swarm is None or not swarm.control_available:
            return None
        tasks = _decoded(await self._get("/tasks"), list[_Task])
        services = _decoded(await self._get("/services"), list[_Service])
        return {
            *(
                address
                for task in tasks
                for attached in task.networks_attachments or ()
                for address in attached.addresses or ()
            ),
            *(
                virtual.addr
                for service in services
                for virtual in (service.endpoint and service.endpoint.virtual_ips) or ()
                if virtual.addr
            ),
        }

    @contextlib.asynccontextmanager
    async def events(self, names: list[str]) -> AsyncIterator[AsyncIterator[bytes]]:
        """What happens from now on, a line each.

        Args:
            names: of the events that count.

        Raises:
            Unavailable: dockerd does not run, or ended.
        """
        filters = quote(json.dumps({"event": names}), safe="")
        async with self._ask(f"/events?filters={filters}") as reader:
            yield _lines(reader, self._path)

    async def _get(self, target: str) -> bytes:
        try:
            async with asyncio.timeout(ANSWER_SECONDS), self._ask(target) as reader:
                found = bytearray()
                while part := await reader.read(1 << 20):
                    found += part
                    if len(found) > ANSWER_MAX_BYTES:
                        raise Unavailable(f"Docker at {self._path} answers without an end")
                return bytes(found)
        except TimeoutError:
            raise Unavailable(
                f"Docker at {self._path} did not answer within {ANSWER_SECONDS:g} s"
            ) from None

    @contextlib.asynccontextmanager
    async def _ask(self, target: str) -> AsyncIterator[asyncio.StreamReader]:
        """The body of an answer that is good."""
        try:
            reader, writer = await asyncio.open_unix_connection(self._path, limit=1 << 20)
        except OSError as error:
            raise Unavailable(f"Docker at {self._path}: {error.strerror}") from None
        try:
            writer.write(f"GET {target} HTTP/1.0\r\nHost: docker\r\n\r\n".encode())
            async with asyncio.timeout(ANSWER_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
            status = head.split(b" ", 2)[1]
            if status != b"200":
                raise await _failure(status, reader, target)
            yield reader
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, IndexError):
            raise Unavailable(f"Docker at {self._path} broke off in the middle") from None
        except TimeoutError:
            raise Unavailable(f"Docker at {self._path} does not answer") from None
        finally:
            writer.close()


async def _lines(reader: asyncio.StreamReader, path: Path) -> AsyncIterator[bytes]:
    while line := await reader.readline():
        yield line
    raise Unavailable(f"Docker at {path} ended")


async def _failure(status: bytes, reader: asyncio.StreamReader, target: str) -> TortieError:
    async with asyncio.timeout(ANSWER_SECONDS):
        text = await reader.read(HEAD_MAX_BYTES)
    message = f"Docker refuses {target}: {text.decode(errors='replace').strip()}"
    return NotFound(message) if status == b"404" else Unavailable(message)


def _decoded(raw: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Unavailable(f"Docker's answer is not as expected: {error}") from None
