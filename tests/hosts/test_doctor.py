"""`tortie doctor` on machines on which one thing after another is broken, then mended."""

import contextlib
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from tests.hosts.conftest import Machines
from tests.hosts.machine import Machine

HOST = "h3"
PATIENCE_SECONDS = 30


def examine(machine: Machine, *words: str) -> dict[str, dict[str, Any]]:
    """Findings by the name of the check."""
    said = machine.run("tortie", "doctor", "-o", "json", *words)
    found = json.loads(said.stdout)
    problems = sum(one["state"] == "problem" for one in found["checks"])
    assert found["problems"] == problems
    assert said.returncode == (1 if problems else 0)
    return {one["name"]: one for one in found["checks"]}


def examine_one(machine: Machine, check: str, *words: str) -> dict[str, Any]:
    return examine(machine, "--check", check, *words)[check]


def wait(is_so: Callable[[], bool]) -> None:
    give_up = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < give_up
        time.sleep(0.5)


def test_a_healthy_host(cluster: Machines) -> None:
    # The agent may have been started anew just now, and its sessions with it.
    with contextlib.suppress(AssertionError):
        wait(lambda: all(one["state"] == "good" for one in examine(cluster[HOST]).values()))
    found = examine(cluster[HOST])
    assert [one["number"] for one in found.values()] == list(range(1, 32))
    assert not [one for one in found.values() if one["state"] != "good"]
    assert found["datastore version"]["detail"].startswith("etcd 3.")
    assert found["BGP sessions"]["detail"] == "2 BGP sessions are established"
    assert found["node"]["detail"] == "Node h3, 192.0.2.13/24"


BREAK_AND_MEND = {
    "other firewalls": (
        "nft add table ip other && nft add chain ip other forward "
        "'{ type filter hook forward priority 0; policy drop; }'",
        "chain forward of table ip other (policy drop) drops workloads' traffic",
        "nft delete table ip other",
    ),
    "other agents": (
        "nft add table ip filter && nft add chain ip filter cali-FORWARD",
        "chains of another Calico agent are in ip filter",
        "nft delete table ip filter",
    ),
    "forwarding": (
        "sysctl -qw net.ipv4.ip_forward=0",
        "IPv4 is not forwarded",
        "sysctl -qw net.ipv4.ip_forward=1",
    ),
    "settings": (
        "echo FELIX_HEALTHPORT=many >> /etc/calico/calico.env",
        "environment: HealthPort = 'many'",
        "sed -i /many/d /etc/calico/calico.env",
    ),
    "secrets": (
        "chmod 644 /etc/calico/calico.env; echo ETCD_PASSWORD=x >> /etc/calico/calico.env",
        "/etc/calico/calico.env holds a secret, and others may read it",
        "chmod 600 /etc/calico/calico.env; sed -i /PASSWORD/d /etc/calico/calico.env",
    ),
    "datastore": (
        "sed -i s/192.0.2.11:2379/192.0.2.11:9/ /etc/calico/calico.env",
        "the datastore does not answer",
        "sed -i s/192.0.2.11:9/192.0.2.11:2379/ /etc/calico/calico.env",
    ),
    "datastore version": (
        "sed -i s/192.0.2.11:2379/192.0.2.11:2379,http:\\\\/\\\\/192.0.2.11:9/ "
        "/etc/calico/calico.env",
        "192.0.2.11:9",
        "sed -i s/,http.*// /etc/calico/calico.env",
    ),
    "datastore ready": (
        "tortie datastore migrate lock",
        "the datastore is locked",
        "tortie datastore migrate unlock",
    ),
    "address pools": (
        "tortie create -f - <<END\n"
        "{apiVersion: projectcalico.org/v3, kind: IPPool, metadata: {name: ours},"
        " spec: {cidr: 192.0.2.0/24, disabled: true}}\nEND",
        "IPPool ours (192.0.2.0/24) holds 192.0.2.13",
        "tortie delete ippool ours",
    ),
    "units": (
        "sed -i s/OOMScoreAdjust=-900/OOMScoreAdjust=0/ /etc/systemd/system/tortie-keeper.service",
        "not as this version has them: tortie-keeper.service",
        "tortie node install",
    ),
    "agent": (
        "systemctl stop tortie-agent",
        "no agent runs here",
        "systemctl start tortie-agent",
    ),
    "left over": (
        "systemctl kill --signal=KILL tortie-agent; systemctl stop tortie-agent",
        "/run/tortie/attach.sock: nobody answers",
        "systemctl start tortie-agent",
    ),
    "BGP sessions": (
        "systemctl stop tortie-bird.path tortie-bird.service",
        "BIRD does not answer",
        "systemctl start tortie-bird.path",
    ),
    "BIRD": (
        "systemctl start bird",
        "another BIRD runs beside ours",
        "systemctl stop bird",
    ),
}  # fmt: skip


