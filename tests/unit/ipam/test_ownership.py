"""Blocks that change hands, reservations, batches, and leaks with two proofs."""

import asyncio
from typing import Any

import pytest
from tests.unit.ipam.invariants import allocated
from tests.unit.ipam.test_allocator import NOW, Bench

from tortie.datastore.memory import MemoryClient
from tortie.ipam import audit as auditing
from tortie.ipam.allocator import Allocator
from tortie.ipam.audit import FOREIGN, Kind, audit
from tortie.ipam.choice import PoolExhausted
from tortie.ipam.inventory import read_inventory
from tortie.ipam.ownership import Collector, release_empty_blocks
from tortie.ipam.stored import Stored
from tortie.lib.errors import TortieError
from tortie.lib.ip import parse_network
from tortie.model.endpoint import WorkloadEndpoint, WorkloadEndpointSpec
from tortie.model.ipam import BlockAffinity, Handle
from tortie.model.keys import AffinityKey, BlockKey, HandleKey, ResourceKey
from tortie.model.metadata import Metadata
from tortie.model.node import Node
from tortie.model.policy import Profile, ProfileSpec
from tortie.model.reservation import IPReservation, IPReservationSpec

MINUTES_NS = 60 * 1_000_000_000


def node(bench: Bench, *names: str) -> None:
    for name in names:
        bench.put(ResourceKey("Node", name), Node(metadata=Metadata(name=name)))


def endpoint(bench: Bench, address: str, host: str = "h1", name: str = "w") -> None:
    spec = WorkloadEndpointSpec(
        orchestrator="x", workload=name, node=host, endpoint="eth0", ip_networks=(f"{address}/32",),
        interface_name="cali1",
    )  # fmt: skip
    full = f"{host}-x-{name}-eth0"
    value = WorkloadEndpoint(metadata=Metadata(name=full, namespace="prod"), spec=spec)
    bench.put(ResourceKey("WorkloadEndpoint", full, "prod"), value)


def together(bench: Bench, handles: list[str], host: str = "h1") -> list[Any]:
    """All at once on one allocator."""

    async def go() -> list[Any]:
        allocator = bench.host(host)
        calls = [allocator.assign({4}, handle, {}) for handle in handles]
        return list(await asyncio.gather(*calls, return_exceptions=True))

    return asyncio.run(go())


def test_those_who_wait_are_served_in_one_transaction() -> None:
    bench = Bench(v4="10.0.0.0/26")
    before = bench.store.revision
    found = together(bench, [f"h{number}" for number in range(30)])
    assert len({address for each in found for address in each}) == 30
    assert bench.store.revision - before <= 3
    bench.dump()


def test_those_who_come_while_others_are_told_are_served_together() -> None:
    bench = Bench(v4="10.0.0.0/24")
    before = bench.store.revision

    async def go() -> None:
        allocator, at_once = bench.host(), asyncio.Semaphore(8)

        async def one(number: int) -> None:
            async with at_once:
                await allocator.assign({4}, f"h{number}", {})

        await asyncio.gather(*map(one, range(64)))

    asyncio.run(go())
    assert bench.store.revision - before <= 20
    bench.dump()


def test_a_batch_fills_the_pool_and_tells_the_rest() -> None:
    bench = Bench(v4="10.0.0.0/28")
    found = together(bench, [f"h{number}" for number in range(20)])
    failed = [each for each in found if isinstance(each, TortieError)]
    assert len(failed) == 4
    assert all(isinstance(each, PoolExhausted) for each in failed)
    assert len(allocated(bench.dump())) == 16


def test_one_that_fails_does_not_stop_the_others() -> None:
    bench = Bench()

    async def go() -> list[Any]:
        allocator = bench.host()
        calls = [
            allocator.assign({4}, "a", {}),
            allocator.assign({4}, "b", {}, pools=["nope"]),
            allocator.assign({4}, "a", {}),
            allocator.assign({4, 6}, "c", {}),
        ]
        return list(await asyncio.gather(*calls, return_exceptions=True))

    first, second, third, fourth = asyncio.run(go())
    assert first == third
    assert isinstance(second, TortieError)
    assert len(fourth) == 2
    bench.dump()


