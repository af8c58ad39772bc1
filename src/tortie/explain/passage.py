"""The reference evaluator for a packet on its way through one host, host endpoints included.

As `oracle`: straight from the resources, and apart from all that is judged by it. What happens
to a packet, in this order:

1. It comes in at an interface with a host endpoint: doNotTrack policies, then preDNAT policies,
   which see the destination as it was before translation; where none is for this endpoint, those
   of the one for all interfaces. Failsafe ports are spared both. What either allows, the host
   endpoint's other policies are not asked about.
2. It is for the host. From a workload: the workload's egress, then DefaultEndpointToHostAction.
   Through a host endpoint: failsafe ports pass, then its ingress policies and profiles decide.
3. It is the host's own: to a workload always; through a host endpoint doNotTrack policies, then
   failsafe ports, then egress policies and profiles.
4. It passes by: a workload's egress or ingress at either end that is one, and at host endpoints
   the policies with applyOnForward, where what nothing decides passes.

A host endpoint for all interfaces is asked at workloads' too, in 1 (preDNAT only) and 4.

Source: Calico, felix/rules/static.go, felix/rules/endpoints.go, felix/dataplane/linux/
endpoint_mgr.go (which host endpoint an interface belongs to).
"""

from typing import NamedTuple

from tortie.explain.matching import in_any, protocol_number
from tortie.explain.oracle import (
    Decision,
    Packet,
    Place,
    State,
    Step,
    Way,
    decide_at,
    decide_tiers,
    tiers_of,
)
from tortie.lib.ip import Network, parse_network
from tortie.model.endpoint import HostEndpoint, WorkloadEndpoint
from tortie.model.felix_configuration import FelixConfiguration, ProtoPort
from tortie.model.keys import ResourceKey
from tortie.model.node import Node

_EVERY_INTERFACE = "*"


def _ports(protocol: str, *numbers: int) -> tuple[ProtoPort, ...]:
    return tuple(ProtoPort(protocol=protocol, port=number) for number in numbers)


_CLUSTER = _ports("tcp", 179, 2379, 2380, 5473, 6443, 6666, 6667)
FAILSAFE_INBOUND = (*_ports("tcp", 22), *_ports("udp", 68), *_CLUSTER)
FAILSAFE_OUTBOUND = (*_ports("udp", 53, 67), *_CLUSTER)
"""Where no FelixConfiguration says otherwise."""


class Interface(NamedTuple):
    name: str
    addresses: tuple[Network, ...] = ()
    """The host's own on it, full length."""
    workload: bool = False
    """By its name it is a workload's, whether or not there is an endpoint for it."""


class Passage(NamedTuple):
    """The first packet of a flow, at one host."""

    host: str
    packet: Packet
    """As it was before destination NAT."""
    came_in: Interface | None
    """None: the host made it."""
    goes_out: Interface | None
    """None: it is for the host."""
    translated: Packet | None = None
    """Behind destination NAT; None: nothing was translated."""


class HostSettings(NamedTuple):
    failsafe_inbound: tuple[ProtoPort, ...] = FAILSAFE_INBOUND
    failsafe_outbound: tuple[ProtoPort, ...] = FAILSAFE_OUTBOUND
    endpoint_to_host: str = "Drop"


def settings_of(state: State, host: str) -> HostSettings:
    """What the datastore says: the host's own FelixConfiguration before the one for all."""
    found = HostSettings()
    for name in ("default", f"node.{host}"):
        resource = state.get(ResourceKey("FelixConfiguration", name))
        if isinstance(resource, FelixConfiguration):
            spec = resource.spec
            inbound, outbound = spec.failsafe_inbound_host_ports, spec.failsafe_outbound_host_ports
            action = spec.default_endpoint_to_host_action
            found = HostSettings(
                found.failsafe_inbound if inbound is None else inbound,
                found.failsafe_outbound if outbound is None else outbound,
                action.capitalize() if action else found.endpoint_to_host,
            )
    return found


