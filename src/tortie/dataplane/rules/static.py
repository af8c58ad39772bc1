"""The part of both tables that no workload changes: base chains and empty sets.

Order of a packet's way, with what each chain may decide:

    raw-prerouting  -300   our mark bits cleared; loopback addresses from
                           outside dropped; from a workload only its own
                           sources, and what a host must hear to find it; from
                           others what `source` lets out
    forward-from      -1   from a workload: its egress list
    forward-to         0   to a workload: its ingress list
    input-from        -1   from a workload to this host: its egress list
    input-to           0   from a workload: the endpoint-to-host action
    output             0   to a workload: all but router advertisements, which
                           are for those alone that this host serves by DHCP
    postrouting      100   masquerading, while a pool wants it (see `nat`)

Two base chains on one hook are how an `accept` ends one half only. All policies
of base chains are `accept`: traffic that is not of workloads is not ours. A
workload's packet never gets to one's end, except where something said accept.

Every packet comes by the first rules of these, so what is cheap and decides most comes first:
known connections; where one does not apply, the value that is not there before the interface's
name, which costs more to load; TCP before what TCP is not.

Host endpoints and floating addresses have base chains beside these, while there
are any: see `host_endpoint` and `nat`.
"""

from collections.abc import Callable

from tortie.dataplane.rules import match, names, seen, service_loop, source
from tortie.dataplane.rules.chain import (
    FILTER_PRIORITY,
    ICMPV6,
    RAW_PRIORITY,
    NamedChain,
    chain,
    half,
    related_errors,
)
from tortie.dataplane.rules.content import Content, interval_set
from tortie.dataplane.rules.match import Expressions
from tortie.dataplane.rules.names import Direction
from tortie.dataplane.rules.nat import metadata_chain
from tortie.dataplane.settings import EndpointToHostAction, Settings
from tortie.kernel.nft import keys
from tortie.kernel.nft.constants import (
    ArpHook,
    CmpOp,
    Hook,
    MetaKey,
    PayloadBase,
)
from tortie.kernel.nft.expressions import (
    ACCEPT,
    DROP,
    RETURN,
    Bitwise,
    Cmp,
    Limit,
    Lookup,
    Meta,
    Payload,
    goto,
)
from tortie.kernel.nft.objects import (
    ETHER_ADDR,
    IFNAME,
    INET_SERVICE,
    IPV4_ADDR,
    IPV6_ADDR,
    MARK,
    VERDICT,
    Base,
    Set,
)

FROM_PRIORITY = FILTER_PRIORITY - 1
"""Just before: what the sender's side says comes first."""

TCP, UDP, IPIP, IPV6_IN_IP, GRE = 6, 17, 4, 41, 47

ROUTER_ADVERTISEMENT, REDIRECT = 134, 137
MAKES_NEIGHBOUR, MULTICAST_REPORTS = (133, 135, 136), (131, 132, 143)
TO_HOST_ICMPV6 = MAKES_NEIGHBOUR + MULTICAST_REPORTS
"""What a host must hear of a neighbour: router and neighbour solicitation,
neighbour advertisement, multicast listener reports (RFC 4861, 2710, 3810).
Not 130, the query: only a router asks, and a workload is none."""

LINK_LOCAL_LIMIT = Limit(6, unit_seconds=60, burst=10)
"""Of one workload. A system that makes up its address asks for its gateway twice a minute, and
some times when it starts. The kernel forgets an entry after a minute, and keeps 1,024."""

_FROM_WORKLOAD, _TO_WORKLOAD = "from-workload", "to-workload"
_FROM_WORKLOAD_UDP = "from-workload-udp"
_WORKLOAD_SOURCE, _WORKLOAD_TO_HOST = "workload-source", "workload-to-host"
_LINK_LOCAL_SOURCE, _LINK_LOCAL_NEIGHBOUR = "link-local-source", "link-local-neighbour"
_WORKLOAD_INPUT = "workload-input"

DROPPING: dict[Direction, tuple[str, ...]] = {
    "egress": (_WORKLOAD_SOURCE, _LINK_LOCAL_SOURCE, source.OTHER_SOURCE, _FROM_WORKLOAD,
               _FROM_WORKLOAD_UDP, _WORKLOAD_TO_HOST, service_loop.LOOP),
    "ingress": (_TO_WORKLOAD,),
}  # fmt: skip
"""Chains that drop what policy is not asked about, by the direction that they are for."""

LIST_ID = IPV6_ADDR
"""Data type of our ids: nft has no type of 16 bytes that means nothing."""


