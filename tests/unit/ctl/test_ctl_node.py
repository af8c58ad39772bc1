"""`node checksystem` and `node diags` on this machine and on worse ones."""

import gzip
import tarfile
from pathlib import Path

import pytest
from tests.unit.ctl.shell import Shell

from tortie.ctl import node_checksystem, node_diags, node_run
from tortie.ctl.cluster_diags import redacted_text
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
    assert outcome.out.endswith(" -m tortie agent --felix-config '/x y.cfg'\n")
    assert tortie("get", "nodes").out == "NAME\n"
    assert "no AS number" in tortie("node", "run", "--dryrun", "--as=0").err
    assert "--backend is one of" in tortie("node", "run", "--dryrun", "--backend=gobgp").err


def test_node_run(tortie: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[list[str], dict[str, str]]] = []
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("os.execve", lambda _, words, env: started.append((words, env)))
    monkeypatch.setattr(node_run, "interfaces", list)
    monkeypatch.delenv("CALICO_IPV4POOL_CIDR", raising=False)
    outcome = tortie("node", "run", "--name=n7", "--ip=192.0.2.7/24", "--as=64600")
    assert outcome.out == "Node n7 with 192.0.2.7/24; starting the agent\n", outcome.err
    assert started[0][1]["FELIX_FELIXHOSTNAME"] == "n7"
    assert tortie("get", "nodes", "-o", "wide").out.endswith("n7     64600   192.0.2.7/24\n")
    assert "192.168.0.0/16" in tortie("get", "pools").out
    tortie("label", "node", "n7", "rack=r1")
    tortie("node", "run", "--name=n7", "--ip=192.0.2.8/24", "--no-default-ippools")
    after = tortie("get", "node", "n7", "-o", "wide", "--show-labels").out
    assert after.endswith("n7     64600   192.0.2.8/24          rack=r1\n")
    assert "no IPv4 address found" in tortie("node", "run", "--name=n7").err
    assert "not an IPv4 address" in tortie("node", "run", "--ip=fd00::1").err


def test_the_default_pool_is_not_this_hosts_own_network() -> None:
    own = [parse_address("192.168.7.1"), parse_address("fd00::1")]
    assert node_run.default_pool([], "") == "192.168.0.0/16"
    assert node_run.default_pool(own, "") == "172.16.0.0/16"
    assert node_run.default_pool(own, "192.168.0.0/20") == "192.168.0.0/20"
