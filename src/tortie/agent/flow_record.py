"""Flows as the agent tells them: one JSON object a line, on a unix socket.

A client sends a `Question` and hears a `Greeting`, then a `Record` for each flow of each window;
with `follow` the line `{"now": true}` and then, until it closes, a `Record` of each change.
"""

from typing import Literal

import msgspec

SOCKET_NAME = "flows.sock"
"""In the agent's run directory."""


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    since: float = 0.0
    """Unix time: flows with a packet then or later."""
    follow: bool = False


class Greeting(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    host: str
    sees: Literal["all", "denied", "nothing"]
    """Which packets are logged at all."""
    why: str = ""
    """Why not more."""
    lost: int = 0
    """Logged packets that were lost before they were counted, since the agent's start."""
    beyond_limit: dict[str, int] = {}
    """By verdict and direction, packets that the kernel has not logged, to stay under its limit."""


class Decided(msgspec.Struct, frozen=True, rename="camel"):
    """What decided: a rule, or `reason`."""

    tier: str = ""
    """Empty for profiles, and where no tier was asked."""
    policy: str = ""
    """`NetworkPolicy(default/web)`, as `tortie policy why` has it."""
    rule: int | None = None
    """From 0, of the policy's rules in the flow's direction."""
    reason: str = ""


class Would(Decided, frozen=True, rename="camel", kw_only=True):
    """What would have been if all that is staged were enforced."""

    verdict: Literal["Allow", "Deny"]


class Record(msgspec.Struct, rename="camel", kw_only=True, omit_defaults=True):
    host: str = ""
    """Who saw it; filled in by who asked."""
    verdict: Literal["Allow", "Deny"]
    direction: Literal["ingress", "egress"]
    source: str
    """`namespace/workload`, an address, or `*`: several for which there was no room."""
    destination: str
    family: int
    protocol: str
    """`tcp`, or a number."""
    port: int = 0
    """Of the destination; ICMP's type."""
    decided: Decided
    staged: Would | None = None
    """None: nothing is staged there."""
    packets: int = 0
    bytes: int = 0
    answered_packets: int = 0
    answered_bytes: int = 0
    """What the destination sent back."""
    start: float
    """Unix time."""
    end: float
