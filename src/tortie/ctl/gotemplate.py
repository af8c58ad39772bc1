"""The part of Go's text/template that calicoctl's examples use.

    action  = "range" value | "with" value | "if" value | "else" ["if" value] | "end"
            | "$" name ":=" value | value | "/*" comment "*/"
    value   = command ("|" command)*
    command = operand | function operand*
    operand = "." path | "." | "$" name [path] | "$" [path] | text | number | "true" | "false"
            | "nil" | "(" value ")"

Functions: `index len printf print println join joinAndTruncate eq ne lt le gt ge and or not`.
Anything else is refused, naming `-o jsonpath`. Fields are named as in Go (`.Spec.PeerIP`) or
as in YAML (`.spec.peerIP`); `.ObjectMeta.Name`, `.Name` and `.metadata.name` are the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, NoReturn, TypeAlias

from tortie.lib.errors import InvalidInput

OUTPUT_MAX_CHARACTERS = 64 * 1024 * 1024
DEPTH_MAX = 32

_TOKEN = re.compile(
    r"""\s*(?: (?P<text>"(?:[^"\\\n]|\\.)*") | (?P<raw>`[^`]*`) | (?P<number>-?\d+(?:\.\d+)?)
    | (?P<variable>\$\w*) | (?P<path>(?:\.\w+)+|\.) | (?P<word>\w+) | (?P<sign>:=|[=|(),]) )""",
    re.VERBOSE | re.ASCII,
)
_VERB = re.compile(r"%(?P<flags>[-+# 0]*)(?P<width>\d{0,3})(?:\.(?P<digits>\d{1,3}))?(?P<verb>.)")
_PARTS = re.compile(r"\{\{(?:-\s)?(.*?)(?:\s-)?\}\}", re.DOTALL)
_KEYWORDS = frozenset({"range", "with", "if", "else", "end"})


class Field(NamedTuple):
    """Steps from what `variable` holds; the empty one is the dot."""

    variable: str
    steps: tuple[str, ...]


class Literal(NamedTuple):
    value: Any


class Called(NamedTuple):
    function: str
    arguments: tuple[Value, ...]


class Within(NamedTuple):
    """Steps from a value in parentheses."""

    value: Value
    steps: tuple[str, ...]


Value: TypeAlias = Field | Literal | Called | Within


class Shown(NamedTuple):
    value: Value


class Assigned(NamedTuple):
    name: str
    value: Value


class Block(NamedTuple):
    keyword: str
    """`range`, `with` or `if`."""
    names: tuple[str, ...]
    """Of `range $i, $x := …` and `with $x := …`."""
    value: Value
    body: tuple[Piece, ...]
    otherwise: tuple[Piece, ...]


Piece: TypeAlias = str | Shown | Assigned | Block


def render(template: str, data: Any) -> str:
    """
    Raises:
        InvalidInput: the template is wrong, or uses what we do not have.
    """
    pieces = _Parser(template).parse()
    parts: list[str] = []
    size = 0
    for part in _rendered(pieces, data, {"$": data}):
        size += len(part)
        if size > OUTPUT_MAX_CHARACTERS:
            raise InvalidInput(f"go-template: more than {OUTPUT_MAX_CHARACTERS} characters")
        parts.append(part)
    return "".join(parts)


def _refuse(rule: str) -> NoReturn:
    raise InvalidInput(f"go-template: {rule}; -o jsonpath can do more")


# --- reading --------------------------------------------------------------------------------


class _Parser:
    def __init__(self, template: str) -> None:
        self._parts = list(_split(template))
        self._at = 0
        self._depth = 0

    def parse(self) -> tuple[Piece, ...]:
        body, closing = self._body()
        if closing:
            raise InvalidInput(f"go-template: {{{{{closing[0]}}}}} without a beginning")
        return body

    def _body(self) -> tuple[tuple[Piece, ...], list[str]]:
        """What comes until `else` or `end`, and those words."""
        found: list[Piece] = []
        while self._at < len(self._parts):
            text, action = self._parts[self._at]
            self._at += 1
            if text:
                found.append(text)
            if action is None or action.startswith("/*"):
                continue
            words = _Words(action)
            keyword = words.keyword()
            if keyword in ("else", "end"):
                return tuple(found), [keyword, *([action] if keyword == "else" else [])]
            found.append(self._block(keyword, words) if keyword else words.statement())
        return tuple(found), []

    def _block(self, keyword: str, words: _Words) -> Block:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise InvalidInput("go-template: nested too deeply")
        names = words.names()
        value = words.whole_value()
        body, closing = self._body()
        otherwise: tuple[Piece, ...] = ()
        if closing and closing[0] == "else":
            inner = _Words(closing[1])
            inner.keyword()
            again = inner.keyword()
            if again:
                otherwise = (self._block(again, inner),)
                closing = ["end"]
            else:
                inner.finish()
                otherwise, closing = self._body()
        if closing != ["end"]:
            raise InvalidInput(f"go-template: {{{{{keyword}}}}} without {{{{end}}}}")
        self._depth -= 1
        return Block(keyword, names, value, body, otherwise)


def _split(template: str) -> Iterator[tuple[str, str | None]]:
    """Text, and the action after it."""
    at = 0
    trim = False
    for match in _PARTS.finditer(template):
        text = template[at : match.start()]
        text = text.lstrip() if trim else text
        whole = match[0]
        trim = bool(re.search(r"\s-\}\}$", whole))
        yield text.rstrip() if re.match(r"\{\{-\s", whole) else text, match[1].strip()
        at = match.end()
    rest = template[at:]
    if "{{" in rest:
        raise InvalidInput("go-template: {{ without }}")
    yield rest.lstrip() if trim else rest, None


class _Words:
    """The tokens of one action."""

    def __init__(self, action: str) -> None:
        self._action = action
        self._tokens: list[tuple[str, str]] = []
        at = 0
        while action[at:].strip():
            match = _TOKEN.match(action, at)
            if match is None or not match.lastgroup:
                _refuse(f"{action!r} is not understood")
            kind = match.lastgroup
            if kind == "path" and self._tokens and match.start(kind) == at:
                kind = "tail"  # of what stands right before it
            self._tokens.append((kind, match[match.lastgroup]))
            at = match.end()
        self._depth = 0

    def keyword(self) -> str:
        if self._tokens and self._tokens[0][0] == "word" and self._tokens[0][1] in _KEYWORDS:
            return self._tokens.pop(0)[1]
        return ""

    def names(self) -> tuple[str, ...]:
        """`$i, $x :=` before a value."""
        length = next((i for i, token in enumerate(self._tokens) if token == ("sign", ":=")), 0)
        names = [text for kind, text in self._tokens[:length] if kind == "variable"]
        if length:
            del self._tokens[: length + 1]
        if len(names) > 2 or (length and not names):
            _refuse(f"{self._action!r} is not understood")
        return tuple(names)

    def statement(self) -> Piece:
        names = self.names()
        value = self.whole_value()
        return Assigned(names[0], value) if names else Shown(value)

    def whole_value(self) -> Value:
        value = self._value()
        self.finish()
        return value

    def finish(self) -> None:
        if self._tokens:
            _refuse(f"{self._tokens[0][1]!r} in {self._action!r} is not understood")

    def _value(self) -> Value:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise InvalidInput("go-template: nested too deeply")
        value = self._command()
        while self._tokens and self._tokens[0] == ("sign", "|"):
            self._tokens.pop(0)
            then = self._command()
            if not isinstance(then, Called):
                _refuse(f"only a function can stand after '|' in {self._action!r}")
            value = Called(then.function, (*then.arguments, value))
        self._depth -= 1
        return value

    def _command(self) -> Value:
        if not self._tokens:
            raise InvalidInput(f"go-template: {self._action!r}: a value is missing")
        kind, text = self._tokens[0]
        if kind != "word" or text in ("true", "false", "nil"):
            return self._operand()
        self._tokens.pop(0)
        if text not in _FUNCTIONS:
            _refuse(f"there is no function {text!r}")
        arguments: list[Value] = []
        while self._tokens and self._tokens[0] not in (("sign", "|"), ("sign", ")")):
            arguments.append(self._operand())
        return Called(text, tuple(arguments))

    def _operand(self) -> Value:
        kind, text = self._tokens.pop(0)
        if kind == "path":
            return Field("", _steps(text))
        if kind == "variable":
            return Field(text, self._tail())
        if kind == "text":
            return Literal(_unquoted(text))
        if kind == "raw":
            return Literal(text[1:-1])
        if kind == "number":
            return Literal(float(text) if "." in text else int(text[:18]))
        if kind == "word" and text in ("true", "false", "nil"):
            return Literal({"true": True, "false": False, "nil": None}[text])
        if (kind, text) == ("sign", "("):
            value = self._value()
            if not self._tokens or self._tokens.pop(0) != ("sign", ")"):
                raise InvalidInput(f"go-template: {self._action!r}: ')' is missing")
            steps = self._tail()
            return Within(value, steps) if steps else value
        _refuse(f"{text!r} in {self._action!r} is not understood")

    def _tail(self) -> tuple[str, ...]:
        is_there = self._tokens and self._tokens[0][0] == "tail"
        return _steps(self._tokens.pop(0)[1]) if is_there else ()


def _steps(text: str) -> tuple[str, ...]:
    return tuple(step for step in text.split(".") if step)


def _unquoted(text: str) -> str:
    try:
        return str(json.loads(text))
    except ValueError:
        raise InvalidInput(f"go-template: {text} is not a text") from None


# --- running --------------------------------------------------------------------------------


def _rendered(pieces: Sequence[Piece], dot: Any, names: dict[str, Any]) -> Iterator[str]:
    for piece in pieces:
        if isinstance(piece, str):
            yield piece
        elif isinstance(piece, Shown):
            yield _text(_evaluated(piece.value, dot, names))
        elif isinstance(piece, Assigned):
            names[piece.name] = _evaluated(piece.value, dot, names)
        else:
            yield from _block(piece, dot, names)


def _block(block: Block, dot: Any, names: dict[str, Any]) -> Iterator[str]:
    value = _evaluated(block.value, dot, names)
    if block.keyword == "range":
        pairs = _pairs(value)
        for place, item in pairs:
            inner = dict(names)
            if block.names:
                inner[block.names[-1]] = item
            if len(block.names) == 2:
                inner[block.names[0]] = place
            yield from _rendered(block.body, item, inner)
        if not pairs:
            yield from _rendered(block.otherwise, dot, dict(names))
        return
    inner = dict(names)
    if block.names:
        inner[block.names[0]] = value
    if not value:
        yield from _rendered(block.otherwise, dot, inner)
    else:
        yield from _rendered(block.body, value if block.keyword == "with" else dot, inner)


def _pairs(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, dict):
        return sorted(value.items())
    if isinstance(value, list):
        return list(enumerate(value))
    if not value:
        return []
    raise InvalidInput(f"go-template: range can't iterate over {_text(value)}")


def _evaluated(value: Value, dot: Any, names: dict[str, Any]) -> Any:
    if isinstance(value, Literal):
        return value.value
    if isinstance(value, Called):
        arguments = [_evaluated(argument, dot, names) for argument in value.arguments]
        try:
            return _FUNCTIONS[value.function](*arguments)
        except (TypeError, ValueError, LookupError, OverflowError) as error:
            raise InvalidInput(f"go-template: {value.function}: {error}") from None
    if isinstance(value, Within):
        found = _evaluated(value.value, dot, names)
    elif value.variable and value.variable not in names:
        raise InvalidInput(f"go-template: undefined variable {value.variable!r}")
    else:
        found = names[value.variable] if value.variable else dot
    for step in value.steps:
        found = _field(found, step)
    return found


def _field(value: Any, name: str) -> Any:
    """A field by its Go or its JSON name; None if there is none."""
    if not isinstance(value, dict):
        return None
    if name in value:
        return value[name]
    lower = name.lower()
    if lower in ("objectmeta", "listmeta"):
        return value.get("metadata")
    if lower == "typemeta":
        return value
    for field, inner in value.items():
        if field.lower() == lower:
            return inner
    metadata = value.get("metadata")
    # Go promotes the fields of an embedded struct.
    return _field(metadata, name) if isinstance(metadata, dict) else None


def _text(value: Any) -> str:
    """As Go's %v."""
    if value is None:
        return "<no value>"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return f"[{' '.join(map(_text, value))}]"
    if isinstance(value, dict):
        return f"map[{' '.join(f'{name}:{_text(v)}' for name, v in sorted(value.items()))}]"
    return str(value)


