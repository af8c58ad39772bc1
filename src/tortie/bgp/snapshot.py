"""What BIRD's configuration is a function of: numbers, addresses, and names made of them.

Whatever a user wrote was parsed before it got in here. Two texts are carried
as they are, because their alphabet was checked: passwords (`bgp.secrets`) and
patterns of interface names (`bgp.filters`).
"""

from enum import Enum

import msgspec

from tortie.lib.ip import Network

DEFAULT_AS_NUMBER = 64512
"""Calico's default, the first of the 16-bit private range (RFC 6996)."""

DEFAULT_LISTEN_PORT = 179
DEFAULT_PRIORITY = 1024
"""Of routes in the kernel, as Calico's; lower is preferred."""
DEFAULT_OWN_METRIC6 = 1024
"""What the kernel gives a route of the agent's without a metric. BIRD's metric is higher than the
agent's, always: two routes with one metric cannot stand beside one another while routing moves
from one of us to the other."""
PRIORITY_BASE = 2**31 - 1
"""Between hosts a priority travels as local preference: this less the priority."""

IMPORT_LIMIT = 100_000
"""Routes of one session; more are not taken. 5,000 hosts with 10 blocks each, twice."""

Community = tuple[int, ...]
"""Two numbers of 16 bits, or three of 32."""


class PeerKind(Enum):
    """Why the session is there; what `node status` says of it."""

    MESH = "mesh"
    NODE = "node"
    GLOBAL = "global"
    WORKLOAD = "workload"


class NextHop(Enum):
    """What the peer is told to send packets to."""

    AUTO = "auto"
    """BIRD's choice: ours for our own routes, unchanged within the AS."""
    SELF = "self"
    KEEP = "keep"


class Operator(Enum):
    EQUAL = "Equal"
    NOT_EQUAL = "NotEqual"
    IN = "In"
    NOT_IN = "NotIn"


class PrefixMatch(msgspec.Struct, frozen=True):
    network: Network
    operator: Operator
    shortest: int | None = None
    longest: int | None = None


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One rule of a filter; all that is given must match."""

    accept: bool
    prefix: PrefixMatch | None = None
    learnt: bool = False
    """Only routes learnt by BGP."""
    interface: str = ""
    internal: bool | None = None
    """Only sessions within the AS (True) or to others (False)."""
    community: Community = ()
    path_prefix: tuple[int, ...] = ()
    priority: int | None = None
    add_communities: tuple[Community, ...] = ()
    prepend: tuple[int, ...] = ()
    """In the order in which they stand in the path afterwards."""
    set_priority: int | None = None


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """A BGPFilter; `symbol` is made of a hash of its name."""

    symbol: str
    export4: tuple[Rule, ...] = ()
    import4: tuple[Rule, ...] = ()
    export6: tuple[Rule, ...] = ()
    import6: tuple[Rule, ...] = ()

    def rules(self, direction: str, family: int) -> tuple[Rule, ...]:
        found: tuple[Rule, ...] = getattr(self, f"{direction}{family}")
        return found


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """One BGP session of this host."""

    address: Network
    as_number: int
    port: int = DEFAULT_LISTEN_PORT
    kind: PeerKind = PeerKind.MESH
    port_given: bool = False
    """Two sessions to one address differ by port, so then the name has it."""
    is_host: bool = True
    """Another node of the cluster."""
    is_reflector: bool = False
    """Has our own cluster id, so it is no client of ours."""
    local_as: int | None = None
    use_own_address: bool = True
    """Connect from the node's address; else from what the kernel chooses."""
    local_address: Network | None = None
    """Workloads: the address that they peer with, if there is one."""
    password: str = ""
    next_hop: NextHop = NextHop.AUTO
    hops: int | None = None
    """TTL security: at most so many hops away."""
    keepalive_seconds: int | None = None
    restart_seconds: int | None = None
    allow_local_as: int = 0
    reachable_by: Network | None = None
    bfd: bool = False
    passive: bool = False
    filters: tuple[str, ...] = ()
    """Symbols, in order."""
    closed: bool = False
    """A filter that it names is missing: nothing goes in or out."""

    @property
    def sort_key(self) -> tuple[Network, int]:
        return self.address, self.port


class Advertisement(msgspec.Struct, frozen=True):
    """Routes in `network` are given these communities when they are announced."""

    network: Network
    communities: tuple[Community, ...]


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides this host's BGP; equal snapshots render equal bytes."""

    ipv4: Network | None
    """Our own address; None means that no IPv4 session is possible."""
    ipv6: Network | None
    ipv4_subnet: Network | None = None
    ipv6_subnet: Network | None = None
    as_number: int = DEFAULT_AS_NUMBER
    listen_port: int = DEFAULT_LISTEN_PORT
    bind_to_address: bool = False
    cluster_id: Network | None = None
    """This host is a route reflector; an IPv4 address, or what looks like one."""
    debug: bool = False
    ignored_interfaces: tuple[str, ...] = ()
    priority4: int = DEFAULT_PRIORITY
    priority6: int = DEFAULT_PRIORITY
    metric4: int = DEFAULT_PRIORITY
    metric6: int = DEFAULT_OWN_METRIC6 + 1
    peers: tuple[Peer, ...] = ()
    filters: tuple[Filter, ...] = ()
    pools: tuple[Network, ...] = ()
    """Only what lies in a pool is learnt from peers and given to the kernel."""
    exported_pools: tuple[Network, ...] = ()
    """Only what lies in one of these is announced."""
    own_blocks: tuple[Network, ...] = ()
    """Announced whole; the addresses in them never singly."""
    services: tuple[Network, ...] = ()
    """Networks of service addresses that this host announces whole."""
    foreign_services: tuple[Network, ...] = ()
    """All networks of service addresses; a reflector passes them on."""
    advertisements: tuple[Advertisement, ...] = ()
    route_protocol: int = 80
    """The protocol number of the agent's routes, which are what we announce."""
    import_limit: int = IMPORT_LIMIT
    """Routes that a switch or a workload may give; a host, which passes on theirs, some more."""
