"""Users' files: YAML or JSON documents and lists of them, to checked resources.

Strict where the datastore's reader is lenient: an unknown kind or field is an error, with the
nearest name, because in a file of a user it is a typing mistake that would otherwise open or
close something silently. Every message says file, line and column.
"""

import difflib
import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple, TypeVar, get_args

import msgspec

from tortie.lib.errors import InvalidInput
from tortie.model.catalogue import TYPES
from tortie.model.codec import Target, struct_in
from tortie.model.keys import NAMESPACED, PLURALS, ResourceKey
from tortie.model.limits import Limits, limits_of
from tortie.model.metadata import API_VERSION, Resource
from tortie.model.positions import Place, Positioned, TextSyntax, read_documents
from tortie.model.validation import terms, validate, with_defaults
from tortie.model.validation.entry import titled

DEFAULT_NAMESPACE = "default"

LIST_API_VERSIONS = ("v1", API_VERSION)

S = TypeVar("S", bound=msgspec.Struct)


class InvalidFile(InvalidInput):
    """What is wrong with a user's file; `messages` has one line for each mistake."""

    def __init__(self, messages: Sequence[str]) -> None:
        super().__init__("\n".join(messages))
        self.messages = tuple(messages)


class Item(NamedTuple):
    """One resource of a file as plain values, and where in the file each of them stood."""

    tree: Positioned
    root: str
    """The resource's path in the document."""
    source: str
    value: Any

    @property
    def where(self) -> str:
        """`file:line:column`."""
        return self._where(self.tree.place(self.root))

    def at(self, path: str, message: str, *, key: bool = False) -> str:
        """A message about the field at `path`, or about its name, with its place."""
        full = self.full(path)
        place = self.tree.key_place(full) if key else self.tree.place(full)
        return f"{self._where(place)}: {terms.printable(message)}"

    def full(self, path: str) -> str:
        """From the top of the document."""
        if not self.root or not path:
            return self.root or path
        return f"{self.root}.{path}"

    def _where(self, place: Place) -> str:
        return f"{self.source}:{place.line}:{place.column}"


class Document(NamedTuple):
    """One resource of a file, defaults filled in."""

    resource: Resource
    item: Item

    @property
    def where(self) -> str:
        """`file:line:column`."""
        return self.item.where

    @property
    def key(self) -> ResourceKey:
        metadata = self.resource.metadata
        return ResourceKey(self.resource.kind, metadata.name, metadata.namespace)


def load(
    raw: bytes,
    source: str,
    *,
    namespace: str = DEFAULT_NAMESPACE,
    complete: bool = True,
) -> list[Document]:
    """Read every resource of a text, in its order; lists are taken apart.

    Args:
        source: what to call the text in messages; a name that ends in `.json` is read as
            strict JSON.
        namespace: of resources that need one and give none.
        complete: the resources are to be stored: fill in defaults and apply the rules of
            their kinds. Otherwise only the structure is checked, for `get` and `delete`.

    Raises:
        InvalidFile: with every mistake of every document, each `source:line:column: …`.
    """
    documents: list[Document] = []
    messages: list[str] = []
    for item in items(raw, source):
        try:
            documents.append(read(item, namespace, complete=complete))
        except InvalidFile as error:
            messages.extend(error.messages)
    if messages:
        raise InvalidFile(messages)
    return documents


def items(raw: bytes, source: str) -> Iterator[Item]:
    """The resources of a text, of any API; lists are taken apart.

    Raises:
        InvalidFile: it is neither YAML nor JSON.
    """
    for tree in _trees(raw, source):
        for path, value in _items(tree):
            yield Item(tree, path, source, value)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that the user may have meant."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[found[0]] if found else None


def _suggestion(name: str, known: Iterable[str]) -> str:
    best = nearest(name, known)
    return f"; did you mean {best!r}?" if best else ""


# --- text to documents ------------------------------------------------------------


def _trees(raw: bytes, source: str) -> list[Positioned]:
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        column = error.start - raw.rfind(b"\n", 0, error.start)
        raise InvalidFile([f"{source}:{line}:{column}: not UTF-8 text"]) from error
    try:
        return read_documents(text, is_json=source.endswith(".json"))
    except TextSyntax as error:
        place = error.place
        raise InvalidFile([f"{source}:{place.line}:{place.column}: {error.rule}"]) from error


