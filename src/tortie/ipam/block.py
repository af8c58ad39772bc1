"""One block of addresses: who holds which, and which is free. Pure.

Every function takes a `model.ipam.Block` as read from the datastore and
returns the one to write; the given one stays as it is. The caller writes with
compare-and-swap on the block's mod_revision and, when that is lost, reads
again and decides again (`ipam.allocator`). So a block in memory is never
ahead of the stored one.

An ordinal is the position of an address in its block, 0 being the first. It
is in exactly one place: `unallocated` (free, longest free first), or
`allocations` pointing at an attribute. An attribute with `released_at` and no
handle marks an address that cools down after its release.

`sequence_number` grows by one with each change here. An ordinal remembers the
number that the block had when it was assigned; a release that names another
one is late, meant for an earlier holder, and refused.

Source: Calico, libcalico-go/lib/ipam/ipam_block.go and lib/backend/model/block.go.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime, timedelta

from msgspec.structs import replace

from tortie.lib.errors import AlreadyExists, Conflict, InvalidInput
from tortie.lib.ip import Network, parse_network
from tortie.model.ipam import Attribute, Block

MAX_ADDRESSES = 4096
"""An IPv4 /20 and an IPv6 /116, the largest blocks that a pool may ask for."""


def new_block(cidr: Network, host: str, now_ns: int, *, virtual: bool = False) -> Block:
    """An empty block that `host` owns.

    Args:
        now_ns: Unix time. The first sequence number, so that a block which is
            deleted and made again never repeats one.
    """
    return Block(
        cidr=str(cidr),
        affinity=host_affinity(host, virtual=virtual),
        affinity_claim_time=rfc3339(now_ns),
        allocations=(None,) * cidr.size,
        unallocated=tuple(range(cidr.size)),
        sequence_number=now_ns,
    )


def claimed(block: Block, host: str, now_ns: int, *, virtual: bool = False) -> Block:
    """The same block, another host's from now on."""
    return replace(
        block,
        affinity=host_affinity(host, virtual=virtual),
        affinity_claim_time=rfc3339(now_ns),
        sequence_number=block.sequence_number + 1,
    )


def disowned(block: Block) -> Block:
    """Nobody's: what is assigned stays, and nobody assigns from it without asking."""
    return replace(
        block,
        affinity=None,
        affinity_claim_time=None,
        sequence_number=block.sequence_number + 1,
    )


def claim_time_ns(block: Block) -> int | None:
    """When its owner got it, Unix time; None where that is not recorded."""
    if not block.affinity_claim_time:
        return None
    return int(_parse_time(block.affinity_claim_time).timestamp()) * 1_000_000_000


def host_affinity(host: str, *, virtual: bool = False) -> str:
    """
    Args:
        virtual: it is no host, but something like the load balancer.
    """
    return f"{'virtual' if virtual else 'host'}:{host}"


