"""IPAM under random calls, races, crashes and lost answers: nothing is ever given twice."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Literal

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec.structs import replace
from tests.unit.ipam.invariants import (
    allocated,
    check,
    check_borrowing,
    check_growth,
    check_limit,
)

from tortie.datastore.memory import MemoryClient, MemoryStore
from tortie.ipam.allocator import Allocator
from tortie.ipam.audit import Leak, allocations, hosts_gone, leaked
from tortie.ipam.giveback import release_pool
from tortie.ipam.inventory import Inventory, inventory
from tortie.ipam.ownership import FULL_TURNS, Collector, release_empty_blocks, release_leak
from tortie.lib.errors import TortieError, Unavailable
from tortie.lib.ip import Network, parse_address, parse_network
from tortie.model.codec import encode
from tortie.model.ipam import BlockAffinity, IPAMConfig
from tortie.model.keys import AffinityKey, IPAMConfigKey, ResourceKey
from tortie.model.metadata import Metadata
from tortie.model.node import IPPool, IPPoolSpec, Node
from tortie.model.reservation import IPReservation, IPReservationSpec

HOSTS = ("alpha", "beta", "gamma")
HANDLES = tuple(f"lab.{name}" for name in "abcdefgh")
CIDRS = {4: "10.9.0.0/28", 6: "fd09::/124"}
LENGTHS = {4: 30, 6: 126}

hosts = st.sampled_from(HOSTS)
handles = st.sampled_from(HANDLES)
families = st.sampled_from([{4}, {6}, {4, 6}])
addresses = st.integers(0, 15).map(lambda n: parse_address(f"10.9.0.{n}"))


class Crash(Exception):
    """The process dies here: nobody catches it."""


Fault = Literal["none", "crash", "lost request", "lost answer"]
faults = st.tuples(
    st.sampled_from(["none", "none", "none", "crash", "lost request", "lost answer"]),
    st.integers(0, 8),
    st.sampled_from(["before", "after"]),
)


class Host:
    """One allocator with its own connection, restarted after each crash."""

    def __init__(
        self,
        store: MemoryStore,
        name: str,
        clock: Callable[[], int],
        unchanged: Callable[[], object],
    ) -> None:
        self._store, self._name, self._clock = store, name, clock
        self._unchanged = unchanged
        self.plan: tuple[str, int, str] = ("none", 0, "before")
        self.jitter: random.Random | None = None
        self.restart()

    def restart(self) -> None:
        self.calls = 0
        self.client = client = MemoryClient(self._store, self._fault)
        # Views are kept, as by an agent; what they rest on is compared.
        self.allocator = Allocator(
            client, self._name, now_ns=self._clock, unchanged=self._unchanged
        )
        self.collector = Collector(client, self.allocator)

    async def _fault(self, moment: Literal["before", "after"], call: str) -> None:
        if self.jitter is not None:
            for _ in range(self.jitter.randrange(4)):
                await asyncio.sleep(0)
        kind, at, when = self.plan
        if moment == "before":
            self.calls += 1
        if kind == "none" or self.calls != at + 1:
            return
        if kind == "crash" and moment == when:
            raise Crash
        if kind == "lost request" and moment == "before":
            raise Unavailable("lost", maybe_applied=call == "transact")
        if kind == "lost answer" and moment == "after":
            raise Unavailable("lost", maybe_applied=call == "transact")


class Ipam(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.store = MemoryStore(clock=lambda: 0.0)
        self.now_ns = 1_787_412_000_000_000_000
        self.reserved = ""
        self.hosts = {
            name: Host(self.store, name, self._clock, lambda: self.reserved) for name in HOSTS
        }
        self.entries: dict[str, bytes] = {}
        self.acknowledged: dict[str, set[str]] = {}
        self.callers: dict[str, set[str]] = {}
        self.config = IPAMConfig()
        self.recorded: dict[str, set[str]] = {name: set() for name in HOSTS}
        """Handles in the journal of each host: begun there, and not ended."""
        self.orphaned: set[str] = set()
        """Handles that held addresses of blocks that were taken from their owner."""

    def _clock(self) -> int:
        """It goes on, as clocks do: a block that is made anew is younger than the last one."""
        self.now_ns += 1000
        return self.now_ns

    @initialize(strict=st.booleans(), cooldown=st.sampled_from([0, 0, 30]), most=st.integers(0, 2))
    def begin(self, strict: bool, cooldown: int, most: int) -> None:
        self.config = IPAMConfig(
            strict_affinity=strict, ip_cooldown_seconds=cooldown, max_blocks_per_host=most
        )
        self._put(IPAMConfigKey(), encode(IPAMConfigKey(), self.config))
        for family, cidr in CIDRS.items():
            self._put_pool(family, cidr, disabled=False)
        for host in HOSTS:
            self._put_node(host)

    def _put_node(self, host: str) -> None:
        key = ResourceKey("Node", host)
        self._put(key, encode(key, Node(metadata=Metadata(name=host))))

    def _put(self, key: Any, value: bytes) -> None:
        asyncio.run(MemoryClient(self.store).put(key.path, value))

    def _put_pool(self, family: int, cidr: str, disabled: bool) -> None:
        key = ResourceKey("IPPool", f"pool{family}")
        spec = IPPoolSpec(cidr=cidr, block_size=LENGTHS[family], disabled=disabled)
        self._put(key, encode(key, IPPool(metadata=Metadata(name=key.name), spec=spec)))

    def _run(self, host: str, plan: tuple[str, int, str], call: Awaitable[Any]) -> Any:
        """The call's result; None if it failed as it may."""

        async def go() -> Any:
            return await call

        self.hosts[host].plan = plan
        self.hosts[host].calls = 0
        try:
            return asyncio.run(go())
        except TortieError:
            return None
        except Crash:
            self.hosts[host].restart()
            return None
        finally:
            self.hosts[host].plan = ("none", 0, "before")

    def _acknowledge(self, handle: str, found: list[Network] | None, wanted: set[int]) -> None:
        if found is None:
            return
        assert wanted <= {address.family for address in found}, "a family is missing"
        texts = {address.address_text for address in found}
        before = self.acknowledged.get(handle, set())
        assert before <= texts, f"{handle} had {before} and now {texts}"
        self.acknowledged[handle] = texts

    @rule(host=hosts, handle=handles, wanted=families, plan=faults)
    def assign(self, host: str, handle: str, wanted: set[int], plan: tuple[str, int, str]) -> None:
        self._called(host, handle)
        before = allocated(self._dump())
        call = self.hosts[host].allocator.assign(wanted, handle, {"namespace": "lab"})
        self._acknowledge(handle, self._run(host, plan, call), wanted)
        if self.reserved:
            kept = parse_network(self.reserved)
            new = allocated(self._dump()).keys() - before.keys()
            assert not [a for a in new if kept.contains(parse_address(a))], "I8: reserved"

    @rule(place=st.sampled_from(["", "10.9.0.0/30", "10.9.0.6/31", "10.9.0.8/29", "fd09::/125"]))
    def reserve(self, place: str) -> None:
        """Others see it at once: as an agent does, whose watch has told."""
        key = ResourceKey("IPReservation", "kept")
        spec = IPReservationSpec(reserved_cidrs=(place,) if place else ())
        self._put(key, encode(key, IPReservation(metadata=Metadata(name=key.name), spec=spec)))
        self.reserved = place

    @rule(host=hosts, handle=handles, address=addresses, plan=faults)
    def assign_named(
        self, host: str, handle: str, address: Network, plan: tuple[str, int, str]
    ) -> None:
        self._called(host, handle)
        call = self.hosts[host].allocator.assign(set(), handle, {}, requested=[address])
        found = self._run(host, plan, call)
        assert found is None or address in found
        self._acknowledge(handle, found, {4})

    @rule(host=hosts, handle=handles, plan=faults)
    def release(self, host: str, handle: str, plan: tuple[str, int, str]) -> None:
        self.acknowledged.pop(handle, None)
        done = self._run(host, plan, self.hosts[host].allocator.release(handle))
        if done is not None:
            assert handle not in allocated(self._dump()).values()

    @rule(host=hosts, address=addresses, plan=faults)
    def release_address(self, host: str, address: Network, plan: tuple[str, int, str]) -> None:
        for held in self.acknowledged.values():
            held.discard(address.address_text)
        self._run(host, plan, self.hosts[host].allocator.release_address(address))

    @rule(
        calls=st.lists(st.tuples(hosts, handles, families, st.booleans()), min_size=2, max_size=6),
        seed=st.integers(0, 1 << 32),
    )
    def race(self, calls: list[tuple[str, str, set[int], bool]], seed: int) -> None:
        """Several hosts at once, in an order that the seed decides."""
        chance = random.Random(seed)

        async def one(host: str, handle: str, wanted: set[int], free: bool) -> None:
            allocator = self.hosts[host].allocator
            try:
                if free:
                    await allocator.release(handle)
                else:
                    await allocator.assign(wanted, handle, {})
            except TortieError:
                pass

        async def go() -> None:
            jobs: list[Coroutine[Any, Any, None]] = [one(*call) for call in calls]
            await asyncio.gather(*jobs)

        self._shake(chance)
        asyncio.run(go())
        self._shake(None)
        for host, handle, _, free in calls:
            if free:
                self.acknowledged.pop(handle, None)
            else:
                self._called(host, handle)

    def _shake(self, chance: random.Random | None) -> None:
        for machine in self.hosts.values():
            machine.jitter = chance
            machine.restart()

    def _called(self, host: str, handle: str) -> None:
        self.callers.setdefault(handle, set()).add(host)
        self.recorded[host].add(handle)

    @rule(host=hosts, handle=handles)
    def lose_record(self, host: str, handle: str) -> None:
        """A crash before anybody was told: what it assigned, if anything, is a leak."""
        if handle not in self.acknowledged:
            self.recorded[host].discard(handle)

    @rule(host=hosts, plan=faults)
    def collect(self, host: str, plan: tuple[str, int, str]) -> None:
        """Only what no journal of that host has goes; `sound` sees that the rest stays."""
        machine = self.hosts[host]
        call = machine.collector.collect_attached(host, lambda: frozenset(self.recorded[host]))
        for leak in self._run(host, plan, call) or ():
            assert leak.handle_id not in self.recorded[host]
            self.acknowledged.pop(leak.handle_id, None)

    @rule(dead=hosts, judge=hosts)
    def declare_dead(self, dead: str, judge: str) -> None:
        """By mistake: its Node goes, what it holds is released; then it is back, and goes on."""
        if dead == judge:
            return
        asyncio.run(MemoryClient(self.store).delete(ResourceKey("Node", dead).path))
        for leak in leaked(self._inventory(), hosts_gone(self._inventory())):
            if self._run(judge, ("none", 0, "before"), self._release(judge, leak)):
                self.acknowledged.pop(leak.handle_id, None)
        held = allocated(self._dump())
        here = {handle for handle, texts in self.acknowledged.items() if texts & held.keys()}
        for name in here:
            assert self._node_of(name) != {dead}, f"{name} was of {dead} alone"
        self._put_node(dead)

    async def _release(self, judge: str, leak: Leak) -> bool:
        return await release_leak(self.hosts[judge].allocator, leak)

    def _inventory(self) -> Inventory:
        return inventory(self.store.entries("/calico/"), self.store.revision)

    def _node_of(self, handle: str) -> set[str]:
        return {one.node for one in allocations(self._inventory()) if one.handle_id == handle}

    @rule(seconds=st.integers(1, 40))
    def wait(self, seconds: int) -> None:
        self.now_ns += seconds * 1_000_000_000

    @rule(family=st.sampled_from([4, 6]), disabled=st.booleans())
    def change_pool(self, family: int, disabled: bool) -> None:
        self._put_pool(family, CIDRS[family], disabled)

    @rule(host=hosts, plan=faults)
    def give_back(self, host: str, plan: tuple[str, int, str]) -> None:
        """Blocks that nobody uses go; `sound` sees that no address goes with them."""
        call = release_empty_blocks(
            self.hosts[host].client, host, older_than_seconds=0, now_ns=self._clock
        )
        self._run(host, plan, call)

    @rule(host=hosts, family=st.sampled_from([4, 6]), plan=faults)
    def take_from_owners(self, host: str, family: int, plan: tuple[str, int, str]) -> None:
        """As the deletion of a pool that is made anew: what is held stays, with nobody's block."""
        self.orphaned |= set(allocated(self._dump()).values())
        self._run(host, plan, release_pool(self.hosts[host].client, parse_network(CIDRS[family])))

    @rule(seconds=st.sampled_from([0, 5, 30]))
    def change_cooldown(self, seconds: int) -> None:
        self.config = replace(self.config, ip_cooldown_seconds=seconds)
        self._put(IPAMConfigKey(), encode(IPAMConfigKey(), self.config))

    @rule(
        host=hosts, place=st.integers(0, 3), state=st.sampled_from(["pending", "pendingDeletion"])
    )
    def leave_unconfirmed(self, host: str, place: int, state: Any) -> None:
        """Another implementation died in the middle of a claim."""
        key = AffinityKey(host, Network(4, parse_address("10.9.0.0").value + 4 * place, 30))
        if key.path not in self.entries:
            self._put(key, encode(key, BlockAffinity(state=state)))

    def teardown(self) -> None:
        """I9: when all is quiet, what is allocated is what somebody was told that he has."""
        for host, recorded in self.recorded.items():
            for handle in recorded - self.acknowledged.keys():  # as `Removal.recover` does
                call = self.hosts[host].allocator.release(handle, only_host=True)
                self._run(host, ("none", 0, "before"), call)
            recorded &= self.acknowledged.keys()
        for host in HOSTS:
            for _ in range(FULL_TURNS + 2):  # one of them looks at everything, and one again
                self.collect(host, ("none", 0, "before"))
        held = allocated(self._dump())
        assert set(held.values()) <= self.acknowledged.keys(), "I9: a leak was not collected"
        self.sound()

    def _dump(self) -> dict[str, bytes]:
        return {entry.key: entry.value for entry in self.store.entries("/calico/")}

    @invariant()
    def sound(self) -> None:
        entries = self._dump()
        assert check(entries) == []
        assert check_growth(self.entries, entries) == []
        if self.config.strict_affinity:
            # A moved workload keeps its address, in a block of the host where it was.
            moved = {handle for handle, callers in self.callers.items() if len(callers) > 1}
            assert check_borrowing(entries, moved | self.orphaned) == []
        if self.config.max_blocks_per_host:
            assert check_limit(entries, self.config.max_blocks_per_host) == []
        held = allocated(entries)
        for handle, texts in self.acknowledged.items():
            assert all(held.get(text) == handle for text in texts)
        self.entries = entries


Ipam.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestIpam = Ipam.TestCase
