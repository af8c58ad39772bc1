"""Calico's status key per endpoint, for orchestrators that wait for it, and whoever looks.

`up` or `down`, and `error`: of a workload's that it cannot be enforced as it is stored, so it is
closed; of a host's that no interface belongs to it. Without a lease, as Felix writes them: a key
stays until its endpoint goes, or the agent finds it out of date at its start.

Only where `endpointReportingEnabled` says so. The loop tells by `apply` what the dataplane has; a
task of its own writes it, `endpointReportingDelay` after the first change, so that neither a slow
datastore nor a flapping link holds enforcement back.
"""

import asyncio
import logging
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping

import msgspec

from tortie.dataplane.manager.host_endpoint import HostEndpointStatus
from tortie.datastore.client import Client, Delete, Operation, Put, Txn
from tortie.desired.endpoint import EndpointId
from tortie.desired.kinds import Kind
from tortie.lib.backoff import Backoff
from tortie.lib.errors import TortieError
from tortie.model.keys import (
    FELIX,
    FELIX_V1,
    EndpointStatusKey,
    HostEndpointStatusKey,
    Key,
    ResourceKey,
    escape,
)

log = logging.getLogger(__name__)

_AT_ONCE = 100
"""Keys of one transaction: etcd's own limit is 128 unless configured."""


class EndpointReporter:
    """A consumer of the loop, and a task that writes.

    Args:
        endpoints_up: every endpoint here, and whether its link is up.
        closed: those here that are stored and cannot be enforced as they are: the object is
            wrong, or the kernel does not take it.
        host_endpoints: the status of every host endpoint here.
        in_sync: whether the kernel has all that it should have. What was not
            up before is not called up until then: `up` promises enforcement.
    """

    def __init__(
        self,
        client: Client,
        host: str,
        region: str,
        delay_seconds: float,
        endpoints_up: Callable[[], Mapping[EndpointId, bool]],
        closed: Callable[[], Iterable[EndpointId]],
        host_endpoints: Callable[[], Mapping[str, HostEndpointStatus]],
        in_sync: Callable[[], bool],
    ) -> None:
        self._client = client
        self._host = host
        self._region = region
        self._delay_seconds = delay_seconds
        self._endpoints_up = endpoints_up
        self._closed_now = closed
        self._host_endpoints_now = host_endpoints
        self._in_sync = in_sync
        self._up: dict[EndpointId, bool] = {}
        self._closed: frozenset[EndpointId] = frozenset()
        self._host_endpoints: dict[str, HostEndpointStatus] = {}
        self._written: dict[str, bytes] | None = None
        """What the datastore has; None means not known yet."""
        self._news = asyncio.Event()
        self._news.set()  # what an earlier agent wrote may be out of date

    def on_update(self, kind: Kind, name: Hashable, value: object | None) -> None:
        """Nothing to note: what counts is what the dataplane made of it."""

    async def apply(self) -> None:
        in_sync = self._in_sync()
        up = {
            endpoint: is_up and (in_sync or self._up.get(endpoint, False))
            for endpoint, is_up in self._endpoints_up().items()
        }
        host_endpoints = {
            name: status
            for name, status in self._host_endpoints_now().items()
            if in_sync or status != "up" or self._host_endpoints.get(name) == "up"
        }
        closed = frozenset(self._closed_now())
        if (up, closed, host_endpoints) != (self._up, self._closed, self._host_endpoints):
            self._up, self._closed, self._host_endpoints = up, closed, host_endpoints
            self._news.set()

    async def run(self) -> None:
        """Write what changes, for ever."""
        backoff = Backoff(1.0, 30.0)
        while True:
            await self._news.wait()
            await asyncio.sleep(self._delay_seconds)
            self._news.clear()
            try:
                await self._write()
            except TortieError as error:
                log.warning("endpoint status not written: %s", error)
                self._written = None
                self._news.set()
                await asyncio.sleep(backoff.next_seconds())
            else:
                backoff.reset()

    async def _write(self) -> None:
        if self._written is None:
            host = escape(self._host)
            self._written = {
                entry.key: entry.value
                for prefix in (
                    f"{FELIX}{self._region}/host/{host}/workload/",
                    f"{FELIX_V1}host/{host}/endpoint/",
                )
                for entry in (await self._client.list(prefix)).entries
            }
        written = self._written
        wanted = {
            self._path(endpoint): _value("up" if up else "down")
            for endpoint, up in self._up.items()
        }
        wanted |= {self._path(endpoint): _value("error") for endpoint in self._closed}
        wanted |= {
            HostEndpointStatusKey(self._host, name).path: _value(status)
            for name, status in self._host_endpoints.items()
        }
        changes: list[Operation] = [Delete(path) for path in written.keys() - wanted.keys()]
        changes += [Put(path, wanted[path]) for path in wanted if written.get(path) != wanted[path]]
        for start in range(0, len(changes), _AT_ONCE):
            await self._client.transact(Txn(success=changes[start : start + _AT_ONCE]))
        self._written = wanted

    def _path(self, endpoint: EndpointId) -> str:
        _, orchestrator, workload, name = name_parts(endpoint.name)
        key = EndpointStatusKey(
            self._host, orchestrator, f"{endpoint.namespace}/{workload}", name, self._region
        )
        return key.path


def invalid_here(host: str, wrong: Iterable[Key]) -> Iterator[EndpointId]:
    """Of objects that count as absent, the workload endpoints of a host: their names say whose."""
    for key in wrong:
        if not isinstance(key, ResourceKey) or key.kind != "WorkloadEndpoint":
            continue
        if name_parts(key.name)[0] == host:
            yield EndpointId(key.namespace, key.name)


def name_parts(name: str) -> tuple[str, str, str, str]:
    """Node, orchestrator, workload and endpoint, of which a WorkloadEndpoint's name is made.

    A dash inside a part is doubled; no part begins or ends with one. What is
    not of that form counts as a workload's name, all of it.
    """
    parts = [part.replace("\0", "-") for part in name.replace("--", "\0").split("-")]
    if len(parts) != 4:
        return "", "", name, ""
    node, orchestrator, workload, endpoint = parts
    return node, orchestrator, workload, endpoint


def _value(status: str) -> bytes:
    return msgspec.json.encode({"status": status})
