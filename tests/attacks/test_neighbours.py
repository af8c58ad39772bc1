"""A2, A3, A4, A10: what a workload says of addresses, routers and itself."""

import socket
import subprocess
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import partial

import pytest
from tests.attacks import packets
from tests.attacks.arena import GATEWAY4, HOST4, HOST6, NODE4, NODE6, NODE_MAC, Arena, Build
from tests.attacks.packets import ARP, BROADCAST_MAC, ICMPV6
from tests.netns.dataplane_host import HOST_MAC

from tortie.dataplane.rules.static import LINK_LOCAL_LIMIT
from tortie.kernel.rtnl.link import parse_mac

ATTACKER_MAC = parse_mac("02:00:00:00:00:01")
STRANGE_MAC = parse_mac("02:66:66:66:66:66")
OPEN4, OPEN6 = "10.65.0.2", "fd00:65::2"
OWN4, OWN6, OWN_LOCAL = "10.65.0.1", "fd00:65::1", "fe80::65:1"
ALL_NODES, ALL_NODES_MAC = "ff02::1", parse_mac("33:33:00:00:00:01")
REQUEST, REPLY = 1, 2
ROUTER_SOLICITATION, ROUTER_ADVERTISEMENT = 133, 134
SOLICITATION, ADVERTISEMENT, REDIRECT = 135, 136, 137
MLD_QUERY = 130


def arp(
    field: Arena, operation: int, sender: str, target: str, mac: bytes = ATTACKER_MAC
) -> list[bytes]:
    body = packets.arp(operation, (mac, sender), (bytes(6), target), field.mark())
    return [packets.ethernet(BROADCAST_MAC, ATTACKER_MAC, ARP, body)]


LIES = {
    "I am my neighbour": (REQUEST, OPEN4, HOST4, ATTACKER_MAC),
    "my neighbour is here": (REPLY, OPEN4, HOST4, ATTACKER_MAC),
    "my neighbour has moved": (REQUEST, OPEN4, OPEN4, ATTACKER_MAC),
    "the gateway is here": (REPLY, GATEWAY4, GATEWAY4, ATTACKER_MAC),
    "I am the other machine": (REQUEST, NODE4, HOST4, ATTACKER_MAC),
    "I am the host": (REQUEST, HOST4, HOST4, ATTACKER_MAC),
    "I have another MAC": (REPLY, OWN4, HOST4, STRANGE_MAC),
    "does anyone have this": (REQUEST, "0.0.0.0", OPEN4, ATTACKER_MAC),
}


@pytest.mark.parametrize("lie", LIES)
def test_a2_arp(field: Arena, lie: str) -> None:
    operation, sender, target, mac = LIES[lie]
    field.assert_stopped(partial(arp, field, operation, sender, target, mac), at={"arp"})


def test_a2_the_truth_is_heard(field: Arena) -> None:
    assert field.send(partial(arp, field, REQUEST, OWN4, GATEWAY4)) == {"arp": 1}


def test_a2_a_flood_leaves_no_entries(field: Arena) -> None:
    """Each request would be an entry of a table that all interfaces share."""

    def flood() -> list[bytes]:
        return [
            frame
            for number in range(200)
            for frame in arp(field, REQUEST, f"10.77.0.{number}", HOST4)
        ]

    subprocess.run(["ip", "route", "add", "10.77.0.0/24", "dev", "cali1"], check=True)
    try:
        assert "arp" not in field.send(flood)
        assert neighbours("10.77.") == []
        with field.unprotected():
            assert field.send(flood)["arp"] == 200
            assert len(neighbours("10.77.")) > 100
    finally:
        subprocess.run(["ip", "route", "del", "10.77.0.0/24"], check=True)
        subprocess.run(["ip", "neigh", "flush", "dev", "cali1", "nud", "stale"], check=True)


