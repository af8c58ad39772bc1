"""One control plane for all tests of controllers, one cluster for all tests of pods; each test has
namespaces of its own."""

import os
from collections.abc import Iterator

import pytest
from tests.cni.containerd import remove_cgroups
from tests.e2e.live import LiveLab, need_root
from tests.kube.cluster import KubeCluster
from tests.kube.control_plane import ControlPlane


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    plane = ControlPlane(tmp_path_factory.mktemp("kube"))
    plane.start()
    yield plane
    plane.stop()


@pytest.fixture(scope="session")
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
