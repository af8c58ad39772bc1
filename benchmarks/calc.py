"""calc alone, in large clusters: starting, and what a change costs there, in time and objects.

Resources are stored bytes, as the agent gets them: decoding and checking are part of every time.
Each cluster has a process of its own, so that its memory can be told; the largest has the sizes of
Felix's own benchmark. Starts are in seconds of CPU. *Touched* is what a change makes calc look at
or tell: selectors evaluated, endpoints worked out, objects told. It must be the same in a cluster
ten times as large.
"""

import multiprocessing
import random
import statistics
import time
from collections.abc import Callable, Hashable, Iterator
from typing import NamedTuple, TypeVar

from benchmarks.results import Result, latencies
from tortie.calc.graph import Graph
from tortie.desired.kinds import Kind
from tortie.lib import memory
from tortie.lib.ip import Network, parse_network
from tortie.model import codec
from tortie.model.endpoint import WorkloadEndpoint, WorkloadEndpointSpec
from tortie.model.ipam import BlockAffinity
from tortie.model.keys import AffinityKey, ResourceKey, parse_key
from tortie.model.metadata import Metadata, Resource
from tortie.model.names import interface_name, workload_endpoint_name
from tortie.model.node import IPPool, IPPoolSpec
from tortie.model.policy import (
    EntityRule,
    GlobalNetworkPolicy,
    GlobalNetworkPolicySpec,
    NetworkPolicy,
    NetworkPolicySpec,
    Profile,
    ProfileSpec,
    Rule,
    Tier,
    TierSpec,
)
from tortie.model.validation import check

HERE = "here"
POOL = parse_network("10.64.0.0/10")
PER_HOST = 100
"""Endpoints; and as many pods in a namespace, but for the first, which has a thousand."""
FIRST_NAMESPACE = 1_000
APPS = 50
REPEATS = 9

T = TypeVar("T")


class Size(NamedTuple):
    endpoints: int
    local: int
    policies: int

    def __str__(self) -> str:
        return (
            f"{self.endpoints:,} endpoints, {self.local:,} of them here, {self.policies:,} policies"
        )


class Touched(NamedTuple):
    evaluated: int
    resolved: int
    told: int


SMALL, LARGE = Size(10_000, 1_000, 500), Size(100_000, 1_000, 5_000)
FELIX = Size(250_000, 200, 10_000)


def run() -> Iterator[Result]:
    for size, targets in (
        (Size(10_000, 100, 500), ("", "")),
        (Size(100_000, 100, 5_000), ("", "")),
        (FELIX, ("≤ 20", "≤ 250")),
    ):
        yield from _alone(start, size, targets)
    for size in (SMALL, LARGE):
        yield from _alone(changes, size)
    yield from _alone(churn, LARGE._replace(policies=10_000))


def start(size: Size, targets: tuple[str, str]) -> list[Result]:
    cluster = Cluster(size)
    return [
        Result(f"calc, start (CPU), {size}", cluster.start_seconds, "s", targets[0]),
        Result(f"calc, memory of the process, {size}", _resident_mib(), "MiB", targets[1]),
        Result(f"calc, objects told, {size}", cluster.told, ""),
    ]


def changes(size: Size) -> list[Result]:
    """Each change there and back again, `REPEATS` times; the median."""
    cluster = Cluster(size)
    results: list[Result] = []

    def measure(name: str, *versions: list[Stored]) -> None:
        seconds, touched = [], Touched(0, 0, 0)
        cluster.change(versions[-1])
        for number in range(REPEATS * len(versions)):
            before = cluster.counts()
            seconds.append(cluster.change(versions[number % len(versions)]))
            counts = zip(cluster.counts(), before, touched, strict=True)
            touched = Touched(*(max(now - then, most) for now, then, most in counts))
        title = f"calc, {name}, of {size.endpoints:,}"
        results.append(Result(title, statistics.median(seconds) * 1000, "ms"))
        for what, count in zip(("evaluated", "endpoints", "told"), touched, strict=True):
            results.append(Result(f"{title}: {what}", count, ""))

    far = size.endpoints - 1
    measure("one label elsewhere", [endpoint(far, size, app=1)], [endpoint(far, size, app=2)])
    here = size.endpoints // size.local * 7
    measure("one label here", [endpoint(here, size, app=1)], [endpoint(here, size, app=2)])
    for count in (10, 1_000):
        some = [touching(count, order) for order in (1.0, 2.0)]
        measure(f"a policy's order, {count:,} endpoints here", *([one] for one in some))
        rules = [touching(count, 1.0, port) for port in (80, 81)]
        measure(f"a policy's rules, {count:,} endpoints here", *([one] for one in rules))
    measure("a namespace's label, 1,000 pods", [namespace(0, "a")], [namespace(0, "b")])
    return results


