"""Which known connections must go: of addresses that left, or denied by now.

The kernel asks policy about the first packet of a connection only; what was
let in stays in, though policy has tightened, until its entry is deleted. Here
is decided which entries those are; who deletes them is the dataplane, after
the rules are in force, so that no new entry can take an old one's place.

An entry does not say by which links its packets go. Workloads are known by
their addresses; of the host's own interfaces it is that by which the host
would send to the other end now. That is asked only where host endpoints differ.

What this very process has connected to is spared, whatever policy says: it is
the datastore, by which alone policy could be put right again.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from tortie.dataplane.manager.endpoint import EndpointManager
from tortie.dataplane.manager.host_endpoint import HostEndpointManager
from tortie.dataplane.manager.ipset import IPSetManager
from tortie.dataplane.manager.policy import PolicyManager
from tortie.dataplane.rules.host_endpoint import NEIGHBOUR_DISCOVERY
from tortie.dataplane.settings import ProtoPort, Settings
from tortie.desired.endpoint import EndpointId
from tortie.desired.host_endpoint import LOOPBACK
from tortie.desired.passage import End, FailsafePort, Passage, PassageSettings, passes
from tortie.desired.policy import AddressPort, Policy, PolicyId
from tortie.desired.verdict import Packet
from tortie.kernel.conntrack import Flow, FlowTuple
from tortie.kernel.own_connections import Ends
from tortie.lib.ip import Network

_ICMPV6 = 58


class Suspects(NamedTuple):
    """Whose connections may be denied by now."""

    addresses: frozenset[Network] = frozenset()
    """Of workloads."""
    host: bool = False
    """Any that a host endpoint is asked about, so any at all."""

    @property
    def any(self) -> bool:
        return self.host or bool(self.addresses)


class Surroundings(NamedTuple):
    own: frozenset[Network]
    """This host's own addresses; it always reaches its workloads."""
    interface_towards: Callable[[Network], str]
    """The interface by which this host would send there; empty for none."""
    spared: frozenset[Ends] = frozenset()
    """Connections of this process."""


class ConnectionManager:
    """Judges flows by desired state. Loop task only."""

    def __init__(
        self,
        endpoints: EndpointManager,
        policies: PolicyManager,
        ip_sets: IPSetManager,
        host_endpoints: HostEndpointManager,
        settings: Settings,
    ) -> None:
        self._endpoints = endpoints
        self._policies = policies
        self._ip_sets = ip_sets
        self._host_endpoints = host_endpoints
        # What becomes of a workload's packets to this host is a setting, and changes with a start.
        self._settings = PassageSettings(
            _ports(settings.failsafe_inbound), _ports(settings.failsafe_outbound), "Accept"
        )
        self._suspects: set[Network] = set()
        self._host_is_suspect = False
        self._taken = Suspects()

    def suspects(self) -> Suspects:
        """Those that may be allowed less than before, until `take`."""
        changed = self._policies.take_tightened() | self._endpoints.take_tightened()
        for user in changed:
            if isinstance(user, EndpointId):
                found = self._endpoints.endpoints.get(user)
                self._suspects.update(found.networks if found else ())
            else:
                self._host_is_suspect = True
        self._host_is_suspect |= self._host_endpoints.take_tightened()
        return Suspects(frozenset(self._suspects), self._host_is_suspect)

    def take(self) -> Suspects:
        """The suspects; they are none any more, unless they become so anew meanwhile."""
        self._taken, self._suspects, self._host_is_suspect = self.suspects(), set(), False
        return self._taken

    def give_back(self) -> None:
        """Those that were taken last are suspects still."""
        self._suspects |= self._taken.addresses
        self._host_is_suspect |= self._taken.host

    def denied(self, flows: Iterable[Flow], around: Surroundings) -> list[Flow]:
        """Those that policy would not let in now."""
        return [flow for flow in flows if not self._allowed(flow, around)]

    def _allowed(self, flow: Flow, around: Surroundings) -> bool:
        original, reply = flow.original, flow.reply
        packet, translated = _packet(original), _behind_nat(flow)
        if original.protocol == _ICMPV6 and original.icmp_type in NEIGHBOUR_DISCOVERY:
            return True
        if _ends_of(original) in around.spared:
            return True
        came_in = self._end(original.source, around)
        goes_out = self._end(reply.source, around)
        if came_in == goes_out == "this host":
            return self._allowed_by_loopback(packet)
        passage = Passage(
            packet,
            came_in,
            goes_out,
            None if translated == packet else translated,
            self._host_endpoints.for_all,
        )
        return passes(passage, self, self._settings)

    def _allowed_by_loopback(self, packet: Packet) -> bool:
        end = self._host_endpoints.endpoint_of(LOOPBACK)
        return end is None or (
            passes(Passage(packet, "this host", end), self, self._settings)
            and passes(Passage(packet, end, "this host"), self, self._settings)
        )

    def _end(self, address: Network, around: Surroundings) -> End:
        workload = self._endpoints.at(address)
        if workload is not None:
            return workload
        if address in around.own:
            return "this host"
        # Workloads' interfaces aside, all may belong to one host endpoint, or to none.
        found = self._host_endpoints.for_all
        if self._host_endpoints.told_apart:
            found = self._host_endpoints.endpoint_of(around.interface_towards(address))
        return "open" if found is None else found

    # What `desired.verdict` asks.

    def policy(self, policy_id: PolicyId) -> Policy | None:
        return self._policies.policy(policy_id)

    def contains(self, set_id: str, member: Network | AddressPort) -> bool:
        return self._ip_sets.contains(set_id, member)


def _ends_of(one: FlowTuple) -> Ends:
    return Ends(one.source, one.source_port, one.destination, one.destination_port)


def _packet(one: FlowTuple) -> Packet:
    """As it was sent."""
    return Packet(
        source=one.source,
        destination=one.destination,
        protocol=one.protocol,
        source_port=one.source_port,
        destination_port=one.destination_port,
        icmp_type=one.icmp_type,
        icmp_code=one.icmp_code,
    )


def _behind_nat(flow: Flow) -> Packet:
    """As policy saw it: where it really went, from whom it really came."""
    reply = flow.reply
    return _packet(flow.original)._replace(
        destination=reply.source, destination_port=reply.source_port
    )


def _ports(ports: tuple[ProtoPort, ...]) -> tuple[FailsafePort, ...]:
    return tuple(FailsafePort(one.protocol, one.port, one.network) for one in ports)
