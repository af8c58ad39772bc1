"""What the datastore says about pools, blocks and this host, as of one look.

It outlives the transaction that is decided on it: what that writes is how things are then. All
that is decided on it is compared, so an old one costs a second try and nothing else.
"""

import asyncio
import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Self

from tortie.datastore.client import Client
from tortie.ipam import block as blocks
from tortie.ipam.pools import parse_pools
from tortie.ipam.source import Request, Source
from tortie.ipam.stored import (
    Stored,
    list_affinities,
    list_blocks,
    list_resources,
    read,
    read_kind,
    stored,
)
from tortie.lib.errors import InvalidInput
from tortie.lib.ip import Network, parse_network
from tortie.model.ipam import Block, BlockAffinity, IPAMConfig, IPAMHost
from tortie.model.keys import AffinityKey, BlockKey, IPAMConfigKey, IPAMHostKey, ResourceKey
from tortie.model.node import IPPool, Node
from tortie.model.policy import Profile
from tortie.model.reservation import IPReservation


class Seen(NamedTuple):
    """What the datastore says about pools and this host."""

    config: Stored[IPAMConfig]
    pools: list[Stored[IPPool]]
    node: Stored[Node]
    affinities: list[Stored[BlockAffinity]]
    """Of this host, both families, in whatever state."""
    mark: Stored[IPAMHost]
    reserved: tuple[Network, ...] = ()


