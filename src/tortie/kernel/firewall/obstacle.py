"""Do others' firewalls drop what workloads send through this host?

A packet must pass every base chain of the forward hook, whoever made it. So a
FORWARD chain with policy DROP (Docker's, ufw's) or a last rule that rejects
(firewalld's) stops our traffic, whatever our own tables say. We touch no
table of others; we say which chain it is, and which rule would help.
"""

import shlex
from collections.abc import Iterator
from typing import NamedTuple

from tortie.kernel.firewall import legacy
from tortie.kernel.firewall.nftables import Maps, judge, looked_up
from tortie.kernel.firewall.outcome import Flow, Judged, drops
from tortie.kernel.nft.connection import Backend, Nft
from tortie.kernel.nft.constants import Family, Hook, Policy, TableFlag
from tortie.kernel.nft.objects import Base, Rule, TableName
from tortie.lib.errors import NotFound

_FAMILIES = {Family.IP: (4,), Family.IP6: (6,), Family.INET: (4, 6)}
_COMMANDS = {4: "iptables", 6: "ip6tables"}
_IPTABLES_TABLES = {TableName(Family.IP, "filter"): 4, TableName(Family.IP6, "filter"): 6}
OURS = frozenset({"tortie", "tortie-early"})
"""Our tables, by name: what they drop is meant."""
_DOCKER_CHAIN = "DOCKER-USER"
"""Docker asks it first, and leaves what people put there alone."""


class Obstacle(NamedTuple):
    """A chain that drops new connections of workloads."""

    chain: str
    """For people: table, chain, and why it drops."""
    remedy: tuple[str, ...]
    """Commands for a shell that let our interfaces through."""

    def __str__(self) -> str:
        return f"{self.chain} drops workloads' traffic; add: {'; '.join(self.remedy)}"


OURS = frozenset({"tortie", "tortie-early"})
"""Tables of ours; the early one drops everything, and is gone when policy is known."""


async def find_obstacles(
    nft: Backend, prefix: str, *, ours: frozenset[str] = OURS, ipv6: bool = True
) -> list[Obstacle]:
    """Every chain that drops for certain what goes from, to or between our interfaces.

    Args:
        prefix: of the names of workloads' interfaces.
        ours: names of tables that are not looked at.

    Raises:
        KernelRefused: not allowed to look.
    """
    families = (4, 6) if ipv6 else (4,)
    found = []
    for table in await nft.tables():
        if table.name in ours or TableFlag.DORMANT in table.flags:
            continue
        if any(family in families for family in _FAMILIES.get(table.family, ())):
            found += await _of_table(nft, table.table_name, prefix, families)
    for family in families:
        if any(legacy.forward_drops(flow) for flow in _flows(family, prefix)):
            command = f"{_COMMANDS[family]}-legacy"
            what = f"chain FORWARD of {command}'s table filter"
            found.append(Obstacle(what, _iptables_rules(command, "FORWARD", prefix)))
    return found


async def find_obstacles_here(prefix: str) -> list[Obstacle]:
    """`find_obstacles` in this thread's namespace, on a socket of its own."""
    nft = Nft.open()
    try:
        return await find_obstacles(nft, prefix)
    finally:
        nft.close()


def _flows(family: int, prefix: str) -> Iterator[Flow]:
    yield Flow(family, prefix, prefix)
    yield Flow(family, prefix, "")
    yield Flow(family, "", prefix)


async def _of_table(
    nft: Backend, name: TableName, prefix: str, families: tuple[int, ...]
) -> list[Obstacle]:
    try:
        chains = await nft.chains(name)
        bases = [(one.name, one.base) for one in chains if one.base and _forwards(one.base)]
        if not bases:
            return []
        table = await _Table.read(nft, name)
    except NotFound:
        return []  # deleted meanwhile
    is_docker = any(chain.name == _DOCKER_CHAIN for chain in chains)
    found = []
    for chain, base in bases:
        flows = (
            flow
            for family in _FAMILIES[name.family]
            if family in families
            for flow in _flows(family, prefix)
        )
        policy_drops = base.policy is Policy.DROP
        if any(table.drops(chain, flow, policy_drops=policy_drops) for flow in flows):
            why = " (policy drop)" if policy_drops else ""
            what = f"chain {_shown(chain)} of table {name.family.name.lower()} {_shown(name.name)}"
            into = _DOCKER_CHAIN if is_docker and chain == "FORWARD" else chain
            found.append(Obstacle(what + why, _remedy(name, into, prefix)))
    return found


def _forwards(base: Base) -> bool:
    return base.type == "filter" and base.hook == Hook.FORWARD


class _Table(NamedTuple):
    rules: dict[str, list[Rule]]
    maps: Maps

    @classmethod
    async def read(cls, nft: Backend, name: TableName) -> "_Table":
        rules: dict[str, list[Rule]] = {}
        for rule in await nft.rules(name):
            rules.setdefault(rule.chain, []).append(rule)
        wanted = {one for some in rules.values() for one in looked_up(some)}
        return cls(rules, {one: await nft.elements(name, one) for one in wanted})

    def drops(self, chain: str, flow: Flow, *, policy_drops: bool) -> bool:
        def judged(name: str) -> Iterator[Judged]:
            return (judge(rule, flow, self.maps) for rule in self.rules.get(name, ()))

        return drops(judged, chain, policy_drops=policy_drops)


def _remedy(table: TableName, chain: str, prefix: str) -> tuple[str, ...]:
    family = _IPTABLES_TABLES.get(table)
    if family is not None and chain in ("FORWARD", _DOCKER_CHAIN):
        return _iptables_rules(_COMMANDS[family], chain, prefix)
    where = f"{table.family.name.lower()} {shlex.quote(table.name)} {shlex.quote(chain)}"
    return tuple(
        f"nft insert rule {where} {side} '\"{prefix}*\"' accept" for side in ("iifname", "oifname")
    )


def _iptables_rules(command: str, chain: str, prefix: str) -> tuple[str, ...]:
    return tuple(f"{command} -I {chain} {side} {prefix}+ -j ACCEPT" for side in ("-i", "-o"))


def _shown(name: str) -> str:
    """Another program's name, with nothing in it that a terminal would obey."""
    return name if name.isprintable() and name.isascii() else ascii(name)
