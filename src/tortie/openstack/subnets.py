"""A subnet as the key from which DHCP agents serve it. Pure.

The value is networking-calico's, with one field more: `mtu`, of the network.

Source: Calico, networking-calico, datamodel_v2.py and drivers/calico/subnets.py.
"""

from collections.abc import Mapping

import msgspec

from tortie.openstack.inventory import Subnet
from tortie.openstack.labels import is_plain

DHCP = "/calico/dhcp/v2/"


class SubnetValue(msgspec.Struct, frozen=True, kw_only=True):
    """What is stored; fields as in JSON."""

    network_id: str
    cidr: str
    host_routes: tuple[Mapping[str, str], ...] = ()
    gateway_ip: str | None = None
    dns_servers: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET
    mtu: int | msgspec.UnsetType = msgspec.UNSET
    ipv6_address_mode: str | msgspec.UnsetType = msgspec.UNSET
    """`slaac`, as the other one, where guests make their addresses; else DHCPv6 has them."""
    ipv6_ra_mode: str | msgspec.UnsetType = msgspec.UNSET


def subnets_prefix(region: str) -> str:
    return f"{DHCP}{region}/subnet/"


def subnet_path(subnet_id: str, region: str) -> str:
    return f"{subnets_prefix(region)}{subnet_id}"


def translate_subnet(subnet: Subnet) -> SubnetValue | None:
    """What to store; None for a subnet without DHCP."""
    if not subnet.enable_dhcp or not is_plain(subnet.id):
        return None
    return SubnetValue(
        network_id=subnet.network_id,
        cidr=subnet.cidr,
        host_routes=subnet.host_routes,
        gateway_ip=subnet.gateway_ip,
        dns_servers=subnet.dns_nameservers or msgspec.UNSET,
        mtu=subnet.mtu or msgspec.UNSET,
        ipv6_address_mode=subnet.ipv6_address_mode or msgspec.UNSET,
        ipv6_ra_mode=subnet.ipv6_ra_mode or msgspec.UNSET,
    )
