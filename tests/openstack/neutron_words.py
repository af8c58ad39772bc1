"""What Neutron's words say about a packet between ports; shares nothing with the translation.

From the Networking API reference: a rule allows; rules of all groups of a port add up; what none
allows is dropped, both ways; a remote group is the addresses of its members, allowed pairs
included; replies are of no concern here. A port with port security off has no filter at all.
"""

import ipaddress
from collections.abc import Iterable
from typing import NamedTuple

from tortie.openstack.inventory import Port, SecurityGroup, SecurityGroupRule

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

NUMBERS = {
    "icmp": 1, "igmp": 2, "ipip": 4, "tcp": 6, "egp": 8, "udp": 17, "dccp": 33, "ipv6-encap": 41,
    "rsvp": 46, "gre": 47, "esp": 50, "ah": 51, "icmpv6": 58, "ipv6-icmp": 58, "ospf": 89,
    "vrrp": 112, "pgm": 113, "sctp": 132, "udplite": 136,
}  # fmt: skip


class Asked(NamedTuple):
    source: Address
    destination: Address
    protocol: int
    port: int = 0
    """Of the destination."""
    icmp_type: int = 0
    icmp_code: int = 0


def addresses(port: Port) -> set[Address]:
    own = {ipaddress.ip_address(fixed.address) for fixed in port.fixed_ips}
    pairs = {ipaddress.ip_network(pair.ip_address) for pair in port.allowed_address_pairs}
    return own | {pair.network_address for pair in pairs if pair.num_addresses == 1}


def is_allowed(ports: Iterable[Port], groups: dict[str, SecurityGroup], asked: Asked) -> bool:
    by_address = {address: port for port in ports for address in addresses(port)}
    ends = (
        ("egress", asked.source, asked.destination),
        ("ingress", asked.destination, asked.source),
    )
    for direction, mine, other in ends:
        port = by_address.get(mine)
        if port is None or not port.port_security_enabled:
            continue
        if not any(
            _matches(rule, direction, asked, other, by_address)
            for group_id in port.security_groups
            for rule in groups[group_id].rules
        ):
            return False
    return True


def is_expressible(rule: SecurityGroupRule) -> bool:
    """The two things that policies do not have: ICMP type 255, and ports of DCCP and UDPLite."""
    number = _number(rule)
    if number in (1, 58):
        return rule.port_range_min != 255
    return number in (6, 17, 132) or rule.port_range_min is None


def _number(rule: SecurityGroupRule) -> int | None:
    if rule.protocol in (None, "any", "0"):
        return None
    text = str(rule.protocol)
    number = int(text) if text.isdigit() else NUMBERS[text]
    return 58 if number == 1 and rule.ethertype == "IPv6" else number


def _matches(
    rule: SecurityGroupRule,
    direction: str,
    asked: Asked,
    other: Address,
    by_address: dict[Address, Port],
) -> bool:
    if not is_expressible(rule) or rule.direction != direction:
        return False
    if rule.ethertype != f"IPv{other.version}":
        return False
    number = _number(rule)
    if number is not None and number != asked.protocol:
        return False
    if number in (1, 58):
        if rule.port_range_min not in (None, asked.icmp_type):
            return False
        if rule.port_range_max not in (None, asked.icmp_code):
            return False
    elif rule.port_range_min is not None and not (
        rule.port_range_min <= asked.port <= (rule.port_range_max or 0)
    ):
        return False
    if rule.remote_group_id is not None:
        port = by_address.get(other)
        return port is not None and rule.remote_group_id in port.security_groups
    if rule.remote_ip_prefix is not None:
        return other in ipaddress.ip_network(rule.remote_ip_prefix, strict=False)
    if rule.remote_address_group_id is not None:
        return any(other in ipaddress.ip_network(net) for net in rule.remote_addresses)
    return True
