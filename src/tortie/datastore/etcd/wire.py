"""Protobuf's wire format, as far as etcd's messages need it.

Only varints (wire type 0) and lengths (2) carry what we read; the two fixed
sizes (1, 5) are skipped, so that unknown fields of newer servers do no harm.

Source: protobuf.dev, "Encoding".
"""

from collections.abc import Iterator

from tortie.lib.errors import Unavailable

_SIGN = 1 << 63
_MASK = (1 << 64) - 1


def varint(value: int) -> bytes:
    """`value` as a varint; negative ones in two's complement of 64 bits."""
    value &= _MASK
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def number_field(number: int, value: int) -> bytes:
    return varint(number << 3) + varint(value)


def bytes_field(number: int, value: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(value)) + value


def signed(value: int) -> int:
    """An int64 field's value from its varint."""
    return value - (1 << 64) if value >= _SIGN else value


def fields(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Each field as (number, varint value or 0, bytes or empty), in order.

    Raises:
        Unavailable: cut short or not protobuf: whatever answers is no etcd.
    """
    position, end = 0, len(data)
    try:
        while position < end:
            tag = data[position]
            position += 1
            if tag >= 0x80:
                tag, position = _rest(data, position, tag)
            kind = tag & 7
            if kind == 1 or kind == 5:
                position += 8 if kind == 1 else 4
                continue
            value = data[position]
            position += 1
            if value >= 0x80:
                value, position = _rest(data, position, value)
            if kind == 0:
                yield tag >> 3, value, b""
            elif kind == 2 and position + value <= end:
                yield tag >> 3, 0, data[position : position + value]
                position += value
            else:
                raise Unavailable("etcd sent a message that is not protobuf")
    except IndexError:
        raise Unavailable("etcd sent a message that is cut short") from None


def _rest(data: bytes, position: int, first: int) -> tuple[int, int]:
    """The value of a varint whose `first` byte says that more follow."""
    value, shift = first & 0x7F, 7
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & _MASK, position
        shift += 7
