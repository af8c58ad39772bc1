"""NAT: masquerading for what leaves the pools, and floating addresses. All but few rules is data.

A floating address leads to a workload that knows nothing of it: who sends there,
this host included, gets to the workload. There is no translation the other way,
as in Calico, but for a workload that sends to a floating address of its own: it
would take a packet from itself, from outside, for a forgery.

The base chains for each are there only while there is such an address, or a pool
that masquerades: one alone makes every new connection of the host dearer (an
eighth of the time that a workload takes to connect), whatever its rules say.
"""

from collections.abc import Iterator

from tortie.dataplane.rules import match, names
from tortie.dataplane.rules.chain import (
    DESTINATION_NAT_PRIORITY,
    SOURCE_NAT_PRIORITY,
    NamedChain,
    chain,
)
from tortie.dataplane.rules.content import ADDRESS_TYPE, Content
from tortie.dataplane.rules.match import Expressions
from tortie.dataplane.settings import MetadataServer, Settings
from tortie.desired.policy import TCP, UDP
from tortie.kernel.nft import keys
from tortie.kernel.nft.constants import Family, Hook, NatFlag, NatKind
from tortie.kernel.nft.expressions import (
    Counter,
    Immediate,
    Lookup,
    Masquerade,
    Nat,
    Redirect,
)
from tortie.kernel.nft.objects import Base, Set
from tortie.lib.ip import parse_network

METADATA, METADATA_PORT = parse_network("169.254.169.254/32"), 80
_NAT_FAMILY = {4: Family.IP, 6: Family.IP6}
_WORDS = {4: 1, 6: 4}
"""Registers that an address fills."""
_PORT_WORD, _LAST_PORT_WORD = 8, 9


def masquerade_chain(settings: Settings) -> NamedChain:
    return chain(
        "postrouting",
        *(rule for family in (4, 6) for rule in masquerading(family, settings)),
        base=Base("nat", Hook.POSTROUTING, SOURCE_NAT_PRIORITY),
    )


def masquerading(family: int, settings: Settings) -> Iterator[Expressions]:
    """From a pool with masquerading, to no pool (nor, if so set, to a host of ours)."""
    condition = (
        *match.family(family),
        *match.in_set(match.source(family), names.MASQUERADE[family]),
        *match.in_set(match.destination(family), names.POOLS[family], negate=True),
    )
    if settings.nat_interface:
        condition = (*match.named_output(settings.nat_interface), *condition)
    if settings.nat_exclusions == "IPPoolsAndHostIPs":
        condition += match.in_set(match.destination(family), names.HOSTS[family], negate=True)
    if settings.nat_ports is not None:
        for protocol in (TCP, UDP):
            yield (*condition, *match.protocol(protocol), *_new_source(family, settings, True))
    yield (*condition, *_new_source(family, settings, False))


def _new_source(family: int, settings: Settings, with_ports: bool) -> Expressions:
    ports: Expressions = ()
    port = last_port = None
    if with_ports and settings.nat_ports is not None:
        first, last = settings.nat_ports
        port, last_port = _PORT_WORD, _LAST_PORT_WORD
        ports = (
            Immediate(keys.port(first), port),
            Immediate(keys.port(last), last_port),
        )
    address = settings.nat_address
    if address is None or address.family != family:
        flags = NatFlag.PROTO_SPECIFIED if ports else NatFlag(0)
        return (Counter(), *ports, Masquerade(flags, port, last_port))
    new = Nat(
        NatKind.SNAT, _NAT_FAMILY[family], address=0, address_max=0, port=port, port_max=last_port
    )
    return (Counter(), Immediate(address.packed), *ports, new)


def metadata_chain(settings: Settings, server: MetadataServer) -> NamedChain:
    """Workloads' questions for 169.254.169.254 to whoever answers them; cloud-init asks there.

    This host itself is reached at the address of the link that they came by: its loopback stays
    closed (see `driver.link`, route_localnet), so that the server listens on every address.
    """
    asked = (
        *match.family(4),
        *match.within(match.destination(4), METADATA),
        *match.protocol(TCP),
        *match.transport(match.DESTINATION_PORT_OFFSET, keys.port(METADATA_PORT)),
        Counter(),
    )
    port = Immediate(keys.port(server.port), _PORT_WORD)
    there: Expressions = (port, Redirect(_PORT_WORD))
    if server.address is not None:
        nat = Nat(NatKind.DNAT, Family.IP, address=0, address_max=0, port=_PORT_WORD)
        there = (Immediate(server.address.packed), port, nat)
    return chain(
        "metadata-prerouting",
        *match.coming_in(settings.interface_prefixes, (*asked, *there)),
        base=Base("nat", Hook.PREROUTING, DESTINATION_NAT_PRIORITY),
    )


def floating_table(settings: Settings) -> Content:
    """Chains and maps for floating addresses; the elements come from others."""
    families = (4, 6) if settings.ipv6 else (4,)
    chains = (
        _floating("floating-prerouting", Hook.PREROUTING, families),
        _floating("floating-output", Hook.OUTPUT, families),
        _hairpin(families),
    )
    sets = []
    for family in families:
        address = ADDRESS_TYPE[family]
        sets.append(Set(names.FLOATING[family], (address,), data=(address,)))
        sets.append(Set(names.HAIRPIN[family], (address, address), data=(address,)))
    return Content(chains=dict(chains), sets={one.name: one for one in sets})


def _floating(name: str, hook: Hook, families: tuple[int, ...]) -> NamedChain:
    rules = [
        (
            *match.family(family),
            match.destination(family),
            Lookup(names.FLOATING[family], destination=0),
            Nat(NatKind.DNAT, _NAT_FAMILY[family], address=0, address_max=0),
        )
        for family in families
    ]
    return chain(name, *rules, base=Base("nat", hook, DESTINATION_NAT_PRIORITY))


def _hairpin(families: tuple[int, ...]) -> NamedChain:
    rules = [
        (
            *match.family(family),
            match.source(family),
            match.destination(family, _WORDS[family]),
            Lookup(names.HAIRPIN[family], destination=0),
            Nat(NatKind.SNAT, _NAT_FAMILY[family], address=0, address_max=0),
        )
        for family in families
    ]
    # Before masquerading, which a workload outside of all pools would be for.
    base = Base("nat", Hook.POSTROUTING, SOURCE_NAT_PRIORITY - 1)
    return chain("floating-postrouting", *rules, base=base)
