"""Is IPAM's state sound, and what in it has leaked? Pure.

An address is held until its leak is proved, twice and independently:

1. no WorkloadEndpoint anywhere has it, and
2. whoever could have brought it in is known not to have: its host has no Node any more, or that
   host's own agent says that nothing of it is attached, being attached or being removed.

An endpoint that cannot be read may have any address: then nothing has leaked. All addresses of
a handle leak together or none does. What a proof rests on (the sequence number at which the
address was assigned) travels with it, so that a release that comes late is refused.

Source: Calico, design/ipam/ipam-gc.md; the command `calicoctl ipam check`.
"""

import enum
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple, Protocol

from tortie.ipam import block as blocks
from tortie.ipam.holdings import damage
from tortie.ipam.inventory import Inventory
from tortie.ipam.pools import parse_pools, pool_of
from tortie.lib.errors import InvalidInput
from tortie.lib.ip import Network, parse_network
from tortie.model.ipam import Attribute, Block
from tortie.model.keys import AffinityKey, BlockKey, HandleKey

FOREIGN = "ipam-only"
"""Value of the attribute `attachment`: the address was handed to another network plugin, which
has no endpoint. Only that plugin's own DEL or GC may release it."""

_TUNNEL = re.compile(r"(?:ipip|vxlan|vxlan-v6|wireguard|wireguard-v6)-tunnel-addr-(.+)")


class Kind(enum.StrEnum):
    DAMAGED_BLOCK = "damaged block"
    OVERLAP = "overlapping blocks"
    NO_POOL = "block in no pool"
    AFFINITY = "affinity without its block"
    UNCONFIRMED = "affinity not confirmed"
    HANDLE = "handle and blocks differ"
    NO_HANDLE = "address without a handle"
    DUPLICATE = "address of two endpoints"
    NOT_ALLOCATED = "endpoint's address not allocated"
    WRONG_HOLDER = "endpoint's address held for another"
    BORROWED = "borrowed in spite of strict affinity"


class Problem(NamedTuple):
    kind: Kind
    subject: str
    """The key, CIDR, handle or address that it is about."""
    message: str


class Allocation(NamedTuple):
    """One address that somebody holds."""

    address: Network
    block: Network
    handle_id: str
    node: str
    """Attribute `node`; empty where there is none."""
    sequence: int
    """At its assignment: for `Allocator.release_address`."""
    attribute: Attribute

    @property
    def is_foreign(self) -> bool:
        return (self.attribute.secondary or {}).get("attachment") == FOREIGN


class Leak(NamedTuple):
    handle_id: str
    allocations: tuple[Allocation, ...]
    reason: str


class Report(NamedTuple):
    problems: tuple[Problem, ...]
    leaks: tuple[Leak, ...]
    """Of hosts that have no Node."""
    allocations: int
    blocks: int


def audit(state: Inventory) -> Report:
    """Everything that is wrong, as far as the datastore alone can tell."""
    problems = [
        *_block_problems(state),
        *_affinity_problems(state),
        *_handle_problems(state),
        *_endpoint_problems(state),
    ]
    leaks = leaked(state, hosts_gone(state))
    return Report(
        tuple(problems), tuple(leaks), sum(1 for _ in allocations(state)), len(state.blocks)
    )


def allocations(state: Inventory) -> Iterator[Allocation]:
    """Every address that a handle holds; cooling ones and those of damaged blocks are left out."""
    for found in state.blocks:
        block = found.value
        if block is None or damage(found):
            continue
        cidr = blocks.network(block)
        for ordinal, index in enumerate(block.allocations):
            if index is None:
                continue
            attribute = block.attributes[index]
            if attribute.handle_id is None:
                continue
            yield Allocation(
                cidr.address(ordinal),
                cidr,
                attribute.handle_id,
                (attribute.secondary or {}).get("node", ""),
                block.sequence_number_for_allocation.get(str(ordinal), 0),
                attribute,
            )


