"""Which address pools serve a host. Pure.

A pool that cannot be understood, or that overlaps another one, serves nobody:
two pools over the same addresses with blocks of different sizes would hand
one address out twice. Of two that overlap, the one whose name sorts first
counts; the other is reported.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from tortie.ipam.affinity import DEFAULT_BLOCK_LENGTH
from tortie.lib.errors import InvalidInput
from tortie.lib.ip import Network, parse_network
from tortie.model.node import IPPool
from tortie.selector.syntax import Node as Selector
from tortie.selector.syntax import parse

BLOCK_LENGTHS = {4: range(20, 33), 6: range(116, 129)}
DEFAULT_USES = frozenset({"Workload", "Tunnel"})


class Pool(NamedTuple):
    """An IPPool, parsed and checked."""

    name: str
    cidr: Network
    block_length: int
    disabled: bool
    node_selector: Selector
    uses: frozenset[str]
    automatic: bool
    """False: only who names this pool, or an address in it, gets one."""
    namespace_selector: Selector | None = None
    """None: for every namespace."""


class Pools(NamedTuple):
    usable: tuple[Pool, ...]
    """In order of name; disjoint."""
    problems: tuple[str, ...]
    """One sentence for each pool that counts as absent."""


def parse_pools(resources: Iterable[IPPool]) -> Pools:
    usable: list[Pool] = []
    problems: list[str] = []
    for resource in sorted(resources, key=lambda found: found.metadata.name):
        try:
            pool = _parse_pool(resource)
        except InvalidInput as error:
            problems.append(f"IPPool {resource.metadata.name}: {error}")
            continue
        other = next((other for other in usable if other.cidr.overlaps(pool.cidr)), None)
        if other is None:
            usable.append(pool)
        else:
            problems.append(f"IPPool {pool.name}: {pool.cidr} overlaps IPPool {other.name}")
    return Pools(tuple(usable), tuple(problems))


def serving(
    pools: Iterable[Pool],
    family: int,
    node_labels: Mapping[str, str],
    *,
    use: str = "Workload",
    names: frozenset[str] = frozenset(),
    namespace_labels: Mapping[str, str] = {},
) -> list[Pool]:
    """The pools from which a host may take addresses of its own choice.

    Args:
        node_labels: of the host's Node.
        use: `Workload`, `Tunnel` or `LoadBalancer`.
        names: only these, whatever their selectors say; a pool with manual assignment must be
            named. Empty means every automatic one whose selectors match.
        namespace_labels: of the namespace that the address is for.

    Source: Calico, libcalico-go/lib/ipam/ipam.go, determinePools.
    """
    return [
        pool
        for pool in pools
        if pool.cidr.family == family
        and not pool.disabled
        and use in pool.uses
        and (
            pool.name in names
            if names
            else pool.automatic and _selects(pool, node_labels, namespace_labels)
        )
    ]


def _selects(
    pool: Pool, node_labels: Mapping[str, str], namespace_labels: Mapping[str, str]
) -> bool:
    selector = pool.namespace_selector
    return pool.node_selector.matches(node_labels) and (
        selector is None or selector.matches(namespace_labels)
    )


def pool_of(pools: Iterable[Pool], network: Network) -> Pool | None:
    """The pool that an address or a block is part of."""
    return next((pool for pool in pools if pool.cidr.contains(network)), None)


def block_of(pool: Pool, address: Network) -> Network:
    """The block of `pool` that an address belongs to."""
    shift = address.bits - pool.block_length
    return Network(address.family, address.value >> shift << shift, pool.block_length)


def _is_refused(resource: IPPool) -> bool:
    """A controller says that nothing may be taken from it, as while it is being deleted."""
    return any(
        condition.type == "Allocatable" and condition.status == "False"
        for condition in resource.status.conditions
    )


def _parse_pool(resource: IPPool) -> Pool:
    spec = resource.spec
    cidr = parse_network(spec.cidr, strict=True)
    length = spec.block_size or DEFAULT_BLOCK_LENGTH[cidr.family]
    if length not in BLOCK_LENGTHS[cidr.family]:
        allowed = BLOCK_LENGTHS[cidr.family]
        raise InvalidInput(f"blockSize {length} is not between {allowed[0]} and {allowed[-1]}")
    if length < cidr.length and not spec.disabled:
        raise InvalidInput(f"{cidr} is smaller than one block of /{length}")
    return Pool(
        resource.metadata.name,
        cidr,
        length,
        spec.disabled or length < cidr.length or _is_refused(resource),
        parse(spec.node_selector),
        frozenset(spec.allowed_uses) or DEFAULT_USES,
        spec.assignment_mode == "Automatic",
        parse(spec.namespace_selector) if spec.namespace_selector.strip() else None,
    )