def _items(tree: Positioned) -> Iterator[tuple[str, Any]]:
    """The document itself, or the entries of a list, with their paths in the document.

    A list may be bare, as calicoctl before v3.0 wrote it.
    """
    value, path = tree.value, ""
    if isinstance(value, dict) and _is_list(value) and isinstance(value.get("items"), list):
        value, path = value["items"], "items"
    if not isinstance(value, list):
        yield "", value
        return
    for index, item in enumerate(value):
        yield f"{path}[{index}]", item


def _is_list(value: dict[str, Any]) -> bool:
    kind = value.get("kind")
    if not isinstance(kind, str) or value.get("apiVersion") not in LIST_API_VERSIONS:
        return False
    return kind == "List" or (kind.endswith("List") and kind[: -len("List")] in PLURALS)


def read(reader: Item, namespace: str, *, complete: bool) -> Document:
    """See `load`.

    Raises:
        InvalidFile: with every mistake.
    """
    kind = _kind(reader, reader.value)
    struct = TYPES[kind]
    resource: Resource = as_struct(reader, kind, struct)
    if complete and (missing := list(_missing(struct, _given(reader.value), ""))):
        raise InvalidFile([reader.at(p, f"{kind}: {message}") for p, message in missing])
    resource = _in_namespace(resource, kind, namespace)
    if not complete:
        if not resource.metadata.name:
            raise InvalidFile([reader.at("metadata", f"{kind}: metadata.name is needed")])
        return Document(msgspec.structs.replace(resource, kind=kind), reader)
    resource = with_defaults(resource)
    problems = validate(resource)
    if problems:
        title = titled(resource)
        raise InvalidFile([reader.at(p.path, f"{title}: {p}") for p in problems])
    return Document(resource, reader)


def as_struct(reader: Item, kind: str, struct: type[S]) -> S:
    """The item by its struct: no field that it has not, and each of the right type.

    Raises:
        InvalidFile: with every unknown field, or with the first wrong value.
    """
    unknown = list(_unknown_fields(struct, reader.value, ""))
    if unknown:
        raise InvalidFile([reader.at(p, f"{kind}: {message}", key=True) for p, message in unknown])
    try:
        return msgspec.convert(_given(reader.value), struct)
    except msgspec.ValidationError as error:
        raise InvalidFile([_wrong_value(reader, kind, struct, error)]) from error


def _given(value: Any) -> Any:
    """Without fields that are null: in the API they mean "not given"."""
    if isinstance(value, dict):
        return {name: _given(v) for name, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_given(item) for item in value]
    return value


def _in_namespace(resource: Resource, kind: str, namespace: str) -> Resource:
    if kind not in NAMESPACED or resource.metadata.namespace:
        return resource
    metadata = msgspec.structs.replace(resource.metadata, namespace=namespace)
    return msgspec.structs.replace(resource, metadata=metadata)


def _kind(reader: Item, item: Any) -> str:
    if not isinstance(item, dict):
        raise InvalidFile([reader.at("", "a resource is a mapping with kind, metadata and spec")])
    kind, version = item.get("kind"), item.get("apiVersion")
    if not isinstance(kind, str) or not kind:
        raise InvalidFile([reader.at("kind", "kind is needed, such as 'NetworkPolicy'")])
    if kind not in TYPES:
        if kind in PLURALS:
            message = f"kind {kind!r} is not supported yet"
        else:
            message = f"unknown kind {kind!r}{_suggestion(kind, TYPES)}"
        raise InvalidFile([reader.at("kind", message)])
    if version != API_VERSION:
        shown = "is needed and" if version is None else f"{version!r} is wrong; it"
        raise InvalidFile(
            [reader.at("apiVersion", f"{kind}: apiVersion {shown} must be {API_VERSION!r}")]
        )
    return kind


# --- unknown fields and wrong values ----------------------------------------------


@functools.cache
def _fields_of(struct: type[msgspec.Struct]) -> dict[str, msgspec.structs.FieldInfo]:
    """By their names in YAML; remembered, because looking at types is slow."""
    return {field.encode_name: field for field in msgspec.structs.fields(struct)}


def _unknown_fields(
    struct: type[msgspec.Struct], value: Any, path: str
) -> Iterator[tuple[str, str]]:
    if not isinstance(value, dict):
        return  # the wrong type, which the conversion reports
    fields = _fields_of(struct)
    for name, inner in value.items():
        place = f"{path}.{name}" if path else name
        if name not in fields:
            # calicoctl's words, which scripts look for.
            rule = f"field in document is not recognized or is in the wrong location: {name}"
            yield place, f"{place}: {rule}{_suggestion(name, fields)}"
            continue
        target = struct_in(fields[name].type)
        if target is None:
            continue
        if not target.many:
            yield from _unknown_fields(target.kind, inner, place)
        elif isinstance(inner, list):
            for index, entry in enumerate(inner):
                yield from _unknown_fields(target.kind, entry, f"{place}[{index}]")