def test_a_caller_that_leaves_does_not_stop_the_others() -> None:
    bench = Bench()

    async def go() -> list[Any]:
        allocator = bench.host()
        leaving = asyncio.create_task(allocator.assign({4}, "a", {}))
        staying = asyncio.create_task(allocator.assign({4}, "b", {}))
        await asyncio.sleep(0)
        leaving.cancel()
        found = await staying
        await allocator.release("a")
        return found

    assert len(asyncio.run(go())) == 1
    assert set(allocated(bench.dump()).values()) == {"b"}


def test_reserved_addresses_are_only_for_who_names_them() -> None:
    bench = Bench(v4="10.0.0.0/29")
    spec = IPReservationSpec(reserved_cidrs=("10.0.0.0/30", "10.0.0.4"))
    reservation = IPReservation(metadata=Metadata(name="r"), spec=spec)
    bench.put(ResourceKey("IPReservation", "r"), reservation)
    found = together(bench, ["a", "b", "c", "d"])
    held = sorted(each[0].address_text for each in found if not isinstance(each, TortieError))
    assert held == ["10.0.0.5", "10.0.0.6", "10.0.0.7"]
    assert bench.assign("named", requested=[parse_network("10.0.0.1/32")]) == ["10.0.0.1"]
    bench.dump()


def test_a_pool_for_some_namespaces() -> None:
    bench = Bench(z="10.0.0.0/28")
    bench.pool("red", "10.1.0.0/28", block_size=30, namespace_selector="team == 'red'")
    bench.pool("a-first", "10.2.0.0/28", block_size=30, namespace_selector="team == 'blue'")
    profile = Profile(
        metadata=Metadata(name="kns.shop"),
        spec=ProfileSpec(labels_to_apply={"pcns.team": "red", "other": "x"}),
    )
    bench.put(ResourceKey("Profile", "kns.shop"), profile)
    got = bench.run(bench.host().assign({4}, "a", {"namespace": "shop"}))
    assert got[0].address_text.startswith("10.1.")
    other = bench.run(bench.host().assign({4}, "c", {"namespace": "else"}))
    assert other[0].address_text.startswith("10.0.")
    # Who names a pool gets it, as with Calico.
    asked = bench.run(bench.host().assign({4}, "b", {"namespace": "else"}, pools=["red"]))
    assert asked[0].address_text.startswith("10.1.")


def test_an_empty_block_of_another_host_is_taken_over_after_a_while() -> None:
    bench = Bench(v4="10.0.0.0/30")
    bench.config(strict_affinity=True)
    bench.assign("a", "h1")
    bench.run(bench.host("h1").release("a"))
    with pytest.raises(PoolExhausted):
        bench.assign("b", "h2")
    bench.now_ns = NOW + 2 * MINUTES_NS
    bench.assign("b", "h2")
    dump = bench.dump()
    cidr = parse_network("10.0.0.0/30")
    assert AffinityKey("h1", cidr).path not in dump
    assert bench.value(BlockKey(cidr))["affinity"] == "host:h2"
    with pytest.raises(PoolExhausted):
        bench.assign("c", "h1")


def test_empty_blocks_are_given_back_but_one() -> None:
    bench = Bench(v4="10.0.0.0/28")
    together(bench, [f"h{number}" for number in range(9)])
    for number in range(9):
        bench.run(bench.host().release(f"h{number}"))

    def give_back() -> int:
        call = release_empty_blocks(MemoryClient(bench.store), "h1", now_ns=lambda: bench.now_ns)
        return len(bench.run(call))

    assert give_back() == 0, "too young"
    bench.now_ns = NOW + 10 * MINUTES_NS
    assert give_back() == 2
    assert give_back() == 0
    assert len([key for key in bench.dump() if "/assignment/" in key]) == 1


