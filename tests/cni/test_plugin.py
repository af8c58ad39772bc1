"""The plugin as runtimes start it, against the real service, links and datastore."""

import asyncio
import json
import os
import resource
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytest
from tests.cni.host import Containers, Host, network

from tortie.attach.attacher import Attacher
from tortie.attach.client import Client
from tortie.cni import install
from tortie.datastore.embedded import EmbeddedClient
from tortie.ipam.allocator import Allocator
from tortie.kernel import netns as kernel_netns
from tortie.kernel.rtnl.connection import Rtnl
from tortie.kernel.rtnl.rule import Rule
from tortie.lib.errors import Unavailable
from tortie.model.keys import ResourceKey
from tortie.model.names import interface_name

CID = "8c1f5e0d34b1"
POD = "IgnoreUnknown=1;K8S_POD_NAMESPACE=prod;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=x"


def inside(path: str) -> dict[str, Any]:
    def look() -> Any:
        with Rtnl.open() as rtnl:
            link = rtnl.link("eth0")
            return {
                "up": link.up,
                "mtu": link.mtu,
                "mac": link.mac,
                "addresses": [str(a.address) for a in rtnl.addresses(interface=link.index)
                              if not a.address.address_text.startswith("fe80")],
                "forwarding": Path("/proc/sys/net/ipv4/ip_forward").read_text().strip(),
            }  # fmt: skip

    found: dict[str, Any] = kernel_netns.run_in(path, look)
    return found


@pytest.mark.parametrize(
    ("version", "keys"),
    [
        (None, {"cniVersion", "ip4", "ip6", "dns"}),
        ("0.1.0", {"cniVersion", "ip4", "ip6", "dns"}),
        ("0.2.0", {"cniVersion", "ip4", "ip6", "dns"}),
        ("0.3.0", {"cniVersion", "interfaces", "ips", "dns"}),
        ("0.3.1", {"cniVersion", "interfaces", "ips", "dns"}),
        ("0.4.0", {"cniVersion", "interfaces", "ips", "dns"}),
        ("1.0.0", {"cniVersion", "interfaces", "ips", "dns"}),
        ("1.1.0", {"cniVersion", "interfaces", "ips", "dns"}),
    ],
)
def test_each_version_has_its_form(
    host: Host, containers: Containers, version: str | None, keys: set[str]
) -> None:
    path = containers.new()
    ipam = {"type": "tortie-ipam", "assign_ipv6": "true"}
    result = host.ok("ADD", network(version, ipam=ipam), CID, path)
    assert result.keys() == keys
    assert result["cniVersion"] == (version or "0.2.0")
    if "ip4" in result:
        texts = [result["ip4"]["ip"], result["ip6"]["ip"]]
        assert result["ip4"]["gateway"] == "169.254.1.1"
    else:
        texts = [found["address"] for found in result["ips"]]
        families = [found.get("version") for found in result["ips"]]
        old = version in ("0.3.0", "0.3.1", "0.4.0")
        assert families == (["4", "6"] if old else [None, None])
        assert [found["interface"] for found in result["ips"]] == [1, 1]
        near, far = result["interfaces"]
        assert near["name"] == f"cali{CID[:11]}"
        assert "sandbox" not in near
        assert (far["name"], far["sandbox"]) == ("eth0", path)
        assert len(far["mac"]) == 17
    assert inside(path)["addresses"] == texts
    assert host.command("DEL", network(version), CID, path) == (0, "", "")
    assert host.left_overs() == []


def test_version_needs_no_agent(host: Host) -> None:
    host.stop()
    found = host.ok("VERSION", {"cniVersion": "1.0.0", "type": "tortie"})
    assert found["supportedVersions"] == [
        "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0",
    ]  # fmt: skip


def test_a_container_of_no_orchestrator_has_the_networks_profile(
    host: Host, containers: Containers
) -> None:
    host.ok("ADD", network(), CID, containers.new())
    endpoint = host.endpoints()[f"h1-cni-{CID}-eth0"]
    assert endpoint["metadata"]["namespace"] == "default"
    spec = endpoint["spec"]
    assert (spec["orchestrator"], spec["containerID"], spec["endpoint"]) == ("cni", CID, "eth0")
    assert (spec["profiles"], spec["interfaceName"]) == (["net1"], f"cali{CID[:11]}")
    profile = json.loads(host.entries()[ResourceKey("Profile", "net1").path])["spec"]
    assert profile["labelsToApply"] == {"net1": ""}
    assert profile["ingress"] == [{"action": "Allow", "source": {"selector": "has(net1)"}}]
    assert profile["egress"] == [{"action": "Allow"}]
    assert set(host.addresses().values()) == {f"net1.{CID}"}


def test_a_pod_has_its_names(host: Host, containers: Containers) -> None:
    config = network(policy={"type": "k8s"})
    result = host.ok("ADD", config, CID, containers.new(), args=POD)
    endpoint = host.endpoints()["h1-k8s-web--0-eth0"]
    assert endpoint["metadata"]["namespace"] == "prod"
    assert endpoint["metadata"]["labels"]["projectcalico.org/orchestrator"] == "k8s"
    spec = endpoint["spec"]
    assert (spec["pod"], spec["containerID"]) == ("web-0", CID)
    assert spec["profiles"] == ["kns.prod"]
    assert spec["interfaceName"] == interface_name("prod", "web-0")
    assert result["interfaces"][0]["name"] == spec["interfaceName"]
    assert ResourceKey("Profile", "net1").path not in host.entries()
    host.ok("DEL", config, CID, args=POD)
    assert host.left_overs() == []


def test_names_under_which_calicos_configurations_work(host: Host, containers: Containers) -> None:
    config = {
        "name": "k8s-pod-network", "cniVersion": "0.3.1", "type": "calico", "log_level": "info",
        "log_file_path": "/var/log/calico/cni/cni.log", "datastore_type": "etcdv3",
        "etcd_endpoints": "http://127.0.0.1:2379", "etcd_key_file": "", "nodename": "h1",
        "mtu": 1440,
        "ipam": {"type": "calico-ipam", "assign_ipv4": "true", "assign_ipv6": "false",
                 "ipv4_pools": ["10.65.0.0/24", "v4"]},
        "policy": {"type": "k8s", "k8s_auth_token": "x"}, "kubernetes": {"node_name": "h1"},
        "feature_control": {}, "container_settings": {"allow_ip_forwarding": True}, "num_queues": 1,
        "nodename_file_optional": True, "ipam_lock_file": "/x", "dataplane_options": {"a": 1},
        "include_default_routes": True, "readiness_gates": [], "policy_setup_timeout_seconds": 30,
        "endpoint_status_dir": "/x", "calico_api_group": "", "windows_use_single_network": True,
    }  # fmt: skip
    path = containers.new()
    host.ok("ADD", config, CID, path, args=POD)
    assert inside(path)["mtu"] == 1440
    assert inside(path)["forwarding"] == "1"
    host.ok("DEL", config, CID, path, args=POD)
    assert host.left_overs() == []


