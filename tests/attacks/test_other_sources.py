"""What an endpoint may send from beside its own addresses: those prefixes, where the host lets it,
and no more than packets."""

import socket
from collections.abc import Iterator
from functools import partial

import msgspec
import pytest
from tests.attacks import packets
from tests.attacks.arena import HOST4, HOST6, NODE4, NODE6, Arena, arena
from tests.attacks.packets import ICMPV6
from tests.attacks.test_source import OWN4, every_kind
from tests.netns.dataplane_host import BRIEF, HOST_MAC, Workload, tier

from tortie.dataplane.settings import Settings
from tortie.desired.kinds import Kind
from tortie.desired.policy import PolicyList, Rule, Side
from tortie.kernel.netns import enter
from tortie.kernel.rtnl.link import parse_mac
from tortie.lib.ip import Network, parse_network

PREFIXES = ("203.0.113.64/26", "10.65.0.200/32", "2001:db8:1::/48")
INSIDE = ("203.0.113.64", "203.0.113.127", "10.65.0.200", "2001:db8:1::", "2001:db8:1:ffff::1")
OUTSIDE = ("203.0.113.63", "203.0.113.128", "10.65.0.201", "2001:db8:0:ffff::1", "2001:db8:2::")


@pytest.fixture(scope="module")
def lenient_of_module() -> Iterator[Arena]:
    with arena(Settings(host="h1", other_sources=True)) as made:
        yield made


@pytest.fixture
def lenient(lenient_of_module: Arena) -> Iterator[Arena]:
    """A host that lets workloads send from more than their own; the attacker's may, by name."""
    field = lenient_of_module
    with enter(field.namespace):
        may_send_from(field, field.attacker, PREFIXES)
        yield field
        may_send_from(field, field.attacker, ())


def may_send_from(
    field: Arena, workload: Workload, prefixes: tuple[str, ...], *, egress: PolicyList | None = None
) -> None:
    field.host.endpoint(workload, egress=egress)
    known = field.host.dataplane._endpoints.endpoints[workload.id]
    sources: list[Network] = sorted(map(parse_network, prefixes))
    changed = msgspec.structs.replace(known, sources=tuple(sources))
    field.host.update(Kind.ENDPOINT, workload.id, changed)
    field.host.apply()
    assert field.host.dataplane.in_sync


def node_of(source: str) -> str:
    return NODE6 if ":" in source else NODE4


@pytest.mark.parametrize("source", INSIDE)
def test_what_is_named_gets_out(lenient: Arena, source: str) -> None:
    there = lenient.send(partial(every_kind, lenient, source, node_of(source)))
    assert there["gate"] == there["forwarded"] == there["node"] == 4


@pytest.mark.parametrize("source", OUTSIDE)
def test_what_is_beside_it_does_not(lenient: Arena, source: str) -> None:
    lenient.assert_stopped(
        partial(every_kind, lenient, source, node_of(source)), at={"gate", "node"}
    )


@pytest.mark.parametrize("source", INSIDE)
def test_nothing_where_the_host_does_not_let_it(field: Arena, source: str) -> None:
    may_send_from(field, field.attacker, PREFIXES)
    try:
        build = partial(every_kind, field, source, node_of(source))
        field.assert_stopped(build, at={"gate", "node"})
        assert field.host.sysctl("net.ipv4.conf.cali1.rp_filter") == "1"
    finally:
        may_send_from(field, field.attacker, ())


@pytest.mark.parametrize("source", ["203.0.113.64", "2001:db8:1::1"])
def test_nobody_else_may(lenient: Arena, source: str) -> None:
    """The same frames by a neighbour's interface."""
    wire = lenient.wire_of(lenient.open)
    build = partial(every_kind, lenient, source, node_of(source))
    with lenient.unprotected():
        assert lenient.send(build, wire=wire)["node"] == 4
    assert lenient.send(build, wire=wire) == {}


@pytest.mark.parametrize("source", ["203.0.113.64", "2001:db8:1::1"])
def test_policy_decides_about_them_as_about_the_rest(lenient: Arena, source: str) -> None:
    """The attacker may speak to `open` alone; and nobody to `guarded`."""
    to_open = tuple(
        Rule("Allow", destination=Side(networks=(one,)))
        for one in (lenient.open.ipv4, lenient.open.ipv6)
    )
    policy = lenient.host.policy("to-open", egress=to_open)
    egress = PolicyList(tiers=(tier(policy),))
    may_send_from(lenient, lenient.attacker, PREFIXES, egress=egress)
    for target, place in ((lenient.open, "open"), (lenient.guarded, "guarded")):
        to = target.address(6 if ":" in source else 4).address_text
        there = lenient.send(partial(every_kind, lenient, source, to))
        assert there.get(place, 0) == (4 if place == "open" else 0)
    assert lenient.send(partial(every_kind, lenient, source, node_of(source))) == {"gate": 4}


ALL = ("0.0.0.0/0", "::/0")