class Proof(Protocol):
    """The second one: whoever could have brought an address in is known not to have."""

    @property
    def reason(self) -> str: ...

    @property
    def includes_foreign(self) -> bool: ...

    def proves(self, allocation: Allocation) -> bool: ...


class Gone(NamedTuple):
    """For these hosts, all handles but those named are gone."""

    hosts: frozenset[str]
    attached: frozenset[str]
    reason: str
    includes_foreign: bool
    """An agent knows nothing of what foreign plugins made; without its host it has no user."""

    def proves(self, allocation: Allocation) -> bool:
        return allocation.node in self.hosts and allocation.handle_id not in self.attached


def hosts_gone(state: Inventory) -> Gone:
    """Hosts that addresses are held for and that have no Node."""
    named = {found.node for found in allocations(state)} - {""}
    missing = frozenset(named - state.node_names)
    return Gone(missing, frozenset(), "its host has no Node", includes_foreign=True)


def not_attached(host: str, attached: Collection[str]) -> Gone:
    """What the agent of `host` says: these handles are all that there is here."""
    reason = f"the agent of {host} has nothing of it"
    return Gone(frozenset({host}), frozenset(attached), reason, includes_foreign=False)


def leaked(state: Inventory, gone: Proof) -> list[Leak]:
    """What both proofs hold for, by handle."""
    if any(found.value is None for found in state.endpoints):
        return []
    claimed = state.endpoint_addresses
    by_handle: dict[str, list[Allocation]] = defaultdict(list)
    for allocation in allocations(state):
        by_handle[allocation.handle_id].append(allocation)
    leaks = []
    for handle_id, held in sorted(by_handle.items()):
        tunnel = _TUNNEL.fullmatch(handle_id)
        if tunnel and tunnel[1] in state.node_names:
            continue
        if all(_is_leaked(allocation, claimed, gone) for allocation in held):
            leaks.append(Leak(handle_id, tuple(held), gone.reason))
    return leaks


def _is_leaked(allocation: Allocation, claimed: Collection[Network], gone: Proof) -> bool:
    if allocation.is_foreign and not gone.includes_foreign:
        return False
    return allocation.address not in claimed and gone.proves(allocation)


def _block_problems(state: Inventory) -> Iterator[Problem]:
    pools = parse_pools(pool.value for pool in state.pools if pool.value is not None).usable
    seen: list[Network] = []
    for found in state.blocks:
        assert isinstance(found.key, BlockKey)
        cidr = found.key.cidr
        if problem := damage(found):
            yield Problem(Kind.DAMAGED_BLOCK, str(cidr), problem)
        for other in seen:
            if cidr.overlaps(other):
                yield Problem(Kind.OVERLAP, str(cidr), f"{cidr} overlaps block {other}")
        seen.append(cidr)
        if pool_of(pools, cidr) is None:
            yield Problem(Kind.NO_POOL, str(cidr), f"{cidr} is in no IPPool")
        if found.value is not None and state.config.strict_affinity:
            yield from _borrowed(found.value)


def _borrowed(block: Block) -> Iterator[Problem]:
    if _is_sound(block):
        for allocation_node in sorted(_nodes(block)):
            if block.affinity != blocks.host_affinity(allocation_node):
                yield Problem(
                    Kind.BORROWED,
                    block.cidr,
                    f"{allocation_node} holds addresses of {block.cidr}, which is of "
                    f"{block.affinity or 'nobody'}, and strict affinity is on",
                )


def _is_sound(block: Block) -> bool:
    return not blocks.problems(block)


def _nodes(block: Block) -> set[str]:
    return {
        node
        for attribute in block.attributes
        if attribute.handle_id and (node := (attribute.secondary or {}).get("node"))
    }


