"""Resources as plain JSON, straight from the datastore: what tables are made of.

`tortie get` answers in a tenth of a second because it loads neither asyncio nor the model for
it. From a SQLite file and from an etcd without TLS or login it reads by itself, else through
`tortie.datastore`. What is stored is shown as it is, valid or not; only policies get the name
that users know them by.
"""

from __future__ import annotations

import json
import os

from tortie.ctl.kinds import NAMESPACED, at, plural
from tortie.ctl.selection import DEFAULT_NAMESPACE, Selection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Any

RESOURCES = "/calico/resources/v3/projectcalico.org/"
"""The same as `tortie.model.keys.RESOURCES`."""

_NAME_ANNOTATION = "projectcalico.org/metadata"
_DEFAULT_ALLOW = "projectcalico-default-allow"
_DEFAULT_CONFIG = "/etc/calico/calicoctl.cfg"
_EMBEDDED_FORMAT = 1

_STATE = """
SELECT key, value, revision FROM changes AS c
WHERE key >= ? AND key < ? AND value IS NOT NULL
AND id = (SELECT max(id) FROM changes WHERE key = c.key) ORDER BY key
"""


class Item(dict):  # type: ignore[type-arg]  # typing is what this module does without
    """A resource as plain JSON, and where it came from.

    Attributes:
        path: of its key; empty for what is built in.
        raw: as stored.
        revision: of its last write.
        repeated: names that an object in it has twice; the last one counts.
    """

    __slots__ = ("path", "raw", "repeated", "revision")

    def __init__(
        self, value: dict[str, Any], path: str = "", raw: bytes = b"", revision: int = 0
    ) -> None:
        super().__init__(value)
        self.path = path
        self.raw = raw
        self.revision = revision
        self.repeated: list[str] = []


class Found:
    """What was read.

    Attributes:
        items: by selection, by namespace and name.
        missing: keys as messages show them.
        unreadable: one text for each that is no JSON object.
        remarks: one text for each that is odd, and shown.
        revision: as of which all this is; 0 if that is not known.
    """

    def __init__(self) -> None:
        self.items: list[list[Item]] = []
        self.missing: list[str] = []
        self.unreadable: list[str] = []
        self.remarks: list[str] = []
        self.revision = 0


def read(
    config: Path | None, chosen: Sequence[Selection], namespace: str, *, everywhere: bool
) -> Found:
    """
    Raises:
        TortieError: the datastore is not there, or refuses.
    """
    prefixes = [prefix(selected, namespace, everywhere=everywhere) for selected in chosen]
    found = Found()
    listings, found.revision = _listings(config, prefixes)
    for selected, listing in zip(chosen, listings, strict=True):
        items: list[Item] = []
        for path, raw, revision in listing:
            item = as_read(selected.kind, path, raw, revision)
            if item is None:
                found.unreadable.append(f"{path}: is not a JSON object")
            else:
                items.append(item)
                found.remarks += [f"{path}: {name!r} is there twice" for name in item.repeated]
        if selected.kind == "Profile":
            items.append(default_allow())
        found.items.append(_wanted(selected, namespace, items, found.missing))
    return found


def prefix(selected: Selection, namespace: str, *, everywhere: bool) -> str:
    """Of the keys of all that may be meant."""
    base = f"{RESOURCES}{plural(selected.kind)}/"
    if selected.kind not in NAMESPACED or everywhere:
        return base
    return f"{base}{namespace or DEFAULT_NAMESPACE}/"


def _wanted(
    selected: Selection, namespace: str, items: list[Item], missing: list[str]
) -> list[Item]:
    if selected.names is None:
        items.sort(key=_order)
        return items
    by_name = {at(item, "metadata.name"): item for item in items}
    scope = f"{namespace or DEFAULT_NAMESPACE}/" if selected.kind in NAMESPACED else ""
    missing += [f"{selected.kind}({scope}{n})" for n in selected.names if n not in by_name]
    return [by_name[name] for name in selected.names if name in by_name]


def _order(item: dict[str, Any]) -> tuple[float, str, str]:
    """By namespace and name, tiers as they are evaluated."""
    order = at(item, "spec.order") if item.get("kind") == "Tier" else 0
    number = order if isinstance(order, (int, float)) else float("inf")
    metadata = item["metadata"]
    return number, str(metadata.get("namespace", "")), str(metadata.get("name", ""))


