"""The part of the inet table that is there while there are host endpoints.

Base chains beside those of `static`, so that a host without host endpoints has
none of their cost. Order of a packet's way:

    host-raw-prerouting  -299   untracked lists: Allow is "not tracked, and accepted"
    host-raw-output      -300   our mark bits cleared; untracked lists
    host-pre-dnat        -150   pre-DNAT lists
    host-forward-from      -2   forward lists of where it comes in
    host-forward-to         1   forward lists of where it goes out
    host-input              1   ingress lists, for what is for this host
    host-output             1   egress lists, for what this host makes
    host-postrouting        0   the same, where destination NAT has changed the way

An interface's own element counts; without one, that of all interfaces (so the
pre-DNAT list of an endpoint that has none is that of all interfaces). Pre-DNAT
and forward lists for all interfaces are asked of workloads' packets too, beside
their own; `lo` belongs to no endpoint but its own. Workloads' traffic with this
host is never a matter of the normal lists: see the endpoint-to-host action.

What an untracked or pre-DNAT list has allowed carries a mark, so that the
other lists of where it came in are not asked.

Destination NAT of packets that this host makes changes their way out only
after the output hook; so their egress list is asked behind it.
"""

from collections.abc import Collection, Iterator

from tortie.dataplane.rules import match, names, seen
from tortie.dataplane.rules.chain import (
    FILTER_PRIORITY,
    ICMPV6,
    MANGLE_PRIORITY,
    RAW_PRIORITY,
    NamedChain,
    chain,
    filter_chain,
    half,
)
from tortie.dataplane.rules.content import Content
from tortie.dataplane.rules.match import Expressions
from tortie.dataplane.rules.names import Direction, Place
from tortie.dataplane.settings import ProtoPort, Settings
from tortie.desired.host_endpoint import ALL_INTERFACES, LOOPBACK, HostEndpoint
from tortie.desired.policy import PolicyList
from tortie.kernel.nft import keys
from tortie.kernel.nft.constants import CmpOp, Hook, MetaKey
from tortie.kernel.nft.expressions import ACCEPT, Cmp, Lookup, Meta, jump
from tortie.kernel.nft.objects import (
    ICMPV6_TYPE,
    IFNAME,
    INET_PROTO,
    INET_SERVICE,
    IPV6_ADDR,
    MARK,
    VERDICT,
    Set,
)

NEIGHBOUR_DISCOVERY = (130, 131, 132, 133, 134, 135, 136, 143)
"""ICMPv6 types without which a host has no IPv6 at all, failsafe ports or not: multicast
listeners, router and neighbour discovery (RFC 2710, 3810, 4861)."""

_FORWARD_FROM_PRIORITY, _TO_PRIORITY = FILTER_PRIORITY - 2, FILTER_PRIORITY + 1
"""Around the workloads' chains of the same hooks."""

_OF_THE_HOST: tuple[Place, ...] = ("host", "translated")
"""Whose lists are about what the host itself sends and gets."""

DirectedPlace = tuple[Place, Direction]


def host_table(settings: Settings, closed: Collection[str] = ()) -> Content:
    """Chains and sets; the elements of the maps, and the lists, come from others.

    Args:
        closed: interfaces whose endpoint the kernel has refused, `*` among them: they have no
            elements, and what would be asked about is dropped, but for what is always open.
    """
    chains = (
        _raw_prerouting(),
        _raw_output(settings),
        _pre_dnat(settings, closed),
        _forward_from(settings, closed),
        _forward_to(settings, closed),
        _input(settings, closed),
        _output(settings, closed),
        _postrouting(settings, closed),
        *(
            _always(direction, settings, tracked=tracked)
            for direction in names.FAILSAFE
            for tracked in (True, False)
        ),
    )
    return Content(
        chains=dict(chains),
        sets={one.name: one for one in _sets(settings)},
        elements={
            names.NEIGHBOUR_DISCOVERY: frozenset(keys.u8(kind) for kind in NEIGHBOUR_DISCOVERY),
            names.FAILSAFE["ingress"]: _anybodys(settings.failsafe_inbound),
            names.FAILSAFE["egress"]: _anybodys(settings.failsafe_outbound),
        },
    )


