"""What a handle names, and the blocks that hold it. Pure."""

from collections.abc import Collection
from typing import NamedTuple

from tortie.ipam import block as blocks
from tortie.ipam.source import Request
from tortie.ipam.stored import Stored
from tortie.lib.errors import AlreadyExists, InvalidInput
from tortie.lib.ip import Network, parse_network
from tortie.model.ipam import Block, Handle
from tortie.model.keys import BlockKey

HANDLE_MAX_BYTES = 512


class Held(NamedTuple):
    """What a handle names, as read at one moment or nearly."""

    handle: Stored[Handle]
    blocks: list[Stored[Block]]

    def addresses(self, handle_id: str) -> dict[Network, Stored[Block]]:
        """Each that it holds, with its block."""
        return {a: found for found in self.blocks for a in held_in(found, handle_id)}

    def check(self) -> None:
        """
        Raises:
            InvalidInput: part of it cannot be read.
        """
        if self.handle.problem:
            raise InvalidInput(self.handle.problem)
        for block in self.blocks:
            refuse_damaged(block)


def check_handle(handle_id: str) -> None:
    """
    Raises:
        InvalidInput: empty, too long, or with control characters, which other
            tools strip or choke on.
    """
    size = len(handle_id.encode())
    if not 0 < size <= HANDLE_MAX_BYTES or not handle_id.isprintable():
        raise InvalidInput(
            f"{handle_id[:80]!r} cannot be an IPAM handle: 1 to {HANDLE_MAX_BYTES} "
            "printable characters are needed"
        )


def block_keys(handle: Stored[Handle]) -> list[BlockKey]:
    cidrs = handle.value.block if handle.value else {}
    return [BlockKey(parse_network(cidr, strict=True)) for cidr in cidrs]


def held_in(found: Stored[Block], handle_id: str) -> list[Network]:
    return blocks.held_by(found.value, handle_id) if found.value else []


def damage(found: Stored[Block]) -> str:
    """Why a block is unusable; empty if it is sound or absent."""
    if found.problem or found.value is None:
        return found.problem
    problems = blocks.problems(found.value)
    return f"block {found.value.cidr}: {', '.join(problems)}" if problems else ""


def refuse_damaged(found: Stored[Block]) -> None:
    if problem := damage(found):
        raise InvalidInput(f"{problem}; run an IPAM check, and repair or delete the block")


def missing(wanted: Request, mine: Collection[Network], handle_id: str) -> Request:
    """The part of a request that the handle does not hold yet."""
    has = {address.family: address for address in mine}
    for address in wanted.addresses:
        if address not in mine and address.family in has:
            raise AlreadyExists(
                f"handle {handle_id!r} holds {has[address.family].address_text}, not "
                f"{address.address_text}; remove the workload first, or do not ask for an address"
            )
    return wanted._replace(
        families=wanted.families - has.keys(),
        addresses=tuple(a for a in wanted.addresses if a not in mine),
    )


def node_of(block: Block, address: Network) -> str | None:
    owner = blocks.holder(block, address)
    return (owner.secondary or {}).get("node") if owner else None


def set_count(counts: dict[str, int], key: object, count: int) -> None:
    """Write a handle's count for one block, under whatever spelling of it is there."""
    assert isinstance(key, BlockKey)
    name = next((c for c in counts if parse_network(c) == key.cidr), str(key.cidr))
    counts.pop(name, None)
    if count:
        counts[name] = count
