"""The calls of Mesos' `network/cni` isolator, with the JSON and environment that it sends.

Source: Apache Mesos, src/slave/containerizer/mesos/isolators/network/cni/cni.cpp.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.cni.host import Containers, Host

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

    def __init__(self, host: Host, directory: Path) -> None:
        self._host = host
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
            "CNI_PATH": str(self._host.bin_dir),
            "CNI_IFNAME": interface,
            "CNI_NETNS": netns,
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        }
        with open(self._file(container, interface)) as config:
            return subprocess.run(
                [self._host.bin_dir / "calico"],
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
    isolator, path = Isolator(host, tmp_path), containers.new()
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
    isolator, path = Isolator(host, tmp_path), containers.new()
    isolator.attach(CONTAINER, path, info, "eth0")
    [endpoint] = host.endpoints().values()
    assert endpoint["metadata"]["namespace"] == "marketing"
    assert endpoint["metadata"]["labels"]["a"] == ""
    containers.end(path)
    isolator.detach(CONTAINER, path, "eth0")
    assert host.left_overs() == []


def test_a_task_on_two_networks(host: Host, containers: Containers, tmp_path: Path) -> None:
    isolator, path = Isolator(host, tmp_path), containers.new()
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
    isolator, path = Isolator(host, tmp_path), containers.new()
    with pytest.raises(AssertionError, match="start it with `tortie agent`"):
        isolator.attach(CONTAINER, path, INFO, "eth0")
