"""What both the kernel and the in-memory backend answer to the same transactions."""

import asyncio
import errno
from collections.abc import Callable, Iterator

import pytest

from tortie.kernel.nft import keys, userdata
from tortie.kernel.nft.connection import Backend, Nft, OperationRefused
from tortie.kernel.nft.constants import CmpOp, Family, Hook, MetaKey, Policy, VerdictCode
from tortie.kernel.nft.expressions import (
    ACCEPT,
    DROP,
    VERDICT_REGISTER,
    Cmp,
    Counter,
    Lookup,
    Meta,
    Verdict,
    goto,
    jump,
)
from tortie.kernel.nft.fake import FakeNft
from tortie.kernel.nft.objects import (
    IFNAME,
    IPV4_ADDR,
    MARK,
    VERDICT,
    Base,
    Chain,
    Element,
    Rule,
    Set,
    Table,
    TableName,
    interval_elements,
    intervals,
    network_elements,
)
from tortie.kernel.nft.transaction import Transaction
from tortie.lib.errors import KernelBusy, NotFound
from tortie.lib.ip import parse_network

TABLE = TableName(Family.INET, "contract")
BASE = Chain("forward", Base("filter", Hook.FORWARD, 0, Policy.DROP))
PLAIN = Set("plain", (IPV4_ADDR,))
RANGES = Set("ranges", (IPV4_ADDR,), interval=True)
MAP = Set("map", (IFNAME,), (MARK,))
VMAP = Set("vmap", (MARK,), (VERDICT,))


@pytest.fixture(params=["fake", "kernel"])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    if request.param == "fake":
        yield FakeNft()
        return
    request.getfixturevalue("netns")
    door = Nft.open()
    yield door
    door.close()


def start(change: Transaction) -> None:
    change.add_table(Table(*TABLE))
    change.add_chain(TABLE, BASE)
    change.add_chain(TABLE, Chain("one"))
    for of in (PLAIN, RANGES, MAP, VMAP):
        change.add_set(TABLE, of)


async def make(backend: Backend, *fill: Callable[[Transaction], None]) -> None:
    change = Transaction()
    start(change)
    for one in fill:
        one(change)
    await backend.commit(change)


def address(text: str) -> bytes:
    return parse_network(text).packed


async def snapshot(backend: Backend) -> object:
    """All of the table, without orders that nobody promises."""
    sets = await backend.sets(TABLE)
    elements = {of.name: frozenset(await backend.elements(TABLE, of.name)) for of in sets}
    return (
        frozenset(await backend.chains(TABLE)),
        tuple(await backend.rules(TABLE)),
        frozenset(sets),
        frozenset(elements.items()),
    )


def test_what_was_written_is_read_back(backend: Backend) -> None:
    rule = Rule(
        "forward",
        (Meta(MetaKey.IIFNAME), Cmp(CmpOp.EQ, keys.ifname("cali1")), Counter(), DROP),
        userdata.pack_rule(comment="why", tag=b"\1\2"),
    )

    def fill(change: Transaction) -> None:
        change.add_rule(TABLE, rule)
        change.add_elements(TABLE, PLAIN, [Element(address("10.0.0.1"))])
        change.add_elements(TABLE, MAP, [Element(keys.ifname("cali1"), keys.u32(9))])
        change.add_elements(TABLE, VMAP, [Element(keys.u32(9), goto("one"))])

    async def run() -> None:
        await make(backend, fill)
        assert [table.table_name for table in await backend.tables()] == [TABLE]
        assert set(await backend.chains(TABLE)) == {BASE, Chain("one")}
        assert set(await backend.sets(TABLE)) == {PLAIN, RANGES, MAP, VMAP}
        (read,) = await backend.rules(TABLE)
        assert (read.chain, read.expressions) == (rule.chain, rule.expressions)
        assert (read.comment, read.tag) == ("why", b"\1\2")
        assert await backend.elements(TABLE, "plain") == [Element(address("10.0.0.1"))]
        assert await backend.elements(TABLE, "map") == [Element(keys.ifname("cali1"), keys.u32(9))]
        assert await backend.elements(TABLE, "vmap") == [Element(keys.u32(9), goto("one"))]

    asyncio.run(run())


