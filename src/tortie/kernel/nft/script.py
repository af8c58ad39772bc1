"""Objects as nft syntax, for people and golden tests; nothing reads it back.

Close to what `nft list ruleset` prints, not equal: the renderer follows values
through the registers, and where a program is not one that nft would have
written, it says so in brackets instead of guessing.
"""

import socket
import sys
from collections.abc import Iterable
from enum import IntFlag

from tortie.kernel.nft import constants as nft
from tortie.kernel.nft import expressions as ex
from tortie.kernel.nft.constants import CmpOp, CtState, CtStatus, Family, MetaKey, PayloadBase
from tortie.kernel.nft.expressions import Expression, Verdict
from tortie.kernel.nft.objects import (
    IFNAME,
    INET_PROTO,
    INET_SERVICE,
    INTEGER,
    IPV4_ADDR,
    IPV6_ADDR,
    MARK,
    NFPROTO,
    Base,
    DataType,
    Element,
    Rule,
    Set,
    Table,
    intervals,
)

_COMPARISONS = {
    CmpOp.EQ: "",
    CmpOp.NEQ: "!= ",
    CmpOp.LT: "< ",
    CmpOp.LTE: "<= ",
    CmpOp.GT: "> ",
    CmpOp.GTE: ">= ",
}

_CT_STATE = DataType("ct_state", 26, 4, host_order=True)
_CT_STATUS = DataType("ct_status", 28, 4, host_order=True)
_ETHER = DataType("ether_addr", 9, 6)
_NUMBER = DataType("number", 0, 0)

_PAYLOADS: dict[tuple[PayloadBase, int, int], tuple[str, DataType]] = {
    (PayloadBase.LINK, 0, 6): ("ether daddr", _ETHER),
    (PayloadBase.LINK, 6, 6): ("ether saddr", _ETHER),
    (PayloadBase.NETWORK, 9, 1): ("ip protocol", INET_PROTO),
    (PayloadBase.NETWORK, 12, 4): ("ip saddr", IPV4_ADDR),
    (PayloadBase.NETWORK, 16, 4): ("ip daddr", IPV4_ADDR),
    (PayloadBase.NETWORK, 6, 1): ("ip6 nexthdr", INET_PROTO),
    (PayloadBase.NETWORK, 8, 16): ("ip6 saddr", IPV6_ADDR),
    (PayloadBase.NETWORK, 24, 16): ("ip6 daddr", IPV6_ADDR),
    (PayloadBase.TRANSPORT, 0, 2): ("th sport", INET_SERVICE),
    (PayloadBase.TRANSPORT, 2, 2): ("th dport", INET_SERVICE),
    (PayloadBase.TRANSPORT, 0, 1): ("icmpx type", _NUMBER),
    (PayloadBase.TRANSPORT, 1, 1): ("icmpx code", _NUMBER),
}

_ARP_PAYLOADS: dict[tuple[PayloadBase, int, int], tuple[str, DataType]] = {
    (PayloadBase.NETWORK, 6, 2): ("arp operation", _NUMBER),
    (PayloadBase.NETWORK, 8, 6): ("arp saddr ether", _ETHER),
    (PayloadBase.NETWORK, 14, 4): ("arp saddr ip", IPV4_ADDR),
    (PayloadBase.NETWORK, 18, 6): ("arp daddr ether", _ETHER),
    (PayloadBase.NETWORK, 24, 4): ("arp daddr ip", IPV4_ADDR),
}

_META_TYPES = {
    MetaKey.MARK: MARK,
    MetaKey.IIFNAME: IFNAME,
    MetaKey.OIFNAME: IFNAME,
    MetaKey.NFPROTO: NFPROTO,
    MetaKey.L4PROTO: INET_PROTO,
}

_CT_TYPES = {
    nft.CtKey.STATE: _CT_STATE,
    nft.CtKey.STATUS: _CT_STATUS,
    nft.CtKey.MARK: MARK,
    nft.CtKey.IP_SADDR: IPV4_ADDR,
    nft.CtKey.IP_DADDR: IPV4_ADDR,
    nft.CtKey.IP6_SADDR: IPV6_ADDR,
    nft.CtKey.IP6_DADDR: IPV6_ADDR,
    nft.CtKey.PROTOCOL: INET_PROTO,
    nft.CtKey.PROTO_SRC: INET_SERVICE,
    nft.CtKey.PROTO_DST: INET_SERVICE,
}

