"""The quick ways of reading and the client's agree, over each kind of datastore."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.datastore.etcd_server import free_ports

from tortie.ctl import plain
from tortie.ctl.main import main

NODES = "---\n".join(
    f"apiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {{name: n{n}}}\n" for n in range(3)
)
PROGRAM = "from tortie.ctl.main import entry; entry()"
PREFIXES = [f"{plain.RESOURCES}nodes/", f"{plain.RESOURCES}tiers/", f"{plain.RESOURCES}ippools/"]


def _tortie(*words: str) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    code = main(words, out, err)
    return code, out.getvalue(), err.getvalue()


def _apply(directory: Path) -> None:
    path = directory / "nodes.yaml"
    path.write_text(NODES)
    assert _tortie("apply", "-f", str(path))[0] == 0
    assert _tortie("delete", "node", "n1")[0] == 0


def test_they_read_the_same(datastore: str, tmp_path: Path) -> None:
    _apply(tmp_path)
    if datastore == "etcd":
        quick = plain._from_etcd(os.environ["ETCD_ENDPOINTS"], PREFIXES)
    else:
        quick = plain._from_file(os.environ["TORTIE_EMBEDDED_PATH"], PREFIXES)
    assert quick is not None
    assert len(quick[0][0]) == 2
    listings, revision = plain._through_client(None, PREFIXES)
    assert [list(map(tuple, listing)) for listing in quick[0]] == listings
    assert quick[1] == revision


def test_watching(datastore: str, tmp_path: Path) -> None:
    _apply(tmp_path)
    watcher = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "get", "nodes", "-w", "-o", "name"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert watcher.stdout is not None
    try:
        assert [watcher.stdout.readline() for _ in range(2)] == ["node/n0\n", "node/n2\n"]
        _tortie("delete", "node", "n2")
        assert watcher.stdout.readline() == "node/n2   (deleted)\n"
    finally:
        watcher.terminate()
        watcher.communicate(timeout=10)


@pytest.mark.parametrize(
    "endpoint", ["http://", "http://x", "http://127.0.0.1:x", "http://127.0.0.1:99999999999"]
)
def test_odd_endpoints_are_left_to_the_client(endpoint: str) -> None:
    assert plain._from_etcd(endpoint, PREFIXES) is None


def test_nobody_there() -> None:
    (port,) = free_ports(1)
    assert plain._from_etcd(f"http://127.0.0.1:{port}", PREFIXES) is None
