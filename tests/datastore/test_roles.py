"""Roles of etcd, made by `tortie datastore roles`, each tried against a real etcd with auth on."""

import io
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
from tests.datastore.credentials import etcdctl
from tests.datastore.etcd_server import EtcdServer
from tests.datastore.lone_agent import Outcome, agent

from tortie.ctl.main import main
from tortie.datastore.roles import cluster_roles

ROOT = "secret-of-root"
USERS = {
    "agent": ["tortie-agent", "tortie-cni"],
    "watcher": ["tortie-agent"],
    "n1": ["tortie-agent-n1", "tortie-cni-n1"],
    "controllers": ["tortie-controllers"],
    "editor": ["tortie-policy-editor"],
    "reader": ["tortie-read-only"],
    "admin": ["tortie-admin"],
}

CLUSTER = """\
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: blue}
spec: {cidr: 10.66.0.0/16, natOutgoing: true}
"""
POLICY = """\
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: web, namespace: default}
spec: {selector: role == 'web', ingress: [{action: Allow}]}
"""
OTHER_POLICY = POLICY.replace("name: web", "name: other")
POOL_CHANGED = CLUSTER.replace("true", "false")
TIER = "apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {name: mine}\nspec: {}\n"
NODE = """\
apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: NAME}
spec: {addresses: [{address: 10.0.0.1}]}
"""
PROFILE = """\
apiVersion: projectcalico.org/v3
kind: Profile
metadata: {name: kns.red}
spec: {egress: [{action: Allow}]}
"""
ENDPOINT = """\
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: NODE-cni-c1-eth0, namespace: SPACE}
spec:
  orchestrator: cni
  node: NODENAME
  containerID: c1
  endpoint: eth0
  interfaceName: cali1
  ipNetworks: [10.66.0.9/32]
"""

ENDPOINT_OF_N1 = (
    ENDPOINT.replace("NODENAME", "n1").replace("NODE", "n1").replace("SPACE", "default")
)


