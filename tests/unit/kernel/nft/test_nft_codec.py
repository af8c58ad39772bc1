"""Bytes: golden where the kernel's layout is the point, round trips for everything."""

import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.kernel.nft import nft_strategies as strategies

from tortie.kernel import netlink
from tortie.kernel.nft import decode
from tortie.kernel.nft import expressions as ex
from tortie.kernel.nft import operations as op
from tortie.kernel.nft.codec import decode_expression, encode_expression, encode_expressions
from tortie.kernel.nft.constants import CmpOp, CtKey, Family, Hook, MetaKey, PayloadBase, Policy
from tortie.kernel.nft.encode import (
    ELEMENTS_PER_MESSAGE,
    Body,
    element_count,
    element_index,
    encode,
)
from tortie.kernel.nft.expressions import ACCEPT, VERDICT_REGISTER, Expression, Verdict, goto
from tortie.kernel.nft.objects import (
    IFNAME,
    INET_SERVICE,
    IPV4_ADDR,
    MARK,
    VERDICT,
    Base,
    Chain,
    Element,
    Rule,
    Set,
    Table,
    TableName,
)

TABLE = TableName(Family.INET, "t")

GOLDEN: list[tuple[Expression, str]] = [
    (
        ex.Meta(MetaKey.IIFNAME, 0),
        # list element { name "meta", data { key 6, destination register 1 } }
        "24000180 09000100 6d657461 00000000 14000280 0800020000000006 0800010000000001",
    ),
    (
        ex.Payload(PayloadBase.NETWORK, 12, 4, 4),
        "34000180 0c000100 7061796c6f616400 24000280"
        # destination register 2 (word 4), base 1, offset 12, length 4
        " 0800010000000002 0800020000000001 080003000000000c 0800040000000004",
    ),
    (
        ex.Cmp(CmpOp.EQ, b"\x02", 1),
        "2c000180 08000100 636d7000 20000280"
        # word 1 alone is register 9; the value is padded, its length is not
        " 0800010000000009 0800020000000000 0c000380 05000100 02000000",
    ),
    (
        ex.Lookup("v", 0, VERDICT_REGISTER),
        "2c000180 0b000100 6c6f6f6b7570 0000 1c000280"
        " 06000100 76000000 0800020000000001 0800030000000000",
    ),
    (
        ACCEPT,
        "30000180 0e000100 696d6d656469617465 000000 1c000280"
        " 0800010000000000 10000280 0c000280 0800010000000001",
    ),
    (
        goto("c"),
        "38000180 0e000100 696d6d656469617465 000000 24000280"
        " 0800010000000000 18000280 14000280 08000100fffffffc 06000200 63000000",
    ),
    (
        ex.Counter(1, 2),
        "2c000180 0c000100 636f756e746572 00 1c000280"
        " 0c000100 0000000000000002 0c000200 0000000000000001",
    ),
]


@pytest.mark.skipif(sys.byteorder == "big", reason="golden bytes are little-endian headers")
@pytest.mark.parametrize(("expression", "expected"), GOLDEN, ids=lambda one: str(one)[:30])
def test_an_expression_is_these_bytes(expression: Expression, expected: str) -> None:
    assert encode_expression(expression).hex() == expected.replace(" ", "")


def decoded(packed: bytes) -> Expression:
    ((_, value),) = netlink.attributes(memoryview(packed))
    return decode_expression(bytes(value))


@given(strategies.expressions)
def test_decode_undoes_encode(expression: Expression) -> None:
    back = decoded(encode_expression(expression))
    assert back == expression
    assert type(back) is type(expression)
    assert str(back) == str(expression)


def test_a_counter_keeps_its_own_values_although_all_are_equal() -> None:
    """Encodings are cached by equality, and counters must not share one."""
    assert ex.Counter(1, 2) == ex.Counter(3, 4)
    packed = [encode_expressions((ex.Counter(n, n),)) for n in (1, 2)]
    assert [decoded(one) for one in packed] == [ex.Counter(), ex.Counter()]
    assert packed[0] != packed[1]
    (first,) = [decoded(packed[0])]
    assert isinstance(first, ex.Counter)
    assert (first.packets, first.bytes) == (1, 1)


def test_equal_fields_of_different_expressions_do_not_share_an_encoding() -> None:
    assert int(MetaKey.MARK) == int(CtKey.MARK)
    loaded = encode_expressions((ex.Meta(MetaKey.MARK), ex.Ct(CtKey.MARK)))
    names = [
        bytes(netlink.attribute_map(value)[1])
        for _, value in netlink.attributes(memoryview(loaded))
    ]
    assert names == [b"meta\0", b"ct\0"]


