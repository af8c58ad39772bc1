"""The allocator: one transaction a call, idempotent, and errors that say what to do."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import pytest
from tests.unit.ipam.invariants import allocated, check, check_limit

from tortie.datastore.client import unchanged
from tortie.datastore.memory import MemoryClient, MemoryStore
from tortie.datastore.resources import Write
from tortie.ipam.allocator import Allocator, Beside
from tortie.ipam.choice import PoolExhausted
from tortie.lib.errors import AlreadyExists, Conflict, InvalidInput, TortieError, Unavailable
from tortie.lib.ip import Network, parse_address, parse_network
from tortie.model.codec import encode
from tortie.model.ipam import BlockAffinity, Handle, IPAMConfig
from tortie.model.keys import AffinityKey, BlockKey, HandleKey, IPAMConfigKey, ResourceKey
from tortie.model.metadata import Metadata
from tortie.model.node import IPPool, IPPoolSpec, Node

NOW = 1_787_412_000_000_000_000


class Bench:
    """A store with pools, and allocators on it."""

    def __init__(self, **pools: str) -> None:
        self.store = MemoryStore(clock=lambda: 0.0)
        self.now_ns = NOW
        for name, cidr in (pools or {"v4": "10.0.0.0/28", "v6": "fd00::/124"}).items():
            self.pool(name, cidr, block_size=126 if ":" in cidr else 30)

    def run(self, call: Awaitable[Any]) -> Any:
        async def go() -> Any:
            return await call

        return asyncio.run(go())

    def put(self, key: Any, value: Any) -> None:
        self.run(MemoryClient(self.store).put(key.path, encode(key, value)))

    def pool(self, name: str, cidr: str, **spec: Any) -> None:
        value = IPPool(metadata=Metadata(name=name), spec=IPPoolSpec(cidr=cidr, **spec))
        self.put(ResourceKey("IPPool", name), value)

    def config(self, **settings: Any) -> None:
        self.put(IPAMConfigKey(), IPAMConfig(**settings))

    def host(self, name: str = "h1", fault: Any = None) -> Allocator:
        return Allocator(MemoryClient(self.store, fault), name, now_ns=lambda: self.now_ns)

    def assign(self, handle: str, host: str = "h1", **choice: Any) -> list[str]:
        families = choice.pop("families", {4})
        found = self.run(self.host(host).assign(families, handle, {"pod": handle}, **choice))
        return [address.address_text for address in found]

    def dump(self) -> dict[str, bytes]:
        entries = {entry.key: entry.value for entry in self.store.entries("/calico/")}
        assert check(entries) == []
        return entries

    def value(self, key: Any) -> Any:
        return json.loads(self.dump()[key.path])


def test_the_first_address_claims_a_block_in_one_transaction() -> None:
    bench = Bench()
    before = bench.store.revision
    [address] = bench.assign("web")
    assert bench.store.revision == before + 1
    [path] = [path for path in bench.dump() if "/assignment/" in path]
    block = json.loads(bench.dump()[path])
    cidr = parse_network(block["cidr"])
    assert cidr.contains(parse_address(address))
    assert block["affinity"] == "host:h1"
    assert block["attributes"] == [{"handle_id": "web", "secondary": {"pod": "web", "node": "h1"}}]
    assert bench.value(AffinityKey("h1", cidr)) == {"state": "confirmed", "deleted": False}
    assert bench.value(HandleKey("web")) == {"block": {block["cidr"]: 1}, "deleted": False}


def test_both_families_in_one_transaction() -> None:
    bench = Bench()
    before = bench.store.revision
    four, six = bench.assign("web", families={4, 6})
    assert ":" in six
    assert "." in four
    assert bench.store.revision == before + 1
    bench.dump()


def test_both_families_or_none() -> None:
    bench = Bench(v4="10.0.0.0/28")
    before = bench.store.revision
    with pytest.raises(InvalidInput, match="no IPv6 pool serves host h1: create an IPPool"):
        bench.assign("web", families={4, 6})
    assert bench.store.revision == before


def test_the_same_handle_gets_the_same_addresses_without_a_write() -> None:
    bench = Bench()
    first = bench.assign("web", families={4, 6})
    before = bench.store.revision
    assert bench.assign("web", families={4, 6}) == first
    assert bench.assign("web") == first
    assert bench.store.revision == before


def test_a_second_family_can_come_later() -> None:
    bench = Bench()
    [four] = bench.assign("web")
    assert bench.assign("web", families={4, 6})[0] == four
    bench.dump()


def test_a_released_address_is_used_again_last() -> None:
    bench = Bench(v4="10.0.0.0/30")
    order = [bench.assign(handle)[0] for handle in "abc"]
    bench.run(bench.host().release("a"))
    assert bench.assign("d")[0] not in order
    assert bench.assign("e")[0] == order[0]


def test_release_frees_everything_and_may_be_repeated() -> None:
    bench = Bench()
    found = bench.assign("web", families={4, 6})
    host = bench.host()
    before = bench.store.revision
    freed = bench.run(host.release("web"))
    assert [address.address_text for address in freed] == found
    assert bench.store.revision == before + 1
    assert bench.run(host.release("web")) == []
    assert allocated(bench.dump()) == {}
    assert HandleKey("web").path not in bench.dump()


def test_a_requested_address() -> None:
    bench = Bench()
    asked = parse_address("10.0.0.9")
    assert bench.assign("web", requested=[asked]) == ["10.0.0.9"]
    assert bench.assign("web", requested=[asked]) == ["10.0.0.9"]
    with pytest.raises(AlreadyExists, match="in use by handle 'web'; release it first"):
        bench.assign("db", requested=[asked])
    with pytest.raises(AlreadyExists, match="remove the workload first"):
        bench.assign("web", requested=[parse_address("10.0.0.1")])
    assert bench.assign("db", host="h2", requested=[parse_address("10.0.0.10")]) == ["10.0.0.10"]
    bench.dump()


def test_an_address_outside_all_pools_names_the_pools() -> None:
    bench = Bench()
    with pytest.raises(InvalidInput, match=r"192\.0\.2\.1 is in no IPPool.*10\.0\.0\.0/28"):
        bench.assign("web", requested=[parse_address("192.0.2.1")])
    bench.pool("v4", "10.0.0.0/28", block_size=30, disabled=True)
    with pytest.raises(InvalidInput, match="which is disabled"):
        bench.assign("web", requested=[parse_address("10.0.0.1")])


def test_a_workload_that_moves_keeps_its_addresses() -> None:
    bench = Bench()
    bench.config(strict_affinity=True)
    found = bench.assign("web", families={4, 6})
    assert bench.assign("web", host="h2", families={4, 6}) == found
    assert bench.run(bench.host("h1").release("web", only_host=True)) == []
    assert sorted(allocated(bench.dump())) == sorted(found)
    asked = [parse_address(found[0])]
    assert bench.assign("web", host="h3", requested=asked, families={4, 6}) == found
    assert len(bench.run(bench.host("h3").release("web", only_host=True))) == 2
    assert allocated(bench.dump()) == {}


def test_a_full_pool_is_borrowed_from_unless_affinity_is_strict() -> None:
    bench = Bench(v4="10.0.0.0/29")
    bench.assign("a", host="h1")
    bench.assign("b", host="h2")
    bench.config(strict_affinity=True)
    with pytest.raises(PoolExhausted, match="every block is taken; release addresses or add"):
        bench.assign("c", host="h3")
    bench.config()
    assert bench.assign("c", host="h3") != []
    for number in range(5):
        bench.assign(f"more{number}", host="h3")
    with pytest.raises(PoolExhausted):
        bench.assign("one too many", host="h1")
    assert len(allocated(bench.dump())) == 8


def test_strict_affinity_refuses_a_named_address_of_another_host() -> None:
    bench = Bench()
    bench.config(strict_affinity=True)
    bench.assign("a", host="h1", requested=[parse_address("10.0.0.1")])
    with pytest.raises(InvalidInput, match="host:h1, and strict affinity forbids"):
        bench.assign("b", host="h2", requested=[parse_address("10.0.0.2")])


def test_a_host_claims_no_more_blocks_than_it_may() -> None:
    bench = Bench()
    bench.config(strict_affinity=True, max_blocks_per_host=2)
    for number in range(8):
        bench.assign(f"w{number}")
    with pytest.raises(PoolExhausted, match="may not claim another block"):
        bench.assign("w8")
    assert check_limit(bench.dump(), 2) == []


def test_two_processes_of_a_host_claim_one_block_between_them() -> None:
    bench = Bench()

    async def slow(moment: str, call: str) -> None:
        await asyncio.sleep(0)

    async def race() -> None:
        await asyncio.gather(
            *(bench.host(fault=slow).assign({4}, f"w{number}", {}) for number in range(4))
        )

    asyncio.run(race())
    assert len([path for path in bench.dump() if "/assignment/" in path]) == 1


def test_released_addresses_cool_down_for_as_long_as_configured() -> None:
    bench = Bench(v4="10.0.0.0/30")
    bench.config(ip_cooldown_seconds=30)
    for handle in "abcd":
        bench.assign(handle)
    bench.run(bench.host().release("a"))
    with pytest.raises(PoolExhausted):
        bench.assign("e")
    bench.now_ns += 31 * 10**9
    assert bench.assign("e") != []
    bench.dump()


@pytest.mark.parametrize("state", ["pending", "pendingDeletion", ""])
def test_an_interrupted_claim_of_calico_is_taken_up(state: Any) -> None:
    bench = Bench()
    cidr = parse_network("10.0.0.4/30")
    bench.put(AffinityKey("h1", cidr), BlockAffinity(state=state))
    [address] = bench.assign("web")
    assert cidr.contains(parse_address(address))
    assert bench.value(AffinityKey("h1", cidr))["state"] == "confirmed"


def test_an_unconfirmed_affinity_to_a_block_of_another_host_gives_nothing() -> None:
    bench = Bench()
    bench.assign("a", host="h2", requested=[parse_address("10.0.0.5")])
    bench.put(AffinityKey("h1", parse_network("10.0.0.4/30")), BlockAffinity(state="pending"))
    [address] = bench.assign("web")
    assert not parse_network("10.0.0.4/30").contains(parse_address(address))
    bench.dump()


def test_old_blocks_of_another_size_are_not_overlapped() -> None:
    bench = Bench(v4="10.0.0.0/28")
    for number in range(3):
        bench.assign(f"a{number}", host=f"h{number}")
    bench.pool("v4", "10.0.0.0/28", block_size=29)
    bench.config(strict_affinity=True)
    with pytest.raises(PoolExhausted):
        bench.assign("b", host="h9")
    bench.dump()


def test_pools_follow_the_labels_of_the_node() -> None:
    bench = Bench()
    bench.pool("v4", "10.0.0.0/28", block_size=30, node_selector="rack == '1'")
    with pytest.raises(InvalidInput, match="no IPv4 pool"):
        bench.assign("web")
    node = Node(metadata=Metadata(name="h1", labels={"rack": "1"}))
    bench.put(ResourceKey("Node", "h1"), node)
    assert bench.assign("web")


def test_an_unreadable_pool_is_named_in_the_error() -> None:
    bench = Bench(v6="fd00::/124")
    key = ResourceKey("IPPool", "broken")
    bench.run(MemoryClient(bench.store).put(key.path, b"{"))
    with pytest.raises(InvalidInput, match=r"ignored: .*broken"):
        bench.assign("web")


def test_a_damaged_block_is_left_alone() -> None:
    bench = Bench(v4="10.0.0.0/29")
    bench.assign("a")
    [path] = [path for path in bench.dump() if "/assignment/" in path]
    block = json.loads(bench.dump()[path])
    damaged = json.dumps({**block, "unallocated": [0, 1, 2, 3]}).encode()
    bench.run(MemoryClient(bench.store).put(path, damaged))
    [address] = bench.assign("b")
    assert not parse_network(block["cidr"]).contains(parse_address(address))
    with pytest.raises(InvalidInput, match="both free and allocated"):
        bench.run(bench.host().release("a"))


def test_release_of_one_address() -> None:
    bench = Bench()
    [four] = bench.assign("web")
    address = parse_address(four)
    host = bench.host()
    with pytest.raises(Conflict, match="held by 'web'"):
        bench.run(host.release_address(address, handle_id="db"))
    with pytest.raises(Conflict, match="late"):
        bench.run(host.release_address(address, sequence=1))
    assert bench.run(host.release_address(address)) is True
    assert bench.run(host.release_address(address)) is False
    assert bench.run(host.release_address(parse_address("192.0.2.1"))) is False
    assert allocated(bench.dump()) == {}


@pytest.mark.parametrize("handle", ["", "a\r\n", "a\0", "x" * 513])
def test_handles_that_others_would_mangle_are_refused(handle: str) -> None:
    with pytest.raises(InvalidInput, match="handle"):
        Bench().assign(handle)


def lose(at: int, moment: str, kind: str) -> Callable[[str, str], Awaitable[None]]:
    """Fail the call number `at` before or after it took effect."""
    seen = 0

    async def fault(when: Literal["before", "after"] | str, call: str) -> None:
        nonlocal seen
        if when == "before":
            seen += 1
        if seen == at and when == moment:
            seen += 1000
            raise Unavailable("lost", maybe_applied=call == "transact" and kind == "unknown")

    return fault


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("at", range(1, 10))
def test_a_lost_answer_never_gives_a_second_address(at: int, moment: str) -> None:
    bench = Bench()
    host = bench.host(fault=lose(at, moment, "unknown"))
    first: list[Network] = []
    try:
        first = bench.run(host.assign({4, 6}, "web", {}))
    except TortieError:
        first = bench.run(bench.host().assign({4, 6}, "web", {}))
    assert len(first) == 2
    assert len(allocated(bench.dump())) == 2
    host = bench.host(fault=lose(at, moment, "unknown"))
    try:
        bench.run(host.release("web"))
    except TortieError:
        bench.run(bench.host().release("web"))
    assert allocated(bench.dump()) == {}


def test_a_datastore_that_is_away_is_reported_at_once() -> None:
    bench = Bench()
    with pytest.raises(Unavailable):
        bench.run(bench.host(fault=lose(1, "before", "away")).assign({4}, "web", {}))
    assert allocated(bench.dump()) == {}


def test_a_block_without_owner_goes_with_its_last_address() -> None:
    bench = Bench()
    bench.assign("web", requested=[parse_address("10.0.0.1")])
    key = BlockKey(parse_network("10.0.0.0/30"))
    block = bench.value(key)
    bench.run(
        MemoryClient(bench.store).put(key.path, json.dumps({**block, "affinity": None}).encode())
    )
    bench.run(MemoryClient(bench.store).delete(AffinityKey("h1", key.cidr).path))
    bench.run(bench.host().release("web"))
    assert key.path not in bench.dump()


def test_claims_of_one_host_exclude_each_other_even_for_different_blocks() -> None:
    bench = Bench()
    bench.config(strict_affinity=True, max_blocks_per_host=1)

    async def slow(moment: str, call: str) -> None:
        await asyncio.sleep(0)

    async def race() -> list[Any]:
        asked = [parse_address("10.0.0.1"), parse_address("10.0.0.9")]
        calls = [
            bench.host(fault=slow).assign({4}, f"w{address.value}", {}, requested=[address])
            for address in asked
        ]
        return await asyncio.gather(*calls, return_exceptions=True)

    found = asyncio.run(race())
    assert [type(result) for result in found].count(PoolExhausted) == 1
    assert check_limit(bench.dump(), 1) == []


def test_a_lost_answer_to_the_write_is_cleared_up_within_the_call() -> None:
    bench = Bench()
    lost = 0

    async def lose_writes(moment: str, call: str) -> None:
        nonlocal lost
        written = any("/assignment/" in entry.key for entry in bench.store.entries("/calico/"))
        if moment == "after" and written and not lost:
            lost += 1
            raise Unavailable("lost", maybe_applied=True)

    found = bench.run(bench.host(fault=lose_writes).assign({4, 6}, "web", {}))
    assert lost == 1
    assert sorted(allocated(bench.dump())) == sorted(a.address_text for a in found)


def test_several_named_addresses_of_one_block_count_in_one_handle() -> None:
    bench = Bench()
    asked = [parse_address("10.0.0.5"), parse_address("10.0.0.6")]
    assert bench.assign("web", requested=asked) == ["10.0.0.5", "10.0.0.6"]
    assert bench.value(HandleKey("web"))["block"] == {"10.0.0.4/30": 2}


def test_a_handle_that_names_a_block_which_is_gone_is_released() -> None:
    """Its block went between two reads, or somebody deleted it by hand."""
    bench = Bench()
    [address] = bench.assign("web")
    block = bench.value(HandleKey("web"))["block"]
    bench.put(HandleKey("web"), Handle(block={**block, "10.0.0.240/30": 4}))
    assert [str(freed) for freed in bench.run(bench.host().release("web"))] == [f"{address}/32"]
    assert HandleKey("web").path not in bench.dump()


def test_an_address_in_a_block_that_cannot_be_read_is_not_called_free() -> None:
    bench = Bench()
    [address] = bench.assign("web")
    [path] = [path for path in bench.dump() if "/assignment/" in path]
    bench.run(MemoryClient(bench.store).put(path, b"{"))
    with pytest.raises(InvalidInput, match="run an IPAM check"):
        bench.run(bench.host().release_address(parse_address(address)))


class Waits:
    """A `Beside` that takes its time."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.begun = asyncio.Event()
        self.goes_on = asyncio.Event()
        self.beside = Beside(self._prepare)

    async def _prepare(self, _: list[Network]) -> Write[Any] | None:
        self.begun.set()
        await self.goes_on.wait()
        return Write(None, self.path, b"{}", b"", [unchanged(self.path, 0)])


