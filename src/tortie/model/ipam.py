"""IPAM's stored values, byte-compatible with Calico's.

These are not resources: no kind, no metadata, keys of their own
(`tortie.model.keys`), and plain JSON.
"""

from typing import Literal

import msgspec


class Attribute(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who holds an address; several ordinals of a block may share one."""

    handle_id: str | None = None
    secondary: dict[str, str] | None = None
    """`node`, `namespace`, `pod`, `timestamp`, …"""
    released_at: str | None = msgspec.field(default=None, name="releasedAt")
    """RFC 3339; set while the address cools down after its release."""
    alternate_owner_attrs: dict[str, str] | None = msgspec.field(
        default=None, name="alternateOwnerAttrs"
    )


class Block(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A block as stored at `BlockKey`."""

    cidr: str
    affinity: str | None = None
    """`host:<name>` or `virtual:<name>`: who may assign from it without asking."""
    affinity_claim_time: str | None = msgspec.field(default=None, name="affinity_claim_time")
    allocations: tuple[int | None, ...]
    """By ordinal: index into `attributes`, or None when free."""
    unallocated: tuple[int, ...]
    """Free ordinals, longest free first."""
    attributes: tuple[Attribute, ...] = ()
    sequence_number: int = 0
    """Grows by one with each change; a new block starts at Unix nanoseconds."""
    sequence_number_for_allocation: dict[str, int] = {}
    """By ordinal (as text): `sequence_number` at its assignment; guards late releases."""
    deleted: bool = False
    strict_affinity: bool = False
    """Old field, kept when read."""


class BlockAffinity(msgspec.Struct, frozen=True, kw_only=True):
    """Stored at `AffinityKey`; anything but confirmed counts as absent for routing."""

    state: Literal["pending", "confirmed", "pendingDeletion", ""] = ""
    deleted: bool = False


class Handle(msgspec.Struct, frozen=True, kw_only=True):
    """Stored at `HandleKey`: how many addresses of which blocks a handle holds."""

    block: dict[str, int] = {}
    deleted: bool = False


class IPAMConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Stored at `IPAMConfigKey`; absent means these defaults."""

    strict_affinity: bool = False
    auto_allocate_blocks: bool = True
    max_blocks_per_host: int = msgspec.field(default=0, name="maxBlocksPerHost")
    """0 means the built-in limit of 20."""
    ip_cooldown_seconds: int = msgspec.field(default=0, name="ipCooldownSeconds")


class IPAMHost(msgspec.Struct, frozen=True):
    """Stored at `IPAMHostKey`: a mark that the host takes part, without content."""
