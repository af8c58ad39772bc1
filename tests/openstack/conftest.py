"""One etcd for a module of tests; each test has a region of its own in it."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.datastore.etcd_server import EtcdServer

from tortie.openstack.gateway import Gateway
from tortie.openstack.settings import Settings

_numbers = itertools.count()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    folder: Path = tmp_path_factory.mktemp("etcd")
    running = EtcdServer(folder / "etcd").start()
    yield running
    running.kill()


@pytest.fixture
def settings(server: EtcdServer) -> Settings:
    return Settings(
        etcd_host="127.0.0.1",
        etcd_port=server.client_port,
        openstack_region=f"r{next(_numbers)}",
        etcd_timeout=10,
    )


@pytest.fixture
def gateway(settings: Settings) -> Iterator[Gateway]:
    made = Gateway.of(settings)
    yield made
    made.close()