def inet_table(settings: Settings) -> Content:
    """Chains and sets of `inet tortie`; the sets' elements come from others."""
    chains = (
        _raw_prerouting(settings),
        _workload_source(settings),
        _link_local_source(settings),
        _link_local_neighbour(settings),
        *(_other_source(settings) if settings.other_sources else ()),
        related_errors(settings),
        half(
            "forward-from", Hook.FORWARD, FROM_PRIORITY, *_from_workloads(settings, _FROM_WORKLOAD)
        ),
        half(
            "forward-to",
            Hook.FORWARD,
            FILTER_PRIORITY,
            *_to_workloads(settings),
            before=_seen(settings),
        ),
        _from_workload(settings),
        _from_workload_udp(settings),
        _to_workload(settings),
        half("input-from", Hook.INPUT, FROM_PRIORITY, *_from_workloads(settings, _WORKLOAD_INPUT)),
        half(
            "input-to", Hook.INPUT, FILTER_PRIORITY, *_from_workloads(settings, _WORKLOAD_TO_HOST)
        ),
        _workload_input(settings),
        _workload_to_host(settings),
        _output(settings),
        *seen.chains(settings),
        *((metadata_chain(settings, settings.metadata),) if settings.metadata else ()),
    )
    return Content(chains=dict(chains), sets={one.name: one for one in _sets(settings)})


def arp_table(settings: Settings) -> Content:
    """Chains and sets of `arp tortie`: a workload speaks for its own addresses only."""
    iifname = Meta(MetaKey.IIFNAME)
    sender = _arp_payload(14, 4, register=4)
    mac = _arp_payload(8, 6, register=5)
    senders = chain(
        "input",
        *(
            rule
            for prefix in settings.interface_prefixes
            for interface in (match.input_interface(prefix),)
            for rule in (
                (*interface, iifname, sender, mac, Lookup(names.ARP_SENDERS), ACCEPT),
                (*interface, iifname, sender, Lookup(names.ARP_SENDERS_ANY_MAC), ACCEPT),
                (*interface, *match.counted(DROP)),
            )
        ),
        base=Base("filter", ArpHook.INPUT, FILTER_PRIORITY),
    )
    sets = (
        Set(names.ARP_SENDERS, (IFNAME, IPV4_ADDR, ETHER_ADDR)),
        Set(names.ARP_SENDERS_ANY_MAC, (IFNAME, IPV4_ADDR)),
    )
    return Content(chains=dict((senders,)), sets={one.name: one for one in sets})


def _sets(settings: Settings) -> list[Set]:
    found = [
        Set(names.SOURCES[4], (IFNAME, IPV4_ADDR)),
        Set(names.SOURCES[6], (IFNAME, IPV6_ADDR)),
    ]
    if settings.other_sources:
        found += source.maps()
    found.append(Set(names.LINK_LOCAL, (IFNAME, IPV6_ADDR)))
    found.append(Set(names.LINK_LOCAL_LIMITS, (IFNAME,), each=LINK_LOCAL_LIMIT))
    found.append(Set(names.DHCP, (IFNAME,)))
    found += seen.sets(settings)
    found.append(Set(names.RULE_PORTS, (LIST_ID, INET_SERVICE)))
    for direction in ("egress", "ingress"):
        found.append(Set(names.LISTS[direction], (IFNAME,), data=(MARK, LIST_ID)))
        found.append(Set(names.CHAINS[direction], (LIST_ID,), data=(VERDICT,)))
    for family in (4, 6):
        found.append(interval_set(names.POOLS[family], family))
        found.append(interval_set(names.MASQUERADE[family], family))
        if settings.nat_exclusions == "IPPoolsAndHostIPs":
            found.append(interval_set(names.HOSTS[family], family))
    return found


def _raw_prerouting(settings: Settings) -> NamedChain:
    return chain(
        "raw-prerouting",
        match.clear_mark(settings.mark_mask),
        *_from_workloads(settings, _WORKLOAD_SOURCE),
        # A host's services on loopback are reachable from outside as soon as
        # anyone sets route_localnet, which others' software does.
        *(
            (*_loopback(family, load), *match.not_loopback(), *match.counted(DROP))
            for family in (4, 6)
            for load in (match.source, match.destination)
        ),
        base=Base("filter", Hook.PREROUTING, RAW_PRIORITY),
    )


