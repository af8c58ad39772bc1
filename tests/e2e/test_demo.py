"""The demo tells its story to the end."""

import pytest
from tests.e2e.live import command, need_root


@pytest.mark.timeout(120)
def test_the_demo_keeps_its_promises() -> None:
    need_root()
    result = command("demo")
    assert result.code == 0, result.out + result.err
    assert "tortie lab up" in result.out
