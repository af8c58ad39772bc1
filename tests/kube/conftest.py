"""One control plane for all tests of controllers; each test has namespaces of its own."""

from collections.abc import Iterator

import pytest
from tests.kube.control_plane import ControlPlane


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    plane = ControlPlane(tmp_path_factory.mktemp("kube"))
    plane.start()
    yield plane
    plane.stop()
