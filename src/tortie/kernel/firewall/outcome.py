"""What a chain of others does with a new connection of ours, as far as that can be told.

Rules are judged for a *flow*: a TCP connection that begins, to a port that no
rule names, between interfaces of which we know the prefix or nothing. A match
holds, does not, or may hold (`None`: an address, a match that is not known
here). So a chain has several possible ends, and only one that certainly drops
is worth an alarm.
"""

from collections.abc import Callable, Iterable
from typing import Final, Literal, NamedTuple

from tortie.kernel.nft.constants import VerdictCode
from tortie.kernel.nft.expressions import Verdict

TCP: Final = 6
NEW_BIT: Final = 1 << 3
"""XT_CONNTRACK_STATE_BIT of a new connection, linux/netfilter/xt_conntrack.h."""

_DEPTH_MOST = 32
"""No kernel lets chains jump so deep; foreign text is not trusted to agree."""


class Flow(NamedTuple):
    family: int
    """4 or 6."""
    input_prefix: str
    """How the input interface's name begins; empty when any interface may be meant."""
    output_prefix: str


class Judged(NamedTuple):
    """One rule, for one flow."""

    matches: bool | None
    verdicts: tuple[Verdict, ...]
    """What it may do where it matches; several for a verdict map, none for a counter."""


Rules = Callable[[str], Iterable[Judged]]
"""The rules of a chain, by its name, in order."""

End = Literal["accept", "drop", "return", "next"]
_PLAIN: dict[VerdictCode, frozenset[End]] = {
    VerdictCode.ACCEPT: frozenset({"accept"}),
    VerdictCode.DROP: frozenset({"drop"}),
    VerdictCode.RETURN: frozenset({"return"}),
    VerdictCode.CONTINUE: frozenset({"next"}),
    VerdictCode.BREAK: frozenset({"next"}),
    # Some program decides; nobody knows what.
    VerdictCode.QUEUE: frozenset({"accept", "drop"}),
}


def drops(rules: Rules, chain: str, *, policy_drops: bool) -> bool:
    """Whether the base chain drops the flow for certain."""
    ends = _ends(rules, chain, 0)
    if "return" in ends:
        ends = ends - {"return"} | {"drop" if policy_drops else "accept"}
    return ends == {"drop"}


def _ends(rules: Rules, chain: str, depth: int) -> frozenset[End]:
    if depth > _DEPTH_MOST:
        return frozenset({"accept", "drop"})
    found: frozenset[End] = frozenset()
    for rule in rules(chain):
        if rule.matches is False or not rule.verdicts:
            continue
        ends: frozenset[End] = frozenset()
        for verdict in rule.verdicts:
            ends |= _ends_of(rules, verdict, depth)
        found |= ends - {"next"}
        if rule.matches and "next" not in ends:
            return found
    return found | {"return"}


def _ends_of(rules: Rules, verdict: Verdict, depth: int) -> frozenset[End]:
    if verdict.code not in (VerdictCode.JUMP, VerdictCode.GOTO):
        return _PLAIN[verdict.code]
    ends = _ends(rules, verdict.chain, depth + 1)
    if verdict.code is VerdictCode.JUMP and "return" in ends:
        ends = ends - {"return"} | {"next"}
    return ends


def interface_is(prefix: str, wanted: bytes) -> bool | None:
    """Whether an interface whose name begins with `prefix` has the name, or prefix, `wanted`.

    Args:
        wanted: as the kernel compares it: a whole name ends with NUL.
    """
    if not prefix:
        return None
    ours = prefix.encode()
    name = wanted.rstrip(b"\0")
    if name == wanted and ours.startswith(name):
        return True
    return None if name.startswith(ours) else False


def opposite(matches: bool | None) -> bool | None:
    return None if matches is None else not matches


def both(one: bool | None, other: bool | None) -> bool | None:
    if one is False or other is False:
        return False
    return True if one and other else None


def conntrack_matches(revision: int, info: bytes) -> bool | None:
    """The xtables match `conntrack`, of a new connection.

    Source: struct xt_conntrack_mtinfo2 and 3, linux/netfilter/xt_conntrack.h.
    """
    if revision not in (2, 3) or len(info) < _STATE_MASK_AT + 2:
        return None
    flags, inverted, states = (
        int.from_bytes(info[at : at + 2], "little")
        for at in (_STATE_MASK_AT - 4, _STATE_MASK_AT - 2, _STATE_MASK_AT)
    )
    if not flags & 1:
        return None
    matches = bool(states & NEW_BIT) != bool(inverted & 1)
    if not matches:
        return False
    return True if flags == 1 else None


_STATE_MASK_AT = 150
"""Eight addresses of 16 bytes, two times of 4, five numbers of 2, two sets of flags of 2."""