def always_chain(direction: Direction, *, tracked: bool) -> str:
    """Accepts, in its base chain, what no host endpoint may close; else returns."""
    return f"host-{'always' if tracked else 'untracked'}-{direction}"


def lists_of(
    endpoint: HostEndpoint, settings: Settings
) -> Iterator[tuple[DirectedPlace, PolicyList]]:
    """Those that a packet is to be asked about.

    A normal or forward list that is empty has its meaning, and keeps packets from that of all
    interfaces. An empty pre-DNAT list does not, as in Calico. The endpoint of all interfaces has
    no untracked lists: they would meet workloads' packets.
    """
    yield ("host", "ingress"), endpoint.ingress
    yield ("host", "egress"), endpoint.egress
    if _own_translated(settings):
        yield names.TRANSLATED, endpoint.egress
    yield ("forward", "ingress"), endpoint.forward_ingress
    yield ("forward", "egress"), endpoint.forward_egress
    if endpoint.pre_dnat != PolicyList():
        yield ("pre-dnat", "ingress"), endpoint.pre_dnat
    if endpoint.interface != ALL_INTERFACES:
        if endpoint.untracked_ingress != PolicyList():
            yield ("untracked", "ingress"), endpoint.untracked_ingress
        if endpoint.untracked_egress != PolicyList():
            yield ("untracked", "egress"), endpoint.untracked_egress


def _own_translated(settings: Settings) -> bool:
    """Whether the lists that are asked at postrouting cannot be those of the output hook: the
    kernel refuses a chain that rejects there."""
    return seen.can_reject("host", settings)


def _sets(settings: Settings) -> Iterator[Set]:
    yield Set(names.NEIGHBOUR_DISCOVERY, (ICMPV6_TYPE,))
    for name in names.FAILSAFE.values():
        yield Set(name, (INET_PROTO, INET_SERVICE))
    translated = (names.TRANSLATED,) if _own_translated(settings) else ()
    for place, direction in names.HOST_PLACES + translated:
        yield Set(names.lists_map(direction, place), (IFNAME,), data=(MARK, IPV6_ADDR))
        yield Set(names.chains_map(direction, place), (IPV6_ADDR,), data=(VERDICT,))


def _anybodys(ports: tuple[ProtoPort, ...]) -> frozenset[bytes]:
    return frozenset(
        keys.concatenate(keys.protocol(one.protocol), keys.port(one.port))
        for one in ports
        if one.network is None
    )


def _raw_prerouting() -> NamedChain:
    # Behind `raw-prerouting`, which clears our bits of the mark.
    return filter_chain(
        "host-raw-prerouting", Hook.PREROUTING, RAW_PRIORITY + 1, _ask("untracked", "ingress")
    )


def _raw_output(settings: Settings) -> NamedChain:
    return filter_chain(
        "host-raw-output",
        Hook.OUTPUT,
        RAW_PRIORITY,
        match.clear_mark(settings.mark_mask),
        _ask("untracked", "egress"),
    )


def _pre_dnat(settings: Settings, closed: Collection[str]) -> NamedChain:
    return half(
        "host-pre-dnat",
        Hook.PREROUTING,
        MANGLE_PRIORITY,
        _accepted(settings),
        *_ask_own_or_all("pre-dnat", "ingress", settings, closed),
    )


def _forward_from(settings: Settings, closed: Collection[str]) -> NamedChain:
    return half(
        "host-forward-from",
        Hook.FORWARD,
        _FORWARD_FROM_PRIORITY,
        _accepted(settings),
        *_ask_own_or_all("forward", "ingress", settings, closed),
    )


def _forward_to(settings: Settings, closed: Collection[str]) -> NamedChain:
    return half(
        "host-forward-to",
        Hook.FORWARD,
        _TO_PRIORITY,
        *_ask_own_or_all("forward", "egress", settings, closed),
    )


def _input(settings: Settings, closed: Collection[str]) -> NamedChain:
    return half(
        "host-input",
        Hook.INPUT,
        _TO_PRIORITY,
        *match.coming_in(settings.interface_prefixes, (ACCEPT,)),
        _accepted(settings),
        *_ask_own_or_all("host", "ingress", settings, closed),
    )


def _output(settings: Settings, closed: Collection[str]) -> NamedChain:
    defer = match.set_mark(settings.mark_deferred)
    return half(
        "host-output",
        Hook.OUTPUT,
        _TO_PRIORITY,
        _accepted(settings),
        *match.going_out(settings.interface_prefixes, (ACCEPT,)),
        (*match.destination_was_translated(), *defer, ACCEPT),
        *_ask_own_or_all("host", "egress", settings, closed),
    )


def _postrouting(settings: Settings, closed: Collection[str]) -> NamedChain:
    place: Place = "translated" if _own_translated(settings) else "host"
    return filter_chain(
        "host-postrouting",
        Hook.POSTROUTING,
        FILTER_PRIORITY,
        (*match.mark_is_clear(settings.mark_deferred), ACCEPT),
        match.clear_mark(settings.mark_deferred),
        *match.going_out(settings.interface_prefixes, (ACCEPT,)),
        *_ask_own_or_all(place, "egress", settings, closed),
    )


def _always(direction: Direction, settings: Settings, *, tracked: bool) -> NamedChain:
    """
    Args:
        tracked: connections are known. Otherwise answers to failsafe connections look like
            anything else, and must not be taken from them by an untracked policy.
    """
    ports = {"ingress": settings.failsafe_inbound, "egress": settings.failsafe_outbound}
    other: Direction = "egress" if direction == "ingress" else "ingress"
    rules: list[Expressions] = []
    if tracked:
        rules += seen.invalid(direction, settings)
    # Where the peer is told apart, it is the one that sends what comes in.
    load = match.source if direction == "ingress" else match.destination
    asked = [(direction, match.DESTINATION_PORT_OFFSET)]
    if not tracked:
        asked.append((other, match.SOURCE_PORT_OFFSET))
    for way, offset in asked:
        rules.append((*match.protocol_and_port(offset, names.FAILSAFE[way]), ACCEPT))
        for one in ports[way]:
            if one.network is not None:
                family = one.network.family
                rules.append(
                    (
                        *match.family(family),
                        *match.within(load(family), one.network),
                        *match.protocol(one.protocol),
                        *match.transport(offset, keys.port(one.port)),
                        ACCEPT,
                    )
                )
    kind = match.transport_bytes(0, 1)
    rules.append((*match.protocol(ICMPV6), kind, Lookup(names.NEIGHBOUR_DISCOVERY), ACCEPT))
    return chain(always_chain(direction, tracked=tracked), *rules)


def _accepted(settings: Settings) -> Expressions:
    """An earlier list of where it came in has said so."""
    return (*match.mark_is_set(settings.mark_accepted), ACCEPT)


def _ask(place: Place, direction: Direction) -> Expressions:
    """What the interface's own list says; goes on where it has none."""
    maps = names.lists_map(direction, place), names.chains_map(direction, place)
    return match.dispatch(_interface(direction), *maps)


def _ask_own_or_all(
    place: Place, direction: Direction, settings: Settings, closed: Collection[str]
) -> Iterator[Expressions]:
    maps = names.lists_map(direction, place), names.chains_map(direction, place)
    always = jump(always_chain(direction, tracked=True))
    drop = seen.dropped(seen.NO_ENDPOINT, direction, settings)
    if place == "pre-dnat":
        drop = (ACCEPT,)  # what comes behind drops; nobody else's list is to say that it may not
    yield _ask(place, direction)
    for interface in sorted(set(closed) - {ALL_INTERFACES}):
        by_it = (Meta(_interface(direction)), Cmp(CmpOp.EQ, keys.ifname(interface)))
        if place in _OF_THE_HOST:
            yield (*by_it, always)
        yield (*by_it, *drop)
    yield (Meta(_interface(direction)), Cmp(CmpOp.EQ, keys.ifname(LOOPBACK)), ACCEPT)
    if ALL_INTERFACES not in closed:
        yield match.dispatch_all(*maps)
        return
    if place in _OF_THE_HOST:
        yield (always,)
    yield drop


def _interface(direction: Direction) -> MetaKey:
    """A host endpoint's ingress is what comes in by its interface."""
    return MetaKey.IIFNAME if direction == "ingress" else MetaKey.OIFNAME
