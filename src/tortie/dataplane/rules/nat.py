"""Source NAT for what leaves the pools; two rules per family, the rest is data."""

from tortie.dataplane.rules import match, names
from tortie.dataplane.rules.match import Expressions
from tortie.dataplane.settings import Settings
from tortie.kernel.nft.expressions import Counter, Masquerade


def masquerade(family: int, settings: Settings) -> Expressions:
    """From a pool with masquerading, to no pool (nor, if so set, to a host of ours)."""
    condition = (
        *match.family(family),
        *match.in_set(match.source(family), names.MASQUERADE[family]),
        *match.in_set(match.destination(family), names.POOLS[family], negate=True),
    )
    if settings.nat_exclusions == "IPPoolsAndHostIPs":
        condition += match.in_set(match.destination(family), names.HOSTS[family], negate=True)
    return (*condition, Counter(), Masquerade())
