"""What nf_tables does with a packet, on paper: the kernel's virtual machine over decoded rules.

Rules are compiled once into closures over registers; then packets, as bytes, walk through the base
chains of a hook in the order of their priorities. It knows policy no more than the kernel does:
loads, comparisons, look-ups, verdicts. What it does not know it refuses to guess.

Source: net/netfilter/nf_tables_core.c, nft_do_chain, and the `*_eval` functions of nft_*.c.
"""

import asyncio
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tortie.kernel.nft import expressions as ex
from tortie.kernel.nft.connection import Backend
from tortie.kernel.nft.constants import (
    CmpOp,
    CtKey,
    CtState,
    Family,
    FibFlag,
    FibResult,
    Hook,
    MetaKey,
    NatKind,
    PayloadBase,
    Policy,
    RangeOp,
    ShiftOp,
    VerdictCode,
)
from tortie.kernel.nft.expressions import ACCEPT, DROP, VERDICT_REGISTER, Expression, Verdict
from tortie.kernel.nft.objects import Chain, Element, Set, TableName, intervals

_REGISTER_BYTES = 64
_IFNAME_BYTES = 16
_EXTENSIONS = frozenset({0, 43, 60, 135})
"""Hop-by-hop, routing, destination options, mobility: each says what comes behind it."""
_FRAGMENT = 44


class Skb:
    """One packet on its way through one host, and what the kernel knows of it."""

    __slots__ = (
        "data",
        "dnat",
        "family",
        "fib",
        "iif",
        "mark",
        "oif",
        "original",
        "protocol",
        "registers",
        "state",
        "status",
        "transport",
        "walked",
    )

    def __init__(self, data: bytes, *, iif: str = "", fib: "Callable[..., int] | None" = None):
        """
        Args:
            data: from the network header on.
            fib: the kind of an address (RTN_*): of (address).
        """
        self.data = bytearray(data)
        self.family = data[0] >> 4
        self.iif, self.oif = _padded(iif), bytes(_IFNAME_BYTES)
        self.mark = 0
        self.state = CtState.NEW
        self.status = 0
        self.fib = fib
        self.registers = bytearray(_REGISTER_BYTES)
        self.protocol, self.transport = _transport(data)
        self.original = self.source + self.destination
        self.dnat: tuple[bytes, bytes] | None = None
        self.walked: list[str] = []
        """Where something was decided, for people."""

    @property
    def source(self) -> bytes:
        return bytes(self.data[12:16] if self.family == 4 else self.data[8:24])

    @property
    def destination(self) -> bytes:
        return bytes(self.data[16:20] if self.family == 4 else self.data[24:40])

    def rewrite(self, *, source: bytes = b"", destination: bytes = b"", port: bytes = b"") -> None:
        """As NAT does; sums are not mended, nobody looks at them here."""
        first = 12 if self.family == 4 else 8
        size = 4 if self.family == 4 else 16
        if source:
            self.data[first : first + size] = source
        if destination:
            self.data[first + size : first + 2 * size] = destination
        if port and self.transport is not None:
            at = self.transport + (0 if source else 2)
            self.data[at : at + 2] = port


def _transport(data: bytes) -> tuple[int, int | None]:
    """The last protocol of the chain of headers, and where it begins; None for a later fragment."""
    if data[0] >> 4 == 4:
        is_later = int.from_bytes(data[6:8], "big") & 0x1FFF
        return data[9], None if is_later else (data[0] & 0x0F) * 4
    protocol, at = data[6], 40
    while protocol in _EXTENSIONS or protocol == _FRAGMENT:
        if protocol == _FRAGMENT:
            if int.from_bytes(data[at + 2 : at + 4], "big") >> 3:
                return data[at], None
            protocol, at = data[at], at + 8
        else:
            protocol, at = data[at], at + (data[at + 1] + 1) * 8
    return protocol, at


def _padded(name: str) -> bytes:
    return name.encode().ljust(_IFNAME_BYTES, b"\0")


Step = Callable[[Skb], bool | Verdict]
"""True goes on in the rule, False breaks it."""


@dataclass
class _Chain:
    name: str
    rules: list[tuple[Step, ...]] = field(default_factory=list)


class _BaseChain(NamedTuple):
    priority: int
    family: Family
    type: str
    drops: bool
    chain: _Chain


