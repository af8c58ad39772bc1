"""A machine with a secret in every place that has one: none of them gets into what is passed on."""

import base64
import io
import tarfile
import time
from collections.abc import Iterator

import pytest
from tests.hosts.conftest import Machines
from tests.hosts.machine import Machine

HOST = "h3"
PEER = """
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: switch}
spec:
  node: h3
  peerIP: 192.0.2.200
  asNumber: 64999
  password: {secretKeyRef: {name: bgp, key: switch}}
"""
PEM = "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----"
CANARIES = {
    name: f"canary{number}x7f3a{name}"
    for number, name in enumerate(
        ("env", "url", "felix", "inline", "block", "key", "bgp", "cni", "log", "shell", "stored")
    )
}


def plant(machine: Machine) -> None:
    c = CANARIES
    machine.ok("sh", "-c", f"echo ETCD_PASSWORD={c['env']} >> /etc/calico/calico.env")
    machine.write("/etc/calico/felix.cfg", f"[global]\nEtcdAddr = http://me:{c['url']}@h:1\n"
                  f"SomePassword = {c['felix']}\n")  # fmt: skip
    machine.write("/etc/calico/old.cfg", "kind: CalicoAPIConfig\nspec:\n  etcdKey: |\n    "
                  + PEM.format(c["inline"]).replace("\n", "\n    ")
                  + f"\n  etcdPassword: >-\n    {c['block']}\n")  # fmt: skip
    machine.write("/etc/calico/certs.key", PEM.format(c["key"]))
    machine.write("/etc/cni/net.d/calico-kubeconfig", f"users: [{{user: {{token: {c['cni']}}}}}]\n")
    machine.write("/etc/cni/net.d/10-calico.conflist", f'{{"k8s_auth_token": "{c["cni"]}"}}')
    machine.write("/etc/tortie/bgp-secrets/bgp/switch", c["bgp"])
    machine.ok("chmod", "600", "/etc/tortie/bgp-secrets/bgp/switch")
    # As a program may print, and has been known to.
    machine.write("/var/log/calico/agent.log", f"login with {c['env']}; peer said {c['bgp']}\n"
                  f"Authorization: token={c['log']}\n")  # fmt: skip
    machine.tortie("apply", "-f", "-", stdin=PEER)
    machine.tortie("apply", "-f", "-", stdin=(
        "{apiVersion: projectcalico.org/v3, kind: NetworkSet, metadata: {name: s, "
        f'annotations: {{last: \'{{"password":"{c["stored"]}"}}\'}}}}, spec: {{}}}}'
    ))  # fmt: skip
    machine.ok("systemctl", "restart", "tortie-agent")


def unpack(machine: Machine, path: str) -> dict[str, str]:
    """Text by name; as the archive has it, and as gzip hides it from nobody."""
    raw = machine.ok("base64", "-w0", path)
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(raw))) as archive:
        found = {}
        for member in archive.getmembers():
            file = archive.extractfile(member)
            assert file is not None
            found[member.name.partition("/")[2]] = file.read().decode()
    return found


def weed(machine: Machine) -> None:
    """As it was before."""
    machine.tortie("delete", "bgppeer", "switch")
    machine.tortie("delete", "networkset", "s", "-n", "default")
    machine.ok("sh", "-c", "rm -rf /etc/calico/felix.cfg /etc/calico/old.cfg /etc/calico/certs.key "
               "/etc/cni/net.d /etc/tortie /var/log/calico")  # fmt: skip
    machine.ok("sed", "-i", "/ETCD_PASSWORD/d", "/etc/calico/calico.env")
    machine.ok("systemctl", "restart", "tortie-agent")


@pytest.fixture(scope="module")
def machine(cluster: Machines) -> Iterator[Machine]:
    made = cluster[HOST]
    plant(made)
    try:
        wait_for_password(made)
        yield made
    finally:
        weed(made)


def wait_for_password(made: Machine) -> None:
    give_up = time.monotonic() + 30
    while CANARIES["bgp"] not in made.run("cat", "/run/tortie/bird/bird.conf").stdout:
        assert time.monotonic() < give_up, "BIRD has no password"
        time.sleep(0.5)


def assert_no_canary(texts: dict[str, str]) -> None:
    for name, text in texts.items():
        for place, canary in CANARIES.items():
            assert canary not in text, f"{place} is in {name}"


def test_node_diags(machine: Machine) -> None:
    said = machine.ok("env", f"ETCD_PASSWORD={CANARIES['shell']}", "tortie", "node", "diags")
    path = said.removeprefix("Diags saved to ").strip()
    assert machine.ok("stat", "-c", "%a", path).strip() == "600"
    texts = unpack(machine, path)
    assert_no_canary(texts | {name: name for name in texts})
    # What helps is there, and so is that something was hidden.
    assert 'password "REDACTED"' in texts["files/run/tortie/bird/bird.conf"] or (
        "REDACTED" in texts["files/run/tortie/bird/bird.conf"]
    )
    assert "192.0.2.200" in texts["files/run/tortie/bird/bird.conf"]
    assert "ETCD_PASSWORD=REDACTED" in texts["files/etc/calico/calico.env"]
    assert "login with REDACTED; peer said REDACTED" in texts["files/var/log/calico/agent.log"]
    assert "table inet tortie" in texts["nftables.txt"]
    assert '"number": 30' in texts["doctor.json"]
    assert "Peer_192_0_2_11" in texts["bird.txt"]
    assert "tortie-agent.service" in texts["units.txt"]
    assert "CapabilityBoundingSet=CAP_NET_ADMIN" in texts["unit-files.txt"]
    assert "starting" in texts["journal.txt"]


def test_cluster_diags(machine: Machine) -> None:
    said = machine.ok("env", f"ETCD_PASSWORD={CANARIES['shell']}", "sh", "-c",
                      "cd /tmp && rm -f tortie-cluster-diags* && tortie cluster diags")  # fmt: skip
    texts = unpack(machine, f"/tmp/{said.removeprefix('Diags saved to ').strip()}")
    assert_no_canary(texts)
    assert "192.0.2.200" in texts["resources/bgppeer.yaml"]
    assert "secretKeyRef" in texts["resources/bgppeer.yaml"], "a reference is no secret"
    assert "errors.txt" not in texts


def test_neither_log_nor_doctor(machine: Machine) -> None:
    doctor = machine.run("tortie", "doctor", "-o", "json").stdout
    assert_no_canary({"journal": machine.ok("journalctl", "--no-pager"), "doctor": doctor})


def test_without_a_datastore_and_without_tools(machine: Machine) -> None:
    """One part that fails costs no other."""
    said = machine.ok(
        "env", "PATH=/nonexistent", "ETCD_ENDPOINTS=http://192.0.2.99:1",
        "/usr/local/bin/tortie", "node", "diags",
    )  # fmt: skip
    texts = unpack(machine, said.removeprefix("Diags saved to ").strip())
    assert texts["nftables.txt"] == "nft is not installed\n"
    assert "does not answer" in texts["doctor.json"]
    assert "ETCD_PASSWORD=REDACTED" in texts["files/etc/calico/calico.env"]
    assert_no_canary(texts)
