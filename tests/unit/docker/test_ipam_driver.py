"""Addresses for Docker: whose they are, who may free them, and what becomes of those forgotten."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from tests.unit.ipam.invariants import allocated, check

from tortie.datastore.client import Client
from tortie.datastore.embedded import EmbeddedClient
from tortie.datastore.resources import Resources
from tortie.docker.api import Docker
from tortie.docker.ipam_driver import SWARM, IPAMDriver
from tortie.docker.leaks import Leaks
from tortie.docker.records import Records
from tortie.ipam.allocator import Allocator
from tortie.lib.errors import AlreadyExists, InvalidInput
from tortie.lib.ip import parse_address
from tortie.model.keys import ResourceKey
from tortie.model.metadata import Metadata
from tortie.model.node import IPPool, IPPoolSpec

ANY_4, ANY_6 = "CalicoPoolIPv4", "CalicoPoolIPv6"
SERIAL = {"com.docker.network.ipam.serial": "true"}
POOLS = {"v4": "10.65.0.0/24", "other": "10.66.0.0/24", "v6": "fd00:65::/116"}


class Bench:
    """Drivers of several hosts over one datastore."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.client: Client

    def driver(self, host: str = "h1") -> IPAMDriver:
        """As after a start."""
        return IPAMDriver(self.client, host, Records(self.directory / host))

    async def held(self) -> set[str]:
        listing = await self.client.list("/calico/")
        entries = {entry.key: entry.value for entry in listing.entries}
        assert check(entries) == []
        return set(allocated(entries))


