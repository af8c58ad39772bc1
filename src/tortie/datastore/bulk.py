"""Many resources in few transactions, each one still judged by itself.

A thousand policies, one by one, are three thousand round trips. Here those of a batch are one
transaction with the compares of all. Where one compare fails nothing of the batch is written,
and `one_by_one` gets the batch: it finds out which object it was, and words its error.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

from tortie.datastore.client import Put, Txn
from tortie.datastore.resources import Resources, Stored, Write, key_of
from tortie.lib.errors import Denied, InvalidInput, TortieError, Unavailable
from tortie.model.keys import ResourceKey
from tortie.model.metadata import Resource

BATCH = 50
"""Compares are one for each object and one for each thing it rests on, of etcd's 128 at most."""

OneByOne = Callable[[Resource], Awaitable[object]]


async def known(
    resources: Resources, kinds: Collection[str]
) -> Mapping[ResourceKey, Stored[Resource]]:
    """What is stored of some kinds, by the names that users know; nothing that is built in."""
    found = [stored for kind in kinds for stored in (await resources.list(kind)).items]
    return {key_of(stored.resource): stored for stored in found if stored.path}


async def write(
    resources: Resources,
    batch: Sequence[Resource],
    there: Mapping[ResourceKey, Stored[Resource]],
    one_by_one: OneByOne,
) -> Sequence[TortieError | None]:
    """Write a batch whose objects do not rest on one another; what is there already is left.

    Args:
        batch: complete and valid, at most `BATCH`; none of which names a version.
        there: what is stored of them. It may be out of date; the datastore compares.

    Returns:
        For each what went wrong, None where nothing did.
    """
    try:
        writes = [await resources.prepare(one, there.get(key_of(one))) for one in batch]
        needed = [write for write in writes if write is not None]
        if not needed or (await resources.client.transact(_together(needed))).succeeded:
            return [None] * len(batch)
    except InvalidInput:
        pass  # one of them, or all of them together, are too much
    except (Unavailable, Denied) as error:
        return [error] * len(batch)
    return await asyncio.gather(*(attempt(one_by_one, one) for one in batch))


async def attempt(write: OneByOne, resource: Resource) -> TortieError | None:
    try:
        await write(resource)
    except TortieError as error:
        return error
    return None


def _together(writes: Sequence[Write[Resource]]) -> Txn:
    compares = dict.fromkeys(compare for write in writes for compare in write.compares)
    return Txn([*compares], [Put(write.path, write.raw) for write in writes])
