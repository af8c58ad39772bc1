"""containerd through CRI on two lab hosts: pods, policy, restarts, fifty at once."""

import contextlib
import json
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.cni.containerd import Containerd, Pod, remove_cgroups
from tests.e2e.live import LiveLab, running_lab

from tortie.datastore.etcd.http2 import CallFailed
from tortie.kernel.rtnl.connection import Rtnl

PODS_AT_ONCE = 50

PROFILE = """
apiVersion: projectcalico.org/v3
kind: Profile
metadata: {name: kns.prod}
spec:
  ingress: [{action: Allow}]
  egress: [{action: Allow}]
  labelsToApply: {pcns.projectcalico.org/name: prod}
"""
POLICY = """
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: default.only-b, namespace: prod}
spec:
  selector: app == 'a'
  types: [Ingress]
  ingress:
  - {action: Allow, protocol: TCP, source: {selector: app == 'b'}, destination: {ports: [80]}}
"""
CALICOS = """
{
  "name": "k8s-pod-network",
  "cniVersion": "0.3.1",
  "plugins": [
    {
      "type": "calico", "log_level": "info", "log_file_path": "/var/log/calico/cni/cni.log",
      "etcd_endpoints": "https://192.0.2.1:2379", "etcd_key_file": "", "etcd_cert_file": "",
      "etcd_ca_cert_file": "", "mtu": 0, "ipam": {"type": "calico-ipam"},
      "policy": {"type": "k8s"}
    },
    {"type": "portmap", "snat": true, "capabilities": {"portMappings": true}},
    {"type": "bandwidth", "capabilities": {"bandwidth": true}}
  ]
}
"""
"""A configuration that a host has kept from before; the second one's."""
SHUT = """
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: default.shut, namespace: prod}
spec: {selector: shut == 'yes', types: [Ingress]}
"""


class Cluster:
    def __init__(self, live: LiveLab, directory: Path) -> None:
        self.live = live
        lab = live.lab
        self.runtimes = {
            host.name: Containerd(lab, host, directory / host.name, conflist=conflist)
            for host, conflist in zip(lab.hosts, (b"", CALICOS.encode()), strict=True)
        }

    def label(self, host: str, pod: str, **labels: str) -> None:
        """What follows a pod's labels in a cluster: here by hand."""
        name = f"{host}-k8s-{pod.replace('-', '--')}-eth0"
        key = f"/calico/resources/v3/projectcalico.org/workloadendpoints/prod/{name}"
        value = json.loads(self.live.entries(key)[key].value)
        value["metadata"]["labels"].update(labels)
        self.live.write_raw({key: json.dumps(value).encode()})

    def left_overs(self, host: str) -> list[str]:
        def links() -> list[str]:
            with Rtnl.open() as rtnl:
                return [link.name for link in rtnl.links() if link.name.startswith("cali")]

        stored = [key for key in self.live.entries() if f"/{host}-k8s-" in key or "/handle/" in key]
        return self.live.in_host(host, links) + stored


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    # Short names: a socket's path has at most 107 characters.
    try:
        with running_lab("cri", "etcd", hosts=2) as live:
            made = Cluster(live, tmp_path_factory.mktemp("c"))
            for runtime in made.runtimes.values():
                runtime.start()
                runtime.import_image()
            live.apply(PROFILE, tmp_path_factory.mktemp("r"))
            yield made
            for runtime in made.runtimes.values():
                runtime.stop()
    finally:
        remove_cgroups()


def eventually(true: Callable[[], bool], seconds: float = 10.0) -> bool:
    give_up = time.monotonic() + seconds
    while not true():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.05)
    return True


