"""YAML and JSON text to plain values that remember where in the text they stood.

YAML here is what people mean by it: only `true` and `false` are booleans (`no` and `on` are
text), numbers are decimal or 0x-hexadecimal, and dates, `010` and `1:30` stay text. Keys are
always text. Anchors and aliases work, within bounds; merge keys and tags of other types do not.

Both grammars become the same stream of steps, and one builder makes values of it: so depth
and size are bounded in one place, and no recursion follows the input.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml

from tortie.lib.errors import InvalidInput
from tortie.model.codec import DEPTH_MAX
from tortie.model.yaml_text import DIGITS_MAX, INFINITE, plain_scalar

VALUES_MAX = 1_000_000
"""In one text, aliases followed: some hundred times what the largest manifest has."""


class Place(NamedTuple):
    line: int
    """From 1."""
    column: int
    """From 1, in characters."""


class Positioned(NamedTuple):
    """One document: its value, and where each part of it stood.

    Paths are written as in `spec.ingress[0].nets[1]`; the whole document is the empty path.
    """

    value: Any
    values: dict[str, Place]
    """Of values, by path."""
    keys: dict[str, Place]
    """Of the names of fields, by the path of the field."""

    def place(self, path: str) -> Place:
        """Where the value at `path` stands, or the nearest thing around it."""
        while path and path not in self.values:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self.values.get(path, Place(1, 1))

    def key_place(self, path: str) -> Place:
        return self.keys.get(path) or self.place(path)


class TextSyntax(InvalidInput):
    """The text is neither YAML nor JSON; says where it stops being so."""

    def __init__(self, place: Place, rule: str) -> None:
        super().__init__(f"line {place.line}, column {place.column}: {rule}")
        self.place = place
        self.rule = rule


def read_documents(text: str, *, is_json: bool = False) -> list[Positioned]:
    """Every document of a text; documents without content are left out.

    Args:
        is_json: refuse what is YAML only. Otherwise text that looks like JSON is read as
            such first, for better messages and JSON's own escapes.

    Raises:
        TextSyntax: with the place of the first mistake.
    """
    if is_json:
        return _build(_json_steps(text))
    if text.lstrip()[:1] not in ("{", "["):
        return _build(_yaml_steps(text))
    try:
        return _build(_json_steps(text))
    except TextSyntax as as_json:
        try:
            return _build(_yaml_steps(text))
        except TextSyntax:
            raise as_json from None


# --- steps to values --------------------------------------------------------------


class _Step(NamedTuple):
    kind: str
    """"mapping", "sequence", "end", "scalar", "alias" or "document"."""
    place: Place
    value: Any = None
    """Of a scalar; of an alias its name."""
    text: str = ""
    """Of a scalar as written, for when it is a key."""
    anchor: str | None = None


class _Frame:
    """A list or mapping that is being filled."""

    def __init__(self, container: Any, path: str, anchor: str | None, size_before: int) -> None:
        self.container = container
        self.path = path
        self.anchor = anchor
        self.size_before = size_before
        self.key: str | None = None

    def path_of_next(self) -> str:
        if isinstance(self.container, list):
            return f"{self.path}[{len(self.container)}]"
        return f"{self.path}.{self.key}" if self.path else f"{self.key}"

    def add(self, value: Any) -> None:
        if isinstance(self.container, list):
            self.container.append(value)
        else:
            self.container[self.key] = value
            self.key = None


class _Builder:
    """Makes one document of steps."""

    def __init__(self) -> None:
        self.result = Positioned(None, {}, {})
        self.given = False
        self._frames: list[_Frame] = []
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._size = 0

    def feed(self, step: _Step) -> None:
        if step.kind == "end":
            self._close()
            return
        frame = self._frames[-1] if self._frames else None
        if frame and isinstance(frame.container, dict) and frame.key is None:
            self._name(frame, step)
            return
        path = frame.path_of_next() if frame else ""
        self.result.values[path] = step.place
        self._grow(1, step.place)
        if step.kind in ("mapping", "sequence"):
            self._open(step, path)
        elif step.kind == "alias":
            self._add(self._followed(step))
        else:
            if step.anchor:
                self._anchors[step.anchor] = (step.value, 1)
            self._add(step.value)

    def _name(self, frame: _Frame, step: _Step) -> None:
        if step.kind != "scalar":
            raise TextSyntax(step.place, "a field needs a name, not a list or mapping")
        if step.text in frame.container:
            raise TextSyntax(step.place, f"{step.text!r} is there twice")
        frame.key = step.text
        self.result.keys[frame.path_of_next()] = step.place

    def _open(self, step: _Step, path: str) -> None:
        if len(self._frames) == DEPTH_MAX:
            raise TextSyntax(step.place, f"nested deeper than {DEPTH_MAX}")
        container: Any = {} if step.kind == "mapping" else []
        self._add(container, is_open=True)
        self._frames.append(_Frame(container, path, step.anchor, self._size))

    def _close(self) -> None:
        frame = self._frames.pop()
        if frame.anchor:
            self._anchors[frame.anchor] = (frame.container, self._size - frame.size_before + 1)

    def _followed(self, step: _Step) -> Any:
        if step.value not in self._anchors:
            raise TextSyntax(step.place, f"there is no anchor &{step.value} before this")
        value, size = self._anchors[step.value]
        self._grow(size, step.place)
        return value

    def _add(self, value: Any, *, is_open: bool = False) -> None:
        if self._frames:
            self._frames[-1].add(value)
        else:
            self.result = self.result._replace(value=value)
            self.given = is_open or value is not None

    def _grow(self, count: int, place: Place) -> None:
        self._size += count
        if self._size > VALUES_MAX:
            raise TextSyntax(place, f"more than {VALUES_MAX} values, aliases followed")


def _build(steps: Iterator[_Step]) -> list[Positioned]:
    documents = []
    builder = _Builder()
    for step in steps:
        if step.kind != "document":
            builder.feed(step)
            continue
        if builder.given:
            documents.append(builder.result)
        builder = _Builder()
    return documents


# --- YAML -------------------------------------------------------------------------

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's parser, ten times faster; without it the same results."""

