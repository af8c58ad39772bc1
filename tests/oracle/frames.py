"""A packet as bytes on a wire, with a number inside by which it is known at the other end.

Everything a firewall looks at is real: lengths, checksums, an INIT for SCTP and a SYN for TCP, so
that connection tracking takes each for the beginning of a connection.

Source: RFC 791, 8200, 768, 9293, 9260, 792, 4443, 3828.
"""

import struct

from tests.oracle.clusters import ICMP4, ICMP6, SCTP, TCP, UDP, UDPLITE

from tortie.explain.oracle import Packet

_MAGIC = 0x7027_1E00
_TRAILER = struct.Struct("!II")
_ETHERTYPE = {4: b"\x08\x00", 6: b"\x86\xdd"}
ETHERNET_BYTES = 14


def frame(packet: Packet, number: int, *, source_mac: bytes, destination_mac: bytes) -> bytes:
    """An Ethernet frame."""
    family = packet.source.family
    transport = _transport(packet, _TRAILER.pack(_MAGIC, number))
    ends = packet.source.packed + packet.destination.packed
    if family == 4:
        header = struct.pack(
            "!BBHHHBBH", 0x45, 0, 20 + len(transport), 0, 0, 64, packet.protocol, 0
        )
        summed = _checksum(header + ends)
        header = header[:10] + struct.pack("!H", summed)
    else:
        header = struct.pack("!IHBB", 6 << 28, len(transport), packet.protocol, 64)
    return destination_mac + source_mac + _ETHERTYPE[family] + header + ends + transport


def number_in(received: bytes) -> int | None:
    """The number of one of our packets, with its Ethernet header; None for any other."""
    if len(received) < ETHERNET_BYTES + _TRAILER.size:
        return None
    # A frame is padded to 60 bytes by real hardware, never by a veth: the trailer is at the end.
    magic, number = _TRAILER.unpack_from(received, len(received) - _TRAILER.size)
    return number if magic == _MAGIC else None


def _transport(packet: Packet, payload: bytes) -> bytes:
    ports = struct.pack("!HH", packet.source_port or 0, packet.destination_port or 0)
    match packet.protocol:
        case protocol if protocol == TCP:
            syn = struct.pack("!IIBBHHH", 1, 0, 5 << 4, 0x02, 1024, 0, 0)
            return _summed(packet, ports + syn + payload, at=16)
        case protocol if protocol in (UDP, UDPLITE):
            ports = ports if protocol == UDP else struct.pack("!HH", 7, 7)
            length = struct.pack("!HH", 8 + len(payload), 0)
            return _summed(packet, ports + length + payload, at=6)
        case protocol if protocol == SCTP:
            # INIT: initiate tag, window, streams out and in, first sequence number, and an
            # unrecognised parameter (high bits 10: skip it) that holds the payload.
            parameter = struct.pack("!HH", 0x8777, 4 + len(payload)) + payload
            init = struct.pack("!IIHHI", 1, 65536, 1, 1, 1) + parameter
            chunk = struct.pack("!BBH", 1, 0, 4 + len(init)) + init
            unsummed = ports + bytes(8) + chunk
            return unsummed[:8] + struct.pack("<I", _crc32c(unsummed)) + unsummed[12:]
        case protocol if protocol in (ICMP4, ICMP6):
            head = struct.pack("!BBHHH", packet.icmp_type or 0, packet.icmp_code or 0, 0, 1, 1)
            return _summed(packet, head + payload, at=2)
    return bytes(8) + payload


def _summed(packet: Packet, segment: bytes, *, at: int) -> bytes:
    """With the Internet checksum, over the pseudo header too where the protocol wants it."""
    pseudo = b""
    if packet.protocol != ICMP4:
        ends = packet.source.packed + packet.destination.packed
        pseudo = ends + struct.pack("!II", len(segment), packet.protocol)
    value = _checksum(pseudo + segment) or 0xFFFF
    return segment[:at] + struct.pack("!H", value) + segment[at + 2 :]


def _checksum(data: bytes) -> int:
    """RFC 1071, of an even number of bytes."""
    words: tuple[int, ...] = struct.unpack(f"!{len(data) // 2}H", data)
    total = sum(words)
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def _crc32c(data: bytes) -> int:
    """Castagnoli's CRC, as SCTP has it."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF
