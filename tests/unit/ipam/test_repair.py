"""What `ipam check --fix` repairs, and what it leaves to people."""

from tests.unit.ipam.invariants import allocated, check
from tests.unit.ipam.test_allocator import Bench
from tests.unit.ipam.test_ownership import endpoint, node

from tortie.datastore.memory import MemoryClient
from tortie.ipam.audit import audit
from tortie.ipam.inventory import read_inventory
from tortie.ipam.repair import HandleRepair, LeakRepair, Repair, make, plan, still_wanted
from tortie.lib.ip import parse_network
from tortie.model.ipam import BlockAffinity, Handle
from tortie.model.keys import AffinityKey, BlockKey, HandleKey


def entries(bench: Bench) -> dict[str, bytes]:
    """Sound or not."""
    return {entry.key: entry.value for entry in bench.store.entries("/calico/")}


def planned(bench: Bench) -> list[Repair]:
    return plan(bench.run(read_inventory(MemoryClient(bench.store))))


def repair(bench: Bench) -> list[bool]:
    client = MemoryClient(bench.store)
    return [bench.run(make(client, bench.host("any"), one)) for one in planned(bench)]


def problems(bench: Bench) -> int:
    found = audit(bench.run(read_inventory(MemoryClient(bench.store))))
    return len(found.problems) + len(found.leaks)


def broken() -> Bench:
    """One of each kind, and two workloads that are as they should be."""
    bench = Bench(v4="10.0.0.0/28")
    node(bench, "h1", "h2")
    for name in ("good", "short", "lost"):
        [address] = bench.assign(name)
        endpoint(bench, address, name=name)
    bench.assign("leaked", "gone")
    blocks = [parse_network(f"10.0.0.{n}/30") for n in range(0, 16, 4)]
    free = next(cidr for cidr in blocks if BlockKey(cidr).path not in entries(bench))
    bench.put(HandleKey("orphan"), Handle(block={str(free): 2}))
    bench.put(HandleKey("short"), Handle(block={str(free): 7}))
    bench.run(MemoryClient(bench.store).delete(HandleKey("lost").path))
    bench.put(AffinityKey("h2", free), BlockAffinity(state="confirmed"))
    bench.put(AffinityKey("gone", free), BlockAffinity(state="pending"))
    bench.put(AffinityKey("h1", free), BlockAffinity(state="pending"))
    return bench


def test_what_can_be_proved_is_repaired() -> None:
    bench = broken()
    assert check(entries(bench)) != []
    held = allocated(entries(bench))
    said = [str(one) for one in planned(bench)]
    assert any(text.startswith("delete handle orphan") for text in said)
    assert any(text.startswith("correct handle short: it holds 1 of") for text in said)
    assert any(text.startswith("make handle lost: it holds 1 of") for text in said)
    assert any(text.startswith("release ") and "handle leaked" in text for text in said)
    assert any(text.startswith("delete the affinity of h2") for text in said)
    assert any(text.startswith("delete the affinity of gone") for text in said)
    assert all(repair(bench))
    assert check(entries(bench)) == []
    assert allocated(entries(bench)) == {a: h for a, h in held.items() if h != "leaked"}
    assert planned(bench) == []


def test_a_sound_state_needs_nothing() -> None:
    bench = Bench()
    node(bench, "h1")
    [address] = bench.assign("a")
    endpoint(bench, address)
    assert planned(bench) == []


def test_an_affinity_that_its_host_may_resume_is_left() -> None:
    bench = Bench()
    node(bench, "h1")
    bench.put(AffinityKey("h1", parse_network("10.0.0.12/30")), BlockAffinity(state="pending"))
    assert planned(bench) == []


def test_a_repair_that_comes_too_late_changes_nothing() -> None:
    bench = broken()
    client = MemoryClient(bench.store)
    late = planned(bench)
    repair(bench)
    for name in ("good", "short"):
        bench.run(bench.host().release(name))
    bench.assign("new")
    before = entries(bench)
    done = [bench.run(make(client, bench.host("any"), one)) for one in late]
    assert entries(bench) == before
    changed = [one for one, ok in zip(late, done, strict=True) if ok]
    assert all(isinstance(one, LeakRepair) for one in changed)  # released already: nothing to do


def test_a_leak_is_released_only_at_second_sight() -> None:
    bench = broken()
    first = planned(bench)
    assert [type(one) for one in still_wanted(planned(bench), [])].count(LeakRepair) == 0
    assert still_wanted(planned(bench), first) == planned(bench)
    # The same handle again, in another life: seen once only.
    bench.run(bench.host("gone").release("leaked"))
    bench.assign("leaked", "gone")
    wanted = still_wanted(planned(bench), first)
    assert [type(one) for one in wanted].count(LeakRepair) == 0
    assert [type(one) for one in wanted].count(HandleRepair) == 3


def test_what_a_damaged_block_holds_is_not_known() -> None:
    bench = Bench()
    node(bench, "h1")
    bench.assign("a")
    [path] = [path for path in entries(bench) if "/assignment/" in path]
    bench.run(MemoryClient(bench.store).put(path, b"damaged"))
    assert [one for one in planned(bench) if isinstance(one, HandleRepair)] == []
