"""What is asked for, and the block that an address of it comes from."""

from typing import NamedTuple

from tortie.ipam import block as blocks
from tortie.ipam.stored import Change, Stored
from tortie.lib.errors import AlreadyExists
from tortie.lib.ip import Network
from tortie.model.ipam import Attribute, Block, BlockAffinity, IPAMHost
from tortie.model.node import IPPool


class Request(NamedTuple):
    families: frozenset[int]
    addresses: tuple[Network, ...]
    """By name; a family without one here gets an address of our choice."""
    attribute: Attribute
    pools: frozenset[str] = frozenset()
    use: str = "Workload"


class Source(NamedTuple):
    """A block to take addresses from, and what taking them rests on."""

    found: Stored[Block]
    """As read; absent for a block that is being made."""
    before: Block
    """What to assign from: as read with cooled addresses freed, or new."""
    addresses: tuple[Network, ...]
    """These by name; empty means one of our choice."""
    anyhow: int
    """How many of our choice."""
    pool: Stored[IPPool]
    affinity: Stored[BlockAffinity] | None
    """Ours, absent or not confirmed if the block is being claimed; None when borrowing."""
    mark: Stored[IPAMHost] | None
    """Written with each claim, so that two claims of one host exclude each other."""
    reserved: tuple[Network, ...] = ()
    displaced: Stored[BlockAffinity] | None = None
    """Of the host whose empty block is taken over."""

    def taken(self, attribute: Attribute) -> tuple[Block, list[Network]]:
        """
        Raises:
            AlreadyExists: one of `addresses` is in use.
        """
        after = self.before
        for address in self.addresses:
            try:
                after = blocks.assign_address(after, address, attribute)
            except AlreadyExists as error:
                raise AlreadyExists(
                    f"{error}; release it first, or ask for another address"
                ) from None
        if not self.anyhow:
            return after, list(self.addresses)
        after, more = blocks.assign(after, self.anyhow, attribute, self.reserved)
        return after, [*self.addresses, *more]

    def write(self, change: Change, after: Block) -> None:
        change.write(self.found, after)
        change.rest_on(self.pool)
        if self.affinity is None:
            return
        if self.mark is None:
            change.rest_on(self.affinity)
        else:
            change.write(self.affinity, BlockAffinity(state="confirmed"))
            change.write(self.mark, IPAMHost())
            if self.displaced is not None:
                change.write(self.displaced, None)