_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 33: "dccp", 58: "ipv6-icmp", 132: "sctp"}
_NFPROTOS = {2: "ipv4", 10: "ipv6"}

_ICMPX_CODES = {0: "no-route", 1: "port-unreachable", 2: "host-unreachable", 3: "admin-prohibited"}
_UNITS = {1: "second", 60: "minute", 3600: "hour", 86400: "day", 604800: "week"}

ELEMENTS_SHOWN = 50
"""More than a person reads in an error message."""


# Objects.


def table_flags(table: Table) -> str:
    if not table.flags:
        return ""
    return f" {{ flags {', '.join(_names(table.flags))} ; }}"


def base_chain(family: Family, base: Base) -> str:
    devices = f" devices = {{ {', '.join(base.devices)} }}" if base.devices else ""
    hook = f"type {base.type} hook {base.hook_name(family)}{devices} priority {base.priority}"
    return f" {{ {hook} ; policy {base.policy.name.lower()} ; }}"


def set_definition(of: Set) -> str:
    types = _type_names(of.key)
    if of.is_map:
        types = f"{types} : {_type_names(of.data)}"
    named = {"constant": of.constant, "interval": of.interval, "timeout": of.timeout}
    flags = ", ".join(name for name, is_set in named.items() if is_set)
    parts = [f"type {types}"]
    if flags:
        parts.append(f"flags {flags}")
    if of.size:
        parts.append(f"size {of.size}")
    if of.comment:
        parts.append(f'comment "{of.comment}"')
    if of.each is not None:
        parts.append(_simple_statement(of.each))
    return f"{{ {' ; '.join(parts)} ; }}"


def elements_text(of: Set, elements: Iterable[Element]) -> str:
    """In braces; ranges as `low-high`, at most `ELEMENTS_SHOWN`."""
    some = list(elements)
    if of.interval and len(of.key) == 1:
        parts = [
            _with_data(of, f"{value(of.key[0], one.first)}-{value(of.key[0], one.last)}", one.data)
            if one.first != one.last
            else _with_data(of, value(of.key[0], one.first), one.data)
            for one in intervals(some)
        ]
    else:
        parts = [element_text(of, element) for element in some[:ELEMENTS_SHOWN]]
    shown = ", ".join(parts[:ELEMENTS_SHOWN])
    if len(some) > ELEMENTS_SHOWN:
        shown += f", … {len(some)} in all"
    return f"{{ {shown} }}"


def element_text(of: Set, element: Element) -> str:
    key = _values(of.key, element.key) if element.key else "*"
    if element.key_end:
        key = f"{key} - {_values(of.key, element.key_end)}"
    if element.interval_end:
        key = f"{key} (end)"
    return _with_data(of, key, element.data)


def _with_data(of: Set, key: str, data: bytes | Verdict | None) -> str:
    if data is None:
        return key
    shown = str(data) if isinstance(data, Verdict) else _values(of.data, data)
    return f"{key} : {shown}"


def _type_names(types: tuple[DataType, ...]) -> str:
    return " . ".join(one.name for one in types)


def _values(types: tuple[DataType, ...], data: bytes) -> str:
    if len(types) == 1:
        return value(types[0], data)
    parts, offset = [], 0
    for one in types:
        parts.append(value(one, data[offset : offset + one.length]))
        offset += (one.length + 3) & ~3
    return " . ".join(parts)


def value(kind: DataType, data: bytes) -> str:
    """Bytes as a person would write them."""
    if kind is IFNAME:
        text = data.rstrip(b"\0").decode(errors="replace")
        return f'"{text}"' if len(data) == IFNAME.length else f'"{text}*"'
    if kind is IPV4_ADDR and len(data) == 4:
        return socket.inet_ntop(socket.AF_INET, data)
    if kind is IPV6_ADDR and len(data) == 16:
        return socket.inet_ntop(socket.AF_INET6, data)
    if kind.number == _ETHER.number:
        return data.hex(":")
    number = int.from_bytes(data, sys.byteorder if kind.host_order else "big")
    if kind is MARK:
        return f"0x{number:08x}"
    if kind is INET_PROTO:
        return _PROTOCOLS.get(number, str(number))
    if kind is NFPROTO:
        return _NFPROTOS.get(number, str(number))
    return str(number)


# Rules.


class _Loaded:
    """What a register holds, in words, and how to print what it is compared with."""

    def __init__(self, text: str, kind: DataType, mask: bytes = b"") -> None:
        self.text = text
        self.kind = kind
        self.mask = mask


