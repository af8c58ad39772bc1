"""A real kube-apiserver 1.20 on loopback or in a host of a lab, with an etcd of its own.

Programs come from `scripts/kubernetes`, which builds them from Debian's sources when the machine
has none yet.
"""

import json
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.datastore.etcd_server import EtcdServer, free_ports

from tortie.kernel import netns
from tortie.kube import install

REPOSITORY = Path(__file__).parents[2]
START_SECONDS = 60.0
ADMIN, CONTROLLERS, NODES = "of-the-admin", "of-the-controllers", "of-the-nodes"
"""Bearer tokens."""

_TOKENS = f"""\
{ADMIN},admin,1,system:masters
{CONTROLLERS},system:serviceaccount:kube-system:tortie-kube-controllers,2
{NODES},system:serviceaccount:kube-system:tortie-node,3
"""


def programs() -> Path:
    done = subprocess.run(
        [REPOSITORY / "scripts" / "kubernetes"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return Path(done.stdout.strip())


class ControlPlane:
    """etcd and kube-apiserver; more of it by `spawn`. Started anew after `stop`, it is the same.

    Args:
        address: where it listens.
        namespace: of the network, by path, in which that is.
        etcd: where an etcd is that others use as well; None: one of our own.
    """

    def __init__(
        self,
        directory: Path,
        address: str = "127.0.0.1",
        namespace: str = netns.OWN,
        etcd: str = "",
    ) -> None:
        self.directory = directory
        self.namespace = namespace
        self.programs = programs()
        self._address = address
        self._etcd = None if etcd else EtcdServer(directory / "etcd")
        self._etcd_url = self._etcd.endpoint if self._etcd else etcd
        [self._port] = free_ports(1)
        self.url = f"https://{address}:{self._port}"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._tls = ssl._create_unverified_context()  # its certificate is its own
        (directory / "tokens.csv").write_text(_TOKENS)
        subprocess.run(
            ["openssl", "genrsa", "-out", directory / "sa.key", "2048"],
            check=True, capture_output=True,
        )  # fmt: skip

    def start(self) -> None:
        if self._etcd is not None:
            self._etcd.start()
        self.start_api()
        for object_ in install.manifests(["http://127.0.0.1:2379"]):
            self.apply(object_)

    def start_api(self) -> None:
        key = self.directory / "sa.key"
        self.spawn(
            "kube-apiserver",
            f"--etcd-servers={self._etcd_url}",
            "--service-cluster-ip-range=10.96.0.0/16",
            f"--cert-dir={self.directory / 'certs'}",
            f"--secure-port={self._port}",
            f"--bind-address={self._address}",
            f"--advertise-address={'192.0.2.1' if self._is_loopback else self._address}",
            f"--token-auth-file={self.directory / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            "--service-account-issuer=https://kubernetes.default.svc",
            # Alone, it has nobody who makes service accounts and their tokens.
            "--disable-admission-plugins=" + ("ServiceAccount" if self._etcd else ""),
            "--allow-privileged",
            "--kubelet-preferred-address-types=InternalIP",
            "--endpoint-reconciler-type=none",
        )
        give_up = time.monotonic() + START_SECONDS
        while True:
            try:
                # /readyz comes first; objects can be made once this is there.
                self.call("GET", "/api/v1/namespaces/default")
                return
            except (OSError, AssertionError):
                is_there = self._processes["kube-apiserver"].poll() is None
                assert is_there, self.log("kube-apiserver")
                assert time.monotonic() < give_up, self.log("kube-apiserver")
                time.sleep(0.1)

    def start_rest(self) -> None:
        """What makes pods out of Deployments, and puts them onto nodes."""
        kubeconfig = f"--kubeconfig={self.kubeconfig()}"
        elect = "--leader-elect=false"
        key = f"--service-account-private-key-file={self.directory / 'sa.key'}"
        controllers = "--controllers=*,-nodeipam"
        self.spawn(
            "kube-controller-manager", kubeconfig, elect, key, controllers, "--port=0",
            "--node-monitor-grace-period=8s",
        )  # fmt: skip
        self.spawn("kube-scheduler", kubeconfig, elect, "--port=0")

    def spawn(self, program: str, *arguments: str) -> None:
        command = [str(self.programs / program), *arguments]
        with (self.directory / f"{program}.log").open("ab") as log:
            self._processes[program] = netns.spawn_in(
                self.namespace, command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def kill(self, program: str) -> None:
        process = self._processes.pop(program)
        process.kill()
        process.wait()

    def stop(self) -> None:
        for program in reversed([*self._processes]):
            self.kill(program)
        if self._etcd is not None:
            self._etcd.kill()

    def log(self, program: str) -> str:
        return (self.directory / f"{program}.log").read_text(errors="replace")[-3000:]

    def kubeconfig(self, token: str = ADMIN, name: str = "kubeconfig") -> Path:
        file = self.directory / name
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": "c", "cluster": {"server": self.url, "insecure-skip-tls-verify": True}}
            ],
            "users": [{"name": "u", "user": {"token": token}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        file.write_text(json.dumps(document))
        return file

    # What kubectl does.

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
    ) -> Any:
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {ADMIN}", "Content-Type": content_type},
        )

        def ask() -> Any:
            with urllib.request.urlopen(request, context=self._tls, timeout=10) as answer:
                return json.load(answer)

        try:
            return netns.run_in(self.namespace, ask)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path}: {error.code} {error.read()[:1000]!r}") from None

    def create(self, object_: Mapping[str, Any]) -> Any:
        give_up = time.monotonic() + START_SECONDS
        while True:
            try:
                return self.call("POST", path_of(object_, with_name=False), object_)
            except AssertionError as error:
                # A namespace is there a moment before its service account has a token.
                if "No API token" not in str(error) or time.monotonic() > give_up:
                    raise
            time.sleep(0.1)

    def apply(self, object_: Mapping[str, Any]) -> Any:
        """Create it, or merge it into what is there."""
        try:
            return self.create(object_)
        except AssertionError as error:
            if "409" not in str(error):
                raise
        return self.patch(path_of(object_), object_)

    def patch(self, path: str, body: Mapping[str, Any]) -> Any:
        return self.call("PATCH", path, body, "application/merge-patch+json")

    def delete(self, path: str) -> Any:
        return self.call("DELETE", path)

    @property
    def _is_loopback(self) -> bool:
        return self._address.startswith("127.")


_PLURALS = {
    "NetworkPolicy": "networkpolicies",
    "EndpointSlice": "endpointslices",
    "AdminNetworkPolicy": "adminnetworkpolicies",
    "BaselineAdminNetworkPolicy": "baselineadminnetworkpolicies",
    "ClusterNetworkPolicy": "clusternetworkpolicies",
}
_UNNAMESPACED = {
    "Namespace", "Node", "ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition",
    "AdminNetworkPolicy", "BaselineAdminNetworkPolicy", "ClusterNetworkPolicy",
}  # fmt: skip


def path_of(object_: Mapping[str, Any], *, with_name: bool = True) -> str:
    version, kind = object_["apiVersion"], object_["kind"]
    base = f"/apis/{version}" if "/" in version else f"/api/{version}"
    if kind not in _UNNAMESPACED:
        base += f"/namespaces/{object_['metadata'].get('namespace', 'default')}"
    base += "/" + _PLURALS.get(kind, kind.lower() + ("es" if kind.endswith("s") else "s"))
    return f"{base}/{object_['metadata']['name']}" if with_name else base
