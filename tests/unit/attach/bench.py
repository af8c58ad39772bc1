"""An attacher over the in-memory datastore, with a counter of every step it takes.

`Steps.fail_at(n, error)` makes the n-th step raise, before or after it took
effect, whichever component it belongs to: datastore, links or journal. So a
test can walk through all points at which a call can die.
"""

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tests.unit.ipam.invariants import allocated, check

from tortie.attach.addition import Settings
from tortie.attach.attacher import Attacher
from tortie.attach.journal import Entry, Journal
from tortie.attach.plumbing import Plumbing, Wanted
from tortie.attach.requests import Add, Check, Device, Remove, WorkloadKey
from tortie.datastore.memory import MemoryClient, MemoryStore
from tortie.ipam.allocator import Allocator
from tortie.lib.ip import Network
from tortie.model.codec import encode
from tortie.model.keys import ResourceKey
from tortie.model.metadata import Metadata
from tortie.model.node import IPPool, IPPoolSpec

ENDPOINTS = "/calico/resources/v3/projectcalico.org/workloadendpoints/"
Moment = Literal["before", "after"]


class Crash(Exception):
    """The process dies here."""


class Steps:
    def __init__(self) -> None:
        self.taken: list[str] = []
        self._at = 0
        self._moment: Moment = "before"
        self._error: Exception | None = None

    def fail_at(self, at: int, moment: Moment, error: Exception) -> None:
        self.taken = []
        self._at, self._moment, self._error = at, moment, error

    def take(self, moment: Moment, name: str) -> None:
        if moment == "before":
            self.taken.append(name)
        if self._error is not None and len(self.taken) == self._at and moment == self._moment:
            error, self._error = self._error, None
            raise error

    def disarm(self) -> None:
        self._error = None

    @property
    def failed(self) -> bool:
        """Was there an n-th step?"""
        return self._error is None


class FakeLink(NamedTuple):
    """`Made`; notes its addresses where its plumbing keeps them."""

    plumbing: "FakePlumbing"
    wanted: Wanted

    @property
    def mac(self) -> str:
        return self.wanted.mac or "02:00:00:00:00:01"

    async def configure(self, addresses: Sequence[Network]) -> None:
        self.plumbing.steps.take("before", "configure")
        self.plumbing.addresses[self.wanted.interface] = tuple(addresses)
        self.plumbing.steps.take("after", "configure")

    def close(self) -> None:
        self.plumbing.open -= 1


class FakePlumbing(Plumbing):
    """Links in a dict, by host end. What a host's kernel would hold."""

    def __init__(self, steps: Steps) -> None:
        self.links: dict[str, Wanted] = {}
        self.addresses: dict[str, tuple[Network, ...]] = {}
        self.steps = steps
        self.open = 0
        """Links that somebody has not closed yet."""

    async def make(self, wanted: Wanted) -> FakeLink:
        self.steps.take("before", "make")
        self.links[wanted.interface] = wanted
        self.steps.take("after", "make")
        self.open += 1
        return FakeLink(self, wanted)

    async def disconnect(self, interface: str, device: Device = "veth") -> bool:
        self.steps.take("before", "disconnect")
        found = self.links.pop(interface, None) is not None
        self.addresses.pop(interface, None)
        self.steps.take("after", "disconnect")
        return found

    async def problems(self, wanted: Wanted, addresses: Sequence[Network]) -> list[str]:
        return [] if wanted.interface in self.links else ["no link"]


class CountedJournal(Journal):
    def __init__(self, directory: Path, steps: Steps) -> None:
        super().__init__(directory)
        self._steps = steps
        self.full = False

    def note(self, entry: Entry) -> None:
        self._steps.take("before", "journal")
        super().note(entry)
        self._steps.take("after", "journal")

    def _append(self, path: Path, content: bytes) -> None:
        self._refuse_if_full()
        super()._append(path, content)

    def _refuse_if_full(self) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def forget(self, key: WorkloadKey) -> None:
        self._steps.take("before", "forget")
        super().forget(key)
        self._steps.take("after", "forget")