def neighbours(prefix: str) -> list[str]:
    listed = subprocess.run(["ip", "neigh"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if line.startswith(prefix)]


def nd(
    field: Arena,
    kind: int,
    body: bytes,
    *,
    source: str = OWN_LOCAL,
    to: str = ALL_NODES,
    mac: bytes | None = ALL_NODES_MAC,
) -> list[bytes]:
    """Neighbour discovery; the number is an option that nobody knows (RFC 4861, 4.6)."""
    message = packets.icmpv6(source, to, kind, body + packets.option(253, field.mark()))
    packet = packets.ipv6(source, to, ICMPV6, message, hops=255)
    return [field.frame(packet, destination=mac)]


# Hop limit 64, lifetime 1800 s; a /64 on the link, to be used for addresses.
_ROUTER = bytes((64, 0, 7, 8)) + bytes(8)
_PREFIX = packets.option(
    3, bytes((64, 0xC0)) + b"\0\1\0\0" * 2 + bytes(4) + b"\x20\x01\x0d\xb8" + bytes(12)
)


@pytest.mark.parametrize(
    ("source", "to"),
    [(OWN_LOCAL, ALL_NODES), (OWN6, ALL_NODES), (OWN_LOCAL, HOST6), (OWN6, HOST6)],
)
def test_a3_router_advertisement(field: Arena, source: str, to: str) -> None:
    """CVE-2020-13597: a host that believes it sends its traffic to the workload."""
    mac = ALL_NODES_MAC if to == ALL_NODES else None
    build = partial(
        nd, field, ROUTER_ADVERTISEMENT, _ROUTER + _PREFIX, source=source, to=to, mac=mac
    )
    field.assert_stopped(build, at={"gate", "host"})


def test_a3_nor_is_the_host_a_router_that_advertises(field: Arena) -> None:
    """Some program of the host's, or another workload by way of it: workloads hear none."""
    body = bytes((ROUTER_ADVERTISEMENT, 0, 0, 0)) + _ROUTER + _PREFIX

    def build() -> list[bytes]:
        _wait_for_link_local(field.open.interface)
        with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as raw:
            raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
            link = socket.if_nametoindex(field.open.interface)
            message = body + packets.option(253, field.mark())
            # Dropped in the output hook it is refused to the sender.
            with suppress(PermissionError):
                raw.sendto(message, (ALL_NODES, 0, 0, link))
        return []

    field.assert_stopped(build, at={"open"})


def _wait_for_link_local(interface: str) -> None:
    """Nothing can be sent from it while others are asked whether it is theirs."""
    give_up = time.monotonic() + 20
    shown = ["ip", "-6", "address", "show", "dev", interface, "-tentative"]
    while b"fe80" not in subprocess.run(shown, capture_output=True, check=True).stdout:
        assert time.monotonic() < give_up
        time.sleep(0.1)


def test_a3_a_router_advertisement_would_be_believed(field: Arena) -> None:
    """And is not: no route, no address, whatever other parts of the host ask for."""
    build = partial(nd, field, ROUTER_ADVERTISEMENT, _ROUTER + _PREFIX)
    with open("/proc/sys/net/ipv6/conf/cali1/accept_ra", "w") as file:
        file.write("2")
    field.send(build)
    assert _routes_learnt() == []
    field.host.resync()
    with field.unprotected():
        field.send(build)
        assert _routes_learnt(), "the kernel believes it, if it hears it"


def _routes_learnt() -> list[str]:
    shown = subprocess.run(
        ["ip", "-6", "route", "show", "dev", "cali1"], capture_output=True, text=True, check=True
    ).stdout
    return [line for line in shown.splitlines() if " ra " in line or "2001:db8" in line]


def test_a3_redirect(field: Arena) -> None:
    """To the neighbour and to the host: "the better way to the other machine is by me"."""
    body = bytes(4) + bytes.fromhex("fe80000000000000000000000065 0001".replace(" ", ""))
    body += bytes.fromhex("fd000002000000000000000000000002")
    for source in (OWN_LOCAL, OWN6):
        build = partial(nd, field, REDIRECT, body, source=source, to=HOST6, mac=None)
        field.assert_stopped(build, at={"gate", "host"})
    build = partial(nd, field, REDIRECT, body, source=OWN6, to=OPEN6, mac=None)
    field.assert_stopped(build, at={"gate", "open"})


def test_a3_a_redirect_of_ipv4(field: Arena) -> None:
    """Its source would have to be the gateway. As oneself it is worth nothing."""

    def build() -> list[bytes]:
        quoted = packets.datagram(HOST4, NODE4, field.mark())
        redirect = packets.icmp(5, bytes((10, 65, 0, 1)) + quoted, code=1)
        return [
            field.frame(packets.ipv4(source, HOST4, 1, redirect))
            for source in (GATEWAY4, NODE4, OWN4)
        ]

    field.assert_stopped(build, at={"host"})


@pytest.mark.parametrize("kind", [MLD_QUERY, 134, 137, 138, 139, 144, 200])
def test_a3_other_messages_from_a_link_local_address(field: Arena, kind: int) -> None:
    build = partial(nd, field, kind, bytes(20))
    field.assert_stopped(build, at={"gate", "host"})


@pytest.mark.parametrize("address", [OWN4, OWN6])
def test_a3_the_host_knows_where_a_workload_is(field: Arena, address: str) -> None:
    """An advertisement with another MAC does not change a permanent entry; a learnt one it does."""
    version = "-6" if ":" in address else "-4"

    def believed() -> bool:
        (line,) = neighbours(f"{address} dev cali1")
        return "02:66:66:66:66:66" in line

    def build() -> list[bytes]:
        if version == "-4":
            # Spoken for by the ARP table; here without it.
            return arp(field, REPLY, address, HOST4, STRANGE_MAC)
        target = bytes.fromhex("fd000065000000000000000000000001")
        body = b"\x60\0\0\0" + target + packets.option(2, STRANGE_MAC)
        return nd(field, ADVERTISEMENT, body, source=OWN6, to=HOST6, mac=None)

    field.send(build)
    assert not believed()
    with field.unprotected():
        entry = [address, "lladdr", "02:00:00:00:00:01", "dev", "cali1"]
        change = ["ip", version, "neigh", "replace", *entry, "nud"]
        # ARP replies within a second of the last change are not believed.
        subprocess.run(["sysctl", "-qw", "net.ipv4.neigh.cali1.locktime=0"], check=True)
        subprocess.run([*change, "stale"], check=True)
        field.send(build)
        assert believed(), "a learnt entry is overwritten"
        subprocess.run([*change, "permanent"], check=True)


def test_a3_others_neighbours_are_not_changed(field: Arena) -> None:
    """Advertisements for whom the host knows on other links."""

    def build() -> list[bytes]:
        found = []
        for address in ("fd000065000000000000000000000002", "fd000002000000000000000000000002"):
            body = b"\xe0\0\0\0" + bytes.fromhex(address) + packets.option(2, STRANGE_MAC)
            for source in (OWN_LOCAL, OWN6):
                found += nd(field, ADVERTISEMENT, body, source=source, to=HOST6, mac=None)
        return found

    assert field.send(build)["host"] == 4, "advertisements are heard"
    assert not any("66:66" in line for line in neighbours(""))
    (line,) = neighbours(f"{NODE6} dev uplink")
    assert NODE_MAC in line


def dhcp(field: Arena, source: str, to: str, ports: tuple[int, int], mac: bytes) -> list[bytes]:
    body = bytes((2, 1, 6, 0)) + bytes(232) + b"\x63\x82\x53\x63\x35\1\2\xff" + field.mark()
    packet = packets.datagram(source, to, body, ports=ports)
    return [field.frame(packet, destination=mac)]


SERVERS = {
    "an offer to everybody": (OWN4, "255.255.255.255", (67, 68), "host"),
    "an offer to a neighbour": (OWN4, OPEN4, (67, 68), "open"),
    "an offer to the other machine": (OWN4, NODE4, (67, 68), "node"),
    "an offer to the host": (OWN4, HOST4, (67, 68), "host"),
    "an advertisement of DHCPv6": (OWN_LOCAL, HOST6, (547, 546), "host"),
    "an advertisement of DHCPv6 to a neighbour": (OWN6, OPEN6, (547, 546), "open"),
}


@pytest.mark.parametrize("what", SERVERS)
def test_a4_dhcp_server(field: Arena, what: str) -> None:
    source, to, ports, place = SERVERS[what]
    mac = BROADCAST_MAC if to.startswith("255") else parse_mac(HOST_MAC)
    build: Build = partial(dhcp, field, source, to, ports, mac)
    field.assert_stopped(build, at={place})


def test_a4_dhcp_client_where_the_host_is_no_server(field: Arena) -> None:
    build: Build = partial(dhcp, field, "0.0.0.0", "255.255.255.255", (68, 67), BROADCAST_MAC)
    field.assert_stopped(build, at={"gate", "host"})


def solicitations(field: Arena, sources: Iterable[str]) -> list[bytes]:
    """Each has the host remember who asked for its end of the link."""
    body = bytes(4) + socket.inet_pton(socket.AF_INET6, HOST_END)
    body += packets.option(1, ATTACKER_MAC)
    return [
        frame
        for source in sources
        for frame in nd(field, SOLICITATION, body, source=source, to=HOST_END, mac=None)
    ]


HOST_END = "fe80::ecee:eeff:feee:eeee"
"""What the MAC of its end makes."""


def invented(how_many: int) -> list[str]:
    return [f"fe80::bad:{number + 1:x}" for number in range(how_many)]


def forget(link: str = "cali1") -> None:
    subprocess.run(["ip", "-6", "neigh", "flush", "dev", link], check=True)


ALLOWED = LINK_LOCAL_LIMIT.burst + 2
"""Some more while the flood lasts."""


@pytest.mark.parametrize("kind", [SOLICITATION, ROUTER_SOLICITATION])
def test_a10_neighbours_that_a_workload_invents(field: Arena, kind: int) -> None:
    """Solicitations from many link-local addresses: each would be an entry of a table that all
    links share. (An arena for each case: the limit remembers.)"""

    def flood() -> list[bytes]:
        if kind == SOLICITATION:
            return solicitations(field, invented(200))
        body = bytes(4) + packets.option(1, ATTACKER_MAC)
        made = (nd(field, kind, body, source=one, to=HOST6, mac=None) for one in invented(200))
        return [frame for frames in made for frame in frames]

    await_address(HOST_END)
    permanent = [line for line in neighbours("") if "PERMANENT" in line]
    arrived = field.send(flood).get("host", 0)
    assert arrived <= ALLOWED
    assert len(neighbours("fe80::bad:")) <= ALLOWED
    assert [line for line in neighbours("") if "PERMANENT" in line] == permanent
    # Whose address is made of its MAC is heard all the same.
    assert field.send(lambda: solicitations(field, ["fe80::ff:fe00:1"])) == {"gate": 1, "host": 1}
    with field.unprotected():
        assert field.send(flood)["host"] == 200
        assert len(neighbours("fe80::bad:")) > 10 * ALLOWED
    forget()


def test_a10_one_workloads_flood_is_no_others(field: Arena) -> None:
    """Each has a limit of its own; and a made-up address or two is heard."""
    await_address(HOST_END)
    field.send(lambda: solicitations(field, invented(200)))
    forget()

    def build() -> list[bytes]:
        to, mac = parse_mac(HOST_MAC), parse_mac(field.open.mac)
        asked = solicitations(field, ["fe80::65:2", "fe80::65:3"])
        return [packets.ethernet(to, mac, packets.IPV6, frame[14:]) for frame in asked]

    with field.wire_of(field.open) as wire:
        assert field.send(build, wire=wire) == {"gate": 2, "host": 2}
    forget("cali2")


def test_a10_another_ones_address_is_not_ones_own(field: Arena) -> None:
    """What a neighbour's MAC makes counts as made up, too."""
    await_address(HOST_END)
    field.send(lambda: solicitations(field, invented(200)))
    assert field.send(lambda: solicitations(field, ["fe80::ff:fe00:2"])) == {}
    assert field.send(lambda: solicitations(field, ["fe80::ff:fe00:1"])) == {"gate": 1, "host": 1}
    forget()


def await_address(address: str) -> None:
    """Until the kernel has made sure that nobody else has it."""
    give_up = time.monotonic() + 5
    while time.monotonic() < give_up:
        shown = subprocess.run(["ip", "-6", "addr"], capture_output=True, text=True, check=True)
        if not any(address in one and "tentative" in one for one in shown.stdout.splitlines()):
            return
        time.sleep(0.1)
    raise AssertionError(f"{address} stays tentative")