@pytest.mark.parametrize(
    "data",
    [
        # meta with a key that no kernel has, cmp without data, an unknown name
        netlink.attribute(1, b"meta\0")
        + netlink.nested(2, netlink.attribute_be32(2, 250), netlink.attribute_be32(1, 1)),
        netlink.attribute(1, b"cmp\0") + netlink.nested(2, netlink.attribute_be32(1, 1)),
        netlink.attribute(1, b"newest\0") + netlink.nested(2),
    ],
)
def test_what_we_cannot_read_is_kept_as_it_is(data: bytes) -> None:
    opaque = decode_expression(data)
    assert isinstance(opaque, ex.Opaque)
    assert encode_expression(opaque) == netlink.nested(1, data)


# Objects: our own message, read as if the kernel had sent it.


def as_received(body: Body) -> netlink.Message:
    return netlink.Message(body.kind, 0, 1, 0, memoryview(body.payload))


def only(operation: op.Operation) -> netlink.Message:
    (body,) = encode(operation)
    return as_received(body)


@given(strategies.tables)
def test_a_table_round_trips(table: Table) -> None:
    answer = only(op.AddTable(table))
    assert decode.decode_table(answer) == table
    assert decode.table_name_of(answer) == table.table_name


@given(strategies.chains)
def test_a_chain_round_trips(chain: Chain) -> None:
    answer = only(op.AddChain(TABLE, chain))
    assert decode.decode_chain(answer) == chain
    assert decode.table_name_of(answer) == TABLE


@given(strategies.rules)
def test_a_rule_round_trips(rule: Rule) -> None:
    assert rule.handle is not None
    assert decode.decode_rule(only(op.ReplaceRule(TABLE, rule, rule.handle))) == rule


@given(strategies.sets)
def test_a_set_round_trips(of: Set) -> None:
    assert decode.decode_set(only(op.AddSet(TABLE, of))) == of


@given(st.lists(strategies.elements, min_size=1, max_size=20))
def test_elements_round_trip(elements: list[Element]) -> None:
    any_set = Set("s", (MARK,))
    answer = only(op.AddElements(TABLE, any_set, tuple(elements)))
    assert list(decode.decode_elements(answer)) == elements
    gone = only(op.DeleteElements(TABLE, any_set, tuple(elements)))
    assert [
        (one.key, one.interval_end, one.key_end, one.data) for one in decode.decode_elements(gone)
    ] == [(one.key, one.interval_end, one.key_end, None) for one in elements]


@pytest.mark.parametrize(
    ("of", "data"),
    [
        (Set("s", (IPV4_ADDR,)), None),
        (Set("s", (IFNAME,)), None),
        (Set("s", (IFNAME,), (VERDICT,)), goto("c" * 200)),
    ],
)
def test_elements_fill_messages_within_the_limits_of_an_attribute(
    of: Set, data: Verdict | None
) -> None:
    elements = tuple(Element(n.to_bytes(of.key_length, "big"), data) for n in range(9_001))
    bodies = encode(op.AddElements(TABLE, of, elements))
    read = [one for body in bodies for one in decode.decode_elements(as_received(body))]
    assert read == list(elements)
    assert sum(element_count(body) for body in bodies) == len(elements)
    for body in bodies:
        assert element_count(body) <= ELEMENTS_PER_MESSAGE
        longest = max(len(value) for _, value in netlink.attributes(memoryview(body.payload)[4:]))
        assert longest + 4 <= 0xFFFF


@given(st.lists(strategies.elements, min_size=1, max_size=9), st.data())
def test_a_byte_of_the_message_leads_to_its_element(elements: list[Element], data: Any) -> None:
    (body,) = encode(op.AddElements(TABLE, Set("s", (MARK,)), tuple(elements)))
    index = data.draw(st.integers(0, len(elements) - 1))
    (alone,) = encode(op.AddElements(TABLE, Set("s", (MARK,)), tuple(elements[: index + 1])))
    assert element_index(body, len(alone.payload) - 1) == index
    assert element_index(body, 5) is None


def test_only_ranges_of_concatenations_describe_their_fields() -> None:
    """Linux refuses a description without the flag, and 6.1 the flag without ranges."""
    key = (IPV4_ADDR, INET_SERVICE)
    for interval in (False, True):
        answer = only(op.AddSet(TABLE, Set("s", key, interval=interval)))
        found = decode.attributes_of(answer)
        assert (9 in found) is interval
        assert bool(netlink.be(found[3]) & 0x80) is interval


def test_a_negative_priority_and_the_policy_are_where_the_kernel_looks() -> None:
    answer = only(op.AddChain(TABLE, Chain("c", Base("filter", Hook.INPUT, -300, Policy.DROP))))
    found = decode.attributes_of(answer)
    hook = netlink.attribute_map(found[4])
    assert bytes(hook[2]) == b"\xff\xff\xfe\xd4"
    assert bytes(found[5]) == bytes(4)
