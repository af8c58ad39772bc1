"""What only the master does: the agents' settings, and etcd's history."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.datastore.etcd_server import EtcdServer

from tortie.datastore.client import Compare, Delete, Put, Txn
from tortie.lib.errors import Compacted, InvalidInput
from tortie.model.keys import ResourceKey
from tortie.openstack.gateway import Gateway
from tortie.openstack.housekeeping import (
    LAST_KEY,
    TRIGGER_KEY,
    Compaction,
    compact,
    prepare_cluster,
)
from tortie.openstack.settings import Settings
from tortie.openstack.store import NotMaster, Store

CLUSTER = ResourceKey("ClusterInformation", "default").path
FELIX = ResourceKey("FelixConfiguration", "default").path


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Gateway]:
    """These keys are of no region: an etcd for each test."""
    server = EtcdServer(tmp_path / "etcd").start()
    yield Gateway([("127.0.0.1", server.client_port)], timeout_seconds=10)
    server.kill()


def spec_at(gateway: Gateway, path: str) -> dict[str, Any]:
    entry = gateway.get(path)
    assert entry is not None
    found: dict[str, Any] = json.loads(entry.value)["spec"]
    return found


def put(gateway: Gateway, path: str, kind: str, spec: dict[str, Any]) -> None:
    document = {
        "kind": kind, "apiVersion": "projectcalico.org/v3", "metadata": {"name": "default"},
        "spec": spec,
    }  # fmt: skip
    gateway.transact(Txn(success=[Put(path, json.dumps(document).encode())]))


def test_an_empty_datastore_becomes_ready(empty: Gateway) -> None:
    assert prepare_cluster(Store(empty), Settings(openstack_region="east")) == ()
    cluster = spec_at(empty, CLUSTER)
    assert len(cluster.pop("clusterGUID")) == 32
    assert cluster == {"clusterType": "openstack", "datastoreReady": True}
    assert spec_at(empty, FELIX) == {
        "endpointReportingEnabled": True,
        "interfacePrefix": "cali,tap",
        "openstackRegion": "east",
        "workloadSourceSpoofing": "Any",
    }
    assert spec_at(empty, ResourceKey("Tier", "default").path) == {
        "order": 1000000, "defaultAction": "Deny",
    }  # fmt: skip
    before = empty.revision()
    assert prepare_cluster(Store(empty), Settings(openstack_region="east")) == ()
    assert empty.revision() == before


def test_what_others_have_set_stays(empty: Gateway) -> None:
    cluster = {"clusterGUID": "g", "clusterType": "k8s,bgp", "datastoreReady": False, "future": 1}
    put(empty, CLUSTER, "ClusterInformation", cluster)
    felix = {"interfacePrefix": "cali", "openstackRegion": "west", "logSeverityScreen": "Debug"}
    put(empty, FELIX, "FelixConfiguration", felix)
    region, spoofing = prepare_cluster(Store(empty), Settings(openstack_region="east"))
    assert "'west'" in region
    assert "'east'" in region
    assert "workloadSourceSpoofing" in spoofing
    assert spec_at(empty, CLUSTER) == cluster | {"clusterType": "k8s,bgp,openstack"}
    assert spec_at(empty, FELIX) == felix | {
        "interfacePrefix": "cali,tap", "endpointReportingEnabled": True,
    }  # fmt: skip


def test_what_cannot_be_read_is_left_alone(empty: Gateway) -> None:
    empty.transact(Txn(success=[Put(FELIX, b"{broken")]))
    with pytest.raises(InvalidInput, match="FelixConfiguration"):
        prepare_cluster(Store(empty), Settings())
    entry = empty.get(FELIX)
    assert entry is not None
    assert entry.value == b"{broken"


def grow(gateway: Gateway, revisions: int) -> None:
    for number in range(revisions):
        gateway.transact(Txn(success=[Put("/grow", str(number).encode())]))


def is_there(gateway: Gateway, revision: int) -> bool:
    """May history be read from there on?"""
    watch = gateway.watch("/", revision)
    try:
        next(iter(watch))
    except Compacted:
        return False
    finally:
        watch.close()
    return True


def test_history_is_forgotten_a_period_later(empty: Gateway) -> None:
    """Kept is what came since the look before, and the least number of revisions."""
    settings = Settings(etcd_compaction_period_mins=60, etcd_compaction_min_revisions=5)
    store = Store(empty)

    def look() -> Compaction:
        return compact(store, tuple, settings)

    def end_of_period() -> None:
        entry = empty.get(TRIGGER_KEY)
        assert entry is not None
        assert empty.keep_alive(entry.lease) == 3600
        empty.revoke(entry.lease)

    grow(empty, 20)
    assert look() == (False, "first look")
    first = empty.get(LAST_KEY)
    assert first is not None
    assert first.value == b"0"
    assert look() == (False, "not time yet")
    grow(empty, 10)
    end_of_period()
    assert look() == (True, "done")
    last = empty.get(LAST_KEY)
    assert last is not None
    assert int(last.value) == first.mod_revision
    assert not is_there(empty, first.mod_revision - 1)
    assert is_there(empty, first.mod_revision)
    end_of_period()
    patient = Settings(etcd_compaction_min_revisions=1000)
    assert compact(store, tuple, patient) == (False, "no history to forget")


def test_somebody_else_has_compacted(empty: Gateway) -> None:
    settings = Settings(etcd_compaction_min_revisions=1)
    store = Store(empty)
    compact(store, tuple, settings)
    grow(empty, 10)
    empty.compact(empty.revision())
    empty.transact(Txn(success=[Delete(TRIGGER_KEY)]))
    assert compact(store, tuple, settings) == (False, "others have compacted")


@pytest.mark.parametrize("left", [b"99999999", b"no number"])
def test_keys_of_a_restored_backup(empty: Gateway, left: bytes) -> None:
    """A revision of the future, a trigger whose lease is gone: begin anew, compact nothing."""
    settings = Settings(etcd_compaction_min_revisions=1)
    grow(empty, 10)
    empty.transact(Txn(success=[Put(LAST_KEY, left), Put(TRIGGER_KEY, b"1")]))
    assert compact(Store(empty), tuple, settings) == (False, "first look")
    assert is_there(empty, 2)


def test_switched_off(empty: Gateway) -> None:
    settings = Settings(etcd_compaction_period_mins=0)
    assert not compact(Store(empty), tuple, settings).done
    assert empty.get(LAST_KEY) is None


def test_only_the_master(empty: Gateway) -> None:
    def guard() -> tuple[Compare, ...]:
        return (Compare("/master", "lease", "==", 5),)

    settings = Settings(etcd_compaction_min_revisions=1)
    compact(Store(empty), tuple, settings)
    grow(empty, 10)
    empty.transact(Txn(success=[Delete(TRIGGER_KEY)]))
    with pytest.raises(NotMaster):
        compact(Store(empty), guard, settings)
    assert is_there(empty, 2)
    with pytest.raises(NotMaster):
        prepare_cluster(Store(empty, guard), settings)
    assert empty.get(CLUSTER) is None
