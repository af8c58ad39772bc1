"""The veth pair of a workload: made, completed where it is not whole, removed.

    host                                   workload
    cali… ee:ee:ee:ee:ee:ee ──── veth ──── eth0  10.65.0.7/32
    fe80::ecee:eeff:feee:eeee              169.254.1.1 dev eth0 · default via 169.254.1.1
                                           default via fe80::ecee:eeff:feee:eeee

The gateways are reached through permanent neighbour entries. Asking for them
would depend on proxy ARP, which answers only while the host has a route to
169.254.1.1 through another interface: without a default route the first
packet dies in silence.

Order: both ends are made down; the host's end goes up, then the workload's, with
its routes: they need a link that is up. The dataplane drops whatever comes from a
`cali…` interface without an endpoint, so a link that is up before its policy is
closed, not open. accept_ra is off on both ends before they are up: no router
advertisement is ever believed (CVE-2020-13597). Addresses skip duplicate
detection: they are unique by allocation, and waiting costs a second.

The host's route to the workload and the host end's other settings are the
agent's business, driven by the endpoint resource.
"""

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from tortie.attach.inside import GATEWAY_4, GATEWAY_6, HOST_MAC, configure, find
from tortie.attach.inside import problems as problems_inside
from tortie.attach.namespaces import Namespaces, Setting
from tortie.attach.requests import Device
from tortie.kernel import netns, sysctl
from tortie.kernel.rtnl import address as rtnl_address
from tortie.kernel.rtnl import link as rtnl_link
from tortie.kernel.rtnl.address import SCOPE_LINK as ADDRESS_SCOPE_LINK
from tortie.kernel.rtnl.address import Address
from tortie.kernel.rtnl.connection import Rtnl
from tortie.kernel.rtnl.link import Link, LinkChange, VethPeer, mac_text, parse_mac
from tortie.kernel.rtnl.tap import create_tap
from tortie.lib.errors import AlreadyExists, InvalidInput, KernelBusy, NotFound
from tortie.lib.ip import Network

_INSIDE_SETTINGS = (
    ("disable_ipv6", "0"),
    ("accept_ra", "0"),
    ("accept_dad", "0"),
    ("accept_redirects", "0"),
)
"""IPv6; before the link is up."""
_FORWARDING = (Setting("all", 4, "forwarding", "1"), Setting("all", 6, "forwarding", "1"))


class Wanted(NamedTuple):
    netns: str
    inside: str
    interface: str
    addresses: tuple[Network, ...]
    mac: str = ""
    """Empty: the kernel's choice."""
    mtu: int = 0
    """0: the kernel's default."""
    default_routes: bool = True
    """False: only the gateway is reachable; another interface has the default routes."""
    forwarding: bool = False
    """Let the workload forward packets."""
    device: Device = "veth"
    gateways: tuple[Network, ...] = ()
    """What the host's end answers for where others configure the inside; empty: 169.254.1.1."""


class Plumbing(Protocol):
    """What the attacher needs; blocking, safe from any thread."""

    def connect(self, wanted: Wanted) -> str:
        """Make or complete the pair; returns the MAC of the workload's end.

        Raises:
            NotFound, InvalidInput: `netns` is not a network namespace, or the
                host's own.
            AlreadyExists: the workload has another interface of that name.
            KernelBusy, KernelRefused, Unavailable: half of it may be there.
        """
        ...

    def disconnect(self, interface: str, device: Device = "veth") -> bool:
        """Delete the pair by its host end, or the tap; False if there was none."""
        ...

    def problems(self, wanted: Wanted) -> list[str]:
        """What is missing of `wanted`, one sentence each."""
        ...