def _workload_source(settings: Settings) -> NamedChain:
    # No endpoint has an address of loopback; whoever may send from others might send from one.
    rules = [
        (*_loopback(4, match.destination), *match.counted(DROP)),
        (*match.family(4), *match.interface_and_source(4, names.SOURCES[4]), ACCEPT),
        (*_loopback(6, match.destination), *match.counted(DROP)),
    ]
    if settings.ipv6:
        rules += [
            # Before the sources: an advertisement from a good address is as bad.
            *(
                (*match.family(6), *_icmpv6(kind), *_from_drop(seen.NOT_ITS_PLACE, settings))
                for kind in (ROUTER_ADVERTISEMENT, REDIRECT)
            ),
            (*match.family(6), *match.interface_and_source(6, names.SOURCES[6]), ACCEPT),
            (*match.family(6), match.source(6), *_LINK_LOCAL, goto(_LINK_LOCAL_SOURCE)),
            (*match.family(6), match.source(6), _is(bytes(16)), goto(_LINK_LOCAL_SOURCE)),
        ]
    # A guest that has no address yet asks for one.
    rules.append(
        (*match.family(4), match.source(4), _is(bytes(4)), *_udp(68, 67), *_served(), ACCEPT),
    )
    if settings.other_sources:
        rules += ((*_loopback(family, match.source), *match.counted(DROP)) for family in (4, 6))
        rules.append((goto(source.OTHER_SOURCE),))
    else:
        rules.append(_from_drop(seen.NOT_ITS_SOURCE, settings))
    return chain(_WORKLOAD_SOURCE, *rules)


def _other_source(settings: Settings) -> tuple[NamedChain]:
    return (source.other_source(tuple(map(_icmpv6, MAKES_NEIGHBOUR)), settings),)


def _link_local_source(settings: Settings) -> NamedChain:
    """From fe80:: or, before there is an address, ::; the kernel forwards neither."""
    rules: list[Expressions] = []
    if settings.ipv6:
        rules += ((*_icmpv6(kind), goto(_LINK_LOCAL_NEIGHBOUR)) for kind in MAKES_NEIGHBOUR)
        rules += ((*_icmpv6(kind), ACCEPT) for kind in MULTICAST_REPORTS)
        # The server answers, so the kernel remembers this source, too.
        rules.append((*_udp(546, 547), *_served(), goto(_LINK_LOCAL_NEIGHBOUR)))
    return chain(_LINK_LOCAL_SOURCE, *rules, _from_drop(seen.NOT_ITS_SOURCE, settings))


def _link_local_neighbour(settings: Settings) -> NamedChain:
    """What makes the kernel remember its source, in a table that all links share.

    A workload may have one address by its MAC; of others, which some systems make up for
    themselves, as many as its limit lets it tell of.
    """
    limited = (Meta(MetaKey.IIFNAME), Lookup(names.LINK_LOCAL_LIMITS))
    return chain(
        _LINK_LOCAL_NEIGHBOUR,
        # The family is known here; nft(8) asks for it, to print what can be read again.
        (*match.family(6), *match.interface_and_source(6, names.LINK_LOCAL), ACCEPT),
        (*match.family(6), match.source(6), _is(bytes(16)), ACCEPT),
        (*limited, ACCEPT),
        _from_drop(seen.NOT_ITS_SOURCE, settings),
    )


def _seen(settings: Settings) -> tuple[Expressions, ...]:
    """First where a way to a workload begins, so that no accept before it escapes the guard."""
    if not settings.mark_seen:
        return ()
    return match.going_out(settings.interface_prefixes, match.set_mark(settings.mark_seen))


def _from_workloads(settings: Settings, target: str) -> tuple[Expressions, ...]:
    return match.coming_in(settings.interface_prefixes, (goto(target),))


def _to_workloads(settings: Settings) -> tuple[Expressions, ...]:
    return match.going_out(settings.interface_prefixes, (goto(_TO_WORKLOAD),))


def _egress() -> Expressions:
    return match.dispatch(MetaKey.IIFNAME, names.LISTS["egress"], names.CHAINS["egress"])


def _from_workload(settings: Settings) -> NamedChain:
    """Beside policy, what a workload is not: the end of a tunnel, a DHCP server. The host may
    be the tunnel's other end, and would unpack what nothing has checked."""
    tunnels = () if settings.allow_ipip_from_workloads else (IPIP, IPV6_IN_IP, GRE)
    return chain(
        _FROM_WORKLOAD,
        *seen.invalid("egress", settings),
        (*match.protocol(TCP), *_egress()),
        (*match.protocol(UDP), goto(_FROM_WORKLOAD_UDP)),
        *((*match.protocol(one), *_tunnel(settings)) for one in tunnels),
        _egress(),
        _from_drop(seen.NO_ENDPOINT, settings),
    )


def _from_workload_udp(settings: Settings) -> NamedChain:
    vxlan = match.transport(2, keys.port(settings.vxlan_port))
    tunnel = (*vxlan, *_tunnel(settings))
    return chain(
        _FROM_WORKLOAD_UDP,
        *(() if settings.allow_vxlan_from_workloads else (tunnel,)),
        *(
            (*_ports(*ports), *match.family(family), *_from_drop(seen.NOT_ITS_PLACE, settings))
            for family, ports in ((4, (67, 68)), (6, (547, 546)))
        ),
        _egress(),
        _from_drop(seen.NO_ENDPOINT, settings),
    )


