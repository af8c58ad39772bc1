"""The command line in this process, over each kind of datastore."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.datastore.etcd_server import EtcdServer

from tortie.datastore.embedded import EmbeddedClient

Use = Callable[[], None]


@pytest.fixture(params=["embedded", "etcd"])
def datastore(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """An empty datastore that the environment names."""
    for name in ("ETCD_ENDPOINTS", "TORTIE_EMBEDDED_PATH", "TORTIE_DEBUG", "ETCD_USERNAME"):
        monkeypatch.delenv(name, raising=False)
    if request.param == "embedded":
        path = tmp_path / "store" / "datastore.db"
        make_embedded(path)
        monkeypatch.setenv("DATASTORE_TYPE", "embedded")
        monkeypatch.setenv("TORTIE_EMBEDDED_PATH", str(path))
        yield "embedded"
        return
    server = EtcdServer(tmp_path / "etcd").start()
    monkeypatch.setenv("DATASTORE_TYPE", "etcdv3")
    monkeypatch.setenv("ETCD_ENDPOINTS", server.endpoint)
    try:
        yield "etcd"
    finally:
        server.kill()


def make_embedded(path: Path) -> None:
    path.parent.mkdir(parents=True)

    async def create() -> None:
        client = EmbeddedClient(path, create=True)
        await client.revision()
        await client.close()

    asyncio.run(create())
