"""`policy why`, `list` and `impact` on a thousand endpoints in fifty label classes.

First what the questions cost alone, then whole commands, which read all of it from a datastore.
"""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from benchmarks import population
from benchmarks.results import Result
from tortie.datastore.client import Put
from tortie.datastore.embedded import EmbeddedClient
from tortie.explain.impact import impact
from tortie.explain.oracle import Packet, State
from tortie.explain.why import explain
from tortie.lib.ip import Network, parse_network
from tortie.model import codec
from tortie.model.endpoint import WorkloadEndpoint, WorkloadEndpointSpec
from tortie.model.keys import Key, ResourceKey
from tortie.model.metadata import Metadata, Resource
from tortie.model.policy import (
    DEFAULT_ALLOW_PROFILE,
    EntityRule,
    NetworkPolicy,
    NetworkPolicySpec,
    Rule,
)

ENDPOINTS, CLASSES, POLICIES = 1000, 50, 200
NAMESPACE = "bench"
POOL = parse_network("10.66.0.0/16")


def run() -> Iterator[Result]:
    before = _state()
    key, policy = _policy(7, ports=(9999,))
    size = f"{ENDPOINTS:,} endpoints in {CLASSES} classes, {POLICIES} policies"
    for what, after in (
        ("an edit", {**before, key: policy}),
        ("a deletion", {name: value for name, value in before.items() if name != key}),
        ("a label", _relabelled(before)),
    ):
        began = time.perf_counter()
        found = impact(before, after)
        seconds = time.perf_counter() - began
        yield Result(f"policy impact of {what}, {size}", seconds, "s", "≤ 5")
        yield Result(f"changes that it finds, of {what}", len(found), "")
    began = time.perf_counter()
    explain(before, Packet(_address(1), _address(9), 6, 50000, 8001))
    yield Result(f"policy why, {size}", time.perf_counter() - began, "s", "≤ 1")
    yield from _commands(before, size)


def _commands(state: State, size: str) -> Iterator[Result]:
    with TemporaryDirectory() as directory:
        path = Path(directory) / "datastore.db"
        asyncio.run(_store(path, state))
        settings = {"DATASTORE_TYPE": "embedded", "TORTIE_EMBEDDED_PATH": str(path)}
        for words, target in (
            (("why", f"{NAMESPACE}/w1", f"{NAMESPACE}/w9", "tcp/8001"), "≤ 1"),
            (("list", "--for", f"{NAMESPACE}/w1"), "≤ 1"),
            (("impact", "--delete", f"networkpolicy/{NAMESPACE}/p7"), "≤ 5"),
            (("impact", "--label", f"{NAMESPACE}/w1", "app=app-9"), "≤ 5"),
        ):
            began = time.perf_counter()
            asked = [sys.executable, "-m", "tortie", "policy", *words]
            done = subprocess.run(asked, capture_output=True, env={**os.environ, **settings})
            assert done.returncode in (0, 1), done.stderr
            title = f"tortie policy {words[0]} {words[1] if words[0] == 'impact' else ''}".strip()
            yield Result(f"{title}, all of it, {size}", time.perf_counter() - began, "s", target)


async def _store(path: Path, state: State) -> None:
    client = EmbeddedClient(path, create=True)
    puts = (
        Put(key.path, codec.encode(key, value))
        for key, value in state.items()
        if isinstance(value, Resource) and isinstance(key, ResourceKey)
    )
    await population.write(client, puts)
    await client.close()


def _relabelled(state: State) -> State:
    key = next(key for key, value in state.items() if isinstance(value, WorkloadEndpoint))
    found = state[key]
    assert isinstance(found, WorkloadEndpoint)
    metadata = msgspec.structs.replace(found.metadata, labels={"app": "app-9"})
    return {**state, key: msgspec.structs.replace(found, metadata=metadata)}


def _address(number: int) -> Network:
    return Network(4, POOL.value + number + 1, 32)


def _state() -> State:
    state: dict[Key, object] = {}
    for number in range(ENDPOINTS):
        name = f"h1-k8s-w{number}-eth0"
        spec = WorkloadEndpointSpec(
            orchestrator="k8s",
            node="h1",
            pod=f"w{number}",
            endpoint="eth0",
            ip_networks=(str(_address(number)),),
            profiles=(DEFAULT_ALLOW_PROFILE,),
        )
        labels = {"app": f"app-{number % CLASSES}"}
        metadata = Metadata(name=name, namespace=NAMESPACE, labels=labels)
        key = ResourceKey("WorkloadEndpoint", name, NAMESPACE)
        state[key] = WorkloadEndpoint(kind="WorkloadEndpoint", metadata=metadata, spec=spec)
    state.update(_policy(number) for number in range(POLICIES))
    return state


def _policy(number: int, ports: tuple[int, ...] = ()) -> tuple[ResourceKey, NetworkPolicy]:
    rules = tuple(
        Rule(
            action="Allow",
            protocol="TCP",
            source=EntityRule(selector=f"app == 'app-{(number + step) % CLASSES}'"),
            destination=EntityRule(ports=ports or (8000 + step,)),
        )
        for step in range(5)
    )
    spec = NetworkPolicySpec(
        selector=f"app == 'app-{number % CLASSES}'", types=("Ingress",), ingress=rules
    )
    key = ResourceKey("NetworkPolicy", f"p{number}", NAMESPACE)
    metadata = Metadata(name=key.name, namespace=NAMESPACE)
    return key, NetworkPolicy(kind="NetworkPolicy", metadata=metadata, spec=spec)
