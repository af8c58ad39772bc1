"""IPAM's records as the `ipam` verbs read them: all at once, as of now."""

from __future__ import annotations

from typing import NamedTuple

from tortie.datastore.client import Client
from tortie.lib.errors import InvalidInput
from tortie.lib.ip import Network, parse_address
from tortie.model.codec import decode
from tortie.model.ipam import Block
from tortie.model.keys import IPAM, BlockKey, HandleKey, parse_key


class Records(NamedTuple):
    blocks: list[Block]
    handles: dict[str, int]
    """Id → revision."""
    unreadable: list[str]


async def records(client: Client) -> Records:
    found = Records([], {}, [])
    for entry in (await client.list(IPAM)).entries:
        key = parse_key(entry.key)
        if isinstance(key, HandleKey):
            found.handles[key.handle_id] = entry.mod_revision
        if not isinstance(key, BlockKey):
            continue
        try:
            found.blocks.append(decode(key, entry.value))
        except InvalidInput as error:
            found.unreadable.append(str(error))
    return found


def address(text: str) -> Network:
    """
    Raises:
        InvalidInput: it is no address.
    """
    try:
        return parse_address(text)
    except InvalidInput:
        raise InvalidInput(f"Invalid IP address specified: {text}") from None
