"""`tortie get`: show resources."""

from __future__ import annotations

from tortie.ctl import printing, selection
from tortie.ctl.grammar import Given, mistake
from tortie.ctl.kinds import NAMESPACED, Column, at
from tortie.ctl.plain import Found, Item, read
from tortie.ctl.selection import Selection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from typing import Any

    from tortie.ctl.screen import Screen

FAILED = 1


def main(given: Given, screen: Screen) -> int:
    form = printing.parse_format(given.text("output", "ps"))
    if given.texts("filename") and given.words:
        raise mistake("give kinds and names, or files with -f, not both")
    chosen = _from_files(given) if given.texts("filename") else None
    if chosen is None:
        chosen = [(given.text("namespace"), selection.parse(given.words))]
        selection.check_namespace(
            chosen[0][1], given.text("namespace"), everywhere=given.has("all-namespaces")
        )
    keep = _keeper(given)
    if given.has("watch"):
        from tortie.ctl.get_watch import watch

        return watch(given, chosen, form, keep, screen)
    view = View(given, form, chosen)
    code = 0
    found: list[dict[str, Any]] = []
    for namespace, selected in chosen:
        answer = _answer(_config(given), selected, namespace, given)
        view.revision = answer.revision
        found += [item for items in answer.items for item in items if keep(item)]
        for problem in answer.unreadable:
            screen.warn(f"left out, because it is not valid: {problem}")
        for remark in answer.remarks:
            screen.warn(f"warning: {remark}; the last one counts")
        for key in answer.missing:
            view.errors.append(f"resource does not exist: {key} with error: <nil>")
    if found or not view.errors:
        text = view.text(found)
        if text:
            screen.out.write(text)
    for error in view.errors:
        screen.warn(error)
        code = FAILED
    return code


def _config(given: Given) -> Path | None:
    if not given.has("config"):
        return None
    from pathlib import Path

    return Path(given.text("config"))


def _answer(
    config: Path | None, selected: Sequence[Selection], namespace: str, given: Given
) -> Found:
    answer = read(config, selected, namespace, everywhere=given.has("all-namespaces"))
    if given.text("output").partition("=")[0] in ("yaml", "yml", "json"):
        answer.items = [typed(items, answer.unreadable) for items in answer.items]
    return answer


def typed(items: Sequence[Item], unreadable: list[str]) -> list[Item]:
    """As `apply` takes them: what is not valid is left out, and so are fields we do not know."""
    import msgspec

    from tortie.lib.errors import InvalidInput
    from tortie.model.codec import decode, to_plain
    from tortie.model.keys import ResourceKey, parse_key

    found = []
    for item in items:
        key = parse_key(item.path) if item.path else None
        if not isinstance(key, ResourceKey):
            found.append(item)
            continue
        try:
            resource = decode(key, item.raw)
        except InvalidInput as error:
            unreadable.append(str(error))
            continue
        version = str(item.revision)
        metadata = msgspec.structs.replace(resource.metadata, resource_version=version)
        found.append(Item(to_plain(msgspec.structs.replace(resource, metadata=metadata))))
    return found


class View:
    """What is to be printed of what was found."""

    def __init__(
        self, given: Given, form: printing.Format, chosen: Sequence[tuple[str, list[Selection]]]
    ) -> None:
        self._given = given
        self._form = form
        self.kinds = list(dict.fromkeys(s.kind for _, selected in chosen for s in selected))
        self.is_single = all(s.names is not None for _, selected in chosen for s in selected)
        self._namespaces = bool(given.text("namespace") or given.has("all-namespaces"))
        self.revision = 0
        self.errors: list[str] = []

    def columns(self, kind: str) -> list[Column]:
        titles = self._form.value.split(",") if self._form.name == "custom-columns" else ()
        return printing.columns_of(
            kind,
            wide=self._form.name == "wide",
            namespaces=self._namespaces and kind in NAMESPACED,
            labels=self._given.has("show-labels"),
            titles=titles,
        )

    def text(self, found: list[dict[str, Any]]) -> str:
        """Everything, with its last newline."""
        if self._given.has("export"):
            found = [printing.exported(item) for item in found]
        name, value = self._form.name, self._form.value
        if name in ("yaml", "yml", "json"):
            single = self.is_single and len(found) == 1
            data = found[0] if single else printing.listed(found, self.revision)
            return printing.structured(data, name) + "\n"
        if name == "name":
            return "".join(f"{line}\n" for line in printing.names(found).splitlines())
        if name.startswith("go-template"):
            return self._go_template(value, found)
        if name.startswith("jsonpath"):
            from tortie.ctl.jsonpath import render

            template = _read(value) if name == "jsonpath-file" else value
            single = self.is_single and len(found) == 1
            return render(template, found[0] if single else printing.listed(found, self.revision))
        tables = []
        for kind in self.kinds:
            items = [item for item in found if item["kind"] == kind]
            if items or len(self.kinds) == 1:
                show = printing.comma_separated if name == "csv" else printing.table
                tables.append(show(self.columns(kind), items))
        return "\n\n".join(tables) + "\n" if tables else ""

    def _go_template(self, value: str, found: list[dict[str, Any]]) -> str:
        from tortie.ctl.gotemplate import render

        template = _read(value) if self._form.name == "go-template-file" else value
        # As with calicoctl: resources by name, or lists of them.
        data: list[Any] = found
        if not self.is_single:
            by_kind = {kind: [r for r in found if r["kind"] == kind] for kind in self.kinds}
            data = [printing.listed(items, self.revision) for items in by_kind.values()]
        return render(template, data)


def _read(path: str) -> str:
    from pathlib import Path

    from tortie.ctl.access import read_bytes

    return read_bytes(Path(path)).decode(errors="replace")


def _from_files(given: Given) -> list[tuple[str, list[Selection]]]:
    """What files name: one at a time, in their order."""
    from tortie.ctl.access import read_files

    documents = read_files(given, complete=False)
    return [(d.key.namespace, [Selection(d.key.kind, (d.key.name,))]) for d in documents]


def _keeper(given: Given) -> Callable[[dict[str, Any]], bool]:
    """Whether a resource's labels are as `-l` says."""
    text = given.text("selector")
    if not text:
        return lambda item: True
    from tortie.ctl.label_selector import parse

    node = parse(text)
    return lambda item: node.matches(at(item, "metadata.labels") or {})
