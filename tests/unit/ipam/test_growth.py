"""The use of blocks by host, and what the pace of claims foretells."""

import msgspec
import pytest

from tortie.ipam import block as blocks
from tortie.ipam.growth import by_host, forecasts, glyph
from tortie.ipam.pools import parse_pools
from tortie.lib.ip import parse_network
from tortie.model.ipam import Attribute, Block
from tortie.model.metadata import Metadata
from tortie.model.node import IPPool, IPPoolSpec

NOW = 1_787_412_000
DAY = 86400


def made(cidr: str, host: str, days_ago: float, *users: str) -> Block:
    claimed = int((NOW - days_ago * DAY) * 1e9)
    block = blocks.new_block(parse_network(cidr), host, claimed)
    for number, user in enumerate(users):
        attribute = Attribute(handle_id=f"{cidr}.{number}", secondary={"node": user})
        block, _ = blocks.assign(block, 1, attribute)
    return block


def forecast(
    cidr: str, *found: Block, block_size: int = 30, reserved: tuple[str, ...] = ()
) -> tuple[int, int, float | None]:
    spec = IPPoolSpec(cidr=cidr, block_size=block_size)
    pools = parse_pools([IPPool(metadata=Metadata(name="p"), spec=spec)]).usable
    kept = [parse_network(text) for text in reserved]
    [one] = forecasts(pools, found, NOW * 1_000_000_000, kept)
    left = one.seconds_left
    return one.blocks_free, one.claims, None if left is None else round(left / DAY, 2)


def test_hosts_by_use() -> None:
    found = by_host(
        [
            made("10.0.0.0/30", "a", 1, "a", "b"),
            made("10.0.0.4/30", "a", 1),
            made("10.0.0.8/30", "b", 1, "b", "b", "b", "b"),
        ]
    )
    assert [(use.host, use.used, use.total) for use in found] == [("b", 4, 4), ("a", 2, 8)]
    assert [(use.lent, use.borrowed) for use in found] == [(0, 1), (1, 0)]
    assert found[1].blocks == ((parse_network("10.0.0.0/30"), 2), (parse_network("10.0.0.4/30"), 0))


def test_a_host_that_has_only_what_it_borrows() -> None:
    found = by_host([made("10.0.0.0/30", "a", 1, "guest")])
    assert [(use.host, use.total, use.borrowed) for use in found] == [("guest", 0, 1), ("a", 4, 0)]


@pytest.mark.parametrize(
    ("used", "shown"), [(0, "·"), (1, "░"), (21, "░"), (22, "▒"), (43, "▓"), (63, "▓"), (64, "█")]
)
def test_one_character_for_a_block(used: int, shown: str) -> None:
    assert glyph(64, used) == shown


def test_the_pace_of_the_last_week() -> None:
    # 16 blocks; two of the four were claimed within seven days: twelve are left for 42 days.
    found = [made(f"10.0.0.{4 * n}/30", "a", age) for n, age in enumerate((30, 20, 6, 1))]
    assert forecast("10.0.0.0/26", *found) == (12, 2, 42.0)


def test_a_short_history_is_its_own_window() -> None:
    # The first claim begins it; one more in the two days since: 14 left at one each two days.
    found = [made("10.0.0.0/30", "a", 2), made("10.0.0.4/30", "b", 1)]
    assert forecast("10.0.0.0/26", *found) == (14, 1, 28.0)


def test_what_cannot_be_foretold() -> None:
    assert forecast("10.0.0.0/26") == (16, 0, None)
    assert forecast("10.0.0.0/26", made("10.0.0.0/30", "a", 0.01)) == (15, 0, None)
    old = made("10.0.0.0/30", "a", 400)
    assert forecast("10.0.0.0/26", old) == (15, 0, None)
    assert forecast("10.0.0.0/30", old) == (0, 0, 0.0)
    undated = blocks.new_block(parse_network("10.0.0.8/30"), "a", 0)
    undated = msgspec.structs.replace(undated, affinity_claim_time=None)
    assert forecast("10.0.0.0/26", undated) == (15, 0, None)


def test_what_is_reserved_from_end_to_end_is_no_block_to_claim() -> None:
    found = [made("10.0.0.0/30", "a", 2), made("10.0.0.4/30", "b", 1)]
    assert forecast("10.0.0.0/26", *found, reserved=("10.0.0.32/27",)) == (6, 1, 12.0)
    assert forecast("10.0.0.0/26", *found, reserved=("10.0.0.0/27", "10.0.0.8/30")) == (8, 1, 16.0)
    assert forecast("10.0.0.0/26", *found, reserved=("10.0.0.16/31", "10.9.0.0/16"))[0] == 14
    assert forecast("10.0.0.0/26", reserved=("10.0.0.0/8",)) == (0, 0, 0.0)
    wide = forecast("fd00::/40", block_size=122, reserved=("fd00::/64",))
    assert wide[0] == (1 << 82) - (1 << 58)


def test_blocks_of_another_size_take_the_places_that_they_lie_in() -> None:
    found = [made("10.0.0.0/29", "a", 2), made("10.0.0.8/32", "a", 2), made("10.0.0.9/32", "a", 2)]
    assert forecast("10.0.0.0/26", *found)[0] == 13
