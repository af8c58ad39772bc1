"""What workloads may send from beside their own addresses: `allowSpoofedSourcePrefixes`.

As with policy: interface → id of a list of prefixes, as plain data; id → chain; and a chain for
each distinct list, which looks the source up in one interval set. So another endpoint with a
known list is an element, and nobody else's packet comes this way at all: it is asked last, of
sources that are not the endpoint's own.

Only packets are let out so. By ARP and neighbour discovery a workload tells of its own addresses
alone, whatever it may send from: else it could take a neighbour's in the host's tables.
"""

from tortie.dataplane.rules import match, names, seen
from tortie.dataplane.rules.chain import NamedChain, chain
from tortie.dataplane.rules.content import Content, interval_set, network_key
from tortie.dataplane.rules.match import Expressions
from tortie.dataplane.settings import Settings
from tortie.kernel.nft.constants import MetaKey
from tortie.kernel.nft.expressions import ACCEPT
from tortie.kernel.nft.objects import IFNAME, IPV6_ADDR, MARK, VERDICT, Set
from tortie.lib.ip import Network

OTHER_SOURCE = "other-source"


def other_source(speaks_as_neighbour: tuple[Expressions, ...], settings: Settings) -> NamedChain:
    """
    Args:
        speaks_as_neighbour: conditions of messages that the host learns neighbours from.
    """
    closed = seen.dropped(seen.NOT_ITS_SOURCE, "egress", settings)
    return chain(
        OTHER_SOURCE,
        *((*condition, *closed) for condition in speaks_as_neighbour),
        match.dispatch(MetaKey.IIFNAME, names.SOURCE_LISTS, names.SOURCE_CHAINS),
        closed,
    )


def maps() -> tuple[Set, Set]:
    return (
        Set(names.SOURCE_LISTS, (IFNAME,), data=(MARK, IPV6_ADDR)),
        Set(names.SOURCE_CHAINS, (IPV6_ADDR,), data=(VERDICT,)),
    )


def source_list(networks: tuple[Network, ...], settings: Settings) -> Content:
    """The chain that accepts what comes from these, and drops the rest; and its sets."""
    name = names.source_chain(networks)
    rules: list[Expressions] = []
    sets: dict[str, Set] = {}
    elements: dict[str, frozenset[bytes]] = {}
    for family in (4, 6):
        members = frozenset(network_key(one) for one in networks if one.family == family)
        if members and (family == 4 or settings.ipv6):
            set_name = names.source_set(networks, family)
            sets[set_name] = interval_set(set_name, family)
            elements[set_name] = members
            of_these = match.in_set(match.source(family), set_name)
            rules.append((*match.family(family), *of_these, ACCEPT))
    rules.append(seen.dropped(seen.NOT_ITS_SOURCE, "egress", settings))
    return Content(chains=dict((chain(name, *rules),)), sets=sets, elements=elements)