def rfc3339(now_ns: int) -> str:
    """UTC in whole seconds, as `2026-08-22T10:00:00Z`."""
    return datetime.fromtimestamp(now_ns // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def network(block: Block) -> Network:
    """
    Raises:
        InvalidInput: its `cidr` is none.
    """
    return parse_network(block.cidr, strict=True)


def assign(
    block: Block, count: int, attribute: Attribute, reserved: Collection[Network] = ()
) -> tuple[Block, list[Network]]:
    """Take up to `count` addresses, the longest free first.

    So an address that was just released is the last to be used again, while
    stale routes and conntrack entries for it may still be about.

    Args:
        reserved: networks never handed out; their ordinals keep their places.

    Returns:
        The changed block, and the addresses. None of them (and the block as it
        was) if nothing is free: try another block.
    """
    taken = _free_ordinals(block, reserved)[:count]
    if not taken:
        return block, []
    cidr = network(block)
    return _allocate(block, taken, attribute), [cidr.address(ordinal) for ordinal in taken]


def assign_address(block: Block, address: Network, attribute: Attribute) -> Block:
    """Take one given address, reserved or not: who asks for it by name shall have it.

    Raises:
        AlreadyExists: somebody holds it, or it is cooling down.
    """
    ordinal = _ordinal(block, address)
    if block.allocations[ordinal] is not None:
        raise AlreadyExists(f"{address.address_text} is {_state(block, ordinal)}")
    return _allocate(block, [ordinal], attribute)


def release(
    block: Block,
    addresses: Iterable[Network],
    *,
    handle_id: str | None = None,
    sequence: int | None = None,
    released_at: str | None = None,
) -> tuple[Block, list[Network]]:
    """Free addresses; they go to the tail, to be used again last.

    Free and cooling ones among them are left alone, so that a release may be
    repeated.

    Args:
        handle_id: release only what this handle holds; None means whoever.
        sequence: the sequence number at which they were assigned; None
            means not to check. Ordinals without a number (old data) have 0.
        released_at: RFC 3339; keep them allocated but cooling from then on,
            until `collect_cooled`. None means free at once.

    Returns:
        The changed block, and what was released of `addresses`, in their order.

    Raises:
        Conflict: an address is held by another handle, or was assigned at
            another sequence number; nothing is released.
    """
    cidr = network(block)
    ordinals: list[int] = []
    for ordinal in dict.fromkeys(_ordinal(block, address) for address in addresses):
        held = _attribute(block, ordinal)
        if held is None or _is_cooling(held):
            continue
        _check_release(block, ordinal, held, handle_id, sequence)
        ordinals.append(ordinal)
    if not ordinals:
        return block, []
    if released_at is None:
        changed = _free(block, ordinals)
    else:
        cooling = Attribute(released_at=released_at)
        changed = _without_numbers(_set(block, ordinals, cooling), ordinals)
    return changed, [cidr.address(ordinal) for ordinal in ordinals]


def collect_cooled(block: Block, now_ns: int, cooldown_seconds: int) -> Block:
    """Move addresses that have cooled down long enough to the tail, oldest first.

    The same block if there are none. A `released_at` that cannot be read
    counts as long past: its address has been released in any case.
    """
    deadline = datetime.fromtimestamp(now_ns / 1e9, UTC) - timedelta(seconds=cooldown_seconds)
    done: list[tuple[datetime, int]] = []
    for ordinal, index in enumerate(block.allocations):
        if index is not None and _is_cooling(block.attributes[index]):
            released = _parse_time(block.attributes[index].released_at or "")
            if released <= deadline:
                done.append((released, ordinal))
    if not done:
        return block
    return _free(block, [ordinal for _, ordinal in sorted(done)])


def reattribute(block: Block, addresses: Iterable[Network], attribute: Attribute) -> Block:
    """Say anew who holds addresses that stay allocated: a workload that moves."""
    return _set(block, [_ordinal(block, address) for address in addresses], attribute)


def held_by(block: Block, handle_id: str) -> list[Network]:
    """What a handle holds here, in order of address."""
    indexes = {i for i, found in enumerate(block.attributes) if found.handle_id == handle_id}
    cidr = network(block)
    return [
        cidr.address(ordinal) for ordinal, index in enumerate(block.allocations) if index in indexes
    ]


def holder(block: Block, address: Network) -> Attribute | None:
    """Who holds an address of this block; None if it is free."""
    return _attribute(block, _ordinal(block, address))


def handle_counts(block: Block) -> Counter[str]:
    """How many addresses each handle holds; free and cooling ones do not count."""
    handles = (
        block.attributes[index].handle_id for index in block.allocations if index is not None
    )
    return Counter(handle for handle in handles if handle is not None)


def free_count(block: Block, reserved: Collection[Network] = ()) -> int:
    return len(_free_ordinals(block, reserved))


def is_empty(block: Block) -> bool:
    """Nobody holds an address and none cools down."""
    return all(index is None for index in block.allocations)


def problems(block: Block) -> list[str]:
    """What makes a stored block unusable; empty if it is sound.

    A block that fails here is left alone: handing out its addresses could
    give one away twice.
    """
    try:
        cidr = network(block)
    except InvalidInput as error:
        return [str(error)]
    size = len(block.allocations)
    if cidr.bits - cidr.length > 32 or cidr.size != size or size > MAX_ADDRESSES:
        return [f"{cidr} has {size} allocations"]
    found = []
    free = Counter(block.unallocated)
    if any(not 0 <= ordinal < size for ordinal in free):
        found.append("unallocated has an ordinal outside the block")
    if any(count > 1 for count in free.values()):
        found.append("unallocated has an ordinal twice")
    used = {ordinal for ordinal, index in enumerate(block.allocations) if index is not None}
    if used & free.keys():
        found.append(f"ordinals {sorted(used & free.keys())} are both free and allocated")
    if used | free.keys() != set(range(size)):
        found.append("some ordinals are neither free nor allocated")
    indexes = {index for index in block.allocations if index is not None}
    if any(not 0 <= index < len(block.attributes) for index in indexes):
        found.append("allocations refer to attributes that do not exist")
    return found


def _free_ordinals(block: Block, reserved: Collection[Network]) -> list[int]:
    if not reserved:
        return list(block.unallocated)
    cidr = network(block)
    return [
        ordinal
        for ordinal in block.unallocated
        if not any(kept.contains(cidr.address(ordinal)) for kept in reserved)
    ]


def _allocate(block: Block, ordinals: Sequence[int], attribute: Attribute) -> Block:
    taken = set(ordinals)
    changed = _set(block, ordinals, attribute)
    return replace(
        changed,
        unallocated=tuple(free for free in block.unallocated if free not in taken),
        sequence_number_for_allocation=block.sequence_number_for_allocation
        | {str(ordinal): block.sequence_number for ordinal in ordinals},
    )


def _free(block: Block, ordinals: Sequence[int]) -> Block:
    freed = _without_numbers(_set(block, ordinals, None), ordinals)
    return replace(freed, unallocated=(*block.unallocated, *ordinals))


def _without_numbers(block: Block, ordinals: Sequence[int]) -> Block:
    gone = {str(ordinal) for ordinal in ordinals}
    numbers = block.sequence_number_for_allocation
    return replace(
        block,
        sequence_number_for_allocation={k: v for k, v in numbers.items() if k not in gone},
    )


def _set(block: Block, ordinals: Sequence[int], attribute: Attribute | None) -> Block:
    """Point ordinals at an attribute (None: at nothing), and drop attributes without use."""
    attributes = list(block.attributes)
    index = None
    if attribute is not None:
        if attribute not in attributes:
            attributes.append(attribute)
        index = attributes.index(attribute)
    allocations = list(block.allocations)
    for ordinal in ordinals:
        allocations[ordinal] = index
    used = sorted({index for index in allocations if index is not None})
    renumbered = {old: new for new, old in enumerate(used)}
    return replace(
        block,
        allocations=tuple(None if old is None else renumbered[old] for old in allocations),
        attributes=tuple(attributes[old] for old in used),
        sequence_number=block.sequence_number + 1,
    )


def _attribute(block: Block, ordinal: int) -> Attribute | None:
    index = block.allocations[ordinal]
    return None if index is None else block.attributes[index]


def _check_release(
    block: Block, ordinal: int, held: Attribute, handle_id: str | None, sequence: int | None
) -> None:
    text = network(block).address(ordinal).address_text
    if handle_id is not None and held.handle_id != handle_id:
        raise Conflict(f"{text} is held by {held.handle_id!r}, not by {handle_id!r}")
    assigned_at = block.sequence_number_for_allocation.get(str(ordinal), 0)
    if sequence is not None and assigned_at != sequence:
        raise Conflict(
            f"{text} was assigned at sequence number {assigned_at}, not {sequence}: "
            "the release is late and meant for an earlier holder"
        )


def _ordinal(block: Block, address: Network) -> int:
    """
    Raises:
        InvalidInput: the address is not in the block.
    """
    cidr = network(block)
    if not (address.is_address and cidr.contains(address)):
        raise InvalidInput(f"{address.address_text} is not an address of block {cidr}")
    return address.value - cidr.value


def _state(block: Block, ordinal: int) -> str:
    held = _attribute(block, ordinal)
    if held is not None and _is_cooling(held):
        return f"cooling down since its release at {held.released_at}"
    return f"in use by handle {held.handle_id if held else None!r}"


def _is_cooling(attribute: Attribute) -> bool:
    return attribute.released_at is not None and attribute.handle_id is None


def _parse_time(text: str) -> datetime:
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        return datetime.fromtimestamp(0, UTC)
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
