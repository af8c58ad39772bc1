"""One writer's rule, and what it is for: nothing that others do meanwhile is ever undone."""

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.openstack.paper import default_group, make_group, make_port, uuid_of
from tests.openstack.world import World, places

from tortie.datastore.client import Compare, Delete, Put, Txn
from tortie.lib.errors import Conflict, Unavailable
from tortie.openstack.gateway import Gateway
from tortie.openstack.inventory import SecurityGroupRule, Subnet
from tortie.openstack.kinds import Ports
from tortie.openstack.resync import Resync
from tortie.openstack.settings import Settings
from tortie.openstack.store import (
    Change,
    NotMaster,
    Store,
)


@pytest.fixture
def world(gateway: Gateway, settings: Settings) -> World:
    return World(gateway, settings)


def test_a_port_comes_changes_moves_and_goes(world: World) -> None:
    world.set(make_port(1, "h1"))
    assert world.differences() == []
    assert world.writer.port(uuid_of(1), [("h1", "x")]).created == 0
    world.set(make_port(1, "h1", mac_address="fa:16:3e:aa:aa:aa"))
    assert world.differences() == []
    world.set(make_port(1, "h1", migrating_to="h2"))
    assert world.differences() == []
    world.set(make_port(1, "h2"))
    assert world.differences() == []
    world.delete(uuid_of(1))
    assert world.differences() == []
    assert next(iter(world.gateway.pages(world.kinds[2].prefixes[0]))).entries == []


def test_nothing_is_written_when_nothing_is_different(world: World) -> None:
    world.set(make_port(1))
    before = world.gateway.revision()
    settled = world.writer.port(uuid_of(1), places(make_port(1)))
    assert (settled.created, settled.updated, settled.deleted) == (0, 0, 0)
    assert world.gateway.revision() == before


def test_groups_and_subnets(world: World) -> None:
    world.inventory.all_groups["sg-1"] = default_group("sg-1")
    world.inventory.all_subnets["s-1"] = Subnet(id="s-1", network_id="n", cidr="10.65.0.0/24")
    assert world.writer.security_group("sg-1").created == 1
    assert world.writer.subnet("s-1").created == 1
    assert world.differences() == []
    rule = SecurityGroupRule(id="odd", protocol="dccp", port_range_min=1, port_range_max=2)
    world.inventory.all_groups["sg-1"] = make_group("sg-1", rule)
    settled = world.writer.security_group("sg-1")
    assert settled.updated == 1
    assert "odd" in settled.problems[0]
    del world.inventory.all_groups["sg-1"], world.inventory.all_subnets["s-1"]
    assert world.writer.security_group("sg-1").deleted == 1
    assert world.writer.subnet("s-1").deleted == 1
    assert world.differences() == []


def test_policies_that_are_missing_are_written_and_others_not_touched(world: World) -> None:
    for group_id in ("sg-1", "sg-2"):
        world.inventory.all_groups[group_id] = default_group(group_id)
    world.writer.security_group("sg-1")
    assert world.writer.missing_groups(["sg-1", "sg-2"]).created == 1
    before = world.gateway.revision()
    assert world.writer.missing_groups(["sg-1", "sg-2"]).created == 0
    assert world.writer.missing_groups([]).created == 0
    assert world.gateway.revision() == before


def once(action: Callable[[], None]) -> Callable[[], None]:
    """Only the first call does it."""
    actions = [action]

    def call() -> None:
        if actions:
            actions.pop()()

    return call


def other(world: World) -> World:
    """Another server's writer over the same database."""
    made = World(world.gateway, world.settings)
    made.inventory.all_ports = world.inventory.all_ports
    made.inventory.all_groups = world.inventory.all_groups
    return made


def test_l20_a_port_deleted_while_it_is_created_stays_deleted(world: World) -> None:
    """Who deletes finds nothing yet, and must not be outlived by the creation."""
    rival = other(world)
    world.inventory.after_read = once(lambda: rival.delete(uuid_of(1)))
    world.set(make_port(1))
    assert world.differences() == []


def test_what_is_changed_and_changed_back_stays_back(world: World) -> None:
    """Who changes it back finds it right already, and the change in between comes later."""
    rival = other(world)
    world.set(make_port(1))
    world.inventory.after_read = once(lambda: rival.set(make_port(1)))
    world.set(make_port(1, mac_address="fa:16:3e:aa:aa:aa"))
    assert world.differences() == []


