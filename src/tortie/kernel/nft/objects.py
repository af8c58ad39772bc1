"""Tables, chains, rules, sets and elements as values.

None names its table: operations do (`TableName`), so that the same rendered
objects fit a test table or another family. Names come from hashes or constants;
no text of a user's gets here except in comments.

Source: include/uapi/linux/netfilter/nf_tables.h; for data type numbers and
user data, nftables' include/datatype.h and libnftnl's include/libnftnl/udata.h.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from tortie.kernel.nft import userdata
from tortie.kernel.nft.constants import ArpHook, Family, Hook, Policy, SetFlag, TableFlag
from tortie.kernel.nft.expressions import Expression, Verdict
from tortie.kernel.nft.keys import predecessor, successor
from tortie.lib.ip import Network, from_packed


class TableName(NamedTuple):
    """What identifies a table."""

    family: Family
    name: str

    def __str__(self) -> str:
        return f"{self.family.name.lower()} {self.name}"


class Table(msgspec.Struct, frozen=True):
    family: Family
    name: str
    flags: TableFlag = TableFlag(0)
    owner: int = 0
    """Port id of the owning socket, when read back; 0 is nobody. Not compared with wishes."""

    @property
    def table_name(self) -> TableName:
        return TableName(self.family, self.name)


class Base(msgspec.Struct, frozen=True):
    """Where the kernel enters a base chain."""

    type: str
    """"filter", "nat" or "route"."""
    hook: int
    """A `Hook`; in an arp table an `ArpHook`."""
    priority: int
    policy: Policy = Policy.ACCEPT
    devices: tuple[str, ...] = ()
    """netdev family only."""

    def hook_name(self, family: Family) -> str:
        names: type[Hook | ArpHook] = ArpHook if family is Family.ARP else Hook
        if family is Family.NETDEV:
            return "egress" if self.hook else "ingress"
        return names(self.hook).name.lower()


class Chain(msgspec.Struct, frozen=True):
    name: str
    base: Base | None = None
    """None for a chain that only jumps and verdict maps lead to."""


class Rule(msgspec.Struct, frozen=True):
    chain: str
    expressions: tuple[Expression, ...]
    user_data: bytes = b""
    """TLVs, at most 256 bytes: make them with `userdata.pack_rule`."""
    handle: int | None = None
    """The kernel's name for the rule, when read back."""

    @property
    def comment(self) -> str:
        """For people; nft prints it."""
        return userdata.rule_comment(self.user_data)

    @property
    def tag(self) -> bytes:
        """For us: whatever the writer wants to know again (a hash of the rule)."""
        return userdata.rule_tag(self.user_data)


class DataType(NamedTuple):
    """What a key or a map's data is, so that nft(8) prints it right; the kernel sees bytes."""

    name: str
    number: int
    length: int
    """In bytes; 0 for a verdict."""
    host_order: bool = False


NFPROTO = DataType("nf_proto", 2, 1)
INTEGER = DataType("integer", 4, 4, host_order=True)
IPV4_ADDR = DataType("ipv4_addr", 7, 4)
IPV6_ADDR = DataType("ipv6_addr", 8, 16)
ETHER_ADDR = DataType("ether_addr", 9, 6)
INET_PROTO = DataType("inet_proto", 12, 1)
INET_SERVICE = DataType("inet_service", 13, 2)
ICMP_TYPE = DataType("icmp_type", 14, 1)
MARK = DataType("mark", 19, 4, host_order=True)
IFINDEX = DataType("iface_index", 20, 4, host_order=True)
ICMPV6_TYPE = DataType("icmpv6_type", 29, 1)
ICMP_CODE = DataType("icmp_code", 32, 1)
ICMPV6_CODE = DataType("icmpv6_code", 33, 1)
IFNAME = DataType("ifname", 41, 16, host_order=True)
VERDICT = DataType("verdict", 0xFFFFFF00, 0)

DATA_TYPES = {
    one.number: one
    for one in (
        NFPROTO,
        INTEGER,
        IPV4_ADDR,
        IPV6_ADDR,
        ETHER_ADDR,
        INET_PROTO,
        INET_SERVICE,
        ICMP_TYPE,
        MARK,
        IFINDEX,
        ICMPV6_TYPE,
        ICMP_CODE,
        ICMPV6_CODE,
        IFNAME,
        VERDICT,
    )
}


class Set(msgspec.Struct, frozen=True):
    """A set; with `data` a map; with `data` VERDICT a verdict map."""

    name: str
    key: tuple[DataType, ...]
    """Several are a concatenation."""
    data: tuple[DataType, ...] = ()
    interval: bool = False
    constant: bool = False
    timeout: bool = False
    size: int = 0
    """The most elements it may hold; 0 means no limit."""
    comment: str = ""
    each: Expression | None = None
    """What every element has of its own, and a look-up that finds it asks then: a `Limit`, say,
    over which the look-up counts as failed."""
    flags: SetFlag = SetFlag(0)
    """Further flags (DYNAMIC sets and the like of others), when read back."""

    @property
    def is_map(self) -> bool:
        return bool(self.data)

    @property
    def is_verdict_map(self) -> bool:
        return self.data == (VERDICT,)

    @property
    def key_length(self) -> int:
        """In bytes; a concatenation pads each part to 4."""
        return packed_length(self.key)

    @property
    def data_length(self) -> int:
        return packed_length(self.data)


def packed_length(types: tuple[DataType, ...]) -> int:
    if len(types) == 1:
        return types[0].length
    return sum((one.length + 3) & ~3 for one in types)


class Element(msgspec.Struct, frozen=True, gc=False):
    """One element of a set or map; of an interval set, one boundary of a range."""

    key: bytes
    """As long as the set's key; empty for the catch-all element."""
    data: bytes | Verdict | None = None
    interval_end: bool = False
    """The first key *behind* a range; carries no data."""
    key_end: bytes = b""
    """Last key of a range, in a concatenated interval set only."""


def interval_elements(
    first: bytes, last: bytes, data: bytes | Verdict | None = None
) -> tuple[Element, ...]:
    """The boundaries of one range, both ends included, for a set with `interval`.

    One or two elements: a range up to the very last key has no end. Ranges in
    one set must not overlap; ranges that touch are fine.
    """
    behind = successor(last)
    start = Element(first, data)
    return (start,) if behind is None else (start, Element(behind, interval_end=True))


def network_elements(network: Network, data: bytes | Verdict | None = None) -> tuple[Element, ...]:
    """The boundaries of one network, for a set with `interval`."""
    size = network.bits // 8
    return interval_elements(network.packed, network.last.to_bytes(size, "big"), data)


class Interval(NamedTuple):
    """One range of an interval set, both ends included."""

    first: bytes
    last: bytes
    data: bytes | Verdict | None = None

    @property
    def low(self) -> Network:
        return from_packed(self.first)

    @property
    def high(self) -> Network:
        return from_packed(self.last)


def intervals(elements: Iterable[Element]) -> Iterator[Interval]:
    """Pair the boundaries of an interval set, in any order, into ranges.

    Sorted by first key. An end without a start, as nft(8) writes before its
    first range, is skipped.
    """
    # At one key the end of a range comes before the start of the next.
    ordered = sorted(elements, key=lambda one: (one.key, not one.interval_end))
    open_start: Element | None = None
    for element in ordered:
        if open_start is not None:
            yield Interval(open_start.key, predecessor(element.key), open_start.data)
        open_start = None if element.interval_end else element
    if open_start is not None:
        yield Interval(open_start.key, b"\xff" * len(open_start.key), open_start.data)
