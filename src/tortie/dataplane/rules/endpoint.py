"""What an endpoint adds to the table: elements of plain data, nothing else.

So an endpoint that comes, goes or moves costs the kernel no walk of the rules
(an element that holds a verdict would).
"""

from typing import NamedTuple

from tortie.dataplane.rules import names
from tortie.dataplane.rules.content import NO_DATA
from tortie.dataplane.rules.names import Direction
from tortie.dataplane.settings import Settings
from tortie.desired.endpoint import Endpoint
from tortie.desired.policy import PolicyList
from tortie.kernel.nft import keys
from tortie.lib.ip import Network


class ElementData(NamedTuple):
    set_name: str
    key: bytes
    data: bytes


def endpoint_elements(endpoint: Endpoint, settings: Settings) -> list[ElementData]:
    """Elements of the inet table. Without IPv6 no such source is let in."""
    interface = keys.ifname(endpoint.interface)
    found = [
        _list_element("egress", interface, endpoint.egress),
        _list_element("ingress", interface, endpoint.ingress),
    ]
    for network in endpoint.networks:
        if (network.family == 4 or settings.ipv6) and not _is_loopback(network):
            key = keys.concatenate(interface, network.packed)
            found.append(ElementData(names.SOURCES[network.family], key, NO_DATA))
    if endpoint.dhcp:
        found.append(ElementData(names.DHCP, interface, NO_DATA))
    if settings.ipv6:
        found.append(ElementData(names.LINK_LOCAL_LIMITS, interface, NO_DATA))
    if settings.ipv6 and endpoint.mac:
        key = keys.concatenate(interface, _link_local(endpoint.mac))
        found.append(ElementData(names.LINK_LOCAL, key, NO_DATA))
    if settings.other_sources and endpoint.sources:
        data = names.list_data(names.source_list_id(endpoint.sources))
        found.append(ElementData(names.SOURCE_LISTS, interface, data))
    return found


def _is_loopback(network: Network) -> bool:
    """Nobody's own: the rules rely on it that no source is one."""
    if network.family == 4:
        return network.value >> 24 == 127
    return network.value == 1


def _link_local(mac: str) -> bytes:
    """The address that a system makes of its MAC. Source: RFC 4291, appendix A."""
    packed = keys.ethernet(mac)
    first = bytes((packed[0] ^ 2,))
    return b"\xfe\x80" + bytes(6) + first + packed[1:3] + b"\xff\xfe" + packed[3:]


def _list_element(direction: Direction, interface: bytes, policies: PolicyList) -> ElementData:
    data = names.list_data(names.list_id(policies))
    return ElementData(names.LISTS[direction], interface, data)


def arp_elements(endpoint: Endpoint) -> list[ElementData]:
    """Elements of the arp table: who may say which address is at which MAC."""
    interface = keys.ifname(endpoint.interface)
    addresses = [network.packed for network in endpoint.networks if network.family == 4]
    if not endpoint.mac:
        return [
            ElementData(names.ARP_SENDERS_ANY_MAC, keys.concatenate(interface, address), NO_DATA)
            for address in addresses
        ]
    mac = keys.ethernet(endpoint.mac)
    return [
        ElementData(names.ARP_SENDERS, keys.concatenate(interface, address, mac), NO_DATA)
        for address in addresses
    ]
