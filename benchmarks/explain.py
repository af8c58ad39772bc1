"""`policy why` and `policy impact` on a thousand endpoints in fifty label classes."""

import time
from collections.abc import Iterator

from benchmarks.results import Result
from tortie.explain.impact import impact
from tortie.explain.oracle import Packet, State
from tortie.explain.why import explain
from tortie.lib.ip import Network, parse_network
from tortie.model.endpoint import WorkloadEndpoint, WorkloadEndpointSpec
from tortie.model.keys import Key, ResourceKey
from tortie.model.metadata import Metadata
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
    after = {**before, key: policy}
    began = time.perf_counter()
    found = impact(before, after)
    size = f"{ENDPOINTS:,} endpoints in {CLASSES} classes, {POLICIES} policies"
    yield Result(f"policy impact of one edit, {size}", time.perf_counter() - began, "s", "≤ 5")
    yield Result("changes that it finds", len(found), "")
    began = time.perf_counter()
    explain(before, Packet(_address(1), _address(9), 6, 50000, 8001))
    yield Result(f"policy why, {size}", time.perf_counter() - began, "s", "≤ 1")


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