def _join(items: Any, separator: str, longest: int = 0) -> str:
    if isinstance(items, dict):
        items = [f"{name}={_text(value)}" for name, value in sorted(items.items())]
    elif items is None:
        return ""
    elif not isinstance(items, list):
        items = [items]
    text = str(separator).join(map(_text, items))
    return f"{text[: longest - 3]}..." if 0 < longest < len(text) else text


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else value[key]
    return value


def _printf(form: str, *arguments: Any) -> str:
    waiting = list(arguments)

    def put(match: re.Match[str]) -> str:
        verb = match["verb"]
        if verb == "%":
            return "%"
        if not waiting:
            return f"%!{verb}(MISSING)"
        value = waiting.pop(0)
        width = int(match["width"] or 0)
        text = _formatted(verb, value, match["digits"])
        if "-" in match["flags"]:
            return text.ljust(width)
        return text.zfill(width) if "0" in match["flags"] and verb == "d" else text.rjust(width)

    return _VERB.sub(put, form)


def _formatted(verb: str, value: Any, digits: str | None) -> str:
    if verb in "vs":
        text = _text(value)
        return text[: int(digits)] if digits else text
    if verb == "q":
        return json.dumps(_text(value), ensure_ascii=False)
    if verb == "t":
        return _text(bool(value))
    if verb == "d":
        return str(int(value))
    if verb in "xX":
        return format(int(value), verb)
    if verb in "fFeEgG":
        return format(float(value), f".{digits or 6}{verb}")
    _refuse(f"printf has no %{verb}")


def _equal(first: Any, *others: Any) -> bool:
    if not others:
        raise ValueError("missing argument for comparison")
    return any(first == other for other in others)


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "index": _index,
    "len": lambda value: len(value) if value is not None else 0,
    "printf": _printf,
    "print": lambda *values: "".join(map(_text, values)),
    "println": lambda *values: " ".join(map(_text, values)) + "\n",
    "join": _join,
    "joinAndTruncate": _join,
    "eq": _equal,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "and": lambda *values: next((value for value in values if not value), values[-1]),
    "or": lambda *values: next((value for value in values if value), values[-1]),
    "not": lambda value: not value,
}
