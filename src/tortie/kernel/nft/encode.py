"""Operations to nfnetlink messages.

An operation is one message, except that elements are spread over several: an
attribute holds at most 64 KB, and the list of elements is one attribute.

Source: include/uapi/linux/netfilter/nf_tables.h, nfnetlink.h; net/netfilter/nf_tables_api.c.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import count
from typing import Any, NamedTuple

from tortie.kernel import netlink
from tortie.kernel.netlink import NLM_F_APPEND, NLM_F_CREATE, NLM_F_ECHO, NLM_F_EXCL, NLM_F_REPLACE
from tortie.kernel.nft import constants as nft
from tortie.kernel.nft import operations as op
from tortie.kernel.nft import userdata
from tortie.kernel.nft.codec import encode_expressions, encode_lone_expression, encode_verdict
from tortie.kernel.nft.constants import Family, SetFlag
from tortie.kernel.nft.expressions import Verdict
from tortie.kernel.nft.objects import Base, DataType, Element, Rule, Set, TableName

ELEMENTS_PER_MESSAGE = 4000
_ELEMENT_LIST_BYTES = 65000
"""Below the 65535 that an attribute's length field holds."""

_CHAIN_BASE = 1  # NFT_CHAIN_BASE
_INTERVAL_END = netlink.attribute_be32(3, 1)  # NFTA_SET_ELEM_FLAGS, NFT_SET_ELEM_INTERVAL_END
_CATCH_ALL = netlink.attribute_be32(3, 2)  # NFT_SET_ELEM_CATCHALL

_BYTE_ORDER = {True: userdata.HOST_ORDER, False: userdata.NETWORK_ORDER}
_CONCAT_BITS = 6
"""nft(8) numbers a concatenation by shifting its parts' numbers together: TYPE_BITS."""

_set_ids = count(1)


class Body(NamedTuple):
    """A message that still lacks its sequence number."""

    kind: int
    flags: int
    payload: bytes
    """With the nfgenmsg header, padded."""


def family_header(family: int, resource: int = 0) -> bytes:
    """struct nfgenmsg: family, version 0, resource id in network order."""
    return bytes((family, 0, resource >> 8, resource & 0xFF))


BATCH_HEADER = family_header(0, nft.SUBSYSTEM >> 8)
_HEADERS = {family: family_header(family) for family in Family}


def encode(operation: op.Operation) -> list[Body]:
    """The messages for one operation, in order."""
    return _ENCODERS[type(operation)](operation)


@lru_cache(maxsize=8192)
def _named(table: TableName, name: str) -> bytes:
    """Header, table and a second name: how almost every message starts.

    Attributes 1 and 2 are the table's and the chain's or set's name in rule,
    set and element messages alike; a chain's own messages differ.
    """
    return (
        _HEADERS[table.family]
        + netlink.attribute_string(1, table.name)
        + netlink.attribute_string(2, name)
    )


def _create(exclusive: bool) -> int:
    return NLM_F_CREATE | NLM_F_EXCL if exclusive else NLM_F_CREATE


# Tables and chains.


def _add_table(add: op.AddTable) -> list[Body]:
    payload = (
        _HEADERS[add.of.family]
        + netlink.attribute_string(1, add.of.name)
        + netlink.attribute_be32(2, add.of.flags)
    )
    return [Body(nft.NEWTABLE, _create(add.exclusive), payload)]


def _delete_table(delete: op.DeleteTable) -> list[Body]:
    name = netlink.attribute_string(1, delete.table.name)
    return [Body(nft.DELTABLE, 0, _HEADERS[delete.table.family] + name)]


def _chain_payload(table: TableName, name: str) -> bytes:
    return (
        _HEADERS[table.family]
        + netlink.attribute_string(1, table.name)
        + netlink.attribute_string(3, name)
    )


def _add_chain(add: op.AddChain) -> list[Body]:
    payload = _chain_payload(add.table, add.chain.name)
    base = add.chain.base
    if base is not None:
        payload += (
            netlink.nested(4, _hook(base))
            + netlink.attribute_be32(5, base.policy)
            + netlink.attribute_string(7, base.type)
            + netlink.attribute_be32(10, _CHAIN_BASE)
        )
    return [Body(nft.NEWCHAIN, _create(add.exclusive), payload)]


def _hook(base: Base) -> bytes:
    packed = netlink.attribute_be32(1, base.hook) + netlink.attribute_be32(
        2, base.priority & 0xFFFFFFFF
    )
    if len(base.devices) == 1:
        packed += netlink.attribute_string(3, base.devices[0])
    elif base.devices:
        packed += netlink.nested(4, *(netlink.attribute_string(1, one) for one in base.devices))
    return packed


