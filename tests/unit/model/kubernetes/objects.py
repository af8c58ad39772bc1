"""A small Kubernetes cluster as JSON, converted, and asked who reaches whom.

Namespaces `x` and `y` have two pods each, `a` and `b`, spread over two hosts; each answer is the
reference evaluator's, and calc must agree with it.
"""

import copy
from typing import Any

from tests.graph.resources import State
from tests.oracle.comparison import differences
from tests.oracle.plain_verdict import DesiredHost

from tortie.explain.oracle import Packet, decide
from tortie.lib.ip import parse_address
from tortie.model.keys import ResourceKey
from tortie.model.kubernetes.cluster_policy import cluster_policy, kubernetes_tiers
from tortie.model.kubernetes.network_policy import network_policy
from tortie.model.kubernetes.workload import (
    namespace_profile,
    pod_endpoint,
    service_account_profile,
)
from tortie.model.metadata import Metadata
from tortie.model.policy import Tier, TierSpec

JSON = dict[str, Any]

HOSTS = ("h1", "h2")
OUTSIDE, OUTSIDE6 = "203.0.113.9", "2001:db8::9"
NODES = {"h1": "192.168.0.1", "h2": "192.168.0.2"}
_PROTOCOLS = {"ICMP": 1, "TCP": 6, "UDP": 17, "ICMPv6": 58, "SCTP": 132}


def pod(namespace: str, name: str, number: int, host: str, *ports: JSON, **labels: str) -> JSON:
    addresses = [{"ip": f"10.0.0.{number}"}, {"ip": f"fd00::{number}"}]
    return {
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name, **labels}},
        "spec": {
            "nodeName": host,
            "serviceAccountName": "runner",
            "containers": [{"name": "main", "ports": list(ports)}],
        },
        "status": {"phase": "Running", "podIP": addresses[0]["ip"], "podIPs": addresses},
    }


def namespace(name: str, **labels: str) -> JSON:
    return {"metadata": {"name": name, "labels": labels}}


def policy(name: str = "p", space: str = "x", **spec: Any) -> JSON:
    """Of all the namespace's pods if it says nothing else."""
    metadata = {"name": name, "namespace": space}
    return {"kind": "NetworkPolicy", "metadata": metadata, "spec": {"podSelector": {}, **spec}}


def cluster(kind: str = "ClusterNetworkPolicy", name: str = "c", **spec: Any) -> JSON:
    defaults = {"tier": "Admin", "priority": 10, "subject": {"namespaces": {}}}
    return {"kind": kind, "metadata": {"name": name}, "spec": {**defaults, **spec}}


def labels(**wanted: str) -> JSON:
    return {"matchLabels": wanted}


def expression(key: str, operator: str, *values: str) -> JSON:
    term = {"key": key, "operator": operator, **({"values": list(values)} if values else {})}
    return {"matchExpressions": [term]}


HTTP = {"name": "http", "containerPort": 80}
HTTP_ALTERNATE = {"name": "http", "containerPort": 8080, "protocol": "TCP"}
DNS = {"name": "dns", "containerPort": 53, "protocol": "UDP"}


class Hosts:
    """Calc on both hosts. They go from one state to the next, as agents do."""

    def __init__(self) -> None:
        self._hosts = [DesiredHost(name) for name in HOSTS]
        self._state: State = {}

    def allow(self, state: State, packet: Packet) -> bool:
        changes = differences(self._state, state)
        self._state = state
        for host in self._hosts:
            host.update(changes)
        return all(host.allows(packet) for host in self._hosts)


_hosts = Hosts()


class Cluster:
    """Change `pods` or `namespaces` before asking, if need be."""

    def __init__(self, *policies: JSON) -> None:
        self.policies = list(policies)
        self.namespaces = {"x": namespace("x", team="red"), "y": namespace("y", team="blue")}
        self.pods = {
            "x/a": pod("x", "a", 1, "h1", HTTP, tier="front"),
            "x/b": pod("x", "b", 2, "h2", HTTP_ALTERNATE, DNS),
            "y/a": pod("y", "a", 3, "h2"),
            "y/b": pod("y", "b", 4, "h1"),
        }
        self.problems: list[str] = []

    def changed(self) -> "Cluster":
        return copy.deepcopy(self)

    def state(self) -> State:
        default = Tier(metadata=Metadata(name="default"), spec=TierSpec(order=1_000_000.0))
        state: State = {ResourceKey("Tier", "default"): default, **dict(kubernetes_tiers())}
        for one in self.namespaces.values():
            state.update([namespace_profile(one)])
            account = {"metadata": {"name": "runner", "namespace": one["metadata"]["name"]}}
            state.update([service_account_profile(account)])
        for one in self.pods.values():
            if entry := pod_endpoint(one):
                state.update([entry])
        for one in self.policies:
            if one["kind"] == "NetworkPolicy":
                key, resource, problems = network_policy(one)
                state[key] = resource
            else:
                found = cluster_policy(one)
                state[found.key], problems = found.resource, found.problems
            self.problems += problems
        return state

    def allows(
        self, source: str, destination: str, protocol: str = "TCP", port: int = 80, family: int = 4
    ) -> bool:
        """Ends are pods, or addresses."""
        leaving = parse_address(self._address(source, family))
        reached = parse_address(self._address(destination, family))
        number = _PROTOCOLS[protocol]
        if protocol.startswith("ICMP"):
            echo = 8 if number == 1 else 128
            packet = Packet(leaving, reached, number, icmp_type=echo, icmp_code=0)
        else:
            packet = Packet(leaving, reached, number, 40000, port)
        state = self.state()
        allowed = decide(state, packet).allowed
        assert _hosts.allow(state, packet) == allowed, "calc and reference differ"
        return allowed

    def _address(self, end: str, family: int) -> str:
        if end not in self.pods:
            return end
        addresses = self.pods[end]["status"]["podIPs"]
        return str(addresses[0 if family == 4 else 1]["ip"])
