"""Resources as tables, YAML, JSON and names. Pure: text in, nothing out but text."""

from collections.abc import Sequence
from typing import Any

import msgspec

from tortie.ctl.kinds import COLUMNS, NAMESPACE
from tortie.model.codec import to_plain
from tortie.model.metadata import API_VERSION, Metadata, Resource
from tortie.model.positions import to_yaml

FORMATS = ("ps", "wide", "yaml", "yml", "json", "name")

GAP = 3
"""Spaces between columns."""


def table(
    kind: str, resources: Sequence[Resource], *, wide: bool = False, namespaces: bool = False
) -> str:
    """One line for each, under a heading; an empty table is the heading alone."""
    columns = [column for column in COLUMNS[kind] if wide or not column.wide_only]
    if namespaces:
        columns.insert(0, NAMESPACE)
    rows = [[column.title for column in columns]]
    rows += [[_cell(column.cell(resource)) for column in columns] for resource in resources]
    widths = [max(map(len, cells)) + GAP for cells in zip(*rows, strict=True)]
    lines = ("".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _cell(value: object) -> str:
    """One line, whatever is in it: control characters do not reach the terminal."""
    return "".join(c if c.isprintable() else "?" for c in str(value))


def structured(resources: Sequence[Resource], form: str, *, single: bool) -> str:
    """YAML or JSON: the resource itself, or a list where it could have been several."""
    plain: Any = [to_plain(resource) for resource in resources]
    if single:
        plain = plain[0]
    else:
        kinds = {resource.kind for resource in resources}
        plain = {
            "kind": f"{kinds.pop()}List" if len(kinds) == 1 else "List",
            "apiVersion": API_VERSION,
            "metadata": {},
            "items": plain,
        }
    if form == "json":
        return msgspec.json.format(msgspec.json.encode(plain), indent=2).decode()
    return to_yaml(plain).rstrip("\n")


def names(resources: Sequence[Resource]) -> str:
    return "\n".join(f"{r.kind.lower()}/{r.metadata.name}" for r in resources)


def exported(resource: Resource) -> Resource:
    """Without what belongs to one cluster, so that it can be created in another."""
    kept = Metadata(
        name=resource.metadata.name,
        namespace=resource.metadata.namespace,
        labels=resource.metadata.labels,
        annotations=resource.metadata.annotations,
    )
    return msgspec.structs.replace(resource, metadata=kept)