def test_a_slow_writer_does_not_undo_a_fast_one(world: World) -> None:
    rival = other(world)
    world.set(make_port(1))
    newest = make_port(1, mac_address="fa:16:3e:bb:bb:bb")
    world.inventory.after_read = once(lambda: rival.set(newest))
    world.set(make_port(1, mac_address="fa:16:3e:aa:aa:aa"))
    assert world.differences() == []
    assert world.inventory.all_ports[uuid_of(1)] == newest


@pytest.mark.parametrize("newest", ["changed", "moved", "deleted"])
def test_l20_a_resync_does_not_undo_a_port_update(world: World, newest: str) -> None:
    """The update is done, from commit to datastore, when the resync has read both."""
    rival = other(world)
    for number in (1, 2, 3):
        world.set(make_port(number))
    stale = make_port(1, mac_address="fa:16:3e:aa:aa:aa")
    world.inventory.all_ports[stale.id] = stale  # so that the resync has something to write

    def update() -> None:
        if newest == "deleted":
            rival.delete(stale.id)
        elif newest == "moved":
            before = rival.inventory.all_ports[stale.id]
            rival.set(make_port(1, "h9"))
            rival.writer.port(stale.id, places(before))
        else:
            rival.set(make_port(1, mac_address="fa:16:3e:bb:bb:bb"))

    world.inventory.after_read = once(update)
    Resync(world.store, world.inventory, world.settings).run()
    assert world.differences() == []


def test_l20_a_resync_that_creates_what_is_being_deleted_takes_it_back(world: World) -> None:
    rival = other(world)
    world.inventory.all_ports[uuid_of(1)] = make_port(1)
    world.inventory.after_read = once(lambda: rival.delete(uuid_of(1)))
    Resync(world.store, world.inventory, world.settings).run()
    assert world.differences() == []


def test_without_confirmation_the_caller_is_told(world: World) -> None:
    world.inventory.all_ports[uuid_of(1)] = make_port(1)
    where = places(make_port(1))
    assert world.writer.port(uuid_of(1), where, confirm=False).unconfirmed
    reads = world.inventory.reads
    assert not world.writer.port(uuid_of(1), where, confirm=False).unconfirmed
    assert world.inventory.reads == reads + 1


@pytest.mark.timeout(120)
def test_l20_many_servers_and_resyncs_at_once_end_right(world: World, settings: Settings) -> None:
    """Updates, moves, deletions and creations by six servers, while two resynchronise.

    Nothing repairs anything afterwards: each must have left it right.
    """
    seed = time.time_ns()
    print("seed", seed)
    stop = threading.Event()
    locks = [threading.Lock() for _ in range(12)]

    def jitter() -> None:
        time.sleep(random.random() * 0.004)

    def serve(number: int) -> None:
        dice = random.Random(seed + number)
        mine = other(world)
        mine.inventory.after_read = jitter
        for _ in range(60):
            which = dice.randrange(len(locks))
            host = dice.choice(("h1", "h2", "h3"))
            mac = f"fa:16:3e:00:00:{dice.randrange(3):02x}"
            migrating = dice.choice(("", "", "h4"))
            new = make_port(which, host, mac_address=mac, migrating_to=migrating)
            # The database commits one after the other; the callbacks run as they like.
            with locks[which]:
                before = mine.inventory.all_ports.get(new.id)
                gone = dice.random() < 0.3
                if gone:
                    mine.inventory.all_ports.pop(new.id, None)
                else:
                    mine.inventory.all_ports[new.id] = new
            mine.writer.port(new.id, places(before, None if gone else new))

    def resync() -> int:
        mine = other(world)
        mine.inventory.after_read = jitter
        raced = 0
        while not stop.is_set():
            report = Resync(mine.store, mine.inventory, settings).run()
            raced += report.kinds["ports"].raced
            time.sleep(0.02)
        return raced

    with ThreadPoolExecutor(8) as pool:
        resyncs = [pool.submit(resync) for _ in range(2)]
        servers = [pool.submit(serve, number) for number in range(6)]
        try:
            for server in servers:
                server.result()
        finally:
            stop.set()
        print("raced", [each.result() for each in resyncs])
    assert world.differences() == []


