"""The kernel's part is real here, as in tests/netns."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cni.host import Containers, Host, running_host
from tests.netns.conftest import netns

__all__ = ["netns"]


@pytest.fixture
def host(netns: None, tmp_path: Path) -> Iterator[Host]:
    with running_host(tmp_path) as made:
        yield made


@pytest.fixture
def containers() -> Iterator[Containers]:
    made = Containers()
    yield made
    made.close()