_STRING_TAGS = frozenset({None, "!", "tag:yaml.org,2002:str"})
_PLAIN_TAGS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("int", "float", "bool", "null"))
_COLLECTION_TAGS = frozenset({None, "!", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"})


def _yaml_steps(text: str) -> Iterator[_Step]:
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            mark = event.start_mark
            assert mark is not None  # only events made by hand lack it
            place = Place(mark.line + 1, mark.column + 1)
            if isinstance(event, yaml.ScalarEvent):
                value = _yaml_value(event, place)
                yield _Step("scalar", place, value, event.value, event.anchor)
            elif isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
                if event.tag not in _COLLECTION_TAGS:
                    raise TextSyntax(place, f"the tag {event.tag} is not supported")
                kind = "mapping" if isinstance(event, yaml.MappingStartEvent) else "sequence"
                yield _Step(kind, place, anchor=event.anchor)
            elif isinstance(event, yaml.AliasEvent):
                yield _Step("alias", place, event.anchor)
            elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
                yield _Step("end", place)
            elif isinstance(event, yaml.DocumentEndEvent):
                yield _Step("document", place)
    except yaml.MarkedYAMLError as error:
        where = error.problem_mark or error.context_mark
        place = Place(where.line + 1, where.column + 1) if where else Place(1, 1)
        what = ", ".join(filter(None, (error.problem, error.context)))
        raise TextSyntax(place, f"not YAML: {what}") from error
    except yaml.YAMLError as error:
        place = _place_at(text, getattr(error, "position", 0) or 0)
        raise TextSyntax(place, f"not YAML: {getattr(error, 'reason', error)}") from error


def _yaml_value(event: yaml.ScalarEvent, place: Place) -> Any:
    is_plain = event.implicit[0]
    if event.tag in _PLAIN_TAGS:
        is_plain = True
    elif event.tag not in _STRING_TAGS:
        raise TextSyntax(place, f"the tag {event.tag} is not supported")
    return plain_scalar(event.value) if is_plain else event.value


# --- JSON -------------------------------------------------------------------------

_BLANK = re.compile(r"[ \t\r\n]*")
_JSON_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_JSON_WORD = re.compile("true|false|null")
_JSON = json.JSONDecoder(strict=True)
_JSON_WORDS = {"true": True, "false": False, "null": None}


class _JsonText:
    """A cursor over JSON text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self._line = 1
        self._line_start = 0

    def skip_blanks(self) -> str:
        """The next character that counts; empty at the end."""
        match = _BLANK.match(self.text, self.position)
        assert match is not None  # the pattern matches the empty string too
        gap = match[0]
        if newlines := gap.count("\n"):
            self._line += newlines
            self._line_start = self.position + gap.rfind("\n") + 1
        self.position = match.end()
        return self.text[self.position : self.position + 1]

    def place(self) -> Place:
        return Place(self._line, self.position - self._line_start + 1)

    def refuse(self, expected: str) -> TextSyntax:
        found = self.text[self.position : self.position + 1]
        what = f"found {found!r}" if found else "the text ends"
        return TextSyntax(self.place(), f"not JSON: expected {expected}, but {what}")

    def scalar(self) -> tuple[Any, str]:
        """The value here, and for strings the text of it."""
        if self.text.startswith('"', self.position):
            value = self.string()
            return value, value
        if word := _JSON_WORD.match(self.text, self.position):
            self.position = word.end()
            return _JSON_WORDS[word[0]], word[0]
        number = _JSON_NUMBER.match(self.text, self.position)
        if number is None:
            raise self.refuse("a value")
        if len(number[0]) > DIGITS_MAX:
            raise TextSyntax(self.place(), f"not JSON: a number of over {DIGITS_MAX} digits")
        parsed = float(number[0]) if number[1] or number[2] else int(number[0])
        if parsed in INFINITE:
            raise TextSyntax(self.place(), "the number is too large")
        self.position = number.end()
        return parsed, number[0]

    def string(self) -> str:
        try:
            value, end = _JSON.raw_decode(self.text, self.position)
            value.encode()
        except json.JSONDecodeError as error:
            place = Place(error.lineno, error.colno)
            raise TextSyntax(place, f"not JSON: {error.msg.lower()}") from error
        except UnicodeEncodeError as error:
            raise TextSyntax(self.place(), "half of a surrogate pair in the text") from error
        self.position = end
        return str(value)


def _json_steps(text: str) -> Iterator[_Step]:
    cursor = _JsonText(text)
    closers: list[str] = []
    while cursor.skip_blanks():
        yield from _json_value(cursor, closers)
        while closers:
            yield from _json_next(cursor, closers)
        yield _Step("document", cursor.place())


def _json_value(cursor: _JsonText, closers: list[str]) -> Iterator[_Step]:
    character, place = cursor.skip_blanks(), cursor.place()
    if character in ("{", "["):
        cursor.position += 1
        closers.append("}" if character == "{" else "]")
        yield _Step("mapping" if character == "{" else "sequence", place)
        if cursor.skip_blanks() == closers[-1]:
            return  # empty: _json_next closes it
        yield from _json_entry(cursor, closers)
    else:
        value, written = cursor.scalar()
        yield _Step("scalar", place, value, written)


def _json_entry(cursor: _JsonText, closers: list[str]) -> Iterator[_Step]:
    """A field's name and what begins after it, or an entry of a list."""
    if closers[-1] == "}":
        if cursor.skip_blanks() != '"':
            raise cursor.refuse("the name of a field in double quotes")
        place, name = cursor.place(), cursor.string()
        yield _Step("scalar", place, name, name)
        if cursor.skip_blanks() != ":":
            raise cursor.refuse("a colon")
        cursor.position += 1
    yield from _json_value(cursor, closers)


def _json_next(cursor: _JsonText, closers: list[str]) -> Iterator[_Step]:
    character, place = cursor.skip_blanks(), cursor.place()
    if character == closers[-1]:
        closers.pop()
        cursor.position += 1
        yield _Step("end", place)
    elif character == ",":
        cursor.position += 1
        yield from _json_entry(cursor, closers)
    else:
        raise cursor.refuse(f"a comma or {closers[-1]}")


def _place_at(text: str, position: int) -> Place:
    before = text[:position]
    return Place(before.count("\n") + 1, position - before.rfind("\n"))
