"""What may be said of a pool beside others, and of what it was before. Pure.

Source: Calico, libcalico-go/lib/clientv3/ippool.go.
"""

from collections.abc import Sequence

from tortie.lib.errors import InvalidInput
from tortie.lib.ip import parse_network
from tortie.model.node import IPPool
from tortie.model.validation.entry import titled
from tortie.model.validation.terms import parsed_network


def check_disjoint(pool: IPPool, others: Sequence[IPPool]) -> None:
    """
    Raises:
        InvalidInput: it holds an address that another one holds.
    """
    network = parse_network(pool.spec.cidr)
    for other in others:
        theirs = parsed_network(other.spec.cidr)  # None: an invalid pool holds nothing
        if theirs is not None and theirs.overlaps(network):
            raise InvalidInput(
                f"{titled(pool)}: spec.cidr: {pool.spec.cidr} overlaps the pool "
                f"{other.metadata.name!r}, {other.spec.cidr}"
            )


def check_change(pool: IPPool, before: IPPool) -> None:
    """
    Raises:
        InvalidInput: a change that would leave blocks outside, or of another size.
    """
    key = titled(pool)
    if parse_network(pool.spec.cidr) != parsed_network(before.spec.cidr):
        raise InvalidInput(
            f"{key}: spec.cidr: cannot change, it is {before.spec.cidr}; create another pool"
        )
    if pool.spec.block_size != before.spec.block_size:
        raise InvalidInput(f"{key}: spec.blockSize: cannot change, it is {before.spec.block_size}")
    was, now = ("LoadBalancer" in p.spec.allowed_uses for p in (before, pool))
    if was and not now:
        raise InvalidInput(f"{key}: spec.allowedUses: cannot change away from LoadBalancer")
