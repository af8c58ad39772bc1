"""nfnetlink messages, from dumps and events, to objects.

Source: include/uapi/linux/netfilter/nf_tables.h; the `nf_tables_fill_*_info`
functions in net/netfilter/nf_tables_api.c.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from tortie.kernel import netlink
from tortie.kernel.netlink import Message
from tortie.kernel.nft import constants as nft
from tortie.kernel.nft import userdata
from tortie.kernel.nft.codec import decode_expression, decode_expressions, decode_verdict
from tortie.kernel.nft.constants import Family, Policy, SetFlag, TableFlag
from tortie.kernel.nft.encode import type_number
from tortie.kernel.nft.expressions import Verdict
from tortie.kernel.nft.objects import (
    DATA_TYPES,
    Base,
    Chain,
    DataType,
    Element,
    Rule,
    Set,
    Table,
    TableName,
    packed_length,
)

_FAMILY_HEADER_BYTES = 4
_TYPE_MASK = 0x3F
_OWN_FLAGS = SetFlag.INTERVAL | SetFlag.CONSTANT | SetFlag.TIMEOUT | SetFlag.MAP | SetFlag.CONCAT
"""Flags that fields of `Set` stand for."""


class Generation(NamedTuple):
    """The ruleset's version, and who made it."""

    number: int
    process_id: int = 0
    process_name: str = ""


def attributes_of(answer: Message) -> dict[int, memoryview]:
    return netlink.attribute_map(answer.payload[_FAMILY_HEADER_BYTES:])


def family_of(answer: Message) -> int:
    return answer.payload[0]


def table_name_of(answer: Message) -> TableName | None:
    """Which table a dump or event message belongs to; None for a generation or a new family."""
    found = attributes_of(answer)
    if answer.kind in (nft.NEWGEN, nft.GETGEN) or 1 not in found:
        return None
    try:
        return TableName(Family(family_of(answer)), netlink.text(found[1]))
    except ValueError:
        return None


def decode_generation(answer: Message) -> Generation:
    found = attributes_of(answer)
    return Generation(
        netlink.be(found[1]),
        netlink.be(found[2]) if 2 in found else 0,
        netlink.text(found[3]) if 3 in found else "",
    )


def decode_table(answer: Message) -> Table:
    found = attributes_of(answer)
    return Table(
        Family(family_of(answer)),
        netlink.text(found[1]),
        TableFlag(netlink.be(found[2]) if 2 in found else 0),
        netlink.be(found[7]) if 7 in found else 0,
    )


def decode_chain(answer: Message) -> Chain:
    found = attributes_of(answer)
    name = netlink.text(found[3])
    if 4 not in found:
        return Chain(name)
    hook = netlink.attribute_map(found[4])
    priority = netlink.be(hook[2])
    return Chain(
        name,
        Base(
            netlink.text(found[7]),
            netlink.be(hook[1]),
            priority - (1 << 32) if priority >> 31 else priority,
            Policy(netlink.be(found[5])),
            tuple(_devices(hook)),
        ),
    )


def _devices(hook: dict[int, memoryview]) -> Iterator[str]:
    if 4 in hook:
        yield from (netlink.text(value) for _, value in netlink.attributes(hook[4]))
    elif 3 in hook:
        yield netlink.text(hook[3])


def decode_rule(answer: Message) -> Rule:
    found = attributes_of(answer)
    return Rule(
        netlink.text(found[2]),
        decode_expressions(found[4]) if 4 in found else (),
        bytes(found[7]) if 7 in found else b"",
        netlink.be(found[3]),
    )


def rule_handle(answer: Message) -> int:
    return netlink.be(attributes_of(answer)[3])


def decode_set(answer: Message) -> Set:
    found = attributes_of(answer)
    flags = SetFlag(netlink.be(found[3]) if 3 in found else 0)
    description = netlink.attribute_map(found[9]) if 9 in found else {}
    data = bytes(found[13]) if 13 in found else b""
    return Set(
        netlink.text(found[2]),
        _types(netlink.be(found[4]) if 4 in found else 0, netlink.be(found[5])),
        _data_types(flags, found),
        interval=SetFlag.INTERVAL in flags,
        constant=SetFlag.CONSTANT in flags,
        timeout=SetFlag.TIMEOUT in flags,
        size=netlink.be(description[1]) if 1 in description else 0,
        comment=userdata.set_comment(data),
        each=decode_expression(bytes(found[17])) if 17 in found else None,
        flags=flags & ~_OWN_FLAGS,
    )


def _data_types(flags: SetFlag, found: dict[int, memoryview]) -> tuple[DataType, ...]:
    if SetFlag.MAP not in flags or 6 not in found:
        return ()
    return _types(netlink.be(found[6]), netlink.be(found[7]) if 7 in found else 0)


def _types(number: int, length: int) -> tuple[DataType, ...]:
    """Undo `type_number`; a type that we do not know keeps its number and length."""
    if number in DATA_TYPES and DATA_TYPES[number].length in (0, length):
        return (DATA_TYPES[number],)
    parts: list[DataType] = []
    rest = number
    while rest:
        part = DATA_TYPES.get(rest & _TYPE_MASK)
        if part is None:
            break
        parts.insert(0, part)
        rest >>= 6
    types = tuple(parts)
    if types and not rest and type_number(types) == number and packed_length(types) == length:
        return types
    return (DataType(f"type-{number}", number, length),)


def decode_elements(answer: Message) -> list[Element]:
    """The elements in one message of a dump or event."""
    found = attributes_of(answer)
    if 3 not in found:
        return []
    keys = _plain_keys(bytes(found[3]))
    if keys is not None:
        return list(map(Element, keys))
    return [_decode_element(one) for _, one in netlink.attributes(found[3])]


def _plain_keys(data: bytes) -> list[bytes] | None:
    """The keys of elements that are nothing but keys of one length, as in nearly every set.

    A restart reads a hundred thousand of them. Then each element looks like
    the first but for its key; None where one does not.
    """
    if len(data) < _PLAIN_BYTES:
        return None
    size, _, key_size, kind, value_size, value_kind = _PLAIN.unpack_from(data)
    is_key = kind & netlink.NLA_TYPE_MASK == 1 and value_kind == nft.DATA_VALUE
    padded = (size + 3) & ~3
    if not is_key or key_size != size - 4 or value_size != size - 8 or len(data) % padded:
        return None
    head = data[:_PLAIN_BYTES]
    places = range(0, len(data), padded)
    if any(data[place : place + _PLAIN_BYTES] != head for place in places):
        return None
    key_bytes = size - _PLAIN_BYTES
    return [data[place : place + key_bytes] for place in range(_PLAIN_BYTES, len(data), padded)]


_PLAIN = struct.Struct("=HHHHHH")
"""Headers of an element, of its key, and of the value in that."""
_PLAIN_BYTES = _PLAIN.size


def _decode_element(data: memoryview) -> Element:
    found = netlink.attribute_map(data)
    flags = netlink.be(found[3]) if 3 in found else 0
    return Element(
        _value(found[1]) if 1 in found else b"",
        _data(found[2]) if 2 in found else None,
        bool(flags & 1),
        _value(found[10]) if 10 in found else b"",
    )


def _value(data: memoryview) -> bytes:
    return bytes(netlink.attribute_map(data)[nft.DATA_VALUE])


def _data(data: memoryview) -> bytes | Verdict:
    found = netlink.attribute_map(data)
    if nft.DATA_VERDICT in found:
        return decode_verdict(found[nft.DATA_VERDICT])
    return bytes(found[nft.DATA_VALUE])