def report(bench: Bench) -> auditing.Report:
    state = bench.run(read_inventory(MemoryClient(bench.store)))
    return audit(state)


def test_a_sound_state_has_no_problems() -> None:
    bench = Bench()
    node(bench, "h1")
    [address] = bench.assign("a")
    endpoint(bench, address)
    found = report(bench)
    assert (found.problems, found.leaks, found.allocations, found.blocks) == ((), (), 1, 1)


def test_each_kind_of_problem_is_found() -> None:
    bench = Bench(v4="10.0.0.0/28")
    node(bench, "h1", "h2")
    [address] = bench.assign("a")
    endpoint(bench, address)
    endpoint(bench, address, "h2", "twin")
    endpoint(bench, "10.0.0.15", "h1", "free")
    bench.put(HandleKey("orphan"), Handle(block={"10.0.0.0/30": 2}))
    cidr = parse_network("10.0.0.12/30")
    bench.put(AffinityKey("h2", cidr), BlockAffinity(state="confirmed"))
    bench.put(AffinityKey("h9", cidr), BlockAffinity(state="pending"))
    kinds = {problem.kind for problem in report(bench).problems}
    assert kinds == {
        Kind.DUPLICATE, Kind.NOT_ALLOCATED, Kind.WRONG_HOLDER, Kind.HANDLE, Kind.AFFINITY,
        Kind.UNCONFIRMED,
    }  # fmt: skip


def test_an_address_is_a_leak_only_with_both_proofs() -> None:
    bench = Bench(v4="10.0.0.0/28")
    node(bench, "h1")
    [used] = bench.assign("used", "gone")
    endpoint(bench, used, "gone")
    bench.assign("here", "h1")
    bench.assign("leaked", "gone")
    assert [leak.handle_id for leak in report(bench).leaks] == ["leaked"]
    node(bench, "gone")
    assert report(bench).leaks == ()


def test_an_endpoint_that_cannot_be_read_may_have_any_address() -> None:
    bench = Bench(v4="10.0.0.0/28")
    bench.assign("leaked", "gone")
    key = ResourceKey("WorkloadEndpoint", "h1-x-w-eth0", "prod")
    bench.run(MemoryClient(bench.store).put(key.path, b"damaged"))
    assert report(bench).leaks == ()


def test_a_handle_leaks_whole_or_not_at_all() -> None:
    bench = Bench()
    four, _ = bench.assign("both", "gone", families={4, 6})
    endpoint(bench, four, "gone")
    assert report(bench).leaks == ()


def test_tunnel_addresses_live_as_long_as_their_node() -> None:
    bench = Bench(v4="10.0.0.0/28")
    node(bench, "h1")
    bench.assign("vxlan-tunnel-addr-h1", "h1", use="Tunnel")
    bench.assign("vxlan-tunnel-addr-gone", "gone", use="Tunnel")
    assert [leak.handle_id for leak in report(bench).leaks] == ["vxlan-tunnel-addr-gone"]


def test_the_collector_releases_at_second_sight() -> None:
    bench = Bench(v4="10.0.0.0/28")
    node(bench, "h1")
    [live] = bench.assign("live")
    endpoint(bench, live)
    bench.assign("attached")
    bench.assign("leaked")
    bench.run(bench.host().assign({4}, "foreign", {"attachment": FOREIGN}))
    allocator = bench.host()
    collector = Collector(MemoryClient(bench.store), allocator)

    def look() -> list[str]:
        found = bench.run(collector.collect_attached("h1", lambda: frozenset({"attached"})))
        return [leak.handle_id for leak in found]

    assert look() == []
    assert look() == ["leaked"]
    assert look() == []
    assert set(allocated(bench.dump()).values()) == {"live", "attached", "foreign"}


