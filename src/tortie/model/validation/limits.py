"""Checks the limits that are said in the types of fields: see `tortie.model.limits`.

For each struct the checks are put together once; a struct without limits costs nothing.
"""

import re
import types
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import cache
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin

import msgspec

from tortie.model.limits import Limits, limits_of
from tortie.model.validation import terms
from tortie.model.validation.terms import Problem

Check = Callable[[str, Any], Iterator[Problem]]


class _Field(NamedTuple):
    attribute: str
    name: str
    """In JSON."""
    check: Check


def limit_problems(path: str, value: msgspec.Struct) -> Iterator[Problem]:
    """Every limit that a struct, or one within it, breaks.

    Args:
        path: of the struct; empty for a resource.
    """
    prefix = f"{path}." if path else ""
    for attribute, name, check in _checked_fields(type(value)):
        yield from check(prefix + name, getattr(value, attribute))


@cache
def _checked_fields(struct: type[msgspec.Struct]) -> tuple[_Field, ...]:
    fields = []
    for field in msgspec.structs.fields(struct):
        check = _check_of(field.type)
        if check is not None:
            fields.append(_Field(field.name, field.encode_name, check))
    return tuple(fields)


def _check_of(annotation: Any) -> Check | None:
    """What to check of a value of that type; None when there is nothing."""
    own = limits_of(annotation)
    inner = _inner_check(annotation)
    if own == Limits():
        return inner
    pattern = re.compile(own.pattern, re.ASCII) if own.pattern else None

    def check(path: str, value: Any) -> Iterator[Problem]:
        if _is_absent(value):
            if own.required:
                yield Problem(path, value, "is needed")
            return
        yield from _own_problems(own, pattern, path, value)
        if inner is not None:
            yield from inner(path, value)

    return check


def _inner_check(annotation: Any) -> Check | None:
    """The checks of what is inside a value: fields of a struct, entries of a list."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _inner_check(arguments[0])
    if origin in (Union, types.UnionType):
        found = [check for argument in arguments if (check := _inner_check(argument))]
        if not found:
            return None
        assert len(found) == 1, f"two kinds of content in {annotation}"
        return _unless_absent(found[0])
    if origin is tuple:
        entry = _check_of(arguments[0])
        return _each(entry) if entry else None
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        return limit_problems if _checked_fields(annotation) else None
    return None


def _unless_absent(check: Check) -> Check:
    def unless_absent(path: str, value: Any) -> Iterator[Problem]:
        if not _is_absent(value):
            yield from check(path, value)

    return unless_absent


def _each(check: Check) -> Check:
    def each(path: str, value: Any) -> Iterator[Problem]:
        for index, entry in enumerate(value):
            yield from check(f"{path}[{index}]", entry)

    return each


def _is_absent(value: Any) -> bool:
    """Empty texts, lists and mappings are written as nothing; zero and false say something."""
    return value is None or (isinstance(value, str | tuple | dict) and not value)


def _own_problems(
    limits: Limits, pattern: "re.Pattern[str] | None", path: str, value: Any
) -> Iterator[Problem]:
    if limits.choices and value not in limits.choices:
        yield Problem(path, value, f"must be one of {', '.join(map(str, limits.choices))}")
    if isinstance(value, str):
        yield from _text_problems(limits, pattern, path, value)
    elif isinstance(value, int):
        yield from terms.range_problems(path, value, limits.low, limits.high)
    elif isinstance(value, tuple):
        if limits.most is not None:
            yield from terms.count_problems(path, value, limits.most)
        if limits.unique:
            yield from terms.unique_problems(path, value)
        if limits.unique_by:
            names = [getattr(entry, limits.unique_by) for entry in value]
            yield from terms.unique_problems(path, names)


def _text_problems(
    limits: Limits, pattern: "re.Pattern[str] | None", path: str, text: str
) -> Iterator[Problem]:
    if limits.longest is not None and len(text) > limits.longest:
        yield Problem(path, text, f"must have at most {limits.longest} characters")
    elif pattern is not None and not pattern.fullmatch(text):
        yield Problem(path, text, limits.rule)
    elif limits.form:
        yield from _FORMS[limits.form](path, text)


def _network_problems(path: str, text: str) -> Iterator[Problem]:
    return terms.network_problems(path, text, strict=False)


_TIME = re.compile(
    r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)  # fmt: skip


def _time_problems(path: str, text: str) -> Iterator[Problem]:
    """RFC 3339, with a date that the calendar has."""
    try:
        if _TIME.fullmatch(text):
            datetime.fromisoformat(f"{text[:10]}T{text[11:19]}")
            return
    except ValueError:
        pass
    yield Problem(path, text, "must be a time such as 2026-01-31T12:00:00Z")


def _selector_problems(path: str, text: str) -> Iterator[Problem]:
    # Where global() may stand is a matter of the kind.
    return terms.selector_problems(path, text, may_be_global=True)


_FORMS: dict[str, Check] = {
    "network": _network_problems,
    "time": _time_problems,
    "selector": _selector_problems,
    "duration": terms.duration_problems,
}
