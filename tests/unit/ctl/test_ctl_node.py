"""`node checksystem` and `node diags` on this machine and on worse ones."""

import gzip
import os
import re
import tarfile
from pathlib import Path

import pytest
from tests.unit.ctl.shell import Shell

from tortie.ctl import node_checksystem, node_diags, node_run
from tortie.ctl.redaction import redacted_text
from tortie.lib.ip import parse_address

CANARY = "canary-90ee"


def test_a_kernel_without_nftables(tortie: Shell) -> None:
    options = "".join(f"{name}=y\n" for name in node_checksystem.OPTIONS)
    good = tortie.write("good", options)
    bad = tortie.write("bad", options.replace("CONFIG_NF_TABLES=y", "# CONFIG_NF_TABLES is unset"))
    assert "OK" in tortie("node", "checksystem", f"--kernel-config={good}").out
    outcome = tortie("node", "checksystem", "--kernel-config", bad)
    assert outcome.code == 1
    assert "nftables                                    FAIL\n" in outcome.out
    assert "this kernel was built without CONFIG_NF_TABLES\n" in outcome.out
    assert "requirements are not met" in outcome.err
    assert "cannot read" in tortie("node", "checksystem", "--kernel-config=/nonexistent").err


def test_compressed_and_missing_configurations(tmp_path: Path) -> None:
    path = tmp_path / "config.gz"
    path.write_bytes(gzip.compress(b"CONFIG_VETH=m\nCONFIG_IPV6=n\n"))
    assert node_checksystem.kernel_options(path, "") == {"CONFIG_VETH": "m"}


def test_an_old_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.release", lambda: "4.19.0-27-amd64")
    first = next(iter(node_checksystem.run(None)))
    assert first.is_good is False
    assert "5.10" in first.remedy


def test_diags_are_best_effort_and_hold_no_secret(
    tortie: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "calicoctl.cfg").write_text(f"spec:\n  etcdPassword: {CANARY}\n  etcdUsername: me\n")
    (etc / "felix.cfg").write_text(f"EtcdAddr = http://me:{CANARY}@h:1\nChainInsertMode = x\n")
    (etc / "client.key").write_text(CANARY)
    (etc / "net.kubeconfig").write_text(CANARY)
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "agent.log").write_text("started\n")
    monkeypatch.setenv("ETCD_PASSWORD", CANARY)
    monkeypatch.setattr(node_diags, "FILES", (str(etc), "/nonexistent/file"))
    commands = {
        "a.txt": ("echo", "hello"),
        "b.txt": ("false-that-is-not-there",),
        "c.txt": ("sleep", "30"),
    }
    monkeypatch.setattr(node_diags, "COMMANDS", commands)
    monkeypatch.setattr(node_diags, "PATIENCE_SECONDS", 0.2)
    outcome = tortie("node", "diags", "--log-dir", str(logs))
    assert outcome.code == 0, outcome.err
    path = outcome.out.removeprefix("Diags saved to ").rstrip("\n")
    with tarfile.open(path) as archive:
        parts = {m.name.partition("/")[2]: archive.extractfile(m) for m in archive.getmembers()}
        texts = {name: file.read().decode() for name, file in parts.items() if file}
    Path(path).unlink()
    assert texts["a.txt"] == "hello\n"
    assert "not installed" in texts["b.txt"]
    assert "timed out" in texts["c.txt"]
    assert texts[f"files{logs}/agent.log"] == "started\n"
    assert "etcdUsername: me" in texts[f"files{etc}/calicoctl.cfg"]
    assert "ChainInsertMode = x" in texts[f"files{etc}/felix.cfg"]
    assert "ETCD_PASSWORD is set\n" in texts["environment.txt"]
    assert CANARY not in "".join(texts.values())


@pytest.mark.parametrize(
    "text",
    [
        f"password: {CANARY}", f"ETCD_PASSWORD={CANARY}", f'"token": "{CANARY}",',
        f"https://u:{CANARY}@h/", f"PrivateKey = {CANARY}", f"pre_shared_psk: {CANARY}",
        f"-----BEGIN PRIVATE KEY-----\n{CANARY}\n-----END PRIVATE KEY-----",
        f"-----BEGIN PRIVATE KEY-----\n{CANARY}\n",
    ],
)  # fmt: skip
def test_lines_with_secrets(text: str) -> None:
    assert CANARY not in redacted_text(text)


