"""The host's own interfaces as policy sees them."""

from collections.abc import Collection, Mapping

import msgspec

from tortie.desired.policy import PolicyList
from tortie.lib.ip import Network

ALL_INTERFACES = "*"
LOOPBACK = "lo"


class HostEndpoint(msgspec.Struct, frozen=True):
    """What decides about packets through one interface of this host, or through all of them.

    `ingress` and `egress` are for packets to and from the host itself, and work like a workload
    endpoint's: what nothing decides is dropped. In all other lists what nothing decides goes on
    to where it would have gone, and there are never profiles: an empty list lets everything by.
    """

    interface: str
    """Its name; `*` for all that no other host endpoint is for; empty to go by `addresses`."""
    addresses: tuple[Network, ...] = ()
    """It is for the interfaces that have one of these. Only where none is named."""
    ingress: PolicyList = PolicyList()
    egress: PolicyList = PolicyList()
    forward_ingress: PolicyList = PolicyList()
    """For packets that come in here and are not for the host."""
    forward_egress: PolicyList = PolicyList()
    untracked_ingress: PolicyList = PolicyList()
    """Before connection tracking: what is allowed here is neither tracked nor asked about again."""
    untracked_egress: PolicyList = PolicyList()
    pre_dnat: PolicyList = PolicyList()
    """For what comes in, by its destination before translation; allowed here is allowed."""


def host_endpoint_for(
    interface: str, addresses: Collection[Network], endpoints: Mapping[str, HostEndpoint]
) -> str | None:
    """The name of the host endpoint that an interface with these addresses belongs to.

    The lowest name of those that fit; one for all interfaces only if no other one fits, and
    never for `lo`: what a host says to itself is its own affair.
    The untracked lists of that one are for no interface (they would meet workloads' packets).

    Source: Calico, felix/dataplane/linux/endpoint_mgr.go, resolveHostEndpoints.
    """
    fitting = [
        name
        for name, endpoint in endpoints.items()
        if endpoint.interface == interface
        or (not endpoint.interface and not set(endpoint.addresses).isdisjoint(addresses))
    ]
    every = [name for name, one in endpoints.items() if one.interface == ALL_INTERFACES]
    return min(fitting or (every if interface != LOOPBACK else []), default=None)
