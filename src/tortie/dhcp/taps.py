"""Addresses that the host's end of a guest's link needs, so that the guest is served on it.

    169.254.1.1/32        what dnsmasq answers from, and every guest's server
    the subnet's gateway  OpenStack: the guest asks for it by ARP, and proxy ARP may be silent
    fe80::ecee:…/64       the router in advertisements, where the link has no fe80:: address
    ADVERTISED::1/64      IPv6: by it dnsmasq knows that it advertises here

None but fe80:: brings a route to its subnet along. They are there before dnsmasq is started for
the link; what a link no longer needs is taken away from it while we run, and with it at the end.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping

from tortie.attach.inside import GATEWAY_4, GATEWAY_6
from tortie.dhcp.render import ADVERTISED
from tortie.dhcp.served import SLAAC_LENGTH, Guest, Served
from tortie.kernel.rtnl.address import SCOPE_LINK, SCOPE_UNIVERSE, Address
from tortie.kernel.rtnl.connection import Rtnl
from tortie.lib.errors import AlreadyExists, NotFound, TortieError
from tortie.lib.ip import Network, parse_network

log = logging.getLogger(__name__)

ADVERTISER = ADVERTISED.address(1)
_LINK_LOCAL = parse_network("fe80::/10")


def addresses_of(guest: Guest, served: Served, index: int) -> Iterator[Address]:
    """What the link of this index needs for its guest, but for a link-local IPv6 address."""
    subnets = [served.subnets[place] for place in guest.subnets]
    yield Address(interface=index, address=GATEWAY_4, length=32, scope=SCOPE_LINK)
    for subnet in subnets:
        if subnet.gateway is None or subnet.routed:
            continue
        scope = SCOPE_LINK if subnet.cidr.family == 4 else SCOPE_UNIVERSE
        length = SLAAC_LENGTH if subnet.slaac else subnet.gateway.bits
        yield Address(interface=index, address=subnet.gateway, length=length, scope=scope)
    if any(subnet.cidr.family == 6 and not subnet.slaac for subnet in subnets):
        yield Address(interface=index, address=ADVERTISER, length=ADVERTISED.length)


class Taps:
    """Loop task only."""

    def __init__(self, rtnl: Rtnl) -> None:
        self._rtnl = rtnl
        self._given: dict[int, set[tuple[Network, int]]] = {}
        """By link: what is there because of us."""

    def apply(self, networks: Iterable[Served], indexes: Mapping[str, int]) -> None:
        """
        Args:
            indexes: of the links that are there, by name.
        """
        wanted: dict[int, list[Address]] = {}
        for served in networks:
            for guest in served.guests:
                if (index := indexes.get(guest.interface)) is not None:
                    wanted[index] = list(addresses_of(guest, served, index))
        if not wanted and not self._given:
            return
        present: dict[int, list[Address]] = {}
        for address in self._rtnl.addresses():
            present.setdefault(address.interface, []).append(address)
        for index in self._given.keys() | wanted.keys():
            self._apply_link(index, wanted.get(index, []), present.get(index, []))

    def _apply_link(self, index: int, wanted: list[Address], present: list[Address]) -> None:
        there = {(one.address, one.length): one for one in present}
        keys = {(one.address, one.length) for one in wanted}
        is_ipv6 = any(one.address.family == 6 for one in wanted)
        if is_ipv6 and not any(_LINK_LOCAL.contains(one.address) for one in present):
            wanted = [Address(interface=index, address=GATEWAY_6, length=64, scope=SCOPE_LINK),
                      *wanted]  # fmt: skip
        for address in wanted:
            if (address.address, address.length) not in there:
                self._attempt(address)
        for key in self._given.pop(index, set()) - keys:
            if key in there:
                try:
                    self._rtnl.delete_address(there[key])
                except NotFound:
                    pass
                except TortieError as error:
                    log.warning("%s", error)
        if keys:
            self._given[index] = keys

    def _attempt(self, address: Address) -> None:
        try:
            # Guests' own link-local addresses are on the link; nothing else is.
            on_link = _LINK_LOCAL.contains(address.address)
            self._rtnl.add_address(address, prefix_route=on_link)
        except (NotFound, AlreadyExists):
            pass  # the link has just gone: we hear of it
        except TortieError as error:
            log.warning("%s", error)
