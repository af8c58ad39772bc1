"""A1, A8, A11, A13: a packet leaves its veth only with an address of its workload."""

import socket
import subprocess

import pytest
from tests.attacks import packets
from tests.attacks.arena import (
    GATEWAY4,
    GATEWAY6,
    HOST4,
    HOST6,
    NODE4,
    NODE6,
    Arena,
    Build,
)
from tests.attacks.packets import ICMP, ICMPV6, TCP, UDP
from tests.netns.dataplane_host import Workload

OPEN4, OPEN6 = "10.65.0.2", "fd00:65::2"
OWN4, OWN6 = "10.65.0.1", "fd00:65::1"


def every_kind(field: Arena, source: str, to: str) -> list[bytes]:
    """UDP, TCP, an echo request and a protocol that nobody knows."""
    mark = field.mark
    build = packets.ipv6 if ":" in source else packets.ipv4
    if ":" in source:
        echo = ICMPV6, packets.icmpv6(source, to, 128, b"\0\1\0\1" + mark())
    else:
        echo = ICMP, packets.icmp(8, b"\0\1\0\1" + mark())
    transports = (
        (UDP, packets.udp(source, to, mark(), ports=(4000, 4001))),
        (TCP, packets.tcp_syn(source, to, mark(), ports=(4000, 4001))),
        echo,
        (253, mark()),
    )
    return [field.frame(build(source, to, protocol, body)) for protocol, body in transports]


FORWARDED = {
    # Whoever it is, the kernel would forward it.
    "a neighbour": OPEN4,
    "a workload that nothing may reach": "10.65.0.3",
    "no one in the pool": "10.65.0.77",
    "another machine": NODE4,
    "the rest of the world": "203.0.113.9",
    "the gateway": GATEWAY4,
    "a neighbour, IPv6": OPEN6,
    "no one in the pool, IPv6": "fd00:65::77",
    "another machine, IPv6": NODE6,
    "the rest of the world, IPv6": "2001:db8::9",
    "an IPv4 address mapped into IPv6": "::ffff:10.65.0.2",
}
REFUSED_LATER = {
    # The kernel refuses these too, when it looks for a route. We do so before.
    "the host": HOST4,
    "nobody": "0.0.0.0",
    "loopback": "127.0.0.1",
    "multicast": "224.0.0.5",
    "broadcast": "255.255.255.255",
    "class E": "240.0.0.1",
    "the host, IPv6": HOST6,
    "nobody, IPv6": "::",
    "link-local, IPv6": "fe80::bad",
    "the gateway, IPv6": GATEWAY6,
}


@pytest.mark.parametrize("who", FORWARDED)
def test_a1_spoofed_source(field: Arena, who: str) -> None:
    source = FORWARDED[who]
    to = NODE6 if ":" in source else NODE4
    at = {"gate"} if "mapped" in who or source in (NODE4, NODE6) else {"gate", "node"}
    field.assert_stopped(lambda: every_kind(field, source, to), at=at)


@pytest.mark.parametrize("who", REFUSED_LATER)
def test_a1_spoofed_source_that_has_no_way_back(field: Arena, who: str) -> None:
    source = REFUSED_LATER[who]
    to = OPEN6 if ":" in source else OPEN4
    field.assert_stopped(lambda: every_kind(field, source, to), at={"gate"})


@pytest.mark.parametrize("source", ["::1", "ff02::1"])
def test_a1_sources_that_no_hook_ever_sees(field: Arena, source: str) -> None:
    """The kernel refuses these first, whatever is configured: then so it must stay."""
    with field.unprotected():
        assert field.send(lambda: every_kind(field, source, OPEN6)) == {}
        assert field.send(lambda: every_kind(field, "2001:db8::1", OPEN6))["open"] == 4
    assert field.send(lambda: every_kind(field, source, OPEN6)) == {}


def test_a1_to_the_host(field: Arena) -> None:
    """Sources are checked towards the host too."""

    def build() -> list[bytes]:
        return [
            *every_kind(field, OPEN4, HOST4),
            *every_kind(field, OPEN6, HOST6),
            *every_kind(field, "fe80::bad", HOST6),
        ]

    field.assert_stopped(build, at={"gate", "host"})


@pytest.mark.parametrize("source", [OWN4, OWN6])
def test_a1_the_own_source_gets_everywhere(field: Arena, source: str) -> None:
    to = NODE6 if ":" in source else NODE4
    there = field.send(lambda: every_kind(field, source, to))
    assert there["gate"] == there["node"] == 4