def test_pods_reach_each_other_as_policy_says_and_through_restarts(
    cluster: Cluster, tmp_path: Path
) -> None:
    h1, h2 = cluster.runtimes["h1"], cluster.runtimes["h2"]
    annotations = {"cni.projectcalico.org/hwAddr": "1c:0c:0a:c0:ff:ee"}
    a = h1.run_pod("a", annotations=annotations)
    b, c = h2.run_pod("b"), h2.run_pod("c")
    assert len({a.address, b.address, c.address}) == 3
    assert "1c:0c:0a:c0:ff:ee" in h1.execute(a, "ip", "link", "show", "eth0")[1]
    assert eventually(lambda: h2.reaches(b, a.address)), "across hosts"
    assert eventually(lambda: h1.reaches(a, c.address))
    for host, pod in (("h1", "a"), ("h2", "b"), ("h2", "c")):
        cluster.label(host, pod, app=pod)
    cluster.live.apply(POLICY, tmp_path)
    expect(h2, {b: True, c: False}, a)

    h2.stop()  # the containers go on
    h2.start()
    expect(h2, {b: True, c: False}, a)
    cluster.live.stop_agent("h1", signal.SIGKILL)
    expect(h2, {b: True, c: False}, a)
    cluster.live.start_agent("h1")
    expect(h2, {b: True, c: False}, a)

    cluster.live.stop_agent("h2", signal.SIGKILL)
    h2.remove(b.sandbox)  # written down
    assert cluster.left_overs("h2") != []
    cluster.live.start_agent("h2")
    h2.remove(c.sandbox)
    h1.remove(a.sandbox)
    assert eventually(lambda: cluster.left_overs("h2") == cluster.left_overs("h1") == [])


def expect(runtime: Containerd, sources: dict[Pod, bool], target: Pod) -> None:
    for source, allowed in sources.items():
        if allowed:
            assert eventually(lambda: runtime.reaches(source, target.address))  # noqa: B023
        else:
            assert not runtime.reaches(source, target.address)


def test_fifty_pods_at_once(cluster: Cluster, tmp_path: Path) -> None:
    """On one host, and ten on the other meanwhile: each is reached across hosts, and policed."""
    h1, h2 = cluster.runtimes["h1"], cluster.runtimes["h2"]
    names = {h1: [f"p{number}" for number in range(PODS_AT_ONCE)], h2: [f"q{n}" for n in range(10)]}
    asking = h2.run_pod("asking")
    started = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        sandboxes = pool.map(Containerd.run_sandboxes, names, names.values())
        made = dict(zip(names, sandboxes, strict=True))
    print(f"{PODS_AT_ONCE} pods in {time.monotonic() - started:.1f} s")
    addresses = [host.address(sandbox) for host, found in made.items() for sandbox in found]
    assert len(set(addresses)) == PODS_AT_ONCE + 10

    def answering() -> set[str]:
        pings = "".join(f"(ping -c 1 -W 2 {a} >/dev/null && echo {a}) & " for a in addresses)
        with contextlib.suppress(CallFailed):  # not done in its ten seconds
            return set(h2.execute(asking, "sh", "-c", f"{pings} wait")[1].split())
        return set()

    assert eventually(lambda: answering() == set(addresses))
    shut = addresses[: PODS_AT_ONCE // 5]
    for name in names[h1][: len(shut)]:
        cluster.label("h1", name, shut="yes")
    cluster.live.apply(SHUT, tmp_path)
    assert eventually(lambda: answering() == set(addresses) - set(shut))
    for host, found in made.items():
        host.remove_all(found)
    h2.remove(asking.sandbox)
    assert eventually(lambda: cluster.left_overs("h1") == cluster.left_overs("h2") == [])


def test_a_pod_that_cannot_be_attached_is_told_why(cluster: Cluster) -> None:
    runtime = cluster.runtimes["h1"]
    annotations = {"cni.projectcalico.org/ipAddrs": '["192.0.2.1"]'}
    with pytest.raises(Exception, match="is in no IPPool"):
        runtime.run_pod("outside", annotations=annotations)
    assert cluster.left_overs("h1") == []
