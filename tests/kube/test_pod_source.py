"""What the CNI plugin asks a real API server, and what becomes of it when there is no answer."""

import asyncio
import contextlib
import itertools
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.cni.host import Containers, Host, network, running_host
from tests.kube.control_plane import ADMIN, ControlPlane

from tortie.attach.cni.kubernetes import KubernetesPods, Sources
from tortie.attach.cni.pods import Pod
from tortie.kernel import netns as kernel_netns
from tortie.kernel.rtnl.connection import Rtnl
from tortie.kernel.rtnl.link import LinkChange
from tortie.lib import kubeconfig
from tortie.lib.errors import Denied, NotFound, TortieError, Unavailable
from tortie.lib.kubeconfig import Cluster

CNI = "cni.projectcalico.org/"
names = (f"cni{number}" for number in itertools.count())


@pytest.fixture
def namespace(control_plane: ControlPlane) -> str:
    name = next(names)
    metadata = {
        "name": name,
        "annotations": {f"{CNI}ipv4pools": '["narrow"]', f"{CNI}hwAddr": "not a pod's business"},
    }
    control_plane.create({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    return name


@pytest.fixture
def host(control_plane: ControlPlane, tmp_path: Path) -> Iterator[Host]:
    """In a namespace of its own, from where the server is reached at its usual address."""
    home, namespace = kernel_netns.open_namespace(kernel_netns.OWN), kernel_netns.create_anonymous()
    with kernel_netns.enter(namespace), contextlib.ExitStack() as stack:
        stack.callback(os.close, namespace)
        stack.callback(os.close, home)
        with Rtnl.open() as rtnl:
            rtnl.change_link(rtnl.link("lo").index, LinkChange(up=True))
        stack.enter_context(relay(urlsplit(control_plane.url).port or 0, home))
        made = stack.enter_context(running_host(tmp_path))
        made.make_pools({"narrow": "10.99.0.0/26"})
        yield made


@contextlib.contextmanager
def relay(port: int, home: int) -> Iterator[None]:
    """Carry connections to loopback of this namespace to that of `home`."""

    def carry(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = kernel_netns.open_socket_in(home, socket.AF_INET)
                far.connect(("127.0.0.1", port))
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=carry, args=pair, daemon=True).start()

    with socket.create_server(("127.0.0.1", port)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield
        listener.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def containers() -> Iterator[Containers]:
    made = Containers()
    yield made
    made.close()


def make_pod(plane: ControlPlane, namespace: str, name: str, **annotations: str) -> Any:
    metadata = {
        "name": name,
        "namespace": namespace,
        "labels": {"app": "web", "example.com/tier": "front"},
        "annotations": {f"{CNI}{key}": value for key, value in annotations.items()},
    }
    ports = [{"name": "http", "containerPort": 8080}, {"containerPort": 9}]
    spec = {
        "nodeName": "h1",
        "serviceAccountName": "builder",
        "containers": [{"name": "c", "image": "i", "ports": ports}],
    }
    return plane.create({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})


def ask(plane: ControlPlane, namespace: str, name: str, token: str = ADMIN) -> Pod:
    file = plane.kubeconfig(token, "of-who-asks")
    return asyncio.run(KubernetesPods(kubeconfig.read(file)).pod(namespace, name))


def pod_args(namespace: str, name: str, uid: str = "") -> str:
    found = f"IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name}"
    return f"{found};K8S_POD_UID={uid}" if uid else found


def test_a_pod_as_the_server_describes_it(control_plane: ControlPlane, namespace: str) -> None:
    made = make_pod(control_plane, namespace, "web-0", ipAddrs='["10.65.0.77"]')
    found = ask(control_plane, namespace, "web-0")
    assert found.labels == {
        "app": "web",
        "example.com/tier": "front",
        "projectcalico.org/serviceaccount": "builder",
    }
    assert found.profiles == (f"kns.{namespace}", f"ksa.{namespace}.builder")
    assert [(port.name, port.protocol, port.port) for port in found.ports] == [
        ("http", "TCP", 8080)
    ]
    assert found.service_account == "builder"
    assert found.uid == made["metadata"]["uid"]
    # Of its namespace's annotations, those about pools.
    assert found.annotations == {
        f"{CNI}ipAddrs": '["10.65.0.77"]',
        f"{CNI}ipv4pools": '["narrow"]',
    }


def test_a_pod_s_own_pools_come_before_its_namespace_s(
    control_plane: ControlPlane, namespace: str
) -> None:
    make_pod(control_plane, namespace, "web-0", ipv4pools='["v4"]')
    assert ask(control_plane, namespace, "web-0").annotations[f"{CNI}ipv4pools"] == '["v4"]'


def test_refusals_say_what_to_do(control_plane: ControlPlane, namespace: str) -> None:
    with pytest.raises(NotFound, match='pods "none" not found'):
        ask(control_plane, namespace, "none")
    with pytest.raises(Denied, match="must allow to get pods, namespaces and nodes"):
        ask(control_plane, namespace, "none", token="")
    with pytest.raises(Denied, match="Unauthorized"):
        ask(control_plane, namespace, "none", token="wrong")
    with pytest.raises(NotFound, match="could not find"):
        ask(control_plane, "../../nodes", "none")  # a name is a name, never a path


def test_many_at_once_share_connections(control_plane: ControlPlane, namespace: str) -> None:
    pods = [f"p{number}" for number in range(12)]
    for name in pods:
        make_pod(control_plane, namespace, name)
    source = KubernetesPods(kubeconfig.read(control_plane.kubeconfig()))

    async def all_of_them() -> list[Pod]:
        return [
            found
            for _ in range(2)
            for found in await asyncio.gather(*(source.pod(namespace, name) for name in pods))
        ]

    assert len({found.uid for found in asyncio.run(all_of_them())}) == 12


def test_a_server_that_closes_kept_connections(control_plane: ControlPlane, namespace: str) -> None:
    make_pod(control_plane, namespace, "web-0")
    source = KubernetesPods(kubeconfig.read(control_plane.kubeconfig()))
    before = asyncio.run(source.pod(namespace, "web-0"))
    control_plane.kill("kube-apiserver")
    with pytest.raises(Unavailable, match="refused"):
        asyncio.run(source.pod(namespace, "web-0"))
    control_plane.start_api()
    assert asyncio.run(source.pod(namespace, "web-0")) == before


def test_a_server_that_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        source = KubernetesPods(Cluster(f"http://127.0.0.1:{silent.getsockname()[1]}", None), 0.3)
        began = time.monotonic()
        with pytest.raises(Unavailable):
            asyncio.run(source.pod("prod", "web-0"))
        assert time.monotonic() - began < 3


def test_what_is_no_kubeconfig(tmp_path: Path) -> None:
    for content in (None, "", "{}", "[1", "clusters: 7"):
        file = tmp_path / "config"
        if content is not None:
            file.write_text(content)
        with pytest.raises(TortieError, match=r"config"):
            Sources().of(file)


def test_the_plugin_follows_labels_and_annotations(
    control_plane: ControlPlane, namespace: str, host: Host, containers: Containers
) -> None:
    made = make_pod(
        control_plane, namespace, "web-0", hwAddr="1c:0c:0a:c0:ff:ee", floatingIPs='["192.0.2.7"]'
    )
    config = network(
        policy={"type": "k8s"},
        kubernetes={"kubeconfig": str(control_plane.kubeconfig())},
        feature_control={"floating_ips": True},
    )
    args = pod_args(namespace, "web-0", made["metadata"]["uid"])
    result = host.ok("ADD", config, "c1", containers.new(), args=args)
    assert result["ips"][0]["address"].startswith("10.99.0.")
    assert result["interfaces"][1]["mac"] == "1c:0c:0a:c0:ff:ee"
    endpoint = host.endpoints()["h1-k8s-web--0-eth0"]
    assert endpoint["metadata"]["labels"] == {
        "app": "web",
        "example.com/tier": "front",
        "projectcalico.org/namespace": namespace,
        "projectcalico.org/orchestrator": "k8s",
        "projectcalico.org/serviceaccount": "builder",
    }
    spec = endpoint["spec"]
    assert spec["profiles"] == [f"kns.{namespace}", f"ksa.{namespace}.builder"]
    assert spec["ports"] == [{"name": "http", "protocol": "TCP", "port": 8080}]
    assert spec["serviceAccountName"] == "builder"
    assert spec["ipNATs"][0]["externalIP"] == "192.0.2.7"
    # DEL needs no server.
    gone = {**config, "kubernetes": {"kubeconfig": "/none"}}
    host.ok("DEL", gone, "c1", args=args)
    assert host.left_overs() == []


def test_a_pod_that_cannot_be_described_is_not_attached(
    control_plane: ControlPlane, namespace: str, host: Host, containers: Containers
) -> None:
    make_pod(control_plane, namespace, "web-0")
    file = control_plane.kubeconfig()
    path = containers.new()

    def refused(args: str, kubeconfig: Path = file) -> Any:
        config = network(policy={"type": "k8s"}, kubernetes={"kubeconfig": str(kubeconfig)})
        found = host.refused("ADD", config, "c1", path, args=args)
        assert host.left_overs() == []
        return found

    args = pod_args(namespace, "web-0")
    assert refused(pod_args(namespace, "other"))["code"] == 3
    another = refused(pod_args(namespace, "web-0", "0-0-0"))
    assert (another["code"], "another one by now" in another["msg"]) == (3, True)
    assert refused(args, control_plane.kubeconfig("wrong", "wrong"))["code"] == 102
    assert refused(args, Path("/none"))["code"] == 7
    away = json.loads(file.read_text())
    away["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    elsewhere = host.directory / "away"
    elsewhere.write_text(json.dumps(away))
    found = refused(args, elsewhere)
    assert (found["code"], "https://127.0.0.1:1" in found["msg"]) == (11, True)


def test_host_local_gives_addresses_of_the_node_s_own_subnets(
    control_plane: ControlPlane, namespace: str, host: Host, containers: Containers
) -> None:
    """`usePodCidr` in every place where a subnet may stand; DEL needs no server for it."""
    # A server of 1.20 keeps one subnet of a node.
    cidrs = {f"v4-{namespace}": "10.97.0.0/29", f"v6-{namespace}": "fd97::/125"}
    bare = f"bare-{namespace}"
    for name in (*cidrs, bare):
        spec = {"podCIDR": cidrs[name]} if name in cidrs else {}
        meta = {"name": name}
        node = {"apiVersion": "v1", "kind": "Node", "metadata": meta, "spec": spec}
        control_plane.create(node)
    make_pod(control_plane, namespace, "web-0")
    kept = {"type": "host-local", "dataDir": str(host.directory / "host-local")}
    args = pod_args(namespace, "web-0")

    def config(ipam: dict[str, Any], node: str) -> dict[str, Any]:
        kubernetes = {"kubeconfig": str(control_plane.kubeconfig()), "node_name": node}
        return network(ipam={**kept, **ipam}, kubernetes=kubernetes)

    cases: list[tuple[dict[str, Any], str, str]] = [
        ({"subnet": "usePodCidr"}, f"v4-{namespace}", "10.97.0."),
        ({"subnet": "usePodCidrIPv6"}, f"v6-{namespace}", "fd97::"),
        ({"ranges": [[{"subnet": "USEPODCIDR"}]]}, f"v4-{namespace}", "10.97.0."),
    ]
    for number, (ipam, node_name, prefix) in enumerate(cases):
        container, path = f"c{number}", containers.new()
        wanted = config(ipam, node_name)
        result = host.ok("ADD", wanted, container, path, args=args)
        assert [one["address"].startswith(prefix) for one in result["ips"]] == [True]
        host.ok("CHECK", {**wanted, "prevResult": result}, container, path, args=args)
        with stopped(host, when=number == 2):
            host.ok("DEL", {**wanted, "kubernetes": {}}, container, args=args)
    assert host.left_overs() == []
    names = {found.name for found in (host.directory / "host-local" / "net1").iterdir()}
    assert not [name for name in names if name.startswith(("10.97", "fd97"))], "all given back"

    def refused(changed: dict[str, Any]) -> Any:
        return host.refused("ADD", changed, "c9", containers.new(), args=args)

    without = refused(config({"subnet": "usePodCidr"}, bare))
    assert (without["code"], "no podCIDR of IPv4" in without["msg"]) == (7, True)
    nobody = refused(config({"subnet": "usePodCidr"}, "nobody"))
    assert (nobody["code"], "kubernetes.node_name" in nobody["msg"]) == (7, True)
    assert host.left_overs() == []


@contextlib.contextmanager
def stopped(host: Host, *, when: bool) -> Iterator[None]:
    """The agent is away meanwhile."""
    if when:
        host.stop()
    yield
    if when:
        host.start()
        deadline = time.monotonic() + 10
        while list((host.directory / "spool").glob("*.json")) and time.monotonic() < deadline:
            time.sleep(0.05)
