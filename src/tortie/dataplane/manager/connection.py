"""Which known connections must go: of addresses that left, or denied by now.

The kernel asks policy about the first packet of a connection only; what was
let in stays in, though policy has tightened, until its entry is deleted. Here
is decided which entries those are; who deletes them is the dataplane, after
the rules are in force, so that no new entry can take an old one's place.
"""

from collections.abc import Iterable

from tortie.dataplane.manager.endpoint import EndpointManager
from tortie.dataplane.manager.ipset import IPSetManager
from tortie.dataplane.manager.policy import PolicyManager
from tortie.desired.endpoint import Endpoint
from tortie.desired.policy import AddressPort, Policy, PolicyId
from tortie.desired.verdict import Packet, allows
from tortie.kernel.conntrack import Flow
from tortie.lib.ip import Network


class ConnectionManager:
    """Judges flows by desired state. Loop task only."""

    def __init__(
        self, endpoints: EndpointManager, policies: PolicyManager, ip_sets: IPSetManager
    ) -> None:
        self._endpoints = endpoints
        self._policies = policies
        self._ip_sets = ip_sets
        self._suspects: set[Network] = set()
        self._taken: frozenset[Network] = frozenset()

    def suspects(self) -> frozenset[Network]:
        """Addresses of endpoints that may be allowed less than before, until `take`."""
        changed = self._policies.take_tightened() | self._endpoints.take_tightened()
        for endpoint_id in changed:
            found = self._endpoints.endpoints.get(endpoint_id)
            self._suspects.update(found.networks if found else ())
        return frozenset(self._suspects)

    def take(self) -> frozenset[Network]:
        """The suspects; they are none any more, unless they become so anew meanwhile."""
        self._taken, self._suspects = self.suspects(), set()
        return self._taken

    def give_back(self) -> None:
        """Those that were taken last are suspects still."""
        self._suspects |= self._taken

    def denied(self, flows: Iterable[Flow], own: frozenset[Network]) -> list[Flow]:
        """Those that policy would not let in now.

        Args:
            own: this host's own addresses; it always reaches its workloads.
        """
        return [flow for flow in flows if not self._allowed(flow, own)]

    def _allowed(self, flow: Flow, own: frozenset[Network]) -> bool:
        packet = _first_packet(flow)
        source = self._at(packet.source)
        if source is not None and not allows(source.egress, "egress", packet, self):
            return False
        destination = self._at(packet.destination)
        if destination is None or packet.source in own:
            return True
        return allows(destination.ingress, "ingress", packet, self)

    def _at(self, address: Network) -> Endpoint | None:
        return self._endpoints.at(address)

    # What `desired.verdict` asks.

    def policy(self, policy_id: PolicyId) -> Policy | None:
        return self._policies.policy(policy_id)

    def contains(self, set_id: str, member: Network | AddressPort) -> bool:
        return self._ip_sets.contains(set_id, member)


def _first_packet(flow: Flow) -> Packet:
    """As policy saw it: where it really went, from whom it really came."""
    original, reply = flow.original, flow.reply
    return Packet(
        source=original.source,
        destination=reply.source,
        protocol=original.protocol,
        source_port=original.source_port,
        destination_port=reply.source_port,
        icmp_type=original.icmp_type,
        icmp_code=original.icmp_code,
    )
