"""Packets for services that nobody serves, kept from going round in circles.

Whoever serves a service (kube-proxy) translates its address before this host routes, to that of a
workload. What still has an address of a service when it is forwarded is for one that is not there,
or has no such port. This host would send it out by its default route, and the router there, that
has been told by BGP where services are, would send it back, until its hops are used up.

So it ends here, behind policy; but not what goes to a workload of this host: who has such an
address itself is served. The chains are there while there are networks of services:

    service-loops      2   asks for the address
    service-loop           leaves what goes to workloads alone; drops or rejects the rest

Source: Calico, felix/dataplane/linux/service_loop_mgr.go. That rejects as we do, by "port
unreachable", and leaves nothing alone.
"""

from tortie.dataplane.rules import match, names, seen
from tortie.dataplane.rules.chain import FILTER_PRIORITY, chain, filter_chain
from tortie.dataplane.rules.content import Content, interval_set
from tortie.dataplane.rules.match import Expressions
from tortie.dataplane.settings import Settings
from tortie.kernel.nft.constants import CtState, Hook, RejectKind
from tortie.kernel.nft.expressions import ACCEPT, Counter, Reject, goto

LOOP = "service-loop"
_PRIORITY = FILTER_PRIORITY + 2
"""Behind the last chain of policy."""
_PORT_UNREACHABLE = 1
"""NFT_REJECT_ICMPX_PORT_UNREACH, include/uapi/linux/netfilter/nf_tables.h."""


def service_loops_table(settings: Settings) -> Content:
    """Chains and sets; the elements come from others. Nothing where loops are not prevented."""
    if settings.service_loops == "Disabled":
        return Content()
    end: Expressions = (Counter(), Reject(RejectKind.ICMPX, _PORT_UNREACHABLE))
    if settings.service_loops == "Drop":
        end = seen.dropped(seen.NOT_SERVED, "egress", settings)
    chains = (
        filter_chain(
            "service-loops",
            Hook.FORWARD,
            _PRIORITY,
            # Answers may have the address of a service, where its networks hold clients, too.
            (*match.connection(CtState.ESTABLISHED | CtState.RELATED), ACCEPT),
            *(
                (
                    *match.family(family),
                    *match.in_set(match.destination(family), name),
                    goto(LOOP),
                )
                for family, name in names.SERVICES.items()
            ),
        ),
        chain(LOOP, *match.going_out(settings.interface_prefixes, (ACCEPT,)), end),
    )
    sets = {name: interval_set(name, family) for family, name in names.SERVICES.items()}
    return Content(chains=dict(chains), sets=sets)
