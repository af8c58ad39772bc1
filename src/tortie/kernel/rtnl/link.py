"""Links: what the kernel says of network interfaces, and requests to change them.

Traps, all met in practice:

- A veth peer cannot be created up (ENOTCONN: the pair is not joined yet);
  set it up with a second message.
- `IFLA_AF_SPEC` (address generation) is applied after the flags, so it must
  be an earlier message than the one that sets a link up, or the link has its
  fe80:: address already.
- Deleting a veth waits 22 ms for RCU, one at a time; all links of a group
  go in one message and one wait.
"""

import os
import struct

import msgspec

from tortie.kernel.netlink import (
    NLM_F_ECHO,
    Message,
    Request,
    attribute,
    attribute_map,
    attribute_string,
    attribute_u8,
    attribute_u32,
    nested,
    text,
    u32,
)
from tortie.kernel.rtnl import kinds
from tortie.kernel.sysctl import check_interface_name
from tortie.lib.errors import InvalidInput

_HEADER = struct.Struct("=BxHiII")
"""struct ifinfomsg: family, hardware type, index, flags, change mask."""
_S32 = struct.Struct("=i")
_NOTHING = memoryview(b"")

_IFF_UP = 0x1
_IFF_LOOPBACK = 0x8
_IFF_LOWER_UP = 0x10000

# include/uapi/linux/if_link.h
_ADDRESS, _IFNAME, _MTU, _LINK, _MASTER = 1, 3, 4, 5, 10
_OPERSTATE, _LINKINFO, _AF_SPEC, _GROUP = 16, 18, 26, 27
_NET_NS_FD, _EXT_MASK, _LINK_NETNSID = 28, 29, 37
_INFO_KIND, _INFO_DATA = 1, 2
_VETH_INFO_PEER = 1
_INET6_ADDR_GEN_MODE = 8
_SKIP_STATS = attribute_u32(_EXT_MASK, 1 << 3)
"""RTEXT_FILTER_SKIP_STATS: halves the size of a dump."""

MAC_BYTES = 6

DOOMED_GROUP = 0x7041C0DE
"""Group that links are put in to be deleted together; nobody else may use it."""


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """One interface, as its own namespace sees it."""

    index: int
    name: str
    kind: str = ""
    """`veth`, `bridge`, `tun`, …; empty for loopback and hardware."""
    flags: int = 0
    """IFF_* bits; the properties below say what matters."""
    mtu: int = 0
    mac: bytes = b""
    """6 bytes for Ethernet; other kinds of links have other lengths, or none."""
    operstate: int = 0
    """RFC 2863, 6 is up. Source: include/uapi/linux/if.h, IF_OPER_*."""
    master: int = 0
    """Index of the bridge this is a port of; 0 if none."""
    peer: int = 0
    """Index of the other end or of the underlying link, *in its own* namespace; 0 if none."""
    peer_netns_id: int | None = None
    """This namespace's id for the peer's namespace; None if it is the same one."""
    group: int = 0

    @property
    def up(self) -> bool:
        """Set up by the administrator."""
        return bool(self.flags & _IFF_UP)

    @property
    def carrier(self) -> bool:
        """The other end is up too."""
        return bool(self.flags & _IFF_LOWER_UP)

    @property
    def loopback(self) -> bool:
        return bool(self.flags & _IFF_LOOPBACK)


class VethPeer(msgspec.Struct, frozen=True, kw_only=True):
    """The far end of a new veth pair."""

    name: str
    namespace: int | None = None
    """Descriptor of the namespace to be born in; None means this one."""
    mac: bytes | None = None
    mtu: int | None = None


class LinkChange(msgspec.Struct, frozen=True, kw_only=True):
    """What to change of a link; None leaves it as it is. Applied in the kernel's order:
    namespace, MAC, MTU, group, name, master, up or down."""

    up: bool | None = None
    mtu: int | None = None
    mac: bytes | None = None
    name: str | None = None
    master: int | None = None
    """Index of a bridge; 0 leaves the present one."""
    group: int | None = None
    namespace: int | None = None
    """Descriptor of the namespace to move to. Name and group are set on arrival."""


def decode(message: Message) -> Link:
    """A link from a NEW_LINK or DELETE_LINK message."""
    _family, _type, index, flags, _change = _HEADER.unpack_from(message.payload)
    found = attribute_map(message.payload[_HEADER.size :])
    info = attribute_map(found.get(_LINKINFO, _NOTHING))
    netns_id = found.get(_LINK_NETNSID)
    return Link(
        index=index,
        name=text(found.get(_IFNAME, _NOTHING)),
        kind=text(info.get(_INFO_KIND, _NOTHING)),
        flags=flags,
        mtu=u32(found.get(_MTU, _NOTHING)),
        mac=bytes(found.get(_ADDRESS, _NOTHING)),
        operstate=found[_OPERSTATE][0] if _OPERSTATE in found else 0,
        master=u32(found.get(_MASTER, _NOTHING)),
        peer=u32(found.get(_LINK, _NOTHING)),
        peer_netns_id=_S32.unpack(netns_id)[0] if netns_id else None,
        group=u32(found.get(_GROUP, _NOTHING)),
    )


def dump() -> Request:
    return Request("list links", kinds.GET_LINK, 0, _header() + _SKIP_STATS)


