"""Reading Kubernetes' JSON, which may hold anything."""

from collections.abc import Mapping
from typing import Any, TypeAlias

from tortie.lib.errors import InvalidInput
from tortie.model.metadata import Metadata

Object: TypeAlias = Mapping[str, Any]


def mapping(parent: Object, field: str) -> Object:
    """What stands there; empty if nothing does.

    Raises:
        InvalidInput: something else than an object.
    """
    value = parent.get(field)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidInput(f"{field} is not an object")
    return value


def optional_mapping(parent: Object, field: str) -> Object | None:
    """The difference between `{}`, which selects all, and nothing at all. Raises as `mapping`."""
    return None if parent.get(field) is None else mapping(parent, field)


def sequence(parent: Object, field: str) -> list[Any]:
    """
    Raises:
        InvalidInput: something else than a list.
    """
    value = parent.get(field)
    if value is None:
        return []
    if not isinstance(value, list | tuple):
        raise InvalidInput(f"{field} is not a list")
    return list(value)


def objects(parent: Object, field: str) -> list[Object]:
    """
    Raises:
        InvalidInput: something else than a list of objects.
    """
    values = sequence(parent, field)
    if not all(isinstance(value, Mapping) for value in values):
        raise InvalidInput(f"{field} holds something that is not an object")
    return values


def text(parent: Object, field: str) -> str:
    """
    Raises:
        InvalidInput: something else than a string.
    """
    value = parent.get(field)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidInput(f"{field} is not a string")
    return value


def required_text(parent: Object, field: str) -> str:
    """
    Raises:
        InvalidInput: no string, or an empty one.
    """
    value = text(parent, field)
    if not value:
        raise InvalidInput(f"{field} is missing")
    return value


def strings(parent: Object, field: str) -> dict[str, str]:
    """Labels or annotations.

    Raises:
        InvalidInput: something else than an object of strings.
    """
    values = mapping(parent, field)
    if not all(isinstance(value, str) for value in values.values()):
        raise InvalidInput(f"{field} holds something that is not a string")
    return dict(values)


def metadata(source: Object, name: str, namespace: str = "") -> Metadata:
    """For a resource of that name made from `source`: its identity is its own, not the source's."""
    created = mapping(source, "metadata").get("creationTimestamp")
    return Metadata(
        name=name,
        namespace=namespace,
        creation_timestamp=created if isinstance(created, str) else None,
    )