class Look:
    """For one transaction, and once that is written for the next; one event loop only.

    Several assignments may go into a transaction: each tells what it `took`, and the next
    one decides on top of that. Before another transaction, `settle` and `renew` it.
    """

    def __init__(
        self, client: Client, host: str, now_ns: int, seen: Seen, *, virtual: bool = False
    ) -> None:
        self._client = client
        self._host = host
        self._virtual = virtual
        self._now_ns = now_ns
        self._seen = seen
        self._config = seen.config.value or IPAMConfig()
        self._mark = seen.mark
        self._affinities = seen.affinities
        self._stored_pools = {found.key: found for found in seen.pools}
        parsed = parse_pools(found.value for found in seen.pools if found.value is not None)
        self._pools = parsed.usable
        unreadable = (found.problem for found in seen.pools if found.problem)
        self._problems = (*unreadable, *parsed.problems)
        self._existing: dict[int, list[Network]] = {}
        self._reserved = seen.reserved
        self._read: dict[BlockKey, Stored[Block]] = {}
        self._after: dict[BlockKey, Block] = {}
        """Blocks as they will be when the transaction is written."""
        self._namespaces: dict[str, dict[str, str]] = {}

    @classmethod
    async def read(cls, client: Client, host: str, now_ns: int, *, virtual: bool = False) -> Self:
        config_key, node_key, mark_key = (
            IPAMConfigKey(),
            ResourceKey("Node", host),
            IPAMHostKey(host),
        )
        # At the same time: on etcd each is a round trip.
        pools, reservations, (config, node, mark), affinities = await asyncio.gather(
            list_resources(client, IPPool, "IPPool"),
            list_resources(client, IPReservation, "IPReservation"),
            read(client, [config_key, node_key, mark_key]),
            list_affinities(client, host, virtual=virtual),
        )
        seen = Seen(
            stored(config_key, IPAMConfig, config),
            pools,
            stored(node_key, Node, node),
            [stored(key, BlockAffinity, entry) for key, entry in affinities],
            stored(mark_key, IPAMHost, mark),
            reserved_networks(reservations),
        )
        return cls(client, host, now_ns, seen, virtual=virtual)

    @property
    def config(self) -> Stored[IPAMConfig]:
        return self._seen.config

    @property
    def node(self) -> Stored[Node]:
        """This host's; absent for a host that has none."""
        return self._seen.node

    def settle(self, written: Mapping[str, Stored[Any]]) -> None:
        """What was decided, or something else, has been written: it is how things are now.

        Args:
            written: by path, as `Change.written` says.
        """
        self._after.clear()
        for key in self._read:
            self._read[key] = written.get(key.path, self._read[key])
        self._affinities = [written.get(found.key.path, found) for found in self._affinities]
        self._mark = written.get(self._mark.key.path, self._mark)

    def renew(self, now_ns: int) -> None:
        """For another transaction; what hosts own is listed anew where it matters."""
        self._now_ns = now_ns
        self._after.clear()
        self._existing.clear()

    def seen(self, keys: Sequence[BlockKey]) -> list[Stored[Block]] | None:
        """These blocks as last seen; None if one of them was not."""
        if any(key not in self._read for key in keys):
            return None
        return [self._read[key] for key in keys]

    def took(self, source: Source, after: Block) -> None:
        """The transaction will write that; what comes next counts on it."""
        cidr = blocks.network(after)
        self.changed(source.found, after)
        if source.mark is not None and source.affinity is not None:
            confirmed = source.affinity._replace(value=BlockAffinity(state="confirmed"), problem="")
            others = [found for found in self._affinities if found.key != confirmed.key]
            self._affinities = [*others, confirmed]
            known = self._existing.get(cidr.family)  # None: not listed yet
            if known is not None and cidr not in known:
                known.append(cidr)

    def changed(self, found: Stored[Block], after: Block) -> None:
        assert isinstance(found.key, BlockKey)
        self._read.setdefault(found.key, found)
        self._after[found.key] = after

    def known(self, found: Stored[Block]) -> Stored[Block]:
        """A block as first read for this transaction."""
        assert isinstance(found.key, BlockKey)
        return self._read.setdefault(found.key, found)

    def current(self, found: Stored[Block]) -> Block:
        assert isinstance(found.key, BlockKey)
        block = self._after.get(found.key, found.value)
        assert block is not None, "who asks has seen it"
        return block

    async def _blocks(self, keys: Sequence[BlockKey]) -> list[Stored[Block]]:
        missing = [key for key in keys if key not in self._read]
        for found in await read_kind(self._client, missing, Block) if missing else ():
            self.known(found)
        return [self._read[key] for key in keys]

    async def _namespace_labels(self, wanted: Request) -> dict[str, str]:
        """Of the namespace that the addresses are for, where some pool asks.

        Source: Calico keeps them in the profile `kns.<namespace>`, with `pcns.` before each key.
        """
        name = (wanted.attribute.secondary or {}).get("namespace", "")
        if not name or all(pool.namespace_selector is None for pool in self._pools):
            return {}
        if name not in self._namespaces:
            key = ResourceKey("Profile", f"kns.{name}")
            [profile] = await read_kind(self._client, [key], Profile)
            applied = profile.value.spec.labels_to_apply if profile.value else {}
            self._namespaces[name] = {
                label.removeprefix("pcns."): value
                for label, value in applied.items()
                if label.startswith("pcns.")
            }
        return self._namespaces[name]

    async def _existing_blocks(self, family: int) -> list[Network]:
        if family not in self._existing:
            self._existing[family] = await list_blocks(self._client, family)
        return self._existing[family]

    def _affinity(self, cidr: Network) -> Stored[BlockAffinity]:
        key = AffinityKey(self._host, cidr, self._virtual)
        return next((a for a in self._affinities if a.key == key), Stored(key, None, None))

    def _usable(self, found: Stored[Block]) -> Block | None:
        assert isinstance(found.key, BlockKey)
        block = self._after.get(found.key, found.value)
        if block is None or block.deleted or blocks.problems(block):
            return None
        return blocks.collect_cooled(block, self._now_ns, self._config.ip_cooldown_seconds)

    def _is_ours(self, block: Block) -> bool:
        return block.affinity == blocks.host_affinity(self._host, virtual=self._virtual)


def reserved_networks(reservations: Iterable[Stored[IPReservation]]) -> tuple[Network, ...]:
    """What is never handed out by our choice. One that cannot be read reserves nothing."""
    found: list[Network] = []
    for reservation in reservations:
        for text in reservation.value.spec.reserved_cidrs if reservation.value else ():
            with contextlib.suppress(InvalidInput):
                found.append(parse_network(text))
    return tuple(found)


def cidr_of(found: Stored[BlockAffinity]) -> Network:
    assert isinstance(found.key, AffinityKey)
    return found.key.cidr


def is_confirmed(found: Stored[BlockAffinity]) -> bool:
    return found.value is not None and found.value.state == "confirmed" and not found.value.deleted
