"""What this kernel's nf_tables can do of what we need: tried, in an empty namespace of its own.

A kernel's configuration says what was built, not what is there: modules may be
missing, forbidden, or of another version.
"""

import os
from collections.abc import Callable

from tortie.kernel import netns
from tortie.kernel.nft import keys
from tortie.kernel.nft.connection import Nft
from tortie.kernel.nft.constants import ArpHook, CmpOp, CtKey, CtState, Family, Hook, MetaKey
from tortie.kernel.nft.expressions import (
    ACCEPT,
    Bitwise,
    Cmp,
    Counter,
    Ct,
    Expression,
    Limit,
    Log,
    Lookup,
    Masquerade,
    Meta,
)
from tortie.kernel.nft.objects import (
    IFNAME,
    IPV4_ADDR,
    IPV6_ADDR,
    MARK,
    VERDICT,
    Base,
    Chain,
    Element,
    Rule,
    Set,
    Table,
    network_elements,
)
from tortie.kernel.nft.transaction import Transaction
from tortie.lib.errors import TortieError
from tortie.lib.ip import parse_network

_FILTER = Base("filter", Hook.FORWARD, 0)
_NAT = Base("nat", Hook.POSTROUTING, 100)


def missing() -> dict[str, str]:
    """What is needed and refused, and what the kernel said; empty where all is there.

    Raises:
        KernelRefused: not allowed to make a namespace, or to speak to nf_tables.
    """
    namespace = netns.create_anonymous()
    try:
        return netns.run_in(namespace, _missing)
    finally:
        os.close(namespace)


def _missing() -> dict[str, str]:
    found = {}
    nft = Nft.open()
    try:
        for name, make in PROBES.items():
            change = Transaction()
            make(change)
            try:
                nft.commit_operations(change.operations())
            except TortieError as error:
                found[name] = str(error)
    finally:
        nft.close()
    return found


def _with_rule(base: Base, *expressions: Expression) -> Callable[[Transaction], None]:
    def make(change: Transaction) -> None:
        table = Table(Family.INET, "probe")
        change.replace_table(table)
        change.add_chain(table.table_name, Chain("probe", base))
        change.add_rule(table.table_name, Rule("probe", expressions))

    return make


def _arp(change: Transaction) -> None:
    table = Table(Family.ARP, "probe")
    change.replace_table(table)
    change.add_chain(table.table_name, Chain("probe", Base("filter", ArpHook.INPUT, 0)))


def _sets(change: Transaction) -> None:
    table = Table(Family.INET, "probe")
    name = table.table_name
    change.replace_table(table)
    networks = Set("networks", (IPV4_ADDR,), interval=True)
    lists = Set("lists", (IFNAME,), data=(MARK, IPV6_ADDR))
    verdicts = Set("verdicts", (IPV6_ADDR,), data=(VERDICT,))
    for one in (networks, lists, verdicts, Set("pairs", (IFNAME, IPV6_ADDR))):
        change.add_set(name, one)
    change.add_elements(name, networks, network_elements(parse_network("10.0.0.0/8")))
    change.add_elements(name, lists, (Element(keys.ifname("probe"), bytes(20)),))
    change.add_elements(name, verdicts, (Element(bytes(16), ACCEPT),))
    change.add_chain(name, Chain("probe", _FILTER))
    change.add_rule(
        name, Rule("probe", (Meta(MetaKey.IIFNAME), Lookup("lists", destination=4), ACCEPT))
    )


_ESTABLISHED = keys.u32(int(CtState.ESTABLISHED))

PROBES: dict[str, Callable[[Transaction], None]] = {
    "nftables for both families": _with_rule(_FILTER, Counter(), ACCEPT),
    "nftables for ARP": _arp,
    "nftables' sets and maps": _sets,
    "nftables: connection tracking": _with_rule(
        _FILTER, Ct(CtKey.STATE), Bitwise(_ESTABLISHED, bytes(4)), Cmp(CmpOp.NEQ, bytes(4)), ACCEPT
    ),
    "nftables: masquerading": _with_rule(_NAT, Masquerade()),
    "nftables: limits and logs for programs": _with_rule(_FILTER, Limit(100), Log(group=7430)),
}
"""By what for."""
