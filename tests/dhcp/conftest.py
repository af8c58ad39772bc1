"""The kernel's part is real here, as in tests/netns; so is dnsmasq."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.dhcp.host import Host
from tests.netns.conftest import netns

__all__ = ["netns"]


@pytest.fixture
def host(netns: None, tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path)
    try:
        yield made
    finally:
        made.close()
