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
from tortie.ctl.ipam_records import Records, records
from tortie.ctl.screen import Screen
from tortie.ctl.version import client_version
from tortie.datastore.client import Client
from tortie.datastore.resources import Resources
from tortie.ipam.allocator import Allocator
from tortie.ipam.inventory import read_inventory
from tortie.ipam.repair import make, plan, still_wanted
from tortie.ipam.report import Findings, Held, findings, held
from tortie.lib.errors import InvalidInput, NotFound
from tortie.lib.ip import Network, parsed_network
from tortie.model.endpoint import WorkloadEndpoint
from tortie.model.keys import ResourceKey
from tortie.model.node import ClusterInformation, IPPool, Node

NODES_SHOWN = 20

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


def main(given: Given, screen: Screen) -> int:
    cluster = access.with_client(access.config_file(given), read_cluster)
    found = findings(
        cluster.everything, cluster.users, cluster.pools, cluster.records.handles.keys()
    )
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
        return _fix(given, screen)
    return 0


def _fix(given: Given, screen: Screen) -> int:
    """1: something that was to be repaired was not."""
    is_dry = given.text("dry-run", "true") != "false"
    text = given.text("grace", str(GRACE_SECONDS))
    if not (text.isascii() and text.isdecimal() and len(text) < 6):
        raise InvalidInput(f"--grace is {text!r}; it must be a number of seconds")

    async def act(client: Client) -> int:
        found = plan(await read_inventory(client))
        if is_dry or not found:
            for repair in found:
                screen.print(f"Would {repair}.")
            screen.print(f"{len(found)} repairs; nothing was changed.")
            return 0
        await asyncio.sleep(int(text))
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
    resources = Resources(client)
    information = await cluster_information(resources)
    found = await records(client)
    users: dict[Network, list[str]] = {}

    def note(text: str, user: str) -> int:
        where = parsed_network(text.partition("/")[0])
        if where is None:
            return 0
        users.setdefault(where, []).append(user)
        return 1

    node_count = workload_count = 0
    for node in await resources.all_of(Node):
        for text in node.spec.tunnel_addresses:
            node_count += note(text, f"Node({node.metadata.name})")
    for workload in await resources.all_of(WorkloadEndpoint):
        metadata = workload.metadata
        for text in workload.spec.ip_networks:
            user = f"Workload({metadata.namespace}/{metadata.name})"
            workload_count += note(text, user)
    pools = [
        parsed_network(p.spec.cidr) for p in await resources.all_of(IPPool) if not p.spec.disabled
    ]
    everything = [one for block in found.blocks for one in held(block)]
    known = [pool for pool in pools if pool]
    return Cluster(information, found, everything, known, users, node_count, workload_count)


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
    yield f"Workloads and nodes are using {len(cluster.users)} IPs."
    by_node = Counter(one.node for one in cluster.everything if one.node)
    for node, count in by_node.most_common(NODES_SHOWN):
        yield f"  {node} has {count} allocations"
    if show_all:
        for address, who in sorted(cluster.users.items()):
            yield f"  {address.address_text} is used by {', '.join(who)}"
    if each:
        yield from _problems(cluster, found)
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
    return found.problem_count + len(cluster.records.unreadable)


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
    allocations: dict[str, list[dict[str, Any]]] = {}
    for one in cluster.everything:
        if one.is_cooling:
            continue
        shown = one.address.address_text
        attributes = one.attribute.secondary or {}
        allocations.setdefault(shown, []).append(
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
        "allocations": allocations,
        "leakedHandles": [
            {"id": handle, "revision": str(cluster.records.handles[handle])}
            for handle in found.empty_handles
        ],
    }
