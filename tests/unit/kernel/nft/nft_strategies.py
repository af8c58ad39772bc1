"""Hypothesis strategies for nf_tables values, shared by the round-trip tests."""

from typing import Any

from hypothesis import strategies as st

from tortie.kernel.nft import constants as nft
from tortie.kernel.nft import expressions as ex
from tortie.kernel.nft.objects import (
    IFNAME,
    INET_PROTO,
    INET_SERVICE,
    IPV4_ADDR,
    IPV6_ADDR,
    MARK,
    VERDICT,
    Base,
    Chain,
    Element,
    Rule,
    Set,
    Table,
)

names = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=40)
registers = st.integers(0, 15)
maybe_register = st.none() | registers
u32 = st.integers(0, 0xFFFFFFFF)
u64 = st.integers(0, 2**64 - 1)
values = st.binary(min_size=1, max_size=16)

verdicts = st.one_of(
    st.sampled_from([nft.VerdictCode.ACCEPT, nft.VerdictCode.DROP, nft.VerdictCode.RETURN]).map(
        ex.Verdict
    ),
    st.builds(ex.Verdict, st.sampled_from([nft.VerdictCode.JUMP, nft.VerdictCode.GOTO]), names),
)

_NAT_FLAGS = st.sampled_from([nft.NatFlag(0), nft.NatFlag.RANDOM, nft.NatFlag.FULLY_RANDOM])

expressions: st.SearchStrategy[Any] = st.one_of(
    verdicts,
    st.builds(ex.Meta, st.sampled_from(nft.MetaKey), registers),
    st.builds(ex.MetaSet, st.sampled_from(nft.MetaKey), registers),
    st.builds(ex.Payload, st.sampled_from(nft.PayloadBase), u32, u32, registers),
    st.builds(ex.PayloadSet, st.sampled_from(nft.PayloadBase), u32, u32, registers, u32, u32, u32),
    st.builds(ex.Cmp, st.sampled_from(nft.CmpOp), values, registers),
    st.builds(ex.Range, st.sampled_from(nft.RangeOp), values, values, registers),
    st.builds(ex.Bitwise, values, values, registers, registers),
    st.builds(ex.Shift, st.sampled_from(nft.ShiftOp), u32, u32, registers, registers),
    st.builds(ex.Byteorder, st.sampled_from(nft.ByteorderOp), u32, u32, registers, registers),
    st.builds(ex.SetUpdate, names, u64, registers),
    st.builds(ex.Lookup, names, registers, st.none() | st.integers(-1, 15), st.booleans()),
    st.builds(ex.Immediate, values, registers),
    st.builds(
        ex.Ct, st.sampled_from(nft.CtKey), registers, st.none() | st.sampled_from(nft.CtDirection)
    ),
    st.builds(
        ex.CtSet,
        st.sampled_from(nft.CtKey),
        registers,
        st.none() | st.sampled_from(nft.CtDirection),
    ),
    st.builds(ex.Counter, u64, u64),
    st.builds(
        ex.Log,
        names,
        st.none() | st.integers(0, 0xFFFF),
        u32,
        st.integers(0, 0xFFFF),
        st.sampled_from(nft.LogLevel),
        u32,
    ),
    st.builds(ex.Limit, u64, u64, u32, st.sampled_from(nft.LimitKind), st.booleans()),
    st.builds(ex.Reject, st.sampled_from(nft.RejectKind), st.integers(0, 255)),
    st.builds(
        ex.Nat,
        st.sampled_from(nft.NatKind),
        st.sampled_from([nft.Family.IP, nft.Family.IP6]),
        maybe_register,
        maybe_register,
        maybe_register,
        maybe_register,
        _NAT_FLAGS,
    ),
    st.builds(ex.Masquerade, _NAT_FLAGS, maybe_register, maybe_register),
    st.builds(ex.Redirect, maybe_register, maybe_register, _NAT_FLAGS),
    st.builds(
        ex.Fib,
        st.sampled_from(nft.FibResult),
        st.integers(1, 63).map(nft.FibFlag),
        registers,
    ),
    st.builds(
        ex.Exthdr,
        st.integers(0, 255),
        u32,
        u32,
        registers,
        u32,
        st.sampled_from(nft.ExthdrOp),
    ),
    st.just(ex.Notrack()),
    st.builds(ex.Opaque, st.sampled_from(["match", "target", "xfrm"]), st.just(b"\x08\0\1\0abcd")),
)

rules = st.builds(
    Rule,
    names,
    st.lists(expressions, max_size=6).map(tuple),
    st.binary(max_size=200),
    st.integers(1, 2**63),
)

tables = st.builds(
    Table, st.sampled_from(nft.Family), names, st.integers(0, 7).map(nft.TableFlag), st.just(0)
)

chains = st.builds(
    Chain,
    names,
    st.none()
    | st.builds(
        Base,
        st.sampled_from(["filter", "nat", "route"]),
        st.integers(0, 4),
        st.integers(-(2**31), 2**31 - 1),
        st.sampled_from(nft.Policy),
        st.lists(names.map(lambda name: name[:15]), max_size=3).map(tuple),
    ),
)

_key_types = st.lists(
    st.sampled_from([IFNAME, IPV4_ADDR, IPV6_ADDR, INET_PROTO, INET_SERVICE, MARK]),
    min_size=1,
    max_size=3,
).map(tuple)

sets = st.builds(
    Set,
    names,
    _key_types,
    st.just(()) | st.just((VERDICT,)) | _key_types,
    interval=st.booleans(),
    constant=st.booleans(),
    timeout=st.booleans(),
    size=st.integers(0, 2**31),
    comment=names,
)

elements = st.one_of(
    st.builds(Element, values, st.none() | values | verdicts),
    st.builds(Element, values, st.none(), st.just(True)),
    st.builds(Element, values, st.none() | values, st.just(False), values),
    st.builds(Element, st.just(b""), verdicts),
)
