"""One arena for all tests of a module: they leave it as it was."""

import os
from collections.abc import Iterator

import pytest
from tests.attacks.arena import Arena, arena

from tortie.dataplane.settings import Settings
from tortie.kernel.netns import enter


@pytest.fixture(scope="module")
def arena_of_module() -> Iterator[Arena]:
    assert os.geteuid() == 0, "needs root; a skipped attack is one that nobody tried"
    with arena() as made:
        yield made


@pytest.fixture
def field(arena_of_module: Arena) -> Iterator[Arena]:
    with enter(arena_of_module.namespace):
        yield arena_of_module


@pytest.fixture(scope="module")
def accepting_of_module() -> Iterator[Arena]:
    with arena(Settings(host="h1", endpoint_to_host_action="Accept")) as made:
        yield made


@pytest.fixture
def accepting(accepting_of_module: Arena) -> Iterator[Arena]:
    """A host that takes packets from its workloads."""
    with enter(accepting_of_module.namespace):
        yield accepting_of_module