def host_endpoint_of(state: State, host: str, interface: Interface) -> ResourceKey | None:
    """The host endpoint that the interface belongs to: by name or address, else one for all.

    A workload's interface is only ever that of one for all.
    """
    fitting, every = [], []
    for key, resource in state.items():
        if not isinstance(resource, HostEndpoint) or resource.spec.node != host:
            continue
        assert isinstance(key, ResourceKey)
        name, addresses = resource.spec.interface_name, resource.spec.expected_ips
        if name == _EVERY_INTERFACE:
            every.append(key)
        elif not interface.workload and (
            (name and name == interface.name)
            or (not name and any(parse_network(text) in interface.addresses for text in addresses))
        ):
            fitting.append(key)
    if interface.name == "lo":
        every = []
    return min(fitting or every, key=lambda key: key.name, default=None)


def asked_before_nat(state: State, endpoint: ResourceKey, interface: Interface) -> ResourceKey:
    """Whose preDNAT policies are asked where the interface belongs to `endpoint`: its own, or if
    there are none those of the host endpoint for all interfaces (never for `lo`).

    Source: Calico, felix/dataplane/linux/endpoint_mgr.go, updateHostEndpoints.
    """
    if any(tiers_of(state, endpoint, "Ingress", "pre-DNAT")):
        return endpoint
    resource = state[endpoint]
    assert isinstance(resource, HostEndpoint)
    # One of a workload's interfaces belongs to nobody else.
    nameless = interface._replace(workload=True)
    return host_endpoint_of(state, resource.spec.node, nameless) or endpoint


class HostAddress(NamedTuple):
    host: str
    interface: Interface
    """Its name is empty where only the address is known."""


def host_with(state: State, address: Network) -> HostAddress | None:
    """The host that has the address, as its node or a host endpoint says."""
    hosts: dict[str, str] = {}
    for resource in state.values():
        if isinstance(resource, HostEndpoint):
            if any(parse_network(text) == address for text in resource.spec.expected_ips):
                hosts.setdefault(resource.spec.node, resource.spec.interface_name)
        elif isinstance(resource, Node) and resource.spec.bgp is not None:
            own = (resource.spec.bgp.ipv4_address, resource.spec.bgp.ipv6_address)
            if any(text.partition("/")[0] == address.address_text for text in own):
                hosts.setdefault(resource.metadata.name, "")
    for host, name in sorted(hosts.items()):
        return HostAddress(host, Interface(name.replace(_EVERY_INTERFACE, ""), (address,)))
    return None


def is_failsafe_answer(state: State, endpoint: ResourceKey, way: Way, packet: Packet) -> bool:
    """Whether it may answer a failsafe connection: those doNotTrack policies must not stop."""
    resource = state[endpoint]
    assert isinstance(resource, HostEndpoint)
    settings = settings_of(state, resource.spec.node)
    if way == "Ingress":
        ports, peer = settings.failsafe_outbound, packet.source
    else:
        ports, peer = settings.failsafe_inbound, packet.destination
    return _is_among(ports, packet, packet.source_port, peer)


def is_failsafe(state: State, endpoint: ResourceKey, way: Way, packet: Packet) -> bool:
    """Whether a host endpoint lets the packet by whatever its policies say."""
    resource = state[endpoint]
    assert isinstance(resource, HostEndpoint)
    settings = settings_of(state, resource.spec.node)
    if way == "Ingress":
        ports, peer = settings.failsafe_inbound, packet.source
    else:
        ports, peer = settings.failsafe_outbound, packet.destination
    return _is_among(ports, packet, packet.destination_port, peer)


def workload_at(state: State, host: str, interface: Interface) -> ResourceKey | None:
    found = [
        key
        for key, resource in state.items()
        if isinstance(resource, WorkloadEndpoint)
        and isinstance(key, ResourceKey)
        and resource.spec.node == host
        and resource.spec.interface_name == interface.name
    ]
    return min(found, key=lambda key: (key.namespace, key.name), default=None)


def decide_passage(state: State, passage: Passage) -> Decision:
    """Whether the packet gets where it wants to, and what decided."""
    return _Judge(state, passage).decide()


