"""Generated NetworkPolicies, judged three times: by the words of Kubernetes, by our oracle from
what is stored, and by real packets between the pods. Three namespaces, three pods in each, TCP
and UDP, ports 80 and 81."""

import itertools
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from tests.cni.containerd import IMAGE
from tests.kube import plain_policy
from tests.kube.cluster import KubeCluster, address_of
from tests.kube.plain_policy import Object

from tortie.explain.oracle import Packet, decide
from tortie.kernel import netns
from tortie.kernel.conntrack import Conntrack
from tortie.lab import cluster as lab_cluster
from tortie.lab import listener, probe
from tortie.lab.probe import Port, Probe
from tortie.lib.ip import Network, parse_address
from tortie.model.kubernetes.network_policy import network_policy

ROUNDS = 10
NAMESPACES, PODS = ("x", "y", "z"), ("a", "b", "c")
PORTS = tuple(Port(protocol, number) for protocol in ("tcp", "udp") for number in (80, 81))
NAMED = {("web", "TCP"): 80, ("dns", "UDP"): 81}
ANSWER_SECONDS, PATIENCE_SECONDS = 0.4, 15.0

runs = itertools.count()


class Place(NamedTuple):
    pod: plain_policy.Pod
    host: str
    namespace_path: str
    address: Network