def _delete_chain(delete: op.DeleteChain) -> list[Body]:
    return [Body(nft.DELCHAIN, 0, _chain_payload(delete.table, delete.name))]


# Rules.


def _flush_chain(flush: op.FlushChain) -> list[Body]:
    return [Body(nft.DELRULE, 0, _named(flush.table, flush.name))]


def _rule_payload(table: TableName, rule: Rule, handle: bytes) -> bytes:
    expressions = encode_expressions(rule.expressions)
    payload = _named(table, rule.chain) + handle + netlink.nested(4, expressions)
    return payload + netlink.attribute(7, rule.user_data) if rule.user_data else payload


def _add_rule(add: op.AddRule) -> list[Body]:
    # With a position and without APPEND the rule goes before that position.
    position = netlink.attribute_be64(6, add.before) if add.before is not None else b""
    inserted = add.at_start or add.before is not None
    flags = NLM_F_CREATE | NLM_F_ECHO | (0 if inserted else NLM_F_APPEND)
    return [Body(nft.NEWRULE, flags, _rule_payload(add.table, add.rule, position))]


def _replace_rule(replace: op.ReplaceRule) -> list[Body]:
    handle = netlink.attribute_be64(3, replace.handle)
    payload = _rule_payload(replace.table, replace.rule, handle)
    return [Body(nft.NEWRULE, NLM_F_REPLACE | NLM_F_ECHO, payload)]


def _delete_rule(delete: op.DeleteRule) -> list[Body]:
    payload = _named(delete.table, delete.chain) + netlink.attribute_be64(3, delete.handle)
    return [Body(nft.DELRULE, 0, payload)]


# Sets.


def set_flags(of: Set) -> SetFlag:
    flags = of.flags
    flags |= SetFlag.INTERVAL if of.interval else SetFlag(0)
    flags |= SetFlag.CONSTANT if of.constant else SetFlag(0)
    flags |= SetFlag.TIMEOUT if of.timeout else SetFlag(0)
    flags |= SetFlag.MAP if of.is_map else SetFlag(0)
    if of.interval and len(of.key) > 1:
        flags |= SetFlag.CONCAT
    return flags


def type_number(types: tuple[DataType, ...]) -> int:
    """nft(8)'s number for a key or data type; the kernel only stores it."""
    number = 0
    for one in types:
        number = number << _CONCAT_BITS | one.number
    return number


def _add_set(add: op.AddSet) -> list[Body]:
    of = add.set
    payload = (
        _named(add.table, of.name)
        + netlink.attribute_be32(3, set_flags(of))
        + netlink.attribute_be32(4, type_number(of.key))
        + netlink.attribute_be32(5, of.key_length)
        + netlink.attribute_be32(10, next(_set_ids) & 0xFFFFFFFF)
    )
    if of.is_map:
        payload += netlink.attribute_be32(6, type_number(of.data))
    if of.is_map and not of.is_verdict_map:
        payload += netlink.attribute_be32(7, of.data_length)
    payload += _set_description(of) + netlink.attribute(13, _set_user_data(of))
    if of.each is not None:
        payload += netlink.nested(17, encode_lone_expression(of.each))
    return [Body(nft.NEWSET, _create(add.exclusive), payload)]


def _set_description(of: Set) -> bytes:
    parts = []
    if of.size:
        parts.append(netlink.attribute_be32(1, of.size))
    if SetFlag.CONCAT in set_flags(of):
        # The kernel wants both or neither; only ranges need them.
        fields = (
            netlink.nested(nft.LIST_ELEM, netlink.attribute_be32(1, one.length)) for one in of.key
        )
        parts.append(netlink.nested(2, *fields))
    return netlink.nested(9, *parts) if parts else b""


def _set_user_data(of: Set) -> bytes:
    """Without the byte order nft(8) lists interface names as ""."""
    packed = userdata.tlv_u32(userdata.SET_KEY_BYTEORDER, _byte_order(of.key))
    if of.is_map:
        packed += userdata.tlv_u32(userdata.SET_DATA_BYTEORDER, _byte_order(of.data))
    if of.comment:
        packed += userdata.comment_tlv(userdata.SET_COMMENT, of.comment)
    return packed


def _byte_order(types: tuple[DataType, ...]) -> int:
    """0 for concatenations: each part has its own."""
    return _BYTE_ORDER[types[0].host_order] if len(types) == 1 and types[0].length else 0