def accept_if(mark: int) -> Rule:
    return Rule("one", (Meta(MetaKey.MARK), Cmp(CmpOp.EQ, keys.u32(mark)), ACCEPT))


def test_rules_stand_where_they_were_put_and_keep_their_handles(backend: Backend) -> None:
    def fill(change: Transaction) -> None:
        change.add_rule(TABLE, accept_if(1))
        change.add_rule(TABLE, accept_if(4))

    async def run() -> None:
        await make(backend, fill)
        first, last = [rule.handle for rule in await backend.rules(TABLE)]
        assert first is not None
        assert last is not None
        change = Transaction()
        change.insert_rule(TABLE, accept_if(2), before=last)
        change.insert_rule(TABLE, accept_if(3), before=last)
        change.insert_rule(TABLE, accept_if(0))
        change.add_rule(TABLE, accept_if(5))
        change.replace_rule(TABLE, first, accept_if(11))
        written = await backend.commit(change)
        rules = await backend.rules(TABLE)
        marks = [0, 11, 2, 3, 4, 5]
        assert [rule.expressions for rule in rules] == [accept_if(n).expressions for n in marks]
        assert rules[4].handle == last
        by_rule = {one.operation.rule.expressions: one.handle for one in written}
        assert by_rule == {rule.expressions: rule.handle for rule in rules if rule.handle != last}
        change = Transaction()
        change.delete_rule(TABLE, "one", last)
        assert await backend.commit(change) == []
        assert [rule.handle for rule in await backend.rules(TABLE, "one")] == [
            rule.handle for rule in rules if rule.handle != last
        ]
        assert await backend.rules(TABLE, "forward") == []

    asyncio.run(run())


def test_a_flushed_chain_gets_only_the_new_rules(backend: Backend) -> None:
    async def run() -> None:
        await make(backend, lambda change: change.add_rule(TABLE, accept_if(1)))
        change = Transaction()
        change.add_rule(TABLE, accept_if(2))
        change.flush_chain(TABLE, "one")
        await backend.commit(change)
        (rule,) = await backend.rules(TABLE)
        assert rule.expressions == accept_if(2).expressions

    asyncio.run(run())


def refused_missing_set(change: Transaction) -> None:
    change.add_rule(TABLE, Rule("one", (Meta(MetaKey.MARK), Lookup("none"), ACCEPT)))


def refused_missing_target(change: Transaction) -> None:
    change.add_rule(TABLE, Rule("one", (jump("none"),)))


def refused_missing_element_target(change: Transaction) -> None:
    change.add_elements(TABLE, VMAP, [Element(keys.u32(1), goto("none"))])


def refused_missing_chain(change: Transaction) -> None:
    change.add_rule(TABLE, Rule("none", (ACCEPT,)))


def refused_missing_before(change: Transaction) -> None:
    change.insert_rule(TABLE, accept_if(1), before=4000)


def refused_missing_replaced(change: Transaction) -> None:
    change.replace_rule(TABLE, 4000, accept_if(1))


def refused_missing_deleted(change: Transaction) -> None:
    change.delete_rule(TABLE, "one", 4000)


def refused_missing_element(change: Transaction) -> None:
    change.delete_elements(TABLE, PLAIN, [Element(address("10.9.9.9"))])


def refused_missing_set_of_elements(change: Transaction) -> None:
    change.add_elements(TABLE, Set("none", (IPV4_ADDR,)), [Element(address("10.0.0.1"))])


def refused_deleting_missing_set(change: Transaction) -> None:
    change.delete_set(TABLE, "none")


def refused_deleting_missing_chain(change: Transaction) -> None:
    change.delete_chain(TABLE, "none")


def refused_missing_table(change: Transaction) -> None:
    change.add_chain(TableName(Family.INET, "none"), Chain("x"))


def refused_table_twice(change: Transaction) -> None:
    change.add_table(Table(*TABLE), exclusive=True)


def refused_chain_twice(change: Transaction) -> None:
    change.add_chain(TABLE, Chain("one"), exclusive=True)


def refused_set_twice(change: Transaction) -> None:
    change.add_set(TABLE, PLAIN, exclusive=True)


def refused_set_of_other_type(change: Transaction) -> None:
    change.add_set(TABLE, Set("plain", (MARK,), (MARK,)))


