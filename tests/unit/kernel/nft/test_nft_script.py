"""Rules as a person reads them."""

import pytest

from tortie.kernel.nft import expressions as ex
from tortie.kernel.nft import keys
from tortie.kernel.nft.constants import (
    CmpOp,
    CtDirection,
    CtKey,
    CtState,
    CtStatus,
    Family,
    FibFlag,
    FibResult,
    LimitKind,
    MetaKey,
    NatFlag,
    NatKind,
    PayloadBase,
    RangeOp,
    RejectKind,
)
from tortie.kernel.nft.objects import Rule
from tortie.kernel.nft.script import rule_text

STATE = ex.Ct(CtKey.STATE)
IS_TCP = (ex.Meta(MetaKey.L4PROTO), ex.Cmp(CmpOp.EQ, b"\x06"))
DPORT = ex.Payload(PayloadBase.TRANSPORT, 2, 2)

CASES: list[tuple[str, tuple[ex.Expression, ...]]] = [
    (
        "ct state established,related accept",
        (STATE, ex.Bitwise(keys.u32(6), bytes(4)), ex.Cmp(CmpOp.NEQ, bytes(4)), ex.ACCEPT),
    ),
    (
        "ct state ! new drop",
        (
            STATE,
            ex.Bitwise(keys.u32(CtState.NEW), bytes(4)),
            ex.Cmp(CmpOp.EQ, bytes(4)),
            ex.DROP,
        ),
    ),
    (
        "ct status dnat accept",
        (
            ex.Ct(CtKey.STATUS),
            ex.Bitwise(keys.u32(CtStatus.DNAT), bytes(4)),
            ex.Cmp(CmpOp.NEQ, bytes(4)),
            ex.ACCEPT,
        ),
    ),
    (
        "ct state invalid drop",
        (STATE, ex.Cmp(CmpOp.EQ, keys.u32(1)), ex.DROP),
    ),
    (
        "meta l4proto tcp th dport 443 accept",
        (*IS_TCP, DPORT, ex.Cmp(CmpOp.EQ, keys.port(443)), ex.ACCEPT),
    ),
    (
        "th dport 80-90 drop",
        (DPORT, ex.Range(RangeOp.EQ, keys.port(80), keys.port(90)), ex.DROP),
    ),
    (
        "th dport != 80-90 drop",
        (DPORT, ex.Range(RangeOp.NEQ, keys.port(80), keys.port(90)), ex.DROP),
    ),
    (
        "ip saddr 10.0.0.0/8 return",
        (
            ex.Payload(PayloadBase.NETWORK, 12, 4),
            ex.Bitwise(b"\xff\0\0\0", bytes(4)),
            ex.Cmp(CmpOp.EQ, b"\x0a\0\0\0"),
            ex.RETURN,
        ),
    ),
    (
        "iifname . ip saddr != @sources drop",
        (
            ex.Meta(MetaKey.IIFNAME),
            ex.Payload(PayloadBase.NETWORK, 12, 4, 4),
            ex.Lookup("sources", invert=True),
            ex.DROP,
        ),
    ),
    (
        'iifname "cali*" goto from',
        (ex.Meta(MetaKey.IIFNAME), ex.Cmp(CmpOp.EQ, b"cali"), ex.goto("from")),
    ),
    (
        'oifname != "lo" counter packets 3 bytes 9 jump x',
        (
            ex.Meta(MetaKey.OIFNAME),
            ex.Cmp(CmpOp.NEQ, keys.ifname("lo")),
            ex.Counter(3, 9),
            ex.jump("x"),
        ),
    ),
    (
        "meta mark & 0x000000ff == 0x00000010 accept",
        (
            ex.Meta(MetaKey.MARK),
            ex.Bitwise(keys.u32(0xFF), bytes(4)),
            ex.Cmp(CmpOp.EQ, keys.u32(0x10)),
            ex.ACCEPT,
        ),
    ),
    (
        "meta mark set meta mark & 0xffffff00 ^ 0x00000010",
        (
            ex.Meta(MetaKey.MARK),
            ex.Bitwise(keys.u32(0xFFFFFF00), keys.u32(0x10)),
            ex.MetaSet(MetaKey.MARK),
        ),
    ),
    ("meta mark set 0x00000007", (ex.Immediate(keys.u32(7)), ex.MetaSet(MetaKey.MARK))),
    (
        "dnat ip to ip daddr map @floating",
        (
            ex.Payload(PayloadBase.NETWORK, 16, 4),
            ex.Lookup("floating", 0, 0),
            ex.Nat(NatKind.DNAT, Family.IP, 0),
        ),
    ),
    (
        "iifname map @ids vmap @lists",
        (
            ex.Meta(MetaKey.IIFNAME),
            ex.Meta(MetaKey.IIFNAME, 4),
            ex.Lookup("ids", 0, 3),
            ex.Lookup("lists", 4, ex.VERDICT_REGISTER),
        ),
    ),
    ("masquerade fully-random", (ex.Masquerade(NatFlag.FULLY_RANDOM),)),
    ("redirect to :8080", (ex.Immediate(keys.port(8080)), ex.Redirect(0))),
    (
        "fib saddr . iif oif 0 drop",
        (
            ex.Fib(FibResult.OIF, FibFlag.SADDR | FibFlag.IIF),
            ex.Cmp(CmpOp.EQ, keys.u32(0)),
            ex.DROP,
        ),
    ),
    (
        "ct original ip daddr 1.2.3.4 accept",
        (
            ex.Ct(CtKey.IP_DADDR, 0, CtDirection.ORIGINAL),
            ex.Cmp(CmpOp.EQ, b"\1\2\3\4"),
            ex.ACCEPT,
        ),
    ),
    (
        'limit rate 10/second burst 5 packets log prefix "x" group 1 '
        "reject with icmpx port-unreachable",
        (ex.Limit(10), ex.Log("x", 1), ex.Reject()),
    ),
    (
        "limit rate over 5 bytes/minute burst 0 bytes reject with tcp reset",
        (ex.Limit(5, 60, 0, LimitKind.BYTES, True), ex.Reject(RejectKind.TCP_RESET)),
    ),
    ("notrack", (ex.Notrack(),)),
    ("[ match ]", (ex.Opaque("match", b""),)),
    (
        "@transport,160,32 1 accept",
        (ex.Payload(PayloadBase.TRANSPORT, 20, 4), ex.Cmp(CmpOp.EQ, b"\0\0\0\1"), ex.ACCEPT),
    ),
]


@pytest.mark.parametrize(("expected", "expressions"), CASES, ids=[case[0] for case in CASES])
def test_a_rule_reads_like_nft(expected: str, expressions: tuple[ex.Expression, ...]) -> None:
    assert rule_text(Rule("c", expressions)) == expected


def test_arp_fields_have_arp_names() -> None:
    rule = Rule("c", (ex.Payload(PayloadBase.NETWORK, 14, 4), ex.Lookup("s"), ex.DROP))
    assert rule_text(rule, Family.ARP) == "arp saddr ip @s drop"


def test_an_expression_alone_prints_like_the_debug_output_of_nft() -> None:
    assert str(ex.Meta(MetaKey.IIFNAME, 4)) == "[ meta load iifname => reg 4 ]"
    assert str(ex.Lookup("s", 0, ex.VERDICT_REGISTER)) == "[ lookup reg 0 set s dreg verdict ]"
