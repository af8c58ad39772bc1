r"""kubectl's JSONPath templates: `{.items[*].metadata.name}`, `{range …}…{end}`.

    template  = (text | "{" action "}")*
    action    = path | string | "range" path | "end"
    path      = ["$" | "@"] step*
    step      = "." name | ".." name | "." "*" | "[" index "]"
    index     = "*" | number | [number] ":" [number] [":" number] | "'" name "'"
              | "?(" path [operator literal] ")"
    operator  = "==" | "!=" | "<" | "<=" | ">" | ">="

A path that leads nowhere gives nothing, as with kubectl.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

from tortie.lib.errors import InvalidInput

DEPTH_MAX = 16
"""Ranges within ranges, and filters within filters."""

_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_NAME = re.compile(r"(?:[^\s.\[\]{}()'\"=<>!?@$,:\\]|\\.)+")
_INTEGER = re.compile(r"-?\d{1,9}")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}

Step: TypeAlias = Callable[[Any], Iterator[Any]]


class Path(NamedTuple):
    steps: tuple[Step, ...]
    from_root: bool

    def follow(self, root: Any, current: Any) -> list[Any]:
        found = [root if self.from_root else current]
        for step in self.steps:
            found = [value for item in found for value in step(item)]
        return found


class Range(NamedTuple):
    path: Path
    body: tuple[Piece, ...]


Piece: TypeAlias = "str | Path | Range"


def render(template: str, root: Any) -> str:
    """
    Raises:
        InvalidInput: the template is wrong; says at which character.
    """
    pieces = _Parser(template).parse()
    return "".join(_render(pieces, root, root))


def _render(pieces: tuple[Piece, ...], root: Any, current: Any) -> Iterator[str]:
    for piece in pieces:
        if isinstance(piece, str):
            yield piece
        elif isinstance(piece, Path):
            yield " ".join(map(_text, piece.follow(root, current)))
        else:
            for item in piece.path.follow(root, current):
                yield from _render(piece.body, root, item)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0

    def parse(self) -> tuple[Piece, ...]:
        pieces = self._pieces()
        if self._at < len(self._text):
            raise self._wrong("{end} without {range}")
        return pieces

    def _pieces(self) -> tuple[Piece, ...]:
        found: list[Piece] = []
        while self._at < len(self._text):
            opening = self._text.find("{", self._at)
            end = len(self._text) if opening < 0 else opening
            if end > self._at:
                found.append(self._text[self._at : end])
                self._at = end
            if opening < 0:
                break
            start = self._at
            self._at += 1
            self._blanks()
            if self._word("end"):
                self._at = start  # for whoever opened the range
                break
            found.append(self._range() if self._word("range") else self._action())
        return tuple(found)

    def _range(self) -> Range:
        self._deeper()
        self._blanks()
        path = self._path()
        self._close()
        body = self._pieces()
        if not self._take("{"):
            raise self._wrong("{range} without {end}")
        self._blanks()
        self._word("end")
        self._close()
        self._depth -= 1
        return Range(path, body)

    def _action(self) -> Piece:
        piece = self._string() if self._peek() in ("'", '"') else self._path()
        self._close()
        return piece

    def _path(self) -> Path:
        from_root = not self._take("@")
        self._take("$")
        relative = not from_root or (self._depth > 0 and self._text[self._at - 1] != "$")
        steps: list[Step] = []
        while True:
            if self._take(".."):
                steps.append(_descend(self._name()))
            elif self._take("."):
                if self._take("*"):
                    steps.append(_all)
                elif self._peek() not in ("[", "}", " ", ")", ""):
                    steps.append(_field(self._name()))
            elif self._take("["):
                steps.append(self._index())
            elif not steps and _NAME.match(self._text, self._at):
                steps.append(_field(self._name()))
            else:
                return Path(tuple(steps), not relative)

    def _index(self) -> Step:
        if self._take("?("):
            step = self._filter()
        elif self._take("*"):
            step = _all
        elif self._peek() in ("'", '"'):
            step = _field(self._string())
        else:
            step = self._slice()
        if not self._take("]"):
            raise self._wrong("']' expected")
        return step

    def _slice(self) -> Step:
        numbers: list[int | None] = [self._number()]
        while self._take(":"):
            numbers.append(self._number())
        if len(numbers) == 1 and numbers[0] is not None:
            return _item(numbers[0])
        if not 2 <= len(numbers) <= 3 or numbers[2:] == [0]:
            raise self._wrong("an index, a slice, '*' or a quoted name expected")
        return _part(slice(*numbers))

    def _filter(self) -> Step:
        self._deeper()
        self._blanks()
        path = self._path()
        self._blanks()
        compare = next((sign for sign in _OPERATORS if self._take(sign)), None)
        wanted: Any = None
        if compare:
            self._blanks()
            wanted = self._literal()
            self._blanks()
        if not self._take(")"):
            raise self._wrong("')' expected")
        self._depth -= 1
        return _matching(path, _OPERATORS[compare] if compare else None, wanted)

    def _literal(self) -> Any:
        if self._peek() in ("'", '"'):
            return self._string()
        end = self._text.find(")", self._at)
        text = self._text[self._at : end].strip() if end >= 0 else ""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            raise self._wrong("a number, true, false or a quoted text expected") from None
        self._at = end
        return value

    # --- characters ---

    def _string(self) -> str:
        quote = self._text[self._at]
        self._at += 1
        found: list[str] = []
        while (character := self._peek()) != quote:
            if not character:
                raise self._wrong(f"{quote} expected")
            self._at += 1
            if character == "\\":
                escaped = self._peek()
                character = _ESCAPES.get(escaped, escaped)
                self._at += 1
            found.append(character)
        self._at += 1
        return "".join(found)

    def _name(self) -> str:
        match = _NAME.match(self._text, self._at)
        if match is None:
            raise self._wrong("a field's name expected")
        self._at = match.end()
        return re.sub(r"\\(.)", r"\1", match[0])

    def _number(self) -> int | None:
        match = _INTEGER.match(self._text, self._at)
        if match is None:
            return None
        self._at = match.end()
        return int(match[0])

    def _word(self, word: str) -> bool:
        after = self._text[self._at + len(word) : self._at + len(word) + 1]
        return after in (" ", "}", "") and self._take(word)

    def _take(self, text: str) -> bool:
        if not self._text.startswith(text, self._at):
            return False
        self._at += len(text)
        return True

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _blanks(self) -> None:
        while self._peek().isspace():
            self._at += 1

    def _close(self) -> None:
        self._blanks()
        if not self._take("}"):
            raise self._wrong("'}' expected")

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise self._wrong("nested too deeply")

    def _wrong(self, rule: str) -> InvalidInput:
        return InvalidInput(f"jsonpath, character {self._at + 1}: {rule}")


# --- steps ----------------------------------------------------------------------------------


def _all(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value


def _field(name: str) -> Step:
    def step(value: Any) -> Iterator[Any]:
        if isinstance(value, dict) and name in value:
            yield value[name]

    return step


def _descend(name: str) -> Step:
    def step(value: Any) -> Iterator[Any]:
        waiting = [value]
        while waiting:
            item = waiting.pop(0)
            if isinstance(item, dict) and name in item:
                yield item[name]
            waiting[:0] = list(_all(item))

    return step


def _item(index: int) -> Step:
    def step(value: Any) -> Iterator[Any]:
        if isinstance(value, list) and -len(value) <= index < len(value):
            yield value[index]

    return step


def _part(part: slice) -> Step:
    def step(value: Any) -> Iterator[Any]:
        if isinstance(value, list):
            yield from value[part]

    return step


def _matching(path: Path, compare: Callable[[Any, Any], bool] | None, wanted: Any) -> Step:
    def is_match(item: Any) -> bool:
        found = path.follow(item, item)
        if compare is None:
            return bool(found)
        try:
            return any(compare(value, wanted) for value in found)
        except TypeError:  # 'x' < 3
            return False

    def step(value: Any) -> Iterator[Any]:
        return (item for item in _all(value) if is_match(item))

    return step
