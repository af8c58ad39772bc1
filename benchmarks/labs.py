"""Labs for benchmarks: made, used, and always taken down."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

from tortie.datastore.client import Client
from tortie.datastore.connect import connect, from_environment
from tortie.lab import cluster, description
from tortie.lab.description import Datastore, Lab

T = TypeVar("T")


@contextlib.contextmanager
def lab(name: str, hosts: int, datastore: Datastore = "embedded") -> Iterator[Lab]:
    if cluster.exists(name):
        cluster.down(name)
    planned = description.plan(name, hosts, datastore, "direct", ipv6=False)
    cluster.up(planned, lambda _: None)
    try:
        yield planned
    finally:
        cluster.down(name)


def with_client(of: Lab, act: Callable[[Client], Awaitable[T]]) -> T:
    async def run() -> T:
        client = await connect(from_environment(cluster.environment(of)))
        try:
            return await act(client)
        finally:
            await client.close()

    return asyncio.run(run())


def memory_mib(pid: int) -> tuple[float, float]:
    """Resident now, and at its peak."""
    fields = {}
    with open(f"/proc/{pid}/status") as status:
        for line in status:
            name, _, value = line.partition(":")
            fields[name] = value.split()
    return int(fields["VmRSS"][0]) / 1024, int(fields["VmHWM"][0]) / 1024