def as_read(kind: str, path: str, raw: bytes, revision: int) -> Item | None:
    """What users see of what is stored; None if that is no JSON object."""
    repeated: list[str] = []

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            repeated.extend(name for name in found if names.count(name) > 1)
        return found

    try:
        item = json.loads(raw, object_pairs_hook=once)
    except (ValueError, RecursionError):
        return None
    if not isinstance(item, dict) or not isinstance(item.setdefault("metadata", {}), dict):
        return None
    item["kind"] = kind
    metadata = item["metadata"]
    if kind in ("NetworkPolicy", "GlobalNetworkPolicy"):
        metadata["name"] = _policy_name(item, path.rpartition("/")[2])
    metadata["resourceVersion"] = str(revision)
    found = Item(item, path, raw, revision)
    found.repeated = repeated
    return found


def _policy_name(item: dict[str, Any], key_name: str) -> str:
    """See `tortie.model.codec.name_for_key`."""
    annotations = at(item, "metadata.annotations")
    text = annotations.pop(_NAME_ANNOTATION, None) if isinstance(annotations, dict) else None
    stripped = key_name.removeprefix("default.")
    if text is None:
        return stripped if (at(item, "spec.tier") or "default") == "default" else key_name
    if not annotations:
        del item["metadata"]["annotations"]
    try:
        named = json.loads(text)["name"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return key_name
    return named if named in (key_name, stripped) else key_name


def default_allow() -> Item:
    """The built-in profile."""
    rules = [{"action": "Allow"}]
    return Item(
        {
            "kind": "Profile",
            "apiVersion": "projectcalico.org/v3",
            "metadata": {"name": _DEFAULT_ALLOW},
            "spec": {"ingress": rules, "egress": rules},
        }
    )


# --- reaching the datastore -----------------------------------------------------------------


def _listings(config: Path | None, prefixes: Sequence[str]) -> tuple[list[Any], int]:
    """Path, value and revision of everything under each prefix."""
    if config is None and not os.path.exists(_DEFAULT_CONFIG):
        if os.environ.get("DATASTORE_TYPE") == "embedded":
            path = os.environ.get("TORTIE_EMBEDDED_PATH", "/var/lib/tortie/datastore.db")
            if os.path.exists(path) and (quick := _from_file(path, prefixes)):
                return quick
        elif (endpoint := _plain_endpoint()) and (quick := _from_etcd(endpoint, prefixes)):
            return quick
    return _through_client(config, prefixes)


def _from_file(path: str, prefixes: Sequence[str]) -> tuple[list[Any], int] | None:
    """None: not as expected; the real client says what is wrong, or does better."""
    import sqlite3

    try:
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)
        try:
            connection.execute("BEGIN")
            form, revision = connection.execute("SELECT format, revision FROM store").fetchone()
            if form != _EMBEDDED_FORMAT:
                return None
            bounds = [(prefix, prefix + "\U0010ffff") for prefix in prefixes]
            return [connection.execute(_STATE, bound).fetchall() for bound in bounds], revision
        finally:
            connection.close()
    except (sqlite3.Error, TypeError, ValueError):
        return None


def _plain_endpoint() -> str:
    """Of an etcd that needs neither TLS nor login; empty if it is another or none."""
    if os.environ.get("DATASTORE_TYPE", "etcdv3") != "etcdv3":
        return ""
    if os.environ.get("ETCD_USERNAME") or os.environ.get("ETCD_DISCOVERY_SRV"):
        return ""
    first = os.environ.get("ETCD_ENDPOINTS", "").partition(",")[0].strip()
    return first if first.startswith("http://") else ""


def _from_etcd(endpoint: str, prefixes: Sequence[str]) -> tuple[list[Any], int] | None:
    """By etcd's JSON gateway; None as above."""
    from tortie.ctl.gateway import ranges

    return ranges(endpoint, prefixes)


def _through_client(config: Path | None, prefixes: Sequence[str]) -> tuple[list[Any], int]:
    from tortie.ctl.access import with_client
    from tortie.datastore.client import Client

    async def act(client: Client) -> tuple[list[Any], int]:
        listings = [await client.list(prefix) for prefix in prefixes]
        entries = [[(e.key, e.value, e.mod_revision) for e in found.entries] for found in listings]
        return entries, max((found.revision for found in listings), default=0)

    return with_client(config, act)
