"""From a commit in the datastore to the first packet that feels it, as a host fills up.

The clock starts before the write, so the datastore's own work counts: beside it stands how long
a bare client waits for the event of its own write. Two changes: of a port, which is an element,
and of a protocol, which is another rule. What the machine does beside lengthens all of them.
"""

import asyncio
import statistics
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

from benchmarks import labs, population
from benchmarks.results import Result, latencies
from tortie.datastore.client import Batch, Client
from tortie.kernel import netns
from tortie.lab import cluster, description, latency, workloads
from tortie.lab.description import Datastore, Lab
from tortie.model import codec
from tortie.model.keys import ResourceKey
from tortie.model.metadata import Metadata
from tortie.model.policy import EntityRule, GlobalNetworkPolicy, GlobalNetworkPolicySpec, Rule

FEW, MANY = 100, 5000
COUNT = 100
PORT = 7777

_KEY = ResourceKey("GlobalNetworkPolicy", "measured")


def run() -> Iterator[Result]:
    datastores: tuple[Datastore, ...] = ("embedded", "etcd")
    for datastore in datastores:
        with labs.lab("bench", 1, datastore) as lab:
            workloads.add(lab.name, "a", "h1", "default", {"role": "a"}, ())
            workloads.add(lab.name, "b", "h1", "default", {"role": "b"}, ())
            yield from _sizes(lab.name, datastore)


def _sizes(name: str, datastore: Datastore) -> Iterator[Result]:
    medians: dict[int, float] = {}
    present = 0
    for size in (FEW, MANY):
        lab = description.load(name)
        added = size - present

        async def fill(client: Client, added: int = added, first: int = present) -> None:
            await population.write(client, population.endpoints(added, "h1", first))

        labs.with_client(lab, fill)
        present = size
        cluster.wait_enforced(lab)
        title = f"commit → first packet, {datastore}, {size:,} more endpoints on the host"
        yield from latencies(f"{title}: write → event alone", _events(lab))
        found = _measure(lab, _policy("UDP", 1))
        medians[size] = statistics.median(found)
        yield from latencies(f"{title}: an element", found, "≤ 3", "≤ 10")
        shape = _measure(lab, _policy("TCP", PORT))
        yield from latencies(f"{title}: a rule", shape, "≤ 8", "≤ 15")
    title = f"commit → first packet, {datastore}, {MANY:,} endpoints against {FEW}"
    yield Result(title, medians[MANY] / medians[FEW], "×", "≤ 1.2")


def _events(lab: Lab) -> list[float]:
    """How long until a client hears of its own write, of which no agent hears."""
    key = "/benchmark/heard"

    async def act(client: Client) -> list[float]:
        found = []
        async with aclosing(client.watch(key, await client.revision() + 1)) as watch:
            for _ in range(COUNT):
                heard = asyncio.create_task(_next_event(watch))
                await asyncio.sleep(latency.QUIET_SECONDS)
                began = time.perf_counter()
                await client.put(key, b"x" * 400)
                await heard
                found.append(time.perf_counter() - began)
        await client.delete(key)
        return found

    return labs.with_client(lab, act)


async def _next_event(watch: AsyncGenerator[Batch, None]) -> None:
    while not (await anext(watch)).events:
        pass  # a notice of progress


def _measure(lab: Lab, closed: GlobalNetworkPolicy) -> list[float]:
    a, b = lab.workload("a"), lab.workload("b")
    closing, opening = (codec.encode(_KEY, one) for one in (closed, _policy("UDP", PORT)))

    async def act(client: Client) -> list[float]:
        with latency.Path(
            netns.named_path(lab.workload_namespace(a)),
            netns.named_path(lab.workload_namespace(b)),
            workloads.address_of(b),
            PORT,
        ) as path:
            change = latency.Change(_KEY.path, closing, opening)
            return await latency.commit_to_first_packet(client, change, path, COUNT)

    return labs.with_client(lab, act)


def _policy(protocol: str, port: int) -> GlobalNetworkPolicy:
    rule = Rule(action="Allow", protocol=protocol, destination=EntityRule(ports=(port,)))
    return GlobalNetworkPolicy(
        kind="GlobalNetworkPolicy",
        metadata=Metadata(name="measured"),
        spec=GlobalNetworkPolicySpec(selector="role == 'b'", types=("Ingress",), ingress=(rule,)),
    )
