"""Who brings routes to other hosts into the kernel: the agent, BIRD, or nobody; never both."""

from enum import Enum

from tortie.datastore.connect import DatastoreType

_WITHOUT_ENCAPSULATION = ("Enabled", "EnabledNoEncapOnly")


class Routing(Enum):
    DIRECT = "direct"
    """The agent, from the datastore; for hosts on one L2 segment."""
    BGP = "bgp"
    """BIRD, configured by us."""
    NONE = "none"


def choose_routing(felix: str, bgp: str, datastore: DatastoreType | None) -> Routing:
    """
    Args:
        felix, bgp: `programClusterRoutes` of FelixConfiguration and of
            BGPConfiguration; empty where it is not set.

    Source: Calico, design/cluster-route-programming/DESIGN.md.
    """
    if felix in _WITHOUT_ENCAPSULATION:
        return Routing.DIRECT
    if bgp in _WITHOUT_ENCAPSULATION:
        return Routing.BGP
    if bgp:
        return Routing.NONE
    if not felix and datastore is DatastoreType.EMBEDDED:
        return Routing.DIRECT
    return Routing.BGP
