"""Resources, as plain JSON, to tables, YAML, JSON and names. Pure: nothing out but text."""

from __future__ import annotations

from tortie.ctl.grammar import mistake, nearest
from tortie.ctl.kinds import COLUMNS, LABELS, NAMESPACE, Column

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

FORMATS = ("ps", "wide", "yaml", "yml", "json", "name", "csv")
FORMATS_WITH_VALUE = (
    "custom-columns",
    "jsonpath",
    "jsonpath-file",
    "go-template",
    "go-template-file",
)

GAP = 3
"""Spaces between columns."""

_OWN = ("uid", "resourceVersion", "creationTimestamp", "generation")
"""Metadata that belongs to one cluster."""


class Format:
    """What `-o` asks for: `custom-columns=NAME,NODE` is a name and a value."""

    __slots__ = ("name", "value")

    def __init__(self, name: str, value: str = "") -> None:
        self.name = name
        self.value = value


def parse_format(text: str) -> Format:
    """
    Raises:
        InvalidInput: no such format, or its value is missing.
    """
    name, equals, value = text.partition("=")
    if name in FORMATS and not equals:
        return Format(name)
    if name in FORMATS_WITH_VALUE:
        if not value:
            needed = {"custom-columns": "at least one column", "go-template": "a template"}
            raise mistake(f"need to specify {needed.get(name, 'a file or an expression')}")
        return Format(name, value)
    known = [*FORMATS, *(f"{form}=" for form in FORMATS_WITH_VALUE)]
    close = nearest(name, known)
    hint = f"did you mean {close!r}?" if close else f"there are: {', '.join(known)}"
    raise mistake(f"unrecognized output format {text!r}; {hint}")


def columns_of(
    kind: str,
    *,
    wide: bool = False,
    namespaces: bool = False,
    labels: bool = False,
    titles: Sequence[str] = (),
) -> list[Column]:
    """
    Args:
        titles: these columns only, in this order.

    Raises:
        InvalidInput: a title that the kind does not have.
    """
    known = COLUMNS[kind]
    if titles:
        by_title = {c.title: c for c in (*known, NAMESPACE, LABELS)}
        by_title["LABELS"] = next((c for c in known if c.title == "LABELS"), LABELS)
        unknown = [title for title in titles if title.upper() not in by_title]
        if unknown:
            names = ", ".join(column.title for column in known)
            raise mistake(f"{kind} has no column {unknown[0]!r}; there are: {names}")
        chosen = [by_title[title.upper()] for title in titles]
    else:
        chosen = [column for column in known if wide or not column.wide_only]
    if namespaces and NAMESPACE not in chosen:
        chosen.insert(0, NAMESPACE)
    if labels:
        chosen.append(LABELS)
    return chosen


def table(columns: Sequence[Column], items: Sequence[Any], *, heading: bool = True) -> str:
    """One line for each, under a heading; an empty table is the heading alone."""
    rows = [[column.title for column in columns]] if heading else []
    rows += [[column.of(item) for column in columns] for item in items]
    widths = [max(map(len, cells)) + GAP for cells in zip(*rows, strict=True)]
    lines = ("".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def comma_separated(columns: Sequence[Column], items: Sequence[Any]) -> str:
    """The table as CSV (RFC 4180, but lines end as everywhere here)."""
    import csv
    import io

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([column.title for column in columns])
    writer.writerows([column.of(item) for column in columns] for item in items)
    return text.getvalue().rstrip("\n")


def listed(items: Sequence[Any], revision: int = 0) -> dict[str, Any]:
    """A list of resources, as the API has it."""
    kinds = {item["kind"] for item in items}
    return {
        "kind": f"{kinds.pop()}List" if len(kinds) == 1 else "List",
        "apiVersion": "projectcalico.org/v3",
        "metadata": {"resourceVersion": str(revision)} if revision else {},
        "items": list(items),
    }


def structured(value: Any, form: str) -> str:
    """Plain values as YAML or JSON."""
    if form == "json":
        import json

        return json.dumps(value, indent=2, ensure_ascii=False)
    from tortie.model.yaml_text import to_yaml

    return to_yaml(value).rstrip("\n")


def names(items: Sequence[Any]) -> str:
    return "\n".join(f"{item['kind'].lower()}/{item['metadata'].get('name')}" for item in items)


def exported(item: dict[str, Any]) -> dict[str, Any]:
    """Without what belongs to one cluster, so that it can be created in another."""
    metadata = {name: value for name, value in item["metadata"].items() if name not in _OWN}
    return {name: v for name, v in item.items() if name != "status"} | {"metadata": metadata}
