"""What the structs of the model say of their fields: types, limits, defaults and docstrings.

`explain` and the reference pages rest on it, so neither can differ from what is checked.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import re
import types
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import msgspec

from tortie.model.codec import struct_in
from tortie.model.limits import FORMS, Limits

_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", Any: "any"}

_BACKTICKS = re.compile(r"`+")


class Described(NamedTuple):
    """A struct, or a field."""

    shape: str
    """Its type, as people write it."""
    text: str
    """From its docstring."""
    limits: str
    fields: dict[str, Described]
    """Of a struct; by their names in YAML."""
    struct: type[msgspec.Struct] | None = None

    def resolved(self) -> Described:
        """With the fields of the struct that the field holds."""
        if self.struct is None or self.fields:
            return self
        inner = describe(self.struct)
        return self._replace(fields=inner.fields, text=self.text or inner.text)


@functools.cache
def describe(struct: type[msgspec.Struct]) -> Described:
    texts = _field_texts(struct)
    fields = {
        field.encode_name: _field(field, texts.get(field.name, ""))
        for field in msgspec.structs.fields(struct)
    }
    return Described(
        "Object", _tidy(inspect.cleandoc(struct.__dict__.get("__doc__") or "")), "", fields
    )


def _field(field: msgspec.structs.FieldInfo, text: str) -> Described:
    target = struct_in(_bare(field.type))
    rules = _rules(field.type)
    default = field.default
    if default not in (None, msgspec.NODEFAULT, "", 0, (), False) and isinstance(
        default, (str, int, float, bool)
    ):
        shown = str(default).lower() if isinstance(default, bool) else default
        rules.append(f"default {shown}")
    struct = target.kind if target else None
    return Described(type_text(field.type), _tidy(text), "; ".join(rules), {}, struct)


def type_text(annotation: Any) -> str:
    """`[]string`, `integer | string`, `map[string]string`, `Object`."""
    annotation = _bare(annotation)
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        inner = [type_text(part) for part in arguments if part is not type(None)]
        return " | ".join(dict.fromkeys(inner))
    if origin is tuple:
        return f"[]{type_text(arguments[0])}"
    if origin is dict:
        return f"map[{type_text(arguments[0])}]{type_text(arguments[1])}"
    if origin is Literal:
        return "string" if isinstance(arguments[0], str) else "integer"
    return "Object"


def _bare(annotation: Any) -> Any:
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return annotation


def _rules(annotation: Any) -> list[str]:
    """The limits in words."""
    found: list[str] = []
    if get_origin(annotation) is Annotated:
        for extra in get_args(annotation)[1:]:
            if isinstance(extra, Limits):
                found += _limits(extra)
        return [*_rules(get_args(annotation)[0]), *found]
    if get_origin(annotation) is Literal:
        return [f"one of {', '.join(str(c) for c in get_args(annotation) if c != '')}"]
    for part in get_args(annotation):
        found += [rule for rule in _rules(part) if rule not in found]
    return found


def _limits(limits: Limits) -> list[str]:
    found: list[str] = []
    if limits.required:
        found.append("required")
    if limits.choices:
        found.append(f"one of {', '.join(map(str, limits.choices))}")
    if limits.low is not None and limits.high is not None:
        found.append(f"{limits.low} to {limits.high}")
    elif limits.low is not None:
        found.append(f"{limits.low} or more")
    elif limits.high is not None:
        found.append(f"at most {limits.high}")
    if limits.longest is not None:
        found.append(f"at most {limits.longest} characters")
    if limits.fewest:
        found.append(f"at least {limits.fewest} entries")
    if limits.most is not None:
        found.append(f"at most {limits.most} entries")
    if limits.unique:
        found.append("no entry twice")
    if limits.unique_by:
        found.append(f"no two entries with the same {limits.unique_by}")
    if limits.form:
        found.append(FORMS.get(limits.form, limits.form))
    if limits.rule:
        found.append(limits.rule)
    elif limits.pattern:
        found.append(f"matches {limits.pattern}")
    return found


# --- docstrings of fields -------------------------------------------------------------------


def _field_texts(struct: type[msgspec.Struct]) -> dict[str, str]:
    """By attribute, of the struct and those it extends."""
    texts: dict[str, str] = {}
    for base in reversed(struct.__mro__):
        if base.__module__.startswith("tortie."):
            texts |= _module_texts(base.__module__).get(base.__name__, {})
    return texts


@functools.cache
def _module_texts(name: str) -> dict[str, dict[str, str]]:
    """The strings under fields, which Python itself does not keep."""
    source = inspect.getsource(importlib.import_module(name))
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(source).body:
        if not isinstance(node, ast.ClassDef):
            continue
        texts = found.setdefault(node.name, {})
        for before, after in zip(node.body, node.body[1:], strict=False):
            if (
                isinstance(before, ast.AnnAssign)
                and isinstance(before.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
                and isinstance(after.value.value, str)
            ):
                texts[before.target.id] = inspect.cleandoc(after.value.value)
    return found


def _tidy(text: str) -> str:
    return _BACKTICKS.sub("'", text)
