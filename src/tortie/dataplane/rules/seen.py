"""Verdicts that are seen: logged with what decided them, and then carried out.

A rule that decides puts its id into the packet's mark and goes to a chain that
all rules of that verdict and direction share. That one logs the mark, while it
is under its limit and the workload under its own, and accepts or drops. So a
rule stays one rule, the limits lie in the kernel, and packets of known
connections come to none of this. Workloads' limits are elements that packets
make themselves, and that go when nobody needs them: at rest they cost nothing.

The id of a rule is a hash of the policy and of the rule's shape, not of its
place: rules that move are not written anew. A packet that is dropped needs its
mark no more, so there the id is all 32 bits; one that is accepted has only bits
of ours to give (`Settings.mark_rule`), and several rules may share what fits in
there: `manager.seen` tells them apart.

What policy denies is dropped or, where that is set, rejected: TCP gets a reset, all else an ICMP
error that says "administratively prohibited". Not before routing (untracked and pre-DNAT policy,
which floods come to) nor at postrouting, where the kernel cannot; and not what policy has no word
about: forgeries, interfaces without an endpoint, and what belongs to no connection, as a reset
would end the connection that a late packet once belonged to.
"""

import hashlib
from collections.abc import Hashable
from typing import Literal

from tortie.dataplane.rules import match
from tortie.dataplane.rules.content import ChainContent
from tortie.dataplane.rules.match import Expressions
from tortie.dataplane.rules.names import Direction, Place
from tortie.dataplane.settings import Settings
from tortie.desired.policy import TCP
from tortie.kernel.nft import keys
from tortie.kernel.nft.constants import CtState, MetaKey, RejectKind, SetFlag
from tortie.kernel.nft.expressions import (
    ACCEPT,
    DROP,
    Counter,
    Immediate,
    Limit,
    Log,
    Meta,
    MetaSet,
    Reject,
    SetUpdate,
    Verdict,
    goto,
)
from tortie.kernel.nft.objects import IFNAME, Rule, Set

Seen = Literal["allowed", "denied"]

GROUP = 7430
"""NFLOG group; a group has one listener, so none that others' examples use."""

LOGGED_A_SECOND = 100
LOGGED_AT_ONCE = 200
"""For each direction and verdict. An agent needs some 50 µs for each packet."""
LOGGED_A_SECOND_OF_ONE = 25
LOGGED_AT_ONCE_OF_ONE = 50
"""Of one workload: by the interface that it comes from (egress) or goes to (ingress). A host's
own interfaces count together where the packet is for the host, or made by it."""
_FORGOTTEN_AFTER_MILLISECONDS = 10_000
"""By then a limit is whole again."""
_REMEMBERED = 65_535
"""Interfaces. What finds no room is not logged."""

_REJECT = "reject"
_PROHIBITED = 3
"""NFT_REJECT_ICMPX_ADMIN_PROHIBITED, include/uapi/linux/netfilter/nf_tables.h."""

DIRECTIONS: tuple[Direction, ...] = ("ingress", "egress")

NOT_ITS_SOURCE = "source address is not the workload's"
NOT_ITS_PLACE = "only a router or DHCP server sends this"
TUNNEL = "encapsulated"
INVALID = "belongs to no connection"
NO_ENDPOINT = "no endpoint, or none in force"
NO_IPV6 = "IPv6 is off"
END_OF_LIST = "no policy or profile decided"
TO_HOST = "endpoint-to-host action"
NOT_SERVED = "nobody serves this address"
REASONS = (
    NOT_ITS_SOURCE, NOT_ITS_PLACE, TUNNEL, INVALID, NO_ENDPOINT, NO_IPV6, END_OF_LIST, TO_HOST,
    NOT_SERVED,
)  # fmt: skip
"""Why a packet is dropped where no policy is asked, or none answers."""


def rule_id(*parts: Hashable) -> int:
    """What a verdict is known by, 1 to 2^32-1; equal parts, equal id, in any process."""
    packed = hashlib.blake2b(repr(parts).encode(), digest_size=4).digest()
    return int.from_bytes(packed, "big") or 1


def end_of_tier(name: str, direction: Direction) -> int:
    return rule_id("end of tier", name, direction)


def can_reject(place: Place, settings: Settings) -> bool:
    """Whether what is denied there is rejected."""
    return settings.deny_action == "Reject" and place in ("workload", "host", "forward")


