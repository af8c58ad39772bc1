"""A Kubernetes cluster in a lab: its control plane beside the hosts, a kubelet on each of them.

Everything is real but the machines: kube-apiserver, controller manager, scheduler, kubelet 1.20,
containerd, etcd, our agents and our controllers. The kubelets share the host's cgroups, each under
a parent of its own.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tests.cni.containerd import CGROUP, IMAGE, Containerd
from tests.e2e.live import LiveLab
from tests.kube.control_plane import CONTROLLERS, NODES, ControlPlane

from tortie.kernel import netns
from tortie.lab import cluster, processes
from tortie.lab.description import ETCD_ORDINAL, FABRIC, Host
from tortie.lab.processes import stop

PATIENCE_SECONDS = 40.0
ENTRY = "from tortie.ctl.main import entry; entry()"
CGROUPS = Path("/sys/fs/cgroup")

_KUBELET = {
    "apiVersion": "kubelet.config.k8s.io/v1beta1",
    "kind": "KubeletConfiguration",
    "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
    "authorization": {"mode": "AlwaysAllow"},
    "cgroupDriver": "cgroupfs",
    "failSwapOn": False,
    "enforceNodeAllocatable": [],
    "makeIPTablesUtilChains": False,
    "evictionHard": {
        "memory.available": "0%", "nodefs.available": "0%", "imagefs.available": "0%",
        "nodefs.inodesFree": "0%",
    },
    "resolvConf": "",
    "nodeStatusUpdateFrequency": "2s",
    "syncFrequency": "5s",
}  # fmt: skip


class Kubelet:
    def __init__(self, plane: ControlPlane, live: LiveLab, host: Host, runtime: Containerd) -> None:
        self._plane, self._live, self._host, self._runtime = plane, live, host, runtime
        self.directory = runtime.directory / "kubelet"
        self.directory.mkdir()
        self._cgroup = f"{CGROUP}-{host.name}"
        self.pid = 0

    def start(self) -> None:
        self._make_cgroups()
        config = self.directory / "config.yaml"
        config.write_text(json.dumps({**_KUBELET, "cgroupRoot": f"/{self._cgroup}"}))
        self.pid = processes.start(
            self._live.lab.host_namespace(self._host.name),
            [
                # Volumes that it mounts must be there for the runtime, too.
                *["nsenter", "-t", str(self._runtime.pid), "-m", "-u", "--"],
                str(self._plane.programs / "kubelet"),
                *["--config", str(config)],
                *["--kubeconfig", str(self._plane.kubeconfig())],
                "--container-runtime=remote",
                f"--container-runtime-endpoint=unix://{self._runtime.directory}/containerd.sock",
                *["--hostname-override", self._host.name],
                *["--node-ip", self._host.ipv4.address_text],
                *["--root-dir", str(self.directory / "root")],
                *["--cert-dir", str(self.directory / "certs")],
                *["--pod-infra-container-image", IMAGE],
                *["--oom-score-adj", "0"],
            ],
            self.directory / "log",
        )

    def stop(self) -> None:
        stop([self.pid])

    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")[-3000:]

    def _make_cgroups(self) -> None:
        for hierarchy in CGROUPS.iterdir():
            if hierarchy.name == "unified" or not hierarchy.is_dir():
                continue
            (hierarchy / self._cgroup).mkdir(exist_ok=True)
        for name in ("cpuset.cpus", "cpuset.mems"):
            source = CGROUPS / "cpuset" / name
            if source.exists():
                (CGROUPS / "cpuset" / self._cgroup / name).write_text(source.read_text())


class KubeCluster:
    """
    Args:
        directory: with a short path: those of sockets have at most 107 characters.
    """

    def __init__(self, live: LiveLab, directory: Path) -> None:
        self.live = live
        lab = live.lab
        self.directory = directory
        fabric = FABRIC.address(ETCD_ORDINAL).address_text
        self.etcd = f"http://{fabric}:{cluster.ETCD_PORT}"
        (directory / "plane").mkdir()
        self.plane = ControlPlane(
            directory / "plane",
            fabric,
            netns.named_path(lab.fabric_namespace),
            self.etcd,
        )
        self.runtimes: dict[str, Containerd] = {}
        self.kubelets: dict[str, Kubelet] = {}
        self._controllers: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        lab = self.live.lab
        self.plane.start()
        self.plane.start_rest()
        self.start_controllers()
        for host in lab.hosts:
            kubeconfig = self.plane.kubeconfig(NODES, "node.conf")
            runtime = Containerd(lab, host, self.directory / host.name, kubeconfig)
            self.runtimes[host.name] = runtime
            runtime.start()
            runtime.import_image()
            self.kubelets[host.name] = Kubelet(self.plane, self.live, host, runtime)
            self.kubelets[host.name].start()
        for host in lab.hosts:
            self.until(partial(self.is_ready, host.name), self.kubelets[host.name].log)

    def stop(self) -> None:
        for kubelet in self.kubelets.values():
            kubelet.stop()
        for runtime in self.runtimes.values():
            runtime.stop()
        self.stop_controllers()
        self.plane.stop()

    def start_controllers(self, *arguments: str, **environment: str) -> None:
        settings = {"DATASTORE_TYPE": "etcdv3", "ETCD_ENDPOINTS": self.etcd}
        kubeconfig = str(self.plane.kubeconfig(CONTROLLERS, "controllers.conf"))
        with (self.directory / "controllers.log").open("ab") as log:
            self._controllers = netns.spawn_in(
                self.plane.namespace,
                [sys.executable, "-c", ENTRY, "kube", "controllers",
                 "--kubeconfig", kubeconfig, *arguments],
                stdout=log, stderr=log, env={**os.environ, **settings, **environment},
            )  # fmt: skip

    def stop_controllers(self, *, kill: bool = False) -> None:
        process = self._controllers
        if process is not None:
            process.kill() if kill else process.terminate()
            process.wait()
            self._controllers = None

    def controllers_log(self) -> str:
        return (self.directory / "controllers.log").read_text()[-4000:]

    def start_proxies(self) -> list[int]:
        """kube-proxy in iptables mode on each host; their process ids."""
        kubeconfig = str(self.plane.kubeconfig())
        return [
            processes.start(
                self.live.lab.host_namespace(host.name),
                [
                    str(self.plane.programs / "kube-proxy"),
                    *["--kubeconfig", kubeconfig, "--proxy-mode", "iptables"],
                    *["--hostname-override", host.name, "--cluster-cidr", "10.65.0.0/16"],
                    # The machine's own settings are none of its business.
                    *["--conntrack-max-per-core", "0", "--conntrack-min", "0"],
                    *["--conntrack-tcp-timeout-established", "0"],
                    *["--conntrack-tcp-timeout-close-wait", "0"],
                ],
                self.directory / f"proxy-{host.name}.log",
            )
            for host in self.live.lab.hosts
        ]

    # What there is.

    def is_ready(self, node: str) -> bool:
        try:
            found = self.plane.call("GET", f"/api/v1/nodes/{node}")
        except AssertionError:
            return False
        conditions = found["status"].get("conditions", ())
        return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)

    def pods(self, namespace: str, **labels: str) -> list[dict[str, Any]]:
        selector = "%2C".join(f"{name}%3D{value}" for name, value in labels.items())
        path = f"/api/v1/namespaces/{namespace}/pods?labelSelector={selector}"
        items: list[dict[str, Any]] = self.plane.call("GET", path)["items"]
        return items

    def running(self, namespace: str, count: int, **labels: str) -> list[dict[str, Any]]:
        """Wait for exactly so many pods, all of them running."""

        def find() -> list[dict[str, Any]]:
            found = self.pods(namespace, **labels)
            there = [pod for pod in found if is_running(pod)]
            return there if len(there) == len(found) == count else []

        if count == 0:
            self.until(lambda: not self.pods(namespace, **labels))
            return []
        found: list[dict[str, Any]] = self.until(
            find, lambda: json.dumps(self.pods(namespace, **labels))[-3000:]
        )
        return found

    def phase(self, namespace: str, name: str) -> str:
        pod = self.plane.call("GET", f"/api/v1/namespaces/{namespace}/pods/{name}")
        phase: str = pod["status"].get("phase", "")
        return phase

    def has_namespace(self, name: str) -> bool:
        found = self.plane.call("GET", "/api/v1/namespaces")["items"]
        return any(namespace["metadata"]["name"] == name for namespace in found)

    def left_overs(self, namespace: str, pod: str = "") -> list[str]:
        """What is stored for a namespace's pods, or for one of them; profiles with it."""
        found = []
        for key, entry in self.live.entries().items():
            if "/workloadendpoints/" in key and f"/{namespace}/" in key:
                found.append(key)
            elif "/assignment/" in key and "/block/" in key:
                for attribute in json.loads(entry.value)["attributes"]:
                    said = attribute.get("secondary") or {}
                    if attribute.get("handle_id") and said.get("namespace") == namespace:
                        found.append(f"{key} {said.get('pod')}")
            elif not pod and key.endswith((f"/kns.{namespace}", f"/ksa.{namespace}.default")):
                found.append(key)
        return [one for one in found if pod in one]

    def of_node(self, name: str) -> list[str]:
        """Everything that is stored for a node."""
        return [
            key
            for key in self.live.entries()
            if (f"/host/{name}/" in key and "/felix/" not in key)
            or key.endswith(f"/nodes/{name}")
            or f"/{name}-k8s-" in key
        ]

    def bare_pod(
        self,
        namespace: str,
        name: str,
        command: list[str],
        *,
        restart: str = "Always",
        grace_seconds: int = 0,
    ) -> dict[str, Any]:
        container = {"name": "c", "image": IMAGE, "imagePullPolicy": "Never", "command": command}
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "labels": {"name": name}},
            "spec": {
                "restartPolicy": restart,
                "terminationGracePeriodSeconds": grace_seconds,
                "containers": [container],
            },
        }

    def execute(self, pod: Mapping[str, Any], *command: str) -> tuple[int, str]:
        """In its first container, as `kubectl exec` would."""
        runtime = self.runtimes[pod["spec"]["nodeName"]]
        container = pod["status"]["containerStatuses"][0]["containerID"].rpartition("/")[2]
        return runtime.execute_in(container, *command)

    def network_of(self, pod: Mapping[str, Any]) -> str:
        """Path of its network namespace, from here."""
        container = pod["status"]["containerStatuses"][0]["containerID"].rpartition("/")[2]
        return f"/proc/{self.runtimes[pod['spec']['nodeName']].pid_of(container)}/ns/net"

    def reaches(self, pod: Mapping[str, Any], address: str, port: int = 80) -> bool:
        ask = f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 1 {address} {port}"
        return self.execute(pod, "sh", "-c", ask)[1].endswith("here\n")

    def until(self, answer: Callable[[], Any], explain: Callable[[], str] = lambda: "") -> Any:
        """The first true answer."""
        give_up = time.monotonic() + PATIENCE_SECONDS
        while True:
            found = answer()
            if found:
                return found
            assert time.monotonic() < give_up, explain() + self.controllers_log()
            time.sleep(0.1)


def is_running(pod: Mapping[str, Any]) -> bool:
    states = pod["status"].get("containerStatuses", ())
    ready = bool(states) and all(state.get("ready") for state in states)
    return ready and "deletionTimestamp" not in pod["metadata"]


def address_of(pod: Mapping[str, Any]) -> str:
    address: str = pod["status"]["podIP"]
    return address


def deployment(namespace: str, name: str, replicas: int, **labels: str) -> dict[str, Any]:
    """Web servers on port 80 that answer `here`."""
    labels = {"app": name, **labels}
    container = {
        "name": "c",
        "image": IMAGE,
        "imagePullPolicy": "Never",
        "command": ["/bin/httpd", "-f", "-p", "80", "-h", "/www"],
        "ports": [{"name": "web", "containerPort": 80}],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"terminationGracePeriodSeconds": 0, "containers": [container]},
            },
        },
    }
