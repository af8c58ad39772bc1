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

import os
import threading
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from msgspec.structs import replace

from tortie.attach.helper import FarEnd
from tortie.attach.inside import GATEWAY_4, HOST_MAC, find
from tortie.attach.namespaces import Namespaces
from tortie.attach.requests import Device
from tortie.attach.turns import in_thread
from tortie.attach.veth import Pair, prepare_host_end, problems
from tortie.kernel import netns
from tortie.kernel.rtnl.address import SCOPE_LINK, Address
from tortie.kernel.rtnl.connection import Rtnl
from tortie.kernel.rtnl.idle import IdleSockets
from tortie.kernel.rtnl.link import (
    Link,
    LinkChange,
    VethPeer,
    mac_text,
    parse_mac,
    random_mac,
)
from tortie.kernel.rtnl.tap import create_tap
from tortie.lib.errors import AlreadyExists, InvalidInput, NotFound
from tortie.lib.ip import Network


class Wanted(NamedTuple):
    netns: str
    inside: str
    interface: str
    mac: str = ""
    """Empty: one that nobody else has."""
    mtu: int = 0
    """0: the kernel's default."""
    default_routes: bool = True
    """False: only the gateway is reachable; another interface has the default routes."""
    forwarding: bool = False
    """Let the workload forward packets."""
    device: Device = "veth"
    gateways: tuple[Network, ...] = ()
    """What the host's end answers for where others configure the inside; empty: 169.254.1.1."""


class Made(Protocol):
    """A link whose ends are there, the host's one up; close it when done, configured or not."""

    @property
    def mac(self) -> str:
        """Of the workload's end; empty where that is not ours to know."""
        ...

    async def configure(self, addresses: Sequence[Network]) -> None:
        """Give the workload's end these addresses and no others, its routes, and set it up.

        Raises:
            TortieError: half of it may be there.
        """
        ...

    def close(self) -> None: ...


class Plumbing(Protocol):
    """What the attacher needs."""

    async def make(self, wanted: Wanted) -> Made:
        """Make the pair, or find what is there of it.

        Raises:
            NotFound, InvalidInput: `netns` is not a network namespace, or the
                host's own.
            AlreadyExists: the workload has another interface of that name.
            KernelBusy, KernelRefused, Unavailable: half of it may be there.
        """
        ...

    async def disconnect(self, interface: str, device: Device = "veth") -> bool:
        """Delete the pair by its host end, or the tap; False if there was none."""
        ...

    async def problems(self, wanted: Wanted, addresses: Sequence[Network]) -> list[str]:
        """What is missing of both, one sentence each."""
        ...


class Veths:
    """`Plumbing` with the kernel."""

    def __init__(self, namespaces: Namespaces) -> None:
        self._namespaces = namespaces
        self._host = IdleSockets()
        self._home: tuple[int, int] | None = None
        """Which namespace is the host's."""
        self._deleting = threading.Lock()
        self._doomed: set[int] = set()
        """Indexes of links that threads wait to delete; the kernel does not use one again."""

    async def make(self, wanted: Wanted) -> Made:
        if wanted.device != "veth":
            await in_thread(self._make_machine, wanted)
            return _Machine(wanted.mac)
        pair = Pair(
            interface=wanted.interface,
            inside=wanted.inside,
            mac=parse_mac(wanted.mac) if wanted.mac else random_mac(),
            mtu=wanted.mtu,
            forwarding=wanted.forwarding,
        )
        namespace = await self._namespaces.hold(wanted.netns)
        try:
            self._home = self._home or netns.identity()
            if netns.held_identity(namespace) == self._home:
                raise InvalidInput(f"{wanted.netns} is the host's own network namespace")
            far = await self._namespaces.make(namespace, pair)
        except BaseException:
            os.close(namespace)
            raise
        return _Container(self._namespaces, namespace, wanted, far)

    async def disconnect(self, interface: str, device: Device = "veth") -> bool:
        return await in_thread(self._disconnect, interface, device)

    def _disconnect(self, interface: str, device: Device) -> bool:
        with self._host.one() as host:
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

    async def problems(self, wanted: Wanted, addresses: Sequence[Network]) -> list[str]:
        if wanted.device != "veth":
            return await in_thread(self._problems_of_machine, wanted)
        try:
            opened = await self._namespaces.open(wanted.netns)
        except NotFound as error:
            return [str(error)]
        try:
            return await in_thread(self._problems_of_pair, opened.rtnl, wanted, addresses)
        finally:
            opened.close()

    def _problems_of_pair(
        self, inside: Rtnl, wanted: Wanted, addresses: Sequence[Network]
    ) -> list[str]:
        names = wanted.interface, wanted.inside
        with self._host.one() as host:
            return problems(host, inside, *names, addresses, default_routes=wanted.default_routes)

    def _problems_of_machine(self, wanted: Wanted) -> list[str]:
        with self._host.one() as host:
            link = find(host, wanted.interface)
        missing = f"the host has no interface {wanted.interface}"
        return ([] if link.up else [f"{wanted.interface} is down"]) if link else [missing]

    def _make_machine(self, wanted: Wanted) -> None:
        """The host's end alone: inside is a VM's business."""
        with self._host.one() as host:
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
            prepare_host_end(host, link)
            # A VM asks for its gateway, and proxy ARP may be silent (above); nobody but the host
            # end can answer. The other family's is there already.
            present = {found.address for found in host.addresses(interface=link.index)}
            for gateway in wanted.gateways or (GATEWAY_4,):
                if gateway not in present:
                    _answer_for(host, link, gateway)


class _Container:
    """`Made` of a veth pair, with its namespace held."""

    def __init__(self, namespaces: Namespaces, namespace: int, wanted: Wanted, far: FarEnd) -> None:
        self._namespaces = namespaces
        self._namespace = namespace
        self._name = wanted.inside
        self._default_routes = wanted.default_routes
        self._far = far
        self._is_closed = False

    @property
    def mac(self) -> str:
        return mac_text(self._far.mac)

    async def configure(self, addresses: Sequence[Network]) -> None:
        assert not self._is_closed, "its descriptor may be another's by now"
        await self._namespaces.configure(
            self._namespace,
            self._far,
            self._name,
            addresses,
            default_routes=self._default_routes,
        )
        self._far = replace(self._far, is_new=False)

    def close(self) -> None:
        self._is_closed = True
        os.close(self._namespace)


class _Machine(NamedTuple):
    """`Made` where others configure the inside."""

    mac: str

    async def configure(self, addresses: Sequence[Network]) -> None:
        pass

    def close(self) -> None:
        pass


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
    address = Address(interface=link.index, address=gateway, length=gateway.bits, scope=SCOPE_LINK)
    host.add_address(address)
