"""The command line against a real embedded datastore, in this process."""

import asyncio
from pathlib import Path

import pytest
from tests.unit.ctl.shell import Shell

from tortie.datastore.embedded import EmbeddedClient


@pytest.fixture
def tortie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    store = tmp_path / "store" / "datastore.db"
    store.parent.mkdir()

    async def create() -> None:
        client = EmbeddedClient(store, create=True)
        await client.revision()
        await client.close()

    asyncio.run(create())
    for name in ("ETCD_ENDPOINTS", "TORTIE_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DATASTORE_TYPE", "embedded")
    monkeypatch.setenv("TORTIE_EMBEDDED_PATH", str(store))
    return Shell(tmp_path / "files")