class Bench:
    """A cluster with one pool, and one attacher for each host that is asked for."""

    def __init__(self, directory: Path) -> None:
        self.store = MemoryStore(clock=lambda: 0.0)
        self.steps = Steps()
        self.directory = directory
        self.plumbing: dict[str, FakePlumbing] = {}
        self.waited: list[int] = []
        self.wait_error: Exception | None = None
        self.is_ready = False
        """Known to be ready: then nothing is read for a new container."""
        self.on_wait: Callable[[int, float], Awaitable[None]] = self._wait
        """What enforcing takes; tests may replace it."""
        self.journals: dict[str, CountedJournal] = {}
        self.clients: dict[str, MemoryClient] = {}
        self.hosts: dict[str, Attacher] = {}
        for name, cidr in (("v4", "10.65.0.0/24"), ("v6", "fd00:65::/116")):
            key = ResourceKey("IPPool", name)
            pool = IPPool(metadata=Metadata(name=name), spec=IPPoolSpec(cidr=cidr))
            self.put(key, pool)

    def put(self, key: Any, value: Any) -> None:
        self.run(MemoryClient(self.store).put(key.path, encode(key, value)))

    def host(self, name: str = "h1") -> Attacher:
        if name not in self.hosts:
            self.restart(name)
        return self.hosts[name]

    def restart(self, name: str = "h1", prefix: str = "cali") -> Attacher:
        """A new process: only datastore, kernel and disk are as they were."""

        async def fault(moment: Moment, call: str) -> None:
            self.steps.take(moment, call)

        plumbing = self.plumbing.setdefault(name, FakePlumbing(self.steps))
        journal = self.journals[name] = CountedJournal(self.directory / name, self.steps)
        client = self.clients[name] = MemoryClient(self.store, fault)

        async def wait(revision: int, timeout_seconds: float) -> None:
            await self.on_wait(revision, timeout_seconds)

        self.hosts[name] = Attacher(
            Settings(name, prefix),
            client,
            plumbing,
            journal,
            wait,
            # Views are kept, as by the agent: what they rest on is compared.
            Allocator(client, name, unchanged=lambda: 0),
            lambda: self.is_ready,
        )
        return self.hosts[name]

    async def _wait(self, revision: int, timeout_seconds: float) -> None:
        self.steps.take("before", "wait")
        if self.wait_error is not None:
            raise self.wait_error
        self.waited.append(revision)
        self.steps.take("after", "wait")

    def run(self, call: Awaitable[Any]) -> Any:
        async def go() -> Any:
            return await call

        return asyncio.run(go())

    def add(self, workload: str = "web", host: str = "h1", **fields: Any) -> Any:
        return self.run(self.host(host).add(request(workload, **fields)))

    def remove(self, workload: str = "web", host: str = "h1", **fields: Any) -> Any:
        wanted = Remove(namespace="prod", workload=workload, **fields)
        return self.run(self.host(host).remove(wanted))

    def check(self, workload: str = "web", host: str = "h1") -> tuple[str, ...]:
        wanted = Check(namespace="prod", workload=workload)
        problems: tuple[str, ...] = self.run(self.host(host).check(wanted)).problems
        return problems

    def entries(self) -> dict[str, bytes]:
        entries = {entry.key: entry.value for entry in self.store.entries("/calico/")}
        assert check(entries) == []
        return entries

    def endpoints(self) -> list[str]:
        return [
            path.removeprefix(ENDPOINTS) for path in self.entries() if path.startswith(ENDPOINTS)
        ]

    def addresses(self) -> dict[str, str]:
        return allocated(self.entries())

    def left_overs(self, host: str = "h1") -> list[object]:
        """Anything that a workload could leave behind; empty when none is there."""
        return [
            *self.endpoints(),
            *self.addresses(),
            *self.plumbing[host].links,
            *(self.directory / host).iterdir(),
        ]


def request(workload: str = "web", **fields: Any) -> Add:
    values: dict[str, Any] = {"namespace": "prod", "netns": f"/run/netns/{workload}", **fields}
    return Add(workload=workload, **values)
