"""Phrases of nft: short runs of expressions that together say one thing.

Every phrase loads what it compares, from register 0 up, and leaves nothing
behind that another one needs; so phrases can be put together in any order.
"""

from tortie.dataplane.rules import names
from tortie.desired.host_endpoint import ALL_INTERFACES
from tortie.kernel.nft import keys
from tortie.kernel.nft.constants import CmpOp, CtKey, CtState, CtStatus, MetaKey, PayloadBase
from tortie.kernel.nft.expressions import (
    VERDICT_REGISTER,
    Bitwise,
    Cmp,
    Counter,
    Ct,
    Expression,
    Immediate,
    Lookup,
    Meta,
    MetaSet,
    Payload,
    Verdict,
)
from tortie.lib.ip import Network

Expressions = tuple[Expression, ...]

NFPROTO = {4: 2, 6: 10}
"""NFPROTO_IPV4 and NFPROTO_IPV6."""
SOURCE_OFFSET = {4: 12, 6: 8}
DESTINATION_OFFSET = {4: 16, 6: 24}
ADDRESS_BYTES = {4: 4, 6: 16}
SOURCE_PORT_OFFSET, DESTINATION_PORT_OFFSET = 0, 2

_IFNAME_WORDS = 4
_LIST_ID_WORD = _IFNAME_WORDS + 1
_PORTS_ID_WORDS = names.PORTS_ID_BYTES // 4


def family(number: int) -> Expressions:
    return (Meta(MetaKey.NFPROTO), Cmp(CmpOp.EQ, keys.u8(NFPROTO[number])))


def protocol(number: int, *, negate: bool = False) -> Expressions:
    """The transport protocol, behind any IPv6 extension headers."""
    op = CmpOp.NEQ if negate else CmpOp.EQ
    return (Meta(MetaKey.L4PROTO), Cmp(op, keys.protocol(number)))


def input_interface(prefix: str) -> Expressions:
    """The packet came in by a link whose name begins so."""
    return (Meta(MetaKey.IIFNAME), Cmp(CmpOp.EQ, prefix.encode()))


def output_interface(prefix: str) -> Expressions:
    return (Meta(MetaKey.OIFNAME), Cmp(CmpOp.EQ, prefix.encode()))


def coming_in(prefixes: tuple[str, ...], then: Expressions) -> tuple[Expressions, ...]:
    """A rule for each prefix: what came in by a link whose name begins so."""
    return tuple((*input_interface(one), *then) for one in prefixes)


def going_out(prefixes: tuple[str, ...], then: Expressions) -> tuple[Expressions, ...]:
    return tuple((*output_interface(one), *then) for one in prefixes)


def named_output(pattern: str) -> Expressions:
    """The packet goes out by the link of this name; with a `+` at the end, as iptables(8) has it,
    by one whose name begins so."""
    if pattern.endswith("+"):
        prefix = pattern[:-1]
        return output_interface(prefix) if prefix else ()
    return (Meta(MetaKey.OIFNAME), Cmp(CmpOp.EQ, keys.ifname(pattern)))


def not_loopback() -> Expressions:
    return (Meta(MetaKey.IIFNAME), Cmp(CmpOp.NEQ, keys.ifname("lo")))


def source(number: int, register: int = 0) -> Payload:
    """Load the source address of a packet of this family."""
    return Payload(PayloadBase.NETWORK, SOURCE_OFFSET[number], ADDRESS_BYTES[number], register)


def destination(number: int, register: int = 0) -> Payload:
    return Payload(PayloadBase.NETWORK, DESTINATION_OFFSET[number], ADDRESS_BYTES[number], register)


def in_set(load: Expression, name: str, *, negate: bool = False) -> Expressions:
    return (load, Lookup(name, invert=negate))


def interface_and_source(number: int, set_name: str) -> Expressions:
    """Input interface and source address together are in the set."""
    return (Meta(MetaKey.IIFNAME), source(number, _IFNAME_WORDS), Lookup(set_name))


def transport(offset: int, value: bytes, *, negate: bool = False) -> Expressions:
    """Bytes of the transport header equal `value`."""
    op = CmpOp.NEQ if negate else CmpOp.EQ
    return (Payload(PayloadBase.TRANSPORT, offset, len(value)), Cmp(op, value))


