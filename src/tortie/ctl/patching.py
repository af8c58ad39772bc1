"""Three ways to change a document by another document. Pure; plain JSON values.

Source: RFC 6902 (JSON Patch), RFC 7386 (JSON Merge Patch); Kubernetes' strategic merge patch,
whose directives are honoured, while lists are replaced whole, as Calico's types ask for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tortie.lib.errors import InvalidInput

_DELETE_FROM = "$deleteFromPrimitiveList/"
_ORDER = "$setElementOrder/"


def merge(document: Any, patch: Any) -> Any:
    """RFC 7386: null removes, mappings go deeper, all else replaces."""
    if not isinstance(patch, dict):
        return patch
    result = dict(document) if isinstance(document, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merge(result.get(name), value)
    return result


def strategic(document: Any, patch: Any) -> Any:
    """Like `merge`, with Kubernetes' directives.

    Raises:
        InvalidInput: a directive that does not exist.
    """
    if isinstance(patch, list):
        # `$patch: replace` in a list says what happens anyhow.
        return [item for item in patch if item != {"$patch": "replace"}]
    if not isinstance(patch, dict):
        return patch
    rest = dict(patch)
    directive = rest.pop("$patch", "merge")
    kept = rest.pop("$retainKeys", None)
    if directive == "replace":
        return rest
    if directive == "delete":
        return None
    if directive != "merge":
        raise InvalidInput(f"--patch: $patch is replace, delete or merge, not {directive!r}")
    result = dict(document) if isinstance(document, dict) else {}
    if isinstance(kept, list):
        result = {name: value for name, value in result.items() if name in kept}
    for name, value in rest.items():
        _merge_field(result, name, value)
    return result


def _merge_field(result: dict[str, Any], name: str, value: Any) -> None:
    if name.startswith(_ORDER):
        return
    if name.startswith(_DELETE_FROM):
        field = name.removeprefix(_DELETE_FROM)
        if isinstance(result.get(field), list) and isinstance(value, list):
            result[field] = [item for item in result[field] if item not in value]
        return
    merged = None if value is None else strategic(result.get(name), value)
    if merged is None:
        result.pop(name, None)
    else:
        result[name] = merged


def json_patch(document: Any, patch: Any) -> Any:
    """RFC 6902: all of the operations, or an error.

    Raises:
        InvalidInput: one of them is malformed, leads nowhere, or tests false.
    """
    if not isinstance(patch, list):
        raise InvalidInput("--patch: a JSON patch is a list of operations")
    for place, operation in enumerate(patch):
        try:
            document = _operate(document, operation)
        except InvalidInput as error:
            raise InvalidInput(f"--patch[{place}]: {error}") from None
    return document


def _operate(document: Any, operation: Any) -> Any:
    if not isinstance(operation, dict):
        raise InvalidInput("an operation is a mapping with op and path")
    name = operation.get("op")
    path = _pointer(operation, "path")
    if name in ("add", "replace", "test") and "value" not in operation:
        raise InvalidInput(f"{name} needs a value")
    value = operation.get("value")
    if name == "test":
        if not _same(_get(document, path), value):
            raise InvalidInput(f"{_text(path)} is not as tested")
        return document
    if name == "add":
        return _changed(document, path, _adding(value))
    if name == "remove":
        return _changed(document, path, _removing)
    if name == "replace":
        return _changed(document, path, _replacing(value))
    if name in ("move", "copy"):
        source = _pointer(operation, "from")
        value = _get(document, source)
        if name == "move":
            if path[: len(source)] == source and path != source:
                raise InvalidInput("cannot move a value into itself")
            document = _changed(document, source, _removing)
        return _changed(document, path, _adding(value))
    raise InvalidInput(f"op is add, remove, replace, move, copy or test, not {name!r}")


def _pointer(operation: dict[str, Any], name: str) -> list[str]:
    """RFC 6901."""
    text = operation.get(name)
    if not isinstance(text, str) or (text and not text.startswith("/")):
        raise InvalidInput(f"{name} is a JSON pointer such as /spec/disabled, not {text!r}")
    return [part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:]]


def _text(path: list[str]) -> str:
    return "/" + "/".join(path)


def _same(first: Any, second: Any) -> bool:
    return bool(first == second) and isinstance(first, bool) == isinstance(second, bool)


def _get(value: Any, path: list[str]) -> Any:
    for done, step in enumerate(path):
        try:
            value = value[_index(value, step)] if isinstance(value, list) else value[step]
        except (KeyError, IndexError, TypeError):
            raise InvalidInput(f"there is no {_text(path[: done + 1])}") from None
    return value


def _index(values: list[Any], step: str, *, can_append: bool = False) -> int:
    if can_append and step == "-":
        return len(values)
    is_number = step.isascii() and step.isdecimal() and (step == "0" or step[0] != "0")
    if not is_number or int(step) >= len(values) + can_append:
        raise IndexError(step)
    return int(step)


Change = Callable[[Any, str], None]


def _adding(value: Any) -> Change:
    def change(container: Any, step: str) -> None:
        if isinstance(container, list):
            container.insert(_index(container, step, can_append=True), value)
        else:
            container[step] = value

    return change


def _replacing(value: Any) -> Change:
    def change(container: Any, step: str) -> None:
        if isinstance(container, list):
            container[_index(container, step)] = value
        elif step not in container:
            raise KeyError(step)
        else:
            container[step] = value

    return change


def _removing(container: Any, step: str) -> None:
    if isinstance(container, list):
        del container[_index(container, step)]
    else:
        del container[step]


def _changed(document: Any, path: list[str], change: Change) -> Any:
    """A copy of `document` with `change` done at the end of `path`."""
    if not path:
        holder = {"": document}
        change(holder, "")
        return holder.get("")
    result = container = _copy(document)
    for done, step in enumerate(path[:-1]):
        try:
            place: Any = _index(container, step) if isinstance(container, list) else step
            container[place] = _copy(container[place])
            container = container[place]
        except (KeyError, IndexError, TypeError):
            raise InvalidInput(f"there is no {_text(path[: done + 1])}") from None
    if not isinstance(container, (dict, list)):
        raise InvalidInput(f"{_text(path[:-1])} is neither a mapping nor a list")
    try:
        change(container, path[-1])
    except (KeyError, IndexError):
        raise InvalidInput(f"there is no {_text(path)}") from None
    return result


def _copy(value: Any) -> Any:
    return value.copy() if isinstance(value, (dict, list)) else value


WAYS = {"strategic": strategic, "merge": merge, "json": json_patch}