@pytest.mark.parametrize("text", ["http://h:2379/x", "name: web", "a = b"])
def test_lines_without(text: str) -> None:
    assert redacted_text(text) == text


def test_what_node_run_would_start(tortie: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NODENAME", raising=False)
    outcome = tortie("node", "run", "--dryrun", "--name=n7", "--felix-config", "/x y.cfg")
    assert outcome.out.startswith("FELIX_FELIXHOSTNAME=n7 ")
    assert outcome.out.endswith(" -P -m tortie agent --felix-config '/x y.cfg'\n")
    assert tortie("get", "nodes").out == "NAME\n"
    assert "no AS number" in tortie("node", "run", "--dryrun", "--as=0").err
    assert "--backend is one of" in tortie("node", "run", "--dryrun", "--backend=gobgp").err


Started = list[tuple[list[str], dict[str, str]]]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Started:
    """What would be executed by `node run`, on a machine without interfaces."""
    found: Started = []
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("os.execve", lambda _, words, env: found.append((words, env)))
    monkeypatch.setattr(node_run, "interfaces", list)
    monkeypatch.setattr(node_run, "close", lambda _: None)
    for name in list(os.environ):
        if re.match("CALICO_|IP|AS$|NODENAME|FELIX_|NO_DEFAULT|WAIT_FOR", name):
            monkeypatch.delenv(name)
    monkeypatch.setenv("CALICO_NODENAME_FILE", str(tmp_path / "calico" / "nodename"))
    return found


def test_node_run(tortie: Shell, started: Started, tmp_path: Path) -> None:
    outcome = tortie("node", "run", "--name=n7", "--ip=192.0.2.7/24", "--as=64600")
    assert outcome.out == "Node n7 with 192.0.2.7/24; starting the agent\n", outcome.err
    assert started[0][1]["FELIX_FELIXHOSTNAME"] == "n7"
    assert (tmp_path / "calico" / "nodename").read_text() == "n7"
    assert tortie("get", "nodes", "-o", "wide").out.endswith("n7     64600   192.0.2.7/24\n")
    assert "192.168.0.0/16" in tortie("get", "pools").out
    tortie("label", "node", "n7", "rack=r1")
    tortie("node", "run", "--name=n7", "--ip=192.0.2.8/24", "--no-default-ippools")
    after = tortie("get", "node", "n7", "-o", "wide", "--show-labels").out
    assert after.endswith("n7     64600   192.0.2.8/24          rack=r1\n")
    assert "no IPv4 address found" in tortie("node", "run", "--name=n8").err
    assert "not an IPv4 address" in tortie("node", "run", "--ip=fd00::1").err
    assert "length of its subnet" in tortie("node", "run", "--ip=192.0.2.7/33").err


def test_a_node_without_an_address(tortie: Shell, started: Started) -> None:
    assert tortie("node", "run", "--name=n7", "--ip=none").code == 0
    assert "bgp" not in tortie("get", "node", "n7", "-o", "yaml").out


def test_node_run_again_writes_nothing(tortie: Shell, started: Started) -> None:
    """An agent that restarts wakes nobody."""
    tortie("node", "run", "--name=n7", "--ip=192.0.2.7/24")
    before = tortie("get", "node", "n7", "-o", "yaml").out
    assert tortie("node", "run", "--name=n7").code == 0, "the address is the stored one"
    assert tortie("get", "node", "n7", "-o", "yaml").out == before


def test_a_node_is_told_what_kubernetes_calls_it(
    tortie: Shell, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    tortie("node", "run", "--name=n7", "--ip=192.0.2.7/24")
    for name in ("worker-7", "worker-8", "worker-8"):
        monkeypatch.setenv("CALICO_K8S_NODE_REF", name)
        tortie("node", "run", "--name=n7")
        after = tortie("get", "node", "n7", "-o", "yaml").out
        assert f"orchRefs:\n  - nodeName: {name}\n    orchestrator: k8s\n" in after
    assert "worker-7" not in after


def test_node_run_by_the_environment(
    tortie: Shell, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Calico's service file has it."""
    for name, value in {
        "CALICO_NODENAME": "N9", "CALICO_IP": "192.0.2.9/24", "CALICO_IP6": "fd00::9/64",
        "CALICO_AS": "64601", "CALICO_IPV4POOL_CIDR": "10.9.0.0/16",
        "CALICO_IPV4POOL_BLOCK_SIZE": "27", "CALICO_IPV4POOL_NAT_OUTGOING": "false",
        "CALICO_IPV4POOL_NODE_SELECTOR": "rack == 'r1'", "CALICO_IPV6POOL_CIDR": "fd09::/64",
        "CALICO_IPV4POOL_IPIP": "Never", "CALICO_NETWORKING_BACKEND": "bird",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    outcome = tortie("node", "run")
    assert outcome.out == "Node n9 with 192.0.2.9/24, fd00::9/64; starting the agent\n", outcome.err
    pools = tortie("get", "pools", "-o", "yaml").out
    for text in ("cidr: 10.9.0.0/16", "blockSize: 27", "rack == 'r1'", "cidr: fd09::/64"):
        assert text in pools
    assert pools.count("natOutgoing: true") == 0
    # A flag beats a variable, and the plain names beat those of the service file.
    monkeypatch.setenv("NODENAME", "n10")
    assert tortie("node", "run", "--dryrun").out.startswith("FELIX_FELIXHOSTNAME=n10 ")
    assert tortie("node", "run", "--dryrun", "--name=n11").out.startswith("FELIX_FELIXHOSTNAME=n11")


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("AS", "0", "AS: '0' is no AS number"),
        ("NO_DEFAULT_POOLS", "maybe", "NO_DEFAULT_POOLS is true or false"),
        ("CALICO_NETWORKING_BACKEND", "vxlan", "there are no overlays here"),
        ("CALICO_IPV4POOL_IPIP", "Always", "CALICO_IPV4POOL_IPIP: there are no overlays"),
        ("CALICO_IPV4POOL_BLOCK_SIZE", "33", "a number from 20 to 32, not '33'"),
        ("CALICO_IPV4POOL_CIDR", "fd00::/64", "is not of IPv4"),
        ("CALICO_IPV6POOL_CIDR", "10.0.0.0/8", "is not of IPv6"),
        ("CALICO_IPV4POOL_NODE_SELECTOR", "a ==", "selector"),
    ],
)
def test_node_run_refuses(
    tortie: Shell, started: Started, monkeypatch: pytest.MonkeyPatch, name: str, value: str,
    complaint: str,
) -> None:  # fmt: skip
    monkeypatch.setenv(name, value)
    outcome = tortie("node", "run", "--name=n7", "--ip=192.0.2.7/24")
    assert outcome.code == 1
    assert complaint in outcome.err
    assert not started


def test_node_run_without_a_datastore(
    tortie: Shell, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATASTORE_TYPE", "etcdv3")
    monkeypatch.setenv("ETCD_ENDPOINTS", "http://127.0.0.1:1")
    assert tortie("node", "run", "--ip=192.0.2.7/24").code == 1
    assert not started
    # A daemon waits for it, however long.
    monkeypatch.setenv("WAIT_FOR_DATASTORE", "true")
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 5:
            monkeypatch.setenv("DATASTORE_TYPE", "embedded")

    monkeypatch.setattr("asyncio.sleep", sleep)
    outcome = tortie("node", "run", "--name=n7", "--ip=192.0.2.7/24")
    assert outcome.code == 0, outcome.err
    assert outcome.err.count("waiting for the datastore") == 1, "said once"
    assert started
    assert waited[-1] > waited[0]


def test_the_default_pool_is_not_this_hosts_own_network() -> None:
    own = [parse_address("192.168.7.1"), parse_address("fd00::1")]
    assert node_run.default_pool([]) == "192.168.0.0/16"
    assert node_run.default_pool(own) == "172.16.0.0/16"
