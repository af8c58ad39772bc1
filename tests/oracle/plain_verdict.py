"""One host's calc and what it has told, as the functions of `desired` that judge packets see it."""

from collections.abc import Hashable
from typing import Any, cast

from tests.oracle.host_worlds import host_interfaces

from tortie.calc.graph import Graph
from tortie.desired import passage as desired
from tortie.desired.endpoint import Endpoint
from tortie.desired.host_endpoint import HostEndpoint, host_endpoint_for
from tortie.desired.kinds import Kind
from tortie.desired.policy import AddressPort, Policy, PolicyId
from tortie.desired.verdict import Packet, allows
from tortie.explain import matching, oracle
from tortie.explain.passage import HostSettings, Interface, Passage
from tortie.lib.ip import Network, parse_network
from tortie.model.keys import Key


class DesiredHost:
    """One host's calc, and what it has told so far."""

    def __init__(self, name: str) -> None:
        self.graph = Graph(name, self._emit)
        self._name = name
        self._objects: dict[Kind, dict[Hashable, Any]] = {kind: {} for kind in Kind}
        self._members: dict[str, dict[Hashable, None]] = {}
        self._within: dict[tuple[str, Network], bool] = {}
        self._by_address: dict[Network, Endpoint] = {}
        self._staged: dict[Network, Endpoint] = {}
        self._by_interface: dict[str, Endpoint] = {}
        self._host_endpoints: dict[str, str | None] = {}

    def update(self, changes: dict[Key, object | None]) -> None:
        for key, value in changes.items():
            self.graph.on_update(key, value)
        self.graph.flush()
        self._within.clear()
        endpoints = cast("list[Endpoint]", list(self._objects[Kind.ENDPOINT].values()))
        self._by_address = {address: one for one in endpoints for address in one.networks}
        staged = self._objects[Kind.STAGED_ENDPOINT].values()
        self._staged = {
            address: one for one in staged if isinstance(one, Endpoint) for address in one.networks
        }
        self._by_interface = {one.interface: one for one in endpoints if one.interface}
        endpoints_here = self._objects[Kind.HOST_ENDPOINT]
        self._host_endpoints = {
            name: host_endpoint_for(name, one.addresses, cast("dict[str, Any]", endpoints_here))
            for name, one in host_interfaces(self._name).items()
        }

    def allows(self, packet: oracle.Packet, *, staged: bool = False) -> bool:
        """As far as this host has a say: it decides for the ends that it has.

        Args:
            staged: as if all that is staged were enforced.
        """
        asked = as_desired(packet)
        ends = self._by_address | self._staged if staged else self._by_address
        source, destination = ends.get(packet.source), ends.get(packet.destination)
        return (source is None or allows(source.egress, "egress", asked, self)) and (
            destination is None or allows(destination.ingress, "ingress", asked, self)
        )

    def passes(self, passage: Passage, settings: HostSettings) -> bool:
        asked = desired.Passage(
            as_desired(passage.packet),
            self._end(passage.came_in),
            self._end(passage.goes_out),
            as_desired(passage.translated) if passage.translated else None,
            self._for_all(),
        )
        return desired.passes(asked, self, _settings(settings))

    # desired.verdict.Facts

    def policy(self, policy_id: PolicyId) -> Policy | None:
        kind = Kind.STAGED_POLICY if policy_id.staged else Kind.POLICY
        return cast("Policy | None", self._objects[kind].get(policy_id))

    def contains(self, set_id: str, member: Network | AddressPort) -> bool:
        members = self._members.get(set_id, {})
        if isinstance(member, AddressPort):
            return member in members
        known = self._within.get((set_id, member))
        if known is None:
            networks = cast("dict[Network, None]", members)
            known = any(network.contains(member) for network in networks)
            self._within[set_id, member] = known
        return known

    def _end(self, interface: Interface | None) -> desired.End:
        if interface is None:
            return "this host"
        if interface.workload:
            return self._by_interface.get(interface.name, "closed")
        name = self._host_endpoints[interface.name]
        found = self._objects[Kind.HOST_ENDPOINT]
        return "open" if name is None else cast(HostEndpoint, found[name])

    def _for_all(self) -> HostEndpoint | None:
        """What an interface that none fits would belong to."""
        found = cast("dict[str, HostEndpoint]", self._objects[Kind.HOST_ENDPOINT])
        name = host_endpoint_for("none", (), found)
        return None if name is None else found[name]

    def _emit(self, kind: Kind, name: Hashable, value: object | None) -> None:
        if kind is Kind.IP_SET_MEMBER:
            set_id, member = cast("tuple[str, Hashable]", name)
            members = self._members.setdefault(set_id, {})
            if value:
                members[member] = None
            else:
                members.pop(member, None)
        elif value is None:
            del self._objects[kind][name]
        else:
            self._objects[kind][name] = value


def as_desired(packet: oracle.Packet) -> Packet:
    return Packet(
        packet.source,
        packet.destination,
        packet.protocol,
        packet.source_port or 0,
        packet.destination_port or 0,
        packet.icmp_type or 0,
        packet.icmp_code or 0,
    )


def _settings(settings: HostSettings) -> desired.PassageSettings:
    inbound, outbound = (
        tuple(
            desired.FailsafePort(
                matching.protocol_number(one.protocol or "tcp"),
                one.port,
                parse_network(one.net) if one.net else None,
            )
            for one in ports
        )
        for ports in (settings.failsafe_inbound, settings.failsafe_outbound)
    )
    return desired.PassageSettings(inbound, outbound, settings.endpoint_to_host)  # type: ignore[arg-type]
