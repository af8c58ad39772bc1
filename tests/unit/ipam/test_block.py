"""One block: order of reuse, sequence numbers, shared attributes, cool-down."""

import pytest
from msgspec.structs import replace

from tortie.ipam import block as blocks
from tortie.lib.errors import AlreadyExists, Conflict, InvalidInput
from tortie.lib.ip import Network, parse_address, parse_network
from tortie.model.codec import decode, encode
from tortie.model.ipam import Attribute, Block
from tortie.model.keys import BlockKey

NOW = 1_787_412_000_000_000_000
WEB = Attribute(handle_id="web", secondary={"node": "h1"})
DB = Attribute(handle_id="db", secondary={"node": "h1"})


def new(cidr: str = "10.0.0.0/30") -> Block:
    return blocks.new_block(parse_network(cidr), "h1", NOW)


def texts(addresses: list[Network]) -> list[str]:
    return [address.address_text for address in addresses]


def test_a_new_block_is_free_and_sound() -> None:
    block = new("fd00::/126")
    assert (block.affinity, block.sequence_number) == ("host:h1", NOW)
    assert block.affinity_claim_time == "2026-08-22T15:20:00Z"
    assert blocks.free_count(block) == 4
    assert blocks.problems(block) == []
    assert blocks.is_empty(block)


def test_the_longest_free_address_comes_first() -> None:
    block, first = blocks.assign(new(), 3, WEB)
    assert texts(first) == ["10.0.0.0", "10.0.0.1", "10.0.0.2"]
    block, _ = blocks.release(block, [first[1]])
    block, _ = blocks.release(block, [first[0]])
    block, again = blocks.assign(block, 9, DB)
    assert texts(again) == ["10.0.0.3", "10.0.0.1", "10.0.0.0"]
    assert blocks.assign(block, 1, DB) == (block, [])


def test_the_given_block_stays_as_it_was() -> None:
    before = new()
    blocks.assign(before, 2, WEB)
    assert before == new()


def test_reserved_addresses_keep_their_place() -> None:
    reserved = [parse_network("10.0.0.0/31")]
    block, found = blocks.assign(new(), 4, WEB, reserved)
    assert texts(found) == ["10.0.0.2", "10.0.0.3"]
    assert block.unallocated == (0, 1)
    assert blocks.free_count(block, reserved) == 0


def test_ordinals_remember_the_sequence_number_of_their_assignment() -> None:
    block, [one] = blocks.assign(new(), 1, WEB)
    assert block.sequence_number == NOW + 1
    assert block.sequence_number_for_allocation == {"0": NOW}
    with pytest.raises(Conflict, match="late"):
        blocks.release(block, [one], sequence=NOW - 5)
    block, gone = blocks.release(block, [one], sequence=NOW)
    assert gone == [one]
    assert block.sequence_number == NOW + 2
    assert block.sequence_number_for_allocation == {}


def test_a_late_release_does_not_free_the_next_holder() -> None:
    block, [one] = blocks.assign(new("10.0.0.0/32"), 1, WEB)
    block, _ = blocks.release(block, [one])
    block, _ = blocks.assign(block, 1, WEB)
    with pytest.raises(Conflict):
        blocks.release(block, [one], handle_id="web", sequence=NOW)


def test_release_may_be_repeated_but_only_by_the_holder() -> None:
    block, [one, two] = blocks.assign(new(), 2, WEB)
    with pytest.raises(Conflict, match="'web'"):
        blocks.release(block, [one, two], handle_id="db")
    block, gone = blocks.release(block, [one, two], handle_id="web")
    assert gone == [one, two]
    assert blocks.release(block, [one], handle_id="web") == (block, [])


