"""A Kubernetes cluster of two nodes: from an applied NetworkPolicy to closed everywhere, from a
pod made to one that answers, a hundred pods at once beside Debian's `bridge` without policy."""

import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.cni.containerd import remove_cgroups
from tests.e2e.live import LiveLab
from tests.kube.cluster import KubeCluster, address_of, deployment

from benchmarks.results import Result
from tortie.lab import probe
from tortie.lab.probe import Port, Probe
from tortie.lib.ip import parse_address

ROUNDS, PODS = 10, 100

DENY: dict[str, Any] = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "deny", "namespace": "bench"},
    "spec": {"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress"]},
}
DENY_PATH = "/apis/networking.k8s.io/v1/namespaces/bench/networkpolicies/deny"
BRIDGE = {
    "cniVersion": "0.4.0",
    "name": "bridge",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.99.0.0/16"}]]},
        }
    ],
}


def run() -> Iterator[Result]:
    live = LiveLab(f"k8b{os.getpid()}", "etcd", "direct", hosts=2)
    live.lab_ok("up", "--hosts", "2", "--datastore", "etcd")
    try:
        with tempfile.TemporaryDirectory(prefix="kb") as folder:
            kube = KubeCluster(live, Path(folder))
            try:
                kube.start()
                yield from _measure(kube)
            finally:
                kube.stop()
    finally:
        live.down()
        remove_cgroups()


def _measure(kube: KubeCluster) -> Iterator[Result]:
    kube.plane.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "bench"}})
    kube.plane.create(deployment("bench", "web", 2))
    kube.plane.create(deployment("bench", "client", 2))
    web, client = (kube.running("bench", 2, app=name) for name in ("web", "client"))
    closed = [_time(lambda: kube.plane.create(DENY), lambda: not _any(kube, client, web))]
    opened = []
    for _ in range(ROUNDS):
        opened.append(_time(lambda: kube.plane.delete(DENY_PATH), lambda: _all(kube, client, web)))
        closed.append(_time(lambda: kube.plane.create(DENY), lambda: not _any(kube, client, web)))
    yield Result("NetworkPolicy to closed on both nodes, p50", _ms(closed), "ms")
    yield Result("NetworkPolicy gone to open on both nodes, p50", _ms(opened), "ms")
    kube.plane.delete(DENY_PATH)
    reachable = [_pod_seconds(kube, number, client[0]) for number in range(ROUNDS)]
    yield Result("pod made to pod that answers, p50", _ms(reachable), "ms")
    ours = _hundred(kube, "ours")
    for host, runtime in kube.runtimes.items():
        directory = runtime.directory / "net.d"
        shutil.rmtree(directory)
        directory.mkdir()
        (directory / "10-bridge.conflist").write_text(json.dumps(BRIDGE))
        kube.until(lambda host=host: kube.is_ready(host))  # type: ignore[misc]
    time.sleep(6.0)  # the runtime reads its configuration anew
    bridge = _hundred(kube, "bridge")
    yield Result(f"{PODS} pods at once, ours", ours, "s")
    yield Result(f"{PODS} pods at once, bridge without policy", bridge, "s")
    yield Result(f"{PODS} pods at once, ours by bridge", ours / bridge, "×")


def _hundred(kube: KubeCluster, name: str) -> float:
    began = time.monotonic()
    kube.plane.create(deployment("bench", name, PODS))
    while (
        sum(pod["status"].get("phase") == "Running" for pod in kube.pods("bench", app=name)) < PODS
    ):
        assert time.monotonic() - began < 300
        time.sleep(0.25)
    seconds = time.monotonic() - began
    kube.plane.delete(f"/apis/apps/v1/namespaces/bench/deployments/{name}")
    while kube.pods("bench", app=name):
        time.sleep(0.5)
    return seconds


def _pod_seconds(kube: KubeCluster, number: int, client: dict[str, Any]) -> float:
    name = f"one{number}"
    pod = kube.bare_pod("bench", name, ["/bin/httpd", "-f", "-p", "80", "-h", "/www"])
    began = time.monotonic()
    kube.plane.create(pod)
    while not (found := kube.pods("bench", name=name)) or not found[0]["status"].get("podIP"):
        time.sleep(0.02)
    while not _all(kube, [client], found):
        pass
    seconds = time.monotonic() - began
    kube.plane.delete(f"/api/v1/namespaces/bench/pods/{name}?gracePeriodSeconds=0")
    return seconds


def _time(act: Callable[[], object], is_so: Callable[[], bool]) -> float:
    began = time.monotonic()
    act()
    while not is_so():
        assert time.monotonic() - began < 60
    return time.monotonic() - began


def _answers(kube: KubeCluster, sources: list[Any], targets: list[Any]) -> list[bool]:
    probes = [
        Probe(kube.network_of(source), parse_address(address_of(target)), Port("tcp", 80))
        for source in sources
        for target in targets
    ]
    return probe.run(probes, 0.05)


def _all(kube: KubeCluster, sources: list[Any], targets: list[Any]) -> bool:
    return all(_answers(kube, sources, targets))


def _any(kube: KubeCluster, sources: list[Any], targets: list[Any]) -> bool:
    return any(_answers(kube, sources, targets))


def _ms(seconds: list[float]) -> float:
    return statistics.median(seconds) * 1000
