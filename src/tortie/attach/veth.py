"""A veth pair between the host and a workload, where both of its ends are within reach.

The helper that may enter namespaces runs this (`namespaces`), but for what needs no entering.
Why it looks as it does: `plumbing`.
"""

import contextlib
from collections.abc import Sequence

import msgspec

from tortie.attach.inside import GATEWAY_6, HOST_MAC, find
from tortie.attach.inside import problems as problems_inside
from tortie.kernel import sysctl
from tortie.kernel.rtnl import address as rtnl_address
from tortie.kernel.rtnl import link as rtnl_link
from tortie.kernel.rtnl.address import SCOPE_LINK, Address
from tortie.kernel.rtnl.connection import Rtnl
from tortie.kernel.rtnl.link import Link, LinkChange, VethPeer
from tortie.lib.errors import AlreadyExists, KernelBusy, NotFound
from tortie.lib.ip import Network

_INSIDE_SETTINGS = (
    ("disable_ipv6", "0"),
    ("accept_ra", "0"),
    ("accept_dad", "0"),
    ("accept_redirects", "0"),
)
"""IPv6; before the link is up."""


class Pair(msgspec.Struct, frozen=True):
    """As it is to be."""

    interface: str
    """Of the host's end."""
    inside: str
    """Of the workload's."""
    mac: bytes
    """Of the workload's, where it has to be made."""
    mtu: int = 0
    """0: the kernel's default."""
    forwarding: bool = False
    """Let the workload forward packets."""


def make(host: Rtnl, namespace: int, wanted: Pair) -> Link | None:
    """Make both ends, down; None if one of the names is taken."""
    mtu = wanted.mtu or None
    peer = VethPeer(name=wanted.inside, namespace=namespace, mac=wanted.mac, mtu=mtu)
    try:
        return host.create_veth(wanted.interface, peer, mac=HOST_MAC, mtu=mtu)
    except AlreadyExists:
        return None


def find_or_replace(host: Rtnl, inside: Rtnl, namespace: int, wanted: Pair) -> tuple[Link, bytes]:
    """What is there is completed; a host end whose workload is gone is replaced.

    Returns:
        The host's end, and the workload's MAC: its own, or the one wanted where it was made.
    """
    near, far = find(host, wanted.interface), find(inside, wanted.inside)
    if near and far and _is_pair(near, far):
        return near, far.mac
    if far is not None:
        raise AlreadyExists(
            f"the workload has another interface {wanted.inside!r}; remove it, or ask for "
            "another name"
        )
    if near is not None:
        host.delete_links([near.index])
    made = make(host, namespace, wanted)
    if made is None:
        raise KernelBusy(f"{wanted.interface} or {wanted.inside} came while it was being made")
    return made, wanted.mac


def restrict_inside(wanted: Pair) -> None:
    """The workload's end, before it is up; call it in the workload's namespace."""
    with contextlib.suppress(NotFound):  # without IPv6 there is nothing to restrict
        for key, value in _INSIDE_SETTINGS:
            sysctl.set_interface(6, wanted.inside, key, value)
    if wanted.forwarding:
        sysctl.set_interface(4, "all", "forwarding", 1)
        with contextlib.suppress(NotFound):
            sysctl.set_interface(6, "all", "forwarding", 1)


def prepare_host_end(host: Rtnl, near: Link) -> None:
    """Its settings, then up; call it in the host's namespace."""
    if near.up:
        return
    requests = [rtnl_link.change(near.index, LinkChange(up=True))]
    with contextlib.suppress(NotFound):  # no IPv6 here
        sysctl.set_interface(6, near.name, "accept_ra", 0)
        # The same address as the kernel would make, without the second of
        # duplicate detection during which it may not ask for the workload.
        own = Address(interface=near.index, address=GATEWAY_6, length=64, scope=SCOPE_LINK)
        requests[:0] = [rtnl_link.no_generated_address(near.index), rtnl_address.add(own)]
    for outcome in host.run(requests):
        if outcome is not None:
            raise outcome


def problems(
    host: Rtnl,
    inside: Rtnl,
    interface: str,
    name: str,
    addresses: Sequence[Network],
    *,
    default_routes: bool,
) -> list[str]:
    """What is missing of a pair, one sentence each.

    Args:
        interface: of the host's end.
        name: of the workload's.
    """
    near, far = find(host, interface), find(inside, name)
    if near is None:
        return [f"the host has no interface {interface}"]
    if far is None:
        return [f"the workload has no interface {name}"]
    if not _is_pair(near, far):
        return [f"{interface} and {name} are not two ends of one link"]
    found = [f"{link.name} is down" for link in (near, far) if not link.up]
    return found + problems_inside(inside, far, addresses, default_routes)


def _is_pair(near: Link, far: Link) -> bool:
    return near.kind == far.kind == "veth" and near.peer == far.index and far.peer == near.index