class Veths:
    """`Plumbing` with the kernel."""

    def __init__(self, namespaces: Namespaces) -> None:
        self._namespaces = namespaces
        self._idle: list[Rtnl] = []
        """Sockets of the host that no thread uses now: opening one costs ten system calls."""
        self._home: tuple[int, int] | None = None
        """Which namespace is the host's."""
        self._deleting = threading.Lock()
        self._doomed: set[int] = set()
        """Indexes of links that threads wait to delete; the kernel does not use one again."""

    @contextlib.contextmanager
    def _host(self) -> Iterator[Rtnl]:
        """Rtnetlink of the host; a socket on which something failed is not used again."""
        rtnl = self._idle.pop() if self._idle else Rtnl.open()
        try:
            yield rtnl
        except BaseException:
            rtnl.close()
            raise
        self._idle.append(rtnl)

    def connect(self, wanted: Wanted) -> str:
        if wanted.device != "veth":
            return self._connect_machine(wanted)
        namespace = self._namespaces.hold(wanted.netns)
        try:
            self._home = self._home or netns.identity()
            if netns.held_identity(namespace) == self._home:
                raise InvalidInput(f"{wanted.netns} is the host's own network namespace")
            with self._host() as host:
                return self._connect_container(host, namespace, wanted)
        finally:
            os.close(namespace)

    def _connect_container(self, host: Rtnl, namespace: int, wanted: Wanted) -> str:
        mac = parse_mac(wanted.mac) if wanted.mac else rtnl_link.random_mac()
        near = _make_pair(host, namespace, wanted, mac)
        is_new = near is not None
        settings = _settings(wanted)
        # The usual case enters the namespace once: interface and settings are both its first.
        with self._namespaces.enter(namespace, settings if is_new else ()) as inside:
            if near is None:
                mac = _find_or_replace_pair(host, namespace, inside, wanted, mac)
                self._namespaces.enter(namespace, settings).close()
                near = host.link(wanted.interface)
            self._prepare_host_end(host, near)
            arguments = (inside, near.peer, wanted.inside, wanted.addresses)
            configure(*arguments, wanted.default_routes, is_new=is_new)
            return mac_text(mac)

    def disconnect(self, interface: str, device: Device = "veth") -> bool:
        with self._host() as host:
            link = find(host, interface)
            if link is None or _is_foreign(link, device):
                return False
            self._doomed.add(link.index)
            # The kernel waits 22 ms for a deletion, however many links are in
            # it: whoever comes first takes along those that queued meanwhile.
            with self._deleting:
                there = find(host, interface)
                if there is not None and there.index == link.index:
                    together = set(self._doomed)
                    self._doomed -= together
                    host.delete_links(together | {link.index})
            return True

    def problems(self, wanted: Wanted) -> list[str]:
        if wanted.device != "veth":
            with self._host() as host:
                link = find(host, wanted.interface)
            missing = f"the host has no interface {wanted.interface}"
            return ([] if link.up else [f"{wanted.interface} is down"]) if link else [missing]
        try:
            opened = self._namespaces.open(wanted.netns)
        except NotFound as error:
            return [str(error)]
        try:
            with self._host() as host:
                return list(_problems(host, opened.rtnl, wanted))
        finally:
            opened.close()

    def _connect_machine(self, wanted: Wanted) -> str:
        """The host's end alone: inside is a VM's business."""
        with self._host() as host:
            link = find(host, wanted.interface)
            if link is None and wanted.device == "existing":
                raise NotFound(f"the host has no interface {wanted.interface}")
            if link is None and wanted.device == "pair":
                link = _loose_pair(host, wanted)
            if link is None:
                create_tap(wanted.interface)
                link = host.link(wanted.interface)
            if _is_foreign(link, wanted.device):
                raise AlreadyExists(
                    f"interface {link.name} is there already, and is a {link.kind or 'device'}, "
                    "not a tap: ask for another name, or attach it as an existing interface"
                )
            if link.mac != HOST_MAC:
                # A tap of others may be up, and would not take another MAC then.
                host.change_link(link.index, LinkChange(up=False))
                host.change_link(link.index, LinkChange(mac=HOST_MAC, mtu=wanted.mtu or None))
                link = host.link(wanted.interface)
            self._prepare_host_end(host, link)
            # A VM asks for its gateway, and proxy ARP may be silent (above); nobody but the host
            # end can answer. The other family's is there already.
            present = {found.address for found in host.addresses(interface=link.index)}
            for gateway in wanted.gateways or (GATEWAY_4,):
                if gateway not in present:
                    _answer_for(host, link, gateway)
            return wanted.mac

    def _prepare_host_end(self, host: Rtnl, near: Link) -> None:
        """Its settings, then up."""
        if near.up:
            return
        requests = [rtnl_link.change(near.index, LinkChange(up=True))]
        with contextlib.suppress(NotFound):  # no IPv6 here
            sysctl.set_interface(6, near.name, "accept_ra", 0)
            # The same address as the kernel would make, without the second of
            # duplicate detection during which it may not ask for the workload.
            own = Address(
                interface=near.index, address=GATEWAY_6, length=64, scope=ADDRESS_SCOPE_LINK
            )
            requests[:0] = [rtnl_link.no_generated_address(near.index), rtnl_address.add(own)]
        for outcome in host.run(requests):
            if outcome is not None:
                raise outcome