def test_the_guard_is_compared_in_each_write(world: World, settings: Settings) -> None:
    """Who is no longer the master writes nothing, and learns it; others' changes do not matter."""
    key = f"/test/{settings.region}/master"
    lease = world.gateway.grant(600)
    world.gateway.transact(Txn(success=[Put(key, b"us", lease)]))
    guarded = Store(world.gateway, lambda: (Compare(key, "lease", "==", lease),))
    world.inventory.all_ports[uuid_of(1)] = make_port(1)
    Resync(guarded, world.inventory, settings).run()
    assert world.differences() == []
    world.gateway.transact(Txn(success=[Delete(key)]))
    world.inventory.all_ports[uuid_of(2)] = make_port(2)
    before = world.gateway.revision()
    with pytest.raises(NotMaster):
        Resync(guarded, world.inventory, settings).run()
    assert world.gateway.revision() == before
    world.gateway.revoke(lease)


def test_of_a_batch_only_what_was_changed_meanwhile_is_left(world: World) -> None:
    paths = [f"/test/{world.settings.region}/{number:03}" for number in range(300)]
    assert world.store.write([Change(path, 0, b"1") for path in paths]) == []
    there = world.store.read(paths)
    stale = [Change(paths[150], 1, b"2"), Change(paths[7], 0, b"2")]
    good = [
        Change(path, entry.mod_revision, b"2")
        for path, entry in there.items()
        if entry is not None and path not in (paths[150], paths[7])
    ]
    mixed = [*good[:100], *stale, *good[100:]]
    assert world.store.write(mixed) == stale
    values = {path: entry and entry.value for path, entry in world.store.read(paths).items()}
    assert [path for path, value in values.items() if value == b"1"] == [paths[7], paths[150]]


def test_large_values_go_in_several_transactions(world: World) -> None:
    """etcd takes 1.5 MiB in one."""
    big = [Change(f"/test/{world.settings.region}/{n}", 0, bytes(400_000)) for n in range(8)]
    assert world.store.write(big) == []


def test_a_write_that_may_have_happened_is_looked_at_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is lost twice, once after and once before the write."""
    real = world.gateway.transact
    losses = [True, False]

    def transact(txn: Txn) -> Any:
        if txn.compares and txn.success and losses:
            if losses.pop():
                real(txn)
            raise Unavailable("lost", maybe_applied=True)
        return real(txn)

    monkeypatch.setattr(world.gateway, "transact", transact)
    world.set(make_port(1))
    assert losses == []
    assert world.differences() == []


def test_a_database_that_fails_half_way_deletes_nothing(world: World) -> None:
    for number in (1, 2, 3):
        world.set(make_port(number))

    def fail() -> None:
        raise RuntimeError("database is gone")

    world.inventory.after_read = fail
    before = world.gateway.revision()
    with pytest.raises(RuntimeError, match="database is gone"):
        Resync(world.store, world.inventory, world.settings).run()
    with pytest.raises(RuntimeError, match="database is gone"):
        world.writer.port(uuid_of(1), places(make_port(1)))
    assert world.gateway.revision() == before


def test_a_fight_without_end_is_given_up(world: World) -> None:
    path = Ports(world.inventory, world.settings).paths_of(uuid_of(1), places(make_port(1)))[0]
    world.inventory.all_ports[uuid_of(1)] = make_port(1)

    def spoil() -> None:
        world.gateway.transact(Txn(success=[Put(path, b"{}")]))

    world.inventory.after_read = spoil
    with pytest.raises(Conflict, match="all the time"):
        world.writer.port(uuid_of(1), places(make_port(1)))


def test_forty_edits_of_one_group_at_once(world: World) -> None:
    """Nobody gives up, though all write the same key; the last state is what is stored."""
    world.inventory.all_groups["sg-1"] = make_group("sg-1")
    lock = threading.Lock()

    def add(number: int) -> None:
        rule = SecurityGroupRule(
            id=f"r{number:02}", protocol="tcp", port_range_min=number + 1, port_range_max=number + 1
        )
        with lock:
            group = world.inventory.all_groups["sg-1"]
            world.inventory.all_groups["sg-1"] = make_group("sg-1", *group.rules, rule)
        world.writer.security_group("sg-1")

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(add, range(40)))
    assert world.differences() == []
    assert len(world.inventory.all_groups["sg-1"].rules) == 40