def _missing(struct: type[msgspec.Struct], value: Any, path: str) -> Iterator[tuple[str, str]]:
    """What the text must say, and what in it is empty though it must not be.

    A struct cannot tell: there, what is not given has its default.
    """
    if not isinstance(value, dict):
        return  # the wrong type, which the conversion reports
    for field, limits, target in _said(struct):
        place = f"{path}.{field}" if path else field
        if field not in value:
            if limits.present or limits.required:
                yield path, f"{place}: is needed"
            continue
        inner = value[field]
        if limits.fewest and inner == []:
            yield place, f"{place}: must have at least {limits.fewest} entry, or be left out"
        if target is None:
            continue
        if not target.many:
            yield from _missing(target.kind, inner, place)
        elif isinstance(inner, list):
            for index, entry in enumerate(inner):
                yield from _missing(target.kind, entry, f"{place}[{index}]")


@cache
def _said(struct: type[msgspec.Struct]) -> tuple[tuple[str, Limits, Target | None], ...]:
    """Fields to look at for what is missing, in them or within them."""
    found = []
    for field in msgspec.structs.fields(struct):
        limits, target = limits_of(field.type), struct_in(field.type)
        if limits.present or limits.required or limits.fewest or (target and _said(target.kind)):
            found.append((field.encode_name, limits, target))
    return tuple(found)


_TYPE_NAMES = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "object": "a mapping",
    "array": "a list",
    "null": "nothing",
}


def _wrong_value(
    reader: Item, kind: str, struct: type[msgspec.Struct], error: msgspec.ValidationError
) -> str:
    """msgspec's message in the words of the file, at its place."""
    text, _, at = str(error).partition(" - at `$")
    path = at.rstrip("`").lstrip(".")
    if path.endswith("[...]"):
        path = _odd_one_out(reader, path.removesuffix("[...]"))
    value = _value_at(reader, path)
    if text.startswith("Expected"):
        text = f"must be {_expected(text)} (it is {value!r})"
        if isinstance(value, (int, float)) and "must be text" in text:
            text += "; put it in quotes"
    elif text.startswith("Invalid enum value"):
        choices = _choices(struct, path)
        text = f"must be one of {', '.join(choices)} (it is {value!r})"
        text += _suggestion(str(value), choices)
    elif "missing required field" in text:
        missing = text.rpartition("field ")[2].strip("`")
        text = f"{missing} is needed"
    return reader.at(path, f"{kind}: {path}: {text}")


def _odd_one_out(reader: Item, path: str) -> str:
    """Of a mapping to text, the path of the entry that is none; msgspec does not say which."""
    mapping = _value_at(reader, path)
    odd = (name for name, value in mapping.items() if not isinstance(value, str | None))
    return f"{path}.{next(odd, '')}" if isinstance(mapping, dict) else path


def _expected(text: str) -> str:
    """`Expected `int | null`, got `str`` as `a whole number`."""
    names = text.partition("`")[2].partition("`")[0].split(" | ")
    return " or ".join(_TYPE_NAMES.get(name, name) for name in names if name != "null")


def _value_at(reader: Item, path: str) -> Any:
    value, rest = reader.tree.value, reader.full(path)
    while rest:
        if isinstance(value, list):
            index, _, rest = rest.removeprefix("[").partition("]")
            value, rest = value[int(index)], rest.removeprefix(".")
            continue
        step = rest if rest in value else re.split(r"[.\[]", rest, maxsplit=1)[0]
        value, rest = value[step], rest[len(step) :].removeprefix(".")
    return value


def _choices(struct: type[msgspec.Struct], path: str) -> tuple[str, ...]:
    """The values that the field at `path` takes, by its Literal type."""
    annotation: Any = struct
    for step in path.replace("[", ".[").split("."):
        if step.startswith("["):
            continue
        fields = {field.encode_name: field.type for field in msgspec.structs.fields(annotation)}
        annotation = fields[step]
        if target := struct_in(annotation):
            annotation = target.kind
    return tuple(str(choice) for choice in _literals(annotation))


def _literals(annotation: Any) -> Iterator[Any]:
    for argument in get_args(annotation):
        if get_args(argument):
            yield from _literals(argument)
        elif isinstance(argument, str):
            yield argument
