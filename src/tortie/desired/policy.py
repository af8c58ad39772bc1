"""Policies as this host enforces them: every reference resolved to a set."""

from enum import Enum
from typing import Literal, NamedTuple

import msgspec

from tortie.lib.ip import Network

TCP, UDP, SCTP, ICMP, ICMPV6, UDPLITE = 6, 17, 132, 1, 58, 136
"""Protocol numbers (IANA)."""

Action = Literal["Allow", "Deny", "Log", "Pass"]
Direction = Literal["ingress", "egress"]
"""Of an endpoint: what reaches it, and what leaves it."""


class IPSetType(Enum):
    NET = "net"
    """Members are `Network`."""
    ADDRESS_PORT = "address-port"
    """Members are `AddressPort`: a named port, as each endpoint serves it."""


class AddressPort(NamedTuple):
    address: Network
    protocol: int
    port: int


class PortRange(NamedTuple):
    first: int
    last: int
    """Inclusive."""


class ICMPMatch(NamedTuple):
    type: int
    code: int | None = None


class Side(msgspec.Struct, frozen=True, omit_defaults=True):
    """What must hold for the source, or the destination, of a packet.

    All fields that are given must hold. Within `networks` one must contain
    the address; of `ports` and `named_ports` together one must match. An
    unresolvable reference has become an empty set, which matches nothing.
    """

    networks: tuple[Network, ...] = ()
    not_networks: tuple[Network, ...] = ()
    sets: tuple[str, ...] = ()
    """Ids of `NET` sets; the address must be in each."""
    not_sets: tuple[str, ...] = ()
    ports: tuple[PortRange, ...] = ()
    named_ports: tuple[str, ...] = ()
    """Ids of `ADDRESS_PORT` sets; address, protocol and port must be in one."""
    not_ports: tuple[PortRange, ...] = ()
    not_named_ports: tuple[str, ...] = ()

    @property
    def set_ids(self) -> tuple[str, ...]:
        return (*self.sets, *self.not_sets, *self.named_ports, *self.not_named_ports)


class Rule(msgspec.Struct, frozen=True, omit_defaults=True):
    action: Action
    family: int | None = None
    """4, 6, or None for both."""
    protocol: int | None = None
    not_protocol: int | None = None
    icmp: ICMPMatch | None = None
    not_icmp: ICMPMatch | None = None
    source: Side = Side()
    destination: Side = Side()
    annotations: tuple[tuple[str, str], ...] = ()
    """From the rule's metadata, sorted."""


class PolicyId(msgspec.Struct, frozen=True, order=True, gc=False):
    kind: str
    """`GlobalNetworkPolicy`, `NetworkPolicy` or `Profile`, or a staged kind of policy."""
    name: str
    namespace: str = ""

    @property
    def staged(self) -> bool:
        """Computed, and never enforced."""
        return self.kind.startswith("Staged")

    def __str__(self) -> str:
        scope = f"{self.namespace}/" if self.namespace else ""
        return f"{self.kind}({scope}{self.name})"


class Policy(msgspec.Struct, frozen=True):
    """Rules in order; the first that matches decides (Log goes on)."""

    ingress: tuple[Rule, ...] = ()
    egress: tuple[Rule, ...] = ()
    tier: str = ""
    """Empty for a profile."""

    def rules(self, direction: Direction) -> tuple[Rule, ...]:
        return self.ingress if direction == "ingress" else self.egress


class TierPolicies(msgspec.Struct, frozen=True):
    """The policies of one tier that apply to an endpoint in one direction, in order."""

    name: str
    default_action: Literal["Deny", "Pass"]
    policies: tuple[PolicyId, ...]
    """At least one: a tier without any for this endpoint does not appear."""


class PolicyList(msgspec.Struct, frozen=True):
    """All that decides one direction of an endpoint; equal lists share one chain.

    Tiers in order; Pass, or a default action of Pass, leads to the next one.
    `profiles` is what comes after the last tier: empty when a tier applies
    and nothing passes beyond; a packet that nothing decides is dropped.
    """

    tiers: tuple[TierPolicies, ...] = ()
    profiles: tuple[PolicyId, ...] = ()
