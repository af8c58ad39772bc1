"""Two lookups in one rule: key → id in a data map, id → chain in a verdict map.

Changing an endpoint's list then changes data only, which the kernel commits in
microseconds; a verdict element makes it walk the table.

The obvious program, map into a register and look that up, is one that nft(8)
never writes, and nft 1.0.6 (Debian 12) aborts when it lists it: it takes the
map's result for 0 bits wide (`netlink_parse_concat_expr: Assertion`). One such
rule would break `nft list ruleset` for everybody on the host. So:

    meta load iifname        => words 1 to 4
    lookup word 1 in the map => words 0 to 4   data is a filler word and the id
    lookup word 1 in the verdict map           the id

The kernel sees the id from word 1 on. nft, which follows values by the word
where they start, sees the interface name there and prints `iifname vmap @lists`.

Can go when no supported host has an nft that aborts on the plain program.
"""

from typing import Final

from tortie.kernel.nft.constants import MetaKey
from tortie.kernel.nft.expressions import VERDICT_REGISTER, Expression, Lookup, Meta
from tortie.kernel.nft.objects import MARK, DataType

FILLER: Final[DataType] = MARK
"""First part of the data map's data; the id's type follows, at most 16 bytes."""

_KEY_REGISTER = 1


def identified(identity: bytes) -> bytes:
    """What an element of the data map holds for this id."""
    return bytes(4) + identity


def dispatch_by_interface(key: MetaKey, id_map: str, list_map: str) -> tuple[Expression, ...]:
    """Go where the interface's id leads; on with the next rule if it has none.

    Args:
        key: IIFNAME or OIFNAME.
        id_map: a map from (IFNAME,) to (FILLER, the id's type).
        list_map: a verdict map from (the id's type,).
    """
    return (
        Meta(key, _KEY_REGISTER),
        Lookup(id_map, _KEY_REGISTER, _KEY_REGISTER - 1),
        Lookup(list_map, _KEY_REGISTER, VERDICT_REGISTER),
    )