class Cluster:
    """An etcd with users, and the command line as any of them."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "file.yaml"
        self.server = EtcdServer(folder / "etcd", ["--bcrypt-cost=4"])
        self.socket = self.server.also_on_socket()

    def environment(self, user: str) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "DATASTORE_TYPE": "etcdv3",
            "ETCD_ENDPOINTS": f"unix://{self.socket}",
            "ETCD_USERNAME": user,
            "ETCD_PASSWORD": ROOT if user == "root" else f"secret-of-{user}",
        }

    def tortie(self, user: str, *words: str) -> Outcome:
        out, err = io.StringIO(), io.StringIO()
        with patch.dict(os.environ, self.environment(user), clear=True):
            code = main(words, out, err)
        return Outcome(code, out.getvalue(), err.getvalue())

    def apply(self, user: str, text: str) -> Outcome:
        self._file.write_text(text)
        return self.tortie(user, "apply", "-f", str(self._file))

    def refused(self, user: str, text: str) -> None:
        outcome = self.apply(user, text)
        assert outcome.code == 1, outcome
        assert "permission denied" in outcome.err, outcome
        assert "secret" not in outcome.err


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("roles"))
    made.server.start()
    try:
        etcdctl(made.server, "user", "add", f"root:{ROOT}")
        etcdctl(made.server, "user", "grant-role", "root", "root")
        etcdctl(made.server, "auth", "enable")
        assert made.tortie("root", "datastore", "roles", "--apply").code == 0
        host = ("--host", "n1", "-n", "default", "--apply")
        assert made.tortie("root", "datastore", "roles", *host).code == 0
        login = f"--user=root:{ROOT}"
        for user, roles in USERS.items():
            etcdctl(made.server, login, "user", "add", f"{user}:secret-of-{user}")
            for role in roles:
                etcdctl(made.server, login, "user", "grant-role", user, role)
        assert made.apply("admin", CLUSTER).code == 0
        yield made
    finally:
        made.server.kill()


def test_what_is_printed_makes_what_is_wanted(cluster: Cluster) -> None:
    """Commands for etcdctl, run as they are, leave nothing to do; a change of theirs is seen."""
    words = ("datastore", "roles", "--users", "--host", "n-7", "-n", "a", "--region", "west")
    printed = cluster.tortie("root", *words)
    assert printed.code == 0
    assert printed.err == ""
    run_as_root(cluster, printed.out)
    assert cluster.tortie("root", *words).out == "# every role is as it should be\n"

    run_as_root(
        cluster,
        "etcdctl role grant-permission tortie-agent-n-7 --prefix=true readwrite /\n"
        "etcdctl role grant-permission tortie-agent-n-7 --prefix=true readwrite /calico/ipam/v2/\n"
        "etcdctl user revoke-role tortie-agent-n-7 tortie-agent-n-7\n",
    )
    role = "tortie-agent-n-7"
    assert cluster.tortie("root", *words).out.splitlines()[1:] == [
        f"etcdctl role grant-permission {role} --prefix=true read /calico/ipam/v2/",
        f"etcdctl role revoke-permission {role} --prefix=true /",
        f"etcdctl user grant-role {role} {role}",
    ]
    assert cluster.tortie("root", *words, "--apply").out == (
        f"Role {role} changed: 1 granted, 1 taken away, with a user\n"
        "Role tortie-cni-n-7 is as it should be\n"
    )
    assert cluster.tortie("root", *words).out == "# every role is as it should be\n"


def run_as_root(cluster: Cluster, script: str) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "ETCDCTL_API": "3",
        "ETCDCTL_ENDPOINTS": cluster.server.endpoint,
        "ETCDCTL_USER": f"root:{ROOT}",
    }
    subprocess.run(["sh", "-e"], input=script.encode(), env=environment, check=True)


def test_only_root_makes_roles(cluster: Cluster) -> None:
    made = cluster.tortie("admin", "datastore", "roles", "--apply")
    assert made.code == 1
    assert "permission denied" in made.err
    shown = cluster.tortie("admin", "datastore", "roles")
    assert shown.code == 0, "showing them all needs nobody's permission"
    assert "permission denied" in shown.err
    assert shown.out.count("role add") == len(cluster_roles())


def test_a_reader_reads_and_writes_nothing(cluster: Cluster) -> None:
    assert cluster.tortie("reader", "get", "ippools").out.split()[:4] == [
        "NAME", "CIDR", "SELECTOR", "blue",
    ]  # fmt: skip
    assert cluster.tortie("reader", "ipam", "show").code == 0
    assert cluster.tortie("reader", "version").code == 0
    for text in (POLICY, NODE.replace("NAME", "r1"), PROFILE, POOL_CHANGED):
        cluster.refused("reader", text)
    assert "permission denied" in cluster.tortie("reader", "delete", "ippool", "blue").err
    assert cluster.tortie("reader", "get", "ippool", "blue").code == 0


def test_an_editor_writes_policy_only(cluster: Cluster) -> None:
    assert cluster.apply("editor", POLICY).code == 0
    assert cluster.apply("editor", PROFILE).code == 0
    assert cluster.apply("editor", POLICY.replace("Network", "StagedNetwork")).code == 0
    assert cluster.tortie("editor", "delete", "policy", "web").code == 0
    for text in (POOL_CHANGED, NODE.replace("NAME", "e1"), ENDPOINT_OF_N1):
        cluster.refused("editor", text)
    assert "permission denied" in cluster.tortie("editor", "datastore", "migrate", "lock").err


def test_controllers_write_what_follows_from_their_orchestrator(cluster: Cluster) -> None:
    for text in (PROFILE, POLICY, NODE.replace("NAME", "k1"), ENDPOINT_OF_N1):
        assert cluster.apply("controllers", text).code == 0
    assert cluster.tortie("controllers", "delete", "node", "k1").code == 0
    for text in (TIER, POOL_CHANGED, OTHER_POLICY.replace("Network", "StagedNetwork")):
        cluster.refused("controllers", text)


def test_a_host_s_own_role_reaches_no_other_host(cluster: Cluster) -> None:
    """`n1-x` is another host, though its endpoints' names begin alike."""
    other = ENDPOINT.replace("NODENAME", "n1-x").replace("NODE", "n1--x")
    assert cluster.apply("n1", ENDPOINT_OF_N1).code == 0
    assert cluster.apply("n1", NODE.replace("NAME", "n1")).code == 0
    cluster.refused("n1", other.replace("SPACE", "default"))
    cluster.refused("n1", ENDPOINT_OF_N1.replace("default", "red"))
    for name in ("n10", "n1-x"):
        cluster.refused("n1", NODE.replace("NAME", name))
    cluster.refused("n1", OTHER_POLICY)
    status = "/calico/felix/v2/no-region/host/{}/status"
    assert etcd_put(cluster, "n1", status.format("n1"))
    assert not etcd_put(cluster, "n1", status.format("n10"))
    assert etcd_put(cluster, "n1", "/calico/ipam/v2/host/n1/ipv4/block/10.66.0.0-26")
    assert not etcd_put(cluster, "n1", "/calico/ipam/v2/host/n2/ipv4/block/10.66.0.0-26")
    assert cluster.apply("admin", NODE.replace("NAME", "n2")).code == 0
    assert "permission denied" in cluster.tortie("n1", "delete", "node", "n2").err


