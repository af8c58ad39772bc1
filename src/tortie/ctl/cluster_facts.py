"""What the checks of `tortie doctor` want of the datastore, read in one go."""

from __future__ import annotations

import asyncio
import http.client
import socket
import ssl
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from tortie.datastore.client import Client
from tortie.datastore.connect import DatastoreSettings, connect
from tortie.datastore.resources import Resources
from tortie.lib.errors import Denied, InvalidInput, NotFound, TortieError, Unavailable
from tortie.model.codec import to_plain
from tortie.model.keys import FELIX
from tortie.model.metadata import Resource

PATIENCE_SECONDS = 10.0
KINDS = (
    "Node", "IPPool", "FelixConfiguration", "BGPConfiguration", "ClusterInformation",
)  # fmt: skip


class Cluster(NamedTuple):
    resources: Mapping[str, tuple[Resource, ...]]
    """By kind; a kind that may not be read is missing."""
    denied: tuple[str, ...]
    """What may not be read, and why."""
    unreadable: tuple[str, ...]
    """Stored objects that are invalid: they count as absent."""
    revision: int
    answer_seconds: float
    reports: Mapping[str, datetime]
    """By host: when its agent last said that it is alive, by that host's clock."""

    def of(self, kind: str) -> tuple[Resource, ...]:
        return self.resources.get(kind, ())

    def named(self, kind: str, name: str) -> Resource | None:
        return next((one for one in self.of(kind) if one.metadata.name == name), None)

    @property
    def felix_configurations(self) -> list[tuple[str, Mapping[str, Any]]]:
        return [(one.metadata.name, _spec(one)) for one in self.of("FelixConfiguration")]

    @property
    def program_cluster_routes(self) -> str:
        found = self.named("BGPConfiguration", "default")
        return str(_spec(found).get("programClusterRoutes", "")) if found else ""

    def labels_of(self, node: str) -> Mapping[str, str] | None:
        found = self.named("Node", node)
        return found.metadata.labels if found else None


class EtcdServer(NamedTuple):
    endpoint: str
    version: str
    clock_ahead_seconds: float
    """Of our own clock; within a second."""
    expires: datetime | None = None
    """Its certificate, or the authority that we know it by, whichever is first; None
    without TLS."""


def _spec(resource: Resource) -> Mapping[str, Any]:
    found = to_plain(resource).get("spec") or {}
    return found if isinstance(found, dict) else {}


def read_cluster(settings: DatastoreSettings) -> Cluster:
    """
    Raises:
        TortieError: the datastore is not configured, not there, or refuses us.
    """

    async def read() -> Cluster:
        async with asyncio.timeout(PATIENCE_SECONDS):
            client = await connect(settings)
            try:
                return await _read(client)
            finally:
                await client.close()

    try:
        return asyncio.run(read())
    except TimeoutError:
        raise Unavailable(f"no answer within {PATIENCE_SECONDS:g} s") from None


async def _read(client: Client) -> Cluster:
    began = time.monotonic()
    revision = await client.revision()
    answer_seconds = time.monotonic() - began
    resources: dict[str, tuple[Resource, ...]] = {}
    denied: list[str] = []
    unreadable: list[str] = []
    for kind in KINDS:
        try:
            found = await Resources(client).list(kind)
        except Denied as error:
            denied.append(f"{kind}: {error}")
            continue
        resources[kind] = tuple(stored.resource for stored in found.items)
        unreadable += found.unreadable
    reports: dict[str, datetime] = {}
    try:
        listing = await client.list(FELIX)
    except Denied as error:
        denied.append(f"reports of agents: {error}")
    else:
        for entry in listing.entries:
            if entry.key.endswith("/status"):
                reports |= _report(entry.key, entry.value)
    return Cluster(resources, tuple(denied), tuple(unreadable), revision, answer_seconds, reports)


class _Alive(msgspec.Struct):
    time: str


def _report(key: str, value: bytes) -> dict[str, datetime]:
    """/calico/felix/v2/REGION/host/HOST/status"""
    try:
        said = msgspec.json.decode(value, type=_Alive).time
        return {key.split("/")[-2]: datetime.fromisoformat(said).astimezone(UTC)}
    except (msgspec.DecodeError, ValueError, IndexError):
        return {}


def ask_etcd(endpoint: str, settings: DatastoreSettings) -> EtcdServer:
    """Its version and its clock, which etcd tells whoever may connect.

    Raises:
        TortieError: it does not answer in this way.

    Source: etcd, server/etcdserver/api/etcdhttp/version.go.
    """
    place = urlsplit(endpoint)
    if place.scheme not in ("http", "https") or not place.hostname:
        raise NotFound(f"{endpoint} cannot be asked over HTTP")
    patience = PATIENCE_SECONDS / 2
    port = place.port or 2379
    context = _context(settings) if place.scheme == "https" else None
    asking = (
        http.client.HTTPSConnection(place.hostname, port, timeout=patience, context=context)
        if context
        else http.client.HTTPConnection(place.hostname, port, timeout=patience)
    )
    try:
        asking.request("GET", "/version")
        expires = _expires(asking.sock, context) if context else None
        answer = asking.getresponse()
        now = datetime.now(UTC)
        text, date = answer.read(4096), answer.getheader("Date", "")
        version = msgspec.json.decode(text, type=dict[str, str]).get("etcdserver", "unknown")
        there = parsedate_to_datetime(date) if date else now
        return EtcdServer(endpoint, version, (there - now).total_seconds(), expires)
    except (OSError, http.client.HTTPException, msgspec.DecodeError, ValueError) as error:
        raise Unavailable(f"{endpoint}: {error}") from error
    finally:
        asking.close()


def _expires(connected: socket.socket, context: ssl.SSLContext) -> datetime | None:
    assert isinstance(connected, ssl.SSLSocket), "it was asked over TLS"
    own = connected.getpeercert() or {}
    known = [own, *context.get_ca_certs()] if len(context.get_ca_certs()) == 1 else [own]
    ends = [ssl.cert_time_to_seconds(str(one["notAfter"])) for one in known if "notAfter" in one]
    return datetime.fromtimestamp(min(ends), UTC) if ends else None


def _context(settings: DatastoreSettings) -> ssl.SSLContext:
    from tortie.datastore.etcd.tls import TLSFiles, TLSText, client_context

    text = TLSText(settings.ca, settings.certificate, settings.key)
    files = TLSFiles(settings.ca_file, settings.certificate_file, settings.key_file)
    try:
        context = client_context(text if any(text) else files)
    except TortieError as error:
        raise InvalidInput(str(error)) from error
    context.set_alpn_protocols(["http/1.1"])
    return context
