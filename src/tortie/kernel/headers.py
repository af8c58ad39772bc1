"""IP and transport headers of a packet, as far as policy looks at them.

Bytes from the wire: whatever does not parse is None, never an error.

Source: RFC 791, 8200 (extension headers), 768, 9293, 9260, 792, 4443.
"""

import struct
from typing import NamedTuple

from tortie.lib.ip import Network, from_packed

_IPV4 = struct.Struct("!BBHHHBBH4s4s")
_IPV6 = struct.Struct("!IHBB16s16s")
_PORTS = struct.Struct("!HH")

_WITH_PORTS = frozenset({6, 17, 33, 132, 136})
"""TCP, UDP, DCCP, SCTP, UDP-Lite."""
_ICMP = frozenset({1, 58})
_ECHOES = frozenset({0, 8, 128, 129})
_EXTENSIONS = frozenset({0, 43, 60, 135, 139, 140})
"""Hop-by-hop, routing, destination options, mobility, HIP, shim6: length in units of 8 bytes."""
_FRAGMENT = 44
_AUTHENTICATION = 51


class Headers(NamedTuple):
    source: Network
    destination: Network
    protocol: int
    length: int
    """Of the whole packet in bytes, as its header says."""
    source_port: int = 0
    destination_port: int = 0
    """Ports are 0 where the protocol has none, or in a fragment behind the first."""
    icmp_type: int = 0
    icmp_code: int = 0
    icmp_id: int = 0
    """Of an echo or its answer."""


def parse(packet: bytes) -> Headers | None:
    """Headers of an IPv4 or IPv6 packet, which may be cut short; None if it is neither."""
    version = packet[0] >> 4 if packet else 0
    if version == 4 and len(packet) >= _IPV4.size:
        return _parse_ipv4(packet)
    if version == 6 and len(packet) >= _IPV6.size:
        return _parse_ipv6(packet)
    return None


def _parse_ipv4(packet: bytes) -> Headers:
    first, _, length, _, fragment, _, protocol, _, source, destination = _IPV4.unpack_from(packet)
    offset = (first & 0xF) * 4
    head = Headers(from_packed(source), from_packed(destination), protocol, length)
    return head if fragment & 0x1FFF else _transport(head, packet[offset:])


def _parse_ipv6(packet: bytes) -> Headers:
    _, payload_length, protocol, _, source, destination = _IPV6.unpack_from(packet)
    offset = _IPV6.size
    is_later_fragment = False
    while len(packet) >= offset + 8:
        if protocol in _EXTENSIONS:
            size = (packet[offset + 1] + 1) * 8
        elif protocol == _AUTHENTICATION:
            size = (packet[offset + 1] + 2) * 4
        elif protocol == _FRAGMENT:
            size = 8
            is_later_fragment = bool(int.from_bytes(packet[offset + 2 : offset + 4], "big") >> 3)
        else:
            break
        protocol = packet[offset]
        offset += size
        if is_later_fragment:
            break
    length = payload_length + _IPV6.size
    head = Headers(from_packed(source), from_packed(destination), protocol, length)
    return head if is_later_fragment else _transport(head, packet[offset:])


def _transport(head: Headers, data: bytes) -> Headers:
    if head.protocol in _WITH_PORTS and len(data) >= _PORTS.size:
        source, destination = _PORTS.unpack_from(data)
        return head._replace(source_port=source, destination_port=destination)
    if head.protocol in _ICMP and len(data) >= 2:
        echo = data[0] in _ECHOES and len(data) >= 6
        number = int.from_bytes(data[4:6], "big") if echo else 0
        return head._replace(icmp_type=data[0], icmp_code=data[1], icmp_id=number)
    return head