def transport_bytes(offset: int, length: int) -> Payload:
    return Payload(PayloadBase.TRANSPORT, offset, length)


def transport_port(offset: int, register: int = 0) -> Payload:
    return Payload(PayloadBase.TRANSPORT, offset, 2, register)


def rule_port(identity: bytes, offset: int, *, negate: bool = False) -> Expressions:
    """The port at `offset` is one of those that stand behind `identity` in the shared set."""
    return (
        Immediate(identity),
        transport_port(offset, _PORTS_ID_WORDS),
        Lookup(names.RULE_PORTS, invert=negate),
    )


def connection(state: CtState) -> Expressions:
    """The packet's connection is in one of these states."""
    mask = keys.u32(int(state))
    return (Ct(CtKey.STATE), Bitwise(mask, bytes(4)), Cmp(CmpOp.NEQ, bytes(4)))


def destination_was_translated() -> Expressions:
    """The packet's connection has gone through destination NAT."""
    mask = keys.u32(int(CtStatus.DNAT))
    return (Ct(CtKey.STATUS), Bitwise(mask, bytes(4)), Cmp(CmpOp.NEQ, bytes(4)))


def mark_is_clear(bits: int) -> Expressions:
    return (Meta(MetaKey.MARK), Bitwise(keys.u32(bits), bytes(4)), Cmp(CmpOp.EQ, bytes(4)))


def mark_is_set(bits: int) -> Expressions:
    """One of these bits is."""
    return (Meta(MetaKey.MARK), Bitwise(keys.u32(bits), bytes(4)), Cmp(CmpOp.NEQ, bytes(4)))


def clear_mark(bits: int) -> Expressions:
    kept = keys.u32(~bits & 0xFFFFFFFF)
    return (Meta(MetaKey.MARK), Bitwise(kept, bytes(4)), MetaSet(MetaKey.MARK))


def set_mark(bits: int) -> Expressions:
    return set_bits(bits, bits)


def set_bits(bits: int, value: int) -> Expressions:
    """Make these bits of the mark `value`, and leave the others."""
    kept = keys.u32(~bits & 0xFFFFFFFF)
    return (Meta(MetaKey.MARK), Bitwise(kept, keys.u32(value)), MetaSet(MetaKey.MARK))


def dispatch(interface: MetaKey, lists: str, chains: str) -> Expressions:
    """interface → list id → chain; goes on to the next rule where either is missing.

    nft(8) 1.0.6 cannot print a look-up of what another look-up has found: it
    aborts, and whoever lists the ruleset of this host with it. It follows
    registers by their first word only; so the list id is loaded one word into
    the map's data (see `names.list_data`), where the interface has been loaded
    before. The kernel sees the list id there, nft sees the interface, and
    prints a rule that looks as if it skipped a map. May go with Debian 12.
    """
    return (
        Meta(interface),
        Meta(interface, _LIST_ID_WORD),
        Lookup(lists, destination=_LIST_ID_WORD - 1),
        Lookup(chains, register=_LIST_ID_WORD, destination=VERDICT_REGISTER),
    )


def dispatch_all(lists: str, chains: str) -> Expressions:
    """As `dispatch`, for what stands in the map for every interface."""
    every = keys.ifname(ALL_INTERFACES)
    return (
        Immediate(every),
        Immediate(every, _LIST_ID_WORD),
        Lookup(lists, destination=_LIST_ID_WORD - 1),
        Lookup(chains, register=_LIST_ID_WORD, destination=VERDICT_REGISTER),
    )


def protocol_and_port(offset: int, set_name: str) -> Expressions:
    """Protocol and the port at `offset` together are in the set."""
    return (Meta(MetaKey.L4PROTO), transport_port(offset, 1), Lookup(set_name))


def within(load: Payload, network: Network) -> Expressions:
    """The address that `load` loads is of this network."""
    mask = (1 << network.bits) - (1 << network.bits - network.length)
    size = network.bits // 8
    return (
        load,
        Bitwise(mask.to_bytes(size, "big"), bytes(size)),
        Cmp(CmpOp.EQ, network.packed),
    )


def counted(verdict: Verdict) -> Expressions:
    return (Counter(), verdict)
