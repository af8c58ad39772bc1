"""Neutron's own database as the `Inventory` that everything here is made of.

Columns are read straight from the tables, a page of objects with one statement for each
table: Neutron's API methods build each port through a dozen extensions, at ten times the cost.
Reading changes nothing, creates no default group, and asks nobody's permission: it is the
database's view, not a user's.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from neutron.db import models_v2
from neutron.db.extra_dhcp_opt.models import ExtraDhcpOpt
from neutron.db.models.address_group import AddressAssociation
from neutron.db.models.allowed_address_pair import AllowedAddressPair
from neutron.db.models.dns import PortDNS
from neutron.db.models.l3 import FloatingIP as FloatingIPRow
from neutron.db.models.securitygroup import (
    SecurityGroup as SecurityGroupRow,
)
from neutron.db.models.securitygroup import (
    SecurityGroupPortBinding,
)
from neutron.db.models.securitygroup import (
    SecurityGroupRule as SecurityGroupRuleRow,
)
from neutron.db.port_security.models import PortSecurityBinding
from neutron.db.qos import models as qos
from neutron.plugins.ml2.models import PortBinding
from neutron_lib import context as neutron_context
from neutron_lib.db import api as db_api

from tortie.openstack.inventory import (
    AddressPair,
    BandwidthRule,
    FixedIP,
    FloatingIP,
    PacketRateRule,
    Port,
    SecurityGroup,
    SecurityGroupRule,
    Selection,
    Subnet,
)

PAGE = 500
"""Objects of one statement."""


class Project(NamedTuple):
    name: str
    parent_id: str | None


class Database:
    """Neutron's database, read afresh by each call.

    Args:
        project: name and parent of a project by its id, or None if not known.
        fqdn: of a port, by its DNS name, which may be empty; empty for none.
    """

    def __init__(
        self,
        project: Callable[[str], Project | None] = lambda _: None,
        fqdn: Callable[[str], str] = lambda _: "",
    ) -> None:
        self._project = project
        self._fqdn = fqdn

    def ports(self, selection: Selection | None = None) -> Iterator[Port]:
        port = models_v2.Port
        wanted: list[Any] = []
        if selection is not None:
            if selection.ids:
                wanted.append(port.id.in_(selection.ids))
            if selection.networks:
                wanted.append(port.network_id.in_(selection.networks))
            if selection.subnets:
                allocation = models_v2.IPAllocation
                on_subnets = sa.select(allocation.port_id).where(
                    allocation.subnet_id.in_(selection.subnets)
                )
                wanted.append(port.id.in_(on_subnets))
            if not wanted:
                return
        statement = (
            sa.select(
                port.id,
                port.project_id,
                port.network_id,
                port.mac_address,
                port.admin_state_up,
                port.device_id,
                port.device_owner,
                models_v2.Network.name.label("network_name"),
                PortBinding.host,
                PortBinding.vif_type,
                PortBinding.profile,
                PortSecurityBinding.port_security_enabled,
                qos.QosPortPolicyBinding.policy_id.label("port_policy"),
                qos.QosNetworkPolicyBinding.policy_id.label("network_policy"),
                PortDNS.dns_name,
            )
            .select_from(port)
            .join(models_v2.Network, models_v2.Network.id == port.network_id)
            .outerjoin(
                PortBinding,
                sa.and_(PortBinding.port_id == port.id, PortBinding.status == "ACTIVE"),
            )
            .outerjoin(PortSecurityBinding, PortSecurityBinding.port_id == port.id)
            .outerjoin(qos.QosPortPolicyBinding, qos.QosPortPolicyBinding.port_id == port.id)
            .outerjoin(
                qos.QosNetworkPolicyBinding,
                qos.QosNetworkPolicyBinding.network_id == port.network_id,
            )
            .outerjoin(PortDNS, PortDNS.port_id == port.id)
        )
        if wanted:
            statement = statement.where(sa.or_(*wanted))
        yield from _paged(statement, port.id, self._make_ports)

    def _make_ports(self, session: Any, rows: Sequence[Any]) -> list[Port]:
        ids = [row.id for row in rows]
        about = _AboutPorts(session, ids)
        policies = {row.port_policy or row.network_policy for row in rows} - {None}
        limits = _limits(session, policies)
        return [self._make_port(row, about, limits) for row in rows]

    def _make_port(self, row: Any, about: "_AboutPorts", limits: Mapping[str, "_Limits"]) -> Port:
        project = self._project(row.project_id) if row.project_id else None
        limit = limits.get(row.port_policy or row.network_policy or "", _Limits((), (), None))
        bound = row.vif_type is not None and row.vif_type not in ("unbound", "binding_failed")
        return Port(
            id=row.id,
            host=row.host if bound else "",
            migrating_to=migrating_to(row.profile) if bound else "",
            device_id=row.device_id or "",
            device_owner=row.device_owner or "",
            network_id=row.network_id,
            mac_address=row.mac_address,
            admin_state_up=bool(row.admin_state_up),
            port_security_enabled=row.port_security_enabled is not False,
            project_id=row.project_id or "",
            project_name=project.name if project else None,
            project_parent_id=project.parent_id if project else None,
            network_name=row.network_name,
            fqdn=self._fqdn(row.dns_name or ""),
            fixed_ips=tuple(about.fixed_ips[row.id]),
            allowed_address_pairs=tuple(about.address_pairs[row.id]),
            floating_ips=tuple(about.floating_ips[row.id]),
            security_groups=about.security_groups[row.id],
            bandwidth=limit.bandwidth,
            packet_rates=limit.packet_rates,
            dscp=limit.dscp,
            dhcp_options=tuple(about.dhcp_options[row.id]),
        )

    def security_groups(self, ids: Collection[str] | None = None) -> Iterator[SecurityGroup]:
        group = SecurityGroupRow
        statement = sa.select(group.id, group.name)
        if ids is not None:
            if not ids:
                return
            statement = statement.where(group.id.in_(ids))
        yield from _paged(statement, group.id, _make_groups)

    def subnets(self, selection: Selection | None = None) -> Iterator[Subnet]:
        subnet = models_v2.Subnet
        wanted: list[Any] = []
        if selection is not None:
            ids = selection.ids | selection.subnets
            if ids:
                wanted.append(subnet.id.in_(ids))
            if selection.networks:
                wanted.append(subnet.network_id.in_(selection.networks))
            if not wanted:
                return
        statement = (
            sa.select(
                subnet.id,
                subnet.network_id,
                subnet.cidr,
                subnet.enable_dhcp,
                subnet.gateway_ip,
                subnet.ipv6_address_mode,
                subnet.ipv6_ra_mode,
                models_v2.Network.mtu,
            )
            .select_from(subnet)
            .join(models_v2.Network, models_v2.Network.id == subnet.network_id)
        )
        if wanted:
            statement = statement.where(sa.or_(*wanted))
        yield from _paged(statement, subnet.id, _make_subnets)

    # What events name, as the ports and groups that it concerns.

    def ports_of_groups(self, group_ids: Collection[str]) -> list[str]:
        binding = SecurityGroupPortBinding
        return _column(
            sa.select(binding.port_id).where(binding.security_group_id.in_(group_ids)).distinct()
        )

    def groups_of_port(self, port_id: str) -> list[str]:
        binding = SecurityGroupPortBinding
        return _column(sa.select(binding.security_group_id).where(binding.port_id == port_id))

    def ports_of_network(self, network_id: str) -> list[str]:
        port = models_v2.Port
        return _column(sa.select(port.id).where(port.network_id == network_id))

    def ports_of_subnet(self, subnet_id: str) -> list[str]:
        allocation = models_v2.IPAllocation
        return _column(
            sa.select(allocation.port_id).where(allocation.subnet_id == subnet_id).distinct()
        )

    def groups_of_address_group(self, address_group_id: str) -> list[str]:
        rule = SecurityGroupRuleRow
        return _column(
            sa.select(rule.security_group_id)
            .where(rule.remote_address_group_id == address_group_id)
            .distinct()
        )

    def ports_of_qos_policy(self, policy_id: str) -> list[str]:
        port, on_port, on_network = (
            models_v2.Port,
            qos.QosPortPolicyBinding,
            qos.QosNetworkPolicyBinding,
        )
        direct = sa.select(on_port.port_id).where(on_port.policy_id == policy_id)
        inherited = sa.select(port.id).where(
            port.network_id.in_(
                sa.select(on_network.network_id).where(on_network.policy_id == policy_id)
            )
        )
        return _column(direct.union(inherited))


class _AboutPorts:
    """What hangs on some ports, by port."""

    def __init__(self, session: Any, ids: Sequence[str]) -> None:
        self.fixed_ips: defaultdict[str, list[FixedIP]] = defaultdict(list)
        self.address_pairs: defaultdict[str, list[AddressPair]] = defaultdict(list)
        self.floating_ips: defaultdict[str, list[FloatingIP]] = defaultdict(list)
        self.security_groups: defaultdict[str, dict[str, str]] = defaultdict(dict)
        self.dhcp_options: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)

        allocation, subnet = models_v2.IPAllocation, models_v2.Subnet
        statement = (
            sa.select(
                allocation.port_id, allocation.ip_address, allocation.subnet_id, subnet.gateway_ip
            )
            .select_from(allocation)
            .outerjoin(subnet, subnet.id == allocation.subnet_id)
            .where(allocation.port_id.in_(ids))
            .order_by(allocation.ip_address)
        )
        for row in session.execute(statement):
            self.fixed_ips[row.port_id].append(
                FixedIP(
                    address=row.ip_address, subnet_id=row.subnet_id or "", gateway=row.gateway_ip
                )
            )
        pair = AllowedAddressPair
        for row in session.execute(
            sa.select(pair.port_id, pair.ip_address, pair.mac_address)
            .where(pair.port_id.in_(ids))
            .order_by(pair.ip_address, pair.mac_address)
        ):
            self.address_pairs[row.port_id].append(
                AddressPair(ip_address=str(row.ip_address), mac_address=str(row.mac_address))
            )
        floating = FloatingIPRow
        for row in session.execute(
            sa.select(
                floating.fixed_port_id, floating.fixed_ip_address, floating.floating_ip_address
            )
            .where(floating.fixed_port_id.in_(ids))
            .order_by(floating.floating_ip_address)
        ):
            self.floating_ips[row.fixed_port_id].append(
                FloatingIP(
                    internal=str(row.fixed_ip_address), external=str(row.floating_ip_address)
                )
            )
        binding, group = SecurityGroupPortBinding, SecurityGroupRow
        for row in session.execute(
            sa.select(binding.port_id, binding.security_group_id, group.name)
            .join(group, group.id == binding.security_group_id)
            .where(binding.port_id.in_(ids))
            .order_by(binding.security_group_id)
        ):
            self.security_groups[row.port_id][row.security_group_id] = row.name or ""
        option = ExtraDhcpOpt
        for row in session.execute(
            sa.select(option.port_id, option.opt_name, option.opt_value, option.ip_version)
            .where(option.port_id.in_(ids))
            .order_by(option.opt_name, option.ip_version)
        ):
            self.dhcp_options[row.port_id].append(
                {
                    "opt_name": row.opt_name,
                    "opt_value": row.opt_value,
                    "ip_version": row.ip_version,
                }
            )


class _Limits(NamedTuple):
    """The rules of one QoS policy."""

    bandwidth: tuple[BandwidthRule, ...]
    packet_rates: tuple[PacketRateRule, ...]
    dscp: int | None


def _limits(session: Any, policies: Collection[str]) -> dict[str, _Limits]:
    if not policies:
        return {}
    bandwidth: defaultdict[str, list[BandwidthRule]] = defaultdict(list)
    rates: defaultdict[str, list[PacketRateRule]] = defaultdict(list)
    marks: dict[str, int] = {}
    limit = qos.QosBandwidthLimitRule
    for row in session.execute(
        sa.select(limit.qos_policy_id, limit.direction, limit.max_kbps, limit.max_burst_kbps)
        .where(limit.qos_policy_id.in_(policies))
        .order_by(limit.direction)
    ):
        bandwidth[row.qos_policy_id].append(
            BandwidthRule(
                direction=row.direction,
                max_kbps=row.max_kbps or 0,
                max_burst_kbps=row.max_burst_kbps or 0,
            )
        )
    rate = qos.QosPacketRateLimitRule
    for row in session.execute(
        sa.select(rate.qos_policy_id, rate.direction, rate.max_kpps)
        .where(rate.qos_policy_id.in_(policies))
        .order_by(rate.direction)
    ):
        if row.direction in ("ingress", "egress"):  # `any` is no direction of a port's
            rates[row.qos_policy_id].append(
                PacketRateRule(direction=row.direction, max_kpps=row.max_kpps or 0)
            )
    mark = qos.QosDscpMarkingRule
    for row in session.execute(
        sa.select(mark.qos_policy_id, mark.dscp_mark).where(mark.qos_policy_id.in_(policies))
    ):
        marks[row.qos_policy_id] = row.dscp_mark
    return {
        policy: _Limits(tuple(bandwidth[policy]), tuple(rates[policy]), marks.get(policy))
        for policy in policies
    }


def _make_groups(session: Any, rows: Sequence[Any]) -> list[SecurityGroup]:
    rule = SecurityGroupRuleRow
    found = session.execute(
        sa.select(
            rule.id,
            rule.security_group_id,
            rule.direction,
            rule.ethertype,
            rule.protocol,
            rule.port_range_min,
            rule.port_range_max,
            rule.remote_group_id,
            rule.remote_ip_prefix,
            rule.remote_address_group_id,
        )
        .where(rule.security_group_id.in_([row.id for row in rows]))
        .order_by(rule.id)
    ).all()
    addresses = _addresses(session, {row.remote_address_group_id for row in found} - {None})
    rules: defaultdict[str, list[SecurityGroupRule]] = defaultdict(list)
    for row in found:
        rules[row.security_group_id].append(
            SecurityGroupRule(
                id=row.id,
                direction=row.direction,
                ethertype=row.ethertype,
                protocol=row.protocol,
                port_range_min=row.port_range_min,
                port_range_max=row.port_range_max,
                remote_group_id=row.remote_group_id,
                remote_ip_prefix=row.remote_ip_prefix,
                remote_address_group_id=row.remote_address_group_id,
                remote_addresses=tuple(addresses.get(row.remote_address_group_id, ())),
            )
        )
    return [
        SecurityGroup(id=row.id, name=row.name or "", rules=tuple(rules[row.id])) for row in rows
    ]


def _addresses(session: Any, groups: Collection[str]) -> Mapping[str, list[str]]:
    found: defaultdict[str, list[str]] = defaultdict(list)
    if groups:
        association = AddressAssociation
        for row in session.execute(
            sa.select(association.address_group_id, association.address)
            .where(association.address_group_id.in_(groups))
            .order_by(association.address)
        ):
            found[row.address_group_id].append(str(row.address))
    return found


def _make_subnets(session: Any, rows: Sequence[Any]) -> list[Subnet]:
    ids = [row.id for row in rows]
    routes: defaultdict[str, list[Mapping[str, str]]] = defaultdict(list)
    servers: defaultdict[str, list[str]] = defaultdict(list)
    route, server = models_v2.SubnetRoute, models_v2.DNSNameServer
    for row in session.execute(
        sa.select(route.subnet_id, route.destination, route.nexthop)
        .where(route.subnet_id.in_(ids))
        .order_by(route.destination, route.nexthop)
    ):
        routes[row.subnet_id].append({"destination": row.destination, "nexthop": row.nexthop})
    for row in session.execute(
        sa.select(server.subnet_id, server.address)
        .where(server.subnet_id.in_(ids))
        .order_by(server.order)
    ):
        servers[row.subnet_id].append(str(row.address))
    return [
        Subnet(
            id=row.id,
            network_id=row.network_id,
            cidr=row.cidr,
            enable_dhcp=bool(row.enable_dhcp),
            gateway_ip=row.gateway_ip,
            host_routes=tuple(routes[row.id]),
            dns_nameservers=tuple(servers[row.id]),
            mtu=row.mtu,
            ipv6_address_mode=row.ipv6_address_mode,
            ipv6_ra_mode=row.ipv6_ra_mode,
        )
        for row in rows
    ]


def migrating_to(profile: str | None) -> str:
    """Of a binding's profile, which whoever binds may fill with any JSON."""
    try:
        host = json.loads(profile or "{}").get("migrating_to")
    except (ValueError, AttributeError):
        return ""
    return host if isinstance(host, str) else ""


def _paged(
    statement: Any, key: Any, make: Callable[[Any, Sequence[Any]], list[Any]]
) -> Iterator[Any]:
    """Pages in order of the key: what is there all the while is met, whatever comes and goes."""
    last = None
    while True:
        page = statement.order_by(key).limit(PAGE)
        if last is not None:
            page = page.where(key > last)
        context = neutron_context.get_admin_context()
        with db_api.CONTEXT_READER.using(context):
            rows = context.session.execute(page).all()
            made = make(context.session, rows) if rows else []
        yield from made
        if len(rows) < PAGE:
            return
        last = rows[-1].id


def _column(statement: Any) -> list[str]:
    context = neutron_context.get_admin_context()
    with db_api.CONTEXT_READER.using(context):
        return [row[0] for row in context.session.execute(statement)]