def churn(size: Size) -> list[Result]:
    """A thousand updates a second for a minute, each flushed by itself; as fast as it goes."""
    cluster, chance = Cluster(size), random.Random(1)
    updates = [
        endpoint(chance.randrange(size.endpoints), size, app=chance.randrange(APPS))
        for _ in range(60_000)
    ]
    before = cluster.counts()
    seconds = [cluster.change([update]) for update in updates]
    touched = [now - then for now, then in zip(cluster.counts(), before, strict=True)]
    results = latencies("calc, an update of an endpoint, 60,000 at random", seconds, "p99 ≤ 20")
    rate = len(seconds) / sum(seconds)
    results.append(Result(f"calc, updates in a row, {size}", rate, "/s", "≥ 1,000"))
    for what, count in zip(("evaluated", "endpoints", "told"), touched, strict=True):
        results.append(Result(f"calc, an update of an endpoint: {what}", count / len(updates), ""))
    return results


Stored = tuple[str, bytes]


class Cluster:
    """One host's calc, in sync with a cluster of that size."""

    def __init__(self, size: Size) -> None:
        self.told = 0
        self._graph = Graph(HERE, self._on_told)
        self.start_seconds = 0.0
        memory.begin_loading()
        for batch in _batches(population(size)):
            began = time.process_time()
            for stored in batch:
                self._put(stored)
            self.start_seconds += time.process_time() - began
        began = time.process_time()
        for number in range(size.endpoints // 64 + 1):
            block = Network(4, POOL.value + 64 * number, 26)
            host = _host(64 * number, size)
            self._graph.on_update(AffinityKey(host, block), BlockAffinity(state="confirmed"))
        self._graph.flush()
        memory.settle()
        self.start_seconds += time.process_time() - began

    def change(self, stored: list[Stored]) -> float:
        """Seconds until all of it is told."""
        began = time.perf_counter()
        for one in stored:
            self._put(one)
        self._graph.flush()
        return time.perf_counter() - began

    def _put(self, stored: Stored) -> None:
        path, raw = stored
        key = parse_key(path)
        assert key is not None
        value = codec.decode(key, raw)
        assert isinstance(value, Resource)
        check(value, stored=True)
        self._graph.on_update(key, value)

    def counts(self) -> Touched:
        now = self._graph.statistics()
        evaluated = now.sets.evaluation_count + now.policies.evaluation_count
        return Touched(evaluated, now.endpoints.resolution_count, self.told)

    def _on_told(self, kind: Kind, name: Hashable, value: object | None) -> None:
        self.told += 1


def population(size: Size) -> Iterator[Stored]:
    """In the order in which a datastore lists them."""
    pool = IPPool(metadata=Metadata(name="p"), spec=IPPoolSpec(cidr=str(POOL)))
    yield _stored("IPPool", "p", "", pool)
    for number in range(size.policies):
        yield policy(number, size)
    for number in range(_namespace_of(size.endpoints) + 1):
        yield namespace(number, "a")
    tier = Tier(metadata=Metadata(name="default"), spec=TierSpec(order=1e6))
    yield _stored("Tier", "default", "", tier)
    for number in range(size.endpoints):
        yield endpoint(number, size)


def endpoint(number: int, size: Size, app: int | None = None) -> Stored:
    """Ten labels, one of them its own; every so many is here."""
    workload, space = f"pod-{number}", f"ns-{_namespace_of(number)}"
    spec = WorkloadEndpointSpec(
        orchestrator="k8s",
        node=_host(number, size),
        workload=workload,
        pod=workload,
        endpoint="eth0",
        ip_networks=(str(Network(4, POOL.value + number, 32)),),
        interface_name=interface_name(space, workload),
        profiles=(f"kns.{space}",),
    )
    labels = {f"label-{index}": f"value-{number % (index + 2)}" for index in range(7)}
    labels |= {"app": f"app-{number % APPS if app is None else app}", "pod-name": workload}
    labels["rank"] = str(number // (size.endpoints // size.local) % 100)
    metadata = Metadata(name=workload_endpoint_name(spec), namespace=space, labels=labels)
    resource = WorkloadEndpoint(metadata=metadata, spec=spec)
    return _stored("WorkloadEndpoint", metadata.name, space, resource)


def policy(number: int, size: Size) -> Stored:
    """One app of a namespace may be reached from five others, of two namespaces."""
    space = f"ns-{number % (_namespace_of(size.endpoints) + 1)}"
    rules = tuple(
        Rule(
            action="Allow",
            protocol="TCP",
            source=EntityRule(
                selector=f"app == 'app-{(number + step) % APPS}'",
                namespace_selector="" if step % 2 else "team == 'a'",
            ),
            destination=EntityRule(ports=(8000 + step,)),
        )
        for step in range(1, 6)
    )
    spec = NetworkPolicySpec(selector=f"app == 'app-{number % APPS}'", ingress=rules)
    resource = NetworkPolicy(metadata=Metadata(name=f"p-{number}", namespace=space), spec=spec)
    return _stored("NetworkPolicy", f"p-{number}", space, resource)


def touching(count: int, order: float, port: int = 80) -> Stored:
    """A policy of all namespaces that selects so many of a thousand endpoints here.

    `rank` is 0 to 99, for a hundredth of them each.
    """
    spec = GlobalNetworkPolicySpec(
        order=order,
        selector="rank == '7'" if count == 10 else "has(rank)",
        ingress=(Rule(action="Allow", protocol="TCP", destination=EntityRule(ports=(port,))),),
    )
    name = f"touching-{count}"
    resource = GlobalNetworkPolicy(metadata=Metadata(name=name), spec=spec)
    return _stored("GlobalNetworkPolicy", name, "", resource)


def namespace(number: int, team: str) -> Stored:
    name = f"kns.ns-{number}"
    labels = {"pcns.projectcalico.org/name": f"ns-{number}", "pcns.team": team}
    allow = (Rule(action="Allow"),)
    spec = ProfileSpec(ingress=allow, egress=allow, labels_to_apply=labels)
    return _stored("Profile", name, "", Profile(metadata=Metadata(name=name), spec=spec))


def _namespace_of(number: int) -> int:
    return 0 if number < FIRST_NAMESPACE else 1 + (number - FIRST_NAMESPACE) // PER_HOST


def _host(number: int, size: Size) -> str:
    here = number % (size.endpoints // size.local) == 0
    return HERE if here else f"host-{number // PER_HOST}"


def _stored(kind: str, name: str, space: str, resource: Resource) -> Stored:
    key = ResourceKey(kind, name, space)
    return key.path, codec.encode(key, resource)


def _batches(stored: Iterator[Stored]) -> Iterator[list[Stored]]:
    batch: list[Stored] = []
    for one in stored:
        batch.append(one)
        if len(batch) == 1_000:
            yield batch
            batch = []
    yield batch


def _resident_mib() -> float:
    with open("/proc/self/status") as status:
        [line] = [line for line in status if line.startswith("VmRSS")]
    return int(line.split()[1]) / 1024


def _alone(work: Callable[..., list[Result]], *arguments: object) -> list[Result]:
    """In a fresh process: memory that others have used and freed is not counted."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(work, arguments)