def refused_other_hook(change: Transaction) -> None:
    change.add_chain(TABLE, Chain("forward", Base("filter", Hook.INPUT, 0, Policy.DROP)))


def refused_jump_to_base(change: Transaction) -> None:
    change.add_rule(TABLE, Rule("one", (jump("forward"),)))


def refused_set_as_map(change: Transaction) -> None:
    change.add_rule(TABLE, Rule("one", (Meta(MetaKey.MARK), Lookup("plain", 0, VERDICT_REGISTER))))


def refused_map_as_vmap(change: Transaction) -> None:
    lookup = Lookup("map", 0, VERDICT_REGISTER)
    change.add_rule(TABLE, Rule("one", (Meta(MetaKey.IIFNAME), lookup)))


def refused_short_key(change: Transaction) -> None:
    change.add_elements(TABLE, PLAIN, [Element(b"\1\2\3")])


def refused_set_with_data(change: Transaction) -> None:
    change.add_elements(TABLE, PLAIN, [Element(address("10.0.0.1"), keys.u32(1))])


def refused_map_without_data(change: Transaction) -> None:
    change.add_elements(TABLE, MAP, [Element(keys.ifname("x"))])


def refused_overlap(change: Transaction) -> None:
    change.add_elements(TABLE, RANGES, network_elements(parse_network("10.0.0.0/8")))
    change.add_elements(TABLE, RANGES, network_elements(parse_network("10.1.0.0/16")))


def _ranges(change: Transaction, *ranges: tuple[str, str]) -> None:
    elements = (interval_elements(address(low), address(high)) for low, high in ranges)
    change.add_elements(TABLE, RANGES, [one for pair in elements for one in pair])


def refused_overlap_from_one_start(change: Transaction) -> None:
    _ranges(change, ("10.0.0.1", "10.0.0.5"), ("10.0.0.1", "10.0.0.3"))


def refused_longer_overlap_from_one_start(change: Transaction) -> None:
    _ranges(change, ("10.0.0.1", "10.0.0.3"))
    _ranges(change, ("10.0.0.1", "10.0.0.5"))


def refused_overlap_to_one_end(change: Transaction) -> None:
    _ranges(change, ("10.0.0.1", "10.0.0.5"), ("10.0.0.3", "10.0.0.5"))


def refused_crossing_ranges(change: Transaction) -> None:
    _ranges(change, ("10.0.0.1", "10.0.0.5"), ("10.0.0.4", "10.0.0.8"))


def refused_endless_jumps(change: Transaction) -> None:
    change.add_rule(TABLE, Rule("forward", (jump("one"),)))
    change.add_rule(TABLE, Rule("one", (jump("one"),)))


REFUSED: list[tuple[Callable[[Transaction], None], set[int], str]] = [
    (refused_missing_set, {errno.ENOENT}, "add rule inet contract one meta mark @none accept"),
    (refused_missing_target, {errno.ENOENT}, "add rule inet contract one jump none"),
    (refused_missing_element_target, {errno.ENOENT}, "0x00000001 : goto none"),
    (refused_missing_chain, {errno.ENOENT}, "add rule inet contract none accept"),
    (refused_missing_before, {errno.ENOENT}, "insert rule inet contract one handle 4000"),
    (refused_missing_replaced, {errno.ENOENT}, "replace rule inet contract one handle 4000"),
    (refused_missing_deleted, {errno.ENOENT}, "delete rule inet contract one handle 4000"),
    (refused_missing_element, {errno.ENOENT}, "delete element inet contract plain { 10.9.9.9 }"),
    (refused_missing_set_of_elements, {errno.ENOENT}, "add element inet contract none"),
    (refused_deleting_missing_set, {errno.ENOENT}, "inet contract none"),
    (refused_deleting_missing_chain, {errno.ENOENT}, "inet contract none"),
    (refused_missing_table, {errno.ENOENT}, "add chain inet none x"),
    (refused_table_twice, {errno.EEXIST}, "add table inet contract"),
    (refused_chain_twice, {errno.EEXIST}, "add chain inet contract one"),
    (refused_set_twice, {errno.EEXIST}, "add set inet contract plain"),
    (refused_set_of_other_type, {errno.EEXIST}, "add map inet contract plain"),
    (refused_other_hook, {errno.EEXIST, errno.EOPNOTSUPP}, "add chain inet contract forward"),
    (refused_jump_to_base, {errno.EOPNOTSUPP}, "add rule inet contract one jump forward"),
    (refused_set_as_map, {errno.EINVAL}, "add rule inet contract one meta mark vmap @plain"),
    (refused_map_as_vmap, {errno.EINVAL}, "add rule inet contract one iifname vmap @map"),
    (refused_short_key, {errno.EINVAL}, "add element inet contract plain"),
    (refused_set_with_data, {errno.EINVAL}, "add element inet contract plain"),
    (refused_map_without_data, {errno.EINVAL}, "add element inet contract map"),
    (refused_overlap, {errno.EEXIST, errno.ENOTEMPTY}, "add element inet contract ranges"),
    *(
        (bad, {errno.EEXIST}, "add element inet contract ranges")
        for bad in (
            refused_overlap_from_one_start,
            refused_longer_overlap_from_one_start,
            refused_overlap_to_one_end,
            refused_crossing_ranges,
        )
    ),
    (refused_endless_jumps, {errno.ELOOP, errno.EMLINK}, "add rule inet contract"),
]


