"""Several processes on one store, some of them killed: no address twice, none lost."""

import asyncio
import os
import random
import signal
from pathlib import Path
from typing import NoReturn

import pytest
from tests.unit.ipam.invariants import allocated, check

from tortie.datastore.embedded import EmbeddedClient
from tortie.ipam.allocator import Allocator
from tortie.lib.errors import TortieError
from tortie.model.codec import encode
from tortie.model.keys import ResourceKey
from tortie.model.metadata import Metadata
from tortie.model.node import IPPool, IPPoolSpec

PROCESSES = 4
HANDLES_EACH = 16


def entries(path: Path) -> dict[str, bytes]:
    async def go() -> dict[str, bytes]:
        client = EmbeddedClient(path)
        listing = await client.list("/calico/")
        await client.close()
        return {entry.key: entry.value for entry in listing.entries}

    return asyncio.run(go())


def prepare(path: Path, cidr: str, block_size: int) -> None:
    async def go() -> None:
        client = EmbeddedClient(path)
        key = ResourceKey("IPPool", "pool")
        spec = IPPoolSpec(cidr=cidr, block_size=block_size)
        await client.put(key.path, encode(key, IPPool(metadata=Metadata(name="pool"), spec=spec)))
        await client.close()

    asyncio.run(go())


def start(path: Path, host: str, seed: int, *, die: bool) -> int:
    """A process that assigns and releases; with `die` it is killed in the middle."""
    pid = os.fork()
    if pid == 0:
        _work(path, host, seed, die)
    return pid


def _work(path: Path, host: str, seed: int, die: bool) -> NoReturn:
    chance = random.Random(seed)

    async def go() -> None:
        client = EmbeddedClient(path)
        allocator = Allocator(client, host)
        for number in range(HANDLES_EACH):
            handle = f"{host}.{seed}.{number}"
            found = await allocator.assign({4}, handle, {})
            assert found == await allocator.assign({4}, handle, {})
            if die and number == HANDLES_EACH // 2:
                delay = chance.random() * 0.02
                asyncio.get_running_loop().call_later(delay, os.kill, os.getpid(), signal.SIGKILL)
            if number % 2:
                await allocator.release(handle)
        await client.close()

    code = 1
    try:
        asyncio.run(go())
        code = 0
    finally:
        os._exit(code)


@pytest.mark.parametrize("same_host", [True, False])
def test_processes_race_and_die(tmp_path: Path, same_host: bool) -> None:
    """Blocks of 4 addresses: every few assignments claim, and all fight for the pool."""
    path = tmp_path / "datastore.db"
    prepare(path, "10.9.0.0/24", 30)
    hosts = ["h" if same_host else f"h{number}" for number in range(PROCESSES)]
    pids = [start(path, host, n, die=n % 2 == 1) for n, host in enumerate(hosts)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    assert codes[0] == codes[2] == 0
    stored = entries(path)
    assert check(stored) == []
    held = allocated(stored)
    survivors = {f"{hosts[n]}.{n}.{number}" for n in (0, 2) for number in range(0, HANDLES_EACH, 2)}
    assert survivors <= set(held.values())

    async def clean() -> None:
        client = EmbeddedClient(path)
        allocator = Allocator(client, "h")
        for handle in sorted(set(held.values())):
            await allocator.release(handle)
        await client.close()

    asyncio.run(clean())
    assert allocated(entries(path)) == {}
    assert check(entries(path)) == []


def test_a_full_pool_is_shared_out_to_the_last_address(tmp_path: Path) -> None:
    path = tmp_path / "datastore.db"
    prepare(path, "10.9.0.0/27", 30)
    pids = []
    for number in range(PROCESSES):
        pid = os.fork()
        if pid == 0:
            _take_all(path, f"h{number}")
        pids.append(pid)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    assert sum(codes) == 32, "each process exits with the number of addresses it got"
    assert len(allocated(entries(path))) == 32
    assert check(entries(path)) == []


def _take_all(path: Path, host: str) -> NoReturn:
    async def go() -> int:
        client = EmbeddedClient(path)
        allocator = Allocator(client, host)
        for number in range(40):
            try:
                await allocator.assign({4}, f"{host}.{number}", {})
            except TortieError:
                return number
        return 99

    code = 98
    try:
        code = asyncio.run(go())
    finally:
        os._exit(code)
