"""Keys and data as the kernel lays them out: what registers and elements hold.

Addresses and ports are in network byte order, marks and other kernel integers
in host byte order. In a concatenation each part is padded to 4 bytes, because
that is how loads side by side fill the registers.
"""

import sys

from tortie.lib.errors import InvalidInput
from tortie.lib.ip import Network

IFNAME_BYTES = 16


def ifname(name: str) -> bytes:
    """An interface name as `meta iifname` loads it: 16 bytes, NUL padded.

    Raises:
        InvalidInput: longer than the 15 bytes that the kernel allows.
    """
    packed = name.encode()
    if not 0 < len(packed) < IFNAME_BYTES:
        raise InvalidInput(f"interface name {name!r} must have 1 to 15 bytes")
    return packed.ljust(IFNAME_BYTES, b"\0")


def address(of: Network) -> bytes:
    """The first address of a network: 4 or 16 bytes."""
    return of.packed


def port(number: int) -> bytes:
    """`inet_service`: a TCP, UDP or SCTP port."""
    return number.to_bytes(2, "big")


def protocol(number: int) -> bytes:
    """`inet_proto`: the IP protocol number."""
    return number.to_bytes(1, "big")


def u32(number: int) -> bytes:
    """A mark, an id, a `ct state` bit mask: 4 bytes in host order."""
    return number.to_bytes(4, sys.byteorder)


def u8(number: int) -> bytes:
    """`ct direction`, `meta nfproto`, `pkttype`: one byte."""
    return number.to_bytes(1, "big")


def ethernet(text: str) -> bytes:
    """A MAC address, as in `ee:ee:ee:ee:ee:ee`.

    Raises:
        InvalidInput: not six hexadecimal bytes.
    """
    try:
        packed = bytes(int(part, 16) for part in text.split(":"))
    except ValueError:
        packed = b""
    if len(packed) != 6:
        raise InvalidInput(f"{text!r} is not a MAC address")
    return packed


def padded(part: bytes) -> bytes:
    """Filled with NULs to the next multiple of 4."""
    return part + bytes(-len(part) % 4)


def concatenate(*parts: bytes) -> bytes:
    """Several keys as one, each padded to 4 bytes."""
    return b"".join(map(padded, parts))


def successor(key: bytes) -> bytes | None:
    """The next key in byte order; None behind the last."""
    number = int.from_bytes(key, "big") + 1
    return None if number >> (8 * len(key)) else number.to_bytes(len(key), "big")


def predecessor(key: bytes) -> bytes:
    """The key before; behind the first comes the last."""
    number = int.from_bytes(key, "big") - 1
    return (number % (1 << (8 * len(key)))).to_bytes(len(key), "big")