@pytest.mark.parametrize(
    ("bad", "codes", "named"), REFUSED, ids=[bad.__name__ for bad, _, _ in REFUSED]
)
def test_a_refused_transaction_changes_nothing_and_names_the_operation(
    backend: Backend, bad: Callable[[Transaction], None], codes: set[int], named: str
) -> None:
    async def run() -> None:
        await make(backend, lambda change: change.add_rule(TABLE, accept_if(1)))
        before = await snapshot(backend)
        generation = await backend.generation()
        change = Transaction()
        change.add_chain(TABLE, Chain("fine"))
        change.add_elements(TABLE, PLAIN, [Element(address("10.0.0.7"))])
        bad(change)
        change.add_rule(TABLE, Rule("fine", (ACCEPT,)))
        change.add_elements(TABLE, VMAP, [Element(keys.u32(77), goto("fine"))])
        with pytest.raises(OperationRefused) as refused:
            await backend.commit(change)
        assert refused.value.errno in codes
        assert named in str(refused.value)
        assert await snapshot(backend) == before
        assert await backend.generation() == generation
        # And the door still works.
        fine = Transaction()
        fine.add_chain(TABLE, Chain("fine"))
        await backend.commit(fine)
        assert Chain("fine") in await backend.chains(TABLE)

    asyncio.run(run())


def in_use_by_rule(change: Transaction) -> None:
    change.add_rule(TABLE, Rule("forward", (jump("one"),)))


def in_use_by_element(change: Transaction) -> None:
    change.add_elements(TABLE, VMAP, [Element(keys.u32(1), jump("one"))])


@pytest.mark.parametrize("user", [in_use_by_rule, in_use_by_element])
def test_a_chain_in_use_is_busy_until_its_user_goes_in_the_same_transaction(
    backend: Backend, user: Callable[[Transaction], None]
) -> None:
    async def run() -> None:
        await make(backend, user)
        before = await snapshot(backend)
        change = Transaction()
        change.delete_chain(TABLE, "one")
        with pytest.raises(KernelBusy, match="delete chain inet contract one"):
            await backend.commit(change)
        assert await snapshot(backend) == before
        change = Transaction()
        change.delete_chain(TABLE, "one")
        change.flush_chain(TABLE, "forward")
        change.flush_set(TABLE, "vmap")
        await backend.commit(change)
        assert await backend.chains(TABLE) == [BASE]

    asyncio.run(run())


def test_a_set_in_use_is_busy_until_its_rule_goes(backend: Backend) -> None:
    async def run() -> None:
        lookup = Rule("one", (Meta(MetaKey.MARK), Lookup("vmap", 0, VERDICT_REGISTER)))
        await make(backend, lambda change: change.add_rule(TABLE, lookup))
        change = Transaction()
        change.delete_set(TABLE, "vmap")
        with pytest.raises(KernelBusy, match="delete set inet contract vmap"):
            await backend.commit(change)
        change = Transaction()
        change.delete_set(TABLE, "vmap")
        change.flush_chain(TABLE, "one")
        await backend.commit(change)
        assert set(await backend.sets(TABLE)) == {PLAIN, RANGES, MAP}

    asyncio.run(run())