@pytest.mark.parametrize("order", ["before", "after"])
def test_whoever_gives_up_stays_until_nobody_works_for_him(order: str) -> None:
    """One turn serves three; the one that is given up comes after the slow one, or before."""
    bench = Bench()
    host = bench.host()

    async def go() -> None:
        first, slow, given_up = Waits("/other/1"), Waits("/other/2"), Waits("/other/3")
        given_up.goes_on.set()

        def ask(name: str, beside: Beside | None) -> asyncio.Task[list[Network]]:
            return asyncio.create_task(host.assign({4}, name, {}, beside=beside))

        tasks = {"first": ask("first", first.beside)}
        await first.begun.wait()
        wanted = {"server": None, "slow": slow.beside, "given up": given_up.beside}
        names = (
            ["server", "slow", "given up"] if order == "after" else ["server", "given up", "slow"]
        )
        tasks |= {name: ask(name, wanted[name]) for name in names}
        await asyncio.sleep(0)
        first.goes_on.set()
        await slow.begun.wait()
        tasks["given up"].cancel()
        for _ in range(20):
            await asyncio.sleep(0)
        assert not tasks["given up"].done(), "somebody else may be writing for it"
        slow.goes_on.set()
        assert await tasks["first"] != await tasks["slow"]
        with pytest.raises(asyncio.CancelledError):
            await tasks["given up"]
        assert slow.beside.revision > first.beside.revision > 0
        assert given_up.begun.is_set() == (order == "before")
        # What is there of it now is all that there will ever be.
        assert bool(await host.addresses_of("given up")) == (order == "before")
        await host.release("given up")
        assert "given up" not in allocated(bench.dump()).values()

    asyncio.run(go())


