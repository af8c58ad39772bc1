"""One lab per way of running: all tests of one come before the next is made."""

from collections.abc import Iterator

import pytest
from tests.e2e.live import LiveLab, running_lab

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
    datastore, routing = COMBINATIONS[request.param]
    with running_lab(f"e2e-{datastore[:2]}", datastore, routing, hosts=3) as live:
        for name, host, namespace, labels in CAST:
            live.add(name, host, namespace, **labels)
        yield live


@pytest.fixture
def live(shared_lab: LiveLab) -> Iterator[LiveLab]:
    """The lab with `CAST`, its resources as they were when the test is over."""
    with shared_lab.restored():
        yield shared_lab
