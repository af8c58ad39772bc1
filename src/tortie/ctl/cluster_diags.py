"""`tortie cluster diags`: what the datastore knows, in one archive. Each part best effort."""

from __future__ import annotations

import io
import platform
import re
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

from tortie.ctl import access, ipam_check, printing
from tortie.ctl.grammar import Given
from tortie.ctl.screen import Screen
from tortie.ctl.version import client_version
from tortie.datastore.client import Client
from tortie.datastore.resources import Resources
from tortie.ipam.report import Findings, findings
from tortie.lib.errors import InvalidInput, TortieError
from tortie.model.catalogue import TYPES
from tortie.model.codec import to_plain
from tortie.model.keys import FELIX, IPAM

_SECRET_NAME = re.compile(r"(?i)^(.*(password|passwd|secret|token|credential|privatekey|psk).*)$")
_SECRET_TEXT = re.compile(
    r"-----BEGIN [^-]*PRIVATE KEY-----.*?(-----END [^-]*PRIVATE KEY-----|$)", re.DOTALL
)
HIDDEN = "REDACTED"


def main(given: Given, screen: Screen) -> int:
    name = time.strftime("tortie-cluster-diags-%Y%m%dT%H%M%SZ", time.gmtime())
    path = Path(f"{name}.tar.gz")

    async def collect(client: Client) -> dict[str, str]:
        return await collected(client)

    parts = {"versions.txt": versions()}
    try:
        parts |= access.with_client(access.config_file(given), collect)
    except TortieError as error:
        parts["errors.txt"] = f"the datastore: {error}\n"
        screen.warn(f"the datastore could not be read: {error}")
    try:
        with tarfile.open(path, "x:gz") as archive:
            for part, text in sorted(parts.items()):
                raw = text.encode()
                entry = tarfile.TarInfo(f"{name}/{part}")
                entry.size, entry.mtime, entry.mode = len(raw), int(time.time()), 0o600
                archive.addfile(entry, io.BytesIO(raw))
    except OSError as error:
        raise InvalidInput(f"cannot write {path}: {error}") from None
    screen.print(f"Diags saved to {path}")
    return 0


async def collected(client: Client) -> dict[str, str]:
    """File name → text; what failed is told in `errors.txt`."""
    parts: dict[str, str] = {}
    errors: list[str] = []
    resources = Resources(client)
    for kind in sorted(TYPES):
        try:
            found = await resources.list(kind)
        except TortieError as error:
            errors.append(f"{kind}: {error}")
            continue
        errors += found.unreadable
        items = [redacted(to_plain(stored.resource)) for stored in found.items]
        parts[f"resources/{kind.lower()}.yaml"] = printing.structured(
            printing.listed(items), "yaml"
        )
    for prefix, part in ((IPAM, "ipam.txt"), (FELIX, "agents.txt")):
        try:
            listing = await client.list(prefix)
        except TortieError as error:
            errors.append(f"{prefix}: {error}")
            continue
        lines = [f"{e.key} {e.value.decode(errors='replace')}" for e in listing.entries]
        parts[part] = "\n".join(lines) + "\n"
    try:
        cluster = await ipam_check.read_cluster(client)
        parts["ipam-check.json"] = printing.structured(
            ipam_check.report(cluster, _findings(cluster)), "json"
        )
    except TortieError as error:
        errors.append(f"ipam check: {error}")
    if errors:
        parts["errors.txt"] = "\n".join(errors) + "\n"
    return parts


def _findings(cluster: ipam_check.Cluster) -> Findings:
    handles = cluster.records.handles.keys()
    return findings(cluster.everything, cluster.users, cluster.pools, handles)


def redacted(value: object) -> object:
    """Without anything that looks like a secret, wherever it hides."""
    if isinstance(value, dict):
        return {
            name: HIDDEN if _is_secret(name, inner) else redacted(inner)
            for name, inner in value.items()
        }
    if isinstance(value, list):
        return [redacted(item) for item in value]
    if isinstance(value, str):
        return _SECRET_TEXT.sub(HIDDEN, value)
    return value


_SECRET_LINE = re.compile(
    r"""(?imx)^ (?P<name> [^=:\n]* (?:password|passwd|secret|token|credential|private[ _-]?key|psk)
    [^=:\n]*? ["']? \s* [=:] \s*) (?P<value> \S.*) $"""
)
_SECRET_IN_URL = re.compile(r"(?<=://)[^/\s:@]*:[^/\s@]*(?=@)")


def redacted_text(text: str) -> str:
    """The same for lines such as `password: x` and `http://user:x@host`."""
    text = _SECRET_TEXT.sub(HIDDEN, text)
    text = _SECRET_LINE.sub(lambda match: match["name"] + HIDDEN, text)
    return _SECRET_IN_URL.sub(HIDDEN, text)


def _is_secret(name: str, value: object) -> bool:
    """A reference to a secret is none: it is a mapping."""
    return isinstance(value, str) and bool(_SECRET_NAME.match(name))


def versions() -> str:
    facts: dict[str, Callable[[], str]] = {
        "tortie": client_version,
        "python": platform.python_version,
        "system": platform.platform,
    }
    return "".join(f"{name} {fact()}\n" for name, fact in facts.items())
