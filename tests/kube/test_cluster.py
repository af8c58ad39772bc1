"""Two nodes with kubelets: pods come and go, and NetworkPolicy decides who reaches whom."""

import os
from collections.abc import Iterator
from functools import partial

import pytest
from tests.cni.containerd import remove_cgroups
from tests.e2e.live import LiveLab, need_root
from tests.kube.cluster import KubeCluster, address_of, deployment


@pytest.fixture(scope="module")
def kube(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeCluster]:
    need_root()
    live = LiveLab(f"k8s{os.getpid()}", "etcd", "direct", hosts=2)
    live.lab_ok("up", "--hosts", "2", "--datastore", "etcd")
    try:
        made = KubeCluster(live, tmp_path_factory.mktemp("k"))
        try:
            made.start()
            yield made
        finally:
            made.stop()
    finally:
        live.down()
        remove_cgroups()


def test_pods_reach_each_other_as_policy_says(kube: KubeCluster) -> None:
    kube.plane.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}})
    kube.plane.create(deployment("shop", "web", 2))
    kube.plane.create(deployment("shop", "client", 2))
    servers = kube.running("shop", 2, app="web")
    clients = kube.running("shop", 2, app="client")
    for client in clients:
        for server in servers:
            assert kube.until(partial(kube.reaches, client, address_of(server)))
