"""Expressions to netlink attributes and back, from one table of layouts.

Each expression type has one row: the kernel's name and its attributes. Both
directions read the same row, so they cannot drift apart. Encodings are cached:
a host with a thousand policies uses a few hundred different expressions.

What we cannot read (another program's, or a newer kernel's) becomes `Opaque`.

Source: include/uapi/linux/netfilter/nf_tables.h; what the kernel dumps back,
the `*_dump` functions in net/netfilter/nft_*.c.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

from tortie.kernel import netlink
from tortie.kernel.nft import constants as nft
from tortie.kernel.nft import expressions as ex
from tortie.kernel.nft.expressions import VERDICT_REGISTER, Expression, Verdict

_VERDICT_IMMEDIATE_DREG = netlink.attribute_be32(1, 0)


class _Form(NamedTuple):
    """How one kind of value is packed and read."""

    pack: Callable[[int, Any], bytes]
    read: Callable[[memoryview], Any]


class _Field(NamedTuple):
    attribute: int
    name: str
    form: _Form
    optional: bool = False
    """Not sent when it has its default; the default when the kernel leaves it out."""
    always: bool = False
    """Sent even so."""
    derived: bool = False
    """Sent, but a property of the expression: not given to its constructor."""
    equals: int | None = None
    """For a derived field: what it must be for this layout to fit."""


class _Layout(NamedTuple):
    kernel_name: bytes
    make: type[Any]
    fields: tuple[_Field, ...]


# Forms.


def _pack_register(kind: int, word: int) -> bytes:
    """Whole 16-byte registers have numbers of their own, 1 to 4; the kernel dumps those."""
    if word == VERDICT_REGISTER:
        number = 0
    else:
        number = 1 + word // 4 if word % 4 == 0 else 8 + word
    return netlink.attribute_be32(kind, number)


def _read_register(data: memoryview) -> int:
    number = netlink.be(data)
    if number == 0:
        return VERDICT_REGISTER
    return (number - 1) * 4 if number <= 4 else number - 8


def _pack_data(kind: int, value: bytes) -> bytes:
    return netlink.nested(kind, netlink.attribute(nft.DATA_VALUE, value))


def _read_data(data: memoryview) -> bytes:
    return bytes(netlink.attribute_map(data)[nft.DATA_VALUE])


def _pack_flag(kind: int, value: bool) -> bytes:
    return netlink.attribute_be32(kind, int(value))


def _read_flag(data: memoryview) -> bool:
    return bool(netlink.be(data) & 1)


def _number(read_as: Callable[[int], Any] = int) -> _Form:
    return _Form(netlink.attribute_be32, lambda data: read_as(netlink.be(data)))


_REGISTER = _Form(_pack_register, _read_register)
_DATA = _Form(_pack_data, _read_data)
_STRING = _Form(netlink.attribute_string, netlink.text)
_FLAG = _Form(_pack_flag, _read_flag)
_U32 = _number()
_U64 = _Form(netlink.attribute_be64, netlink.be)
_U16 = _Form(netlink.attribute_be16, netlink.be)
_U8 = _Form(netlink.attribute_u8, netlink.be)
_DIRECTION = _Form(netlink.attribute_u8, lambda data: nft.CtDirection(netlink.be(data)))
_EXTHDR_OP = _number(nft.ExthdrOp)
_NAT_FLAGS = _Form(
    netlink.attribute_be32,
    # The kernel adds these two by itself where addresses or ports are given.
    lambda data: (
        nft.NatFlag(netlink.be(data)) & ~(nft.NatFlag.MAP_IPS | nft.NatFlag.PROTO_SPECIFIED)
    ),
)
_UNIT = _Form(netlink.attribute_be64, netlink.be)


def _shift_bits(kind: int, bits: int) -> bytes:
    """Shift counts are data in host order."""
    return _pack_data(kind, netlink.host_u32(bits))


_SHIFT_BITS = _Form(_shift_bits, lambda data: netlink.u32(memoryview(_read_data(data))))

_PAYLOAD_PLACE = (
    _Field(2, "header", _number(nft.PayloadBase)),
    _Field(3, "offset", _U32),
    _Field(4, "length", _U32),
)

_LAYOUTS = (
    _Layout(
        b"meta",
        ex.Meta,
        (_Field(2, "key", _number(nft.MetaKey)), _Field(1, "register", _REGISTER)),
    ),
    _Layout(
        b"meta",
        ex.MetaSet,
        (_Field(2, "key", _number(nft.MetaKey)), _Field(3, "register", _REGISTER)),
    ),
    _Layout(b"payload", ex.Payload, (_Field(1, "register", _REGISTER), *_PAYLOAD_PLACE)),
    _Layout(
        b"payload",
        ex.PayloadSet,
        (
            _Field(5, "register", _REGISTER),
            *_PAYLOAD_PLACE,
            _Field(6, "checksum_type", _U32),
            _Field(7, "checksum_offset", _U32),
            _Field(8, "checksum_flags", _U32, optional=True),
        ),
    ),
    _Layout(
        b"cmp",
        ex.Cmp,
        (
            _Field(1, "register", _REGISTER),
            _Field(2, "op", _number(nft.CmpOp)),
            _Field(3, "value", _DATA),
        ),
    ),
    _Layout(
        b"range",
        ex.Range,
        (
            _Field(1, "register", _REGISTER),
            _Field(2, "op", _number(nft.RangeOp)),
            _Field(3, "low", _DATA),
            _Field(4, "high", _DATA),
        ),
    ),
    _Layout(
        b"bitwise",
        ex.Bitwise,
        (
            _Field(1, "source", _REGISTER),
            _Field(2, "destination", _REGISTER),
            _Field(3, "length", _U32, derived=True),
            _Field(6, "op", _U32, derived=True, optional=True, equals=0),
            _Field(4, "mask", _DATA),
            _Field(5, "xor", _DATA),
        ),
    ),
    _Layout(
        b"bitwise",
        ex.Shift,
        (
            _Field(1, "source", _REGISTER),
            _Field(2, "destination", _REGISTER),
            _Field(3, "length", _U32),
            _Field(6, "op", _number(nft.ShiftOp)),
            _Field(7, "bits", _SHIFT_BITS),
        ),
    ),
    _Layout(
        b"byteorder",
        ex.Byteorder,
        (
            _Field(1, "source", _REGISTER),
            _Field(2, "destination", _REGISTER),
            _Field(3, "op", _number(nft.ByteorderOp)),
            _Field(4, "length", _U32),
            _Field(5, "size", _U32),
        ),
    ),
    _Layout(
        b"lookup",
        ex.Lookup,
        (
            _Field(1, "set_name", _STRING),
            _Field(2, "register", _REGISTER),
            _Field(3, "destination", _REGISTER, optional=True),
            _Field(5, "invert", _FLAG, optional=True),
        ),
    ),
    _Layout(
        b"dynset",
        ex.SetUpdate,
        (
            _Field(1, "set_name", _STRING),
            _Field(3, "op", _U32, derived=True, equals=1),
            _Field(4, "register", _REGISTER),
            _Field(6, "timeout_milliseconds", _U64),
        ),
    ),
    _Layout(
        b"immediate",
        ex.Immediate,
        (_Field(1, "register", _REGISTER), _Field(2, "value", _DATA)),
    ),
    _Layout(
        b"ct",
        ex.Ct,
        (
            _Field(2, "key", _number(nft.CtKey)),
            _Field(1, "register", _REGISTER),
            _Field(3, "direction", _DIRECTION, optional=True),
        ),
    ),
    _Layout(
        b"ct",
        ex.CtSet,
        (
            _Field(2, "key", _number(nft.CtKey)),
            _Field(4, "register", _REGISTER),
            _Field(3, "direction", _DIRECTION, optional=True),
        ),
    ),
    _Layout(b"counter", ex.Counter, (_Field(1, "bytes", _U64), _Field(2, "packets", _U64))),
    _Layout(
        b"log",
        ex.Log,
        (
            _Field(2, "prefix", _STRING, optional=True),
            _Field(1, "group", _U16, optional=True),
            _Field(3, "snaplen", _U32, optional=True),
            _Field(4, "queue_threshold", _U16, optional=True),
            _Field(5, "level", _number(nft.LogLevel), optional=True),
            _Field(6, "flags", _U32, optional=True),
        ),
    ),
    _Layout(
        b"limit",
        ex.Limit,
        (
            _Field(1, "rate", _U64),
            _Field(2, "unit_seconds", _UNIT),
            _Field(3, "burst", _U32),
            _Field(4, "kind", _number(nft.LimitKind)),
            _Field(5, "invert", _FLAG, optional=True),
        ),
    ),
    _Layout(
        b"connlimit",
        ex.ConnectionLimit,
        (_Field(1, "count", _U32), _Field(2, "invert", _FLAG, optional=True)),
    ),
    _Layout(
        b"reject",
        ex.Reject,
        (
            _Field(1, "kind", _number(nft.RejectKind)),
            _Field(2, "code", _U8, optional=True, always=True),
        ),
    ),
    _Layout(
        b"nat",
        ex.Nat,
        (
            _Field(1, "kind", _number(nft.NatKind)),
            _Field(2, "family", _number(nft.Family)),
            _Field(3, "address", _REGISTER, optional=True),
            _Field(4, "address_max", _REGISTER, optional=True),
            _Field(5, "port", _REGISTER, optional=True),
            _Field(6, "port_max", _REGISTER, optional=True),
            _Field(7, "flags", _NAT_FLAGS, optional=True),
        ),
    ),
    _Layout(
        b"masq",
        ex.Masquerade,
        (
            _Field(1, "flags", _number(nft.NatFlag), optional=True),
            _Field(2, "port", _REGISTER, optional=True),
            _Field(3, "port_max", _REGISTER, optional=True),
        ),
    ),
    _Layout(
        b"redir",
        ex.Redirect,
        (
            _Field(1, "port", _REGISTER, optional=True),
            _Field(2, "port_max", _REGISTER, optional=True),
            _Field(3, "flags", _NAT_FLAGS, optional=True),
        ),
    ),
    _Layout(
        b"fib",
        ex.Fib,
        (
            _Field(1, "register", _REGISTER),
            _Field(2, "result", _number(nft.FibResult)),
            _Field(3, "flags", _number(nft.FibFlag)),
        ),
    ),
    _Layout(
        b"exthdr",
        ex.Exthdr,
        (
            _Field(1, "register", _REGISTER),
            _Field(2, "type", _U8),
            _Field(3, "offset", _U32),
            _Field(4, "length", _U32),
            _Field(5, "flags", _U32, optional=True),
            _Field(6, "op", _EXTHDR_OP, optional=True),
        ),
    ),
    _Layout(b"notrack", ex.Notrack, ()),
)

_BY_TYPE = {layout.make: layout for layout in _LAYOUTS}
_BY_NAME: dict[bytes, list[_Layout]] = {}
for _layout in _LAYOUTS:
    _BY_NAME.setdefault(_layout.kernel_name, []).append(_layout)

_DEFAULTS: dict[tuple[type[Any], str], Any] = {
    (layout.make, name): default
    for layout in _LAYOUTS
    for name, default in zip(
        reversed(layout.make.__struct_fields__),
        reversed(layout.make.__struct_defaults__),
        strict=False,
    )
}


# Encoding.


def encode_expressions(expressions: tuple[Expression, ...]) -> bytes:
    """A rule's program: the payload of NFTA_RULE_EXPRESSIONS."""
    return b"".join([_encode_cached(one) for one in expressions])


