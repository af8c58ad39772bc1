"""A11, A12, A15: other families, other ethertypes, everybody at once."""

import struct
import subprocess
from collections.abc import Iterator
from functools import partial

import pytest
from msgspec.structs import replace
from tests.attacks import packets
from tests.attacks.arena import HOST4, HOST6, NODE4, NODE6, NODE_MAC, Arena, arena, packet_socket
from tests.attacks.packets import BROADCAST_MAC, EAPOL, IPV4, IPV6, LLDP, VLAN
from tests.netns.dataplane_host import ALLOW_ALL, BRIEF, HOST_MAC

from tortie.dataplane.settings import Settings
from tortie.desired.kinds import Kind
from tortie.desired.policy import PolicyList
from tortie.kernel.netns import enter
from tortie.kernel.rtnl.link import parse_mac

OWN4, OWN6, OPEN4, OPEN6 = "10.65.0.1", "fd00:65::1", "10.65.0.2", "fd00:65::2"
ATTACKER_MAC, OPEN_MAC = parse_mac("02:00:00:00:00:01"), parse_mac("02:00:00:00:00:02")


@pytest.fixture(scope="module")
def only_ipv4() -> Iterator[Arena]:
    with arena(Settings(host="h1", ipv6=False)) as made, enter(made.namespace):
        made.attacker.run("ip -6 neigh replace fd00:65::2 lladdr ee:ee:ee:ee:ee:ee dev eth0")
        yield made


def test_a11_a_family_that_is_not_configured(only_ipv4: Arena) -> None:
    """Neither forwarded nor heard, neighbour discovery included; in both directions."""
    field = only_ipv4
    # Others may have made IPv6 work on this host; for workloads it is off all the same.
    script = """sysctl -qw net.ipv6.conf.all.forwarding=1
        ip -6 route replace fd00:65::1 dev cali1; ip -6 route replace fd00:65::2 dev cali2
        ip -6 neigh replace fd00:65::2 lladdr 02:00:00:00:00:02 dev cali2"""
    subprocess.run(["sh", "-ec", script], check=True)

    def build() -> list[bytes]:
        body = bytes(4) + bytes.fromhex("fd000002000000000000000000000001")
        solicit = packets.icmpv6("fe80::1:1", HOST6, 135, body + packets.option(253, field.mark()))
        made = [
            packets.datagram(OWN6, OPEN6, field.mark()),
            packets.datagram(OWN6, NODE6, field.mark()),
            packets.datagram(OWN6, HOST6, field.mark()),
            packets.datagram("fe80::1:1", HOST6, field.mark()),
            packets.ipv6("fe80::1:1", HOST6, 58, solicit, hops=255),
        ]
        return [field.frame(packet) for packet in made]

    field.assert_stopped(build, at={"gate", "open", "node", "host"})

    def from_the_node() -> list[bytes]:
        uplink = bytes(field.host.rtnl.link("uplink").mac)
        with packet_socket(field.node, "eth0") as wire:
            packet = packets.datagram(NODE6, OPEN6, field.mark())
            wire.send(packets.ethernet(uplink, parse_mac(NODE_MAC), IPV6, packet))
        return []

    field.assert_stopped(from_the_node, at={"forwarded", "open"})


