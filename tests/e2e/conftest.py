"""One lab per way of running: all tests of one come before the next is made."""

import os
from collections.abc import Iterator

import pytest
from tests.e2e.live import LiveLab, need_root

COMBINATIONS = {"embedded-direct": ("embedded", "direct"), "etcd-bgp": ("etcd", "bgp")}

CAST = (
    ("w1", "h1", "red", {"role": "a", "env": "prod"}),
    ("w2", "h1", "blue", {"role": "b"}),
    ("w3", "h2", "red", {"role": "b", "env": "dev"}),
    ("w4", "h2", "blue", {"role": "a"}),
    ("w5", "h3", "red", {"role": "c"}),
)


@pytest.fixture(scope="session", params=COMBINATIONS)
def shared_lab(request: pytest.FixtureRequest) -> Iterator[LiveLab]:
    need_root()
    datastore, routing = COMBINATIONS[request.param]
    live = LiveLab(f"e2e{os.getpid()}-{datastore[:2]}", datastore, routing)
    live.up()
    try:
        for name, host, namespace, labels in CAST:
            live.add(name, host, namespace, **labels)
        yield live
    finally:
        live.down()


@pytest.fixture
def live(shared_lab: LiveLab) -> Iterator[LiveLab]:
    """The lab with `CAST`, its resources as they were when the test is over."""
    with shared_lab.restored():
        yield shared_lab
