"""What this host's desired state says about one packet on its way through the host.

`verdict` asks one list; here are all that a packet meets, in their order, host endpoints' among
them. Every new packet is asked:

1. where it comes in at a host endpoint, before connection tracking: its untracked list; and, by
   the destination before translation, its pre-DNAT list; if that has nothing in it, the one of
   the host endpoint of all interfaces. Failsafe ports are not asked. What is
   allowed here is not asked again by that host endpoint's lists below.
2. for the host: from a workload its egress list, and then the endpoint-to-host action; else the
   host endpoint's ingress list.
3. made by the host: the untracked list, then the egress list, of the host endpoint where it goes
   out. The host always reaches its own workloads.
4. forwarded: a host endpoint's forward list or a workload's egress list where it comes in, and a
   workload's ingress list or a host endpoint's forward list where it goes out; both must agree.
   There are no failsafe ports for what only passes by.

The pre-DNAT and forward lists of the host endpoint of all interfaces are asked at workloads'
interfaces too, beside the workloads' own.

Pure; knows nothing of a kernel. Source: Calico, felix/rules/static.go, felix/rules/endpoints.go.
"""

from typing import Literal, NamedTuple

from tortie.desired.endpoint import Endpoint
from tortie.desired.host_endpoint import ALL_INTERFACES, HostEndpoint
from tortie.desired.policy import Direction, PolicyList
from tortie.desired.verdict import Facts, Packet, allows, decision
from tortie.lib.ip import Network

End = Endpoint | HostEndpoint | Literal["this host", "open", "closed"]
"""Where a packet comes from or goes to: through a workload's interface, through an interface that
a host endpoint is for, or `this host`: made by it or for it. `open` is an interface that no host
endpoint is for, `closed` one that should be a workload's and has no endpoint."""


class FailsafePort(NamedTuple):
    protocol: int
    port: int
    network: Network | None = None
    """Of the peer; None: any."""


class PassageSettings(NamedTuple):
    failsafe_inbound: tuple[FailsafePort, ...] = ()
    failsafe_outbound: tuple[FailsafePort, ...] = ()
    endpoint_to_host: Literal["Drop", "Return", "Accept"] = "Drop"


class Passage(NamedTuple):
    """The first packet of a connection, and its way."""

    packet: Packet
    """As it was before destination NAT."""
    came_in: End
    goes_out: End
    translated: Packet | None = None
    """Behind destination NAT; None: nothing was translated."""
    for_all: HostEndpoint | None = None
    """The host endpoint of all interfaces, if there is one; None where the packet comes in by `lo`,
    which is none of its."""


def passes(passage: Passage, facts: Facts, settings: PassageSettings) -> bool:
    """Whether the packet gets where it wants to, as far as policy has a say."""
    came_in, goes_out = passage.came_in, passage.goes_out
    packet = passage.translated or passage.packet
    entry, exit_ = (_asked_about_passing(end, passage) for end in (came_in, goes_out))
    early = _early(entry, passage, facts, settings) if entry else None
    if early == "Deny":
        return False
    waved = early == "Allow"
    if goes_out == "this host":
        spared = waved and isinstance(came_in, HostEndpoint)
        return spared or _reaches_host(came_in, packet, facts, settings)
    if came_in == "this host":
        return _leaves_host(goes_out, passage, facts, settings)
    return (
        (waved or _lets_by(entry, "ingress", packet, facts))
        and _workload_lets_by(came_in, "egress", packet, facts)
        and _workload_lets_by(goes_out, "ingress", packet, facts)
        and _lets_by(exit_, "egress", packet, facts)
    )


def _asked_about_passing(end: End, passage: Passage) -> HostEndpoint | None:
    if isinstance(end, HostEndpoint):
        return end
    return passage.for_all if isinstance(end, Endpoint) or end == "closed" else None


def is_failsafe(ports: tuple[FailsafePort, ...], protocol: int, port: int, peer: Network) -> bool:
    """
    Args:
        port: of this host.
        peer: the other end's address.
    """
    return any(
        one.protocol == protocol
        and one.port == port
        and (one.network is None or one.network.contains(peer))
        for one in ports
    )


def _early(
    end: HostEndpoint, passage: Passage, facts: Facts, settings: PassageSettings
) -> Literal["Allow", "Deny"] | None:
    """What is said before the normal lists are asked; None: nothing."""
    packet = passage.packet
    if _is_inbound_failsafe(packet, settings):
        return None
    # Nothing is known of connections yet, so answers to failsafe connections look like this.
    answers = is_failsafe(
        settings.failsafe_outbound, packet.protocol, packet.source_port, packet.source
    )
    if end.interface != ALL_INTERFACES and not answers:
        said = decision(end.untracked_ingress, "ingress", packet, facts)
        if said is not None:
            return said
    asked = end if end.pre_dnat != PolicyList() or passage.for_all is None else passage.for_all
    return decision(asked.pre_dnat, "ingress", packet, facts)


def _reaches_host(came_in: End, packet: Packet, facts: Facts, settings: PassageSettings) -> bool:
    if isinstance(came_in, Endpoint):
        allowed = allows(came_in.egress, "egress", packet, facts)
        return allowed and settings.endpoint_to_host != "Drop"
    if isinstance(came_in, HostEndpoint):
        return _is_inbound_failsafe(packet, settings) or allows(
            came_in.ingress, "ingress", packet, facts
        )
    return came_in != "closed"


def _leaves_host(goes_out: End, passage: Passage, facts: Facts, settings: PassageSettings) -> bool:
    if not isinstance(goes_out, HostEndpoint):
        return True
    first, packet = passage.packet, passage.translated or passage.packet
    answers = is_failsafe(
        settings.failsafe_inbound, first.protocol, first.source_port, first.destination
    )
    failsafe = _is_outbound_failsafe(first, settings)
    if goes_out.interface != ALL_INTERFACES and not failsafe and not answers:
        said = decision(goes_out.untracked_egress, "egress", first, facts)
        if said is not None:
            return said == "Allow"
    return _is_outbound_failsafe(packet, settings) or allows(
        goes_out.egress, "egress", packet, facts
    )


def _workload_lets_by(end: End, direction: Direction, packet: Packet, facts: Facts) -> bool:
    if not isinstance(end, Endpoint):
        return end != "closed"
    policies = end.egress if direction == "egress" else end.ingress
    return allows(policies, direction, packet, facts)


def _lets_by(end: HostEndpoint | None, direction: Direction, packet: Packet, facts: Facts) -> bool:
    if end is None:
        return True
    policies = end.forward_egress if direction == "egress" else end.forward_ingress
    return decision(policies, direction, packet, facts) != "Deny"


def _is_inbound_failsafe(packet: Packet, settings: PassageSettings) -> bool:
    return is_failsafe(
        settings.failsafe_inbound, packet.protocol, packet.destination_port, packet.source
    )


def _is_outbound_failsafe(packet: Packet, settings: PassageSettings) -> bool:
    return is_failsafe(
        settings.failsafe_outbound, packet.protocol, packet.destination_port, packet.destination
    )
