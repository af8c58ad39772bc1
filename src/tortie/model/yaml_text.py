"""Plain values as YAML, and what a YAML scalar without quotes means to us.

PyYAML writes YAML, too, but importing it costs as much as everything else that `tortie get`
does, and it writes slowly. What is written here our own reader reads back as the same value,
and so do readers of YAML 1.1, for which `no`, `1:30` and dates are no text: such text gets
quotes. The layout is PyYAML's.

Source: yaml.org/spec/1.1, chapters 5 to 9; yaml.org/type.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEAN = {
    "true": True, "True": True, "TRUE": True,
    "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
DIGITS_MAX = 400
"""Longer numbers stay text; turning them into an int takes quadratic time."""
INFINITE = (float("inf"), float("-inf"))

_OTHERS_WORDS = frozenset({"yes", "no", "on", "off", "null", "true", "false", "~"})
"""Which some reader takes for something else than text, in any case of letters."""
_OTHERS_NUMBER = re.compile(
    r"""[-+]?(?:
        0b[01_]+ | 0o?[0-7_]+ | 0x[0-9a-f_]+
      | [1-9][0-9_]*(?::[0-5]?[0-9])+              # of base 60
      | [0-9][0-9_]*(?::[0-5]?[0-9])*\.[0-9_]*(?:e[-+]?[0-9]+)?
      | (?:0|[1-9][0-9_]*)(?:e[-+]?[0-9]+)? | \.[0-9_]+(?:e[-+]?[0-9]+)? | \.inf | \.nan
    ) | [0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[t\ ].*)?""",
    re.IGNORECASE | re.VERBOSE,
)
_NEVER_PLAIN = re.compile(r"[,\[\]{}#&*!|>'\"%@`=<]|[-?:](?: |$)|---|\.\.\.|~$")
"""At the beginning."""
_PRINTABLE = re.compile(r"[ -~]*")

_KEY_MAX_CHARACTERS = 128
"""Of a key on the line of its value, as PyYAML has it."""


def plain_scalar(text: str) -> Any:
    """What a scalar without quotes means."""
    if text in _NULL:
        return None
    if text in _BOOLEAN:
        return _BOOLEAN[text]
    if len(text) > DIGITS_MAX:
        return text
    if _INTEGER.fullmatch(text):
        return int(text)
    if _HEXADECIMAL.fullmatch(text):
        return int(text, 16)
    if _FLOAT.fullmatch(text) and (number := float(text)) not in INFINITE:
        return number
    return text


def to_yaml(value: Any) -> str:
    """YAML with fields in their order, in ASCII.

    Args:
        value: of mappings with text for keys, lists, text, numbers, booleans and None.
    """
    if isinstance(value, (dict, list)) and value:
        return "\n".join([*_lines(value, "", _Texts()), ""])
    return f"{_Texts()[value] if isinstance(value, str) else _other_scalar(value)}\n"


class _Texts(dict[str, str]):
    """Text → as it is written; resources say the same things again and again."""

    def __missing__(self, text: str) -> str:
        found = self[text] = _text(text)
        return found


def _lines(value: Any, indent: str, texts: _Texts) -> Iterator[str]:
    """Of a mapping or list that is not empty; the first line without its indentation."""
    first, rest = "", indent
    if isinstance(value, list):
        for item in value:
            if isinstance(item, (dict, list)) and item:
                head, *tail = _lines(item, f"{indent}  ", texts)
                yield f"{first}- {head}"
                yield from tail
            else:
                yield f"{first}- {texts[item] if isinstance(item, str) else _other_scalar(item)}"
            first = rest
        return
    for name, item in value.items():
        key = texts[name]
        if len(name) > _KEY_MAX_CHARACTERS:
            yield f"{first}? {key}"
            key, first = "", rest
        if isinstance(item, str):
            yield f"{first}{key}: {texts[item]}"
        elif isinstance(item, (dict, list)) and item:
            yield f"{first}{key}:"
            # Lists stand under their name, not to the right of it.
            within = indent if isinstance(item, list) else f"{indent}  "
            head, *tail = _lines(item, within, texts)
            yield within + head
            yield from tail
        else:
            yield f"{first}{key}: {_other_scalar(item)}"
        first = rest


def _other_scalar(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        text = repr(value)
        # Without a dot YAML 1.1 takes it for text.
        return text.replace("e", ".0e", 1) if "e" in text and "." not in text else text
    return str(value) if isinstance(value, int) else ("{}" if isinstance(value, dict) else "[]")


def _text(text: str) -> str:
    if not _PRINTABLE.fullmatch(text):
        return _escaped(text)
    is_plain = not (
        _NEVER_PLAIN.match(text)
        or text[:1] in ("", " ")
        or text[-1] in " :"
        or ": " in text
        or " #" in text
        or text.lower() in _OTHERS_WORDS
        or _OTHERS_NUMBER.fullmatch(text)
    )
    return text if is_plain else "'" + text.replace("'", "''") + "'"


def _escaped(text: str) -> str:
    """JSON's way, but for what is beyond 16 bits: YAML has no surrogates."""
    if text.isascii() or max(text) <= "\uffff":
        return json.dumps(text).replace("\x7f", "\\x7f")
    return (
        '"'
        + "".join(
            f"\\U{ord(c):08x}" if c > "\uffff" else json.dumps(c)[1:-1] for c in text
        ).replace("\x7f", "\\x7f")
        + '"'
    )