class _RuleText:
    """Follows one rule's values through the registers."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self.parts: list[str] = []
        self.registers: dict[int, _Loaded] = {}
        self.fresh: list[int] = []
        """Registers loaded since the last statement: the parts of a concatenation."""

    def load(self, register: int, text: str, kind: DataType) -> None:
        self.registers[register] = _Loaded(text, kind)
        self.fresh.append(register)

    def say(self, text: str) -> None:
        self.parts.append(text)
        self.fresh.clear()

    def held(self, register: int) -> _Loaded:
        return self.registers.get(register) or _Loaded(f"[reg {register}]", _NUMBER)

    def key(self, register: int) -> str:
        parts = [word for word in self.fresh if word >= register] or [register]
        # One value loaded twice is no concatenation: see `Lookup` for why it would be.
        return " . ".join(dict.fromkeys(self.held(word).text for word in parts))

    def add(self, expression: Expression) -> None:
        match expression:
            case ex.Meta(key, register):
                prefix = "" if key in _BARE_META else "meta "
                kind = _META_TYPES.get(key, INTEGER)
                self.load(register, f"{prefix}{key.name.lower()}", kind)
            case ex.Ct(key, register, direction):
                way = f"{direction.name.lower()} " if direction is not None else ""
                name = key.name.lower().replace("ip_", "ip ").replace("ip6_", "ip6 ")
                self.load(register, f"ct {way}{name}", _CT_TYPES.get(key, INTEGER))
            case ex.Payload(header, offset, length, register):
                self.load(register, *self.payload(header, offset, length))
            case ex.Fib(result, flags, register):
                by = " . ".join(_names(flags))
                self.load(register, f"fib {by} {result.name.lower()}", INTEGER)
            case ex.Exthdr():
                self.load(expression.register, f"exthdr {expression.type}", _NUMBER)
            case ex.Immediate(data, register):
                kind = _IMMEDIATES.get(len(data), _NUMBER)
                self.load(register, value(kind, data), kind)
            case ex.Bitwise(mask, xor, source, destination):
                self.bitwise(mask, xor, source, destination)
            case ex.Lookup():
                self.lookup(expression)
            case ex.SetUpdate(name, _, register):
                self.say(f"update @{name} {{ {self.key(register)} }}")
            case _:
                self.say(self.statement(expression))

    def payload(self, header: PayloadBase, offset: int, length: int) -> tuple[str, DataType]:
        names = _ARP_PAYLOADS if self.family is Family.ARP else _PAYLOADS
        raw = f"@{header.name.lower()},{offset * 8},{length * 8}"
        return names.get((header, offset, length), (raw, _NUMBER))

    def bitwise(self, mask: bytes, xor: bytes, source: int, destination: int) -> None:
        before = self.held(source)
        shown_mask = value(before.kind, mask)
        text = f"{before.text} & {shown_mask}"
        if any(xor):
            text = f"{text} ^ {value(before.kind, xor)}"
        self.registers[destination] = _Loaded(text, before.kind, mask)
        if source == destination and not any(xor):
            self.registers[destination] = _Loaded(before.text, before.kind, mask)
        self.fresh.append(destination)

    def lookup(self, expression: ex.Lookup) -> None:
        key = self.key(expression.register)
        name = f"@{expression.set_name}"
        if expression.destination is None:
            self.say(f"{key} {'!= ' if expression.invert else ''}{name}")
        elif expression.destination == ex.VERDICT_REGISTER:
            self.say(f"{key} vmap {name}")
        else:
            loaded = _Loaded(f"{key} map {name}", INTEGER)
            # The data may be up to this long, and what lay there before is gone.
            for word in range(expression.destination + 1, expression.destination + 5):
                if word in self.registers:
                    self.registers[word] = loaded
            self.registers[expression.destination] = loaded
            self.fresh.clear()

    def statement(self, expression: Expression) -> str:
        match expression:
            case ex.Cmp(op, data, register):
                return self.compare(self.held(register), op, data)
            case ex.Range(op, low, high, register):
                held = self.held(register)
                sign = "!= " if op is nft.RangeOp.NEQ else ""
                return f"{held.text} {sign}{value(held.kind, low)}-{value(held.kind, high)}"
            case ex.MetaSet(key, register):
                held = self.held(register)
                # A plain mask is kept apart for comparisons; here it is the value's.
                masked = bool(held.mask) and " & " not in held.text
                mask = f" & {value(held.kind, held.mask)}" if masked else ""
                return f"meta {key.name.lower()} set {held.text}{mask}"
            case ex.CtSet(key, register):
                return f"ct {key.name.lower()} set {self.held(register).text}"
            case ex.Nat():
                return self.nat(expression)
            case ex.Masquerade(flags):
                return f"masquerade{_nat_flags(flags)}"
            case ex.Redirect(port):
                return "redirect" if port is None else f"redirect to :{self.held(port).text}"
            case _:
                return _simple_statement(expression)

    def compare(self, held: _Loaded, op: CmpOp, data: bytes) -> str:
        if held.mask and held.kind in (_CT_STATE, _CT_STATUS) and not any(data):
            sign = "" if op is CmpOp.NEQ else "! "
            return f"{held.text} {sign}{_flag_names(held.kind, held.mask)}"
        if held.mask and held.kind in (IPV4_ADDR, IPV6_ADDR):
            length = int.from_bytes(held.mask, "big").bit_count()
            return f"{held.text} {_COMPARISONS[op]}{value(held.kind, data)}/{length}"
        shown = f"{held.text} & {value(held.kind, held.mask)}" if held.mask else held.text
        sign = "== " if held.mask and op is CmpOp.EQ else _COMPARISONS[op]
        if held.kind in (_CT_STATE, _CT_STATUS):
            return f"{shown} {sign}{_flag_names(held.kind, data)}"
        return f"{shown} {sign}{value(held.kind, data)}"

    def nat(self, nat: ex.Nat) -> str:
        family = "ip6" if nat.family is Family.IP6 else "ip"
        target = "" if nat.address is None else self.held(nat.address).text
        if nat.port is not None:
            target += f":{self.held(nat.port).text}"
        return f"{nat.kind.name.lower()} {family} to {target}{_nat_flags(nat.flags)}"


_IMMEDIATES = {4: MARK, 16: IPV6_ADDR}
"""What a constant of so many bytes is printed as."""

_BARE_META = frozenset({MetaKey.IIFNAME, MetaKey.OIFNAME, MetaKey.IIF, MetaKey.OIF})


def rule_text(rule: Rule, family: Family = Family.INET) -> str:
    """One rule in nft syntax, comment included."""
    text = _RuleText(family)
    for expression in rule.expressions:
        text.add(expression)
    if rule.comment:
        text.say(f'comment "{rule.comment}"')
    return " ".join(text.parts)


def _simple_statement(expression: Expression) -> str:
    """Statements that use no register."""
    match expression:
        case Verdict():
            return str(expression)
        case ex.Counter(packets, count):
            return f"counter packets {packets} bytes {count}"
        case ex.Log():
            return _log(expression)
        case ex.Limit():
            unit = _UNITS.get(expression.unit_seconds, f"{expression.unit_seconds}s")
            over = "over " if expression.invert else ""
            size = " bytes" if expression.kind is nft.LimitKind.BYTES else ""
            rate = f"{expression.rate}{size}/{unit}"
            return f"limit rate {over}{rate} burst {expression.burst}{size or ' packets'}"
        case ex.ConnectionLimit(count, invert):
            return f"ct count {'over ' if invert else ''}{count}"
        case ex.Reject(kind, code):
            if kind is nft.RejectKind.TCP_RESET:
                return "reject with tcp reset"
            word = _ICMPX_CODES.get(code, code) if kind is nft.RejectKind.ICMPX else code
            return f"reject with {kind.name.lower()} {word}"
        case ex.Notrack():
            return "notrack"
        case _:
            return str(expression)


def _log(log: ex.Log) -> str:
    text = f'log prefix "{log.prefix}"' if log.prefix else "log"
    if log.group is None:
        return text if log.level is nft.LogLevel.WARN else f"{text} level {log.level.name.lower()}"
    snaplen = f" snaplen {log.snaplen}" if log.snaplen else ""
    return f"{text} group {log.group}{snaplen}"


def _nat_flags(flags: nft.NatFlag) -> str:
    return f" {','.join(_names(flags))}" if flags else ""


def _flag_names(kind: DataType, data: bytes) -> str:
    number = int.from_bytes(data, sys.byteorder)
    flags = CtState(number) if kind is _CT_STATE else CtStatus(number)
    return ",".join(_names(flags)) or str(number)


def _names(flags: IntFlag) -> list[str]:
    return [(flag.name or str(int(flag))).lower().replace("_", "-") for flag in flags]
