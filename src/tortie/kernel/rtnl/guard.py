"""A guard on a link: IP packets that leave by it without a mark bit are dropped.

It is a filter of the link's traffic control, behind all of netfilter and not
part of it: who flushes nftables does not touch it. The program is classic BPF,
which needs no other system call and no action module, in direct-action mode:

    protocol is neither IPv4 nor IPv6  → next filter (ARP must pass)
    mark & bit is not 0                → next filter
    otherwise                          → drop

Source: net/sched/cls_bpf.c; include/uapi/linux/pkt_sched.h, pkt_cls.h, filter.h.
"""

import struct

from tortie.kernel.netlink import (
    Message,
    Request,
    attribute,
    attribute_map,
    attribute_string,
    attribute_u16,
    attribute_u32,
    nested,
    text,
)
from tortie.kernel.rtnl import kinds

_HEADER = struct.Struct("=BxxxiIII")
"""struct tcmsg: family, interface, handle, parent, info."""
_KIND, _OPTIONS = 1, 2
_BPF_OPS_LEN, _BPF_OPS, _BPF_FLAGS = 4, 5, 8
_DIRECT_ACTION = 1

_CLSACT = 0xFFFFFFF1
_CLSACT_HANDLE = 0xFFFF0000
_EGRESS = 0xFFFFFFF3
_ALL_PROTOCOLS = 3

PREFERENCE = 3
"""Early: a filter before it may let packets pass by it. 1 and 2 are what people type."""
HANDLE = 0x7074

_INSTRUCTION = struct.Struct("=HBBI")
_LOAD_HALF, _LOAD_WORD, _AND, _JUMP_EQUAL, _RETURN = 0x28, 0x20, 0x54, 0x15, 0x06
_AD_PROTOCOL, _AD_MARK = 0xFFFFF000, 0xFFFFF014
_NEXT_FILTER, _DROP = 0xFFFFFFFF, 2
"""TC_ACT_UNSPEC, TC_ACT_SHOT."""


def add_hook(index: int) -> Request:
    """Where filters of a link hang; refused with EEXIST where there is one."""
    body = _HEADER.pack(0, index, _CLSACT_HANDLE, _CLSACT, 0) + attribute_string(_KIND, "clsact")
    return Request(f"add the filter hook of link {index}", kinds.NEW_QDISC, kinds.ADD, body)


def add_filter(index: int, mark_bit: int) -> Request:
    """The guard itself, in one step with the one that may be there."""
    program = _program(mark_bit)
    options = (
        attribute_u16(_BPF_OPS_LEN, len(program) // _INSTRUCTION.size)
        + attribute(_BPF_OPS, program)
        + attribute_u32(_BPF_FLAGS, _DIRECT_ACTION)
    )
    body = _filter(index, HANDLE) + attribute_string(_KIND, "bpf") + nested(_OPTIONS, options)
    return Request(f"guard link {index}", kinds.NEW_FILTER, kinds.REPLACE, body)


def delete_filter(index: int) -> Request:
    """Refused with ENOENT or EINVAL where there is none."""
    body = _filter(index, HANDLE) + attribute_string(_KIND, "bpf")
    return Request(f"leave link {index} unguarded", kinds.DELETE_FILTER, 0, body)


def dump_hooks() -> Request:
    """All queueing disciplines of all links; `hook_of` picks out ours."""
    return Request("list filter hooks", kinds.GET_QDISC, 0, _HEADER.pack(0, 0, 0, 0, 0))


def hook_of(message: Message) -> int | None:
    """The link whose hook for filters this is; None for any other discipline."""
    _, index, _, parent, _ = _HEADER.unpack_from(message.payload)
    found = attribute_map(message.payload[_HEADER.size :])
    is_hook = parent == _CLSACT and _KIND in found and text(found[_KIND]) == "clsact"
    return index if is_hook else None


def _filter(index: int, handle: int) -> bytes:
    protocol = _ALL_PROTOCOLS << 8  # in network order
    return _HEADER.pack(0, index, handle, _EGRESS, PREFERENCE << 16 | protocol)


def _program(mark_bit: int) -> bytes:
    instructions = (
        (_LOAD_HALF, 0, 0, _AD_PROTOCOL),
        (_JUMP_EQUAL, 1, 0, 0x0800),
        (_JUMP_EQUAL, 0, 4, 0x86DD),
        (_LOAD_WORD, 0, 0, _AD_MARK),
        (_AND, 0, 0, mark_bit),
        (_JUMP_EQUAL, 0, 1, 0),
        (_RETURN, 0, 0, _DROP),
        (_RETURN, 0, 0, _NEXT_FILTER),
    )
    return b"".join(_INSTRUCTION.pack(*one) for one in instructions)