def test_null_is_as_if_it_were_not_there(host: Host, containers: Containers) -> None:
    """So Calico reads it, and templates write it."""
    config = network(
        nodename=None, device_type=None, require_mtu_file=None, mtu=None, kubernetes=None,
        policy={"type": None}, container_settings={"allow_ip_forwarding": None},
        args={"org.apache.mesos": {"network_info": {"name": None, "labels": {"labels": [
            {"key": "app", "value": None}]}}}},
    )  # fmt: skip
    host.ok("ADD", config, CID, containers.new())
    [endpoint] = host.endpoints().values()
    assert endpoint["metadata"]["labels"]["app"] == ""
    assert host.refused("ADD", network(nodename=7, mtu=None), CID)["code"] == 7
    host.ok("DEL", config, CID)
    assert host.left_overs() == []


def test_annotations_are_followed(host: Host, containers: Containers) -> None:
    annotations = {
        "cni.projectcalico.org/ipAddrs": '["10.65.0.77","fd00:65::77"]',
        "cni.projectcalico.org/hwAddr": "1c:0c:0a:c0:ff:ee",
        "cni.projectcalico.org/ipFamilies": '["IPv4","IPv6"]',
        "cni.projectcalico.org/floatingIPs": '["192.0.2.7"]',
        "cni.projectcalico.org/allowedSourcePrefixes": '["10.9.0.0/24"]',
    }
    config = network(
        feature_control={"floating_ips": True},
        runtimeConfig={"io.kubernetes.cri.pod-annotations": annotations},
    )
    path = containers.new()
    result = host.ok("ADD", config, CID, path, args=POD)
    assert [found["address"] for found in result["ips"]] == ["10.65.0.77/32", "fd00:65::77/128"]
    assert result["interfaces"][1]["mac"] == "1c:0c:0a:c0:ff:ee"
    spec = host.endpoints()["h1-k8s-web--0-eth0"]["spec"]
    assert spec["ipNATs"] == [{"internalIP": "10.65.0.77", "externalIP": "192.0.2.7"}]
    assert spec["allowSpoofedSourcePrefixes"] == ["10.9.0.0/24"]


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("cni.projectcalico.org/ipAddrs", "[" * 50_000, "must be a JSON list"),
        ("cni.projectcalico.org/ipAddrsNoIpam", '["169.254.1.1"]', "that one workload may have"),
        ("cni.projectcalico.org/floatingIPs", '["127.0.0.1"]', "that one workload may have"),
        ("cni.projectcalico.org/hwAddr", "ff:ff:ff:ff:ff:ff", "unicast"),
        ("qos.projectcalico.org/dscp", "9" * 5000, "dscp"),
        ("qos.projectcalico.org/ingressBandwidth", "9" * 5000, "ingressBandwidth"),
    ],
)
def test_annotations_of_somebody_who_means_ill(
    host: Host, containers: Containers, name: str, value: str, says: str
) -> None:
    """Whoever may make a pod writes them."""
    config = network(
        feature_control={"floating_ips": True, "ip_addrs_no_ipam": True},
        runtimeConfig={"io.kubernetes.cri.pod-annotations": {name: value}},
    )
    refused = host.refused("ADD", config, CID, containers.new(), args=POD)
    assert (refused["code"], says in refused["msg"]) == (7, True), refused
    assert len(refused["msg"]) < 1000
    assert host.left_overs() == []


def test_addresses_without_ipam(host: Host, containers: Containers) -> None:
    key = "cni.projectcalico.org/ipAddrsNoIpam"
    runtime = {"io.kubernetes.cri.pod-annotations": {key: '["10.77.0.9"]'}}
    refused = host.refused("ADD", network(runtimeConfig=runtime), CID, containers.new(), args=POD)
    assert refused["code"] == 7
    assert "feature_control.ip_addrs_no_ipam" in refused["msg"]
    config = network(runtimeConfig=runtime, feature_control={"ip_addrs_no_ipam": True})
    result = host.ok("ADD", config, CID, containers.new(), args=POD)
    assert result["ips"][0]["address"] == "10.77.0.9/32"
    assert host.addresses() == {}
    host.ok("CHECK", config, CID, args=POD)
    taken = host.refused("ADD", config, "other", containers.new(), args=POD.replace("web-0", "b"))
    assert taken["code"] == 101
    assert "in use by" in taken["msg"]
    host.ok("DEL", config, CID, args=POD)
    assert host.left_overs() == []


def test_a_second_network_adds_its_profile(host: Host, containers: Containers) -> None:
    path = containers.new()
    first = host.ok("ADD", network(), CID, path)
    second = host.ok("ADD", {**network(), "name": "net2"}, CID, path)
    assert second["ips"] == first["ips"]
    assert host.endpoints()[f"h1-cni-{CID}-eth0"]["spec"]["profiles"] == ["net1", "net2"]
    host.ok("DEL", {**network(), "name": "net2"}, CID, path)
    host.ok("DEL", network(), CID, path)
    assert host.left_overs() == []


def test_two_interfaces_of_one_container(host: Host, containers: Containers) -> None:
    path = containers.new()
    first = host.ok("ADD", network(), CID, path)
    config = {**network(), "name": "net2", "include_default_routes": False}
    second = host.ok("ADD", config, CID, path, "eth1")
    assert second["ips"] != first["ips"]
    assert len(set(host.links())) == 2
    host.ok("CHECK", config, CID, path, "eth1")
    host.ok("DEL", config, CID, path, "eth1")
    host.ok("CHECK", network(), CID, path)
    host.ok("DEL", network(), CID, path)
    assert host.left_overs() == []