def test_things_that_refer_to_each_other_come_and_go_in_one_transaction(backend: Backend) -> None:
    """Calls in the worst order: what is referred to last when adding, first when removing."""

    async def run() -> None:
        change = Transaction()
        change.add_elements(TABLE, MAP, [Element(keys.ifname("cali1"), keys.u32(5))])
        change.add_elements(TABLE, VMAP, [Element(keys.u32(5), goto("list"))])
        change.add_rule(TABLE, Rule("forward", (jump("list"),)))
        change.add_rule(TABLE, Rule("list", (jump("policy"),)))
        change.add_rule(
            TABLE, Rule("policy", (Meta(MetaKey.MARK), Lookup("vmap", 0, VERDICT_REGISTER)))
        )
        change.add_chain(TABLE, Chain("list"))
        change.add_chain(TABLE, Chain("policy"))
        start(change)
        # The verdict map leads from "policy" back to "list": that loop must not stand.
        with pytest.raises(OperationRefused):
            await backend.commit(change)
        change = Transaction()
        start(change)
        change.add_elements(TABLE, VMAP, [Element(keys.u32(5), goto("policy"))])
        change.add_rule(TABLE, Rule("list", (Meta(MetaKey.MARK), Lookup("vmap", 0, -1))))
        change.add_rule(TABLE, Rule("forward", (jump("list"),)))
        change.add_chain(TABLE, Chain("list"))
        change.add_chain(TABLE, Chain("policy"))
        await backend.commit(change)
        change = Transaction()
        change.delete_set(TABLE, "vmap")
        change.delete_chain(TABLE, "policy")
        change.delete_chain(TABLE, "list")
        change.delete_chain(TABLE, "forward")
        await backend.commit(change)
        assert await backend.chains(TABLE) == [Chain("one")]
        change = Transaction()
        change.delete_table(TABLE)
        await backend.commit(change)
        assert await backend.tables() == []

    asyncio.run(run())


def test_the_data_of_an_element_changes_by_delete_and_add(backend: Backend) -> None:
    async def run() -> None:
        key = keys.ifname("cali1")
        await make(backend, lambda c: c.add_elements(TABLE, MAP, [Element(key, keys.u32(1))]))
        change = Transaction()
        change.add_elements(TABLE, MAP, [Element(key, keys.u32(1))])
        await backend.commit(change)  # the same again is no error
        change = Transaction()
        change.add_elements(TABLE, MAP, [Element(key, keys.u32(2))])
        with pytest.raises(OperationRefused):
            await backend.commit(change)
        change.delete_elements(TABLE, MAP, [Element(key)])
        await backend.commit(change)
        assert await backend.elements(TABLE, "map") == [Element(key, keys.u32(2))]

    asyncio.run(run())


def test_ranges_that_touch_stay_apart_and_go_one_by_one(backend: Backend) -> None:
    async def run() -> None:
        texts = ["0.0.0.0/8", "10.0.0.0/24", "10.0.1.0/24", "10.0.2.0/32", "255.0.0.0/8"]
        networks = [parse_network(text) for text in texts]

        def fill(change: Transaction) -> None:
            for network in reversed(networks):
                change.add_elements(TABLE, RANGES, network_elements(network))

        await make(backend, fill)
        read = list(intervals(await backend.elements(TABLE, "ranges")))
        assert [(one.low.value, one.high.value) for one in read] == [
            (network.first, network.last) for network in networks
        ]
        change = Transaction()
        change.delete_elements(TABLE, RANGES, network_elements(networks[2]))
        change.add_elements(
            TABLE, RANGES, interval_elements(address("10.0.1.7"), address("10.0.1.9"))
        )
        await backend.commit(change)
        read = list(intervals(await backend.elements(TABLE, "ranges")))
        assert [one.low.address_text for one in read] == [
            "0.0.0.0",
            "10.0.0.0",
            "10.0.1.7",
            "10.0.2.0",
            "255.0.0.0",
        ]

    asyncio.run(run())


def test_a_base_chain_changes_its_policy_in_place(backend: Backend) -> None:
    async def run() -> None:
        await make(backend)
        assert BASE.base is not None
        open_base = Chain("forward", Base("filter", Hook.FORWARD, 0, Policy.ACCEPT))
        change = Transaction()
        change.add_chain(TABLE, open_base)
        await backend.commit(change)
        assert open_base in await backend.chains(TABLE)

    asyncio.run(run())