@pytest.fixture(scope="module")
def places(kube: KubeCluster) -> Iterator[list[Place]]:
    run = next(runs)
    names = {short: f"m{run}{short}" for short in NAMESPACES}
    for short, name in names.items():
        metadata = {"name": name, "labels": {"ns": short}}
        kube.plane.create({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    hosts = itertools.cycle(sorted(kube.runtimes))
    for short, name in itertools.product(NAMESPACES, PODS):
        kube.plane.create(_pod(names[short], name, next(hosts)))
    listeners: list[subprocess.Popen[bytes]] = []
    found = []
    for short, name in itertools.product(NAMESPACES, PODS):
        [pod] = kube.running(names[short], 1, pod=name)
        path = kube.network_of(pod)
        words = [f"{port}" for port in PORTS]
        listeners.append(
            netns.spawn_in(path, [sys.executable, "-I", "-S", str(listener.__file__), *words])
        )
        labels = {"ns": short, "kubernetes.io/metadata.name": names[short]}
        plain = plain_policy.Pod(
            name, names[short], pod["metadata"]["labels"], labels, address_of(pod), NAMED
        )
        found.append(Place(plain, pod["spec"]["nodeName"], path, parse_address(address_of(pod))))
    yield found
    for process in listeners:
        process.kill()
        process.wait()
    for name in names.values():
        kube.plane.delete(f"/api/v1/namespaces/{name}")


def _pod(namespace: str, name: str, host: str) -> dict[str, Any]:
    container = {
        "name": "c",
        "image": IMAGE,
        "imagePullPolicy": "Never",
        "command": ["/bin/sleep", "100000"],
        "ports": [
            {"name": name, "protocol": protocol, "containerPort": number}
            for (name, protocol), number in NAMED.items()
        ],
    }
    metadata = {"name": name, "namespace": namespace, "labels": {"pod": name}}
    spec = {"nodeName": host, "terminationGracePeriodSeconds": 0, "containers": [container]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


class Generator:
    """Policies as users write them, the odd ones included."""

    def __init__(self, seed: int, places: list[Place]) -> None:
        self._random = random.Random(seed)
        self._places = places

    def policies(self) -> list[Object]:
        namespaces = sorted({place.pod.namespace for place in self._places})
        return [
            self._policy(f"p{number}", self._random.choice(namespaces))
            for number in range(self._random.randint(1, 4))
        ]

    def _policy(self, name: str, namespace: str) -> Object:
        spec: dict[str, Any] = {"podSelector": self._selector("pod", PODS)}
        for way, peers in (("ingress", "from"), ("egress", "to")):
            if self._random.random() < 0.7:
                count = self._random.choice((0, 1, 1, 2))
                spec[way] = [self._rule(peers) for _ in range(count)]
        types = self._random.choice((None, ["Ingress"], ["Egress"], ["Ingress", "Egress"]))
        if types:
            spec["policyTypes"] = types
        return {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": name, "namespace": namespace},
            "spec": spec,
        }

    def _rule(self, peers: str) -> Object:
        rule: dict[str, Any] = {}
        if self._random.random() < 0.8:
            rule[peers] = [self._peer() for _ in range(self._random.randint(1, 2))]
        if self._random.random() < 0.6:
            rule["ports"] = [self._port() for _ in range(self._random.randint(1, 2))]
        return rule

    def _peer(self) -> Object:
        kind = self._random.choice(("pod", "pod", "namespace", "both", "block"))
        if kind == "block":
            inside = self._random.choice(self._places).pod.address
            block: dict[str, Any] = {"cidr": self._random.choice((f"{inside}/32", "10.65.0.0/16"))}
            if block["cidr"].endswith("/16") and self._random.random() < 0.7:
                block["except"] = [f"{inside}/32"]
            return {"ipBlock": block}
        peer: dict[str, Any] = {}
        if kind in ("pod", "both"):
            peer["podSelector"] = self._selector("pod", PODS)
        if kind in ("namespace", "both"):
            peer["namespaceSelector"] = self._selector("ns", NAMESPACES)
        return peer

    def _port(self) -> Object:
        protocol = self._random.choice(("TCP", "UDP"))
        port: dict[str, Any] = {"protocol": protocol}
        choice = self._random.choice((None, 80, 81, "web", "dns"))
        if choice is not None:
            port["port"] = choice
        return port

    def _selector(self, key: str, values: tuple[str, ...]) -> Object:
        some = self._random.sample(values, self._random.randint(1, 2))
        kind = self._random.choice(("all", "labels", "In", "NotIn", "Exists", "DoesNotExist"))
        if kind == "all":
            return {}
        if kind == "labels":
            return {"matchLabels": {key: some[0]}}
        expression: dict[str, Any] = {"key": key, "operator": kind}
        if kind in ("In", "NotIn"):
            expression["values"] = some
        return {"matchExpressions": [expression]}


@pytest.mark.timeout(300)
def test_words_oracle_and_packets_agree(kube: KubeCluster, places: list[Place]) -> None:
    differences, verdicts = [], [0, 0]
    for seed in range(ROUNDS):
        policies = Generator(seed, places).policies()
        for policy in policies:
            kube.plane.create(policy)
        try:
            _wait_until_enforced(kube, policies, places)
            expected = _by_words(policies, places)
            stored = _by_oracle(kube, places)
            differences += [
                (seed, key, "oracle") for key in expected if stored[key] != expected[key]
            ]
            differences += [(seed, key, "packets") for key in _by_packets(kube, places, expected)]
            for allowed in expected.values():
                verdicts[allowed] += 1
        finally:
            for policy in policies:
                name, namespace = policy["metadata"]["name"], policy["metadata"]["namespace"]
                base = f"/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies"
                kube.plane.delete(f"{base}/{name}")
    assert not differences
    assert min(verdicts) > sum(verdicts) / 10, "both answers came often enough to mean something"


Question = tuple[int, int, Port]


def _questions(places: list[Place]) -> Iterator[Question]:
    for source, target in itertools.permutations(range(len(places)), 2):
        for port in PORTS:
            yield source, target, port


def _wait_until_enforced(kube: KubeCluster, policies: list[Object], places: list[Place]) -> None:
    wanted = {network_policy(policy).key.path for policy in policies}
    prefix = "/calico/resources/v3/projectcalico.org/networkpolicies/"
    ours = tuple({f"{prefix}{place.pod.namespace}/" for place in places})
    kube.until(lambda: {key for key in kube.live.entries(prefix) if key.startswith(ours)} == wanted)
    lab_cluster.wait_enforced(kube.live.lab)


def _by_words(policies: list[Object], places: list[Place]) -> dict[Question, bool]:
    return {
        (source, target, port): plain_policy.allowed(
            policies, places[source].pod, places[target].pod, port.protocol.upper(), port.number
        )
        for source, target, port in _questions(places)
    }


def _by_oracle(kube: KubeCluster, places: list[Place]) -> dict[Question, bool]:
    state = kube.live.state()
    numbers = {"tcp": 6, "udp": 17}
    return {
        (source, target, port): decide(
            state,
            Packet(
                places[source].address, places[target].address, numbers[port.protocol], 50000,
                port.number,
            ),
        ).allowed
        for source, target, port in _questions(places)
    }  # fmt: skip


def _by_packets(
    kube: KubeCluster, places: list[Place], expected: dict[Question, bool]
) -> list[Question]:
    """Where they differ. What should pass is asked again for a while, what should not is not."""
    wrong = _asked(kube, places, expected, list(expected))
    opened = [question for question in wrong if not expected[question]]
    missing = [question for question in wrong if expected[question]]
    give_up = time.monotonic() + PATIENCE_SECONDS
    while missing and time.monotonic() < give_up:
        missing = _asked(kube, places, expected, missing)
    return opened + missing


def _asked(
    kube: KubeCluster,
    places: list[Place],
    expected: dict[Question, bool],
    questions: list[Question],
) -> list[Question]:
    addresses = frozenset(place.address for place in places)

    def forget() -> None:
        with Conntrack.open() as conntrack:
            conntrack.delete_involving(addresses)

    for host in kube.live.lab.hosts:
        kube.live.in_host(host.name, forget)
    probes = [
        Probe(places[source].namespace_path, places[target].address, port)
        for source, target, port in questions
    ]
    answers = probe.run(probes, ANSWER_SECONDS)
    return [
        question
        for question, answer in zip(questions, answers, strict=True)
        if answer != expected[question]
    ]