def get(name_or_index: str | int) -> Request:
    """Ask for one link."""
    if isinstance(name_or_index, str):
        body = _header() + _name(name_or_index) + _SKIP_STATS
    else:
        body = _header(name_or_index) + _SKIP_STATS
    return Request(f"get link {name_or_index}", kinds.GET_LINK, 0, body)


def create_veth(
    name: str,
    peer: VethPeer,
    *,
    mac: bytes | None = None,
    mtu: int | None = None,
    group: int | None = None,
) -> Request:
    """Make both ends of a pair at once, the peer in its own namespace; both are down."""
    far = _header() + _settings(name=peer.name, mac=peer.mac, mtu=peer.mtu)
    if peer.namespace is not None:
        far += attribute_u32(_NET_NS_FD, peer.namespace)
    kind = attribute_string(_INFO_KIND, "veth")
    data = nested(_INFO_DATA, nested(_VETH_INFO_PEER, far))
    near = _header() + _settings(name=name, mac=mac, mtu=mtu, group=group)
    body = near + nested(_LINKINFO, kind, data)
    # The answer is the link as it is then; a kernel before 6.2 does not give one.
    return Request(f"create veth {name}", kinds.NEW_LINK, kinds.ADD | NLM_F_ECHO, body)


def create_bridge(
    name: str, *, mac: bytes | None = None, mtu: int | None = None, group: int | None = None
) -> Request:
    settings = _settings(name=name, mac=mac, mtu=mtu, group=group)
    body = _header() + settings + nested(_LINKINFO, attribute_string(_INFO_KIND, "bridge"))
    return Request(f"create bridge {name}", kinds.NEW_LINK, kinds.ADD, body)


def create_ifb(name: str, *, mtu: int) -> Request:
    """A link that gives back what is sent to it, as if it came in where it was before; down."""
    settings = _settings(name=name, mac=None, mtu=mtu, group=None)
    body = _header() + settings + nested(_LINKINFO, attribute_string(_INFO_KIND, "ifb"))
    return Request(f"create ifb {name}", kinds.NEW_LINK, kinds.ADD, body)


def change(index: int, wanted: LinkChange) -> Request:
    flags = _IFF_UP if wanted.up else 0
    mask = 0 if wanted.up is None else _IFF_UP
    body = _HEADER.pack(0, 0, index, flags, mask) + _settings(
        name=wanted.name, mac=wanted.mac, mtu=wanted.mtu, group=wanted.group
    )
    if wanted.master is not None:
        body += attribute_u32(_MASTER, wanted.master)
    if wanted.namespace is not None:
        body += attribute_u32(_NET_NS_FD, wanted.namespace)
    return Request(f"change link {index}", kinds.SET_LINK, 0, body)


def no_generated_address(index: int) -> Request:
    """Keep the kernel from making a fe80:: address of its own; before setting up.

    Source: IN6_ADDR_GEN_MODE_NONE in include/uapi/linux/if_link.h.
    """
    mode = attribute_u8(_INET6_ADDR_GEN_MODE, 1)
    body = _header(index) + nested(_AF_SPEC, nested(kinds.AF_INET6, mode))
    return Request(f"stop address generation of link {index}", kinds.SET_LINK, 0, body)


def delete(name_or_index: str | int) -> Request:
    if isinstance(name_or_index, str):
        body = _header() + _name(name_or_index)
    else:
        body = _header(name_or_index)
    return Request(f"delete link {name_or_index}", kinds.DELETE_LINK, 0, body)


def delete_group(group: int) -> Request:
    """Delete all links of a group in one go; ENODEV if there are none."""
    if group == 0:
        raise InvalidInput("group 0 holds every link that nobody grouped")
    body = _header() + attribute_u32(_GROUP, group)
    return Request(f"delete links of group {group}", kinds.DELETE_LINK, 0, body)


def parse_mac(text: str) -> bytes:
    """Six bytes from `02:00:00:00:00:01`.

    Raises:
        InvalidInput: not six pairs of hexadecimal digits with colons.
    """
    parts = text.split(":")
    if len(parts) == MAC_BYTES and all(len(part) == 2 for part in parts):
        try:
            return bytes.fromhex("".join(parts))
        except ValueError:
            pass
    raise InvalidInput(f"{text!r} is not a MAC address")


def random_mac() -> bytes:
    """As the kernel makes one: of one station, locally administered."""
    chosen = bytearray(os.urandom(MAC_BYTES))
    chosen[0] = chosen[0] & 0xFE | 0x02
    return bytes(chosen)


def mac_text(mac: bytes) -> str:
    return mac.hex(":")


def _header(index: int = 0) -> bytes:
    return _HEADER.pack(0, 0, index, 0, 0)


def _name(name: str) -> bytes:
    return attribute_string(_IFNAME, check_interface_name(name))


def _settings(
    *,
    name: str | None = None,
    mac: bytes | None = None,
    mtu: int | None = None,
    group: int | None = None,
) -> bytes:
    parts = []
    if name is not None:
        parts.append(_name(name))
    if mac is not None:
        if len(mac) != MAC_BYTES:
            raise InvalidInput(f"a MAC address has 6 bytes, not {len(mac)}")
        parts.append(attribute(_ADDRESS, mac))
    if mtu is not None:
        parts.append(attribute_u32(_MTU, mtu))
    if group is not None:
        parts.append(attribute_u32(_GROUP, group))
    return b"".join(parts)
