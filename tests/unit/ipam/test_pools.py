"""Which pools serve a host, and which block it claims."""

import itertools

import pytest

from tortie.ipam import affinity, pools
from tortie.lib.ip import Network, parse_address, parse_network
from tortie.model.metadata import Metadata
from tortie.model.node import IPPool, IPPoolSpec


def pool(name: str, cidr: str = "10.0.0.0/16", **spec: object) -> IPPool:
    return IPPool(metadata=Metadata(name=name), spec=IPPoolSpec(cidr=cidr, **spec))  # type: ignore[arg-type]


def names(*resources: IPPool, labels: dict[str, str] | None = None, **choice: object) -> list[str]:
    usable = pools.parse_pools(resources).usable
    found = pools.serving(usable, 4, labels or {}, **choice)  # type: ignore[arg-type]
    return [found_pool.name for found_pool in found]


def test_defaults() -> None:
    [four, six] = pools.parse_pools([pool("a"), pool("b", "fd00::/48")]).usable
    assert (four.block_length, six.block_length) == (26, 122)
    assert four.uses == {"Workload", "Tunnel"}


@pytest.mark.parametrize(
    ("spec", "serves"),
    [
        ({}, True),
        ({"disabled": True}, False),
        ({"node_selector": "rack == '1'"}, True),
        ({"node_selector": "rack == '2'"}, False),
        ({"allowed_uses": ("Tunnel",)}, False),
        ({"allowed_uses": ("Workload",)}, True),
        ({"assignment_mode": "Manual"}, False),
        ({"cidr": "fd00::/48"}, False),
    ],
)
def test_serving(spec: dict[str, object], serves: bool) -> None:
    assert names(pool("p", **spec), labels={"rack": "1"}) == (["p"] if serves else [])  # type: ignore[arg-type]


def test_named_pools_may_be_manual_but_not_disabled() -> None:
    some = (
        pool("auto", "10.0.0.0/16"),
        pool("manual", "10.1.0.0/16", assignment_mode="Manual"),
        pool("off", "10.2.0.0/16", disabled=True),
    )
    assert names(*some, names=frozenset({"manual", "off"})) == ["manual"]


def test_a_pool_that_is_asked_for_by_name_serves_whatever_its_selectors_say() -> None:
    some = (
        pool("rack", "10.0.0.0/16", node_selector="rack == '2'"),
        pool("space", "10.1.0.0/16", namespace_selector="team == 'a'"),
        pool("other-use", "10.2.0.0/16", allowed_uses=("Tunnel",)),
    )
    assert names(*some, labels={"rack": "1"}) == []
    chosen = frozenset({"rack", "space", "other-use"})
    assert names(*some, labels={"rack": "1"}, names=chosen) == ["rack", "space"]


@pytest.mark.parametrize(
    "bad",
    [
        pool("z", "10.0.0.1/16"),
        pool("z", "10.0.0.0/16", block_size=19),
        pool("z", "10.0.0.0/28"),
        pool("z", "10.0.0.0/16", node_selector="a =="),
        pool("z", "10.9.128.0/24"),
    ],
)
def test_a_bad_pool_serves_nobody_and_is_reported(bad: IPPool) -> None:
    found = pools.parse_pools([pool("a", "10.9.0.0/16"), bad])
    assert [good.name for good in found.usable] == ["a"]
    assert len(found.problems) == 1
    assert "IPPool z" in found.problems[0]


def test_the_block_of_an_address() -> None:
    [only] = pools.parse_pools([pool("a", block_size=28)]).usable
    assert str(pools.block_of(only, parse_address("10.0.3.77"))) == "10.0.3.64/28"
    assert pools.pool_of([only], parse_address("10.1.0.0")) is None


def test_free_blocks_walk_the_pool_once_and_skip_what_is_taken() -> None:
    cidr = parse_network("10.0.0.0/24")
    taken = [parse_network("10.0.0.64/26"), parse_network("10.0.0.200/29")]
    found = list(affinity.free_blocks(cidr, 26, "h1", taken))
    assert sorted(map(str, found)) == ["10.0.0.0/26", "10.0.0.128/26"]
    assert found == list(affinity.free_blocks(cidr, 26, "h1", taken))


def test_hosts_diverge() -> None:
    cidr = parse_network("10.0.0.0/16")
    firsts = {next(affinity.free_blocks(cidr, 26, f"h{n}", ())) for n in range(32)}
    assert len(firsts) > 20
    wide = parse_network("fd00::/48")
    firsts = {next(affinity.free_blocks(wide, 122, f"h{n}", ())) for n in range(32)}
    assert len(firsts) == 32


def test_a_huge_pool_is_walked_lazily() -> None:
    found = affinity.free_blocks(parse_network("fd00::/8"), 122, "h1", ())
    assert len(list(itertools.islice(found, 3))) == 3


def test_borrowers_start_at_different_blocks() -> None:
    some = [Network(4, n << 6, 26) for n in range(64)]
    orders = {tuple(affinity.host_order(some, f"h{n}")) for n in range(16)}
    assert len(orders) > 8
    assert all(sorted(order) == some for order in orders)


def test_seed_is_fnv_1() -> None:
    """Vectors of the FNV authors' test suite, 64-bit FNV-1."""
    assert affinity.seed("") == 0xCBF29CE484222325
    assert affinity.seed("a") == 0xAF63BD4C8601B7BE
    assert affinity.seed("foobar") == 0x340D8765A4DDA9C2
