"""Addresses as resources: reservations, IPAM's settings, and who holds which block.

IPAM itself reads its own records (`tortie.model.ipam`), not these: in etcd, Calico keeps
`IPAMConfiguration` and `BlockAffinity` beside them and joins them nowhere.
"""

from typing import Annotated, Literal

import msgspec

from tortie.model.limits import PRESENT, REQUIRED, Limits, NetworkText, OnOff
from tortie.model.metadata import Resource, Spec

_Flag = Annotated[bool, Limits(written=True)]


class IPReservationSpec(Spec, frozen=True, kw_only=True):
    reserved_cidrs: Annotated[tuple[NetworkText, ...], Limits(unique=True)] = msgspec.field(
        default=(), name="reservedCIDRs"
    )
    """Never assigned anew; who has one keeps it."""


class IPReservation(Resource, frozen=True, kw_only=True):
    spec: Annotated[IPReservationSpec, PRESENT] = IPReservationSpec()


class IPAMConfigurationSpec(Spec, frozen=True, kw_only=True):
    strict_affinity: _Flag = False
    """No borrowing from blocks of other hosts."""
    auto_allocate_blocks: _Flag = True
    max_blocks_per_host: Annotated[int, Limits(low=0, high=1000000)] = 0
    """0 means the built-in limit."""
    ip_cooldown_seconds: Annotated[int | None, Limits(low=0, high=1200)] = None
    kube_virt_vm_address_persistence: OnOff | None = msgspec.field(
        default=None, name="kubeVirtVMAddressPersistence"
    )


class IPAMConfiguration(Resource, frozen=True, kw_only=True):
    spec: Annotated[IPAMConfigurationSpec, PRESENT] = IPAMConfigurationSpec()


class BlockAffinitySpec(Spec, frozen=True, kw_only=True):
    state: Annotated[Literal["confirmed", "pending", "pendingDeletion", ""], PRESENT] = ""
    node: Annotated[str, REQUIRED] = ""
    """Or what `type` says holds it."""
    type: str = ""
    """`host` or `virtual`; empty means host."""
    cidr: Annotated[NetworkText, REQUIRED] = ""
    deleted: _Flag = False


class BlockAffinity(Resource, frozen=True, kw_only=True):
    spec: Annotated[BlockAffinitySpec, PRESENT] = BlockAffinitySpec()
