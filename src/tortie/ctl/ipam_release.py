"""`tortie ipam release`: free one address, or what reports call leaked."""

from __future__ import annotations

from pathlib import Path

import msgspec

from tortie.ctl import access
from tortie.ctl.grammar import Given
from tortie.ctl.ipam_check import cluster_information
from tortie.ctl.ipam_records import address
from tortie.ctl.screen import Screen
from tortie.ctl.version import client_version
from tortie.datastore.client import Client
from tortie.datastore.resources import Resources
from tortie.ipam.allocator import Allocator
from tortie.lib.errors import Conflict, InvalidInput, NotFound
from tortie.lib.ip import Network, parsed_network
from tortie.model.endpoint import WorkloadEndpoint
from tortie.model.keys import HandleKey
from tortie.model.node import ClusterInformation


class Allocation(msgspec.Struct, frozen=True, rename="camel"):
    ip: str
    handle: str = ""
    sequence_number: int | None = None
    in_use: bool = True


class LeakedHandle(msgspec.Struct, frozen=True):
    id: str
    revision: str = ""


class Report(msgspec.Struct, frozen=True, rename="camel"):
    """The part of a report that is needed here."""

    version: str = ""
    cluster_guid: str = msgspec.field(default="", name="clusterGUID")
    cluster_information_revision: str = ""
    allocations: dict[str, list[Allocation]] = {}
    leaked_handles: list[LeakedHandle] = []


def main(given: Given, screen: Screen) -> int:
    files = given.texts("from-report")
    if bool(files) == given.has("ip"):
        raise InvalidInput("give --ip or --from-report")
    if not files:
        wanted = address(given.text("ip"))

        async def release(client: Client) -> bool:
            for user in await _users(client, wanted):
                screen.warn(
                    f"WARNING: {wanted.address_text} is in use by {user}: "
                    "another workload may be given it now"
                )
            return await Allocator(client, "").release_address(wanted)

        if not access.with_client(access.config_file(given), release):
            raise InvalidInput(f"IP address {wanted.address_text} is not assigned")
        screen.print(f"Successfully released IP address {wanted.address_text}")
        return 0
    reports = {name: _load(name) for name in files}

    async def act(client: Client) -> None:
        information = await cluster_information(Resources(client))
        _check(information, reports, force=given.has("force"), screen=screen)
        leaked, handles = common(list(reports.values()))
        await _release_addresses(client, leaked, screen)
        await _release_handles(client, handles, screen)

    access.with_client(access.config_file(given), act)
    screen.print("You may now unlock the data store.")
    return 0


async def _users(client: Client, wanted: Network) -> list[str]:
    return [
        f"Workload({endpoint.metadata.namespace}/{endpoint.metadata.name})"
        for endpoint in await Resources(client).all_of(WorkloadEndpoint)
        if any(parsed_network(text) == wanted for text in endpoint.spec.ip_networks)
    ]


def _load(name: str) -> Report:
    try:
        return msgspec.json.decode(access.read_bytes(Path(name)), type=Report)
    except msgspec.DecodeError as error:
        raise InvalidInput(f"{name}: is not a report of ipam check: {error}") from None


def _check(
    information: ClusterInformation, reports: dict[str, Report], *, force: bool, screen: Screen
) -> None:
    """
    Raises:
        InvalidInput: a report is another cluster's, or all are old, or things may change now.
    """
    for name, report in reports.items():
        if report.cluster_guid != information.spec.cluster_guid:
            raise InvalidInput(
                f"cluster does not match the provided report ({name}): "
                "mismatched cluster GUID. Refusing to release"
            )
        if report.version != client_version():
            text = f"the provided report ({name}) was produced by version {report.version}"
            _doubt(f"{text}. Refusing to release", force=force, screen=screen)
    revision = information.metadata.resource_version
    if all(report.cluster_information_revision != revision for report in reports.values()):
        raise InvalidInput(
            "the provided reports are all stale - at least one should be up-to-date: "
            "make one while the datastore is locked"
        )
    if information.spec.datastore_ready is not False:
        _doubt(
            "data store is not locked. Either lock the data store, or re-run with --force",
            force=force, screen=screen,
        )  # fmt: skip


def _doubt(text: str, *, force: bool, screen: Screen) -> None:
    if not force:
        raise InvalidInput(text)
    screen.warn(f"WARNING: {text}; ignored because of --force")


def common(reports: list[Report]) -> tuple[list[Allocation], list[LeakedHandle]]:
    """What is leaked in all of them, as the last one has it."""
    addresses: dict[str, Allocation] | None = None
    handles: dict[str, LeakedHandle] | None = None
    for report in reports:
        found = [a for listed in report.allocations.values() for a in listed if not a.in_use]
        addresses = {
            a.ip: a
            for a in found
            # The same holder throughout: who got it in between may be using it.
            if addresses is None or addresses.get(a.ip) == a
        }
        before = handles
        handles = {
            h.id: h for h in report.leaked_handles if before is None or before.get(h.id) == h
        }
    return list((addresses or {}).values()), list((handles or {}).values())


async def _release_addresses(client: Client, leaked: list[Allocation], screen: Screen) -> None:
    if not leaked:
        screen.print("Report didn't contain any leaked IPs to clean up.")
        return
    allocator = Allocator(client, "")
    released = 0
    progress = screen.progress("releasing", len(leaked))
    for one in leaked:
        try:
            released += await allocator.release_address(
                address(one.ip), handle_id=one.handle or None, sequence=one.sequence_number
            )
        except Conflict as error:
            screen.warn(f"left alone: {error}")
        progress.step()
    progress.wipe()
    screen.print(f"Released {released} IPs successfully")
    if released < len(leaked):
        gone = len(leaked) - released
        screen.print(f"{gone} addresses that the report calls leaked are so no longer.")


async def _release_handles(client: Client, handles: list[LeakedHandle], screen: Screen) -> None:
    if not handles:
        screen.print("Report didn't contain any handles to clean up.")
        return
    released = skipped = 0
    for handle in handles:
        revision = int(handle.revision) if handle.revision.isdecimal() else 0
        try:
            await client.delete(HandleKey(handle.id).path, mod_revision=revision)
            released += 1
        except (Conflict, NotFound):
            skipped += 1
    screen.print(f"Released {released} handles; {skipped} skipped; 0 errors.")
