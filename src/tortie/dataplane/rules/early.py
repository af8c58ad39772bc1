"""The early ruleset: workload interfaces closed, before any policy is known.

From boot until the agent's first transaction there is nobody who knows who may
speak to whom; so nobody may. Two small tables, `inet tortie-early` and
`arp tortie-early`, drop whatever comes from or goes to an interface with a
prefix of workloads, and look at nothing else. `agent/early.py` loads them; the
driver of our own tables deletes them in the same transaction in which those
come into force (`driver/nftables.py`), so that no packet meets neither.
"""

from tortie.dataplane.rules import match
from tortie.kernel.nft.constants import ArpHook, Family, Hook, TableFlag
from tortie.kernel.nft.expressions import DROP
from tortie.kernel.nft.objects import Base, Chain, Rule, Table, TableName
from tortie.kernel.nft.transaction import Transaction

INET = TableName(Family.INET, "tortie-early")
ARP = TableName(Family.ARP, "tortie-early")
TABLES = (INET, ARP)

PRIORITY = -300
"""NF_IP_PRI_RAW: before connections are tracked, so that none is made for what is dropped."""


def add_early_tables(transaction: Transaction, prefixes: tuple[str, ...], flags: TableFlag) -> None:
    """Add both tables, in the place of what was there under their names."""
    came_in = match.coming_in(prefixes, match.counted(DROP))
    goes_out = match.going_out(prefixes, match.counted(DROP))
    chains = {
        # What comes in dies here, whether it is for this host or for another.
        (INET, "prerouting"): (Hook.PREROUTING, came_in),
        (INET, "forward"): (Hook.FORWARD, goes_out),
        (INET, "output"): (Hook.OUTPUT, goes_out),
        (ARP, "input"): (ArpHook.INPUT, came_in),
        (ARP, "output"): (ArpHook.OUTPUT, goes_out),
    }
    for name in TABLES:
        transaction.replace_table(Table(name.family, name.name, flags))
    for (table, chain), (hook, rules) in chains.items():
        transaction.add_chain(table, Chain(chain, Base("filter", hook, PRIORITY)))
        for rule in rules:
            transaction.add_rule(table, Rule(chain, rule))
