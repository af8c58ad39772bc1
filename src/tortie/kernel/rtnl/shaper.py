"""Bandwidth of a link: a token bucket on what leaves it, and a detour for what comes in.

The kernel shapes only what leaves a link. So what comes in is sent through a link
of its own kind, an `ifb`, which gives it back as if nothing had been, at the speed
of the bucket there.

Ours are known by their handles: nobody else gives a bucket `BUCKET_HANDLE`, or a
filter `PREFERENCE`.

Source: net/sched/sch_tbf.c, cls_u32.c, act_mirred.c; drivers/net/ifb.c;
include/uapi/linux/pkt_sched.h, pkt_cls.h, tc_act/tc_mirred.h.
"""

import struct
from typing import NamedTuple

from tortie.kernel.netlink import (
    Message,
    Request,
    attribute,
    attribute_map,
    attribute_string,
    attribute_u32,
    nested,
    text,
)
from tortie.kernel.rtnl import kinds

_HEADER = struct.Struct("=BxxxiIII")
"""struct tcmsg: family, interface, handle, parent, info."""
_KIND, _OPTIONS = 1, 2

_ROOT = 0xFFFFFFFF
_CLSACT_INGRESS = 0xFFFFFFF2
BUCKET_HANDLE = 0x7074 << 16
PREFERENCE = 4
_ALL_PROTOCOLS = 3 << 8  # ETH_P_ALL, in network order

_TBF_PARMS, _TBF_RATE64, _TBF_PRATE64, _TBF_BURST, _TBF_PBURST = 1, 4, 5, 6, 7
_RATE = struct.Struct("=BBHhHI")
"""struct tc_ratespec: cell_log, linklayer, overhead, cell_align, mpu, rate."""
_ETHERNET = 1
"""TC_LINKLAYER_ETHERNET: the kernel needs no table of times."""
_PARMS_REST = struct.Struct("=III")
"""limit, buffer, mtu; the latter two are given as bursts."""
_RATE_MAX = 0xFFFFFFFF

_U32_SELECTOR, _U32_ACTIONS = 5, 7
_TERMINAL = 1
_ACTION_KIND, _ACTION_OPTIONS = 1, 2
_MIRRED_PARMS = 2
_MIRRED = struct.Struct("=IIiiiiI")
"""struct tc_mirred: index, capabilities, action, two counts, what to do, interface."""
_STOLEN, _EGRESS_REDIRECT = 4, 1


class Bucket(NamedTuple):
    """All in bytes, and bytes per second."""

    rate: int
    burst: int
    limit: int
    """How much may wait."""
    peak_rate: int = 0
    """0: a burst goes as fast as it can."""
    peak_burst: int = 0


class Shape(NamedTuple):
    """A bucket that a link has, as far as it can be read back."""

    interface: int
    """Index of the link."""
    rate: int
    limit: int


def set_bucket(index: int, bucket: Bucket) -> Request:
    """What leaves the link, in place of whatever shaped it before."""
    rates = _rate(bucket.rate) + _rate(bucket.peak_rate)
    options = (
        attribute(_TBF_PARMS, rates + _PARMS_REST.pack(bucket.limit, 0, 0))
        + attribute_u32(_TBF_BURST, bucket.burst)
        + _rate64(_TBF_RATE64, bucket.rate)
    )
    if bucket.peak_rate:
        options += attribute_u32(_TBF_PBURST, bucket.peak_burst)
        options += _rate64(_TBF_PRATE64, bucket.peak_rate)
    body = _HEADER.pack(0, index, BUCKET_HANDLE, _ROOT, 0) + attribute_string(_KIND, "tbf")
    return Request(
        f"shape link {index}", kinds.NEW_QDISC, kinds.REPLACE, body + nested(_OPTIONS, options)
    )


def remove_bucket(index: int) -> Request:
    """Refused with ENOENT or EINVAL where there is none of ours."""
    body = _HEADER.pack(0, index, BUCKET_HANDLE, _ROOT, 0)
    return Request(f"leave link {index} unshaped", kinds.DELETE_QDISC, 0, body)


def shape_of(message: Message) -> Shape | None:
    """From a dump of disciplines (`guard.dump_hooks`); None for any that is not ours."""
    _, index, handle, _, _ = _HEADER.unpack_from(message.payload)
    if handle != BUCKET_HANDLE:
        return None
    found = attribute_map(message.payload[_HEADER.size :])
    if _KIND not in found or text(found[_KIND]) != "tbf":
        return None
    options = attribute_map(found[_OPTIONS])
    parms = options[_TBF_PARMS]
    *_, rate = _RATE.unpack_from(parms)
    if _TBF_RATE64 in options:
        rate = int.from_bytes(options[_TBF_RATE64], "little")
    (limit,) = struct.unpack_from("=I", parms, 2 * _RATE.size)
    return Shape(index, rate, limit)


def divert(index: int, through: int) -> Request:
    """All that comes in goes through another link, an ifb. The link has its hook for filters."""
    selector = struct.pack("=BBBxHHhhI", _TERMINAL, 0, 1, 0, 0, 0, 0, 0)
    selector += struct.pack("=IIii", 0, 0, 0, 0)  # one key that all packets fit
    mirred = _MIRRED.pack(0, 0, _STOLEN, 0, 0, _EGRESS_REDIRECT, through)
    action = nested(
        1,
        attribute_string(_ACTION_KIND, "mirred"),
        nested(_ACTION_OPTIONS, attribute(_MIRRED_PARMS, mirred)),
    )
    options = attribute(_U32_SELECTOR, selector) + nested(_U32_ACTIONS, action)
    body = _filter(index) + attribute_string(_KIND, "u32") + nested(_OPTIONS, options)
    return Request(f"divert what comes in by link {index}", kinds.NEW_FILTER, kinds.ADD, body)


def end_diversion(index: int) -> Request:
    """Refused with ENOENT or EINVAL where there is none."""
    return Request(f"divert link {index} no more", kinds.DELETE_FILTER, 0, _filter(index))


def _filter(index: int) -> bytes:
    return _HEADER.pack(0, index, 0, _CLSACT_INGRESS, PREFERENCE << 16 | _ALL_PROTOCOLS)


def _rate(rate: int) -> bytes:
    if not rate:
        return bytes(_RATE.size)
    return _RATE.pack(0, _ETHERNET, 0, 0, 0, min(rate, _RATE_MAX))


def _rate64(kind: int, rate: int) -> bytes:
    return attribute(kind, struct.pack("=Q", rate)) if rate >= _RATE_MAX else b""