def test_l8_what_comes_back_between_two_looks_is_kept() -> None:
    bench = Bench(v4="10.0.0.0/30")
    bench.assign("a")
    collector = Collector(MemoryClient(bench.store), bench.host())
    nobody = frozenset[str]()
    assert bench.run(collector.collect_attached("h1", lambda: nobody)) == []
    bench.run(bench.host().release("a"))
    for handle in ("x", "y", "z", "a"):  # the same address, the same handle, a new assignment
        bench.assign(handle)
    held = allocated(bench.dump())
    known = frozenset({"x", "y", "z"})
    assert bench.run(collector.collect_attached("h1", lambda: known)) == []
    assert allocated(bench.dump()) == held


def test_l17_a_host_that_was_declared_dead_decides_anew() -> None:
    """Borrowing has no affinity to compare; the Node is, also for a view that was kept."""
    bench = Bench(v4="10.0.0.0/30")
    node(bench, "h1", "h2")
    bench.assign("owner", "h2")
    key = ResourceKey("Node", "h1").path
    client = MemoryClient(bench.store)
    allocator = Allocator(client, "h1", now_ns=lambda: NOW, unchanged=lambda: 0)
    bench.run(allocator.assign({4}, "first", {}))
    absent = Stored(HandleKey("second"), None, None)
    bench.run(MemoryClient(bench.store).delete(key))
    before = bench.store.revision
    reads: list[str] = []
    listing = MemoryClient.list

    async def counted(self: MemoryClient, prefix: str, **more: Any) -> Any:
        reads.append(prefix)
        return await listing(self, prefix, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemoryClient, "list", counted)
        bench.run(allocator.assign({4}, "second", {}, handle=absent))
    assert any("ippools" in prefix for prefix in reads), "it went by what it knew before"
    assert bench.store.revision == before + 1


def test_an_old_view_never_refuses_and_is_never_trusted() -> None:
    bench = Bench(v4="10.0.0.0/30")
    node(bench, "h1")
    client = MemoryClient(bench.store)
    allocator = Allocator(client, "h1", now_ns=lambda: NOW, unchanged=lambda: 0)
    for handle in "abcd":
        bench.run(allocator.assign({4}, handle, {}))
    with pytest.raises(PoolExhausted):
        bench.run(allocator.assign({4}, "e", {}))
    bench.run(bench.host().release("a"))  # by another process
    assert bench.run(allocator.assign({4}, "e", {}))
    bench.run(allocator.release("b"))
    bench.pool("v4", "10.0.0.0/30", block_size=30, disabled=True)
    with pytest.raises(TortieError, match="serves host h1"):
        bench.run(allocator.assign({4}, "f", {}))


def test_a_kept_view_saves_every_read() -> None:
    bench = Bench(v4="10.0.0.0/26")
    node(bench, "h1")
    calls: list[str] = []

    async def count(moment: str, call: str) -> None:
        if moment == "before":
            calls.append(call)

    allocator = Allocator(
        MemoryClient(bench.store, count), "h1", now_ns=lambda: NOW, unchanged=lambda: 0
    )
    for number in range(4):  # a block has four addresses
        name = f"w{number}"
        calls.clear()
        absent = Stored(HandleKey(name), None, None)
        bench.run(allocator.assign({4}, name, {}, handle=absent))
    assert calls == ["transact"]
    calls.clear()
    bench.run(allocator.release("w1"))
    assert calls == ["transact", "transact"]  # its handle, and the write
    calls.clear()
    bench.run(allocator.assign({4}, "w1", {}, handle=Stored(HandleKey("w1"), None, None)))
    assert calls == ["transact"]


def test_a_handle_that_moves_and_grows_is_of_one_host() -> None:
    """Else neither of two agents could prove that it has leaked."""
    bench = Bench()
    node(bench, "h1", "h2")
    [four] = bench.assign("a", "h1")
    both = bench.assign("a", "h2", families={4, 6})
    assert four in both
    state = bench.run(read_inventory(MemoryClient(bench.store)))
    assert {one.node for one in auditing.allocations(state)} == {"h2"}
    leaks = auditing.leaked(state, auditing.not_attached("h2", ()))
    assert [leak.handle_id for leak in leaks] == ["a"]