def test_a11_an_endpoint_with_the_other_family_alone(field: Arena) -> None:
    """No IPv4 of a workload that has none: neither packets nor ARP, from it or to it."""
    one = field.guarded
    own = one.ipv4.address_text
    only_ipv6 = one.endpoint(*[PolicyList(profiles=(ALLOW_ALL,))] * 2)
    field.host.update(Kind.ENDPOINT, one.id, replace(only_ipv6, networks=(one.ipv6,)))
    field.host.update(Kind.ROUTE, one.ipv4, None)
    field.host.apply()

    def build() -> list[bytes]:
        made = [
            packets.datagram(source, to, field.mark())
            for source in (own, "10.65.0.99")
            for to in (OPEN4, NODE4, HOST4)
        ]
        return [field.frame(packet) for packet in made]

    def its_own() -> list[bytes]:
        return [field.frame(packets.datagram(one.ipv6.address_text, NODE6, field.mark()))]

    def to_it() -> list[bytes]:
        return [field.frame(packets.datagram(OWN4, own, field.mark()))]

    try:
        with field.wire_of(one) as wire:
            assert field.send(build, wire=wire) == {}
            with field.unprotected():
                there = field.send(build, wire=wire)
                assert there.keys() >= {"gate", "open", "node", "host"}
        assert not one.arp_is_answered(sender=own, mac=one.mac, target=HOST4, patience=2 * BRIEF)
        assert not one.arp_is_answered(
            sender="0.0.0.0", mac=one.mac, target=HOST4, patience=2 * BRIEF
        )
        with field.wire_of(one) as wire:
            assert field.send(its_own, wire=wire)["node"] == 1
        assert "forwarded" not in field.send(to_it), "nothing leads there"
    finally:
        field.host.endpoint(one, ingress=PolicyList())
        field.host.resync()
    assert one.arp_is_answered(sender=own, mac=one.mac, target=HOST4)


def test_a11_the_configured_family_works(only_ipv4: Arena) -> None:
    field = only_ipv4
    sent = [field.frame(packets.datagram(OWN4, NODE4, field.mark()))]
    assert field.send(lambda: sent) == {}, "numbered before: not counted"
    assert field.send(lambda: [field.frame(packets.datagram(OWN4, NODE4, field.mark()))]) == {
        "gate": 1,
        "forwarded": 1,
        "node": 1,
    }


def tagged(identifier: int, inner: bytes, ethertype: int) -> bytes:
    return struct.pack("!HH", identifier, ethertype) + inner


def strange_frames(field: Arena, destination: bytes) -> list[bytes]:
    """Each ethertype with something inside that would be worth while: a neighbour's packet."""

    def spoofed() -> bytes:
        return packets.datagram(OPEN4, NODE4, field.mark())

    payloads = [
        (VLAN, tagged(100, spoofed(), IPV4)),
        (VLAN, tagged(100, tagged(0, spoofed(), IPV4), VLAN)),
        (0x88A8, tagged(100, tagged(1, spoofed(), IPV4), VLAN)),
        (0x9100, tagged(1, spoofed(), IPV4)),
        (0x8847, struct.pack("!I", 16 << 12 | 0x1FF) + spoofed()),
        (0x8864, b"\x11\0\0\1" + struct.pack("!HH", 200, 0x21) + spoofed()),
        (LLDP, b"\x02\x07\x04" + ATTACKER_MAC + field.mark()),
        (EAPOL, b"\x01\x01\0\0" + field.mark()),
        (0x8035, packets.arp(3, (ATTACKER_MAC, OPEN4), (ATTACKER_MAC, OPEN4), field.mark())),
        (0x8137, field.mark()),
        (0x86FF, field.mark()),
        (0xFFFF, field.mark()),
        (0x0000, field.mark()),
        # 802.3: a length instead of a type; spanning tree; SNAP with IPv4 inside.
        (38, b"\x42\x42\x03" + bytes(35) + field.mark()),
        (100, b"\xaa\xaa\x03\0\0\0\x08\0" + spoofed()),
    ]
    return [
        packets.ethernet(destination, ATTACKER_MAC, ethertype, payload)
        for ethertype, payload in payloads
    ]


DESTINATIONS = {
    "the host": parse_mac(HOST_MAC),
    "a neighbour": OPEN_MAC,
    "everybody": BROADCAST_MAC,
    "bridges": parse_mac("01:80:c2:00:00:00"),
}


