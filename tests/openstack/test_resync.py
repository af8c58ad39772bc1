"""Wide and narrow resyncs: what they repair, what they leave alone, what they report."""

import json
import tracemalloc
from collections.abc import Iterator

import msgspec
import pytest
from tests.openstack.paper import PaperInventory, default_group, make_port, uuid_of
from tests.openstack.world import World

from tortie.datastore.client import Delete, Put, Txn
from tortie.lib.errors import Compacted
from tortie.openstack.gateway import Gateway
from tortie.openstack.inventory import FixedIP, Port, SecurityGroupRule, Selection, Subnet
from tortie.openstack.kinds import Ports
from tortie.openstack.resync import Counts, Resync, Scope
from tortie.openstack.settings import Settings


@pytest.fixture
def world(gateway: Gateway, settings: Settings) -> World:
    made = World(gateway, settings)
    for number in range(1, 8):
        port = make_port(number, f"h{number % 3}", security_groups={f"sg-{number % 2}": "default"})
        made.inventory.all_ports[port.id] = port
    for group_id in ("sg-0", "sg-1"):
        made.inventory.all_groups[group_id] = default_group(group_id)
    made.inventory.all_subnets["s"] = Subnet(id="s", network_id=uuid_of(7), cidr="10.65.0.0/24")
    return made


def run(world: World, scope: Scope | None = None) -> Resync:
    resync = Resync(world.store, world.inventory, world.settings)
    resync.run(scope)
    return resync


def put(world: World, path: str, value: bytes) -> None:
    world.gateway.transact(Txn(success=[Put(path, value)]))


def stored_paths(world: World, kind: int) -> list[str]:
    return [
        entry.key
        for prefix in world.kinds[kind].prefixes
        for page in world.gateway.pages(prefix)
        for entry in page.entries
    ]


def test_everything_is_written_once(world: World) -> None:
    first = run(world).report
    assert world.differences() == []
    assert {name: counts.created for name, counts in first.kinds.items()} == {
        "subnets": 1, "security groups": 2, "ports": 7,
    }  # fmt: skip
    before = world.gateway.revision()
    second = run(world).report
    assert second.changes == 0
    assert second.kinds["ports"].checked == second.kinds["ports"].stored == 7
    assert world.gateway.revision() == before


def test_whatever_was_changed_by_hand_is_repaired(world: World) -> None:
    """Changed, deleted, unreadable, foreign: as the database says again, and nothing else."""
    run(world)
    endpoints = stored_paths(world, 2)
    policies = stored_paths(world, 1)
    beside = f"{policies[0].rpartition('/')[0]}/default.mine"
    put(world, beside, b"an operator's policy in our namespace")
    good = world.gateway.get(endpoints[0])
    assert good is not None
    wrong = json.loads(good.value)
    wrong["metadata"]["labels"].popitem()
    wrong["spec"]["ipNetworks"] = ["10.65.0.77/32"]
    put(world, endpoints[0], json.dumps(wrong).encode())
    put(world, endpoints[1], b"{not JSON")
    world.gateway.transact(Txn(success=[Delete(endpoints[2]), Delete(policies[0])]))
    put(world, endpoints[3].replace("/h", "/gone-h"), b"{}")
    put(world, policies[1].replace("sg-1", "sg-9"), b"null")
    put(world, stored_paths(world, 0)[0], b"[]")
    report = run(world).report
    assert world.differences() == []
    ports = report.kinds["ports"]
    assert (ports.created, ports.updated, ports.deleted) == (1, 2, 1)
    groups = report.kinds["security groups"]
    assert (groups.created, groups.updated, groups.deleted) == (1, 0, 1)
    assert report.kinds["subnets"].updated == 1
    kept = world.gateway.get(beside)
    assert kept is not None
    again = world.gateway.get(endpoints[0])
    assert again is not None
    assert json.loads(again.value)["metadata"]["uid"] == wrong["metadata"]["uid"]


def test_another_region_is_not_touched(world: World, settings: Settings) -> None:
    run(world)
    elsewhere = msgspec.structs.replace(settings, openstack_region=None)
    foreign = World(world.gateway, elsewhere)
    foreign.inventory.all_ports[uuid_of(50)] = make_port(50)
    run(foreign)
    assert foreign.differences() == []
    assert world.differences() == []
    foreign.inventory.all_ports.clear()
    run(foreign)
    assert world.differences() == []


def test_l20_one_port(world: World) -> None:
    """Its endpoints on hosts that nobody remembers go too; a neighbour's stay as they are."""
    run(world)
    mine, neighbours = uuid_of(1), uuid_of(2)
    port = world.inventory.all_ports[mine]
    kind = Ports(world.inventory, world.settings)
    put(world, kind.paths_of(mine, [("forgotten", port.device_id)])[0], b"{}")
    for port_id in (mine, neighbours):
        changed = msgspec.structs.replace(
            world.inventory.all_ports[port_id], mac_address="fa:16:3e:cc:cc:cc"
        )
        world.inventory.all_ports[port_id] = changed
    report = run(world, Scope(ports=frozenset({mine}))).report
    assert list(report.kinds) == ["ports"]
    assert (report.kinds["ports"].updated, report.kinds["ports"].deleted) == (1, 1)
    assert len(world.differences()) == 1
    assert neighbours.replace("-", "--") in world.differences()[0]
    before = world.gateway.revision()
    assert run(world, Scope(ports=frozenset({mine}))).report.changes == 0
    assert world.gateway.revision() == before