@pytest.mark.parametrize(
    "source", ["127.0.0.1", "::1", "::", "fe80::bad", HOST4, "224.0.0.1", "0.0.0.0", "ff02::1"]
)
def test_all_the_world_is_not_the_host_itself(lenient: Arena, source: str) -> None:
    """Loopback, link-local and nobody's address stay nobody's to send from, to this host or on."""
    may_send_from(lenient, lenient.attacker, ALL)
    for to in (node_of(source), HOST6 if ":" in source else HOST4):
        there = lenient.send(partial(every_kind, lenient, source, to))
        assert there.keys() <= {"gate"}
    if source not in (HOST4, "0.0.0.0", "224.0.0.1", "::1", "ff02::1"):
        lenient.assert_stopped(
            partial(every_kind, lenient, source, HOST6 if ":" in source else HOST4), at={"gate"}
        )


def test_all_the_world(lenient: Arena) -> None:
    may_send_from(lenient, lenient.attacker, ALL)
    for source in ("198.51.100.7", "2001:db8:9::9", OWN4):
        assert lenient.send(partial(every_kind, lenient, source, node_of(source)))["node"] == 4


def test_a_neighbour_is_only_who_has_the_address(lenient: Arena) -> None:
    """ARP and neighbour discovery stay strict: the tables of the host know own addresses alone."""
    may_send_from(lenient, lenient.attacker, ALL)
    attacker = lenient.attacker
    host = parse_mac(HOST_MAC)

    def as_neighbour() -> list[bytes]:
        source = "2001:db8:1::bad"
        bodies = (
            (135, b"\0\0\0\0" + socket.inet_pton(socket.AF_INET6, HOST6) + _own_mac(1, attacker)),
            (
                136,
                b"\x60\0\0\0" + socket.inet_pton(socket.AF_INET6, source) + _own_mac(2, attacker),
            ),
            (133, b"\0\0\0\0" + _own_mac(1, attacker)),
        )
        return [
            lenient.frame(
                packets.ipv6(
                    source, HOST6, ICMPV6,
                    packets.icmpv6(source, HOST6, kind, body + lenient.mark()),
                    hops=255,
                ),
                destination=host,
            )
            for kind, body in bodies
        ]  # fmt: skip

    lenient.assert_stopped(as_neighbour, at={"gate", "host"})
    assert "2001:db8:1::bad" not in neighbours(lenient)
    assert not attacker.arp_is_answered(
        sender="10.65.0.2", mac=attacker.mac, target=HOST4, patience=BRIEF
    )
    assert not attacker.arp_is_answered(
        sender="198.51.100.7", mac=attacker.mac, target=HOST4, patience=BRIEF
    )
    assert attacker.arp_is_answered(sender=OWN4, mac=attacker.mac, target=HOST4)
    assert "198.51.100.7" not in neighbours(lenient)


def neighbours(field: Arena) -> set[str]:
    return {one.address.address_text for one in field.host.rtnl.neighbours()}


def _own_mac(option: int, workload: Workload) -> bytes:
    return bytes((option, 1)) + parse_mac(workload.mac)


def test_the_kernels_own_check_gives_way_and_comes_back(lenient: Arena) -> None:
    """It would drop what has no way back through the workload, whatever our rules say."""
    name = "net.ipv4.conf.cali1.rp_filter"
    assert lenient.host.sysctl(name) == "0"
    assert lenient.host.sysctl("net.ipv4.conf.cali2.rp_filter") == "1"
    may_send_from(lenient, lenient.attacker, ())
    assert lenient.host.sysctl(name) == "1"
    build = partial(every_kind, lenient, INSIDE[0], NODE4)
    assert lenient.send(build) == {}, "what was named once is not for ever"


def test_a_stricter_setting_of_all_links_is_told(
    lenient: Arena, caplog: pytest.LogCaptureFixture
) -> None:
    """It is the host's, and not ours to change; whoever wants other sources should hear of it."""
    rp_filter = "/proc/sys/net/ipv4/conf/all/rp_filter"
    may_send_from(lenient, lenient.attacker, ())
    _write(rp_filter, "1")
    try:
        may_send_from(lenient, lenient.attacker, PREFIXES)
        assert "net.ipv4.conf.all.rp_filter is not 0" in caplog.text
        assert "node" not in lenient.send(partial(every_kind, lenient, INSIDE[0], NODE4))
    finally:
        _write(rp_filter, "0")
    assert lenient.send(partial(every_kind, lenient, INSIDE[0], NODE4))["node"] == 4


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def test_shared_lists_and_changes(lenient: Arena) -> None:
    """A list is there once for all that have it, and goes with the last of them."""
    assert source_lists(lenient) == 1
    may_send_from(lenient, lenient.open, PREFIXES)
    assert source_lists(lenient) == 1
    may_send_from(lenient, lenient.attacker, ())
    wire = lenient.wire_of(lenient.open)
    there = lenient.send(partial(every_kind, lenient, INSIDE[0], NODE4), wire=wire)
    assert there["node"] == 4
    may_send_from(lenient, lenient.open, ("198.51.100.0/24",))
    assert source_lists(lenient) == 1
    assert lenient.send(partial(every_kind, lenient, INSIDE[0], NODE4), wire=wire) == {}
    before = lenient.host.generation()
    lenient.host.resync()
    assert lenient.host.generation() == before, "read back it is as it should be"
    may_send_from(lenient, lenient.open, ())
    assert source_lists(lenient) == 0


def source_lists(field: Arena) -> int:
    return sum(line.startswith("inet tortie: chain o-") for line in field.host.ruleset())