@pytest.mark.parametrize("to", DESTINATIONS)
def test_a12_other_ethertypes_reach_nobody(field: Arena, to: str) -> None:
    """Routing is the protection: nothing forwards a frame. On a bridge they would arrive."""
    build = partial(strange_frames, field, DESTINATIONS[to])
    assert field.send(build) == {}
    if to == "bridges":
        return  # not even a bridge forwards those
    if to == "the host":
        build = partial(strange_frames, field, OPEN_MAC)
    bridge = """ip link add bridged type bridge; ip link set bridged up
        ip link set cali1 master bridged; ip link set cali2 master bridged"""
    subprocess.run(["sh", "-ec", bridge], check=True)
    try:
        wire = field.wire
        for frame in build():
            wire.send(frame)
        assert len(field.arrivals_at("open")) >= 13, "they are frames that arrive where they may"
    finally:
        subprocess.run(["ip", "link", "del", "bridged"], check=True)
        field.host.read_link_events()
        field.host.resync()


@pytest.mark.parametrize("tags", [1, 2])
def test_a12_a_priority_tag_hides_nothing(field: Arena, tags: int) -> None:
    """The kernel strips VLAN 0 and sees an IP packet; so do we."""

    def build(source: str = OPEN4) -> list[bytes]:
        inner, ethertype = packets.datagram(source, NODE4, field.mark()), IPV4
        for _ in range(tags):
            inner, ethertype = tagged(5 << 13, inner, ethertype), VLAN
        return [packets.ethernet(parse_mac(HOST_MAC), ATTACKER_MAC, ethertype, inner)]

    if tags == 1:
        field.assert_stopped(build, at={"gate", "node"})
        assert field.send(partial(build, OWN4))["node"] == 1
    assert field.send(build) == {}


def test_a12_a_packet_of_the_other_family_s_type(field: Arena) -> None:
    """IPv6 announced as IPv4, and the other way round."""

    def build() -> list[bytes]:
        to = parse_mac(HOST_MAC)
        return [
            packets.ethernet(to, ATTACKER_MAC, IPV4, packets.datagram(OPEN6, NODE6, field.mark())),
            packets.ethernet(to, ATTACKER_MAC, IPV6, packets.datagram(OPEN4, NODE4, field.mark())),
        ]

    assert field.send(build) == {}


TO_ALL = {
    "everybody here": ("255.255.255.255", "ff:ff:ff:ff:ff:ff"),
    "all hosts": ("224.0.0.1", "01:00:5e:00:00:01"),
    "mDNS": ("224.0.0.251", "01:00:5e:00:00:fb"),
    "SSDP": ("239.255.255.250", "01:00:5e:7f:ff:fa"),
    "the uplink's network": ("192.0.2.255", HOST_MAC),
    "all nodes": ("ff02::1", "33:33:00:00:00:01"),
    "all routers": ("ff02::2", "33:33:00:00:00:02"),
    "all nodes of the site": ("ff05::1", "33:33:00:00:00:01"),
}
HEARD_BY_THE_HOST = {"everybody here", "all hosts", "the uplink's network", "all nodes",
                     "all routers"}  # fmt: skip


@pytest.mark.parametrize("who", TO_ALL)
def test_a15_broadcast_and_multicast(field: Arena, who: str) -> None:
    """They get to no neighbour, nor to the host or the wire."""
    to, mac = TO_ALL[who]
    source = OWN6 if ":" in to else OWN4

    def build() -> list[bytes]:
        packet = packets.datagram(source, to, field.mark(), ports=(1900, 1900))
        return [field.frame(packet, destination=parse_mac(mac))]

    at = {"host"} if who in HEARD_BY_THE_HOST else set()
    if at:
        field.assert_stopped(build, at=at)
    else:
        assert field.send(build).keys() <= {"gate"}
        with field.unprotected():
            assert field.send(build).keys() <= {"gate"}, "nobody has joined; nothing is routed"


def test_a15_a_unicast_packet_in_a_broadcast_frame(field: Arena) -> None:
    """Would be multiplied by a switch; a router does not take it."""

    def build() -> list[bytes]:
        packet = packets.datagram(OWN4, "10.65.0.3", field.mark())
        return [field.frame(packet, destination=BROADCAST_MAC)]

    assert field.send(build).keys() <= {"gate"}
