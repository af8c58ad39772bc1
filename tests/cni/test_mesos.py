"""The calls of Mesos' `network/cni` isolator, with the JSON and environment that it sends.

Source: Apache Mesos, src/slave/containerizer/mesos/isolators/network/cni/cni.cpp.
"""

import json
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.cni.host import Containers, Host
from tests.cni.test_containerd import eventually
from tests.cni.test_podman import reaches_from
from tests.e2e.live import LiveLab, running_lab

from tortie.attach.cni.conflist import default_conflist
from tortie.cni import install
from tortie.kernel import netns as kernel_netns
from tortie.model.keys import ResourceKey

CONTAINER = "5b1d9c3e-7b0a-4f3c-9d55-0c5b6a1e2f43"
OPERATORS = {
    "name": "calico",
    "type": "calico",
    "ipam": {"type": "calico-ipam"},
    "etcd_endpoints": "http://127.0.0.1:2379",
}
"""The file in --network_cni_config_dir: one plugin, no version."""


class Isolator:
    """Merges the framework's NetworkInfo into the configuration, writes it down, and uses the
    same file for DEL. It passes this environment and nothing else."""

    def __init__(self, bin_dir: Path, directory: Path) -> None:
        self._bin_dir = bin_dir
        self._directory = directory

    def attach(self, container: str, netns: str, info: dict[str, Any], interface: str) -> Any:
        merged = {**OPERATORS, "args": {"org.apache.mesos": {"network_info": info}}}
        merged["name"] = info["name"]
        self._file(container, interface).write_text(json.dumps(merged))
        done = self._call("ADD", container, netns, interface)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    def detach(self, container: str, netns: str, interface: str) -> None:
        done = self._call("DEL", container, netns, interface)
        assert done.returncode == 0, done.stdout + done.stderr

    def _call(
        self, command: str, container: str, netns: str, interface: str
    ) -> subprocess.CompletedProcess[str]:
        environment = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_PATH": str(self._bin_dir),
            "CNI_IFNAME": interface,
            "CNI_NETNS": netns,
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        }
        with open(self._file(container, interface)) as config:
            return subprocess.run(
                [self._bin_dir / "calico"],
                stdin=config,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )

    def _file(self, container: str, interface: str) -> Path:
        return self._directory / f"{container}.{interface}.json"


INFO = {
    "name": "calico",
    "labels": {
        "labels": [
            {"key": "app", "value": "myapp"},
            {"key": "owner/team", "value": "Räd & Blue"},
            {"key": "..odd--.key..", "value": "-x-"},
        ]
    },
    "port_mappings": [{"host_port": 8080, "container_port": 80}],
}


def test_a_task_gets_its_address_and_labels(
    host: Host, containers: Containers, tmp_path: Path
) -> None:
    isolator, path = Isolator(host.bin_dir, tmp_path), containers.new()
    result = isolator.attach(CONTAINER, path, INFO, "eth0")
    assert result == {
        "cniVersion": "0.2.0",
        "ip4": {"ip": result["ip4"]["ip"], "gateway": "169.254.1.1"},
        "dns": {},
    }
    [(name, endpoint)] = host.endpoints().items()
    assert name == f"h1-cni-{CONTAINER.replace('-', '--')}-eth0"
    labels = dict(endpoint["metadata"]["labels"])
    assert labels.pop("projectcalico.org/namespace") == "default"
    assert labels.pop("projectcalico.org/orchestrator") == "cni"
    assert labels == {"app": "myapp", "owner.team": "R-d-Blue", "odd.key": "x"}
    assert endpoint["spec"]["ipNetworks"] == [result["ip4"]["ip"]]
    assert endpoint["spec"]["profiles"] == ["calico"]
    assert ResourceKey("Profile", "calico").path in host.entries()
    isolator.detach(CONTAINER, path, "eth0")
    isolator.detach(CONTAINER, path, "eth0")
    assert host.left_overs() == []


def test_a_label_names_the_namespace(host: Host, containers: Containers, tmp_path: Path) -> None:
    labels = [{"key": "projectcalico.org/namespace", "value": "Marketing"}, {"key": "a"}]
    info = {"name": "calico", "labels": {"labels": labels}}
    isolator, path = Isolator(host.bin_dir, tmp_path), containers.new()
    isolator.attach(CONTAINER, path, info, "eth0")
    [endpoint] = host.endpoints().values()
    assert endpoint["metadata"]["namespace"] == "marketing"
    assert endpoint["metadata"]["labels"]["a"] == ""
    containers.end(path)
    isolator.detach(CONTAINER, path, "eth0")
    assert host.left_overs() == []


