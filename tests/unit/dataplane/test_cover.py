"""Disjoint elements for overlapping networks, against the obvious way to do it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tortie.dataplane.driver.cover import Cover
from tortie.lib.ip import Network, outermost, parse_network

# Six bits are free, so that members meet often.
NETWORKS = st.builds(
    lambda value, length: Network(4, (value >> (32 - length)) << (32 - length), length),
    st.integers(0, 63).map(lambda low: (10 << 24) + low),
    st.integers(26, 32),
)


def naive(members: set[Network]) -> set[Network]:
    return {one for one in members if not any(o != one and o.contains(one) for o in members)}


@given(st.lists(st.tuples(st.booleans(), NETWORKS), max_size=60))
def test_elements_are_the_outermost_members(history: list[tuple[bool, Network]]) -> None:
    cover, members, elements = Cover(), set[Network](), set[Network]()
    for add, network in history:
        change = cover.add(network) if add else cover.remove(network)
        (members.add if add else members.discard)(network)
        added, removed = set(change.added), set(change.removed)
        assert len(added) == len(change.added)
        assert removed <= elements, "only what is there is removed"
        assert not added & elements, "nothing is added twice"
        elements = elements - removed | added
        assert elements == naive(members)
        assert len(cover) == len(members)


@given(st.lists(NETWORKS, max_size=40))
def test_outermost_does_the_same_at_once(networks: list[Network]) -> None:
    assert set(outermost(networks)) == naive(set(networks))
    assert len(outermost(networks)) == len(naive(set(networks)))


@pytest.mark.parametrize("everything", ["0.0.0.0/0", "::/0"])
def test_everything_and_back(everything: str) -> None:
    family = 6 if ":" in everything else 4
    cover = Cover()
    first, last = Network(family, 0, 1), Network(family, 1 << (127 if family == 6 else 31), 1)
    cover.add(first)
    cover.add(last)
    change = cover.add(parse_network(everything))
    assert (set(change.removed), list(change.added)) == ({first, last}, [parse_network(everything)])
    change = cover.remove(parse_network(everything))
    assert set(change.added) == {first, last}
