"""The same commands over a real etcd, and over none."""

import time
from pathlib import Path

import pytest
from tests.datastore.etcd_server import EtcdServer, free_ports
from tests.unit.ctl.shell import Shell

FILE = """\
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: web}
spec: {tier: sec, selector: role == 'web', ingress: [{action: Allow}]}
---
apiVersion: projectcalico.org/v3
kind: Tier
metadata: {name: sec}
spec: {}
"""


def test_on_etcd(tortie: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = EtcdServer(tmp_path / "etcd").start()
    try:
        monkeypatch.setenv("DATASTORE_TYPE", "etcdv3")
        monkeypatch.setenv("ETCD_ENDPOINTS", server.endpoint)
        path = tortie.write("a.yaml", FILE)
        assert tortie("apply", "-f", path) == (
            0,
            "Successfully applied 2 resource(s)\n",
            "warning: GlobalNetworkPolicy(web) selects no endpoint\n",
        )
        assert tortie("get", "gnp").out == "NAME   TIER\nweb    sec\n"
        assert "not empty" in tortie("delete", "tier", "sec").err
        assert tortie("create", "-f", path).code == 1
        assert tortie("delete", "-f", path).out == "Successfully deleted 2 resource(s)\n"
    finally:
        server.kill()


def test_an_etcd_that_is_not_there(tortie: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = free_ports(1)
    monkeypatch.setenv("DATASTORE_TYPE", "etcdv3")
    monkeypatch.setenv("ETCD_ENDPOINTS", f"http://127.0.0.1:{port}")
    start = time.monotonic()
    outcome = tortie("get", "nodes")
    assert outcome.code == 1
    assert str(port) in outcome.err
    assert outcome.err.count("\n") == 1
    assert time.monotonic() - start < 15
