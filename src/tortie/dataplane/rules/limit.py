"""Limits of endpoints: packets per second, connections at a time; and the mark of what they send.

A value that endpoints share is one set of their interfaces and one rule. Each element of it counts
for itself (see `Set.each`), so the limit is each endpoint's own, and another endpoint with a known
value is an element. The chains are there while there is any limit:

    limits-raw      -298   egress rates: before a flood costs an entry of connection tracking
    limits-forward   -10   ingress rates; new connections both ways; marks
    limits-input     -10   new connections to this host

What a host sends to its own workloads is not limited, as it is not asked about by policy.
"""

from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from tortie.dataplane.rules import match, names
from tortie.dataplane.rules.chain import (
    FILTER_PRIORITY,
    RAW_PRIORITY,
    NamedChain,
    chain,
    filter_chain,
)
from tortie.dataplane.rules.content import Content
from tortie.dataplane.rules.match import Expressions
from tortie.dataplane.rules.names import Direction
from tortie.dataplane.settings import Settings
from tortie.desired.endpoint import Limits
from tortie.desired.policy import TCP
from tortie.kernel.nft.constants import CtState, Hook, MetaKey, PayloadBase, RejectKind
from tortie.kernel.nft.expressions import (
    DROP,
    Bitwise,
    ConnectionLimit,
    Counter,
    Expression,
    Limit,
    Lookup,
    Meta,
    Payload,
    PayloadSet,
    Reject,
    goto,
)
from tortie.kernel.nft.objects import IFNAME, Set

_PRIORITY = FILTER_PRIORITY - 10
_TOO_MANY = "too-many-connections"
_IPV4_CHECKSUM_OFFSET, _INET_CHECKSUM = 10, 1


class Value(NamedTuple):
    """One limit that endpoints may have."""

    kind: Literal["rate", "connections", "dscp"]
    direction: Direction
    amount: int
    burst: int = 0

    @property
    def set_name(self) -> str:
        burst = f"-{self.burst}" if self.burst else ""
        return f"{self.kind}-{self.direction[0]}-{self.amount}{burst}"

    @property
    def each(self) -> Expression | None:
        """Holds for what is over the limit."""
        if self.kind == "rate":
            return Limit(self.amount, burst=self.burst, invert=True)
        return ConnectionLimit(self.amount, invert=True) if self.kind == "connections" else None


def values_of(limits: Limits) -> Iterator[Value]:
    if limits.ingress_rate is not None:
        yield Value("rate", "ingress", limits.ingress_rate.packets, limits.ingress_rate.burst)
    if limits.egress_rate is not None:
        yield Value("rate", "egress", limits.egress_rate.packets, limits.egress_rate.burst)
    if limits.ingress_connections:
        yield Value("connections", "ingress", limits.ingress_connections)
    if limits.egress_connections:
        yield Value("connections", "egress", limits.egress_connections)
    if limits.dscp is not None:
        yield Value("dscp", "egress", limits.dscp)


def limits_table(values: Iterable[Value], settings: Settings) -> Content:
    """Chains, and a set for each value; the elements come from others."""
    found = sorted(values)
    sets = (Set(one.set_name, (IFNAME,), each=one.each) for one in found)
    chains = (
        _raw(found),
        _forward(found, settings),
        filter_chain("limits-input", Hook.INPUT, _PRIORITY, *_connections(found, "egress")),
        chain(
            _TOO_MANY,
            (*match.protocol(TCP), Counter(), Reject(RejectKind.TCP_RESET)),
            match.counted(DROP),
        ),
    )
    return Content(chains=dict(chains), sets={one.name: one for one in sets})


def _raw(values: list[Value]) -> NamedChain:
    return filter_chain("limits-raw", Hook.PREROUTING, RAW_PRIORITY + 2, *_rates(values, "egress"))


def _forward(values: list[Value], settings: Settings) -> NamedChain:
    families = (4, 6) if settings.ipv6 else (4,)
    marks = (
        (
            *match.family(family),
            *_having(one),
            *match.in_set(match.destination(family), names.POOLS[family], negate=True),
            *_write_code_point(family, one.amount),
        )
        for one in values
        if one.kind == "dscp"
        for family in families
    )
    return filter_chain(
        "limits-forward",
        Hook.FORWARD,
        _PRIORITY,
        *_rates(values, "ingress"),
        *_connections(values, "egress"),
        *_connections(values, "ingress"),
        *marks,
    )


def _rates(values: list[Value], direction: Direction) -> Iterator[Expressions]:
    for one in values:
        if one.kind == "rate" and one.direction == direction:
            yield (*_having(one), *match.counted(DROP))


def _connections(values: list[Value], direction: Direction) -> Iterator[Expressions]:
    for one in values:
        if one.kind == "connections" and one.direction == direction:
            yield (*match.connection(CtState.NEW), *_having(one), goto(_TOO_MANY))


def _having(value: Value) -> Expressions:
    """The packet is from (egress) or to (ingress) an endpoint with this value, and over it."""
    key = MetaKey.IIFNAME if value.direction == "egress" else MetaKey.OIFNAME
    return (Meta(key), Lookup(value.set_name))


def _write_code_point(family: int, code_point: int) -> Expressions:
    """Six bits of the first two bytes; those beside them stay."""
    load = Payload(PayloadBase.NETWORK, 0, 2)
    if family == 4:
        bits = Bitwise(b"\xff\x03", bytes((0, code_point << 2)))
        return (
            load,
            bits,
            PayloadSet(
                PayloadBase.NETWORK,
                0,
                2,
                checksum_type=_INET_CHECKSUM,
                checksum_offset=_IPV4_CHECKSUM_OFFSET,
            ),
        )
    bits = Bitwise(b"\xf0\x3f", (code_point << 6).to_bytes(2, "big"))
    return (load, bits, PayloadSet(PayloadBase.NETWORK, 0, 2))
