"""Two nodes with kubelets: pods come and go, and NetworkPolicy decides who reaches whom."""

import itertools
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pytest
from tests.kube.cluster import KubeCluster, address_of, deployment, is_running

from tortie.lab import processes

Pod = Mapping[str, Any]

numbers = itertools.count()
"""A second try has names of its own."""


@pytest.fixture(scope="module")
def shop(kube: KubeCluster) -> tuple[Sequence[Pod], ...]:
    """Servers, clients and strangers: two of each."""
    kube.plane.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}})
    for name in ("web", "client", "stranger"):
        kube.plane.create(deployment("shop", name, 2))
    web, client, stranger = (
        kube.running("shop", 2, app=name) for name in ("web", "client", "stranger")
    )
    assert {pod["spec"]["nodeName"] for pod in (*web, *client, *stranger)} == {"h1", "h2"}
    return web, client, stranger


ONLY_CLIENTS = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "only-clients", "namespace": "shop"},
    "spec": {
        "podSelector": {"matchLabels": {"app": "web"}},
        "ingress": [
            {
                "from": [{"podSelector": {"matchLabels": {"app": "client"}}}],
                "ports": [{"protocol": "TCP", "port": "web"}],
            }
        ],
    },
}
PATH = "/apis/networking.k8s.io/v1/namespaces/shop/networkpolicies/only-clients"


def expect(kube: KubeCluster, sources: Sequence[Pod], targets: Sequence[Pod], answer: bool) -> None:
    """From each source to each target, soon."""
    for source in sources:
        for target in targets:
            asked = partial(kube.reaches, source, address_of(target))
            kube.until(partial(_answers, asked, answer))


def _answers(asked: Callable[[], bool], answer: bool) -> bool:
    return asked() == answer


def test_pods_reach_each_other_until_a_policy_says_otherwise(
    kube: KubeCluster, shop: tuple[Sequence[Pod], ...]
) -> None:
    web, client, stranger = shop
    expect(kube, [*client, *stranger], web, True)
    kube.plane.create(ONLY_CLIENTS)
    expect(kube, stranger, web, False)
    expect(kube, client, web, True)
    # A label makes a stranger a client, at once.
    name = stranger[0]["metadata"]["name"]
    path = f"/api/v1/namespaces/shop/pods/{name}"
    kube.plane.patch(path, {"metadata": {"labels": {"app": "client"}}})
    expect(kube, stranger[:1], web, True)
    expect(kube, stranger[1:], web, False)
    kube.plane.delete(path)
    kube.plane.delete(PATH)
    expect(kube, stranger[1:], web, True)


class Stream:
    """Requests, one after another, until stopped; how many were not answered."""

    def __init__(self, kube: KubeCluster, source: Pod, target: Pod) -> None:
        self._ask = partial(kube.reaches, source, address_of(target))
        self._stop = threading.Event()
        self.asked = self.lost = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            self.asked += 1
            self.lost += not self._ask()
            time.sleep(0.05)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


@pytest.mark.timeout(180)
def test_restarts_cut_nothing_and_open_nothing(
    kube: KubeCluster, shop: tuple[Sequence[Pod], ...]
) -> None:
    """Of kubelet, agent, controllers and API server, with traffic that must go on."""
    kube.plane.apply(ONLY_CLIENTS)
    web = kube.running("shop", 2, app="web")
    client = kube.running("shop", 2, app="client")
    # One across hosts is enough here: each that is refused costs a second.
    stranger = kube.running("shop", 2, app="stranger")[:1]
    away = stranger[0]["spec"]["nodeName"]  # the scheduler may have put both there
    web = sorted(web, key=lambda pod: bool(pod["spec"]["nodeName"] == away))[:1]
    expect(kube, stranger, web, False)
    expect(kube, client, web, True)
    stream = Stream(kube, client[0], web[0])
    try:
        kube.kubelets["h1"].stop()
        expect(kube, stranger, web, False)
        kube.kubelets["h1"].start()
        for host in ("h1", "h2"):
            kube.live.stop_agent(host, signal.SIGKILL)
            expect(kube, stranger, web, False)
            kube.live.start_agent(host)
            expect(kube, stranger, web, False)
        kube.stop_controllers(kill=True)
        kube.start_controllers()
        kube.plane.kill("kube-apiserver")
        expect(kube, stranger, web, False)
        expect(kube, client, web, True)
        kube.plane.start_api()
    finally:
        stream.stop()
    assert stream.asked > 20
    assert stream.lost == 0
    # And they all go on where they were.
    kube.until(lambda: kube.is_ready("h1") and kube.is_ready("h2"))
    kube.plane.delete(PATH)
    expect(kube, stranger, web, True)


