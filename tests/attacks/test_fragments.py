"""K15 to K19: packets in pieces, with options, with errors inside."""

import subprocess
from functools import partial

import pytest
from tests.attacks import packets
from tests.attacks.arena import HOST4, NODE4, NODE6, Arena
from tests.attacks.packets import ICMP, ICMPV6, TCP, UDP
from tests.netns.dataplane_host import ALLOW_ALL, tier

from tortie.desired import policy
from tortie.desired.policy import PolicyList, PortRange

OWN4, OWN6 = "10.65.0.1", "fd00:65::1"
GUARDED4, GUARDED6 = "10.65.0.3", "fd00:65::3"
MORE = 0x2000
_FRAGMENT_HEADER = 44


def fragments4(field: Arena, to: str, port: int, sizes: tuple[int, ...]) -> list[bytes]:
    """A datagram in pieces of so many bytes (of eight, but for the last)."""
    # Its number in the last piece, and in the first if that is large enough.
    whole = packets.udp(OWN4, to, field.mark() + bytes(24) + field.mark(), ports=(4000, port))
    made, offset = [], 0
    identifier = int.from_bytes(field.mark()[-2:], "big")
    for size in (*sizes, len(whole) - sum(sizes)):
        piece = whole[offset : offset + size]
        last = offset + size == len(whole)
        word = offset // 8 | (0 if last else MORE)
        made.append(packets.ipv4(OWN4, to, UDP, piece, identifier=identifier, fragment=word))
        offset += size
    return [field.frame(packet) for packet in made]