class Ruleset:
    """All tables of one host, compiled."""

    def __init__(self, tables: "Iterable[_Table]") -> None:
        self._hooks: dict[Hook, list[_BaseChain]] = {hook: [] for hook in Hook}
        for table in tables:
            for base in table.bases():
                self._hooks[Hook(base[0])].append(base[1])
        for chains in self._hooks.values():
            chains.sort(key=lambda base: base.priority)

    @classmethod
    def read(cls, backend: Backend) -> "Ruleset":
        """From anything that tells what is there: the wire's tables, or the kernel's."""
        return asyncio.run(cls._read(backend))

    @classmethod
    async def _read(cls, backend: Backend) -> "Ruleset":
        tables = []
        for found in await backend.tables():
            if found.family in _FAMILIES:
                tables.append(await _Table.read(backend, found.table_name))
        return cls(tables)

    def run(self, hook: Hook, skb: Skb, priorities: range | None = None) -> bool:
        """Whether the packet passes the hook, or the part of it with these priorities."""
        for base in self._hooks[hook]:
            if skb.family not in _FAMILIES[base.family]:
                continue
            if priorities is not None and base.priority not in priorities:
                continue
            if base.type == "nat" and skb.state == CtState.UNTRACKED:
                continue
            skb.walked.append(f"  {base.chain.name} (at {hook.name.lower()}, {base.priority})")
            if not _run(base, skb):
                return False
        return True


_FAMILIES = {Family.INET: (4, 6), Family.IP: (4,), Family.IP6: (6,)}


def _run(base: _BaseChain, skb: Skb) -> bool:
    """nft_do_chain."""
    chain, place = base.chain, 0
    stack: list[tuple[_Chain, int]] = []
    while True:
        target: str | None = None
        rules = chain.rules
        while place < len(rules):
            result: bool | Verdict = True
            for step in rules[place]:
                result = step(skb)
                if result is not True:
                    break
            place += 1
            if isinstance(result, bool):
                continue
            skb.walked.append(f"    {chain.name} {place}: {result}")
            if result.code == VerdictCode.ACCEPT:
                return True
            if result.code == VerdictCode.DROP:
                return False
            if result.code == VerdictCode.RETURN:
                place = len(rules)
            else:
                assert isinstance(result, _Call)
                if result.code == VerdictCode.JUMP:
                    stack.append((chain, place))
                chain, place = result.target, 0
                target = chain.name
                break
        if target is not None:
            continue
        if not stack:
            return not base.drops
        chain, place = stack.pop()


class _Call(Verdict, frozen=True, kw_only=True):
    """A jump or goto with the chain itself."""

    target: Any

    def __str__(self) -> str:
        return super().__str__()


class _Table:
    """One table: compiled, with its sets ready for look-ups."""

    def __init__(self, name: TableName) -> None:
        self._name = name
        self._bases: list[Chain] = []
        self._chains: dict[str, _Chain] = {}
        self._lookups: dict[str, Callable[[bytes], bytes | Verdict | None]] = {}
        self._key_lengths: dict[str, int] = {}

    @classmethod
    async def read(cls, backend: Backend, name: TableName) -> "_Table":
        made = cls(name)
        for chain in await backend.chains(name):
            made._chains[chain.name] = _Chain(chain.name)
            if chain.base is not None:
                made._bases.append(chain)
        for of in await backend.sets(name):
            elements = await backend.elements(name, of.name)
            made._key_lengths[of.name] = of.key_length
            made._lookups[of.name] = made._finder(of, elements)
        for rule in await backend.rules(name):
            steps = [made._compile(one) for one in rule.expressions]
            made._chains[rule.chain].rules.append(tuple(step for step in steps if step))
        return made

    def bases(self) -> Iterable[tuple[int, _BaseChain]]:
        for chain in self._bases:
            assert chain.base is not None
            drops = chain.base.policy is Policy.DROP
            base = chain.base
            yield (
                base.hook,
                _BaseChain(
                    base.priority, self._name.family, base.type, drops, self._chains[chain.name]
                ),
            )

    def _resolved(self, verdict: Verdict) -> Verdict:
        if not verdict.chain:
            return verdict
        return _Call(verdict.code, verdict.chain, target=self._chains[verdict.chain])

    def _finder(
        self, of: Set, elements: list[Element]
    ) -> Callable[[bytes], bytes | Verdict | None]:
        """What the set holds for a key: None for nothing, b"" where it has no data."""

        def data(found: bytes | Verdict | None) -> bytes | Verdict:
            return self._resolved(found) if isinstance(found, Verdict) else found or b""

        if not of.interval:
            return {one.key: data(one.data) for one in elements}.get
        assert not any(one.key_end for one in elements), "no ranges over concatenations here"
        ranges = list(intervals(elements))
        starts = [one.first for one in ranges]

        def find(key: bytes) -> bytes | Verdict | None:
            place = bisect_right(starts, key) - 1
            if place < 0 or key > ranges[place].last:
                return None
            return data(ranges[place].data)

        return find

    def _compile(self, expression: Expression) -> Step | None:
        """None for what neither decides nor loads: counters, logs, limits that are not reached."""
        if isinstance(expression, Verdict):
            if expression.code == VerdictCode.CONTINUE:
                return None
            resolved = self._resolved(expression)
            return lambda skb: resolved
        if isinstance(expression, ex.Lookup):
            return self._lookup(expression)
        return _COMPILERS[type(expression)](expression)

    def _lookup(self, lookup: ex.Lookup) -> Step:
        find = self._lookups[lookup.set_name]
        first = lookup.register * 4
        last = first + self._key_lengths[lookup.set_name]
        invert, destination = lookup.invert, lookup.destination

        def step(skb: Skb) -> bool | Verdict:
            found = find(bytes(skb.registers[first:last]))
            if found is None:
                return invert
            if destination == VERDICT_REGISTER:
                assert isinstance(found, Verdict)
                return found if found.code != VerdictCode.CONTINUE else True
            if destination is not None:
                assert isinstance(found, bytes)
                _store(skb, destination * 4, found)
            return not invert

        return step