def encode_expression(expression: Expression) -> bytes:
    """One list element: name and attributes."""
    return netlink.nested(nft.LIST_ELEM, encode_lone_expression(expression))


def encode_lone_expression(expression: Expression) -> bytes:
    """Name and attributes."""
    if isinstance(expression, Verdict):
        name = b"immediate"
        data = _VERDICT_IMMEDIATE_DREG + netlink.nested(2, encode_verdict(expression))
    elif isinstance(expression, ex.Opaque):
        name, data = expression.name.encode(), expression.data
    else:
        layout = _BY_TYPE[type(expression)]
        name = layout.kernel_name
        data = b"".join(_encode_field(layout, field, expression) for field in layout.fields)
    return netlink.attribute(nft.EXPR_NAME, name + b"\0") + netlink.nested(nft.EXPR_DATA, data)


_encode_remembered = lru_cache(maxsize=16384)(encode_expression)


def _encode_cached(expression: Expression) -> bytes:
    # Counters are equal on purpose, whatever they start from, so never share one's bytes.
    if type(expression) is ex.Counter:
        return encode_expression(expression)
    return _encode_remembered(expression)


def _encode_field(layout: _Layout, field: _Field, expression: Expression) -> bytes:
    value = getattr(expression, field.name)
    if field.optional and not field.always:
        default = field.equals if field.derived else _DEFAULTS[layout.make, field.name]
        if value == default:
            return b""
    return field.form.pack(field.attribute, value)


