"""Names of kernel objects: all from hashes, so that no user's text gets there.

Names are at most 31 bytes (the limit of older kernels) and hold what nft(8)
takes in a name. They carry 144 bits of BLAKE2b: a collision would merge two
objects, and nobody who may name a policy can look for one.
"""

import base64
import hashlib
from collections.abc import Hashable
from typing import Literal

import msgspec

from tortie.desired.policy import PolicyId, PolicyList
from tortie.lib.ip import Network

Direction = Literal["ingress", "egress"]
Place = Literal["workload", "host", "forward", "untracked", "pre-dnat", "translated"]
"""Who asks a policy list, which decides what an Allow does and what follows its end: a workload
endpoint; or a host endpoint, about its host's own packets, about those that pass by, before
connection tracking, before destination NAT, or about its host's own behind that: the last only
where it must be told from `host`, see `seen.can_reject`."""

LIST_ID_BYTES = 16
PORTS_ID_BYTES = 16

# Chains and sets that are always there.

SOURCES = {4: "sources4", 6: "sources6"}
"""interface · address: what a workload may send from."""
SOURCE_LISTS = "source-lists"
"""interface → id of the list of prefixes that it may send from beside those."""
SOURCE_CHAINS = "source-chains"
"""that id → chain."""
LINK_LOCAL = "link-local"
"""interface · address: the link-local one that the workload's MAC gives it."""
LINK_LOCAL_LIMITS = "link-local-limits"
"""interfaces: each may speak so often from other link-local addresses."""
DHCP = "dhcp"
"""interfaces: this host is their DHCP server and their IPv6 router."""
LISTS: dict[Direction, str] = {"ingress": "ingress-lists", "egress": "egress-lists"}
"""interface → list id, of workloads; plain data, so an endpoint's change is cheap."""
CHAINS: dict[Direction, str] = {"ingress": "ingress-chains", "egress": "egress-chains"}
"""list id → chain, of workloads."""
HOST_PLACES: tuple[tuple[Place, Direction], ...] = (
    ("host", "ingress"),
    ("host", "egress"),
    ("forward", "ingress"),
    ("forward", "egress"),
    ("untracked", "ingress"),
    ("untracked", "egress"),
    ("pre-dnat", "ingress"),
)
"""The lists of a host endpoint; each has the same two maps, under names of its own."""
TRANSLATED: tuple[Place, Direction] = ("translated", "egress")
"""And this one, where what is denied is rejected."""
FAILSAFE: dict[Direction, str] = {"ingress": "failsafe-inbound", "egress": "failsafe-outbound"}
"""protocol · port of what host endpoints never close."""
NEIGHBOUR_DISCOVERY = "neighbour-discovery"
"""ICMPv6 types that host endpoints never close."""
RULE_PORTS = "rule-ports"
"""side of a rule · port: the ports that rules name one by one, of all rules."""
POOLS = {4: "pools4", 6: "pools6"}
MASQUERADE = {4: "masquerade4", 6: "masquerade6"}
HOSTS = {4: "hosts4", 6: "hosts6"}
SERVICES = {4: "services4", 6: "services6"}
FLOATING = {4: "floating4", 6: "floating6"}
"""floating address → the workload's own."""
HAIRPIN = {4: "hairpin4", 6: "hairpin6"}
"""a workload's own address twice → a floating one of it."""
ARP_SENDERS = "senders"
"""interface · address · MAC, in the arp table."""
ARP_SENDERS_ANY_MAC = "senders-any-mac"
"""interface · address, where the datastore does not know the MAC."""


def digest(*parts: Hashable) -> str:
    """24 characters of base 64 over `repr`, which tells apart what differs."""
    packed = hashlib.blake2b(repr(parts).encode(), digest_size=18).digest()
    return base64.urlsafe_b64encode(packed).decode()


def list_id(policies: PolicyList) -> bytes:
    """What equal policy lists share, 16 bytes: the key to their chain."""
    return hashlib.blake2b(msgspec.json.encode(policies), digest_size=LIST_ID_BYTES).digest()


def ports_id(*parts: Hashable) -> bytes:
    """What tells the ports of one side of one rule from all others, 16 bytes."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=PORTS_ID_BYTES).digest()


def source_list_id(networks: tuple[Network, ...]) -> bytes:
    """What equal lists of prefixes share, 16 bytes: the key to their chain."""
    return hashlib.blake2b(repr(networks).encode(), digest_size=LIST_ID_BYTES).digest()


def source_chain(networks: tuple[Network, ...]) -> str:
    return f"o-{digest(networks)}"


def source_set(networks: tuple[Network, ...], family: int) -> str:
    return f"o{family}-{digest(networks)}"


def list_data(identity: bytes) -> bytes:
    """A list id as map data: one empty word before it; `match.dispatch` says why."""
    return bytes(4) + identity


def lists_map(direction: Direction, place: Place = "workload") -> str:
    """interface → list id."""
    return LISTS[direction] if place == "workload" else f"{place}-{LISTS[direction]}"


def chains_map(direction: Direction, place: Place = "workload") -> str:
    """list id → chain."""
    return CHAINS[direction] if place == "workload" else f"{place}-{CHAINS[direction]}"


_LIST_PREFIX: dict[Place, str] = {
    "workload": "l",
    "host": "h",
    "forward": "f",
    "untracked": "u",
    "pre-dnat": "d",
    "translated": "t",
}
_POLICY_PREFIX: dict[Place, str] = {"untracked": "pu", "pre-dnat": "pd", "translated": "pt"}
"""Elsewhere an Allow means the same, so that the chain is shared."""


def list_chain(identity: bytes, direction: Direction, place: Place = "workload") -> str:
    return f"{_LIST_PREFIX[place]}{direction[0]}-{digest(identity)}"


def policy_chain(policy: PolicyId, direction: Direction, place: Place = "workload") -> str:
    prefix = _POLICY_PREFIX.get(place, "p")
    return f"{prefix}{direction[0]}-{digest(policy.kind, policy.namespace, policy.name)}"


def net_set(set_id: str, family: int, *, wide: bool) -> str:
    """The kernel's set for a `NET` set of desired state, one per family.

    Args:
        wide: it holds networks of more than one address, and so is an interval
            set: a kernel's set cannot become one, so this is another set.
    """
    return f"{'i' if wide else 's'}{family}-{digest(set_id)}"


def port_set(set_id: str, family: int) -> str:
    """The kernel's set for an `ADDRESS_PORT` set of desired state."""
    return f"a{family}-{digest(set_id)}"
