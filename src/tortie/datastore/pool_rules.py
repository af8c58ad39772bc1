"""What may be said of a pool beside others, and of what it was before. Pure.

Source: Calico, libcalico-go/lib/clientv3/ippool.go.
"""

from collections.abc import Sequence

from tortie.lib.errors import InvalidField
from tortie.lib.ip import parse_network, parsed_network
from tortie.model.node import IPPool
from tortie.model.validation.entry import titled


def check_disjoint(pool: IPPool, others: Sequence[IPPool]) -> None:
    """
    Raises:
        InvalidField: it holds an address that another one holds.
    """
    network = parse_network(pool.spec.cidr)
    for other in others:
        theirs = parsed_network(other.spec.cidr)  # None: an invalid pool holds nothing
        if theirs is not None and theirs.overlaps(network):
            named = f"{other.metadata.name!r}, {other.spec.cidr}"
            rule = f"{pool.spec.cidr} overlaps the pool {named}"
            raise InvalidField(titled(pool), "spec.cidr", rule)


def check_change(pool: IPPool, before: IPPool) -> None:
    """
    Raises:
        InvalidField: a change that would leave blocks outside, or of another size.
    """
    key = titled(pool)
    if parse_network(pool.spec.cidr) != parsed_network(before.spec.cidr):
        rule = f"cannot change, it is {before.spec.cidr}; create another pool"
        raise InvalidField(key, "spec.cidr", rule)
    if pool.spec.block_size != before.spec.block_size:
        raise InvalidField(key, "spec.blockSize", f"cannot change, it is {before.spec.block_size}")
    was, now = ("LoadBalancer" in p.spec.allowed_uses for p in (before, pool))
    if was and not now:
        raise InvalidField(key, "spec.allowedUses", "cannot change away from LoadBalancer")
