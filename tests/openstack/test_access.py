"""The roles `tortie-neutron` and `tortie-dhcp` are enough for all of it, and for nothing else."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.datastore.credentials import etcdctl
from tests.datastore.etcd_server import EtcdServer
from tests.openstack.paper import default_group, make_port
from tests.openstack.test_gateway import wait_until
from tests.openstack.world import World

from tortie.datastore.client import Delete, Put, Txn
from tortie.datastore.etcd.messages import Access, Permission
from tortie.datastore.roles import cluster_roles
from tortie.lib.errors import Denied
from tortie.model.keys import ResourceKey
from tortie.openstack.election import Election
from tortie.openstack.gateway import Gateway
from tortie.openstack.housekeeping import TRIGGER_KEY, compact, prepare_cluster
from tortie.openstack.inventory import Subnet
from tortie.openstack.resync import Resync
from tortie.openstack.settings import Settings
from tortie.openstack.status import StatusEvent, StatusWatcher
from tortie.openstack.store import Store

_ACCESS = {Access.READ: "read", Access.WRITE: "write", Access.READ_WRITE: "readwrite"}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    server = EtcdServer(tmp_path_factory.mktemp("etcd") / "etcd", ["--bcrypt-cost=4"]).start()
    etcdctl(server, "user", "add", "root:root")
    etcdctl(server, "user", "grant-role", "root", "root")
    for role in cluster_roles():
        if role.name in ("tortie-neutron", "tortie-dhcp"):
            etcdctl(server, "role", "add", role.name)
            for permission in role.permissions:
                etcdctl(server, "role", "grant-permission", role.name, *_arguments(permission))
            etcdctl(server, "user", "add", f"{role.name}:secret")
            etcdctl(server, "user", "grant-role", role.name, role.name)
    etcdctl(server, "auth", "enable")
    yield server
    server.kill()


def _arguments(permission: Permission) -> tuple[str, ...]:
    return (_ACCESS[permission.access], permission.key.decode(), permission.end.decode())


def settings_of(server: EtcdServer, user: str) -> Settings:
    return Settings(
        etcd_port=server.client_port, etcd_username=user, etcd_password="secret", etcd_timeout=10
    )


def test_neutron_may_do_its_work(guarded: EtcdServer) -> None:
    settings = settings_of(guarded, "tortie-neutron")
    gateway = Gateway.of(settings)
    election = Election(gateway, settings)
    election.start()
    wait_until(lambda: election.is_master)
    store = Store(gateway, election.guard)
    prepare_cluster(store, settings)
    world = World(gateway, settings)
    world.inventory.all_groups["sg-1"] = default_group("sg-1")
    world.inventory.all_subnets["s"] = Subnet(id="s", network_id="n", cidr="10.65.0.0/24")
    world.set(make_port(1, migrating_to="h2"))
    Resync(store, world.inventory, settings).run()
    assert world.differences() == []
    events: list[StatusEvent] = []
    watcher = StatusWatcher(gateway, settings, events.append)
    watcher.start()
    watcher.stop()
    patient = Settings(etcd_compaction_min_revisions=1)
    assert compact(store, election.guard, patient).why == "first look"
    for _ in range(5):
        world.set(make_port(1, mac_address="fa:16:3e:00:00:09"))
        world.set(make_port(1))
    gateway.transact(Txn(success=[Delete(TRIGGER_KEY)]))
    done = compact(store, election.guard, patient)
    assert done.done or "not permitted" in done.why
    world.delete(make_port(1).id)
    election.stop()


@pytest.mark.parametrize("user", ["tortie-neutron", "tortie-dhcp"])
@pytest.mark.parametrize(
    "path",
    [
        ResourceKey("GlobalNetworkPolicy", "x").path,
        ResourceKey("IPPool", "x").path,
        ResourceKey("Node", "x").path,
        "/calico/ipam/v2/config",
        "/calico/felix/v2/no-region/host/h1/status",
        "/elsewhere",
    ],
)
def test_and_nothing_else(guarded: EtcdServer, user: str, path: str) -> None:
    gateway = Gateway.of(settings_of(guarded, user))
    with pytest.raises(Denied):
        gateway.transact(Txn(success=[Put(path, b"{}")]))


def test_the_dhcp_agent_reads(guarded: EtcdServer, tmp_path: Path) -> None:
    settings = settings_of(guarded, "tortie-dhcp")
    gateway = Gateway.of(settings)
    world = World(gateway, settings)
    for kind in world.kinds:
        for prefix in kind.prefixes:
            assert list(gateway.pages(prefix))
            gateway.watch(prefix, 1_000_000).close()
    with pytest.raises(Denied):
        world.set(make_port(1))