def _affinity_problems(state: Inventory) -> Iterator[Problem]:
    owners = {found.key: found.value for found in state.blocks}
    unreadable = {found.key for found in state.blocks if found.problem}
    for found in state.affinities:
        key = found.key
        assert isinstance(key, AffinityKey)
        subject = f"{key.host} {key.cidr}"
        if found.problem:
            yield Problem(Kind.AFFINITY, subject, found.problem)
            continue
        block = owners.get(BlockKey(key.cidr))
        owner = f"{'virtual' if key.virtual else 'host'}:{key.host}"
        state_name = found.value.state if found.value else ""
        if state_name != "confirmed":
            message = f"the affinity of {key.host} for {key.cidr} is {state_name or 'empty'}"
            yield Problem(Kind.UNCONFIRMED, subject, message)
        elif BlockKey(key.cidr) in unreadable:
            continue
        elif block is None or block.affinity != owner:
            has = "does not exist" if block is None else f"is of {block.affinity or 'nobody'}"
            message = f"{key.host} has an affinity for {key.cidr}, which {has}"
            yield Problem(Kind.AFFINITY, subject, message)


def _handle_problems(state: Inventory) -> Iterator[Problem]:
    counted: dict[str, Counter[Network]] = defaultdict(Counter)
    for allocation in allocations(state):
        counted[allocation.handle_id][allocation.block] += 1
    damaged = {_cidr_of(found.key) for found in state.blocks if damage(found)}
    for found in state.handles:
        assert isinstance(found.key, HandleKey)
        name = found.key.handle_id
        said: Counter[Network] = Counter()
        if found.problem or found.value is None:
            yield Problem(Kind.HANDLE, name, found.problem)
            counted.pop(name, None)
            continue
        for cidr, count in found.value.block.items():
            try:
                said[parse_network(cidr)] += count
            except InvalidInput as error:
                yield Problem(Kind.HANDLE, name, str(error))
        held = counted.pop(name, Counter())
        if {c: n for c, n in said.items() if c not in damaged} != dict(held):
            message = f"handle {name} counts {_counts(said)}, and blocks hold {_counts(held)}"
            yield Problem(Kind.HANDLE, name, message)
    for name, held in sorted(counted.items()):
        message = f"blocks hold {_counts(held)} for handle {name}, which does not exist"
        yield Problem(Kind.NO_HANDLE, name, message)


def _endpoint_problems(state: Inventory) -> Iterator[Problem]:
    held = {allocation.address: allocation for allocation in allocations(state)}
    pools = parse_pools(pool.value for pool in state.pools if pool.value is not None).usable
    seen: dict[Network, object] = {}
    for found in state.endpoints:
        for text in found.value.spec.ip_networks if found.value else ():
            try:
                address = parse_network(text)
            except InvalidInput:
                continue
            shown = address.address_text
            if address in seen:
                message = f"{shown} is of {seen[address]} and of {found.key}"
                yield Problem(Kind.DUPLICATE, shown, message)
            seen[address] = found.key
            if pool_of(pools, address) is None:
                continue  # nobody's business but theirs
            allocation = held.get(address)
            assert found.value is not None
            if allocation is None:
                message = f"{shown} of {found.key} is free for others to be given"
                yield Problem(Kind.NOT_ALLOCATED, shown, message)
            elif allocation.node and allocation.node != found.value.spec.node:
                message = (
                    f"{shown} of {found.key} on {found.value.spec.node} is held for "
                    f"{allocation.node}"
                )
                yield Problem(Kind.WRONG_HOLDER, shown, message)


def _cidr_of(key: object) -> Network:
    assert isinstance(key, BlockKey)
    return key.cidr


def _counts(counted: Counter[Network]) -> str:
    return ", ".join(f"{count} of {cidr}" for cidr, count in sorted(counted.items())) or "nothing"


def seen_twice(leaks: Iterable[Leak], before: Iterable[Leak]) -> list[Leak]:
    """Leaks that were seen before, and are still the very same allocations."""
    known = {
        (leak.handle_id, frozenset((a.address, a.sequence) for a in leak.allocations))
        for leak in before
    }
    return [
        leak
        for leak in leaks
        if (leak.handle_id, frozenset((a.address, a.sequence) for a in leak.allocations)) in known
    ]
