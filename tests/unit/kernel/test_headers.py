"""Headers of logged packets: whatever a workload sends, this never fails."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tortie.kernel.headers import Headers, parse
from tortie.lib.ip import parse_address

V4 = (parse_address("10.0.0.1"), parse_address("10.0.0.2"))
V6 = (parse_address("fd00::1"), parse_address("fd00::2"))
PORTS = struct.pack("!HH", 1234, 80)
FIRST_FRAGMENT = b"\x06\0\0\x01" + bytes(4)
ECHO = bytes((8, 0, 0, 0)) + struct.pack("!HH", 77, 1)


def ipv4(protocol: int, rest: bytes, *, fragment: int = 0, options: bytes = b"") -> bytes:
    words = 5 + len(options) // 4
    length = words * 4 + len(rest)
    head = struct.pack("!BBHHHBBH", 0x40 | words, 0, length, 1, fragment, 64, protocol, 0)
    return head + V4[0].packed + V4[1].packed + options + rest


def ipv6(next_header: int, rest: bytes) -> bytes:
    head = struct.pack("!IHBB", 6 << 28, len(rest), next_header, 64)
    return head + V6[0].packed + V6[1].packed + rest


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (ipv4(6, PORTS), Headers(*V4, 6, 24, 1234, 80)),
        (ipv4(17, PORTS, options=bytes(8)), Headers(*V4, 17, 32, 1234, 80)),
        (ipv4(1, ECHO), Headers(*V4, 1, 28, icmp_type=8, icmp_id=77)),
        (ipv4(1, bytes((3, 1)) + ECHO), Headers(*V4, 1, 30, icmp_type=3, icmp_code=1)),
        (ipv4(47, PORTS), Headers(*V4, 47, 24)),
        (ipv4(17, PORTS, fragment=5), Headers(*V4, 17, 24)),
        (ipv4(17, PORTS, fragment=0x2000), Headers(*V4, 17, 24, 1234, 80)),
        (ipv4(6, b"\0"), Headers(*V4, 6, 21)),
        (ipv6(17, PORTS), Headers(*V6, 17, 44, 1234, 80)),
        (ipv6(58, b"\x80" + ECHO[1:]), Headers(*V6, 58, 48, icmp_type=128, icmp_id=77)),
        # Hop-by-hop, then destination options of 16 bytes, then a first fragment.
        (
            ipv6(
                0, b"\x3c" + bytes(7) + b"\x2c\x01" + bytes(14) + b"\x06\0\0\x01" + bytes(4) + PORTS
            ),
            Headers(*V6, 6, 76, 1234, 80),
        ),
        (ipv6(44, b"\x06\0\0\x08" + bytes(4) + PORTS), Headers(*V6, 6, 52)),
        (ipv6(51, b"\x06\x04\0\0" + bytes(20) + PORTS), Headers(*V6, 6, 68, 1234, 80)),
        (b"", None),
        (b"\x45" + bytes(18), None),
        (b"\x60" + bytes(38), None),
        (b"\x50" + bytes(60), None),
    ],
)
def test_what_policy_looks_at(packet: bytes, expected: Headers | None) -> None:
    assert parse(packet) == expected


@given(st.binary(max_size=128), st.sampled_from([b"", b"\x45", b"\x4f", b"\x60"]))
def test_nothing_makes_it_fail(rest: bytes, first: bytes) -> None:
    found = parse(first + rest)
    assert found is None or 0 <= found.destination_port <= 65535