def test_answers_of_a_second_interface_leave_by_it(host: Host, containers: Containers) -> None:
    """Whatever has the default routes; in both families; rules of former addresses are gone."""
    path = containers.new()
    ipam = {"type": "tortie-ipam", "assign_ipv4": "true", "assign_ipv6": "true"}
    host.ok("ADD", network(ipam=ipam), CID, path)
    config = {**network(ipam=ipam), "name": "net2", "include_default_routes": False}
    second = host.ok("ADD", config, CID, path, "eth1")
    own = [found["address"].partition("/")[0] for found in second["ips"]]

    def leaves_by(source: str) -> str:
        target = "fd99::1" if ":" in source else "192.0.2.1"
        said = subprocess.run(
            ["ip", "-o", "route", "get", target, "from", source],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return said.stdout.partition(" dev ")[2].split()[0]

    assert {kernel_netns.run_in(path, partial(leaves_by, source)) for source in own} == {"eth1"}
    host.ok("CHECK", config, CID, path, "eth1")

    def lose_a_rule() -> None:
        subprocess.run(["ip", "rule", "del", "from", own[0], "table", "1001"], check=True)

    kernel_netns.run_in(path, lose_a_rule)
    refused = host.refused("CHECK", config, CID, path, "eth1")
    assert (refused["code"], f"rule for packets from {own[0]}" in refused["msg"]) == (103, True)
    host.ok("DEL", config, CID, path, "eth1")
    assert host.left_overs() != []
    again = host.ok("ADD", config, CID, path, "eth1")
    now = [found["address"].partition("/")[0] for found in again["ips"]]
    assert not set(now) & set(own)
    rules = kernel_netns.run_in(path, lambda: [rule.source for rule in _rules()])
    assert sorted(str(source) for source in rules if source) == sorted(
        f"{address}/{128 if ':' in address else 32}" for address in now
    )


def _rules() -> list[Rule]:
    with Rtnl.open() as rtnl:
        return rtnl.rules()


# Again, and in the wrong order.


def test_l1_add_again_and_a_hundred_at_once_is_one_container(
    host: Host, containers: Containers
) -> None:
    path = containers.new()
    first = host.ok("ADD", network(), CID, path)
    with ThreadPoolExecutor(16) as pool:
        again = list(pool.map(lambda _: host.ok("ADD", network(), CID, path), range(100)))
    assert all(result == first for result in again)
    assert len(host.links()) == 1
    assert len(host.addresses()) == 1


def test_l3_del_in_every_wrong_order(host: Host, containers: Containers) -> None:
    path = containers.new()
    host.ok("DEL", network(), CID, path)
    host.ok("ADD", network(), CID, path)
    containers.end(path)
    host.ok("DEL", network(), CID, path)
    host.ok("DEL", network(), CID, path)
    host.ok("ADD", network(), CID, containers.new())
    host.ok("DEL", network(), CID, "")
    assert host.left_overs() == []


def test_l3_a_late_del_of_an_old_container_leaves_the_new_one(
    host: Host, containers: Containers
) -> None:
    path = containers.new()
    host.ok("ADD", network(), "old", path, args=POD)
    host.stop()
    host.start()
    containers.end(path)
    new = host.ok("ADD", network(), "new", containers.new(), args=POD)
    host.ok("DEL", network(), "old", path, args=POD)
    assert host.endpoints()["h1-k8s-web--0-eth0"]["spec"]["containerID"] == "new"
    assert set(host.addresses().values()) == {"net1.new"}
    host.ok("CHECK", {**network(), "prevResult": new}, "new", args=POD)
    host.ok("DEL", network(), "new", args=POD)
    assert host.left_overs() == []


def test_a_del_that_knows_less_than_its_add(host: Host, containers: Containers) -> None:
    host.ok("ADD", network(), CID, containers.new(), args=POD)
    host.ok("DEL", network(), CID, "", args="IgnoreUnknown=1")
    assert host.left_overs() == []


def test_l5_add_and_del_race(host: Host, containers: Containers) -> None:
    paths = [containers.new() for _ in range(4)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            jobs = [
                (command, f"c{i}", path)
                for i, path in enumerate(paths)
                for command in ("ADD", "DEL")
            ]
            outcomes = list(pool.map(lambda job: host.command(job[0], network(), *job[1:]), jobs))
            assert {outcome.code for outcome in outcomes} == {0}, outcomes
    for i, path in enumerate(paths):
        host.ok("DEL", network(), f"c{i}", path)
    assert host.left_overs() == []


def test_l4_a_killed_plugin_leaves_nothing_that_del_does_not_find(
    host: Host, containers: Containers
) -> None:
    for step in range(12):
        path = containers.new()
        environment = {
            "CNI_COMMAND": "ADD", "CNI_CONTAINERID": CID, "CNI_NETNS": path, "CNI_IFNAME": "eth0",
            "CNI_PATH": str(host.bin_dir),
        }  # fmt: skip
        process = subprocess.Popen(
            [host.bin_dir / "tortie"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps(network()).encode())
        process.stdin.close()
        time.sleep(step * 0.006)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
        if step % 2:
            host.ok("ADD", network(), CID, path)
        host.ok("DEL", network(), CID, path)
        assert host.left_overs() == [], f"killed after {step * 6} ms"


# Without an agent, or a datastore.


def test_l4_a_plugin_killed_at_any_system_call_of_writing_a_del_down(
    host: Host, containers: Containers
) -> None:
    """It has promised nothing; asked again it does, and the agent finds one whole request."""
    path = containers.new()
    host.ok("ADD", network(), CID, path)
    host.stop()
    environment = {
        "CNI_COMMAND": "DEL", "CNI_CONTAINERID": CID, "CNI_NETNS": path, "CNI_IFNAME": "eth0",
        "CNI_PATH": str(host.bin_dir),
    }  # fmt: skip
    spool = host.directory / "spool"
    killed = 0
    for call in ("mkdir", "write", "fsync", "rename"):
        for nth in range(1, 4):
            for file in spool.glob("*"):
                file.unlink()
            inject = f"inject={call}:signal=SIGKILL:when={nth}"
            done = subprocess.run(
                ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", inject,
                 host.bin_dir / "tortie"],
                input=json.dumps(network()), text=True, env=environment, check=False,
            )  # fmt: skip
            if done.returncode == 0:
                break
            assert done.returncode == -signal.SIGKILL
            killed += 1
            for file in spool.glob("*.json"):
                assert file.read_text().endswith("}\n"), f"{call} {nth}"
            host.ok("DEL", network(), CID, path)
            assert list(spool.glob("*.json"))
    assert killed >= 5
    host.start()
    wait_until(lambda: host.left_overs() == [])


def test_without_an_agent(host: Host, containers: Containers) -> None:
    path = containers.new()
    host.ok("ADD", network(), CID, path)
    host.stop()
    away = host.refused("ADD", network(), "other", path)
    assert (away["code"], away["cniVersion"]) == (11, "1.0.0")
    assert "start it with `tortie agent`" in away["details"]
    assert host.refused("CHECK", network(), CID, path)["code"] == 11
    assert host.refused("STATUS", network("1.1.0"))["code"] == 50
    host.ok("DEL", network(), CID, path)
    host.ok("DEL", network(), CID, path)
    assert len(list((host.directory / "spool").iterdir())) == 1
    assert oct((host.directory / "spool").stat().st_mode)[-3:] == "700"
    host.start()
    wait_until(lambda: host.left_overs() == [])


def test_a_del_that_cannot_be_written_down_fails(host: Host, tmp_path: Path) -> None:
    host.stop()
    (host.directory / "spool").write_text("in the way")
    failed = host.refused("DEL", network(), CID)
    assert failed["code"] == 5
    assert str(host.directory / "spool") in failed["msg"]


def test_a_del_that_is_half_written_down_fails(host: Host) -> None:
    """On a full disk a write is short before it fails."""
    host.stop()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        failed = host.refused("DEL", network(comment="x" * 8192), CID)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert failed["code"] == 5
    assert [path.name for path in (host.directory / "spool").glob("*.json")] == []


def test_what_a_killed_plugin_left_in_the_spool_goes(host: Host) -> None:
    host.stop()
    spool = host.directory / "spool"
    spool.mkdir(mode=0o700)
    for name in ("old.json.new", ".old.json.7", "new.json.new"):
        (spool / name).write_text('{"call"')
        os.utime(spool / name, (1, 1) if "old" in name else None)
    host.start()
    wait_until(lambda: [path.name for path in spool.iterdir()] == ["new.json.new"])


@pytest.mark.parametrize("ipam", ["x", ["x"], 7, {"type": ["x"]}])
def test_a_del_without_an_agent_may_have_any_configuration(host: Host, ipam: Any) -> None:
    host.stop()
    host.ok("DEL", network(ipam=ipam), CID)
    deep = '{"a":' * 90_000
    assert host.refused("DEL", deep, CID, plugin="tortie")["code"] == 6
    assert host.refused("ADD", deep, CID, plugin="tortie")["code"] == 11


def test_addresses_of_host_local_are_freed_without_an_agent_or_del_fails(
    host: Host, containers: Containers
) -> None:
    directory = host.directory / "host-local"
    ipam = {"type": "host-local", "subnet": "10.99.0.0/30", "dataDir": str(directory)}
    path = containers.new()
    host.ok("ADD", network(ipam=ipam), CID, path)
    host.stop()
    failed = host.refused("DEL", network(ipam=ipam), CID, path, CNI_PATH="/nonexistent")
    assert (failed["code"], "host-local is in none of" in failed["msg"]) == (7, True)
    assert (directory / "net1" / "10.99.0.2").exists()
    host.ok("DEL", network(ipam=ipam), CID, path)
    assert not (directory / "net1" / "10.99.0.2").exists()
    host.start()
    wait_until(lambda: host.left_overs() == [])


def test_what_lies_in_the_spool_is_not_trusted(host: Host, containers: Containers) -> None:
    host.ok("ADD", network(), CID, containers.new())
    host.stop()
    spool = host.directory / "spool"
    spool.mkdir(mode=0o700)
    (spool / "a.json").write_text("nonsense")
    (spool / "b.json").write_text('{"call":"remove","namespace":"default","workload":"x"}\n')
    (spool / "c.json").symlink_to("/etc/passwd")
    (spool / "d.json").mkdir()
    host.start()
    wait_until(lambda: sorted(p.name for p in spool.iterdir()) == ["c.json", "d.json"])
    assert len(host.links()) == 1


def test_l5_a_runtime_that_gives_up_and_asks_again_gets_the_same(
    host: Host, containers: Containers
) -> None:
    """The first plugin is killed while its Add waits; the second call is served by the first."""
    waiting, go_on = threading.Event(), threading.Event()

    async def late(revision: int, timeout_seconds: float) -> None:
        waiting.set()
        while not go_on.is_set():
            await asyncio.sleep(0.01)

    host.enforced = late
    path = containers.new()
    environment = {
        "CNI_COMMAND": "ADD", "CNI_CONTAINERID": CID, "CNI_NETNS": path, "CNI_IFNAME": "eth0",
        "CNI_PATH": str(host.bin_dir),
    }  # fmt: skip
    first = subprocess.Popen(
        [host.bin_dir / "tortie"], stdin=subprocess.PIPE, env=environment, stdout=subprocess.PIPE
    )
    assert first.stdin is not None
    first.stdin.write(json.dumps(network()).encode())
    first.stdin.close()
    assert waiting.wait(10)
    [made] = host.addresses()
    first.kill()
    first.wait()
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(host.ok, "ADD", network(), CID, path)
        time.sleep(0.2)
        assert not second.done(), "one at a time"
        go_on.set()
        result = second.result(10)
    assert [found["address"] for found in result["ips"]] == [f"{made}/32"]
    assert len(host.links()) == len(host.addresses()) == 1
    host.ok("DEL", network(), CID, path)
    assert host.left_overs() == []


def test_l16_the_host_restarts(host: Host, containers: Containers) -> None:
    """Links and namespaces are gone, the journal and the datastore are not."""
    pod, by_hand = containers.new(), containers.new()
    old = host.ok("ADD", network(), "old", pod, args=POD)

    def attach(namespace: str) -> Any:
        with Client(host.socket) as agent:
            return agent.add(namespace="default", workload="vm", netns=namespace)

    kept = attach(by_hand)["addresses"]
    host.stop()
    for path in (pod, by_hand):
        containers.end(path)  # and the links with them
    wait_until(lambda: host.links() == [])
    # Meanwhile others get addresses; none of those that are still held.
    taken = host.with_client(_elsewhere)
    host.start()
    assert attach(containers.new())["addresses"] == kept, "who comes again has its address again"
    path = containers.new()
    new = host.ok("ADD", network(), "new", path, args=POD)
    own = {found["address"].partition("/")[0] for found in new["ips"]}
    assert not own & taken
    assert not set(kept) & {f"{address}/32" for address in taken}
    host.ok("DEL", network(), "old", args=POD)
    assert host.endpoints()["h1-k8s-web--0-eth0"]["spec"]["containerID"] == "new"
    assert old["ips"][0]["address"].partition("/")[0] not in taken
    host.ok("CHECK", {**network(), "prevResult": new}, "new", path, args=POD)


async def _elsewhere(client: EmbeddedClient) -> set[str]:
    """What another host assigns, from all of the pool that it may have."""
    allocator = Allocator(client, "h2")
    found = [await allocator.assign({4}, f"other.{number}", {}) for number in range(40)]
    return {address.address_text for each in found for address in each}


def test_enforcing_takes_too_long(host: Host, containers: Containers) -> None:
    async def never(revision: int, timeout_seconds: float) -> None:
        raise Unavailable("not enforced in time")

    host.enforced = never
    config = network(policy_setup_timeout_seconds=1)
    failed = host.refused("ADD", config, CID, containers.new())
    assert failed["code"] == 11
    host.enforced = host._at_once
    host.stop()
    host.start()
    wait_until(lambda: host.left_overs() == [])


def test_l2_an_add_that_fails_keeps_what_an_earlier_one_made(
    host: Host, containers: Containers
) -> None:
    async def never(revision: int, timeout_seconds: float) -> None:
        raise Unavailable("not enforced in time")

    path = containers.new()
    first = host.ok("ADD", network(), CID, path)
    host.enforced = never
    assert host.refused("ADD", network(mtu=1400), CID, path)["code"] == 11
    host.enforced = host._at_once
    host.ok("CHECK", {**network(), "prevResult": first}, CID, path)
    assert host.ok("ADD", network(), CID, path)["ips"] == first["ips"]


def test_l6_a_datastore_that_is_away(host: Host, containers: Containers) -> None:
    """ADD may be repeated; DEL succeeds, and is finished when the datastore is back."""
    path = containers.new()
    host.ok("ADD", network(), CID, path)
    with host.datastore_away():
        failed = host.refused("ADD", network(policy_setup_timeout_seconds=1), "c2", path)
        assert failed["code"] == 11
        host.ok("DEL", network(), CID, path)
        assert host.links() == [], "no packet passes any more"
    wait_until(lambda: host.left_overs() == [], 15)


def test_a_datastore_that_is_not_ready(host: Host, containers: Containers) -> None:
    """ADD may be repeated; DEL succeeds, and nothing is written until it is ready again: what
    is written while a datastore is locked would not move with it."""
    path = containers.new()
    host.ok("ADD", network(), CID, path)
    host.set_ready(False)
    locked = host.entries()
    for name in ("net1", "another"):  # the second one has no profile yet
        refused = host.refused("ADD", {**network(), "name": name}, "c2", path)
        assert refused["code"] == 11
        assert "datastoreReady false" in refused["msg"]
    assert host.refused("STATUS", network("1.1.0"))["code"] == 50
    for _ in range(2):
        host.ok("DEL", network(), CID, path)
        host.ok("DEL", network(), "never-added", path)
    assert host.links() == [], "no packet passes any more"
    assert host.entries() == locked
    host.set_ready(True)
    wait_until(lambda: host.left_overs() == [], 15)


OTHERS = {"name": "p", "cniVersion": "1.1.0", "type": "x", "ipam": {"type": "tortie-ipam"}}
"""What the main plugin of somebody else hands to our IPAM."""


def test_our_ipam_alone_with_a_locked_datastore(host: Host) -> None:
    """DEL succeeds and outlives the agent; nothing is written before the lock is gone."""
    for name in ("a", "b"):
        host.ok("ADD", OTHERS, name, "/x", plugin="tortie-ipam")
    host.set_ready(False)
    locked = host.entries()
    for _ in range(2):
        host.ok("DEL", OTHERS, "a", plugin="tortie-ipam")
    assert host.refused("ADD", OTHERS, "a", "/x", plugin="tortie-ipam")["code"] == 11
    collect = {**OTHERS, "cni.dev/valid-attachments": []}
    assert host.refused("GC", collect, plugin="tortie-ipam")["code"] == 11
    assert host.entries() == locked
    assert len(list((host.directory / "spool").iterdir())) == 1
    host.stop()
    host.start()
    assert host.entries() == locked
    host.set_ready(True)
    wait_until(lambda: set(host.addresses().values()) == {"p.b"}, 15)
    wait_until(lambda: list((host.directory / "spool").iterdir()) == [])


def test_our_ipam_alone_without_a_datastore(host: Host) -> None:
    host.ok("ADD", OTHERS, "a", "/x", plugin="tortie-ipam")
    with host.datastore_away():
        host.ok("DEL", OTHERS, "a", plugin="tortie-ipam")
        assert host.refused("ADD", OTHERS, "a", "/x", plugin="tortie-ipam")["code"] == 11
    # Whoever comes again gets an address that no late DEL takes away.
    host.ok("ADD", OTHERS, "a", "/x", plugin="tortie-ipam")
    assert list((host.directory / "spool").iterdir()) == []
    assert set(host.addresses().values()) == {"p.a"}


def test_our_ipam_alone_gives_nobody_what_a_late_del_would_take_away(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unlucky(*_: object, **__: object) -> NoReturn:
        raise Unavailable("no answer")

    host.ok("ADD", OTHERS, "a", "/x", plugin="tortie-ipam")
    with monkeypatch.context() as patch:
        patch.setattr(Allocator, "release", unlucky)
        host.ok("DEL", OTHERS, "a", plugin="tortie-ipam")
        refused = host.refused("ADD", OTHERS, "a", "/x", plugin="tortie-ipam")
        assert (refused["code"], "still to be removed" in refused["msg"]) == (11, True)
        host.ok("ADD", OTHERS, "b", "/x", plugin="tortie-ipam")
    host.ok("ADD", OTHERS, "a", "/x", plugin="tortie-ipam")
    assert set(host.addresses().values()) == {"p.a", "p.b"}
    host.ok("CHECK", OTHERS, "a", plugin="tortie-ipam")


# CHECK, STATUS, GC.


def test_check_sees_what_is_missing(host: Host, containers: Containers) -> None:
    path = containers.new()
    assert host.refused("CHECK", network(), CID, path)["code"] == 3
    result = host.ok("ADD", network(), CID, path)
    host.ok("CHECK", {**network(), "prevResult": result}, CID, path)
    other = {**result, "ips": [{"address": "10.65.0.99/32", "interface": 1}]}
    assert host.refused("CHECK", {**network(), "prevResult": other}, CID, path)["code"] == 103
    kernel_netns.run_in(path, lambda: subprocess.run(["ip", "route", "del", "default"], check=True))
    missing = host.refused("CHECK", network(), CID, path)
    assert missing["code"] == 103
    assert "lacks the route" in missing["msg"]


def test_status(host: Host) -> None:
    assert host.command("STATUS", network("1.1.0")) == (0, "", "")
    assert host.refused("STATUS", network("1.0.0"))["code"] == 1


def test_gc_removes_what_the_runtime_does_not_know(host: Host, containers: Containers) -> None:
    config = network("1.1.0")
    for name in ("c1", "c2", "c3"):
        host.ok("ADD", config, name, containers.new())
    other = {**config, "name": "net2"}
    host.ok("ADD", other, "c4", containers.new())
    assert host.refused("GC", config)["code"] == 7
    valid = {"cni.dev/valid-attachments": [{"containerID": "c2", "ifname": "eth0"}]}
    host.ok("GC", {**config, **valid})
    assert sorted(host.endpoints()) == ["h1-cni-c2-eth0", "h1-cni-c4-eth0"]
    host.ok("GC", {**config, "cni.dev/valid-attachments": []})
    assert sorted(host.endpoints()) == ["h1-cni-c4-eth0"]


# With plugins of others.


def test_addresses_from_host_local(host: Host, containers: Containers) -> None:
    directory = host.directory / "host-local"
    ipam = {"type": "host-local", "subnet": "10.99.0.0/30", "dataDir": str(directory)}
    config = network(ipam=ipam)
    path = containers.new()
    result = host.ok("ADD", config, CID, path)
    assert result["ips"] == [{"address": "10.99.0.2/32", "interface": 1}]
    assert inside(path)["addresses"] == ["10.99.0.2/32"]
    assert host.addresses() == {}
    host.ok("CHECK", {**config, "prevResult": result}, CID, path)
    full = host.refused("ADD", config, "c2", containers.new())
    assert "no IP addresses available" in json.dumps(full)
    host.ok("DEL", config, CID, path)
    assert (directory / "net1" / "10.99.0.2").exists() is False
    bad = host.refused("ADD", {**config, "nodename": "elsewhere"}, "c3", containers.new())
    assert bad["code"] == 7
    assert (directory / "net1" / "10.99.0.2").exists() is False, "given back"
    assert host.left_overs() == []


def test_another_ipam_is_told_of_gc_and_status(host: Host, containers: Containers) -> None:
    """As the specification asks of who delegates. Debian's host-local is too old for either."""
    said = host.directory / "said"
    other = host.bin_dir / "host-local"
    other.unlink()
    other.write_text(
        f"""#!/bin/sh
echo $CNI_COMMAND >> {said}
config=$(cat)
case $CNI_COMMAND in
ADD) echo '{{"cniVersion": "1.1.0", "ips": [{{"address": "10.99.0.2/24"}}]}}';;
GC) echo "$config" | grep -q '"cni.dev/valid-attachments"' || exit 9;;
STATUS) echo '{{"cniVersion": "1.1.0", "code": 50, "msg": "it is full"}}'; exit 1;;
esac
"""
    )
    other.chmod(0o755)
    config = network("1.1.0", ipam={"type": "host-local", "subnet": "10.99.0.0/24"})
    host.ok("ADD", config, CID, containers.new())
    assert host.refused("STATUS", config)["msg"] == "it is full"
    assert len(host.endpoints()) == 1
    host.ok("GC", {**config, "cni.dev/valid-attachments": []})
    assert host.left_overs() == []
    assert said.read_text().split() == ["ADD", "STATUS", "GC"]


def test_another_main_plugin_with_our_ipam(host: Host, containers: Containers) -> None:
    path = containers.new()
    for name in ("tortie-ipam", "calico-ipam"):
        config = {"name": "p", "cniVersion": "1.0.0", "type": "bridge", "ipam": {"type": name}}
        result = host.ok("ADD", config, CID, path)
        assert result["ips"][0]["address"].startswith("10.65.0.")
        assert set(host.addresses().values()) == {f"p.{CID}"}
        host.ok("DEL", config, CID, path)
        assert host.left_overs() == []


def test_our_ipam_gives_back_what_nobody_knows(host: Host) -> None:
    config = {"name": "p", "cniVersion": "1.1.0", "type": "x", "ipam": {"type": "tortie-ipam"}}
    for name in ("a", "b"):
        host.ok("ADD", config, name, "/x", plugin="tortie-ipam")
    valid = {"cni.dev/valid-attachments": [{"containerID": "b", "ifname": "eth0"}]}
    host.ok("GC", {**config, **valid}, plugin="tortie-ipam")
    assert set(host.addresses().values()) == {"p.b"}
    host.ok("ADD", {**config, "name": "p.q"}, "c", "/x", plugin="tortie-ipam")
    host.ok("GC", {**config, **valid}, plugin="tortie-ipam")
    assert set(host.addresses().values()) == {"p.b", "p.q.c"}, "another network's"
    host.ok("CHECK", config, "b", plugin="tortie-ipam")
    assert host.refused("CHECK", config, "a", plugin="tortie-ipam")["code"] == 3


def test_chained_portmap_and_bandwidth(host: Host, containers: Containers) -> None:
    path = containers.new()
    result = host.ok("ADD", network("0.3.1"), CID, path)
    rate = {
        f"{way}{what}": 8_000_000 for way in ("ingress", "egress") for what in ("Rate", "Burst")
    }
    chained = {
        "name": "net1", "cniVersion": "0.3.1", "type": "bandwidth", "prevResult": result,
        "runtimeConfig": {"bandwidth": rate},
    }  # fmt: skip
    limited = host.ok("ADD", chained, CID, path)
    assert limited["ips"] == result["ips"]
    mapped = {
        "name": "net1", "cniVersion": "0.3.1", "type": "portmap", "prevResult": result,
        "runtimeConfig": {
            "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]
        },
    }  # fmt: skip
    assert host.ok("ADD", mapped, CID, path)["ips"] == result["ips"]
    host.ok("DEL", {**mapped, "prevResult": None}, CID, path)
    host.ok("DEL", chained, CID, path)
    host.ok("DEL", network("0.3.1"), CID, path)
    assert host.left_overs() == []


# Bad input.


@pytest.mark.parametrize(
    ("config", "code", "says"),
    [
        ("nonsense", 6, "configuration"),
        ("[1]", 6, "configuration"),
        ("", 6, "configuration"),
        ("null", 6, "configuration"),
        ('{"name":"net1","cniVersion":"1.0.0"}{}', 6, "configuration"),
        ('{"name":"net1","cniVersion":"1.0.0"}\0', 6, "configuration"),
        ('\ufeff{"name":"net1","cniVersion":"1.0.0"}', 6, "configuration"),
        ('{"name":"net1","cniVersion":"1.0.0","nodename":"\\ud800"}', 6, "configuration"),
        ('{"name":"net1","name":"../x","cniVersion":"1.0.0"}', 7, "network's name"),
        ('{"name":"net1","cniVersion":1}', 1, "use one of"),
        ('{"name":"net1","cniVersion":["1.0.0"]}', 1, "use one of"),
        (network(x="é" * (200 << 10)), 6, "more than 1048576 bytes"),
        ('{"a":' * 100_000, 6, "configuration"),
        (network("9.9.9"), 1, "use one of"),
        (network(name=""), 7, "network's name"),
        (network(name="../x"), 7, "network's name"),
        (network(name="a\nb"), 7, "network's name"),
        (network(name="My_Net"), 7, "its profile is called so; it must be lower-case"),
        (network(mtu="big"), 7, "mtu"),
        (network(mtu=12), 7, "mtu"),
        (network(device_type="netkit"), 7, "use veth"),
        (network(nodename="elsewhere"), 7, "nodename"),
        (network(require_mtu_file=True), 7, "require_mtu_file"),
        (network(ipam={"type": "../../bin/sh"}), 7, "ipam.type"),
        (network(ipam={"type": "evil"}), 7, "ipam.type"),
        (network(ipam={"type": "host-local", "subnet": "usePodCidr"}), 7, "usePodCidr"),
        (network(ipam={"assign_ipv4": "false"}), 7, "assign_ipv4"),
        (network(ipam={"assign_ipv4": "maybe"}), 7, "ipam.assign_ipv4 is 'maybe'"),
        (network(ipam={"assign_ipv4": 1}), 7, "assign_ipv4"),
        (network(ipam="tortie-ipam"), 7, "$.ipam"),
        (network(ipam={"ipv4_pools": "v4"}), 7, "ipv4_pools"),
        (network(ipam={"ipv4_pools": ["v6"]}), 7, "no IPv4 pool among v6"),
        (network(ipam={"ipv4_pools": [f"p{n}" for n in range(999)]}), 7, "and 991 more"),
        (network(ipam={"ipv4_pools": ["nope"]}), 7, "there is no IPPool 'nope'"),
        (network(args={"cni": {"ips": ["10.1.1.1"]}}), 7, "is in no IPPool"),
        (network(args={"cni": {"ips": ["zz"]}}), 7, "ips"),
        (network(args={"cni": {"labels": [{"key": "!", "value": ""}]}}), 7, "args.cni.labels"),
        (network(args={"cni": {"ips": ["::ffff:10.65.0.9"]}}), 7, "write it as IPv4"),
        (network(args={"cni": {"ips": ["10.65.0.9", "10.65.0.10"]}}), 7, "of each family"),
        (network(runtimeConfig={"mac": "01:00:00:00:00:01"}), 7, "mac"),
        (network(runtimeConfig={"mac": "00:00:00:00:00:00"}), 7, "mac"),
    ],
)
def test_bad_configurations(
    host: Host, containers: Containers, config: Any, code: int, says: str
) -> None:
    found = host.refused("ADD", config, CID, containers.new(), plugin="tortie")
    assert found["code"] == code, found
    assert says in found["msg"]
    assert host.left_overs() == []


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ({"container": ""}, "CNI_CONTAINERID"),
        ({"container": "../etc"}, "CNI_CONTAINERID"),
        ({"container": "a\r\nb"}, "CNI_CONTAINERID"),
        ({"container": "a" * 300}, "CNI_CONTAINERID"),
        ({"ifname": "a" * 16}, "CNI_IFNAME"),
        ({"ifname": ".."}, "CNI_IFNAME"),
        ({"ifname": "a/b"}, "CNI_IFNAME"),
        ({"ifname": "all"}, "CNI_IFNAME"),
        ({"ifname": "lo"}, "CNI_IFNAME"),
        ({"container": "é"}, "CNI_CONTAINERID"),
        ({"netns": "/run/x\ny"}, "CNI_NETNS"),
        ({"netns": ""}, "CNI_NETNS"),
        ({"netns": "relative"}, "CNI_NETNS"),
    ],
)
def test_bad_environments(host: Host, named: dict[str, str], says: str) -> None:
    arguments = {"container": CID, "netns": "/run/netns/x", **named}
    found = host.refused("ADD", network(), **arguments)
    assert (found["code"], says in found["msg"]) == (4, True), found
    assert host.left_overs() == []


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/nonexistent", 3),
        ("/etc/passwd", 7),
        ("/", 7),
        ("/dev/null", 7),
        ("/proc/self/ns/net", 7),
        ("/proc/self/ns/uts", 7),
        ("{}/pipe", 7),
        ("{}/loop", 7),
        ("{}/dangling", 3),
    ],
)
def test_bad_namespaces(host: Host, path: str, code: int) -> None:
    os.mkfifo(host.directory / "pipe")
    (host.directory / "loop").symlink_to("loop")
    (host.directory / "dangling").symlink_to("nowhere")
    path = path.format(host.directory)
    found = host.refused("ADD", network(), CID, path)
    assert found["code"] == code, found
    assert path in found["msg"], "in terms of who asks"
    assert host.left_overs() == []


