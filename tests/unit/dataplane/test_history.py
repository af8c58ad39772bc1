"""What the tables hold depends on desired state alone, not on how it came about."""

import asyncio
from collections.abc import Hashable, Sequence
from typing import TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.dataplane.test_nftables_driver import Bench

from tortie.dataplane.driver.nftables import ARP, INET
from tortie.desired.endpoint import Endpoint, EndpointId, Pool
from tortie.desired.kinds import Kind
from tortie.desired.policy import (
    TCP,
    AddressPort,
    IPSetType,
    Policy,
    PolicyId,
    PolicyList,
    PortRange,
    Rule,
    Side,
    TierPolicies,
)
from tortie.kernel.nft.objects import Set, intervals
from tortie.lib.ip import parse_address, parse_network

State = dict[tuple[Kind, Hashable], object]
T = TypeVar("T")

NETWORKS = [
    parse_network(text)
    for text in ("10.0.0.1", "10.0.0.2", "10.0.0.0/24", "10.0.0.0/30", "fd00::1", "fd00::/64")
]
POLICIES = [PolicyId("GlobalNetworkPolicy", name) for name in "abc"]
NET_SETS, PORT_SETS = ("s:1", "s:2"), ("n:1",)


def some(values: Sequence[T], most: int = 2, least: int = 0) -> st.SearchStrategy[tuple[T, ...]]:
    chosen = st.lists(st.sampled_from(values), unique=True, min_size=least, max_size=most)
    return chosen.map(tuple)


PORTS = st.lists(
    # A range to 99 is more than a rule's ports may be one by one.
    st.builds(lambda a, b: PortRange(min(a, b), b), st.integers(1, 9), st.sampled_from([5, 9, 99])),
    max_size=2,
).map(tuple)
SIDES = st.builds(
    Side,
    networks=some(NETWORKS),
    not_networks=some(NETWORKS, 1),
    sets=some(NET_SETS),
    not_sets=some(NET_SETS, 1),
    ports=PORTS,
    named_ports=some(PORT_SETS),
)
RULES = st.builds(
    Rule, st.sampled_from(["Allow", "Deny", "Pass", "Log"]), protocol=st.just(TCP), source=SIDES
)
RULE_LISTS = st.lists(RULES, max_size=3).map(tuple)
TIERS = st.builds(
    TierPolicies,
    st.sampled_from(["t", "u"]),
    st.sampled_from(["Deny", "Pass"]),
    some(POLICIES, 2, 1),
)
LISTS = st.builds(PolicyList, st.lists(TIERS, max_size=2).map(tuple), some(POLICIES))


@st.composite
def states(draw: st.DrawFn) -> State:
    state: State = {}
    for set_id in NET_SETS:
        state[Kind.IP_SET, set_id] = IPSetType.NET
        for network in draw(some(NETWORKS, 4)):
            state[Kind.IP_SET_MEMBER, (set_id, network)] = True
    state[Kind.IP_SET, "n:1"] = IPSetType.ADDRESS_PORT
    for port in draw(some((80, 81))):
        member = AddressPort(parse_address("10.0.0.1"), TCP, port)
        state[Kind.IP_SET_MEMBER, ("n:1", member)] = True
    for policy_id in POLICIES:
        state[Kind.POLICY, policy_id] = Policy(draw(RULE_LISTS), draw(RULE_LISTS), "t")
    for network in draw(some([*NETWORKS[2:4], NETWORKS[5]])):
        state[Kind.POOL, network] = Pool(draw(st.booleans()))
    # Names may swap what they have, but no two have the same at once.
    order = draw(st.permutations([1, 2, 3]))
    for name, number in zip("xyz", order, strict=True):
        if draw(st.booleans()):
            addresses = (parse_address(f"10.0.0.{number}"), parse_address(f"fd00::{number}"))
            mac = draw(st.sampled_from(["", "02:00:00:00:00:01"]))
            state[Kind.ENDPOINT, EndpointId("ns", name)] = Endpoint(
                f"cali{number}", addresses, mac, draw(LISTS), draw(LISTS)
            )
    return state


def tell(bench: Bench, old: State, new: State) -> None:
    """As the sequencer does: what comes or changes by kind, then what goes, in reverse."""
    for kind, name in sorted((key for key in new if old.get(key) != new[key]), key=_kind):
        bench.update(kind, name, new[kind, name])
    for kind, name in sorted(old.keys() - new.keys(), key=_kind, reverse=True):
        bench.update(kind, name, None)


def _kind(key: tuple[Kind, Hashable]) -> int:
    return key[0]


def held(bench: Bench) -> object:
    """Both tables, without handles and in no order but that of rules."""

    async def read() -> object:
        found = []
        for table in (INET, ARP):
            chains = sorted(map(str, await bench.nft.chains(table)))
            rules: dict[str, list[object]] = {}
            for rule in await bench.nft.rules(table):
                rules.setdefault(rule.chain, []).append((rule.expressions, rule.user_data))
            sets = {one.name: one for one in await bench.nft.sets(table)}
            elements = {name: await _elements(bench, one) for name, one in sets.items()}
            found.append((chains, rules, sets, elements))
        return found

    async def _elements(bench: Bench, of: Set) -> set[object]:
        table = ARP if of.name.startswith("senders") else INET
        elements = await bench.nft.elements(table, of.name)
        return set(intervals(elements)) if of.interval else set(elements)

    return asyncio.run(read())


@settings(deadline=None, max_examples=20)
@given(st.lists(st.tuples(states(), st.booleans()), min_size=1, max_size=4))
def test_any_history_ends_like_a_fresh_start(history: list[tuple[State, bool]]) -> None:
    lived = Bench()
    now: State = {}
    for state, apply in history:
        tell(lived, now, state)
        now = state
        if apply:
            lived.apply()
            assert lived.driver.in_sync
    lived.apply()
    fresh = Bench()
    tell(fresh, {}, now)
    fresh.apply()
    assert held(lived) == held(fresh)
    adopted = Bench(lived.nft)
    tell(adopted, {}, now)
    assert not adopted.apply(), "and a new process finds nothing to write"
    tell(lived, now, {})
    lived.apply()
    empty = Bench()
    empty.apply()
    assert held(lived) == held(empty), "nothing is left of it"