def encode_verdict(verdict: Verdict) -> bytes:
    """NFTA_DATA_VERDICT, to stand inside a data attribute."""
    code = netlink.attribute_be32(nft.VERDICT_CODE, verdict.code & 0xFFFFFFFF)
    chain = netlink.attribute_string(nft.VERDICT_CHAIN, verdict.chain) if verdict.chain else b""
    return netlink.nested(nft.DATA_VERDICT, code, chain)


# Decoding.


def decode_expressions(data: memoryview) -> tuple[Expression, ...]:
    return tuple(decode_expression(bytes(value)) for _, value in netlink.attributes(data))


@lru_cache(maxsize=16384)
def decode_expression(data: bytes) -> Expression:
    """One list element's payload; `Opaque` if we have no layout that fits."""
    outer = netlink.attribute_map(memoryview(data))
    name = bytes(outer[nft.EXPR_NAME]).rstrip(b"\0")
    body = outer.get(nft.EXPR_DATA, memoryview(b""))
    found = netlink.attribute_map(body)
    if name == b"immediate":
        verdict = netlink.attribute_map(found[2]).get(nft.DATA_VERDICT)
        if verdict is not None:
            return _decode_known_verdict(verdict) or ex.Opaque("immediate", bytes(body))
    for layout in _BY_NAME.get(name, ()):
        made = _decode_layout(layout, found)
        if made is not None:
            return made
    return ex.Opaque(name.decode(), bytes(body))


def _decode_layout(layout: _Layout, found: dict[int, memoryview]) -> Expression | None:
    """None if the attributes, or a number that we do not know, do not fit."""
    values: dict[str, Any] = {}
    for field in layout.fields:
        data = found.get(field.attribute)
        if data is None:
            if not field.optional:
                return None
            continue
        try:
            value = field.form.read(data)
        except (ValueError, KeyError):
            return None
        if field.equals is not None and value != field.equals:
            return None
        if not field.derived:
            values[field.name] = value
    made: Expression = layout.make(**values)
    return made


def _decode_known_verdict(data: memoryview) -> Verdict | None:
    try:
        return decode_verdict(data)
    except ValueError:
        return None


def decode_verdict(data: memoryview) -> Verdict:
    found = netlink.attribute_map(data)
    code = netlink.be(found[nft.VERDICT_CODE])
    chain = netlink.text(found[nft.VERDICT_CHAIN]) if nft.VERDICT_CHAIN in found else ""
    signed = code - (1 << 32) if code >> 31 else code
    return Verdict(nft.VerdictCode(signed), chain)