def test_what_is_there_already_is_not_created_beside() -> None:
    """The assignment is not refused for it, and its caller is told."""
    bench = Bench()
    host = bench.host()
    bench.run(MemoryClient(bench.store).put("/other/1", b"somebody's"))

    async def go() -> None:
        waits = Waits("/other/1")
        waits.goes_on.set()
        assert len(await host.assign({4, 6}, "web", {}, beside=waits.beside)) == 2
        assert waits.beside.revision == 0

    asyncio.run(go())
    assert bench.store.entries("/other/")[0].value == b"somebody's"


@pytest.mark.parametrize("error", [InvalidInput("no"), Unavailable("no disk")])
def test_what_cannot_be_prepared_is_refused_alone(error: TortieError) -> None:
    """Nothing of it is written, and others of the same turn get what they asked for."""
    bench = Bench()
    host = bench.host()

    async def refuse(_: list[Network]) -> Write[Any] | None:
        raise error

    async def go() -> None:
        asked = [
            host.assign({4}, f"w{number}", {}, beside=Beside(refuse) if number == 2 else None)
            for number in range(4)
        ]
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert [isinstance(one, type(error)) for one in found] == [False, False, True, False]

    asyncio.run(go())
    assert sorted(allocated(bench.dump()).values()) == ["w0", "w1", "w3"]
