"""What is kept in bytes against a plain dict."""

from hypothesis import given
from hypothesis import strategies as st

from tortie.calc.addresses import Addresses, pack
from tortie.calc.members import Members
from tortie.calc.validation import Member, ServedPort
from tortie.desired.endpoint import EndpointId
from tortie.lib.ip import Network, parse_address, parse_network

items = st.builds(EndpointId, st.just("n"), st.sampled_from("abcd"))
texts = ["10.0.0.1", "10.0.0.2", "10.0.0.63", "10.0.0.64", "10.0.1.0", "fd00::1", "fd00::3f"]
addresses = st.sampled_from(list(map(parse_address, texts)))
members = st.builds(
    Member,
    st.lists(addresses, max_size=2).map(pack),
    st.sampled_from([(), (ServedPort("web", 6, 80),), (ServedPort("web", 17, 80),)]),
    st.sampled_from(["", "h1", "h2"]),
)


@given(st.lists(st.tuples(items, st.none() | members), max_size=40))
def test_members_are_what_was_put_there(history: list[tuple[EndpointId, Member | None]]) -> None:
    kept, plain = Members(), dict[EndpointId, Member]()
    for item, member in history:
        if member is None:
            kept.discard(item)
            plain.pop(item, None)
        else:
            kept[item] = plain[item] = member
        assert len(kept) == len(plain)
        assert all(kept[each] == plain[each] for each in plain)
        assert kept.get(item) == plain.get(item)
    # What nobody has in common any more takes no place.
    assert len(kept._numbers) == len({(one.host, one.ports) for one in plain.values()})


claims = st.tuples(addresses, items, st.booleans())


@given(st.lists(claims, max_size=60), st.sampled_from(["10.0.0.0/26", "10.0.0.0/8", "fd00::/64"]))
def test_claims_are_what_was_claimed(
    history: list[tuple[Network, EndpointId, bool]], around: str
) -> None:
    network = parse_network(around)
    kept, plain = Addresses(), set[tuple[Network, EndpointId]]()
    for address, endpoint, claimed in history:
        if claimed:
            kept.add(address, endpoint)
            plain.add((address, endpoint))
        elif (address, endpoint) in plain:
            kept.discard(address, endpoint)
            plain.discard((address, endpoint))
        expected = tuple(sorted(one for at, one in plain if at == address))
        assert kept.claimants(address) == expected
    inside = {address for address, _ in plain if network.contains(address)}
    assert sorted(kept.within(network)) == sorted(inside)