def test_a_deployment_scales_rolls_and_leaves_nothing_behind(kube: KubeCluster) -> None:
    namespace = f"roll{next(numbers)}"
    kube.plane.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    made = deployment(namespace, "api", 4)
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments/api"
    kube.plane.create(made)
    first = kube.running(namespace, 4, app="api")
    assert len({address_of(pod) for pod in first}) == 4
    kube.plane.patch(path, {"spec": {"replicas": 1}})
    kube.running(namespace, 1, app="api")
    kube.plane.patch(path, {"spec": {"replicas": 3}})
    kube.running(namespace, 3, app="api")
    template = {"metadata": {"labels": {"app": "api", "release": "two"}}}
    kube.plane.patch(path, {"spec": {"template": template}})

    def is_rolled() -> bool:
        pods = kube.pods(namespace, app="api")
        return len(pods) == 3 and all(
            pod["metadata"]["labels"].get("release") == "two" and is_running(pod) for pod in pods
        )

    kube.until(is_rolled)
    kube.plane.delete(f"/api/v1/namespaces/{namespace}")
    kube.until(lambda: not kube.has_namespace(namespace))
    kube.until(lambda: not kube.left_overs(namespace), lambda: str(kube.left_overs(namespace)))


def test_l12_l13_a_finished_pod_gives_its_address_back_and_a_terminating_one_keeps_its_policy(
    kube: KubeCluster,
) -> None:
    namespace = f"ends{next(numbers)}"
    kube.plane.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    done = kube.bare_pod(namespace, "done", ["/bin/true"], restart="Never")
    kube.plane.create(done)
    kube.until(lambda: kube.phase(namespace, "done") == "Succeeded")
    kube.until(lambda: not kube.left_overs(namespace, "done"))
    # A pod that takes its time to end is policed until it has.
    slow = kube.bare_pod(
        namespace, "slow", ["/bin/sh", "-c", "trap 'sleep 4; exit' TERM; httpd -p 80 -h /www; "
                            "while true; do sleep 1; done"], grace_seconds=8,
    )  # fmt: skip
    kube.plane.create(slow)
    kube.plane.create(deployment(namespace, "client", 1))
    [client] = kube.running(namespace, 1, app="client")
    kube.until(lambda: kube.phase(namespace, "slow") == "Running")
    [pod] = kube.pods(namespace, name="slow")
    kube.until(partial(kube.reaches, client, address_of(pod)))
    closed = {
        **ONLY_CLIENTS,
        "metadata": {"name": "closed", "namespace": namespace},
        "spec": {"podSelector": {"matchLabels": {"name": "slow"}}, "policyTypes": ["Ingress"]},
    }
    kube.plane.delete(f"/api/v1/namespaces/{namespace}/pods/slow")
    kube.plane.create(closed)
    time.sleep(1.0)
    assert kube.pods(namespace, name="slow"), "still terminating"
    assert not kube.reaches(client, address_of(pod))
    kube.until(lambda: not kube.pods(namespace, name="slow"))
    kube.until(lambda: not kube.left_overs(namespace, "slow"))


def test_a_port_of_the_host_leads_to_its_pod_and_policy_decides_about_it(
    kube: KubeCluster,
) -> None:
    namespace = f"ports{next(numbers)}"
    kube.plane.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    pod = kube.bare_pod(namespace, "web", ["/bin/httpd", "-f", "-p", "80", "-h", "/www"])
    pod["spec"]["nodeName"] = "h1"
    pod["spec"]["containers"][0]["ports"] = [{"containerPort": 80, "hostPort": 8081}]
    kube.plane.create(pod)
    kube.running(namespace, 1, name="web")
    [host] = [host for host in kube.live.lab.hosts if host.name == "h1"]

    def answers() -> bool:
        ask = f"http://{host.ipv4.address_text}:8081/"
        done = kube.live.command_in("h2", "curl", "--silent", "--max-time", "1", ask)
        return done.stdout == "here\n"

    kube.until(answers)
    closed = {
        **ONLY_CLIENTS,
        "metadata": {"name": "closed", "namespace": namespace},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
    }
    kube.plane.create(closed)
    kube.until(lambda: not answers())
    kube.plane.delete(f"/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies/closed")
    kube.until(answers)
    kube.plane.delete(f"/api/v1/namespaces/{namespace}/pods/web?gracePeriodSeconds=0")


