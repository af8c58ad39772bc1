"""Guards on a link: IP packets leave by it with a mark bit alone; what comes in gets a mark.

Both are filters of the link's traffic control, behind and before all of netfilter
and not part of it: who flushes nftables does not touch them. The programs are
classic BPF, which needs no other system call. The guard needs no action module
either, as it acts itself:

    protocol is neither IPv4 nor IPv6  → next filter (ARP must pass)
    mark & bit is not 0                → next filter
    otherwise                          → drop

The marker picks out all but ARP, and has `skbedit` write the mark: not "IPv4 and
IPv6", because of a frame with two VLAN tags of number 0 the protocol is known only
later, and the kernel takes it for an IP packet then. ARP is left alone since an answer
for others (proxy ARP) begins with a look-up of routes, by the mark.

Source: net/sched/cls_bpf.c, act_skbedit.c; include/uapi/linux/pkt_sched.h, pkt_cls.h,
filter.h, tc_act/tc_skbedit.h.
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
_BPF_ACTIONS, _BPF_OPS_LEN, _BPF_OPS, _BPF_FLAGS = 1, 4, 5, 8
_DIRECT_ACTION = 1

_CLSACT = 0xFFFFFFF1
_CLSACT_HANDLE = 0xFFFF0000
_INGRESS, _EGRESS = 0xFFFFFFF2, 0xFFFFFFF3
_ALL_PROTOCOLS = 3

PREFERENCE = 3
"""Early: a filter before it may let packets pass by it. 1 and 2 are what people type."""
HANDLE = 0x7074

_INSTRUCTION = struct.Struct("=HBBI")
_LOAD_HALF, _LOAD_WORD, _AND, _JUMP_EQUAL, _RETURN = 0x28, 0x20, 0x54, 0x15, 0x06
_AD_PROTOCOL, _AD_MARK = 0xFFFFF000, 0xFFFFF014
_IPV4, _ARP, _IPV6 = 0x0800, 0x0806, 0x86DD
_NEXT_FILTER, _DROP = 0xFFFFFFFF, 2
"""TC_ACT_UNSPEC, TC_ACT_SHOT."""
_GO_ON = -1
"""The former, as actions have it: to the next filter, not to the end."""
_NO_MATCH, _MATCH = 0, 0xFFFFFFFF
"""Of a program that does not act itself."""

_ACTION_KIND, _ACTION_OPTIONS = 1, 2
_EDIT_PARMS, _EDIT_MARK, _EDIT_MASK = 2, 5, 8
_EDIT = struct.Struct("=IIiii")
"""struct tc_skbedit: index, capabilities, action, two counts."""


def add_hook(index: int) -> Request:
    """Where filters of a link hang; refused with EEXIST where there is one."""
    body = _HEADER.pack(0, index, _CLSACT_HANDLE, _CLSACT, 0) + attribute_string(_KIND, "clsact")
    return Request(f"add the filter hook of link {index}", kinds.NEW_QDISC, kinds.ADD, body)


def add_filter(index: int, mark_bit: int) -> Request:
    """The guard itself, in one step with the one that may be there."""
    options = _packed(_guard(mark_bit)) + attribute_u32(_BPF_FLAGS, _DIRECT_ACTION)
    body = _filter(index, _EGRESS) + nested(_OPTIONS, options)
    return Request(f"guard link {index}", kinds.NEW_FILTER, kinds.REPLACE, body)


def add_marker(index: int, mark: int, mask: int) -> Request:
    """What comes in gets `mark` in the bits of `mask`, and goes on; in one step, as above.

    Refused with ENOENT where the kernel has no `skbedit`.
    """
    edit = nested(
        _ACTION_OPTIONS,
        attribute(_EDIT_PARMS, _EDIT.pack(0, 0, _GO_ON, 0, 0)),
        attribute_u32(_EDIT_MARK, mark),
        attribute_u32(_EDIT_MASK, mask),
    )
    action = nested(1, attribute_string(_ACTION_KIND, "skbedit"), edit)
    options = nested(_BPF_ACTIONS, action) + _packed(_ALL_BUT_ARP)
    body = _filter(index, _INGRESS) + nested(_OPTIONS, options)
    return Request(f"mark what comes in by link {index}", kinds.NEW_FILTER, kinds.REPLACE, body)


def delete_filters(index: int) -> list[Request]:
    """The guard and the marker; refused with ENOENT or EINVAL where there is none."""
    return [
        Request(f"leave link {index} unguarded", kinds.DELETE_FILTER, 0, _filter(index, direction))
        for direction in (_EGRESS, _INGRESS)
    ]


def dump_hooks() -> Request:
    """All queueing disciplines of all links; `hook_of` picks out ours."""
    return Request("list filter hooks", kinds.GET_QDISC, 0, _HEADER.pack(0, 0, 0, 0, 0))


def hook_of(message: Message) -> int | None:
    """The link whose hook for filters this is; None for any other discipline."""
    _, index, _, parent, _ = _HEADER.unpack_from(message.payload)
    found = attribute_map(message.payload[_HEADER.size :])
    is_hook = parent == _CLSACT and _KIND in found and text(found[_KIND]) == "clsact"
    return index if is_hook else None


def _filter(index: int, direction: int) -> bytes:
    protocol = _ALL_PROTOCOLS << 8  # in network order
    header = _HEADER.pack(0, index, HANDLE, direction, PREFERENCE << 16 | protocol)
    return header + attribute_string(_KIND, "bpf")


_Program = tuple[tuple[int, int, int, int], ...]
"""Code, how far to jump if true and if false, constant."""


def _guard(mark_bit: int) -> _Program:
    return (
        (_LOAD_HALF, 0, 0, _AD_PROTOCOL),
        (_JUMP_EQUAL, 1, 0, _IPV4),
        (_JUMP_EQUAL, 0, 4, _IPV6),
        (_LOAD_WORD, 0, 0, _AD_MARK),
        (_AND, 0, 0, mark_bit),
        (_JUMP_EQUAL, 0, 1, 0),
        (_RETURN, 0, 0, _DROP),
        (_RETURN, 0, 0, _NEXT_FILTER),
    )


_ALL_BUT_ARP: _Program = (
    (_LOAD_HALF, 0, 0, _AD_PROTOCOL),
    (_JUMP_EQUAL, 0, 1, _ARP),
    (_RETURN, 0, 0, _NO_MATCH),
    (_RETURN, 0, 0, _MATCH),
)


def _packed(program: _Program) -> bytes:
    code = b"".join(_INSTRUCTION.pack(*one) for one in program)
    return attribute_u16(_BPF_OPS_LEN, len(program)) + attribute(_BPF_OPS, code)
