"""L14, as far as calc decides: where a machine's address leads while it is on its way."""

from collections.abc import Hashable
from itertools import permutations

import pytest

from tortie.calc.graph import Graph
from tortie.desired.endpoint import Route, RouteType
from tortie.desired.kinds import Kind
from tortie.lib.ip import parse_address
from tortie.model.endpoint import WorkloadEndpoint, WorkloadEndpointSpec
from tortie.model.keys import Key, ResourceKey
from tortie.model.live_migration import (
    LiveMigration,
    LiveMigrationSource,
    LiveMigrationSpec,
    LiveMigrationTarget,
    WorkloadEndpointIdentifier,
)
from tortie.model.metadata import Metadata
from tortie.model.node import IPPool, IPPoolSpec, Node, NodeBGP, NodeSpec

ADDRESS = parse_address("10.65.0.7")
HOSTS = {"h1": "172.30.0.1", "h2": "172.30.0.2", "h3": "172.30.0.3"}


class View:
    """What one host makes of it."""

    def __init__(self, host: str) -> None:
        self.routes: dict[Hashable, Route] = {}
        self.endpoints: dict[Hashable, object] = {}
        self._graph = Graph(host, self._emit)
        self._put("IPPool", "pool", IPPool(spec=IPPoolSpec(cidr="10.65.0.0/16")))
        for name, address in HOSTS.items():
            self._put("Node", name, Node(spec=NodeSpec(bgp=NodeBGP(ipv4_address=f"{address}/24"))))
        self._graph.flush()

    def _put(self, kind: str, name: str, value: object) -> None:
        self._graph.on_update(ResourceKey(kind, name), value)

    def _emit(self, kind: Kind, name: Hashable, value: object | None) -> None:
        if kind is Kind.ROUTE:
            if isinstance(value, Route):
                self.routes[name] = value
            else:
                self.routes.pop(name, None)
        elif kind is Kind.ENDPOINT:
            self.endpoints[name] = value

    def update(self, *changes: tuple[Key, object | None]) -> str:
        """Where the address leads now: a host's name, `here`, or nowhere."""
        for key, value in changes:
            self._graph.on_update(key, value)
        self._graph.flush()
        route = self.routes.get(ADDRESS)
        if route is None:
            return ""
        return "here" if route.type is RouteType.LOCAL_WORKLOAD else route.host


def endpoint(host: str, present: bool = True) -> tuple[Key, WorkloadEndpoint | None]:
    name = f"{host}-openstack-vm-port--1"
    spec = WorkloadEndpointSpec(
        orchestrator="openstack", workload="vm", node=host, endpoint="port-1",
        interface_name="tap1", ip_networks=("10.65.0.7/32",),
    )  # fmt: skip
    made = WorkloadEndpoint(metadata=Metadata(name=name, namespace="openstack"), spec=spec)
    return ResourceKey("WorkloadEndpoint", name, "openstack"), made if present else None


def migration(source: str, target: str, present: bool = True) -> tuple[Key, LiveMigration | None]:
    def on(host: str) -> WorkloadEndpointIdentifier:
        return WorkloadEndpointIdentifier(
            hostname=host, orchestrator_id="openstack", workload_id="openstack/vm",
            endpoint_id="port-1",
        )  # fmt: skip

    spec = LiveMigrationSpec(
        source=LiveMigrationSource(workload_endpoint=on(source)),
        target=LiveMigrationTarget(workload_endpoint=on(target)),
    )
    key = ResourceKey("LiveMigration", f"{target}-openstack-vm-port--1", "openstack")
    return key, LiveMigration(spec=spec) if present else None


@pytest.mark.parametrize(("source", "target"), [("h1", "h2"), ("h2", "h1")])
def test_l14_a_migration(source: str, target: str) -> None:
    """The target attracts nothing, on no host, until the source has given up; whichever of the
    two names comes first."""
    views = {host: View(host) for host in HOSTS}

    def led(*changes: tuple[Key, object | None]) -> list[str]:
        return [views[host].update(*changes) for host in (source, target, "h3")]

    assert led(endpoint(source)) == ["here", source, source]
    assert led(migration(source, target), endpoint(target)) == ["here", source, source]
    assert views[target].endpoints, "its policy is in force already"
    assert led(endpoint(source, False)) == [target, "here", target]
    assert led(migration(source, target, False)) == [target, "here", target]
    # And back at once.
    assert led(migration(target, source), endpoint(source)) == [target, "here", target]
    assert led(endpoint(target, False), migration(target, source, False)) == [
        "here", source, source
    ]  # fmt: skip


def test_l14_a_migration_that_fails() -> None:
    views = {host: View(host) for host in HOSTS}
    begun = (endpoint("h1"), migration("h1", "h2"), endpoint("h2"))
    for view in views.values():
        view.update(*begun)
        view.update(endpoint("h2", False))
        view.update(migration("h1", "h2", False))
    assert [view.update() for view in views.values()] == ["here", "h1", "h1"]


def test_l14_a_machine_that_is_deleted_on_its_way() -> None:
    gone = (endpoint("h1", False), endpoint("h2", False), migration("h1", "h2", False))
    for order in permutations(gone):
        view = View("h2")
        view.update(endpoint("h1"), migration("h1", "h2"), endpoint("h2"))
        assert view.update(*order) == ""


def test_the_order_of_arrival_does_not_matter() -> None:
    begun = (endpoint("h1"), migration("h1", "h2"), endpoint("h2"))
    for host, leads in (("h1", "here"), ("h2", "h1"), ("h3", "h1")):
        for order in permutations(begun):
            at_once, one_by_one = View(host), View(host)
            assert at_once.update(*order) == leads
            for change in order:
                last = one_by_one.update(change)
            assert last == leads


def test_a_migration_that_names_nobody_changes_nothing() -> None:
    view = View("h3")
    key, _ = migration("h1", "h2")
    identifier = WorkloadEndpointIdentifier(hostname="h1", workload_id="vm")
    spec = LiveMigrationSpec(target=LiveMigrationTarget(workload_endpoint=identifier))
    assert view.update(endpoint("h1"), (key, LiveMigration(spec=spec))) == "h1"
