"""Addresses of services, against a real API server and real IPAM."""

import asyncio
import itertools
from functools import partial
from typing import Any

import pytest
from tests.kube.control_plane import ControlPlane, path_of
from tests.kube.test_controllers import SETTINGS, on_thread, running, until
from tests.kube.test_reports import events

from tortie.datastore.memory import MemoryClient
from tortie.datastore.resources import Resources
from tortie.ipam.audit import allocations, audit
from tortie.ipam.inventory import read_inventory
from tortie.model.metadata import Metadata
from tortie.model.node import IPPool, IPPoolSpec

names = (f"balanced{number}" for number in itertools.count())


@pytest.fixture
def namespace(control_plane: ControlPlane) -> str:
    name = next(names)
    control_plane.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    return name


def service(namespace: str, name: str, **annotations: str) -> dict[str, Any]:
    prefixed = {f"projectcalico.org/{key}": value for key, value in annotations.items()}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace, "annotations": prefixed},
        "spec": {"type": "LoadBalancer", "ports": [{"port": 80}], "selector": {"app": "web"}},
    }


async def with_pool(cidr: str = "203.0.113.0/28") -> tuple[MemoryClient, Resources]:
    client = MemoryClient()
    resources = Resources(client)
    await resources.ensure_initialized()
    spec = IPPoolSpec(cidr=cidr, block_size=29, allowed_uses=("LoadBalancer",))
    await resources.create(IPPool(kind="IPPool", metadata=Metadata(name="lb"), spec=spec))
    return client, resources


async def shown(plane: ControlPlane, object_: dict[str, Any]) -> list[str]:
    found = await on_thread(plane.call, "GET", path_of(object_))
    return [entry["ip"] for entry in found["status"]["loadBalancer"].get("ingress", ())]


async def held(client: MemoryClient, namespace: str) -> set[str]:
    state = await read_inventory(client)
    assert audit(state).leaks == ()
    return {
        allocation.address.address_text
        for allocation in allocations(state)
        if (allocation.attribute.secondary or {}).get("namespace") == namespace
    }


def test_a_service_has_an_address_of_its_own_until_it_ends(
    control_plane: ControlPlane, namespace: str
) -> None:
    async def run() -> None:
        client, resources = await with_pool()
        first, second = service(namespace, "first"), service(namespace, "second")
        asked = service(namespace, "asked", loadBalancerIPs='["203.0.113.9"]')
        for object_ in (first, second, asked):
            await on_thread(control_plane.create, object_)
        async with running(control_plane, resources):
            seen = {one["metadata"]["name"]: await until(partial(shown, control_plane, one))
                    for one in (first, second, asked)}  # fmt: skip
            assert seen["asked"] == ["203.0.113.9"]
            assert len({*seen["first"], *seen["second"], *seen["asked"]}) == 3
            found = await client.list("/calico/ipam/v2/virtual/load-balancer/")
            assert len(found.entries) in (1, 2)
            await on_thread(control_plane.delete, path_of(second))

            async def is_free() -> bool:
                return seen["second"][0] not in await held(client, namespace)

            await until(is_free)
        # One ends while nobody looks; what the others have stays.
        await on_thread(control_plane.delete, path_of(first))
        async with running(control_plane, resources):

            async def is_alone() -> bool:
                return await held(client, namespace) == {"203.0.113.9"}

            await until(is_alone)
            assert await shown(control_plane, asked) == ["203.0.113.9"]

    asyncio.run(run())


def test_only_those_that_ask_where_the_settings_say_so(
    control_plane: ControlPlane, namespace: str
) -> None:
    async def run() -> None:
        client, resources = await with_pool()
        silent = service(namespace, "silent")
        asking = service(namespace, "asking", ipv4pools='["lb"]')
        for object_ in (silent, asking):
            await on_thread(control_plane.create, object_)
        settings = SETTINGS._replace(assigns_all_services=False)
        async with running(control_plane, resources, settings):
            await until(lambda: shown(control_plane, asking))
            assert await shown(control_plane, silent) == []
            assert len(await held(client, namespace)) == 1

    asyncio.run(run())


def test_who_gets_none_is_told_why(control_plane: ControlPlane, namespace: str) -> None:
    async def run() -> None:
        client, resources = await with_pool()
        taken = service(namespace, "taken", loadBalancerIPs='["198.51.100.1"]')
        odd = service(namespace, "odd", loadBalancerIPs="198.51.100.1")
        for object_ in (taken, odd):
            await on_thread(control_plane.create, object_)
        async with running(control_plane, resources):
            for name, said in (("taken", "198.51.100.1"), ("odd", "is not a list")):

                async def said_so(name: str = name, said: str = said) -> bool:
                    found = await on_thread(events, control_plane, namespace, name)
                    return any(said in event["message"] for event in found)

                await until(said_so)
            assert await held(client, namespace) == set()

    asyncio.run(run())


def test_where_no_pool_is_for_load_balancers_services_are_anothers(
    control_plane: ControlPlane, namespace: str
) -> None:
    async def run() -> None:
        resources = Resources(MemoryClient())
        object_ = service(namespace, "foreign")
        await on_thread(control_plane.create, object_)
        async with running(control_plane, resources):
            await asyncio.sleep(0.5)
            assert await shown(control_plane, object_) == []
            assert not await on_thread(events, control_plane, namespace, "foreign")

    asyncio.run(run())