def test_a_kubeconfig_that_is_no_file_holds_nobody_up(host: Host, containers: Containers) -> None:
    """Reading from a pipe or a device would have stopped the agent."""
    os.mkfifo(host.directory / "pipe")
    path = containers.new()
    for place in ("/dev/zero", "/etc", f"{host.directory}/pipe", "/nonexistent", "/a\0b", "x"):
        config = network(kubernetes={"kubeconfig": place})
        found = host.refused("ADD", config, CID, path, args=POD)
        assert (found["code"], "kubeconfig" in found["msg"]) == (7, True), found
    assert host.left_overs() == []


def test_a_mistake_of_ours_is_told_as_cni_tells(
    host: Host, containers: Containers, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def mistaken(*_: object) -> NoReturn:
        raise ZeroDivisionError

    path = containers.new()
    with monkeypatch.context() as patch:
        patch.setattr(Attacher, "add", mistaken)
        found = host.refused("ADD", network(), CID, path)
    assert (found["code"], found["cniVersion"]) == (11, "1.0.0")
    assert "ZeroDivisionError" in found["msg"]
    host.ok("ADD", network(), CID, path)


def test_a_container_follows_another_in_its_namespace_at_once(
    host: Host, containers: Containers
) -> None:
    """DEL is answered before the link is gone; whoever comes next waits for that."""
    path = containers.new()
    for number in range(5):
        host.ok("ADD", network(), f"follower{number}", path)
        host.ok("DEL", network(), f"follower{number}", path)
    host.ok("ADD", network(), CID, path)
    assert host.refused("ADD", network(), "follower", path)["code"] == 101, "it is there to stay"
    host.ok("DEL", network(), "follower", path)
    host.ok("DEL", network(), CID, path)


def test_an_unknown_command(host: Host) -> None:
    assert host.refused("EXPLODE", network())["code"] == 4


def test_exhausted_pools_and_taken_addresses(host: Host, containers: Containers) -> None:
    asked = network(args={"cni": {"ips": ["10.65.0.9"]}})
    host.ok("ADD", asked, CID, containers.new())
    taken = host.refused("ADD", asked, "c2", containers.new())
    assert taken["code"] == 101
    assert "ask for another address" in taken["msg"]
    ours = {"name": "p", "cniVersion": "1.0.0", "type": "x", "ipam": {"type": "tortie-ipam"}}

    def fill(index: int) -> int:
        return host.command("ADD", ours, f"f{index}", "/x", plugin="tortie-ipam").code

    host.stop()
    host.start()
    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(fill, range(12)))
    assert codes == [0] * 12
    assert len(set(host.addresses())) == 13


