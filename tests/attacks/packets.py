"""Raw packets, as somebody with CAP_NET_RAW in a container can make them.

Lengths and checksums are right unless a caller asks for something else: what is
refused must be refused for what it is, not for being damaged.

Source: RFC 791, 8200, 768, 792, 4443, 826, 4861.
"""

import struct
from ipaddress import ip_address

ICMP, IPIP, TCP, UDP, IPV6_IN_IP, GRE, ICMPV6 = 1, 4, 6, 17, 41, 47, 58
ARP, IPV4, IPV6, VLAN, LLDP, EAPOL = 0x0806, 0x0800, 0x86DD, 0x8100, 0x88CC, 0x888E
BROADCAST_MAC = b"\xff" * 6


def ethernet(destination: bytes, source: bytes, ethertype: int, payload: bytes) -> bytes:
    return destination + source + struct.pack("!H", ethertype) + payload


def ipv4(
    source: str,
    destination: str,
    protocol: int,
    payload: bytes,
    *,
    options: bytes = b"",
    tos: int = 0,
    identifier: int = 0,
    fragment: int = 0,
    ttl: int = 64,
) -> bytes:
    """
    Args:
        options: padded to four bytes with end-of-options.
        fragment: flags and offset, the 16 bits of the header.
    """
    padded = options + bytes(-len(options) % 4)
    length = 20 + len(padded)
    fields = (0x40 | length // 4, tos, length + len(payload), identifier, fragment, ttl, protocol)
    ends = ip_address(source).packed + ip_address(destination).packed
    head = struct.pack("!BBHHHBB", *fields)
    summed = checksum(head + bytes(2) + ends + padded)
    return head + struct.pack("!H", summed) + ends + padded + payload


def ipv6(
    source: str,
    destination: str,
    next_header: int,
    payload: bytes,
    *,
    hops: int = 64,
    traffic_class: int = 0,
) -> bytes:
    """`payload` begins with `next_header`'s header, an extension header too."""
    first = 6 << 28 | traffic_class << 20
    ends = ip_address(source).packed + ip_address(destination).packed
    return struct.pack("!IHBB", first, len(payload), next_header, hops) + ends + payload


def udp(source: str, destination: str, payload: bytes, *, ports: tuple[int, int]) -> bytes:
    head = struct.pack("!HHH", *ports, 8 + len(payload))
    return head + _summed(source, destination, UDP, head + bytes(2) + payload) + payload


def tcp_syn(source: str, destination: str, payload: bytes, *, ports: tuple[int, int]) -> bytes:
    head = struct.pack("!HHIIBBH", *ports, 1, 0, 5 << 4, 0x02, 1024)
    summed = _summed(source, destination, TCP, head + bytes(4) + payload)
    return head + summed + bytes(2) + payload


def icmp(kind: int, body: bytes, code: int = 0) -> bytes:
    """`body` is everything behind the checksum."""
    head = bytes((kind, code))
    return head + struct.pack("!H", checksum(head + bytes(2) + body)) + body


def icmpv6(source: str, destination: str, kind: int, body: bytes) -> bytes:
    head = bytes((kind, 0))
    return head + _summed(source, destination, ICMPV6, head + bytes(2) + body) + body


def arp(
    operation: int,
    sender: tuple[bytes, str],
    target: tuple[bytes, str],
    payload: bytes,
) -> bytes:
    """
    Args:
        sender: MAC and address; so is `target`.
        payload: padding, which a receiver ignores.
    """
    ends = b"".join(mac + ip_address(address).packed for mac, address in (sender, target))
    return struct.pack("!HHBBH", 1, IPV4, 6, 4, operation) + ends + payload


def option(kind: int, body: bytes) -> bytes:
    """Of neighbour discovery: lengths are in units of eight bytes."""
    length = (2 + len(body) + 7) // 8
    return bytes((kind, length)) + body.ljust(8 * length - 2, b"\0")


def datagram(
    source: str, destination: str, payload: bytes, *, ports: tuple[int, int] = (4000, 4001)
) -> bytes:
    """A UDP datagram of the addresses' family with its IP header."""
    transport = udp(source, destination, payload, ports=ports)
    build = ipv4 if ip_address(source).version == 4 else ipv6
    return build(source, destination, UDP, transport)


def is_ipv6(packet: bytes) -> bool:
    return packet[0] >> 4 == 6


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    padded = data + bytes(len(data) % 2)
    words: tuple[int, ...] = struct.unpack(f"!{len(padded) // 2}H", padded)
    total = sum(words)
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _summed(source: str, destination: str, protocol: int, transport: bytes) -> bytes:
    ends = ip_address(source).packed + ip_address(destination).packed
    pseudo = ends + struct.pack("!II", len(transport), protocol)
    return struct.pack("!H", checksum(pseudo + transport) or 0xFFFF)
