"""`tortie datastore migrate export`: everything, as one text that `import` takes.

Three parts between lines of `===`: resources as YAML, ClusterInformation as JSON, IPAM's
records as JSON. Calico's own import takes it, too; so workload endpoints and profiles, which
the other side makes anew, are in it only with `--all`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tortie.ctl import access, printing
from tortie.ctl.grammar import Given
from tortie.ctl.ipam_check import cluster_information
from tortie.ctl.screen import Screen
from tortie.datastore.client import Client
from tortie.datastore.resources import Resources
from tortie.lib.errors import InvalidInput
from tortie.model.codec import to_plain
from tortie.model.keys import IPAM, AffinityKey, BlockKey, HandleKey, IPAMConfigKey, parse_key
from tortie.model.policy import DEFAULT_ALLOW_PROFILE

KINDS = (
    "IPPool", "BGPPeer", "Tier", "GlobalNetworkPolicy", "StagedGlobalNetworkPolicy",
    "GlobalNetworkSet", "HostEndpoint", "KubeControllersConfiguration", "NetworkPolicy",
    "StagedNetworkPolicy", "StagedKubernetesNetworkPolicy", "NetworkSet", "Node",
    "BGPConfiguration", "FelixConfiguration", "IPReservation", "BGPFilter",
)  # fmt: skip
"""In an order in which they can be created, as Calico's export has them."""

REST = (
    "Profile", "WorkloadEndpoint", "IPAMConfiguration", "CalicoNodeStatus", "LiveMigration",
    "KubernetesEndpointSlice", "KubernetesService",
)  # fmt: skip

KUBERNETES_POLICY_PREFIX = "knp.default."
"""Of policies that are made from Kubernetes' own; its own import makes them anew."""

SEPARATOR = "==="


def main(given: Given, screen: Screen) -> int:
    async def act(client: Client) -> None:
        resources = Resources(client)
        information = await cluster_information(resources)
        if information.spec.datastore_ready is not False:
            raise InvalidInput(
                "datastore is not locked. Run the `tortie datastore migrate lock` command "
                "in order to begin migration"
            )
        everything = given.has("all")
        for kind in (*KINDS, *(REST if everything else ())):
            items = await _items(resources, kind, everything=everything)
            if items:
                screen.print(printing.structured(printing.listed(items), "yaml"))
                screen.print("---")
        screen.print(SEPARATOR)
        screen.print(printing.structured(to_plain(information), "json"))
        screen.print(SEPARATOR)
        screen.print(printing.structured(await _ipam(client), "json"))

    access.with_client(access.config_file(given), act)
    return 0


async def _items(resources: Resources, kind: str, *, everything: bool) -> list[dict[str, Any]]:
    found = await resources.list(kind)
    if found.unreadable:
        raise InvalidInput("not valid, so it cannot be exported: " + "; ".join(found.unreadable))
    items = [printing.exported(to_plain(stored.resource)) for stored in found.items]
    if everything:
        return [i for i in items if i["metadata"]["name"] != DEFAULT_ALLOW_PROFILE]
    if kind == "NetworkPolicy":
        items = [i for i in items if not i["metadata"]["name"].startswith(KUBERNETES_POLICY_PREFIX)]
    return items


async def _ipam(client: Client) -> dict[str, Any]:
    parts: dict[str, Any] = {"block_affinities": [], "blocks": [], "handles": []}
    for entry in (await client.list(IPAM)).entries:
        key = parse_key(entry.key)
        try:
            value = msgspec.json.decode(entry.value or b"{}")
        except msgspec.DecodeError as error:
            raise InvalidInput(f"{entry.key}: is not JSON: {error}") from None
        record = {"Key": entry.key, "Value": value, "TTL": 0}
        if isinstance(key, IPAMConfigKey):
            parts["config"] = record
        elif isinstance(key, AffinityKey):
            parts["block_affinities"].append(record)
        elif isinstance(key, BlockKey):
            parts["blocks"].append(record)
        elif isinstance(key, HandleKey):
            parts["handles"].append(record)
    return {name: part for name, part in parts.items() if part}