def with_bench(directory: Path, act: Callable[[Bench], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        client = EmbeddedClient(directory / "datastore.db")
        try:
            for name, cidr in POOLS.items():
                pool = IPPool(
                    kind="IPPool", metadata=Metadata(name=name), spec=IPPoolSpec(cidr=cidr)
                )
                await Resources(client).create(pool)
            bench = Bench(directory)
            bench.client = client
            await act(bench)
        finally:
            await client.close()

    asyncio.run(run())


async def ask(call: Callable[[bytes], Awaitable[Any]], **request: Any) -> Any:
    return await call(json.dumps(request).encode())


async def take(driver: IPAMDriver, pool: str = ANY_4, address: str = "", **options: str) -> str:
    found = await ask(driver.request_address, PoolID=pool, Address=address, Options=options or None)
    text: str = found["Address"]
    return text.partition("/")[0]


async def give(driver: IPAMDriver, address: str, pool: str = ANY_4) -> None:
    await ask(driver.release_address, PoolID=pool, Address=address)


def test_pools_are_ippools(tmp_path: Path) -> None:
    async def act(bench: Bench) -> None:
        driver = bench.driver()
        assert (await ask(driver.request_pool))["PoolID"] == ANY_4
        assert (await ask(driver.request_pool, V6=True))["PoolID"] == ANY_6
        found = await ask(driver.request_pool, Pool="10.66.0.0/24")
        assert found["PoolID"] == found["Pool"] == "10.66.0.0/24"
        assert found["Data"] == {"com.docker.network.gateway": "0.0.0.0/0"}
        assert (await take(driver, "10.66.0.0/24")).startswith("10.66.0.")
        assert (await take(driver, ANY_6)).startswith("fd00:65::")
        await Resources(bench.client).delete(ResourceKey("IPPool", "other"))
        with pytest.raises(InvalidInput, match="has been deleted"):
            await take(driver, "10.66.0.0/24")

    with_bench(tmp_path, act)


def test_many_at_once_get_different_ones(tmp_path: Path) -> None:
    async def act(bench: Bench) -> None:
        drivers = [bench.driver("h1"), bench.driver("h2")]
        found = await asyncio.gather(*(take(drivers[n % 2]) for n in range(100)))
        assert len(set(found)) == 100
        assert await bench.held() == set(found)
        await asyncio.gather(*(give(drivers[n % 2], found[n]) for n in range(100)))
        assert await bench.held() == set()

    with_bench(tmp_path, act)


def test_only_who_has_an_address_frees_it(tmp_path: Path) -> None:
    async def act(bench: Bench) -> None:
        h1, h2 = bench.driver("h1"), bench.driver("h2")
        mine = await take(h1, address="10.65.0.7")
        for driver in (h1, h2):
            with pytest.raises(AlreadyExists, match="already in use"):
                await take(driver, address=mine)
        await give(h2, mine)
        assert mine in await bench.held(), "another host's Docker"
        foreign = await Allocator(bench.client, "h1").assign([4], "cni.x", {})
        await give(h1, foreign[0].address_text)
        assert foreign[0].address_text in await bench.held(), "not Docker's at all"
        await give(h1, mine)
        await give(h1, mine)
        await give(h1, "10.99.0.1")
        assert mine not in await bench.held()

    with_bench(tmp_path, act)


@pytest.mark.parametrize("manager_first", [True, False])
def test_swarms_manager_and_the_node_that_runs_the_task_share_one(
    tmp_path: Path, manager_first: bool
) -> None:
    async def act(bench: Bench) -> None:
        for node in ("h1", "h2"):  # the manager itself, and another one
            manager = bench.driver("h1")
            address = await take(manager, **SERIAL)
            assert await take(manager, address=address, **SERIAL) == address, "a new leader asks"
            assert await take(bench.driver(node), address=address) == address
            with_restart = bench.driver(node)
            first, second = (manager, with_restart) if manager_first else (with_restart, manager)
            if node == "h1":  # both are the same process there
                first = second = with_restart
            await give(first, address)
            if node == "h1" or not manager_first:
                assert address in await bench.held(), "the other one still has it"
            await give(second, address)
            assert address not in await bench.held()

    with_bench(tmp_path, act)


def test_another_manager_frees_what_the_one_before_chose(tmp_path: Path) -> None:
    async def act(bench: Bench) -> None:
        address = await take(bench.driver("h1"), **SERIAL)
        await give(bench.driver("h3"), address)
        assert await bench.held() == set()

    with_bench(tmp_path, act)


def test_what_docker_forgot_is_released_at_second_sight(tmp_path: Path) -> None:
    async def act(bench: Bench) -> None:
        driver = bench.driver("h1")
        used, forgotten = await take(driver), await take(driver)
        task = await take(driver, **SERIAL)
        theirs = await take(bench.driver("h2"))
        [foreign] = await Allocator(bench.client, "h1").assign([4], "cni.x", {})
        leaks = Leaks(bench.client, "h1", Docker(bench.directory / "no socket"))
        known = {parse_address(used)}
        assert await leaks.collect(known) == []
        young = await take(driver)
        assert [str(found.address_text) for found in await leaks.collect(known)] == [forgotten]
        assert await bench.held() == {used, task, theirs, foreign.address_text, young}
        assert await leaks.collect({*known, parse_address(young)}) == []

    with_bench(tmp_path, act)


ENDED = {"Addresses": ["10.65.0.7/24"]}
SWARM_OF_ONE = {
    "/info": {"Swarm": {"NodeID": "x", "ControlAvailable": True}},
    "/tasks": [{"ID": "t", "NetworksAttachments": [ENDED]}, {"ID": "u"}],
    "/services": [{"ID": "s", "Endpoint": {"Spec": {}}}, {"ID": "v", "Endpoint": {}}],
}


def test_what_a_manager_of_swarm_forgot_is_released_by_its_own_host(tmp_path: Path) -> None:
    async def act(bench: Bench) -> None:
        first, second = bench.driver("h1"), bench.driver("h2")
        task, virtual, forgotten = [await take(first, **SERIAL) for _ in range(3)]
        of_another = await take(second, **SERIAL)
        answers: dict[str, Any] = dict(SWARM_OF_ONE)
        of_task = {"NetworksAttachments": [{"Addresses": [f"{task}/32"]}]}
        answers["/tasks"] = [*answers["/tasks"], of_task]
        of_service = {"Endpoint": {"VirtualIPs": [{"Addr": f"{virtual}/24"}]}}
        answers["/services"] = [*answers["/services"], of_service]
        async with answering(bench.directory / "docker", answers) as docker:
            leaks = Leaks(bench.client, "h1", docker)
            answers["/info"] = {"Swarm": {"ControlAvailable": False}}
            assert await leaks.collect(()) == await leaks.collect(()) == [], "it cannot tell"
            answers["/info"] = SWARM_OF_ONE["/info"]
            assert await leaks.collect(()) == []
            del answers["/tasks"]
            assert await leaks.collect(()) == [], "the swarm has no leader"
            answers["/tasks"] = [of_task]
            assert await leaks.collect(()) == [], "seen once since"
            assert [one.address_text for one in await leaks.collect(())] == [forgotten]
        assert await bench.held() == {task, virtual, of_another}

    with_bench(tmp_path, act)


@contextlib.asynccontextmanager
async def answering(path: Path, answers: dict[str, Any]) -> AsyncIterator[Docker]:
    """Docker's API as far as it is asked here; 503 for what there is no answer to."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
        status = b"200 OK" if target in answers else b"503 Service Unavailable"
        body = json.dumps(answers.get(target)).encode()
        writer.write(b"HTTP/1.0 " + status + b"\r\n\r\n" + body)
        writer.close()

    async with await asyncio.start_unix_server(answer, path):
        yield Docker(path)


def test_the_mark_of_swarm_names_its_manager(tmp_path: Path) -> None:
    async def act(bench: Bench) -> None:
        await take(bench.driver("h1"), **SERIAL)
        listing = await bench.client.list("/calico/ipam/v2/assignment/")
        [block] = [json.loads(entry.value) for entry in listing.entries]
        assert block["attributes"][0]["secondary"][SWARM] == "h1"

    with_bench(tmp_path, act)
