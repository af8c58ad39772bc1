"""Policy routing rules: which table a packet looks in."""

import struct

import msgspec

from tortie.kernel.netlink import (
    NLM_F_CREATE,
    Message,
    Request,
    attribute,
    attribute_map,
    attribute_string,
    attribute_u8,
    attribute_u32,
    text,
    u32,
)
from tortie.kernel.rtnl import kinds
from tortie.kernel.sysctl import check_interface_name
from tortie.lib.ip import Network, from_packed

_HEADER = struct.Struct("=BBBBBBBBI")
"""struct fib_rule_hdr: family, destination length, source length, TOS, table, two
reserved, action, flags."""

# include/uapi/linux/fib_rules.h
_DST, _SRC, _IIFNAME, _PRIORITY, _FWMARK = 1, 2, 3, 6, 10
_TABLE, _FWMASK, _OIFNAME, _PROTOCOL = 15, 16, 17, 21
_INVERT = 0x2
_TABLE_IN_ATTRIBUTE = 252

ACTION_LOOKUP, ACTION_BLACKHOLE, ACTION_UNREACHABLE, ACTION_PROHIBIT = 1, 6, 7, 8

_NOTHING = memoryview(b"")


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One rule; what is not given matches everything."""

    family: int
    """4 or 6."""
    priority: int
    """Lower is earlier; the kernel's own are 0, 32766 and 32767."""
    table: int = 0
    """Where to look, for ACTION_LOOKUP."""
    action: int = ACTION_LOOKUP
    source: Network | None = None
    destination: Network | None = None
    mark: int = 0
    mask: int = 0
    """0 means that the mark does not matter."""
    input_interface: str = ""
    output_interface: str = ""
    invert: bool = False
    """Match what the rest does not."""
    protocol: int = 0
    """Who installed it; a number by which we know our own."""


def decode(message: Message) -> Rule | None:
    """A rule from a NEW_RULE or DELETE_RULE message; None if not IP."""
    family, dst, src, _tos, table, _, _, action, flags = _HEADER.unpack_from(message.payload)
    if family not in kinds.FAMILY:
        return None
    found = attribute_map(message.payload[_HEADER.size :])
    protocol = found.get(_PROTOCOL)
    return Rule(
        family=kinds.FAMILY[family],
        priority=u32(found.get(_PRIORITY, _NOTHING)),
        table=u32(found[_TABLE]) if _TABLE in found else table,
        action=action,
        source=from_packed(bytes(found[_SRC]), src) if _SRC in found else None,
        destination=from_packed(bytes(found[_DST]), dst) if _DST in found else None,
        mark=u32(found.get(_FWMARK, _NOTHING)),
        mask=u32(found.get(_FWMASK, _NOTHING)),
        input_interface=text(found.get(_IIFNAME, _NOTHING)),
        output_interface=text(found.get(_OIFNAME, _NOTHING)),
        invert=bool(flags & _INVERT),
        protocol=protocol[0] if protocol else 0,
    )


def dump(family: int | None = None) -> Request:
    number = kinds.AF[family] if family else kinds.AF_UNSPEC
    return Request("list rules", kinds.GET_RULE, 0, _HEADER.pack(number, *[0] * 8))


def add(wanted: Rule, *, again: bool = False) -> Request:
    """Behind all of the same priority. Two that differ anywhere may coexist.

    Args:
        again: equal ones, too; else the kernel refuses it with EEXIST.
    """
    flags = NLM_F_CREATE if again else kinds.ADD
    return Request(f"add rule {wanted.priority}", kinds.NEW_RULE, flags, _body(wanted))


def delete(gone: Rule) -> Request:
    """Of equal ones the first."""
    return Request(f"delete rule {gone.priority}", kinds.DELETE_RULE, 0, _body(gone))


def _body(rule: Rule) -> bytes:
    source, destination, table = rule.source, rule.destination, rule.table
    body = _HEADER.pack(
        kinds.AF[rule.family],
        destination.length if destination else 0,
        source.length if source else 0,
        0,
        table if table < 256 else _TABLE_IN_ATTRIBUTE,
        0,
        0,
        rule.action,
        _INVERT if rule.invert else 0,
    )
    body += attribute_u32(_PRIORITY, rule.priority)
    if table > 255:
        body += attribute_u32(_TABLE, table)
    if source is not None:
        body += attribute(_SRC, source.packed)
    if destination is not None:
        body += attribute(_DST, destination.packed)
    if rule.mask:
        body += attribute_u32(_FWMARK, rule.mark) + attribute_u32(_FWMASK, rule.mask)
    if rule.input_interface:
        body += attribute_string(_IIFNAME, check_interface_name(rule.input_interface))
    if rule.output_interface:
        body += attribute_string(_OIFNAME, check_interface_name(rule.output_interface))
    if rule.protocol:
        body += attribute_u8(_PROTOCOL, rule.protocol)
    return body
