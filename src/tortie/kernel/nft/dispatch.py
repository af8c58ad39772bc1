"""Two lookups in one rule: key → list id in a data map, list id → chain in a verdict map.

Changing an endpoint's list then changes data only, which the kernel commits in
microseconds; a verdict element makes it walk the table.

The obvious program, map into a register and look that up, is one that nft(8)
never writes, and nft 1.0.6 (Debian 12) aborts when it lists it: it takes the
map's result for 0 bits wide (`netlink_parse_concat_expr: Assertion`). One such
rule would break `nft list ruleset` for everybody on the host. So:

    meta load iifname        => word 1, 2, 3, 4
    lookup word 1 in the map => word 0, 1     data is (0, list id)
    lookup word 1 in the verdict map          the list id

The kernel sees the list id in word 1. nft, which follows values by the word
where they start, sees the interface name there and prints `iifname vmap @lists`.

Can go when no supported host has an nft that aborts on the plain program.
"""

import sys
from typing import Final

from tortie.kernel.nft.constants import MetaKey
from tortie.kernel.nft.expressions import VERDICT_REGISTER, Expression, Lookup, Meta
from tortie.kernel.nft.keys import concatenate, u32
from tortie.kernel.nft.objects import MARK, VERDICT, DataType

LIST_ID: Final[tuple[DataType, ...]] = (MARK, MARK)
"""`Set.data` of the first map: a filler and the list id."""

LIST_KEY: Final[tuple[DataType, ...]] = (MARK,)
"""`Set.key` of the verdict map."""

LIST_VERDICT: Final[tuple[DataType, ...]] = (VERDICT,)
"""`Set.data` of the verdict map."""

KEY_REGISTER: Final = 1
"""Where the first map's key is loaded; one load of at least 4 bytes, no concatenation."""


def list_id_data(list_id: int) -> bytes:
    """What an element of the first map holds."""
    return concatenate(u32(0), u32(list_id))


def list_id_of(data: bytes) -> int:
    """Undo `list_id_data`."""
    return int.from_bytes(data[4:8], sys.byteorder)


def dispatch_by_interface(key: MetaKey, id_map: str, list_map: str) -> tuple[Expression, ...]:
    """Go where the interface's list id leads; on with the next rule if it has none.

    Args:
        key: IIFNAME or OIFNAME.
        id_map: a map (IFNAME,) to `LIST_ID`.
        list_map: a map `LIST_KEY` to `LIST_VERDICT`.
    """
    return (
        Meta(key, KEY_REGISTER),
        Lookup(id_map, KEY_REGISTER, KEY_REGISTER - 1),
        Lookup(list_map, KEY_REGISTER, VERDICT_REGISTER),
    )
