"""The kernel's part is real here, as in tests/netns."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cni.host import Containers, Host, running_host
from tests.netns.conftest import netns

__all__ = ["netns"]


@pytest.fixture(params=["", "none"], ids=["perl", "python"])
def host(netns: None, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Host]:
    """With either way of starting the plugin."""
    with running_host(tmp_path, request.param) as made:
        yield made


@pytest.fixture
def containers() -> Iterator[Containers]:
    made = Containers()
    yield made
    made.close()
