"""What the agent's configuration tells the dataplane; read once, never changed."""

from typing import Literal

import msgspec

from tortie.lib.ip import Network

EndpointToHostAction = Literal["Drop", "Return", "Accept"]
DenyAction = Literal["Drop", "Reject"]
ServiceLoops = Literal["Drop", "Reject", "Disabled"]
NatExclusions = Literal["IPPoolsOnly", "IPPoolsAndHostIPs"]


class ProtoPort(msgspec.Struct, frozen=True):
    """A port that stays open on host endpoints whatever policy says."""

    protocol: int
    port: int
    network: Network | None = None
    """Of the other end; None: anybody."""


class MetadataServer(msgspec.Struct, frozen=True):
    """Who answers workloads at 169.254.169.254, port 80."""

    address: Network | None
    """IPv4; None: this host."""
    port: int


class LogLimit(msgspec.Struct, frozen=True):
    """How often a rule may write to the kernel's log."""

    packets: int
    unit_seconds: int
    burst: int


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Defaults are Calico's where it has the setting, else the closed choice."""

    host: str
    """This node's name in the datastore."""
    interface_prefixes: tuple[str, ...] = ("cali",)
    """Links whose names begin so are workloads'; each 1 to 15 bytes."""
    ipv6: bool = True
    """False: IPv6 is dropped from and to workloads, neighbour discovery included."""
    endpoint_to_host_action: EndpointToHostAction = "Drop"
    """What becomes of a packet from a workload to this host that egress policy allows."""
    deny_action: DenyAction = "Drop"
    """Reject: who sends what policy denies is told so, where `rules.seen` can."""
    service_loops: ServiceLoops = "Drop"
    """What becomes of packets for services that nobody serves: see `rules.service_loop`."""
    allow_vxlan_from_workloads: bool = False
    allow_ipip_from_workloads: bool = False
    vxlan_port: int = 4789
    other_sources: bool = False
    """Let workloads send from the prefixes that their endpoints name, too."""
    mark_mask: int = 0xFFFF0000
    """Bits of the packet mark that are ours; at least three."""
    metadata: MetadataServer | None = None
    """None: nobody is led anywhere."""
    log_prefix: str = "calico-packet"
    """Of what rules with the action Log write to the kernel's log."""
    log_limit: LogLimit | None = None
    """How often such a rule writes; None: each packet."""
    log_denied: bool = False
    """Tell NFLOG what is dropped, and what decided so: see `rules.seen`."""
    log_allowed: bool = False
    """And the first packets of what is let through."""
    evaluate_staged: bool = True
    """Say of each logged packet what staged policies would have made of it."""
    failsafe_inbound: tuple[ProtoPort, ...] = ()
    failsafe_outbound: tuple[ProtoPort, ...] = ()
    nat_exclusions: NatExclusions = "IPPoolsOnly"
    """Where masquerading stops beside the pools: at the other hosts' own addresses too?"""
    nat_address: Network | None = None
    """What IPv4 masquerading makes the source; None: an address of where it goes out."""
    nat_ports: tuple[int, int] | None = None
    """First and last source port of what is masqueraded, TCP and UDP; None: any."""
    nat_interface: str = ""
    """Masquerade only what goes out by the link of this name, or with a `+` at the end by those
    whose names begin so; empty: by any."""
    route_sources: tuple[Network, ...] = ()
    """This host's address that its own packets to workloads are from; at most one a family."""
    install_routes: bool = True
    """False: somebody else makes the routes, those to workloads too."""
    forwarding: bool = True
    """Have this host forward packets."""
    drop_invalid: bool = True
    """Drop what belongs to no connection, says the kernel."""
    excluded_interfaces: str = ""
    """A regular expression for all of a name: links whose addresses no host endpoint goes by."""
    route_protocol: int = 80
    """rtm_protocol of our routes; routes of any other protocol are never touched."""
    route_metric4: int = 0
    """Of our routes; 0: none."""
    route_metric6: int = 0
    """0: none, which the kernel makes 1024."""
    install_remote_routes: bool = True
    """Routes to other hosts' blocks are ours ("direct"); False leaves them to BGP."""
    conntrack_cleanup: bool = True
    """Delete the connections of addresses that leave this host."""

    cut_denied_connections: bool = True
    """Delete the connections that policy let in before and would not let in now."""

    guard_links: bool = False
    """Links to workloads let out only what these tables have seen; see `driver.guard`."""

    @property
    def mark_pass(self) -> int:
        """The bit that says "a rule said Pass": the lowest of ours."""
        return _lowest(self.mark_mask)

    @property
    def mark_accepted(self) -> int:
        """The bit that says "what comes in here has been allowed": nobody asks again at that end.
        The second lowest of ours. Also for others' rules to know what we let in."""
        return _lowest(self.mark_mask & ~self.mark_pass)

    @property
    def mark_deferred(self) -> int:
        """The bit that says "policy is asked when it is known where this goes out". The third."""
        return _lowest(self.mark_mask & ~self.mark_pass & ~self.mark_accepted)

    @property
    def mark_rule(self) -> int:
        """The bits that say which rule let a packet through: all of ours but the lowest four.

        May be none, if ours are few.
        """
        left = self.mark_mask
        for _ in range(4):
            left &= left - 1
        return left

    @property
    def mark_seen(self) -> int:
        """The bit that says "through these tables to a workload": the fourth of ours; 0
        where links are not guarded, or ours are too few."""
        left = self.mark_mask
        for _ in range(3):
            left &= left - 1
        return left & -left if self.guard_links else 0

    @property
    def mark_unseen(self) -> int:
        """What all of our bits say on a packet that a workload has just sent, until these tables
        clear them; 0 where links are not guarded.

        All but `mark_seen`: no chain makes that of a packet which is yet to be routed, as
        `mark_deferred` is set behind that; and nobody else's single bit is taken for it.
        """
        return self.mark_mask & ~self.mark_seen if self.mark_seen else 0


def _lowest(mask: int) -> int:
    return mask & -mask
