"""`tortie ipam split`: one pool into smaller ones, in one transaction."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from tortie.ctl import access
from tortie.ctl.grammar import Given
from tortie.ctl.ipam_check import cluster_information
from tortie.ctl.screen import Screen
from tortie.datastore.client import MAX_OPERATIONS, Client, Delete, Put, Txn, absent, unchanged
from tortie.datastore.resources import Resources, key_of
from tortie.ipam.report import split
from tortie.lib.errors import Conflict, InvalidInput
from tortie.lib.ip import Network, parse_network, parsed_network
from tortie.model.codec import encode
from tortie.model.metadata import Metadata
from tortie.model.node import IPPool

_NAME_KEPT = 245
"""Characters of the old name, so that the new one is not too long."""


def main(given: Given, screen: Screen) -> int:
    number = given.words[0]
    if not (number.isascii() and number.isdecimal() and len(number) < 10):
        raise InvalidInput(
            f"error reading number to split IP pools into. {number} is not a valid number"
        )
    if not (given.has("cidr") or given.has("name")):
        raise InvalidInput(
            "no name or CIDR provided. Provide a name or CIDR to denote the IP pool to split"
        )

    async def act(client: Client) -> tuple[IPPool, list[IPPool]]:
        resources = Resources(client)
        if (await cluster_information(resources)).spec.datastore_ready is not False:
            raise InvalidInput(
                "datastore is not locked. Run the `tortie datastore migrate lock` command "
                "in order split the IP pools"
            )
        pool = _find(await resources.all_of(IPPool), given)
        parts = children(pool, int(number))
        await _replace(client, pool, parts)
        return pool, parts

    pool, parts = access.with_client(access.config_file(given), act)
    screen.print(
        f"IP Pool {pool.metadata.name} was successfully split into {len(parts)} smaller pools."
    )
    for part in parts:
        screen.print(f"Created {part.metadata.name} with CIDR {part.spec.cidr}.")
    return 0


def _find(pools: Sequence[IPPool], given: Given) -> IPPool:
    """
    Raises:
        InvalidInput: there is none of that name and CIDR, as far as they are given.
    """
    name, text = given.text("name"), given.text("cidr")
    cidr = parse_network(text) if text else None
    for pool in pools:
        is_named = not name or pool.metadata.name == name
        if is_named and (cidr is None or parsed_network(pool.spec.cidr) == cidr):
            return pool
    wanted = " ".join(filter(None, (name, f"with CIDR {cidr}" if cidr else "")))
    known = ", ".join(f"{pool.metadata.name} ({pool.spec.cidr})" for pool in pools) or "none"
    raise InvalidInput(f"unable to find IP pool {wanted}; there are: {known}")


def children(pool: IPPool, count: int) -> list[IPPool]:
    """
    Raises:
        InvalidInput: the pool cannot be split so.
    """
    cidr = parse_network(pool.spec.cidr)
    if count + 1 > MAX_OPERATIONS:
        raise InvalidInput(f"at most {MAX_OPERATIONS // 2} parts at a time")
    try:
        parts = split(cidr, count)
    except ValueError as error:
        raise InvalidInput(f"error splitting the CIDR {cidr} into {count} CIDRs: {error}") from None
    if parts[0].length > pool.spec.block_size:
        raise InvalidInput(
            f"error splitting the CIDR {cidr} into {count} CIDRs: {parts[0]} is smaller than "
            f"a block of /{pool.spec.block_size}"
        )
    return [_child(pool, place, part) for place, part in enumerate(parts)]


def _child(pool: IPPool, place: int, cidr: Network) -> IPPool:
    metadata = Metadata(
        name=f"split-{pool.metadata.name[:_NAME_KEPT]}-{place}",
        uid=str(uuid.uuid4()),
        creation_timestamp=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        labels=pool.metadata.labels,
        annotations=pool.metadata.annotations,
    )
    spec = msgspec.structs.replace(pool.spec, cidr=str(cidr), disabled=False)
    return IPPool(kind="IPPool", metadata=metadata, spec=spec)


async def _replace(client: Client, pool: IPPool, parts: list[IPPool]) -> None:
    """No moment without a pool over these addresses, and none with two."""
    old = key_of(pool).path
    paths = [key_of(part).path for part in parts]
    compares = [unchanged(old, int(pool.metadata.resource_version)), *map(absent, paths)]
    puts = [Put(path, encode(key_of(p), p)) for path, p in zip(paths, parts, strict=True)]
    result = await client.transact(Txn(compares, [Delete(old), *puts]))
    if not result.succeeded:
        raise Conflict(f"{key_of(pool)} has changed, or a pool of a new name is there already")
