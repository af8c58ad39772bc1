"""The kernel's part is real here, as in tests/netns."""

from tests.netns.conftest import netns

__all__ = ["netns"]