def _store(skb: Skb, at: int, value: bytes) -> None:
    """Short values leave zeros in the rest of their last word."""
    padded = value + bytes(-len(value) % 4)
    skb.registers[at : at + len(padded)] = padded


# Expressions.


def _meta(meta: ex.Meta) -> Step:
    load = _META[meta.key]
    at = meta.register * 4

    def step(skb: Skb) -> bool:
        _store(skb, at, load(skb))
        return True

    return step


def _u32(number: int) -> bytes:
    return number.to_bytes(4, sys.byteorder)


_META: dict[MetaKey, Callable[[Skb], bytes]] = {
    MetaKey.NFPROTO: lambda skb: b"\x02" if skb.family == 4 else b"\x0a",
    MetaKey.PROTOCOL: lambda skb: b"\x08\x00" if skb.family == 4 else b"\x86\xdd",
    MetaKey.L4PROTO: lambda skb: bytes((skb.protocol,)),
    MetaKey.MARK: lambda skb: _u32(skb.mark),
    MetaKey.IIFNAME: lambda skb: skb.iif,
    MetaKey.OIFNAME: lambda skb: skb.oif,
    MetaKey.LENGTH: lambda skb: _u32(len(skb.data)),
}


def _meta_set(meta: ex.MetaSet) -> Step:
    assert meta.key is MetaKey.MARK, meta
    at = meta.register * 4

    def step(skb: Skb) -> bool:
        skb.mark = int.from_bytes(skb.registers[at : at + 4], sys.byteorder)
        return True

    return step


def _payload(payload: ex.Payload) -> Step:
    offset, length, at = payload.offset, payload.length, payload.register * 4
    assert payload.header in (PayloadBase.NETWORK, PayloadBase.TRANSPORT), payload
    of_transport = payload.header is PayloadBase.TRANSPORT

    def step(skb: Skb) -> bool:
        first = offset
        if of_transport:
            if skb.transport is None:
                return False
            first += skb.transport
        value = bytes(skb.data[first : first + length])
        if len(value) < length:
            return False
        _store(skb, at, value)
        return True

    return step


def _payload_set(payload: ex.PayloadSet) -> Step:
    assert payload.header is PayloadBase.NETWORK, payload
    at, offset, length = payload.register * 4, payload.offset, payload.length

    def step(skb: Skb) -> bool:
        skb.data[offset : offset + length] = skb.registers[at : at + length]
        return True

    return step


_COMPARISONS: dict[CmpOp, Callable[[bytes, bytes], bool]] = {
    CmpOp.EQ: lambda one, other: one == other,
    CmpOp.NEQ: lambda one, other: one != other,
    CmpOp.LT: lambda one, other: one < other,
    CmpOp.LTE: lambda one, other: one <= other,
    CmpOp.GT: lambda one, other: one > other,
    CmpOp.GTE: lambda one, other: one >= other,
}


def _cmp(cmp: ex.Cmp) -> Step:
    compare, value = _COMPARISONS[cmp.op], cmp.value
    first = cmp.register * 4
    last = first + len(value)
    if cmp.op is CmpOp.EQ:  # nearly all
        return lambda skb: skb.registers[first:last] == value
    return lambda skb: compare(bytes(skb.registers[first:last]), value)


def _range(expression: ex.Range) -> Step:
    low, high = expression.low, expression.high
    wanted = expression.op is RangeOp.EQ
    first = expression.register * 4
    last = first + len(low)
    return lambda skb: (low <= bytes(skb.registers[first:last]) <= high) == wanted


def _bitwise(bitwise: ex.Bitwise) -> Step:
    mask, xor = int.from_bytes(bitwise.mask, "big"), int.from_bytes(bitwise.xor, "big")
    length = bitwise.length
    source, destination = bitwise.source * 4, bitwise.destination * 4

    def step(skb: Skb) -> bool:
        value = int.from_bytes(skb.registers[source : source + length], "big")
        _store(skb, destination, ((value & mask) ^ xor).to_bytes(length, "big"))
        return True

    return step


