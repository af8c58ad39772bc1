"""Controllers of a large Kubernetes cluster, against a real API server: memory, and how long a
fresh start takes to be in step, with everything to write and with nothing to write."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.datastore.etcd_server import EtcdServer, free_ports
from tests.kube.control_plane import CONTROLLERS, ControlPlane

from benchmarks import labs
from benchmarks.results import Result
from tortie.datastore.etcd import EtcdClient
from tortie.kube.api import HttpApi, Kind, Name
from tortie.kube.kinds import NAMESPACES, NETWORK_POLICIES, PODS
from tortie.lib import kubeconfig
from tortie.model import codec
from tortie.model.kubernetes.workload import pod_endpoint

POD_COUNT, POLICY_COUNT, NAMESPACE_COUNT, NODE_COUNT = 10_000, 2_000, 100, 100
AT_ONCE = 32
WAIT_SECONDS = 300.0


def run() -> Iterator[Result]:
    with tempfile.TemporaryDirectory(prefix="tortie-bench") as folder:
        directory = Path(folder)
        plane = ControlPlane(directory)
        store = EtcdServer(directory / "store")
        plane.start()
        store.start()
        try:
            asyncio.run(_fill(plane, store))
            size = f"{POD_COUNT:,} pods, {POLICY_COUNT:,} policies"
            for state in ("all to write", "nothing to write"):
                process, seconds = _start(plane, store)
                resident, peak = labs.memory_mib(process.pid)
                target = "≤ 10" if state == "nothing to write" else ""
                yield Result(f"controllers in step, {size}, {state}", seconds, "s", target)
                yield Result(f"controllers' memory, {state}", resident, "MiB", "≤ 150 MB")
                yield Result(f"controllers' peak memory, {state}", peak, "MiB")
                process.send_signal(signal.SIGTERM)
                process.wait()
        finally:
            plane.stop()
            store.kill()


async def _fill(plane: ControlPlane, store: EtcdServer) -> None:
    """Objects in Kubernetes, and an endpoint for each pod as the plugin writes it."""
    api = HttpApi(kubeconfig.read(plane.kubeconfig()))
    client = EtcdClient([store.endpoint])
    try:
        await _each(NAMESPACE_COUNT, lambda n: _create(api, NAMESPACES, _namespace(n)))
        await _each(POLICY_COUNT, lambda n: _create(api, NETWORK_POLICIES, _policy(n)))

        async def pod(number: int) -> None:
            made = await _create(api, PODS, _pod(number))
            converted = pod_endpoint(made)
            assert converted is not None
            key, endpoint = converted
            await client.put(key.path, codec.encode(key, endpoint))

        await _each(POD_COUNT, pod)
    finally:
        await api.close()
        await client.close()


async def _each(count: int, act: Callable[[int], Any]) -> None:
    numbers = iter(range(count))

    async def work() -> None:
        for number in numbers:
            await act(number)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(AT_ONCE):
            tasks.create_task(work())


async def _create(api: HttpApi, kind: Kind, object_: dict[str, Any]) -> Any:
    return await api.create(kind, Name(object_["metadata"].get("namespace", ""), ""), object_)


def _namespace(number: int) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": f"ns{number}"}}


def _policy(number: int) -> dict[str, Any]:
    peer = {"podSelector": {"matchLabels": {"app": f"app{number % 50}"}}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": f"p{number}", "namespace": f"ns{number % NAMESPACE_COUNT}"},
        "spec": {
            "podSelector": {"matchLabels": {"app": f"app{number % 50}"}},
            "ingress": [{"from": [peer], "ports": [{"protocol": "TCP", "port": 80}]}],
        },
    }


def _pod(number: int) -> dict[str, Any]:
    container = {
        "name": "c",
        "image": "registry.example/app:1",
        "ports": [{"name": "web", "containerPort": 8080}],
        "env": [{"name": f"VARIABLE_{n}", "value": "x" * 20} for n in range(10)],
    }
    labels = {"app": f"app{number % 50}", "release": f"r{number % 7}", "team": f"t{number % 20}"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"pod-{number}",
            "namespace": f"ns{number % NAMESPACE_COUNT}",
            "labels": labels,
        },
        "spec": {
            "nodeName": f"node-{number % NODE_COUNT}",
            "serviceAccountName": "default",
            "containers": [container],
        },
    }


def _start(plane: ControlPlane, store: EtcdServer) -> tuple["subprocess.Popen[bytes]", float]:
    """A fresh process, and the seconds until it says that it is in step."""
    [port] = free_ports(1)
    settings = {
        "DATASTORE_TYPE": "etcdv3",
        "ETCD_ENDPOINTS": store.endpoint,
        "KUBECONFIG": str(plane.kubeconfig(CONTROLLERS, "bench.conf")),
    }
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-c", "from tortie.ctl.main import entry; entry()", "kube", "controllers",
         "--health-port", str(port)],
        env={**os.environ, **settings}, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while time.monotonic() - began < WAIT_SECONDS:
        if "in step" in _readiness(port):
            return process, time.monotonic() - began
        assert process.poll() is None
        time.sleep(0.05)
    raise AssertionError("the controllers do not come into step")


def _readiness(port: int) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readiness") as answer:
            return str(answer.read())
    except urllib.error.HTTPError as error:
        return str(error.read())
    except OSError:
        return ""
