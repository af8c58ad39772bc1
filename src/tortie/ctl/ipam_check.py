"""`tortie ipam check`: does what is assigned agree with what is used?"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec

from tortie.ctl import access
from tortie.ctl.grammar import Given
from tortie.ctl.screen import Screen
from tortie.ctl.version import client_version
from tortie.datastore.client import Client
from tortie.datastore.resources import Resources
from tortie.ipam import block as blocks
from tortie.ipam.allocator import Allocator
from tortie.ipam.audit import Kind, Problem, allocations, audit
from tortie.ipam.holdings import damage
from tortie.ipam.inventory import Inventory, read_inventory
from tortie.ipam.repair import make, plan, still_wanted
from tortie.ipam.report import Findings, Held, findings, held
from tortie.ipam.stored import Stored
from tortie.lib.errors import InvalidInput, NotFound
from tortie.lib.ip import Network, parsed_network
from tortie.model.ipam import Block
from tortie.model.keys import BlockKey, HandleKey, ResourceKey
from tortie.model.node import ClusterInformation

NODES_SHOWN = 20
PROBLEMS_SHOWN = 20
"""Of blocks, affinities and handles, unless all are asked for."""

_TOLD_BY_ADDRESS = {Kind.DUPLICATE, Kind.NOT_ALLOCATED, Kind.NO_HANDLE}
"""What `Findings` say, too."""

GRACE_SECONDS = 10
"""Between the two looks that prove a leak."""


class Cluster(NamedTuple):
    """Everything that the check compares."""

    information: ClusterInformation
    records: Records
    everything: list[Held]
    pools: list[Network]
    users: dict[Network, list[str]]
    node_addresses: int
    workload_addresses: int
    foreign_addresses: int
    """Handed to other network plugins."""
    disorder: tuple[Problem, ...]
    """What is wrong with blocks, affinities and handles themselves."""

    @property
    def findings(self) -> Findings:
        found = findings(self.everything, self.users, self.pools, self.records.handles)
        empty = (handle for handle in found.empty_handles if handle not in self.records.unsure)
        found = found._replace(empty_handles=tuple(empty))
        # What cannot be read may use any address.
        return found._replace(leaked=()) if self.records.endpoints_unreadable else found


def main(given: Given, screen: Screen) -> int:
    is_dry, grace_seconds = _fix_options(given)
    cluster = access.with_client(access.config_file(given), read_cluster)
    found = cluster.findings
    show_all = given.has("show-all-ips")
    for line in _lines(cluster, found, show_all or given.has("show-problem-ips"), show_all):
        screen.print(line)
    if given.has("output"):
        raw = msgspec.json.format(msgspec.json.encode(report(cluster, found)), indent=2)
        try:
            Path(given.text("output")).write_bytes(raw + b"\n")
        except (OSError, ValueError) as error:
            raise InvalidInput(f"cannot write {given.text('output')}: {error}") from None
    if given.has("fix"):
        return _fix(given, screen, is_dry, grace_seconds)
    return 0


def _fix_options(given: Given) -> tuple[bool, int]:
    """Is it dry, and how many seconds to wait for the second look.

    Raises:
        InvalidInput: they make no sense, or stand alone.
    """
    if not given.has("fix") and (given.text("dry-run") or given.text("grace")):
        raise InvalidInput("--dry-run and --grace are for --fix")
    text = given.text("grace", str(GRACE_SECONDS))
    if not (text.isascii() and text.isdecimal() and len(text) < 6):
        raise InvalidInput(f"--grace is {text!r}; it must be a number of seconds")
    return given.text("dry-run", "true") != "false", int(text)


def _fix(given: Given, screen: Screen, is_dry: bool, grace_seconds: int) -> int:
    """1: something that was to be repaired was not."""

    async def act(client: Client) -> int:
        found = plan(await read_inventory(client))
        if is_dry or not found:
            for repair in found:
                screen.print(f"Would {repair}.")
            screen.print(f"{len(found)} repairs; nothing was changed.")
            return 0
        await asyncio.sleep(grace_seconds)
        wanted = still_wanted(plan(await read_inventory(client)), found)
        allocator = Allocator(client, "")
        late = 0
        for repair in wanted:
            if await make(client, allocator, repair):
                screen.print(f"Done: {repair}.")
            else:
                late += 1
                screen.warn(f"left alone, because it has changed: {repair}")
        screen.print(f"{len(wanted) - late} repairs done, {late} left alone.")
        return 1 if late else 0

    return access.with_client(access.config_file(given), act)


async def read_cluster(client: Client) -> Cluster:
    """
    Raises:
        InvalidInput: the datastore has no ClusterInformation.
    """
    information = await cluster_information(Resources(client))
    state = await read_inventory(client)
    users: dict[Network, list[str]] = {}

    def note(text: str, user: str) -> int:
        where = parsed_network(text.partition("/")[0])
        if where is None:
            return 0
        users.setdefault(where, []).append(user)
        return 1

    node_count = workload_count = 0
    for node in (found.value for found in state.nodes if found.value):
        for text in node.spec.tunnel_addresses:
            node_count += note(text, f"Node({node.metadata.name})")
    for workload in (found.value for found in state.endpoints if found.value):
        metadata = workload.metadata
        for text in workload.spec.ip_networks:
            user = f"Workload({metadata.namespace}/{metadata.name})"
            workload_count += note(text, user)
    foreign = [one for one in allocations(state) if one.is_foreign and one.node in state.node_names]
    for one in foreign:  # they have no endpoint; only who asked for them knows
        users.setdefault(one.address, []).append(f"Handle({one.handle_id})")
    enabled = (found.value for found in state.pools if found.value)
    pools = [parsed_network(pool.spec.cidr) for pool in enabled if not pool.spec.disabled]
    records = _records(state)
    return Cluster(
        information,
        records,
        [one for block in records.blocks for one in held(block)],
        [pool for pool in pools if pool],
        users,
        node_count,
        workload_count,
        len(foreign),
        tuple(_disorder(state, records)),
    )


class Records(NamedTuple):
    blocks: list[Block]
    handles: dict[str, int]
    """Id → revision."""
    unsure: frozenset[str]
    """Handles that cannot be read, or name a damaged block: who knows what they hold?"""
    unreadable: list[str]
    endpoints_unreadable: bool


def _records(state: Inventory) -> Records:
    stored: tuple[Stored[Any], ...] = (
        *state.blocks, *state.handles, *state.affinities, *state.pools, *state.nodes,
        *state.endpoints,
    )  # fmt: skip
    damaged = {str(found.key.cidr) for found in state.blocks
               if isinstance(found.key, BlockKey) and damage(found)}  # fmt: skip
    handles, unsure = {}, set()
    for found in state.handles:
        assert isinstance(found.key, HandleKey)
        handles[found.key.handle_id] = found.revision
        if found.value is None or not damaged.isdisjoint(found.value.block):
            unsure.add(found.key.handle_id)
    return Records(
        [found.value for found in state.blocks if found.value],
        handles,
        frozenset(unsure),
        [found.problem for found in stored if found.problem],
        any(found.value is None for found in state.endpoints),
    )


def _disorder(state: Inventory, records: Records) -> Iterator[Problem]:
    """What neither `unreadable` nor `Findings` say."""
    named = {name for block in records.blocks for name in blocks.handle_counts(block)}
    unreadable = set(records.unreadable)
    for problem in audit(state).problems:
        is_empty_handle = problem.kind is Kind.HANDLE and problem.subject not in named
        if not (
            problem.kind in _TOLD_BY_ADDRESS or is_empty_handle or problem.message in unreadable
        ):
            yield problem


async def cluster_information(resources: Resources) -> ClusterInformation:
    """
    Raises:
        InvalidInput: there is none yet.
    """
    key = ResourceKey("ClusterInformation", "default")
    try:
        return cast(ClusterInformation, (await resources.get(key)).resource)
    except NotFound as error:
        raise InvalidInput(access.told(error, key)) from None


def _lines(cluster: Cluster, found: Findings, each: bool, show_all: bool) -> Iterator[str]:
    yield "Checking IPAM for inconsistencies..."
    yield f"Found {len(cluster.records.blocks)} IPAM blocks."
    for problem in cluster.records.unreadable:
        yield f"  unreadable: {problem}"
    yield f"IPAM blocks record {len(cluster.everything)} allocations."
    yield f"Found {len(cluster.pools)} active IP pools."
    yield f"Found {cluster.node_addresses} node tunnel IPs."
    yield f"Found {cluster.workload_addresses} workload IPs."
    if cluster.foreign_addresses:
        yield f"Found {cluster.foreign_addresses} IPs of other network plugins."
    yield f"Workloads and nodes are using {len(cluster.users)} IPs."
    by_node = Counter(one.node for one in cluster.everything if one.node)
    for node, count in by_node.most_common(NODES_SHOWN):
        yield f"  {node} has {count} allocations"
    if show_all:
        for address, who in sorted(cluster.users.items()):
            yield f"  {address.address_text} is used by {', '.join(who)}"
    yield (
        f"Found {len(cluster.disorder)} blocks, affinities and handles that contradict one another."
    )
    shown = cluster.disorder if each else cluster.disorder[:PROBLEMS_SHOWN]
    for one in shown:
        yield f"  {one.message}"
    if len(shown) < len(cluster.disorder):
        yield f"  and {len(cluster.disorder) - len(shown)} more: --show-problem-ips"
    if each:
        yield from _problems(cluster, found)
    if cluster.records.endpoints_unreadable:
        yield "Nothing is called leaked while an endpoint cannot be read."
    yield f"Found {len(found.leaked)} IPs that are allocated in IPAM but not actually in use."
    yield f"Found {len(found.unknown)} in-use IPs that are not in active IP pools."
    yield (
        f"Found {len(found.unassigned)} in-use IPs that are in active IP pools but have no "
        "corresponding IPAM allocation."
    )
    yield f"Found {len(found.shared)} IPs with several users."
    yield f"Found {len(found.empty_handles)} handles with no matching IPs."
    yield f"Found {len(found.missing_handles)} handles named in blocks that do not exist."
    yield f"Check complete; found {problem_count(cluster, found)} problems."


def problem_count(cluster: Cluster, found: Findings) -> int:
    return found.problem_count + len(cluster.records.unreadable) + len(cluster.disorder)


def _problems(cluster: Cluster, found: Findings) -> Iterator[str]:
    for one in found.leaked:
        yield f"  {one.address.address_text} leaked; handle {one.attribute.handle_id or '<none>'}"
    for address in found.unknown:
        who = ", ".join(cluster.users[address])
        yield f"  {address.address_text} in use by {who} is not in any active IP pool."
    for address in found.unassigned:
        who = ", ".join(cluster.users[address])
        yield f"  {address.address_text} in use by {who} has no IPAM allocation."
    for address in found.shared:
        yield f"  {address.address_text} is used by {', '.join(cluster.users[address])}"
    for handle in found.empty_handles:
        yield f"  {handle} doesn't have any active IPs."
    for handle in found.missing_handles:
        yield f"  {handle} is in use in a block but doesn't exist."


def report(cluster: Cluster, found: Findings) -> dict[str, Any]:
    """For `ipam release --from-report`, in Calico's form."""
    leaked = {one.address for one in found.leaked}
    listed: dict[str, list[dict[str, Any]]] = {}
    for one in cluster.everything:
        if one.is_cooling:
            continue
        shown = one.address.address_text
        attributes = one.attribute.secondary or {}
        listed.setdefault(shown, []).append(
            {
                "ip": shown,
                "handle": one.attribute.handle_id or "",
                "sequenceNumber": one.sequence,
                "node": one.node or "",
                "pod": attributes.get("pod", ""),
                "namespace": attributes.get("namespace", ""),
                "inUse": one.address not in leaked,
                "owners": cluster.users.get(one.address, []),
            }
        )
    information = cluster.information
    return {
        "version": client_version(),
        "clusterGUID": information.spec.cluster_guid,
        "datastoreLocked": information.spec.datastore_ready is False,
        "clusterInformationRevision": information.metadata.resource_version,
        "clusterType": information.spec.cluster_type,
        "allocations": listed,
        "problems": [problem._asdict() for problem in cluster.disorder],
        "leakedHandles": [
            {"id": handle, "revision": str(cluster.records.handles[handle])}
            for handle in found.empty_handles
        ],
    }