def test_a_pool_without_a_free_address(host: Host, containers: Containers) -> None:
    """It may be tried again: a release, or a new pool, is all that it needs."""
    host.make_pools({"tiny": "10.99.0.0/26"})

    async def fill(client: EmbeddedClient) -> None:
        allocator = Allocator(client, "h2")
        for number in range(64):
            await allocator.assign({4}, f"other.{number}", {}, pools=["tiny"])

    host.with_client(fill)
    config = network(ipam={"type": "tortie-ipam", "ipv4_pools": ["tiny"]})
    path = containers.new()
    found = host.refused("ADD", config, CID, path)
    assert found["code"] == 11
    assert "no IPv4 address is free for host h1 in tiny (10.99.0.0/26)" in found["msg"]
    assert "release addresses or add an IPPool" in found["msg"]
    assert host.endpoints() == {}
    assert host.links() == []

    async def free(client: EmbeddedClient) -> None:
        await Allocator(client, "h2").release("other.7")

    host.with_client(free)
    [address] = host.ok("ADD", config, CID, path)["ips"]
    assert address["address"].startswith("10.99.0.")


def test_without_a_pool(host: Host, containers: Containers) -> None:
    path = containers.new()

    def refused(change: Any) -> Any:
        host.with_client(change)
        found = host.refused("ADD", network(), CID, path)
        assert host.left_overs() == []
        return found

    async def disable(client: EmbeddedClient) -> None:
        key = ResourceKey("IPPool", "v4").path
        entry = await client.get(key)
        assert entry is not None
        document = json.loads(entry.value)
        document["spec"]["disabled"] = True
        await client.put(key, json.dumps(document).encode())

    async def delete(client: EmbeddedClient) -> None:
        await client.delete(ResourceKey("IPPool", "v4").path)

    for change in (disable, delete):
        found = refused(change)
        assert found["code"] == 7
        assert "no IPv4 pool serves host h1: create an IPPool, enable one" in found["msg"]