def test_a_full_set_takes_no_more(backend: Backend) -> None:
    async def run() -> None:
        small = Set("small", (MARK,), size=2)
        await make(backend, lambda change: change.add_set(TABLE, small))
        change = Transaction()
        change.add_elements(TABLE, small, [Element(keys.u32(n)) for n in range(3)])
        with pytest.raises(OperationRefused) as refused:
            await backend.commit(change)
        assert refused.value.errno == errno.ENFILE
        assert await backend.elements(TABLE, "small") == []

    asyncio.run(run())


def test_a_stale_generation_is_busy_and_changes_nothing(backend: Backend) -> None:
    async def run() -> None:
        await make(backend)
        read_at = await backend.generation()
        change = Transaction()
        change.add_chain(TABLE, Chain("first"))
        await backend.commit(change, generation=read_at)
        change = Transaction()
        change.add_chain(TABLE, Chain("second"))
        with pytest.raises(KernelBusy):
            await backend.commit(change, generation=read_at)
        assert Chain("second") not in await backend.chains(TABLE)
        assert Chain("first") in await backend.chains(TABLE)

    asyncio.run(run())


@pytest.mark.parametrize("verdict", [jump, goto])
def test_fifteen_jumps_or_gotos_in_a_row_are_the_most(
    backend: Backend, verdict: Callable[[str], Verdict]
) -> None:
    async def build(depth: int) -> None:
        change = Transaction()
        change.replace_table(Table(*TABLE))
        change.add_chain(TABLE, BASE)
        for n in range(depth):
            change.add_chain(TABLE, Chain(f"c{n}"))
            change.add_rule(TABLE, Rule(f"c{n - 1}" if n else "forward", (verdict(f"c{n}"),)))
        await backend.commit(change)

    async def run() -> None:
        await build(15)
        with pytest.raises(OperationRefused) as refused:
            await build(16)
        assert refused.value.errno == errno.EMLINK
        assert len(await backend.chains(TABLE)) == 16

    asyncio.run(run())


def test_replacing_a_table_leaves_nothing_of_the_old_one(backend: Backend) -> None:
    async def run() -> None:
        await make(backend, refill)
        change = Transaction()
        change.replace_table(Table(*TABLE))
        change.add_chain(TABLE, Chain("new"))
        await backend.commit(change)
        assert await backend.chains(TABLE) == [Chain("new")]
        assert await backend.sets(TABLE) == []
        assert await backend.rules(TABLE) == []

    def refill(change: Transaction) -> None:
        change.add_rule(TABLE, accept_if(1))

    asyncio.run(run())


def test_what_is_not_there_is_not_found(backend: Backend) -> None:
    async def run() -> None:
        nowhere = TableName(Family.INET, "nowhere")
        for read in (backend.chains, backend.rules, backend.sets):
            with pytest.raises(NotFound):
                await read(nowhere)
        await make(backend)
        with pytest.raises(NotFound):
            await backend.elements(TABLE, "nothing")

    asyncio.run(run())


def test_an_empty_transaction_does_nothing(backend: Backend) -> None:
    async def run() -> None:
        generation = await backend.generation()
        assert await backend.commit(Transaction()) == []
        assert await backend.generation() == generation

    asyncio.run(run())


@pytest.mark.parametrize(
    "verdict",
    [ACCEPT, DROP, Verdict(VerdictCode.RETURN), Verdict(VerdictCode.CONTINUE), jump("one")],
    ids=str,
)
def test_every_verdict_is_read_back_from_rules_and_maps(backend: Backend, verdict: Verdict) -> None:
    def fill(change: Transaction) -> None:
        change.add_rule(TABLE, Rule("forward", (verdict,)))
        change.add_elements(TABLE, VMAP, [Element(keys.u32(1), verdict)])

    async def run() -> None:
        await make(backend, fill)
        assert [rule.expressions for rule in await backend.rules(TABLE)] == [(verdict,)]
        assert await backend.elements(TABLE, "vmap") == [Element(keys.u32(1), verdict)]

    asyncio.run(run())
