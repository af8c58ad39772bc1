"""Addresses of interfaces."""

import struct

import msgspec

from tortie.kernel.netlink import Message, Request, attribute, attribute_map, attribute_u32, u32
from tortie.kernel.rtnl import kinds
from tortie.lib.errors import InvalidInput
from tortie.lib.ip import Network, from_packed

_HEADER = struct.Struct("=BBBBI")
"""struct ifaddrmsg: family, prefix length, flags, scope, index."""

# include/uapi/linux/if_addr.h
_ADDRESS, _LOCAL, _FLAGS = 1, 2, 8
_NODAD, _DADFAILED, _TENTATIVE, _PERMANENT = 0x02, 0x08, 0x40, 0x80
_NOPREFIXROUTE = 0x200

SCOPE_UNIVERSE, SCOPE_LINK, SCOPE_HOST = 0, 253, 254
"""include/uapi/linux/rtnetlink.h, enum rt_scope_t."""


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """One address of one interface."""

    interface: int
    """Index of the link."""
    address: Network
    """Full length: the address itself."""
    length: int
    """Prefix length of the subnet it makes on-link; 32 or 128 for none."""
    scope: int = SCOPE_UNIVERSE
    peer: Network | None = None
    """The other end of a point-to-point address; None for none."""
    flags: int = 0
    """IFA_F_* as the kernel last told. Not sent: see `add`."""

    @property
    def tentative(self) -> bool:
        """IPv6 duplicate detection still runs; nothing may use it as a source yet."""
        return bool(self.flags & _TENTATIVE)

    @property
    def duplicate(self) -> bool:
        """IPv6 duplicate detection found it elsewhere."""
        return bool(self.flags & _DADFAILED)


def decode(message: Message) -> Address | None:
    """An address from a NEW_ADDRESS or DELETE_ADDRESS message; None if not IP."""
    family, length, flags, scope, index = _HEADER.unpack_from(message.payload)
    if family not in kinds.FAMILY:
        return None
    found = attribute_map(message.payload[_HEADER.size :])
    # IPv4 always has LOCAL, and ADDRESS is the peer or the same; IPv6 has
    # LOCAL only when there is a peer.
    remote = found.get(_ADDRESS)
    local = found.get(_LOCAL, remote)
    if local is None:
        return None
    return Address(
        interface=index,
        address=from_packed(bytes(local)),
        length=length,
        scope=scope,
        peer=from_packed(bytes(remote)) if remote is not None and remote != local else None,
        flags=u32(found[_FLAGS]) if _FLAGS in found else flags,
    )


def dump(family: int | None = None, interface: int = 0) -> Request:
    """
    Args:
        family: 4, 6 or None for both.
        interface: 0 means every interface; the kernel filters.
    """
    number = kinds.AF[family] if family else kinds.AF_UNSPEC
    body = _HEADER.pack(number, 0, 0, 0, interface)
    return Request("list addresses", kinds.GET_ADDRESS, 0, body)


def add(wanted: Address, *, replace: bool = True, prefix_route: bool = True) -> Request:
    """Give an interface an address. IPv6 skips duplicate detection: our addresses are
    unique by allocation, and an endpoint must not wait a second for its own.

    Args:
        prefix_route: False: no route to the rest of the subnet comes with it.
    """
    mode = kinds.REPLACE if replace else kinds.ADD
    flags = _NODAD if wanted.address.family == 6 else 0
    flags |= 0 if prefix_route else _NOPREFIXROUTE
    return Request(
        f"add address {wanted.address.address_text}/{wanted.length} to link {wanted.interface}",
        kinds.NEW_ADDRESS,
        mode,
        _body(wanted, flags),
    )


def delete(gone: Address) -> Request:
    return Request(
        f"delete address {gone.address.address_text}/{gone.length} of link {gone.interface}",
        kinds.DELETE_ADDRESS,
        0,
        _body(gone, 0),
    )


def _body(address: Address, flags: int) -> bytes:
    network = address.address
    if not network.is_address or not 0 <= address.length <= network.bits:
        raise InvalidInput(f"{network} with length {address.length} is no interface address")
    header = _HEADER.pack(
        kinds.AF[network.family], address.length, 0, address.scope, address.interface
    )
    peer = address.peer or network
    body = header + attribute(_LOCAL, network.packed) + attribute(_ADDRESS, peer.packed)
    return body + attribute_u32(_FLAGS, flags) if flags else body
