"""`tortie get -w`: what is there, then each change, until interrupted."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from tortie.ctl import access, plain, printing
from tortie.ctl.get import View
from tortie.ctl.grammar import Given
from tortie.ctl.kinds import Column, at
from tortie.ctl.screen import Screen
from tortie.ctl.selection import Selection
from tortie.datastore.client import Client, Listing
from tortie.lib.errors import Compacted, InvalidInput

Keep = Callable[[dict[str, Any]], bool]


def watch(
    given: Given,
    chosen: Sequence[tuple[str, list[Selection]]],
    form: printing.Format,
    keep: Keep,
    screen: Screen,
) -> int:
    """
    Raises:
        InvalidInput: several kinds, or a format of whole lists.
    """
    selections = [(namespace, selected) for namespace, found in chosen for selected in found]
    if len(selections) != 1:
        raise InvalidInput("-w shows one kind")
    if form.name not in ("ps", "wide", "custom-columns", "json", "yaml", "yml", "name"):
        raise InvalidInput(f"-w does not go with -o {form.name}")
    namespace, selected = selections[0]
    printer = _Printer(View(given, form, chosen), form, selected.kind, screen)

    async def act(client: Client) -> None:
        prefix = plain.prefix(selected, namespace, everywhere=given.has("all-namespaces"))
        async for path, raw, revision in _changes(client, prefix):
            if raw is None:
                item = printer.known.pop(path, None)
                if item is not None:
                    printer.show(item, is_gone=True)
                continue
            item = plain.as_read(selected.kind, path, raw, revision)
            if item is None or not keep(item) or not _is_wanted(item, selected):
                printer.known.pop(path, None)
            else:
                printer.known[path] = item
                printer.show(item)

    with contextlib.suppress(KeyboardInterrupt):
        access.with_client(access.config_file(given), act)
    return 0


def _is_wanted(item: dict[str, Any], selected: Selection) -> bool:
    return selected.names is None or at(item, "metadata.name") in selected.names


async def _changes(client: Client, prefix: str) -> AsyncIterator[tuple[str, bytes | None, int]]:
    """Everything that is there, then each change; lists anew where history is gone."""
    known: dict[str, int] = {}
    while True:
        listing = await client.list(prefix)
        for path, raw, revision in _news(listing, known):
            yield path, raw, revision
        try:
            async with contextlib.aclosing(
                client.watch(prefix, listing.revision + 1, store_id=listing.store_id)
            ) as batches:
                async for batch in batches:
                    for event in batch.events:
                        known[event.key] = event.revision
                        yield event.key, event.value, event.revision
        except Compacted:
            continue


def _news(listing: Listing, known: dict[str, int]) -> list[tuple[str, bytes | None, int]]:
    now = {entry.key: entry.mod_revision for entry in listing.entries}
    gone = [key for key in known if key not in now]
    fresh = [entry for entry in listing.entries if known.get(entry.key) != entry.mod_revision]
    known.clear()
    known |= now
    return [
        *((key, None, listing.revision) for key in gone),
        *((entry.key, entry.value, entry.mod_revision) for entry in fresh),
    ]


class _Printer:
    """One line or document for each change; columns grow, they never shrink."""

    def __init__(self, view: View, form: printing.Format, kind: str, screen: Screen) -> None:
        self.known: dict[str, dict[str, Any]] = {}
        self._form = form
        self._screen = screen
        self._widths: list[int] = []
        self._columns: list[Column] = []
        if form.name in ("ps", "wide", "custom-columns"):
            self._columns = view.columns(kind)
            self._row([column.title for column in self._columns], is_gone=False)

    def show(self, item: dict[str, Any], *, is_gone: bool = False) -> None:
        if self._columns:
            self._row([column.of(item) for column in self._columns], is_gone=is_gone)
        elif self._form.name == "name":
            self._screen.print(printing.names([item]) + ("   (deleted)" if is_gone else ""))
        else:
            document = {**item, "deleted": True} if is_gone else item
            separator = "" if self._form.name == "json" else "---\n"
            self._screen.print(separator + printing.structured(document, self._form.name))
        self._screen.out.flush()

    def _row(self, cells: list[str], *, is_gone: bool) -> None:
        widths = self._widths or [0] * len(cells)
        self._widths = [max(w, len(c) + printing.GAP) for w, c in zip(widths, cells, strict=True)]
        line = "".join(c.ljust(w) for c, w in zip(cells, self._widths, strict=True)).rstrip()
        self._screen.print(f"{line}   (deleted)" if is_gone else line)