def _shift(shift: ex.Shift) -> Step:
    source, destination, length = shift.source * 4, shift.destination * 4, shift.length
    left = shift.op is ShiftOp.LEFT

    def step(skb: Skb) -> bool:
        value = int.from_bytes(skb.registers[source : source + length], "big")
        value = value << shift.bits if left else value >> shift.bits
        value &= (1 << 8 * length) - 1
        _store(skb, destination, value.to_bytes(length, "big"))
        return True

    return step


def _byteorder(swap: ex.Byteorder) -> Step:
    source, destination, length = swap.source * 4, swap.destination * 4, swap.length

    def step(skb: Skb) -> bool:
        value = bytes(skb.registers[source : source + length])
        if sys.byteorder == "little":
            parts = (value[i : i + swap.size][::-1] for i in range(0, length, swap.size))
            value = b"".join(parts)
        _store(skb, destination, value)
        return True

    return step


def _immediate(immediate: ex.Immediate) -> Step:
    at, value = immediate.register * 4, immediate.value

    def step(skb: Skb) -> bool:
        _store(skb, at, value)
        return True

    return step


def _ct(ct: ex.Ct) -> Step:
    load = _CT[ct.key]
    at = ct.register * 4

    def step(skb: Skb) -> bool:
        if skb.state is CtState.UNTRACKED and ct.key is not CtKey.STATE:
            return False
        value = load(skb)
        if not value:
            return False
        _store(skb, at, value)
        return True

    return step


def _original_destination(skb: Skb) -> bytes:
    return skb.original[len(skb.original) // 2 :]


def _original_source(skb: Skb) -> bytes:
    return skb.original[: len(skb.original) // 2]


_CT: dict[CtKey, Callable[[Skb], bytes]] = {
    CtKey.STATE: lambda skb: _u32(skb.state),
    CtKey.STATUS: lambda skb: _u32(skb.status),
    CtKey.DIRECTION: lambda skb: b"\0",
    CtKey.IP_SADDR: lambda skb: _original_source(skb) if skb.family == 4 else b"",
    CtKey.IP_DADDR: lambda skb: _original_destination(skb) if skb.family == 4 else b"",
    CtKey.IP6_SADDR: lambda skb: _original_source(skb) if skb.family == 6 else b"",
    CtKey.IP6_DADDR: lambda skb: _original_destination(skb) if skb.family == 6 else b"",
}


def _fib(fib: ex.Fib) -> Step:
    """Of an address, its kind; nothing else is asked here."""
    assert fib.result is FibResult.TYPE, fib
    of_source = FibFlag.SADDR in fib.flags
    at = fib.register * 4

    def step(skb: Skb) -> bool:
        assert skb.fib is not None
        _store(skb, at, _u32(skb.fib(skb.source if of_source else skb.destination)))
        return True

    return step


def _notrack(_: ex.Notrack) -> Step:
    def step(skb: Skb) -> bool:
        skb.state = CtState.UNTRACKED
        return True

    return step


def _nat(nat: ex.Nat) -> Step:
    size = 4 if nat.family is Family.IP else 16

    def step(skb: Skb) -> bool | Verdict:
        address = port = b""
        if nat.address is not None:
            address = bytes(skb.registers[nat.address * 4 : nat.address * 4 + size])
        if nat.port is not None:
            port = bytes(skb.registers[nat.port * 4 : nat.port * 4 + 2])
        if nat.kind is NatKind.DNAT:
            skb.rewrite(destination=address, port=port)
            skb.status |= 0x20
        else:
            skb.rewrite(source=address)
        return ACCEPT

    return step


def _final(verdict: Verdict) -> Callable[[Any], Step]:
    return lambda _: lambda skb: verdict


def _nothing(_: Any) -> None:
    return None


_COMPILERS: dict[type[Any], Callable[[Any], Step | None]] = {
    ex.Meta: _meta,
    ex.MetaSet: _meta_set,
    ex.Payload: _payload,
    ex.PayloadSet: _payload_set,
    ex.Cmp: _cmp,
    ex.Range: _range,
    ex.Bitwise: _bitwise,
    ex.Shift: _shift,
    ex.Byteorder: _byteorder,
    ex.Immediate: _immediate,
    ex.Ct: _ct,
    ex.Fib: _fib,
    ex.Notrack: _notrack,
    ex.Nat: _nat,
    ex.Masquerade: _final(ACCEPT),
    ex.Reject: _final(DROP),
    ex.Counter: _nothing,
    ex.Log: _nothing,
    ex.Limit: _nothing,
    ex.SetUpdate: _nothing,
    ex.CtSet: _nothing,
}
