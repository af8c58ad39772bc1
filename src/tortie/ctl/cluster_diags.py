"""`tortie cluster diags`: what the datastore knows, in one archive. Each part best effort.

Secrets are hidden by name and by value, see `redaction`.
"""

from __future__ import annotations

import io
import os
import platform
import tarfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tortie.ctl import access, ipam_check, printing
from tortie.ctl.grammar import Given
from tortie.ctl.redaction import Redactor, redacted
from tortie.ctl.screen import Screen
from tortie.ctl.version import client_version
from tortie.datastore.client import Client
from tortie.datastore.connect import DEFAULT_CONFIG_FILE, from_environment
from tortie.datastore.resources import Resources
from tortie.lib.errors import InvalidInput, TortieError
from tortie.model.catalogue import TYPES
from tortie.model.codec import to_plain
from tortie.model.keys import FELIX, IPAM


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
    write_archive(path, parts, redactor_of(os.environ, access.config_file(given)))
    screen.print(f"Diags saved to {path}")
    return 0


def redactor_of(environment: Mapping[str, str], config_file: Path | None) -> Redactor:
    """Knows what gives access to the datastore."""
    redactor = Redactor()
    redactor.learn_variables(environment)
    redactor.learn_file(config_file or DEFAULT_CONFIG_FILE)
    try:
        settings = from_environment(environment, config_file)
    except TortieError:
        return redactor
    redactor.learn(settings.password)
    redactor.learn(settings.key)
    redactor.learn_keys(path for path in (settings.key_file,) if path is not None)
    return redactor


def write_archive(path: Path, parts: Mapping[str, str], redactor: Redactor) -> None:
    """Of texts by name, without secrets; for its owner alone.

    Raises:
        InvalidInput: it cannot be written, or is there already.
    """
    name = path.name.partition(".")[0]
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
            for part, text in sorted(parts.items()):
                raw = redactor.hide(text).encode(errors="replace")
                entry = tarfile.TarInfo(redactor.hide(f"{name}/{part}"))
                entry.size, entry.mtime, entry.mode = len(raw), int(time.time()), 0o600
                archive.addfile(entry, io.BytesIO(raw))
    except OSError as error:
        raise InvalidInput(f"cannot write {path}: {error}") from None


async def collected(client: Client) -> dict[str, str]:
    """File name → text; what failed is told in `errors.txt`."""
    parts: dict[str, str] = {}
    errors: list[str] = []
    resources = Resources(client)
    for kind in sorted(TYPES):
        try:
            found = await resources.list(kind)
            items = [redacted(to_plain(stored.resource)) for stored in found.items]
            parts[f"resources/{kind.lower()}.yaml"] = printing.structured(
                printing.listed(items), "yaml"
            )
        except Exception as error:  # noqa: BLE001 - one part must not cost the others
            errors.append(f"{kind}: {type(error).__name__}: {error}")
            continue
        errors += found.unreadable
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
            ipam_check.report(cluster, cluster.findings), "json"
        )
    except Exception as error:  # noqa: BLE001 - as above
        errors.append(f"ipam check: {type(error).__name__}: {error}")
    if errors:
        parts["errors.txt"] = "\n".join(errors) + "\n"
    return parts


def versions() -> str:
    facts: dict[str, Callable[[], str]] = {
        "tortie": client_version,
        "python": platform.python_version,
        "system": platform.platform,
    }
    return "".join(f"{name} {fact()}\n" for name, fact in facts.items())