def _is_foreign(link: Link, device: Device) -> bool:
    """A tap is asked for by name, so something else may have it; `cali…` of a pair is ours."""
    return device == "tap" and link.kind != "tun"


def _loose_pair(host: Rtnl, wanted: Wanted) -> Link:
    """Both ends here, down. Whoever configures the inside takes the far end by its name."""
    stale = find(host, wanted.inside)
    if stale is not None:
        raise AlreadyExists(f"the host has another interface {wanted.inside!r}; remove it")
    mac, mtu = parse_mac(wanted.mac) if wanted.mac else None, wanted.mtu or None
    peer = VethPeer(name=wanted.inside, mac=mac, mtu=mtu)
    return host.create_veth(wanted.interface, peer, mac=HOST_MAC, mtu=mtu)


def _answer_for(host: Rtnl, link: Link, gateway: Network) -> None:
    address = Address(
        interface=link.index, address=gateway, length=gateway.bits, scope=ADDRESS_SCOPE_LINK
    )
    host.add_address(address)


def _settings(wanted: Wanted) -> list[Setting]:
    forwarding = _FORWARDING if wanted.forwarding else ()
    return [*(Setting(wanted.inside, 6, *pair) for pair in _INSIDE_SETTINGS), *forwarding]


def _make_pair(host: Rtnl, namespace: int, wanted: Wanted, mac: bytes) -> Link | None:
    """Make both ends, down; None if one of the names is taken."""
    mtu = wanted.mtu or None
    peer = VethPeer(name=wanted.inside, namespace=namespace, mac=mac, mtu=mtu)
    try:
        return host.create_veth(wanted.interface, peer, mac=HOST_MAC, mtu=mtu)
    except AlreadyExists:
        return None


def _find_or_replace_pair(
    host: Rtnl, namespace: int, inside: Rtnl, wanted: Wanted, mac: bytes
) -> bytes:
    """What is there is completed; a host end whose workload is gone is replaced.

    Returns the MAC of the workload's end: its own, or `mac` where it had to be made.
    """
    near, far = find(host, wanted.interface), find(inside, wanted.inside)
    if near and far and _is_pair(near, far):
        return far.mac
    if far is not None:
        raise AlreadyExists(
            f"{wanted.netns} has another interface {wanted.inside!r}; remove it, or ask for "
            "another name"
        )
    if near is not None:
        host.delete_links([near.index])
    if _make_pair(host, namespace, wanted, mac) is None:
        raise KernelBusy(f"{wanted.interface} or {wanted.inside} came while it was being made")
    return mac


def _is_pair(near: Link, far: Link) -> bool:
    return near.kind == far.kind == "veth" and near.peer == far.index and far.peer == near.index


def _problems(host: Rtnl, inside: Rtnl, wanted: Wanted) -> "list[str]":
    near, far = find(host, wanted.interface), find(inside, wanted.inside)
    if near is None:
        return [f"the host has no interface {wanted.interface}"]
    if far is None:
        return [f"{wanted.netns} has no interface {wanted.inside}"]
    if not _is_pair(near, far):
        return [f"{wanted.interface} and {wanted.inside} are not two ends of one link"]
    found = []
    for name, link in ((wanted.interface, near), (wanted.inside, far)):
        if not link.up:
            found.append(f"{name} is down")
    return found + problems_inside(inside, far, wanted.addresses, wanted.default_routes)
