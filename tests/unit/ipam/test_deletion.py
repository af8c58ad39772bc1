"""Deleting pools and nodes: what they held is given back, what is in use stays in use."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Literal

import pytest
from tests.unit.ipam.invariants import allocated, check

from tortie.datastore.memory import MemoryClient, MemoryStore
from tortie.datastore.resources import Resources
from tortie.ipam.allocator import Allocator
from tortie.ipam.deletion import delete
from tortie.lib.errors import Conflict, InvalidInput, NotFound
from tortie.lib.ip import Network
from tortie.model.bgp_configuration import BGPConfiguration
from tortie.model.bgp_peer import BGPPeer, BGPPeerSpec
from tortie.model.codec import encode
from tortie.model.endpoint import (
    HostEndpoint,
    HostEndpointSpec,
    WorkloadEndpoint,
    WorkloadEndpointSpec,
)
from tortie.model.felix_configuration import FelixConfiguration
from tortie.model.ipam import BlockAffinity
from tortie.model.keys import AffinityKey, ResourceKey
from tortie.model.metadata import Metadata
from tortie.model.node import IPPool, IPPoolSpec, Node, NodeSpec

POOL = ResourceKey("IPPool", "p")


def _run(act: Callable[[Resources, MemoryClient], Awaitable[None]]) -> dict[str, bytes]:
    """What is stored in the end, sound in itself."""
    store = MemoryStore(clock=lambda: 0.0)

    async def with_store() -> None:
        client = MemoryClient(store)
        resources = Resources(client)
        for name in ("n", "n-2"):
            await resources.create(Node(metadata=Metadata(name=name)))
        spec = IPPoolSpec(cidr="10.0.0.0/24", block_size=28)
        await resources.create(IPPool(metadata=Metadata(name="p"), spec=spec))
        await act(resources, client)

    asyncio.run(with_store())
    stored = {entry.key: entry.value for entry in store.entries("/calico/")}
    # I5: a block that is in use outlives its pool.
    assert [problem for problem in check(stored) if not problem.startswith("I5")] == []
    return stored


async def _assign(client: MemoryClient, host: str, handle: str) -> Network:
    [address] = await Allocator(client, host).assign({4}, handle, {})
    return address


async def _endpoint(resources: Resources, host: str, name: str, address: Network) -> None:
    spec = WorkloadEndpointSpec(
        node=host, orchestrator="lab", workload=name, endpoint="e", ip_networks=(str(address),)
    )
    await resources.create(WorkloadEndpoint(metadata=Metadata(namespace="ns"), spec=spec))


def _under(stored: dict[str, bytes], part: str) -> list[str]:
    return [key for key in stored if part in key]


def test_a_pool_gives_its_blocks_back() -> None:
    async def act(resources: Resources, client: MemoryClient) -> None:
        await _assign(client, "n", "used")
        await _assign(client, "n-2", "freed")
        await Allocator(client, "n-2").release("freed")
        pending = AffinityKey("n", Network(4, 0x0A0000F0, 28))
        await client.put(pending.path, encode(pending, BlockAffinity(state="pending")))
        other = AffinityKey("n", Network(4, 0x0A010000, 28))
        await client.put(other.path, encode(other, BlockAffinity(state="confirmed")))

        await delete(resources, POOL, pause_seconds=0)

        with pytest.raises(NotFound):
            await resources.get(POOL)
        await client.delete(other.path)

    stored = _run(act)
    assert not _under(stored, "/ippools/")
    assert not [key for key in _under(stored, "/ipam/v2/host/") if "/block/" in key]
    [block] = _under(stored, "/assignment/")
    assert b'"affinity":null' in stored[block] or b'"affinity"' not in stored[block]
    assert len(allocated(stored)) == 1


def test_nobody_assigns_from_a_pool_that_goes() -> None:
    """An assignment that has read the pool before loses, whenever it tries to commit."""

    async def act(resources: Resources, client: MemoryClient) -> None:
        calls = 0
        last = 0
        begun, gone = asyncio.Event(), asyncio.Event()

        async def hold(moment: Literal["before", "after"], call: str) -> None:
            nonlocal calls
            if (moment, call) == ("before", "transact"):
                calls += 1
                if calls == last:
                    begun.set()
                    await gone.wait()

        racing = MemoryClient(client.store)
        racing.fault = hold
        await _assign(racing, "n-2", "first")  # counts the transactions; the last one writes
        await Allocator(client, "n-2").release("first")
        calls, last = 0, calls

        task = asyncio.create_task(_assign(racing, "n", "late"))
        await asyncio.wait_for(begun.wait(), 2)
        await delete(resources, POOL, pause_seconds=0)
        gone.set()
        with pytest.raises(InvalidInput):
            await task

    assert not _under(_run(act), "/assignment/")


def test_only_the_version_asked_for() -> None:
    async def act(resources: Resources, client: MemoryClient) -> None:
        for key in (POOL, ResourceKey("Node", "n")):
            with pytest.raises(Conflict):
                await delete(resources, key, 1, pause_seconds=0)
            found = await resources.get(key)
            await delete(resources, key, found.revision, pause_seconds=0)

    stored = _run(act)
    assert not _under(stored, "/ippools/")
    assert len(_under(stored, "/nodes/")) == 1


def test_a_pool_that_nobody_can_read_goes_too() -> None:
    async def act(resources: Resources, client: MemoryClient) -> None:
        await client.put(POOL.path, b'{"spec":7}')
        await delete(resources, POOL, pause_seconds=0)

    assert not _under(_run(act), "/ippools/")


def test_l18_a_node_goes_with_all_that_is_on_it() -> None:
    async def act(resources: Resources, client: MemoryClient) -> None:
        for host in ("n", "n-2"):
            await _endpoint(resources, host, "w", await _assign(client, host, f"w-{host}"))
            for kind in (FelixConfiguration, BGPConfiguration):
                await resources.create(kind(metadata=Metadata(name=f"node.{host}")))
            peer = BGPPeerSpec(node=host, peer_ip="10.9.9.9", as_number=64512)
            await resources.create(BGPPeer(metadata=Metadata(name=f"peer-{host}"), spec=peer))
            port = HostEndpointSpec(node=host, interface_name="eth0")
            await resources.create(HostEndpoint(metadata=Metadata(name=f"port-{host}"), spec=port))
        tunnel = await _assign(client, "n", "vxlan-tunnel-addr-n")
        spec = NodeSpec(ipv4_vxlan_tunnel_addr=tunnel.address_text)
        await resources.update(Node(metadata=Metadata(name="n"), spec=spec))

        await delete(resources, ResourceKey("Node", "n"))

    stored = _run(act)
    for part in ("/workloadendpoints/", "/felixconfigurations/", "/bgpconfigurations/",
                 "/bgppeers/", "/hostendpoints/", "/nodes/", "/assignment/"):  # fmt: skip
        [left] = _under(stored, part)
        assert "n-2" in left or "n--2" in left or "/assignment/" in left
    assert len(allocated(stored)) == 1
    assert not _under(stored, "/ipam/v2/host/n/")
    assert "/calico/ipam/v2/host/n" not in stored


def test_an_address_that_has_moved_to_another_host_stays() -> None:
    async def act(resources: Resources, client: MemoryClient) -> None:
        address = await _assign(client, "n", "w")
        await _endpoint(resources, "n", "w", address)
        assert await _assign(client, "n-2", "w") == address  # the same workload, elsewhere
        await delete(resources, ResourceKey("Node", "n"))

    stored = _run(act)
    assert len(allocated(stored)) == 1
    assert not _under(stored, "/workloadendpoints/")


def test_what_a_missing_node_left_is_cleared() -> None:
    async def act(resources: Resources, client: MemoryClient) -> None:
        await _endpoint(resources, "n-2", "w", await _assign(client, "n-2", "w"))
        await resources.delete(ResourceKey("Node", "n-2"))
        with pytest.raises(NotFound):
            await delete(resources, ResourceKey("Node", "n-2"))

    stored = _run(act)
    assert not _under(stored, "/workloadendpoints/")
    assert not allocated(stored)


def test_other_kinds_are_just_deleted() -> None:
    async def act(resources: Resources, client: MemoryClient) -> None:
        with pytest.raises(InvalidInput, match="built in"):
            await delete(resources, ResourceKey("Tier", "default"))
        await resources.create(FelixConfiguration(metadata=Metadata(name="default")))
        await delete(resources, ResourceKey("FelixConfiguration", "default"))

    assert not _under(_run(act), "/felixconfigurations/")