def test_one_port_that_is_gone(world: World) -> None:
    run(world)
    del world.inventory.all_ports[uuid_of(1)]
    report = run(world, Scope(ports=frozenset({uuid_of(1), uuid_of(99)}))).report
    assert report.kinds["ports"].deleted == 1
    assert world.differences() == []


def test_one_group(world: World) -> None:
    world.inventory.all_groups["sg-2"] = default_group("sg-2")
    report = run(world, Scope(security_groups=frozenset({"sg-2", "never"}))).report
    assert report.kinds["security groups"].created == 1
    assert stored_paths(world, 2) == []


def test_the_groups_of_a_port(world: World) -> None:
    scope = Scope(ports=frozenset({uuid_of(1)}), include_security_groups_for_ports=True)
    assert run(world, scope).report.kinds["security groups"].created == 1
    assert [path.rpartition(".")[2] for path in stored_paths(world, 1)] == ["sg-1"]


def test_a_network_with_all_that_is_in_it(world: World) -> None:
    """Also what the database has forgotten of it; ports of other networks stay."""
    far = make_port(50, network_id=uuid_of(8), fixed_ips=(FixedIP(address="10.99.0.1"),))
    world.inventory.all_ports[far.id] = far
    run(world)
    changed = msgspec.structs.replace(far, mac_address="fa:16:3e:cc:cc:cc")
    world.inventory.all_ports[far.id] = changed
    near = world.inventory.all_ports.pop(uuid_of(1))
    moved = msgspec.structs.replace(world.inventory.all_ports[uuid_of(2)], host="h9")
    world.inventory.all_ports[moved.id] = moved
    world.inventory.all_subnets["s"] = Subnet(id="s", network_id=uuid_of(7), cidr="10.65.0.0/23")
    report = run(world, Scope(networks=frozenset({near.network_id}))).report
    assert report.kinds["subnets"].updated == 1
    ports = report.kinds["ports"]
    assert (ports.created, ports.updated, ports.deleted) == (1, 0, 2)
    (left,) = world.differences()
    assert far.id.replace("-", "--") in left


def test_a_subnet_with_its_ports(world: World) -> None:
    report = run(world, Scope(subnets=frozenset({"s"}))).report
    assert report.kinds["subnets"].created == 1
    assert report.kinds["ports"].created == 7


def test_problems_are_reported_and_cost_nobody_else(world: World) -> None:
    bad_rule = SecurityGroupRule(id="odd", protocol="udplite", port_range_min=1, port_range_max=2)
    world.inventory.all_groups["sg-0"] = msgspec.structs.replace(
        world.inventory.all_groups["sg-0"], rules=(bad_rule,)
    )
    bad_port = make_port(3, device_id="../x")
    world.inventory.all_ports[bad_port.id] = bad_port
    report = run(world).report
    assert report.problem_count == len(report.problems) == 2
    assert report.kinds["ports"].created == 6
    assert world.differences() == []
    assert json.loads(msgspec.json.encode(report))["problem_count"] == 2


def test_progress_is_told_batch_by_batch(gateway: Gateway, settings: Settings) -> None:
    world = World(gateway, settings)
    for number in range(450):
        world.inventory.all_ports[uuid_of(number)] = make_port(number)
    told: list[tuple[str, int]] = []

    def on_progress(kind: str, counts: Counts) -> None:
        told.append((kind, counts.created))

    Resync(world.store, world.inventory, settings, on_progress).run()
    created = [count for kind, count in told if kind == "ports"]
    assert created[:5] == [100, 200, 300, 400, 450]
    assert world.differences() == []


class Streamed(PaperInventory):
    """Ports that are made as they are read."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def ports(self, selection: Selection | None = None) -> Iterator[Port]:
        if selection is not None:
            yield from (make_port(int(port_id[:8], 16)) for port_id in selection.ids)
            return
        yield from (make_port(number) for number in range(self.count))


def test_memory_grows_by_fingerprints_only(gateway: Gateway, settings: Settings) -> None:
    """A resync with nothing to do holds neither ports nor values; a run warms the caches."""
    world = World(gateway, settings)
    world.inventory = Streamed(3000)
    run(world)
    run(world)
    tracemalloc.start()
    try:
        assert run(world).report.changes == 0
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # One page of a thousand values is about 3 MB as it is decoded.
    assert peak_bytes < 8_000_000, peak_bytes


def test_compaction_in_the_middle_of_a_listing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The listing begins anew; nothing is taken for missing."""
    run(world)
    real = world.gateway.pages
    compactions = [True]

    def pages(prefix: str, *, keys_only: bool = False) -> Iterator[object]:
        for page in real(prefix, keys_only=keys_only):
            yield page
            if compactions and page.entries:
                raise Compacted(compactions.pop())

    monkeypatch.setattr(world.gateway, "pages", pages)
    assert run(world).report.changes == 0
    assert compactions == []
