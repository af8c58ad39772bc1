"""What this package asks Neutron's database for: one protocol, and the structs it answers in.

Whoever implements `Inventory` reads the database; everything else here is free of Neutron.
Each call reads committed state anew: the rule that keeps a resync from undoing an update is
that a writer reads the datastore first, then the inventory, and then writes with
compare-and-swap (see `tortie.openstack.writer`).

Strings are as Neutron has them, whatever a user wrote: checking is the translations' part.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Protocol

import msgspec


class _Fact(msgspec.Struct, frozen=True, kw_only=True):
    """One row, or one row with what hangs on it."""


class FixedIP(_Fact, frozen=True, kw_only=True):
    address: str
    subnet_id: str = ""
    gateway: str | None = None
    """Of the subnet."""


class AddressPair(_Fact, frozen=True, kw_only=True):
    ip_address: str
    """An address or a CIDR."""
    mac_address: str = ""
    """Empty: the port's own."""


class FloatingIP(_Fact, frozen=True, kw_only=True):
    internal: str
    """The fixed address behind it."""
    external: str


class BandwidthRule(_Fact, frozen=True, kw_only=True):
    """A QoS bandwidth limit; direction as seen from the VM, `ingress` is towards it."""

    direction: str = "egress"
    max_kbps: int = 0
    max_burst_kbps: int = 0


class PacketRateRule(_Fact, frozen=True, kw_only=True):
    direction: str = "egress"
    max_kpps: int = 0


class Port(_Fact, frozen=True, kw_only=True):
    """A port with all that its endpoint is made of."""

    id: str
    host: str = ""
    """`binding:host_id`; empty while unbound."""
    migrating_to: str = ""
    """The host it is on its way to: `binding:profile`'s `migrating_to`."""
    device_id: str = ""
    device_owner: str = ""
    network_id: str = ""
    mac_address: str = ""
    admin_state_up: bool = True
    port_security_enabled: bool = True
    project_id: str = ""
    project_name: str | None = None
    """None: not known, for example because Keystone did not answer."""
    project_parent_id: str | None = None
    network_name: str | None = None
    fqdn: str = ""
    """Of the first `dns_assignment`."""
    fixed_ips: tuple[FixedIP, ...] = ()
    allowed_address_pairs: tuple[AddressPair, ...] = ()
    floating_ips: tuple[FloatingIP, ...] = ()
    security_groups: Mapping[str, str] = {}
    """Id → name."""
    bandwidth: tuple[BandwidthRule, ...] = ()
    packet_rates: tuple[PacketRateRule, ...] = ()
    dscp: int | None = None
    """The mark of a QoS DSCP rule."""
    dhcp_options: tuple[Mapping[str, Any], ...] = ()
    """`extra_dhcp_opts` as Neutron's API has them: opt_name, opt_value, ip_version."""

    @property
    def is_endpoint(self) -> bool:
        """Does it belong to a VM or a container? Others (DHCP, routers) have no endpoint."""
        return self.device_owner.startswith(("compute:", "kuryr:container"))


class SecurityGroupRule(_Fact, frozen=True, kw_only=True):
    """A rule; it allows, there is no other kind."""

    id: str = ""
    direction: str = "ingress"
    ethertype: str = "IPv4"
    protocol: str | int | None = None
    """A name, or a number, maybe as text; None means any."""
    port_range_min: int | None = None
    """ICMP: the type."""
    port_range_max: int | None = None
    """ICMP: the code."""
    remote_group_id: str | None = None
    remote_ip_prefix: str | None = None
    remote_address_group_id: str | None = None
    remote_addresses: tuple[str, ...] = ()
    """The CIDRs of the address group."""


class SecurityGroup(_Fact, frozen=True, kw_only=True):
    """A group with all of its rules."""

    id: str
    name: str = ""
    rules: tuple[SecurityGroupRule, ...] = ()


class Subnet(_Fact, frozen=True, kw_only=True):
    id: str
    network_id: str
    cidr: str
    enable_dhcp: bool = True
    gateway_ip: str | None = None
    host_routes: tuple[Mapping[str, str], ...] = ()
    """Each `{"destination": "10.1.0.0/16", "nexthop": "10.0.0.5"}`."""
    dns_nameservers: tuple[str, ...] = ()
    mtu: int | None = None
    """Of its network."""
    ipv6_address_mode: str | None = None
    ipv6_ra_mode: str | None = None


class Selection(_Fact, frozen=True, kw_only=True):
    """Which objects: those with one of the ids, in one of the networks, or on one of the subnets.

    Subnets select ports by their fixed addresses, and are themselves selected like ids. With
    nothing in it, it selects nothing.
    """

    ids: frozenset[str] = frozenset()
    networks: frozenset[str] = frozenset()
    subnets: frozenset[str] = frozenset()


class Inventory(Protocol):
    """Neutron's database. May be called from any thread, and after a fork in the child too.

    What a call raises, ends the resync or the write that made it: nothing is deleted because
    the database did not answer. Iterators may page: an object that is there all the while
    must be yielded, once or more; one that comes or goes meanwhile may be yielded or not.
    """

    def ports(self, selection: Selection | None = None) -> Iterator[Port]:
        """Ports of any kind of owner; None means all."""
        ...

    def security_groups(self, ids: Collection[str] | None = None) -> Iterator[SecurityGroup]:
        """Groups with their rules; None means all. Creates no default group."""
        ...

    def subnets(self, selection: Selection | None = None) -> Iterator[Subnet]:
        """Subnets with and without DHCP; None means all."""
        ...