def denied(
    identity: int, direction: Direction, settings: Settings, *, reject: bool = False
) -> Expressions:
    """Count, log and drop, or reject."""
    if not settings.log_denied:
        return match.counted(goto(_REJECT) if reject else DROP)
    mark = (Immediate(keys.u32(identity)), MetaSet(MetaKey.MARK))
    name = rejecting_chain(direction) if reject else chain_name("denied", direction)
    return (Counter(), *mark, goto(name))


def allowed(identity: int, direction: Direction, settings: Settings) -> Expressions:
    """Count, log and accept."""
    if not settings.log_allowed:
        return match.counted(ACCEPT)
    mark = match.set_bits(settings.mark_rule, spread(identity, settings.mark_rule))
    return (Counter(), *mark, goto(chain_name("allowed", direction)))


def dropped(
    reason: str, direction: Direction, settings: Settings, *, reject: bool = False
) -> Expressions:
    """Count, log and drop (or reject) what no rule of policy decides."""
    assert reason in REASONS
    return denied(rule_id(reason), direction, settings, reject=reject)


def invalid(direction: Direction, settings: Settings) -> tuple[Expressions, ...]:
    """What the kernel finds to be of no connection; nothing where that is not to count."""
    if not settings.drop_invalid:
        return ()
    return ((*match.connection(CtState.INVALID), *dropped(INVALID, direction, settings)),)


def chain_name(seen: Seen, direction: Direction) -> str:
    return f"{seen}-{direction}"


def rejecting_chain(direction: Direction) -> str:
    """Logs as the chain of what is denied does, and answers."""
    return f"rejected-{direction}"


def chains(settings: Settings) -> list[tuple[str, ChainContent]]:
    """Those that log, none where nothing is logged; and those that reject."""
    found = []
    for seen, verdict in _logged(settings):
        for name in (chain_name(seen, direction) for direction in DIRECTIONS):
            found.append((name, _logging_chain(name, name, verdict)))
    if settings.deny_action == "Reject":
        for direction in DIRECTIONS if settings.log_denied else ():
            name, logged_as = rejecting_chain(direction), chain_name("denied", direction)
            found.append((name, _logging_chain(name, logged_as, goto(_REJECT))))
        reset = (*match.protocol(TCP), Reject(RejectKind.TCP_RESET))
        rules = (reset, (Reject(RejectKind.ICMPX, _PROHIBITED),))
        found.append((_REJECT, ChainContent(None, tuple(Rule(_REJECT, one) for one in rules))))
    return found


def _logged(settings: Settings) -> list[tuple[Seen, Verdict]]:
    found: list[tuple[Seen, Verdict]] = []
    if settings.log_denied:
        found.append(("denied", DROP))
    if settings.log_allowed:
        found.append(("allowed", ACCEPT))
    return found


def sets(settings: Settings) -> list[Set]:
    """Where packets leave who was logged of late, each with a limit of its own."""
    each = Limit(LOGGED_A_SECOND_OF_ONE, burst=LOGGED_AT_ONCE_OF_ONE)
    return [
        Set(
            _limits(chain_name(seen, direction)),
            (IFNAME,),
            timeout=True,
            size=_REMEMBERED,
            each=each,
            flags=SetFlag.EVAL,
        )
        for seen, _ in _logged(settings)
        for direction in DIRECTIONS
    ]


def _limits(chain: str) -> str:
    return f"{chain}-limits"


def _logging_chain(name: str, logged_as: str, verdict: Verdict) -> ChainContent:
    # One that is over its own limit takes nothing of the others'.
    by = Meta(MetaKey.IIFNAME if name.endswith("egress") else MetaKey.OIFNAME)
    own = SetUpdate(_limits(logged_as), _FORGOTTEN_AFTER_MILLISECONDS)
    limit = Limit(LOGGED_A_SECOND, burst=LOGGED_AT_ONCE)
    # The prefix is a chain's name: one of four words of ours.
    log: Expressions = (by, own, limit, Counter(), Log(prefix=logged_as, group=GROUP))
    return ChainContent(None, (Rule(name, log), Rule(name, match.counted(verdict))))


def spread(value: int, bits: int) -> int:
    """The low bits of `value`, laid into the bits that are set in `bits`, lowest first."""
    found = 0
    while bits:
        lowest = bits & -bits
        if value & 1:
            found |= lowest
        value >>= 1
        bits ^= lowest
    return found