def _delete_set(delete: op.DeleteSet) -> list[Body]:
    return [Body(nft.DELSET, 0, _named(delete.table, delete.name))]


def _flush_set(flush: op.FlushSet) -> list[Body]:
    return [Body(nft.DELSETELEM, 0, _named(flush.table, flush.name))]


# Elements.


def _add_elements(add: op.AddElements) -> list[Body]:
    head = _named(add.table, add.set.name)
    flags = _create(add.exclusive)
    return [
        Body(nft.NEWSETELEM, flags, head + netlink.nested(3, chunk))
        for chunk in _chunks([encode_element(one) for one in add.elements])
    ]


def _delete_elements(delete: op.DeleteElements) -> list[Body]:
    head = _named(delete.table, delete.set.name)
    return [
        Body(nft.DELSETELEM, 0, head + netlink.nested(3, chunk))
        for chunk in _chunks([encode_key(one) for one in delete.elements])
    ]


def _chunks(encoded: Sequence[bytes]) -> Iterator[bytes]:
    """Elements joined, each piece within the limits of one message."""
    start, size = 0, 0
    for index, one in enumerate(encoded):
        if size + len(one) > _ELEMENT_LIST_BYTES or index - start == ELEMENTS_PER_MESSAGE:
            yield b"".join(encoded[start:index])
            start, size = index, 0
        size += len(one)
    if start < len(encoded):
        yield b"".join(encoded[start:])


def _element_list(body: Body) -> memoryview:
    """The elements in a message made here."""
    return netlink.attribute_map(memoryview(body.payload)[len(BATCH_HEADER) :])[3]


def element_count(body: Body) -> int:
    """How many elements are in this message."""
    return sum(1 for _ in netlink.attributes(_element_list(body)))


def element_index(body: Body, offset: int) -> int | None:
    """Which element byte `offset` of the payload lies in; None if in none."""
    elements = _element_list(body)
    inside = offset - (len(body.payload) - len(elements))
    if inside < 0:
        return None
    end = 0
    for index, (_, value) in enumerate(netlink.attributes(elements)):
        end += (len(value) + 7) & ~3  # with its header, padded
        if inside < end:
            return index
    return None


@lru_cache(maxsize=128)
def _key_frame(length: int) -> tuple[bytes, bytes, bytes]:
    """What stands before a lone key in an element list, before it inside an element, and behind.

    Keys of one length share it, which is what makes a hundred thousand
    elements cheap: the element is three byte strings joined.
    """
    value = netlink.nested(1, netlink.attribute(nft.DATA_VALUE, bytes(length)))
    padding = bytes(-length % 4)
    inner = value[: len(value) - length - len(padding)]
    outer = netlink.nested(nft.LIST_ELEM, value)[:4]
    return outer + inner, inner, padding


def encode_key(element: Element) -> bytes:
    """An element without its data, as a deletion names it."""
    if not element.interval_end and not element.key_end and element.key:
        before, _, behind = _key_frame(len(element.key))
        return before + element.key + behind
    return netlink.nested(nft.LIST_ELEM, _key_attributes(element))


def encode_element(element: Element) -> bytes:
    """One list element with its data."""
    if element.data is None:
        return encode_key(element)
    return netlink.nested(
        nft.LIST_ELEM, _key_attributes(element), netlink.nested(2, encode_data(element.data))
    )


def _key_attributes(element: Element) -> bytes:
    if not element.key:
        return _CATCH_ALL
    _, before, behind = _key_frame(len(element.key))
    packed = before + element.key + behind
    if element.interval_end:
        packed += _INTERVAL_END
    if element.key_end:
        packed += netlink.nested(10, netlink.attribute(nft.DATA_VALUE, element.key_end))
    return packed


def encode_data(data: bytes | Verdict) -> bytes:
    if isinstance(data, Verdict):
        return _encode_verdict_cached(data)
    return netlink.attribute(nft.DATA_VALUE, data)


_encode_verdict_cached = lru_cache(maxsize=8192)(encode_verdict)

_ENCODERS: dict[type[Any], Callable[[Any], list[Body]]] = {
    op.AddTable: _add_table,
    op.DeleteTable: _delete_table,
    op.AddChain: _add_chain,
    op.DeleteChain: _delete_chain,
    op.FlushChain: _flush_chain,
    op.AddRule: _add_rule,
    op.ReplaceRule: _replace_rule,
    op.DeleteRule: _delete_rule,
    op.AddSet: _add_set,
    op.DeleteSet: _delete_set,
    op.FlushSet: _flush_set,
    op.AddElements: _add_elements,
    op.DeleteElements: _delete_elements,
}