class _Judge:
    """One packet at one host; the steps are collected as they are taken."""

    def __init__(self, state: State, passage: Passage) -> None:
        self._state = state
        self._passage = passage
        self._settings = settings_of(state, passage.host)
        self._before = passage.packet
        self._packet = passage.translated or passage.packet
        self._steps: list[Step] = []

    def decide(self) -> Decision:
        return Decision(self._allowed(), tuple(self._steps))

    def _allowed(self) -> bool:
        came_in, goes_out = self._passage.came_in, self._passage.goes_out
        if came_in is None:
            return goes_out is None or self._leaves_host(goes_out)
        early = self._early(came_in)
        if early == "Deny":
            return False
        spared = early == "Allow"
        if goes_out is None:
            return (spared and not came_in.workload) or self._reaches_host(came_in)
        return (
            (spared or self._passes_by(came_in, "Ingress"))
            and self._workload(came_in, "Egress")
            and self._workload(goes_out, "Ingress")
            and self._passes_by(goes_out, "Egress")
        )

    def _early(self, came_in: Interface) -> str | None:
        """Before connection tracking and destination NAT."""
        endpoint = self._host_endpoint(came_in)
        if endpoint is None or self._to_failsafe(self._before):
            return None
        answer = _is_among(
            self._settings.failsafe_outbound,
            self._before,
            self._before.source_port,
            self._before.source,
        )
        if not answer and not self._is_for_all(endpoint):
            said = self._ask(endpoint, "Ingress", "untracked", self._before)
            if said is not None:
                return said
        asked = asked_before_nat(self._state, endpoint, came_in)
        return self._ask(asked, "Ingress", "pre-DNAT", self._before)

    def _reaches_host(self, came_in: Interface) -> bool:
        if came_in.workload:
            return self._workload(came_in, "Egress") and (self._settings.endpoint_to_host != "Drop")
        endpoint = self._host_endpoint(came_in)
        if endpoint is None or self._to_failsafe(self._packet):
            return True
        return self._ask_all(endpoint, "Ingress")

    def _leaves_host(self, goes_out: Interface) -> bool:
        endpoint = self._host_endpoint(goes_out)
        if endpoint is None or goes_out.workload:
            return True
        answer = _is_among(
            self._settings.failsafe_inbound,
            self._before,
            self._before.source_port,
            self._before.destination,
        )
        spared = answer or self._from_failsafe(self._before) or self._is_for_all(endpoint)
        if not spared:
            said = self._ask(endpoint, "Egress", "untracked", self._before)
            if said is not None:
                return said == "Allow"
        return self._from_failsafe(self._packet) or self._ask_all(endpoint, "Egress")

    def _passes_by(self, interface: Interface, way: Way) -> bool:
        """One end, as a host endpoint there sees it."""
        endpoint = self._host_endpoint(interface)
        return endpoint is None or self._ask(endpoint, way, "forward", self._packet) != "Deny"

    def _workload(self, interface: Interface, way: Way) -> bool:
        """One end, as a workload there sees it; true where there should be none."""
        if not interface.workload:
            return True
        endpoint = workload_at(self._state, self._passage.host, interface)
        return endpoint is not None and self._ask_all(endpoint, way)

    def _ask_all(self, endpoint: ResourceKey, way: Way) -> bool:
        decision = decide_at(self._state, endpoint, way, self._packet)
        self._steps.extend(decision.steps)
        return decision.allowed

    def _ask(self, endpoint: ResourceKey, way: Way, place: Place, packet: Packet) -> str | None:
        said, steps = decide_tiers(self._state, endpoint, way, place, packet)
        self._steps.extend(steps)
        return said

    def _host_endpoint(self, interface: Interface) -> ResourceKey | None:
        return host_endpoint_of(self._state, self._passage.host, interface)

    def _is_for_all(self, endpoint: ResourceKey) -> bool:
        """Such a one has no doNotTrack policies: they would meet workloads' packets too."""
        resource = self._state[endpoint]
        assert isinstance(resource, HostEndpoint)
        return resource.spec.interface_name == _EVERY_INTERFACE

    def _to_failsafe(self, packet: Packet) -> bool:
        ports = self._settings.failsafe_inbound
        return _is_among(ports, packet, packet.destination_port, packet.source)

    def _from_failsafe(self, packet: Packet) -> bool:
        ports = self._settings.failsafe_outbound
        return _is_among(ports, packet, packet.destination_port, packet.destination)


def _is_among(
    ports: tuple[ProtoPort, ...], packet: Packet, port: int | None, peer: Network
) -> bool:
    return any(
        protocol_number(one.protocol or "tcp") == packet.protocol
        and one.port == port
        and (not one.net or in_any((one.net,), peer))
        for one in ports
    )
