"""One control plane for all tests of controllers, one cluster for all tests of pods; each test has
namespaces of its own."""

from collections.abc import Iterator

import pytest
from tests.cni.containerd import remove_cgroups
from tests.e2e.live import running_lab
from tests.kube.cluster import KubeCluster
from tests.kube.control_plane import ControlPlane


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    plane = ControlPlane(tmp_path_factory.mktemp("kube"))
    try:
        plane.start()
        yield plane
    finally:
        plane.stop()


@pytest.fixture(scope="session")
def kube(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeCluster]:
    try:
        with running_lab("k8s", "etcd", hosts=2, ipv6=False) as live:
            made = KubeCluster(live, tmp_path_factory.mktemp("k"))
            try:
                made.start()
                yield made
            finally:
                made.stop()
    finally:
        remove_cgroups()