@pytest.mark.parametrize("check", BREAK_AND_MEND)
def test_what_is_wrong_is_found(cluster: Machines, check: str) -> None:
    machine = cluster[HOST]
    wait(lambda: examine_one(machine, check)["state"] == "good")
    breaks, detail, mends = BREAK_AND_MEND[check]
    machine.ok("bash", "-c", breaks)
    try:
        found = examine_one(machine, check)
        assert found["state"] in ("problem", "warning")
        assert detail in found["detail"]
        assert found["remedy"]
    finally:
        machine.ok("bash", "-c", mends)
    wait(lambda: examine_one(machine, check)["state"] == "good")


def test_the_remedy_of_a_firewall_helps(cluster: Machines) -> None:
    machine = cluster[HOST]
    machine.ok("bash", "-c", BREAK_AND_MEND["other firewalls"][0])
    try:
        machine.ok("sh", "-c", examine_one(machine, "other firewalls")["remedy"])
        assert examine_one(machine, "other firewalls")["state"] == "good"
    finally:
        machine.ok("nft", "delete", "table", "ip", "other")


def test_a_keeper_that_is_gone(cluster: Machines) -> None:
    machine = cluster[HOST]
    machine.ok("systemctl", "stop", "tortie-keeper")
    assert "and no keeper" in examine_one(machine, "agent")["detail"]
    machine.ok("systemctl", "start", "tortie-keeper")
    assert "does not hold the socket" in examine_one(machine, "agent")["detail"]
    machine.ok("systemctl", "restart", "tortie-agent")
    wait(lambda: examine_one(machine, "agent")["state"] == "good")


def test_a_node_of_another_address(cluster: Machines) -> None:
    """As when two hosts have one name."""
    machine = cluster[HOST]
    patch = '{"spec": {"bgp": {"ipv4Address": "192.0.2.%s/24"}}}'
    machine.tortie("patch", "node", HOST, "-p", patch % 77)
    try:
        assert "no interface here has it" in examine_one(machine, "node")["detail"]
        assert "the Node has 192.0.2.77" in examine_one(machine, "address detection")["detail"]
    finally:
        machine.tortie("patch", "node", HOST, "-p", patch % 13)


def test_an_object_that_is_none(cluster: Machines) -> None:
    key = "/calico/resources/v3/projectcalico.org/ippools/garbage"
    etcd = cluster["h1"]
    etcd.ok("env", "ETCDCTL_API=3", "etcdctl", "put", key, "{")
    try:
        found = examine_one(cluster[HOST], "stored objects")
        assert found["detail"].startswith("1 stored objects are invalid")
        assert "garbage" in found["detail"]
    finally:
        etcd.ok("env", "ETCDCTL_API=3", "etcdctl", "del", key)


def test_packets_that_do_not_fit(cluster: Machines) -> None:
    machine = cluster["h1"]  # it has a workload
    machine.ok("ip", "link", "set", "eth0", "mtu", "1300")
    try:
        assert "an MTU over that of eth0, 1300" in examine_one(machine, "MTU")["detail"]
    finally:
        machine.ok("ip", "link", "set", "eth0", "mtu", "1500")


def test_table_and_choice(cluster: Machines) -> None:
    machine = cluster[HOST]
    wait(lambda: machine.run("tortie", "doctor", "-q").returncode == 0)
    said = machine.ok("tortie", "doctor")
    assert said.splitlines()[0].startswith(" 1 ok       kernel: ")
    assert said.endswith("\n0 problems\n")
    assert machine.ok("tortie", "doctor", "-q") == "0 problems\n"
    assert machine.ok("tortie", "doctor", "--check", "14").startswith("14 ok       datastore: ")
    refused = machine.run("tortie", "doctor", "--check", "99")
    assert "there is no check '99'" in refused.stderr
