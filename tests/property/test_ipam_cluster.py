"""Processes that assign and release on an etcd of three members, killed at random.

TORTIE_IPAM_STORM=32,10000 makes it what the reliability targets ask for: that many processes,
that many assignments. Without it it is a shorter one.
"""

import asyncio
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from tests.datastore.etcd_server import EtcdServer
from tests.unit.ipam.invariants import allocated, check

from tortie.datastore.client import Client
from tortie.datastore.connect import connect, from_environment
from tortie.ipam.allocator import Allocator
from tortie.ipam.ownership import Collector
from tortie.lib.errors import Conflict, Unavailable
from tortie.model.codec import encode
from tortie.model.keys import ResourceKey
from tortie.model.metadata import Metadata
from tortie.model.node import IPPool, IPPoolSpec

PROCESSES, ASSIGNMENTS = (
    int(part) for part in os.environ.get("TORTIE_IPAM_STORM", "6,500").split(",")
)
HOSTS = 8
LEADER_KILL_SECONDS = 4.0


@pytest.fixture
def members(tmp_path: Path) -> Iterator[list[EtcdServer]]:
    servers = [EtcdServer(tmp_path / f"m{number}") for number in range(3)]
    for server in servers:
        server.join(servers)
        server.spawn()
    try:
        for server in servers:
            server.wait()
        yield servers
    finally:
        for server in servers:
            server.kill()


async def opened(endpoints: str) -> Client:
    return await connect(
        from_environment({"DATASTORE_TYPE": "etcdv3", "ETCD_ENDPOINTS": endpoints})
    )


def work(endpoints: str, name: str, seed: int, journal: Path, until: float) -> NoReturn:
    """Assign and release until told or killed, and write down what was acknowledged.

    The journal names a handle before it is used (`+`), what it got (`=`), and that it was given
    back (`-`): what a container runtime's agent knows after a crash.
    """
    chance = random.Random(seed)

    async def go() -> None:
        client = await opened(endpoints)
        # Each keeps its view, as an agent does; those of one host are in one another's way.
        allocator = Allocator(client, name, unchanged=lambda: 0)
        with open(journal, "a", buffering=1) as file:
            number = 0
            while time.monotonic() < until:
                handle = f"{name}.{seed}.{number}"
                number += 1
                file.write(f"+ {handle}\n")
                try:
                    found = await allocator.assign({4}, handle, {})
                    file.write(f"= {handle} {found[0].address_text}\n")
                    if chance.random() < 0.7:
                        file.write(f"- {handle}\n")
                        await allocator.release(handle)
                except (Unavailable, Conflict):
                    continue
        await client.close()

    code = 1
    try:
        asyncio.run(go())
        code = 0
    finally:
        os._exit(code)


@pytest.mark.timeout(900)
def test_no_address_twice_and_none_lost(members: list[EtcdServer], tmp_path: Path) -> None:
    endpoints = ",".join(member.endpoint for member in members)
    journals = tmp_path / "journals"
    journals.mkdir()

    async def prepare() -> None:
        client = await opened(endpoints)
        key = ResourceKey("IPPool", "pool")
        # Room for what is kept, and for what the dead held: each host may have 20 blocks.
        spec = IPPoolSpec(cidr="10.8.0.0/18", block_size=28 if ASSIGNMENTS < 1000 else 26)
        await client.put(key.path, encode(key, IPPool(metadata=Metadata(name="pool"), spec=spec)))
        await client.close()

    asyncio.run(prepare())
    chance = random.Random(1)
    until = time.monotonic() + 600
    running: dict[int, int] = {}
    started = 0

    def start() -> None:
        nonlocal started
        started += 1
        host = f"h{started % HOSTS}"
        pid = os.fork()
        if pid == 0:
            work(endpoints, host, started, journals / str(started), until)
        running[pid] = started

    try:
        for _ in range(PROCESSES):
            start()
        next_kill = time.monotonic() + 2.0
        while assigned(journals) < ASSIGNMENTS:
            assert time.monotonic() < until, "too slow"
            time.sleep(0.15)
            victim = chance.choice(list(running))
            os.kill(victim, signal.SIGKILL)
            os.waitpid(victim, 0)
            del running[victim]
            start()
            if time.monotonic() > next_kill:
                next_kill = time.monotonic() + LEADER_KILL_SECONDS
                member = chance.choice(members)
                member.kill()
                member.spawn()
                member.wait(120.0)  # it shares its processors with all that goes on here
    finally:
        for pid in running:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    assert running
    judge(endpoints, journals)


def judge(endpoints: str, journals: Path) -> None:
    begun, got, given_back = read_journals(journals)

    async def finish() -> tuple[dict[str, bytes], dict[str, bytes]]:
        client = await opened(endpoints)
        before = {entry.key: entry.value for entry in (await client.list("/calico/")).entries}
        live = frozenset(begun - given_back) & got.keys()
        for number in range(HOSTS):
            host = f"h{number}"
            collector = Collector(client, Allocator(client, host))
            for _ in range(2):
                await collector.collect_attached(host, lambda: live)
        after = {entry.key: entry.value for entry in (await client.list("/calico/")).entries}
        await client.close()
        return before, after

    before, after = asyncio.run(finish())
    assert check(before) == []
    assert check(after) == []
    held = {handle: address for address, handle in allocated(before).items()}
    live = {handle: address for handle, address in got.items() if handle not in given_back}
    assert {handle: held.get(handle) for handle in live} == live, "who was told an address has it"
    assert len(set(live.values())) == len(live), "no address twice"
    assert set(allocated(after).values()) == live.keys(), (
        "and nothing else is held after collection"
    )


def assigned(journals: Path) -> int:
    return sum(path.read_text().count("= ") for path in journals.iterdir())


def read_journals(journals: Path) -> tuple[set[str], dict[str, str], set[str]]:
    begun, got, given_back = set(), {}, set()
    for path in journals.iterdir():
        for line in path.read_text().splitlines():
            sign, handle, *rest = line.split()
            if sign == "+":
                begun.add(handle)
            elif sign == "=":
                got[handle] = rest[0]
            else:
                given_back.add(handle)
    return begun, got, given_back
