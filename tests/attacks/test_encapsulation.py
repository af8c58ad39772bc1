"""A5: a workload's packets do not travel inside of others."""

import struct

import pytest
from tests.attacks import packets
from tests.attacks.arena import HOST4, HOST6, NODE4, NODE6, Arena, arena
from tests.attacks.packets import GRE, IPIP, IPV6_IN_IP, UDP
from tests.netns.dataplane_host import HOST_MAC

from tortie.dataplane.settings import Settings
from tortie.kernel.netns import enter
from tortie.kernel.rtnl.link import parse_mac

OWN4, OWN6, OPEN4 = "10.65.0.1", "fd00:65::1", "10.65.0.2"
VXLAN_PORT = 4789


def inner(field: Arena) -> bytes:
    """Forged: from a workload of another host, to the one that nothing may reach."""
    return packets.datagram("10.65.0.77", "10.65.0.3", field.mark())


def inner6(field: Arena) -> bytes:
    return packets.datagram("fd00:65::77", "fd00:65::3", field.mark())


def vxlan(field: Arena) -> bytes:
    macs = parse_mac(HOST_MAC), parse_mac("02:66:66:66:66:66")
    return struct.pack("!II", 0x08000000, 4096 << 8) + packets.ethernet(*macs, 0x0800, inner(field))


def gre(field: Arena) -> bytes:
    return struct.pack("!HH", 0, 0x0800) + inner(field)


def build(field: Arena, what: str, to: str) -> bytes:
    source, outer = (OWN6, packets.ipv6) if ":" in to else (OWN4, packets.ipv4)
    match what:
        case "VXLAN":
            body = packets.udp(source, to, vxlan(field), ports=(50000, VXLAN_PORT))
            return outer(source, to, UDP, body)
        case "VXLAN without a checksum":
            body = packets.udp(source, to, vxlan(field), ports=(50000, VXLAN_PORT))
            return outer(source, to, UDP, body[:6] + bytes(2) + body[8:])
        case "IP in IP":
            return outer(source, to, IPIP, inner(field))
        case "IPv6 in IP":
            return outer(source, to, IPV6_IN_IP, inner6(field))
        case "GRE":
            return outer(source, to, GRE, gre(field))
        case _:
            raise AssertionError(what)


TUNNELS = ("VXLAN", "IP in IP", "IPv6 in IP", "GRE")


@pytest.mark.parametrize("to", [NODE4, NODE6, OPEN4])
@pytest.mark.parametrize("what", TUNNELS)
def test_a5_out_of_a_workload(field: Arena, what: str, to: str) -> None:
    place = "open" if to == OPEN4 else "node"
    field.assert_stopped(lambda: [field.frame(build(field, what, to))], at={place})


@pytest.mark.parametrize("to", [HOST4, HOST6])
@pytest.mark.parametrize("what", TUNNELS)
def test_a5_to_the_end_of_a_tunnel_on_this_host(accepting: Arena, what: str, to: str) -> None:
    """Even where workloads may talk to the host: it would unpack what they forged."""
    accepting.assert_stopped(lambda: [accepting.frame(build(accepting, what, to))], at={"host"})


def test_a5_the_host_takes_others(accepting: Arena) -> None:
    """What is not a tunnel does get to a host that accepts."""
    plain = packets.datagram
    assert accepting.send(
        lambda: [accepting.frame(plain(OWN4, HOST4, accepting.mark(), ports=(50000, 4790)))]
    ) == {"gate": 1, "host": 1}


def test_a5_behind_an_extension_header(field: Arena) -> None:
    """The protocol is that of the chain's end, however long the chain."""

    def chained() -> list[bytes]:
        destination_options = bytes((60, 0, 1, 4, 0, 0, 0, 0))
        last = bytes((IPIP, 0, 1, 4, 0, 0, 0, 0))
        udp_last = bytes((UDP, 0, 1, 4, 0, 0, 0, 0))
        datagram = packets.udp(OWN6, NODE6, vxlan(field), ports=(50000, VXLAN_PORT))
        return [
            field.frame(packets.ipv6(OWN6, NODE6, 60, last + inner(field))),
            field.frame(packets.ipv6(OWN6, NODE6, 60, destination_options + last + inner(field))),
            field.frame(packets.ipv6(OWN6, NODE6, 60, udp_last + datagram)),
        ]

    field.assert_stopped(chained, at={"node"})


@pytest.mark.parametrize(
    ("settings", "open_"),
    [
        (Settings(host="h1", allow_vxlan_from_workloads=True), {"VXLAN"}),
        (
            Settings(host="h1", allow_ipip_from_workloads=True),
            {"IP in IP", "IPv6 in IP", "GRE"},
        ),
    ],
)
def test_a5_unless_it_is_allowed(settings: Settings, open_: set[str]) -> None:
    with arena(settings) as field, enter(field.namespace):
        for what in TUNNELS:

            def made(what: str = what) -> list[bytes]:
                return [field.frame(build(field, what, NODE4))]

            assert field.send(made).get("node", 0) == (what in open_), what
