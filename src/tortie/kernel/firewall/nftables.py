"""Rules of other nftables tables, iptables-nft's too, judged for a flow of ours."""

from collections.abc import Iterable
from typing import NamedTuple

from tortie.kernel import netlink
from tortie.kernel.firewall.outcome import (
    TCP,
    Flow,
    Judged,
    both,
    conntrack_matches,
    interface_is,
    opposite,
)
from tortie.kernel.nft import expressions as ex
from tortie.kernel.nft.constants import CmpOp, CtKey, CtState, MetaKey, PayloadBase
from tortie.kernel.nft.expressions import VERDICT_REGISTER, Expression, Verdict
from tortie.kernel.nft.objects import Element, Rule

_NFPROTO = {4: b"\x02", 6: b"\x0a"}
_NAME_BYTES = 16


class _Loaded(NamedTuple):
    """What is in a register."""

    kind: str
    """`interface`, `bits`, `value`, `port` or, for all else, `unknown`."""
    text: str = ""
    """Of an interface: how its name begins."""
    value: bytes = b""
    bits: int = 0
    """Of the connection's state or status."""


_UNKNOWN = _Loaded("unknown")
_CONNECTION = {
    CtKey.STATE: _Loaded("bits", bits=int(CtState.NEW)),
    # Neither confirmed nor translated yet, as most are.
    CtKey.STATUS: _Loaded("bits"),
}

Maps = dict[str, list[Element]]
"""Elements of the sets and maps that rules look up."""


def judge(rule: Rule, flow: Flow, maps: Maps) -> Judged:
    """What the rule does with the flow."""
    matches: bool | None = True
    registers: dict[int, _Loaded] = {}
    for expression in rule.expressions:
        if isinstance(expression, Verdict):
            return Judged(matches, (expression,))
        if isinstance(expression, ex.Lookup) and expression.destination == VERDICT_REGISTER:
            return _verdict_map(matches, registers, expression, maps)
        if isinstance(expression, ex.Reject):
            return Judged(matches, (ex.DROP,))
        if isinstance(expression, ex.Opaque) and expression.name == "target":
            return Judged(matches, _target(expression))
        matches = both(matches, _step(expression, registers, flow, maps))
        if matches is False:
            break
    return Judged(matches, ())


def looked_up(rules: Iterable[Rule]) -> set[str]:
    """The sets and maps that `judge` wants to know."""
    return {
        one.set_name for rule in rules for one in rule.expressions if isinstance(one, ex.Lookup)
    }


def _step(
    expression: Expression, registers: dict[int, _Loaded], flow: Flow, maps: Maps
) -> bool | None:
    match expression:
        case ex.Meta():
            registers[expression.register] = _meta(expression.key, flow)
        case ex.Ct():
            registers[expression.register] = _CONNECTION.get(expression.key, _UNKNOWN)
        case ex.Payload():
            is_port = expression.header is PayloadBase.TRANSPORT
            registers[expression.register] = _Loaded("port") if is_port else _UNKNOWN
        case ex.Bitwise():
            registers[expression.destination] = _masked(registers, expression)
        case ex.Cmp():
            return _compare(registers.get(expression.register, _UNKNOWN), expression)
        case ex.Range():
            loaded = registers.get(expression.register, _UNKNOWN)
            return (expression.op == 1) if loaded.kind == "port" else None
        case ex.Lookup():
            if expression.destination is not None:
                registers[expression.destination] = _UNKNOWN
                return None
            loaded = registers.get(expression.register, _UNKNOWN)
            found = _is_element(loaded, maps.get(expression.set_name, []))
            return opposite(found) if expression.invert else found
        case ex.Immediate():
            registers[expression.register] = _Loaded("value", value=expression.value)
        case ex.Counter() | ex.Log() | ex.MetaSet() | ex.CtSet() | ex.PayloadSet():
            pass
        case ex.Opaque():
            return _extension(expression)
        case ex.Fib() | ex.Exthdr() | ex.Shift() | ex.Byteorder():
            registers.clear()
        case _:
            return None
    return True