def test_holders_with_equal_attributes_share_one() -> None:
    block, _ = blocks.assign(new(), 2, WEB)
    block, _ = blocks.assign(block, 1, DB)
    assert block.attributes == (WEB, DB)
    assert block.allocations == (0, 0, 1, None)
    block, _ = blocks.release(block, blocks.held_by(block, "web"))
    assert block.attributes == (DB,)
    assert block.allocations == (None, None, 0, None)
    assert blocks.handle_counts(block) == {"db": 1}


def test_one_given_address() -> None:
    address = parse_address("10.0.0.2")
    block = blocks.assign_address(new(), address, WEB)
    assert blocks.holder(block, address) == WEB
    assert block.unallocated == (0, 1, 3)
    with pytest.raises(AlreadyExists, match="handle 'web'"):
        blocks.assign_address(block, address, DB)
    with pytest.raises(InvalidInput, match="not an address of block"):
        blocks.assign_address(block, parse_address("10.0.0.4"), DB)


def test_released_addresses_cool_down() -> None:
    block, found = blocks.assign(new(), 2, WEB)
    block, _ = blocks.release(block, found[1:], released_at="2026-08-22T15:20:10Z")
    block, _ = blocks.release(block, found[:1], released_at="2026-08-22T15:20:20Z")
    assert blocks.held_by(block, "web") == []
    assert not blocks.is_empty(block)
    assert blocks.free_count(block) == 2
    with pytest.raises(AlreadyExists, match="cooling"):
        blocks.assign_address(block, found[0], DB)
    assert blocks.collect_cooled(block, NOW + 39 * 10**9, 30) is block
    first = blocks.collect_cooled(block, NOW + 40 * 10**9, 30)
    assert first.unallocated == (2, 3, 1)
    assert blocks.collect_cooled(block, NOW + 60 * 10**9, 30).unallocated == (2, 3, 1, 0)


def test_a_move_changes_the_attribute_and_nothing_else() -> None:
    block, found = blocks.assign(new(), 2, WEB)
    moved = replace(WEB, secondary={"node": "h2"})
    after = blocks.reattribute(block, found[:1], moved)
    assert [blocks.holder(after, address) for address in found] == [moved, WEB]
    assert after.sequence_number_for_allocation == block.sequence_number_for_allocation
    assert after.unallocated == block.unallocated


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        ({"unallocated": (0, 1, 2, 3, 3)}, "twice"),
        ({"unallocated": (0, 1, 2, 4)}, "outside"),
        ({"unallocated": (0, 1, 2)}, "neither"),
        ({"allocations": (0, None, None, None), "attributes": (WEB,)}, "both"),
        ({"allocations": (0, None, None, None), "unallocated": (1, 2, 3)}, "do not exist"),
        ({"allocations": (None,) * 5}, "5 allocations"),
        ({"cidr": "10.0.0.1/30"}, "host bits"),
        ({"cidr": "fd00::/8"}, "allocations"),
    ],
)
def test_damage_is_found(damage: dict[str, object], problem: str) -> None:
    assert problem in " ".join(blocks.problems(replace(new(), **damage)))


def test_a_block_of_calico_reads_and_writes_back_the_same() -> None:
    raw = (
        b'{"cidr":"192.168.0.0/30","affinity":"host:node-1",'
        b'"affinity_claim_time":"2026-08-22T10:00:00Z",'
        b'"allocations":[0,null,null,null],"unallocated":[1,2,3],'
        b'"attributes":[{"handle_id":"k8s-pod-network.1","secondary":{"node":"node-1"}}],'
        b'"sequenceNumber":1787412000000000001,'
        b'"sequenceNumberForAllocation":{"0":1787412000000000000},"deleted":false}'
    )
    key = BlockKey(parse_network("192.168.0.0/30"))
    block = decode(key, raw)
    assert blocks.problems(block) == []
    assert encode(key, block, raw) == raw


def test_the_largest_block_stays_quick() -> None:
    block, _ = blocks.assign(new("10.0.0.0/20"), 4096, WEB)
    block, gone = blocks.release(block, blocks.held_by(block, "web"))
    assert len(gone) == 4096
