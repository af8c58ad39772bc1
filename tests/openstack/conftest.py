"""One MariaDB and one schema of each Neutron for all tests, and a cloud of each for most of them;
one etcd for a module of tests of parts, of which each has a region of its own in it.
"""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.datastore.etcd_server import EtcdServer
from tests.openstack.cloud import Cloud
from tests.openstack.mariadb import MariaDB
from tests.openstack.server import VERSIONS, Release

from tortie.openstack.gateway import Gateway
from tortie.openstack.settings import Settings

Releases = Callable[[int], Release]

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


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaDB]:
    server = MariaDB(tmp_path_factory.mktemp("m"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def release(database: MariaDB, tmp_path_factory: pytest.TempPathFactory) -> Releases:
    made: dict[int, Release] = {}

    def get(version: int) -> Release:
        if version not in made:
            made[version] = Release(version, tmp_path_factory.mktemp(f"n{version}"), database)
        return made[version]

    return get


@pytest.fixture(scope="session", params=VERSIONS)
def cloud(
    request: pytest.FixtureRequest, release: Releases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cloud]:
    """One server with hosts h1 to h3; each test has networks and groups of its own."""
    folder = tmp_path_factory.mktemp(f"c{request.param}")
    made = Cloud(release(request.param), folder, f"cloud{request.param}")
    try:
        made.start()
        yield made
    finally:
        made.stop()
