"""Faults are made in namespaces of their own, and each test says that its fault happened."""

import os
from collections.abc import Iterator

import pytest
from tests.attacks.arena import Arena, arena
from tests.faults.monitor import Census
from tests.netns.conftest import netns

from tortie.dataplane.settings import Settings
from tortie.kernel.netns import enter
from tortie.kernel.nft.connection import supports_owner_tables

__all__ = ["netns"]


@pytest.fixture(autouse=True)
def census() -> Iterator[None]:
    """Around everything else: whatever broke, nothing is left open."""
    before = Census.take()
    yield
    leaked = Census.take().leaked_since(before)
    assert not leaked, f"left behind: {leaked}"


@pytest.fixture
def field() -> Iterator[Arena]:
    """Tables that anyone with the right may change."""
    assert os.geteuid() == 0, "needs root; a skipped fault is one that nobody survived"
    with arena() as made, enter(made.namespace):
        yield made


@pytest.fixture
def guarded() -> Iterator[Arena]:
    """Tables that anyone with the right may change, and links that let out only what they saw."""
    settings = Settings(host="h1", guard_links=True)
    with arena(settings) as made, enter(made.namespace):
        yield made


@pytest.fixture
def owned() -> Iterator[Arena]:
    """Tables that are ours alone, for the kernel too."""
    if not supports_owner_tables():
        pytest.skip("this kernel has no owner tables (before 6.9)")
    with arena(owned=True) as made, enter(made.namespace):
        yield made