def test_l7_dual_stack_is_all_or_nothing(host: Host, containers: Containers) -> None:
    async def drop(client: Any) -> None:
        await client.delete(ResourceKey("IPPool", "v6").path)

    host.with_client(drop)
    config = network(ipam={"type": "tortie-ipam", "assign_ipv6": True})
    found = host.refused("ADD", config, CID, containers.new())
    assert found["code"] == 7
    assert "IPv6" in found["msg"]
    assert host.left_overs() == []


def test_by_hand(host: Host) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(host.bin_dir / "tortie"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, env={}, check=False)

    assert run("-v").returncode == 0
    assert run("-v").stdout.strip()
    assert run("-t").stdout == "the agent is ready\n"
    assert run().returncode == 1
    host.stop()
    assert run("-t").returncode == 1


def test_a_hanging_agent_does_not_stop_a_del(host: Host, containers: Containers) -> None:
    """It does not answer in time: what is to be removed is written down, and done later."""
    path = containers.new()
    host.ok("ADD", network(), CID, path)
    places = host.places._replace(timeout_seconds=0.3)
    (host.bin_dir / "tortie").write_bytes(install.script(places))
    assert host._loop is not None
    hold = threading.Event()
    host._loop.call_soon_threadsafe(hold.wait)
    try:
        assert host.refused("ADD", network(), "c2", path)["code"] == 11
        host.ok("DEL", network(), CID, path)
    finally:
        hold.set()
    # The agent still has the ADD, and does it; a runtime whose ADD failed sends a DEL.
    wait_until(lambda: host.command("DEL", network(), "c2").code == 0 and host.endpoints() == {})
    assert os.path.exists(host.socket)


def wait_until(true: Any, seconds: float = 10.0) -> None:
    give_up = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < give_up, "not in time"
        time.sleep(0.02)
