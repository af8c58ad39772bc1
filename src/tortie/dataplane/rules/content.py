"""What rendering yields: chains with their rules, and sets with their elements.

An element's key is one `bytes`: for a hash the key itself, for an interval set
its first key followed by its last. Elements are unordered; within one interval
set they never overlap, because the kernel refuses that.
"""

from typing import NamedTuple

import msgspec

from tortie.kernel.nft.expressions import Verdict
from tortie.kernel.nft.objects import (
    IPV4_ADDR,
    IPV6_ADDR,
    Base,
    DataType,
    Rule,
    Set,
)
from tortie.lib.ip import Network

ADDRESS_TYPE: dict[int, DataType] = {4: IPV4_ADDR, 6: IPV6_ADDR}

NO_DATA = b""
"""The data of an element of a plain set."""

Data = bytes | Verdict


class ChainContent(NamedTuple):
    base: Base | None
    rules: tuple[Rule, ...]


class Content(msgspec.Struct, frozen=True):
    """Part of a table. Elements, but for shared ones, may only name sets of the same content."""

    chains: dict[str, ChainContent] = {}
    sets: dict[str, Set] = {}
    elements: dict[str, frozenset[bytes]] = {}
    """By set; sets without data only."""
    shared: dict[str, frozenset[bytes]] = {}
    """Elements added to sets that hold those of others too; no two contents have one in common."""
    origins: tuple[int, ...] = ()
    """Of a policy's chain: which of the policy's rules each rule is of."""


def interval_set(name: str, family: int) -> Set:
    """A set of networks."""
    return Set(name, (ADDRESS_TYPE[family],), interval=True)


def address_set(name: str, family: int) -> Set:
    """A set of addresses: a hash, faster to load, to change and to look up."""
    return Set(name, (ADDRESS_TYPE[family],))


def network_key(network: Network) -> bytes:
    """The element of an interval set that stands for a network."""
    size = network.bits // 8
    return network.packed + network.last.to_bytes(size, "big")