def test_a8_addresses_added_in_the_container(field: Arena) -> None:
    """The container's own kernel sends from addresses that it gave itself."""
    attacker = field.attacker
    attacker.run(
        f"ip addr add {OPEN4}/32 dev lo; ip addr add 10.65.0.99/32 dev eth0;"
        "ip -6 addr add fd00:65::99 dev eth0 nodad"
    )
    try:
        for extra in (OPEN4, "10.65.0.99", "fd00:65::99"):
            to = NODE6 if ":" in extra else NODE4

            def build(extra: str = extra, to: str = to) -> list[bytes]:
                _send_from(field, extra, to)
                return []

            field.assert_stopped(build, at={"gate", "node"})
    finally:
        attacker.run(
            f"ip addr del {OPEN4}/32 dev lo; ip addr del 10.65.0.99/32 dev eth0;"
            "ip -6 addr del fd00:65::99 dev eth0"
        )


def _send_from(field: Arena, source: str, to: str) -> None:
    with field.attacker.socket(6 if ":" in source else 4, socket.SOCK_DGRAM) as sender:
        sender.bind((source, 0))
        sender.sendto(field.mark(), (to, 4001))


def test_a8_the_container_renames_and_rewires_its_end(field: Arena) -> None:
    """Only the host's end counts: what the other end is called, where, behind what."""
    rewire = """ip link set eth0 down; ip link set eth0 name cali3
        ip link set cali3 address 02:66:66:66:66:66
        ip link add br0 type bridge; ip link set cali3 master br0
        ip link set cali3 up; ip link set br0 up"""
    back = f"""ip link del br0; ip link set cali3 down; ip link set cali3 name eth0
        ip link set eth0 address {field.attacker.mac}; ip link set eth0 up
        ip route replace 169.254.1.1 dev eth0; ip route replace default via 169.254.1.1
        ip neigh replace 169.254.1.1 lladdr ee:ee:ee:ee:ee:ee dev eth0
        ip -6 addr replace fd00:65::1 dev eth0 nodad
        ip -6 neigh replace fe80::1 lladdr ee:ee:ee:ee:ee:ee dev eth0
        ip -6 route replace default via fe80::1 dev eth0"""
    field.attacker.run(rewire)
    # The host's end has lost its carrier for a moment.
    field.host.read_link_events()
    field.host.apply()
    try:
        field.rewire("cali3")
        field.assert_stopped(lambda: every_kind(field, OPEN4, NODE4), at={"gate", "node"})
        field.assert_stopped(lambda: every_kind(field, OPEN6, NODE6), at={"gate", "node"})
        assert field.send(lambda: every_kind(field, OWN4, NODE4))["node"] == 4
    finally:
        field.attacker.run(back)
        field.rewire("eth0")
        field.host.read_link_events()
        field.host.apply()


def test_a13_before_policy_and_after(field: Arena) -> None:
    """A link with our prefix is closed from when it is made until it is gone."""
    new = Workload(4, field.host.rtnl)
    wire = field.wire_of(new)

    def build() -> list[bytes]:
        made = [
            *every_kind(field, "10.65.0.4", NODE4),
            *every_kind(field, "10.65.0.4", HOST4),
            *every_kind(field, "10.65.0.4", OPEN4),
            *every_kind(field, "fd00:65::4", NODE6),
        ]
        return [frame[:6] + bytes.fromhex(new.mac.replace(":", "")) + frame[12:] for frame in made]

    def nothing_gets_through() -> None:
        assert field.send(build, wire=wire) == {}
        with field.unprotected():
            assert field.send(build, wire=wire).keys() >= {"gate", "node", "host", "open"}

    nothing_gets_through()
    field.host.endpoint(new)
    assert field.send(build, wire=wire) == {}, "known, not yet applied"
    field.host.apply()
    assert field.send(build, wire=wire)["node"] == 8
    field.host.remove(new)
    field.host.apply()
    nothing_gets_through()
    subprocess.run(["ip", "link", "del", new.interface], check=True)
    field.host.read_link_events()
    field.host.apply()


def test_a13_nothing_reaches_what_has_no_policy_yet(field: Arena) -> None:
    """The other way: from a neighbour, to an address that already has a route."""
    new = Workload(5, field.host.rtnl)
    subprocess.run(["ip", "route", "add", "10.65.0.5", "dev", new.interface], check=True)
    try:
        build: Build = lambda: every_kind(field, OWN4, "10.65.0.5")  # noqa: E731
        assert "forwarded" not in field.send(build)
        with field.unprotected():
            assert field.send(build)["forwarded"] == 4
    finally:
        subprocess.run(["ip", "link", "del", new.interface], check=True)
        field.host.read_link_events()
        field.host.apply()