def _to_workload(settings: Settings) -> NamedChain:
    rules = [*seen.invalid("ingress", settings)]
    if not settings.ipv6:
        rules.append((*match.family(6), *_to_drop(seen.NO_IPV6, settings)))
    ingress = match.dispatch(MetaKey.OIFNAME, names.LISTS["ingress"], names.CHAINS["ingress"])
    return chain(_TO_WORKLOAD, *rules, ingress, _to_drop(seen.NO_ENDPOINT, settings))


def _to_host_always(settings: Settings) -> list[Expressions]:
    """Without these a workload cannot be found, whatever its policy says."""
    rules = [(*_icmpv6(kind), ACCEPT) for kind in TO_HOST_ICMPV6] if settings.ipv6 else []
    rules.append((*match.family(4), *_udp(68, 67), *_served(), ACCEPT))
    if settings.ipv6:
        rules.append((*match.family(6), *_udp(546, 547), *_served(), ACCEPT))
    if settings.metadata is not None and settings.metadata.address is None:
        # What came here by translation, not who asks for that port of the host itself.
        port = match.transport(2, keys.port(settings.metadata.port))
        translated = match.destination_was_translated()
        rules.append((*match.family(4), *match.protocol(TCP), *port, *translated, ACCEPT))
    return rules


def _workload_input(settings: Settings) -> NamedChain:
    return chain(_WORKLOAD_INPUT, *_to_host_always(settings), (goto(_FROM_WORKLOAD),))


def _workload_to_host(settings: Settings) -> NamedChain:
    """Behind an egress list's accept. Return leaves it to the host's other tables.

    Accept cannot take it from them, as ours is one table among others; a rule of theirs can
    know by the mark what we let in. (Pre-DNAT policy may have set that for reasons of its own.)
    """
    accepted = settings.mark_accepted
    action: dict[EndpointToHostAction, Expressions] = {
        "Drop": _from_drop(seen.TO_HOST, settings),
        "Accept": (*match.set_mark(accepted), *match.counted(ACCEPT)),
        "Return": (*match.clear_mark(accepted), *match.counted(RETURN)),
    }
    rule = action[settings.endpoint_to_host_action]
    return chain(_WORKLOAD_TO_HOST, *_to_host_always(settings), rule)


def _from_drop(reason: str, settings: Settings) -> Expressions:
    return seen.dropped(reason, "egress", settings)


def _tunnel(settings: Settings) -> Expressions:
    reject = seen.can_reject("workload", settings)
    return seen.dropped(seen.TUNNEL, "egress", settings, reject=reject)


def _to_drop(reason: str, settings: Settings) -> Expressions:
    return seen.dropped(reason, "ingress", settings)


def _output(settings: Settings) -> NamedChain:
    """This host always reaches its workloads, as in Calico; it is a router, in IPv6's sense, to
    those alone that it serves."""
    unserved = match.in_set(Meta(MetaKey.OIFNAME), names.DHCP, negate=True)
    advertisement = (*_icmpv6(ROUTER_ADVERTISEMENT), *unserved, *match.counted(DROP))
    return chain(
        "output",
        *_seen(settings),
        *match.going_out(settings.interface_prefixes, advertisement),
        base=Base("filter", Hook.OUTPUT, FILTER_PRIORITY),
    )


_LOOPBACK6 = bytes(15) + b"\x01"
_LINK_LOCAL: Expressions = (
    # fe80::/10 is ten bits: compare two bytes without their last six.
    Bitwise(b"\xff\xc0" + bytes(14), bytes(16)),
    Cmp(CmpOp.EQ, b"\xfe\x80" + bytes(14)),
)


def _is(value: bytes) -> Cmp:
    return Cmp(CmpOp.EQ, value)


def _loopback(family: int, load: Callable[[int], Payload]) -> Expressions:
    """The address that `load` loads is 127/8 or ::1."""
    value = bytes((127,)) if family == 4 else _LOOPBACK6
    return (*match.family(family), load(family), _is(value))


def _icmpv6(kind: int) -> Expressions:
    return (*match.protocol(ICMPV6), *match.transport(0, bytes((kind,))))


def _served() -> Expressions:
    """This host is the DHCP server of whoever sent it."""
    return match.in_set(Meta(MetaKey.IIFNAME), names.DHCP)


def _udp(source: int, destination: int) -> Expressions:
    return (*match.protocol(UDP), *_ports(source, destination))


def _ports(source: int, destination: int) -> Expressions:
    return match.transport(0, keys.port(source) + keys.port(destination))


def _arp_payload(offset: int, length: int, *, register: int) -> Payload:
    """Of an ARP packet for IPv4 over Ethernet: 8 is the sender's MAC, 14 its address."""
    return Payload(PayloadBase.NETWORK, offset, length, register)