def test_a_task_on_two_networks(host: Host, containers: Containers, tmp_path: Path) -> None:
    isolator, path = Isolator(host.bin_dir, tmp_path), containers.new()
    first = isolator.attach(CONTAINER, path, {"name": "calico"}, "eth0")
    second = isolator.attach(CONTAINER, path, {"name": "other"}, "eth1")
    assert first["ip4"]["ip"] != second["ip4"]["ip"]
    profiles = {e["spec"]["endpoint"]: e["spec"]["profiles"] for e in host.endpoints().values()}
    assert profiles == {"eth0": ["calico"], "eth1": ["other"]}
    for interface in ("eth0", "eth1"):
        isolator.detach(CONTAINER, path, interface)
    assert host.left_overs() == []


def test_what_fails_is_told(host: Host, containers: Containers, tmp_path: Path) -> None:
    """Mesos puts both outputs into the task's failure."""
    host.stop()
    isolator, path = Isolator(host.bin_dir, tmp_path), containers.new()
    with pytest.raises(AssertionError, match="start it with `tortie agent`"):
        isolator.attach(CONTAINER, path, INFO, "eth0")


# End to end, on two hosts of a lab.

POLICY = """
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: default.web, namespace: default}
spec:
  selector: app == 'web'
  types: [Ingress]
  ingress:
  - {action: Allow, protocol: TCP, source: {selector: team.role == 'friend'},
     destination: {ports: [80]}}
"""


@pytest.fixture
def live() -> Iterator[LiveLab]:
    with running_lab("mes", hosts=2, ipv6=False) as made:
        yield made


def info_of(**labels: str) -> dict[str, Any]:
    found = [{"key": key.replace("_", "/"), "value": value} for key, value in labels.items()]
    return {"name": "calico", "labels": {"labels": found}}


def test_tasks_on_two_hosts_are_policed_by_their_labels(
    live: LiveLab, containers: Containers, tmp_path: Path
) -> None:
    isolators = {}
    for host in ("h1", "h2"):
        state, bin_dir = live.lab.host_directory(host), tmp_path / host
        places = install.Places(state / "attach.sock", state / "state" / "cni")
        install.install(bin_dir, None, places, default_conflist(kubernetes=False, ipv6=False))
        isolators[host] = Isolator(bin_dir, bin_dir)
    tasks = {  # an agent of Mesos attaches its containers at once
        "web": ("h1", info_of(app="web")),
        "friend": ("h2", info_of(team_role="friend")),
        "other": ("h2", info_of(team_role="other")),
        "elsewhere": ("h2", info_of(**{"team_role": "friend",
                                       "projectcalico.org_namespace": "marketing"})),
    }  # fmt: skip
    paths = {task: containers.new() for task in tasks}

    def attach(task: str) -> str:
        host, info = tasks[task]
        ip4: str = isolators[host].attach(f"{task}-0", paths[task], info, "eth0")["ip4"]["ip"]
        return ip4.partition("/")[0]

    with ThreadPoolExecutor() as pool:
        addresses = dict(zip(tasks, pool.map(attach, tasks), strict=True))
    assert len(set(addresses.values())) == len(tasks)
    pages = tmp_path / "www"
    pages.mkdir()
    (pages / "index.html").write_text("here")
    server = kernel_netns.spawn_in(
        paths["web"], ["busybox", "httpd", "-f", "-p", "80", "-h", str(pages)],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        for source in ("friend", "other", "elsewhere"):  # the network's profile lets them
            assert eventually(lambda: reaches_from(paths[source], addresses["web"])), source  # noqa: B023
        live.apply(POLICY, tmp_path)

        def policed() -> bool:
            found = {task: reaches_from(paths[task], addresses["web"]) for task in list(tasks)[1:]}
            return found == {"friend": True, "other": False, "elsewhere": False}

        assert eventually(policed, 30)
        live.stop_agent("h1", signal.SIGKILL)
        assert eventually(policed), "the agent's end changes nothing"
    finally:
        server.kill()
        server.wait()
    isolators["h1"].detach("web-0", paths["web"], "eth0")  # written down
    live.start_agent("h1")
    for task in list(tasks)[1:]:
        isolators["h2"].detach(f"{task}-0", paths[task], "eth0")
    assert eventually(lambda: not [k for k in live.entries() if "-cni-" in k or "/calico." in k])
