"""How chains are put together, and where base chains stand."""

from tortie.dataplane.rules import match
from tortie.dataplane.rules.content import ChainContent
from tortie.dataplane.rules.match import Expressions
from tortie.dataplane.settings import Settings
from tortie.desired.policy import TCP
from tortie.kernel.nft.constants import CmpOp, CtState, Hook
from tortie.kernel.nft.expressions import ACCEPT, Bitwise, Cmp, jump
from tortie.kernel.nft.objects import Base, Rule

RAW_PRIORITY, MANGLE_PRIORITY, DESTINATION_NAT_PRIORITY = -300, -150, -100
FILTER_PRIORITY, SOURCE_NAT_PRIORITY = 0, 100
"""NF_IP_PRI_*, include/uapi/linux/netfilter_ipv4.h."""

ICMP, ICMPV6 = 1, 58

NamedChain = tuple[str, ChainContent]

_RELATED_ERRORS = "related-errors"
_TCP_FLAGS_OFFSET, _RST = 13, b"\x04"


def chain(name: str, *rules: Expressions, base: Base | None = None) -> NamedChain:
    return name, ChainContent(base, tuple(Rule(name, expressions) for expressions in rules))


def filter_chain(name: str, hook: Hook, priority: int, *rules: Expressions) -> NamedChain:
    """A base chain that lets by what no rule decides."""
    return chain(name, *rules, base=Base("filter", hook, priority))


def half(
    name: str,
    hook: Hook,
    priority: int,
    *rules: Expressions,
    before: tuple[Expressions, ...] = (),
) -> NamedChain:
    """A base chain that is done with known connections and otherwise goes on.

    Args:
        before: rules for those, too.
    """
    return filter_chain(
        name,
        hook,
        priority,
        *before,
        (*match.connection(CtState.ESTABLISHED), ACCEPT),
        (*match.connection(CtState.RELATED), jump(_RELATED_ERRORS)),
        *rules,
    )


def related_errors(settings: Settings) -> NamedChain:
    """For every `half`. Errors only: helpers' expectations would let a workload open any port."""
    rules: list[Expressions] = [
        (*match.protocol(ICMP), ACCEPT),
        (*match.protocol(ICMPV6), ACCEPT),
    ]
    if settings.deny_action == "Reject":
        # Our own resets: they are related to the connection that they keep from coming about.
        flags = match.transport_bytes(_TCP_FLAGS_OFFSET, 1)
        is_reset = (flags, Bitwise(_RST, b"\0"), Cmp(CmpOp.EQ, _RST))
        rules.append((*match.protocol(TCP), *is_reset, ACCEPT))
    return chain(_RELATED_ERRORS, *rules)
