"""From a commit in the datastore to the first packet that feels it, as a host fills up."""

from collections.abc import Iterator

from benchmarks import labs, population
from benchmarks.results import Result, latencies
from tortie.datastore.client import Client
from tortie.kernel import netns
from tortie.lab import cluster, description, latency, workloads
from tortie.lab.description import Datastore, Lab
from tortie.model import codec
from tortie.model.keys import ResourceKey
from tortie.model.metadata import Metadata
from tortie.model.policy import EntityRule, GlobalNetworkPolicy, GlobalNetworkPolicySpec, Rule

SIZES = (1, 100, 1000)
COUNT = 100
PORT = 7777


def run() -> Iterator[Result]:
    datastores: tuple[Datastore, ...] = ("embedded", "etcd")
    for datastore in datastores:
        with labs.lab("bench", 1, datastore) as lab:
            workloads.add(lab.name, "a", "h1", "default", {"role": "a"}, ())
            workloads.add(lab.name, "b", "h1", "default", {"role": "b"}, ())
            yield from _sizes(lab.name, datastore)


def _sizes(name: str, datastore: Datastore) -> Iterator[Result]:
    present = 0
    for size in SIZES:
        lab = description.load(name)
        added = size - present

        async def fill(client: Client, added: int = added, first: int = present) -> None:
            await population.write(client, population.endpoints(added, "h1", first))

        labs.with_client(lab, fill)
        present = size
        cluster.wait_enforced(lab)
        found = _measure(lab)
        yield from latencies(
            f"commit → first packet, {datastore}, {size} more endpoints on the host",
            found,
            "p50 ≤ 3, p99 ≤ 10",
        )


def _measure(lab: Lab) -> list[float]:
    a, b = lab.workload("a"), lab.workload("b")
    key = ResourceKey("GlobalNetworkPolicy", "measured")
    closing, opening = (codec.encode(key, _policy(port)) for port in (1, PORT))

    async def act(client: Client) -> list[float]:
        with latency.Path(
            netns.named_path(lab.workload_namespace(a)),
            netns.named_path(lab.workload_namespace(b)),
            workloads.address_of(b),
            PORT,
        ) as path:
            change = latency.Change(key.path, closing, opening)
            return await latency.commit_to_first_packet(client, change, path, COUNT)

    return labs.with_client(lab, act)


def _policy(port: int) -> GlobalNetworkPolicy:
    """The change is one port: an element, no rule."""
    rule = Rule(action="Allow", protocol="UDP", destination=EntityRule(ports=(port,)))
    return GlobalNetworkPolicy(
        kind="GlobalNetworkPolicy",
        metadata=Metadata(name="measured"),
        spec=GlobalNetworkPolicySpec(selector="role == 'b'", types=("Ingress",), ingress=(rule,)),
    )
