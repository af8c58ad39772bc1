"""The catalog item for Apache Brooklyn: well-formed, and its commands make a host a node."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from tests.hosts.conftest import SUBNET, Machines, install_program
from tests.hosts.machine import Machine

CATALOG = Path(__file__).parents[2] / "docs" / "brooklyn" / "tortie.bom"
COMMANDS = ("install", "customize", "launch", "checkRunning", "stop")
_CONFIG = re.compile(r'\$brooklyn:config\("([^"]+)"\)')


def item(name: str) -> dict[str, Any]:
    catalog = yaml.safe_load(CATALOG.read_text())["brooklyn.catalog"]
    [found] = [entry for entry in catalog["items"] if entry["id"] == name]
    assert isinstance(found, dict)
    return found


def test_the_item_is_whole() -> None:
    entity = item("tortie-docker-network")["item"]
    parameters = {found["name"] for found in entity["brooklyn.parameters"]}
    environment = entity["brooklyn.config"]["shell.env"]
    wanted = {match for value in environment.values() for match in _CONFIG.findall(value)}
    assert wanted == parameters, "each parameter is used, and what is used is one"
    for command in COMMANDS:
        script = entity["brooklyn.config"][f"{command}.command"]
        named = set(re.findall(r"\$\{([A-Z_0-9]+)\}", script))
        assert named <= environment.keys(), command
    [service] = item("docker-engine-with-tortie")["item"]["services"]
    assert service["brooklyn.children"] == [{"type": "tortie-docker-network"}]


def test_its_commands_make_a_host_a_node_and_undo_it(cluster: Machines, spare: Machine) -> None:
    entity = item("tortie-docker-network")["item"]
    spare.boot()
    install_program(spare)
    environment = {
        "ETCD_ENDPOINTS": f"http://{SUBNET.format(11)}:2379",
        "TORTIE_PACKAGE": "tortie",
        "IPV4_POOL": "10.66.0.0/16",
        "DOCKER_NETWORKS": "",  # no dockerd on this machine
        "HOST_SUBNET_ADDRESS": SUBNET.format(14),
    }
    assert environment.keys() == entity["brooklyn.config"]["shell.env"].keys()
    exports = "".join(f"export {name}={shlex.quote(text)}\n" for name, text in environment.items())

    def run(command: str) -> str:
        return spare.ok("bash", "-c", exports + entity["brooklyn.config"][f"{command}.command"])

    try:
        _play(cluster, spare, run, entity)
    finally:
        # The others would wait for its sessions.
        cluster["h1"].run("tortie", "delete", "node", spare.name)


def _play(
    cluster: Machines, spare: Machine, run: Callable[[str], str], entity: dict[str, Any]
) -> None:
    for command in COMMANDS[:4]:
        run(command)
    for command in COMMANDS[:4]:
        run(command)  # Brooklyn restarts entities
    assert spare.systemctl("is-active", "tortie-docker") == "active"
    assert "Implements" in spare.ok(
        "curl", "-s", "--unix-socket", "/run/docker/plugins/tortie.sock", "-X", "POST",
        "http://plugin/Plugin.Activate",
    )  # fmt: skip
    assert spare.name in cluster["h1"].tortie("get", "nodes")
    version, count = (
        spare.ok("bash", "-ec", sensor["brooklyn.config"]["command"]).strip()
        for sensor in entity["brooklyn.initializers"]
    )
    assert version[0].isdecimal()
    assert count == "0"
    run("stop")
    assert spare.systemctl("is-active", "tortie-agent") != "active"