def test_a_node_reaches_its_own_pods_whatever_policy_says_and_no_others(
    kube: KubeCluster, shop: tuple[Sequence[Pod], ...]
) -> None:
    """Kubelets probe their pods; policy cannot, and must not, keep them from it."""
    everything = {**ONLY_CLIENTS, "spec": {"podSelector": {}, "policyTypes": ["Ingress"]}}
    [server] = [pod for pod in shop[0] if pod["spec"]["nodeName"] == "h1"]
    ask = f"http://{address_of(server)}/"

    def answers(host: str) -> bool:
        done = kube.live.command_in(host, "curl", "--silent", "--max-time", "1", ask)
        return done.stdout == "here\n"

    kube.until(partial(answers, "h2"))
    kube.plane.create(everything)
    kube.until(lambda: not answers("h2"))
    assert answers("h1")
    assert not answers("h2")
    kube.plane.delete(PATH)
    kube.until(partial(answers, "h2"))


def test_behind_a_service_policy_decides_about_the_pod(
    kube: KubeCluster, shop: tuple[Sequence[Pod], ...]
) -> None:
    """kube-proxy in iptables mode translates before our rules see the packet."""
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 8080, "targetPort": "web"}]},
    }
    address = kube.plane.create(service)["spec"]["clusterIP"]
    [client, *_] = kube.running("shop", 2, app="client")
    [stranger, *_] = kube.running("shop", 2, app="stranger")
    proxies = kube.start_proxies()
    try:
        for pod in (client, stranger):
            kube.until(partial(kube.reaches, pod, address, 8080))
        kube.plane.apply(ONLY_CLIENTS)
        kube.until(lambda: not kube.reaches(stranger, address, 8080))
        kube.until(partial(kube.reaches, client, address, 8080))
        kube.plane.delete(PATH)
        kube.until(partial(kube.reaches, stranger, address, 8080))
    finally:
        kube.plane.delete("/api/v1/namespaces/shop/services/web")
        processes.stop(proxies)


@pytest.mark.timeout(180)
def test_a_node_that_is_removed_goes_with_its_addresses_and_comes_back(kube: KubeCluster) -> None:
    namespace = f"moves{next(numbers)}"
    kube.plane.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    kube.plane.create(deployment(namespace, "app", 2))
    kube.running(namespace, 2, app="app")
    node = "/calico/resources/v3/projectcalico.org/nodes/h2"
    stored = kube.live.entries(node)[node].value
    kube.kubelets["h2"].stop()
    kube.live.stop_agent("h2", signal.SIGTERM)
    try:
        kube.plane.delete("/api/v1/nodes/h2")
        kube.until(lambda: not kube.of_node("h2"), lambda: str(kube.of_node("h2")))
        for pod in kube.pods(namespace, app="app"):  # Kubernetes itself would wait a minute more
            if pod["spec"]["nodeName"] == "h2":
                name = pod["metadata"]["name"]
                path = f"/api/v1/namespaces/{namespace}/pods/{name}"
                kube.plane.delete(f"{path}?gracePeriodSeconds=0")
        pods = kube.running(namespace, 2, app="app")
        assert {pod["spec"]["nodeName"] for pod in pods} == {"h1"}
    finally:
        # As `tortie node run` does when a host joins: before its kubelet has said a word.
        kube.live.with_client(lambda client: client.put(node, stored))
        kube.live.start_agent("h2")
        kube.kubelets["h2"].start()
    kube.until(lambda: kube.is_ready("h2"))
    kube.plane.patch(
        f"/apis/apps/v1/namespaces/{namespace}/deployments/app", {"spec": {"replicas": 6}}
    )
    pods = kube.running(namespace, 6, app="app")
    assert {pod["spec"]["nodeName"] for pod in pods} == {"h1", "h2"}
    there = next(pod for pod in pods if pod["spec"]["nodeName"] == "h2")
    here = next(pod for pod in pods if pod["spec"]["nodeName"] == "h1")
    kube.until(partial(kube.reaches, here, address_of(there)))