def _meta(key: MetaKey, flow: Flow) -> _Loaded:
    match key:
        case MetaKey.IIFNAME:
            return _Loaded("interface", flow.input_prefix)
        case MetaKey.OIFNAME:
            return _Loaded("interface", flow.output_prefix)
        case MetaKey.L4PROTO:
            return _Loaded("value", value=bytes((TCP,)))
        case MetaKey.NFPROTO:
            return _Loaded("value", value=_NFPROTO[flow.family])
        case MetaKey.PROTOCOL:
            return _Loaded("value", value=b"\x08\x00" if flow.family == 4 else b"\x86\xdd")
    return _UNKNOWN


def _masked(registers: dict[int, _Loaded], bitwise: ex.Bitwise) -> _Loaded:
    loaded = registers.get(bitwise.source, _UNKNOWN)
    if loaded.kind == "bits" and not any(bitwise.xor):
        return loaded._replace(bits=loaded.bits & netlink.u32(memoryview(bitwise.mask)))
    return loaded if loaded.kind == "port" else _UNKNOWN


def _compare(loaded: _Loaded, cmp: ex.Cmp) -> bool | None:
    if cmp.op not in (CmpOp.EQ, CmpOp.NEQ):
        return None
    equal: bool | None = None
    match loaded.kind:
        case "interface":
            equal = interface_is(loaded.text, cmp.value)
        case "bits":
            equal = loaded.bits == netlink.u32(memoryview(cmp.value))
        case "value":
            equal = loaded.value[: len(cmp.value)] == cmp.value[: len(loaded.value)]
        case "port":
            equal = False
    return equal if cmp.op is CmpOp.EQ else opposite(equal)


def _is_element(loaded: _Loaded, elements: list[Element]) -> bool | None:
    if loaded.kind == "port" or not elements:
        return False
    answers = {_is_key(loaded, one) for one in elements}
    if True in answers:
        return True
    return False if answers == {False} else None


def _is_key(loaded: _Loaded, element: Element) -> bool | None:
    if not element.key:
        return True  # the catch-all
    if loaded.kind == "interface" and len(element.key) == _NAME_BYTES:
        return None if element.interval_end else interface_is(loaded.text, element.key)
    if loaded.kind == "bits":
        return netlink.u32(memoryview(element.key)) == loaded.bits
    if loaded.kind == "value":
        return element.key[: len(loaded.value)] == loaded.value
    return None


def _verdict_map(
    matches: bool | None, registers: dict[int, _Loaded], lookup: ex.Lookup, maps: Maps
) -> Judged:
    """One verdict if the key is known, else all that may be."""
    loaded = registers.get(lookup.register, _UNKNOWN)
    found = [(one, _is_key(loaded, one)) for one in maps.get(lookup.set_name, [])]
    # The catch-all counts where nothing else does.
    found.sort(key=lambda pair: not pair[0].key)
    for element, answer in found:
        if answer and isinstance(element.data, Verdict):
            certain = all(one is False for other, one in found if other.key and other != element)
            return Judged(both(matches, True if certain else None), (element.data,))
    maybe = [one.data for one, answer in found if answer is None]
    verdicts = tuple(data for data in maybe if isinstance(data, Verdict))
    return Judged(both(matches, None if verdicts else False), verdicts)


def _target(target: ex.Opaque) -> tuple[Verdict, ...]:
    """An xtables target, as iptables-nft has them."""
    name = netlink.text(netlink.attribute_map(memoryview(target.data))[1])
    if name in ("REJECT", "DROP"):
        return (ex.DROP,)
    return (ex.ACCEPT, ex.DROP) if name == "NFQUEUE" else ()


def _extension(extension: ex.Opaque) -> bool | None:
    """An xtables match; or something that this program does not know."""
    if extension.name != "match":
        return None
    found = netlink.attribute_map(memoryview(extension.data))
    name = netlink.text(found[1])
    if name == "conntrack":
        return conntrack_matches(netlink.be(found[2]), bytes(found[3]))
    if name in ("tcp", "multiport"):
        return False  # names ports
    return True if name == "comment" else None
