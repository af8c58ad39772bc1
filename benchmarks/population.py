"""A cluster's worth of endpoints and policies, written straight into a datastore."""

from collections.abc import Iterator

from tortie.datastore.client import Client, Operation, Put, Txn
from tortie.lib.ip import Network, parse_network
from tortie.model import codec
from tortie.model.endpoint import WorkloadEndpoint, WorkloadEndpointSpec
from tortie.model.keys import ResourceKey
from tortie.model.metadata import Metadata
from tortie.model.names import interface_name, workload_endpoint_name
from tortie.model.policy import EntityRule, NetworkPolicy, NetworkPolicySpec, Rule

PER_TRANSACTION = 100
"""Below etcd's limit of 128 operations."""

POOL = parse_network("10.66.0.0/15")
LABELS_PER_ENDPOINT = 10


async def write(client: Client, operations: Iterator[Put]) -> None:
    batch: list[Operation] = []
    for operation in operations:
        batch.append(operation)
        if len(batch) == PER_TRANSACTION:
            await client.transact(Txn(success=batch))
            batch = []
    if batch:
        await client.transact(Txn(success=batch))


def endpoints(count: int, host: str, first: int = 0) -> Iterator[Put]:
    """Endpoints with ten labels each; their interfaces need not exist."""
    for number in range(first, first + count):
        workload = f"bench-{number}"
        spec = WorkloadEndpointSpec(
            orchestrator="k8s",
            node=host,
            workload=workload,
            pod=workload,
            endpoint="eth0",
            ip_networks=(str(Network(4, POOL.value + number + 1, 32)),),
            interface_name=interface_name("bench", workload),
            profiles=("kns.bench",),
        )
        labels = {f"label-{index}": f"value-{number % (index + 2)}" for index in range(8)}
        labels |= {"app": f"app-{number % 500}", "projectcalico.org/namespace": "bench"}
        metadata = Metadata(name=workload_endpoint_name(spec), namespace="bench", labels=labels)
        resource = WorkloadEndpoint(kind="WorkloadEndpoint", metadata=metadata, spec=spec)
        key = ResourceKey("WorkloadEndpoint", metadata.name, "bench")
        yield Put(key.path, codec.encode(key, resource))


def policies(count: int) -> Iterator[Put]:
    """One policy per app: five rules, each from another app."""
    for number in range(count):
        rules = tuple(
            Rule(
                action="Allow",
                protocol="TCP",
                source=EntityRule(selector=f"app == 'app-{(number + step) % 500}'"),
                destination=EntityRule(ports=(8000 + step,)),
            )
            for step in range(1, 6)
        )
        spec = NetworkPolicySpec(selector=f"app == 'app-{number % 500}'", ingress=rules)
        key = ResourceKey("NetworkPolicy", f"bench-{number}", "bench")
        metadata = Metadata(name=key.name, namespace="bench")
        resource = NetworkPolicy(kind="NetworkPolicy", metadata=metadata, spec=spec)
        yield Put(key.path, codec.encode(key, resource))