def fragment6(
    to: str, identifier: int, offset: int, piece: bytes, *, more: bool, protocol: int = UDP
) -> bytes:
    word = (offset // 8) << 3 | more
    head = bytes((protocol, 0)) + word.to_bytes(2, "big") + identifier.to_bytes(4, "big")
    return packets.ipv6(OWN6, to, _FRAGMENT_HEADER, head + piece)


SIZES = {"whole": (), "two": (24,), "tiny": (8,), "many": (8, 8, 8, 8)}


def fragments6(field: Arena, to: str, port: int, sizes: tuple[int, ...]) -> list[bytes]:
    """As `fragments4`."""
    whole = packets.udp(OWN6, to, field.mark() + bytes(24) + field.mark(), ports=(4000, port))
    made, offset = [], 0
    identifier = int.from_bytes(field.mark()[-4:], "big")
    for size in (*sizes, len(whole) - sum(sizes)):
        more = offset + size < len(whole)
        made.append(fragment6(to, identifier, offset, whole[offset : offset + size], more=more))
        offset += size
    return [field.frame(packet) for packet in made]


@pytest.mark.parametrize("how", SIZES)
@pytest.mark.parametrize("family", [4, 6])
def test_k16_fragments_are_judged_whole(field: Arena, how: str, family: int) -> None:
    """Policy sees ports however small the pieces: port 80 is denied, 81 is not."""
    to = NODE4 if family == 4 else NODE6
    made = fragments4 if family == 4 else fragments6
    side = policy.Side(ports=(PortRange(80, 80),))
    deny = field.host.policy("no-80", egress=(policy.Rule("Deny", protocol=UDP, destination=side),))
    field.host.endpoint(
        field.attacker, egress=PolicyList((tier(deny, default="Pass"),), profiles=(ALLOW_ALL,))
    )
    field.host.apply()
    try:
        build = partial(made, field, to, 80, SIZES[how])
        field.assert_stopped(build, at={"forwarded", "node"})
        assert field.send(partial(made, field, to, 81, SIZES[how]))["node"]
    finally:
        field.host.endpoint(field.attacker)
        field.host.apply()


def test_k16_a_piece_alone_goes_nowhere(field: Arena) -> None:
    """Without its beginning nobody knows what it is; to whom nothing may go, least of all."""

    def build() -> list[bytes]:
        made = []
        for to in (NODE4, GUARDED4):
            body = field.mark() + bytes(12)
            made.append(packets.ipv4(OWN4, to, UDP, body, identifier=7, fragment=1))
            made.append(packets.ipv4(OWN4, to, UDP, body, identifier=8, fragment=MORE | 185))
            made.append(packets.ipv4(OWN4, to, TCP, body, identifier=9, fragment=MORE | 1))
        for to in (NODE6, GUARDED6):
            made.append(fragment6(to, 7, 8, field.mark() + bytes(12), more=False))
            made.append(fragment6(to, 8, 1480, field.mark() + bytes(12), more=True))
        return [field.frame(packet) for packet in made]

    assert field.send(build).keys() <= {"gate"}


def test_k16_pieces_of_another_s_packet(field: Arena) -> None:
    """The beginning with the own source, the rest with a neighbour's: two packets, not one."""

    def build() -> list[bytes]:
        whole = packets.udp(OWN4, NODE4, bytes(16) + field.mark(), ports=(4000, 81))
        first = packets.ipv4(OWN4, NODE4, UDP, whole[:24], identifier=77, fragment=MORE)
        rest = packets.ipv4("10.65.0.2", NODE4, UDP, whole[24:], identifier=77, fragment=3)
        return [field.frame(first), field.frame(rest)]

    assert field.send(build) == {}


def test_k16_pieces_of_another_s_packet_of_ipv6(field: Arena) -> None:
    """A spoofed piece does not even get to where pieces are put together."""

    def build() -> list[bytes]:
        identifier = int.from_bytes(field.mark()[-4:], "big")
        source = "fd00:65::2"
        whole = packets.udp(source, NODE6, bytes(16) + field.mark(), ports=(4000, 81))
        made = []
        for offset, size in ((0, 24), (24, len(whole) - 24)):
            head = bytes((UDP, 0)) + (offset | (offset == 0)).to_bytes(2, "big")
            head += identifier.to_bytes(4, "big")
            piece = head + whole[offset : offset + size]
            made.append(field.frame(packets.ipv6(source, NODE6, _FRAGMENT_HEADER, piece)))
        return made

    field.assert_stopped(build, at={"node"})


def test_k16_overlapping_pieces(field: Arena) -> None:
    """The second piece would rewrite the first one's port: the kernel drops such packets."""
    side = policy.Side(ports=(PortRange(80, 80),))
    deny = field.host.policy("no-80", egress=(policy.Rule("Deny", protocol=UDP, destination=side),))
    field.host.endpoint(
        field.attacker, egress=PolicyList((tier(deny, default="Pass"),), profiles=(ALLOW_ALL,))
    )
    field.host.apply()

    def build() -> list[bytes]:
        good = packets.udp(OWN4, NODE4, bytes(16) + field.mark(), ports=(4000, 81))
        bad = packets.udp(OWN4, NODE4, bytes(16) + field.mark(), ports=(4000, 80))
        made = [
            packets.ipv4(OWN4, NODE4, UDP, good[:24], identifier=5, fragment=MORE),
            packets.ipv4(OWN4, NODE4, UDP, bad[:16], identifier=5, fragment=MORE),
            packets.ipv4(OWN4, NODE4, UDP, bad[24:], identifier=5, fragment=3),
            fragment6(NODE6, 5, 0, good[:24], more=True),
            fragment6(NODE6, 5, 8, bad[8:24], more=True),
            fragment6(NODE6, 5, 24, bad[24:], more=False),
        ]
        return [field.frame(packet) for packet in made]

    try:
        assert "node" not in field.send(build)
        assert field.send(partial(fragments4, field, NODE4, 81, (24,)))["node"]
    finally:
        field.host.endpoint(field.attacker)
        field.host.apply()


def test_k16_an_atomic_fragment(field: Arena) -> None:
    """A fragment header on a whole packet: judged as what it holds."""

    def build(to: str = GUARDED6) -> list[bytes]:
        body = packets.udp(OWN6, to, field.mark(), ports=(4000, 81))
        return [field.frame(fragment6(to, 11, 0, body, more=False))]

    field.assert_stopped(build, at={"guarded"})
    assert field.send(partial(build, NODE6))["node"] == 1


LOOSE, STRICT, RECORD, TIMESTAMP = 0x83, 0x89, 0x07, 0x44


@pytest.mark.parametrize("kind", [LOOSE, STRICT])
def test_k17_source_routing(field: Arena, kind: int) -> None:
    """By way of the host, or of a neighbour, to whom nothing may go."""

    def build(via: str = HOST4) -> list[bytes]:
        hop = bytes(map(int, GUARDED4.split(".")))
        options = bytes((kind, 7, 4)) + hop
        body = packets.udp(OWN4, via, field.mark(), ports=(4000, 81))
        return [field.frame(packets.ipv4(OWN4, via, UDP, body, options=options))]

    field.assert_stopped(build, at={"guarded"})
    assert field.send(partial(build, "10.65.0.2")).keys() <= {"gate"}


def test_k17_options_hide_no_ports(field: Arena) -> None:
    """A longer header: the ports are where it ends."""

    def build(to: str = GUARDED4) -> list[bytes]:
        made = []
        for options in (b"\x01" * 4, bytes((RECORD, 39, 4)) + bytes(36) + b"\0",
                        bytes((TIMESTAMP, 12, 5, 0)) + bytes(8)):  # fmt: skip
            body = packets.udp(OWN4, to, field.mark(), ports=(4000, 81))
            made.append(field.frame(packets.ipv4(OWN4, to, UDP, body, options=options)))
        return made

    field.assert_stopped(build, at={"guarded"})
    assert field.send(partial(build, NODE4))["node"] == 3


def test_k17_extension_headers(field: Arena) -> None:
    """Hop-by-hop, destination options, routing of type 0 and 4 in front of a datagram."""

    def build(to: str = GUARDED6) -> list[bytes]:
        via = bytes.fromhex("fd000065000000000000000000000003")
        made = []
        for kind, head in (
            (0, bytes((UDP, 0, 1, 4, 0, 0, 0, 0))),
            (60, bytes((UDP, 0, 1, 4, 0, 0, 0, 0))),
            (43, bytes((UDP, 2, 0, 0, 0, 0, 0, 0)) + via),
            (43, bytes((UDP, 2, 4, 0, 0, 0, 0, 0)) + via),
        ):
            body = packets.udp(OWN6, to, field.mark(), ports=(4000, 81))
            made.append(field.frame(packets.ipv6(OWN6, to, kind, head + body)))
        return made

    field.assert_stopped(build, at={"guarded"})


def test_k17_a_routing_header_with_hops_left(field: Arena) -> None:
    """RFC 5095: the host on the way does not turn it round to the next hop."""

    def build() -> list[bytes]:
        via = bytes.fromhex("fd000065000000000000000000000003")
        made = []
        for kind in (0, 4):
            head = bytes((UDP, 2, kind, 1, 0, 0, 0, 0)) + via
            body = packets.udp(OWN6, GUARDED6, field.mark(), ports=(4000, 81))
            made.append(field.frame(packets.ipv6(OWN6, "fd00:2::1", 43, head + body)))
        return made

    with field.unprotected():
        assert "host" in field.send(build)
    assert field.send(build).keys() <= {"gate"}


def test_k15_errors_about_nothing(field: Arena) -> None:
    """ICMP errors are let in as related: not when no connection is in them."""

    def build() -> list[bytes]:
        made = []
        for kind, code in ((3, 3), (3, 4), (11, 0), (12, 0), (4, 0), (5, 1)):
            quoted = packets.datagram(GUARDED4, OWN4, field.mark(), ports=(81, 4000))
            error = packets.icmp(kind, bytes(4) + quoted, code)
            made.append(packets.ipv4(OWN4, GUARDED4, ICMP, error))
        for kind in (1, 2, 3, 4):
            quoted = packets.datagram(GUARDED6, OWN6, field.mark(), ports=(81, 4000))
            error = packets.icmpv6(OWN6, GUARDED6, kind, bytes(4) + quoted)
            made.append(packets.ipv6(OWN6, GUARDED6, ICMPV6, error))
        return [field.frame(packet) for packet in made]

    field.assert_stopped(build, at={"guarded"})


def test_k15_no_helper_opens_a_port(field: Arena) -> None:
    """What FTP says on its control connection is text, and opens nothing."""
    setting = "/proc/sys/net/netfilter/nf_conntrack_helper"
    try:
        with open(setting) as file:
            assert file.read().strip() == "0"
    except FileNotFoundError:
        pass  # since 6.0 there are none that nobody asks for
    ruleset = subprocess.run(["nft", "list", "table", "inet", "tortie"], capture_output=True,
                             text=True, check=True).stdout  # fmt: skip
    assert "helper" not in ruleset


def test_k18_a_packet_does_not_go_round(field: Arena) -> None:
    """To an address of the pool that nobody has, by way of a default route back here."""
    subprocess.run(["ip", "route", "add", "default", "via", NODE4], check=True)
    try:

        def build() -> list[bytes]:
            return [field.frame(packets.datagram(OWN4, "10.65.0.77", field.mark()))]

        # This arena has no block, whose blackhole route ends it: with one,
        assert field.send(build).get("forwarded") == 1
        subprocess.run(["ip", "route", "add", "blackhole", "10.65.0.0/24"], check=True)
        assert field.send(build) == {"gate": 1}
        subprocess.run(["ip", "route", "del", "blackhole", "10.65.0.0/24"], check=True)
    finally:
        subprocess.run(["ip", "route", "del", "default"], check=True)
