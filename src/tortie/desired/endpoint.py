"""Endpoints, hosts, pools and routes as this host needs them."""

from enum import Enum

import msgspec

from tortie.desired.policy import PolicyList
from tortie.lib.ip import Network


class EndpointId(msgspec.Struct, frozen=True, order=True, gc=False):
    """Names a workload endpoint: namespace and resource name, as in the datastore."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class FloatingAddress(msgspec.Struct, frozen=True, order=True):
    """An address that leads to an endpoint, which knows nothing of it."""

    external: Network
    internal: Network
    """One of the endpoint's own, of the same family."""


class PacketRate(msgspec.Struct, frozen=True, order=True):
    packets: int
    """Each second."""
    burst: int


class Bandwidth(msgspec.Struct, frozen=True):
    rate: int
    """Bits per second."""
    burst: int
    """Bits."""
    peak_rate: int = 0
    """Bits per second; 0: a burst goes as fast as it can."""
    peak_burst: int = 0
    """Bytes, at least a packet of the link's size."""


class Limits(msgspec.Struct, frozen=True):
    """What an endpoint may send (egress) and get (ingress); and how what it sends is marked."""

    ingress_rate: PacketRate | None = None
    egress_rate: PacketRate | None = None
    ingress_connections: int = 0
    """The most at a time; 0 means any number."""
    egress_connections: int = 0
    dscp: int | None = None
    """0 to 63, of packets that leave the pools; None leaves them as they are."""
    ingress_bandwidth: Bandwidth | None = None
    egress_bandwidth: Bandwidth | None = None


class Endpoint(msgspec.Struct, frozen=True):
    """A workload endpoint on this host.

    Two endpoints never name the same interface or address: calc has picked
    a winner; the loser has no addresses and empty lists, so it is closed.
    """

    interface: str
    networks: tuple[Network, ...]
    """Full-length: the addresses that are routed to it and that it may send from."""
    mac: str = ""
    """`xx:xx:xx:xx:xx:xx` of the workload's side; empty means any."""
    ingress: PolicyList = PolicyList()
    egress: PolicyList = PolicyList()
    floating: tuple[FloatingAddress, ...] = ()
    """Several endpoints may claim one: the lowest `EndpointId` has it."""
    limits: Limits = Limits()
    sources: tuple[Network, ...] = ()
    """What it may send from beside its own addresses, where the host lets any do so; sorted, and
    none within another."""
    dhcp: bool = False
    """This host gives it its address by DHCP, and is its router in IPv6's sense."""


class Host(msgspec.Struct, frozen=True):
    """A node of the cluster, this one included."""

    ipv4: Network | None = None
    """Its own address, full length."""
    ipv6: Network | None = None
    ipv4_subnet: Network | None = None
    ipv6_subnet: Network | None = None
    as_number: int | None = None
    """None means the cluster's default."""


class Pool(msgspec.Struct, frozen=True):
    """An address pool; masquerading and what BGP may export rest on it."""

    masquerade: bool = False
    export: bool = True


class RouteType(Enum):
    LOCAL_WORKLOAD = "local workload"
    """One of our endpoints' addresses: to its interface."""
    LOCAL_BLOCK = "local block"
    """Our own block: blackhole, so that unassigned addresses do not loop."""
    REMOTE = "remote"
    """Another host's block, or an address borrowed by it: via that host."""


class Route(msgspec.Struct, frozen=True):
    type: RouteType
    interface: str = ""
    """LOCAL_WORKLOAD: where to."""
    borrowed: bool = False
    """LOCAL_WORKLOAD: outside our own blocks, so it must be announced by itself."""
    host: str = ""
    """REMOTE: which host."""
    gateway: Network | None = None
    """REMOTE: that host's address of the route's family; None while unknown (no route)."""