def etcd_put(cluster: Cluster, user: str, key: str) -> bool:
    """Whether it was allowed; the key is gone again afterwards."""
    login = f"--user={user}:secret-of-{user}"
    try:
        etcdctl(cluster.server, login, "put", key, "{}")
    except subprocess.CalledProcessError as error:
        return b"permission denied" not in error.stderr
    etcdctl(cluster.server, login, "del", key)
    return True


def test_an_agent_works_with_its_roles(cluster: Cluster, tmp_path: Path) -> None:
    """A real one: it enforces, reports, and brings a workload in; and may do no more."""
    with agent("n1", cluster.environment("agent"), tmp_path) as host:
        added = host.workload("add", "w1", "--tap", "-o", "json")
        assert added.code == 0, (added, host.log())
        (attached,) = json.loads(added.out)
        assert attached["addresses"][0].startswith("10.66."), attached
        assert "w1" in cluster.tortie("reader", "get", "wep", "-A").out
        assert attached["interface"] in host.run("nft", "list", "table", "inet", "tortie").out
        reported = etcdctl_get(cluster, "/calico/felix/v2/no-region/host/n1/")
        assert reported.keys() == {"status", "last_reported_status"}
        assert host.workload("remove", "w1").code == 0
        assert "w1" not in cluster.tortie("reader", "get", "wep", "-A").out
    for text in (OTHER_POLICY, POOL_CHANGED):
        cluster.refused("agent", text)
    assert "permission denied" in cluster.tortie("agent", "datastore", "migrate", "lock").err


def etcdctl_get(cluster: Cluster, prefix: str) -> dict[str, str]:
    """By the rest of the key, as a reader."""
    login = "--user=reader:secret-of-reader"
    lines = etcdctl(cluster.server, login, "get", "--prefix", prefix).splitlines()
    return {
        key.removeprefix(prefix): value for key, value in zip(lines[::2], lines[1::2], strict=True)
    }


def test_an_agent_without_the_plugins_role_brings_nobody_in(
    cluster: Cluster, tmp_path: Path
) -> None:
    with agent("n1", cluster.environment("watcher"), tmp_path) as host:
        before = host.run("ip", "-o", "link").out
        added = host.workload("add", "w2", "--tap")
        assert added.code != 0
        assert "permission denied" in added.err
        assert host.run("ip", "-o", "link").out == before
