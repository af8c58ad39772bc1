"""In which order tiers and policies are consulted: everywhere the same, whatever came first.

Tiers by order, then name; policies by order, then kind, name and namespace. No order sorts last,
and a tier that is missing after all those that there are.

Source: Calico, felix/calc/policy_sorter.go.
"""

from typing import NamedTuple

from tortie.desired.policy import PolicyId


class TierOrder(NamedTuple):
    """Sorts tiers."""

    missing: bool
    unordered: bool
    order: float
    name: str


class PolicyOrder(NamedTuple):
    """Sorts the policies of one tier."""

    unordered: bool
    order: float
    policy: PolicyId


def tier_order(name: str, order: float | None, *, missing: bool = False) -> TierOrder:
    return TierOrder(missing, order is None, order or 0.0, name)


def policy_order(policy: PolicyId, order: float | None) -> PolicyOrder:
    return PolicyOrder(order is None, order or 0.0, policy)
