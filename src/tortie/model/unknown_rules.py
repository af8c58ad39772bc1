"""Rules that say more than we understand, as a newer version's may.

A match that we do not know narrows the rule that it is in: without it an Allow would open what
it was meant to leave closed. So such a rule is given a match that no host can evaluate. What
follows is settled for those already (`policy.unenforceable`): an Allow or Pass matches nothing,
a Deny denies regardless. Only who enforces or explains does this; who writes resources back
keeps them as they are (`codec.encode`).
"""

import functools
from collections.abc import Iterator, Mapping
from types import GenericAlias
from typing import Any, TypeVar

import msgspec

from tortie.model.codec import struct_in
from tortie.model.metadata import Resource
from tortie.model.policy import HTTPMatch, NetworkPolicySpec, ProfileSpec, Rule

R = TypeVar("R", bound=Resource)

_NO_MATCH = ("metadata",)
"""Fields of a rule that say nothing about which packets it is for."""


class _Rules(msgspec.Struct):
    ingress: list[dict[str, Any]] | None = None
    egress: list[dict[str, Any]] | None = None


class _Document(msgspec.Struct):
    spec: _Rules | None = None


_decoder = msgspec.json.Decoder(_Document)


def close_unknown(resource: R, raw: bytes) -> tuple[R, tuple[str, ...]]:
    """The resource as it is safe to enforce, and what was not understood, for people.

    Args:
        raw: what `resource` was decoded from.
    """
    spec = getattr(resource, "spec", None)
    if not isinstance(spec, (NetworkPolicySpec, ProfileSpec)) or not (spec.ingress or spec.egress):
        return resource, ()
    try:
        _strict_decoder().decode(raw)
    except msgspec.MsgspecError:
        pass
    else:
        return resource, ()  # as nearly all of them
    try:
        given = _decoder.decode(raw).spec or _Rules()
    except msgspec.MsgspecError:
        return resource, ()  # not as our own writers write; what was read is all there is
    problems: list[str] = []
    changed: dict[str, tuple[Rule, ...]] = {}
    for way, rules, plain in (
        ("ingress", spec.ingress, given.ingress or []),
        ("egress", spec.egress, given.egress or []),
    ):
        closed = list(rules)
        for index, (rule, fields) in enumerate(zip(rules, plain, strict=False)):
            if unknown := tuple(_unknown(Rule, fields, "")):
                closed[index] = msgspec.structs.replace(rule, http=HTTPMatch(methods=unknown))
                problems.append(f"spec.{way}[{index}] has fields that are not known: "
                                f"{', '.join(unknown)}; the rule allows nothing")  # fmt: skip
        if closed != list(rules):
            changed[way] = tuple(closed)
    if not changed:
        return resource, ()
    safe = msgspec.structs.replace(spec, **changed)
    return msgspec.structs.replace(resource, spec=safe), tuple(problems)


def _unknown(kind: type[msgspec.Struct], plain: Mapping[str, Any], path: str) -> Iterator[str]:
    known = _fields(kind)
    for name, value in plain.items():
        if name not in known:
            if value is not None:
                yield f"{path}{name}"
            continue
        inner = known[name]
        if inner is None or (kind is Rule and name in _NO_MATCH):
            continue
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict):
                yield from _unknown(inner, item, f"{path}{name}.")


@functools.cache
def _strict_decoder() -> "msgspec.json.Decoder[Any]":
    """Refuses what has unknown fields in its rules, ten times as fast as looking for them."""
    rules = GenericAlias(list, _strict(Rule)) | None
    both = [("ingress", rules, None), ("egress", rules, None)]
    spec = msgspec.defstruct("_StrictSpec", both)
    document = msgspec.defstruct("_StrictDocument", [("spec", spec | None, None)])
    return msgspec.json.Decoder(document)


def _strict(kind: type[msgspec.Struct]) -> Any:
    """A struct with the same names that takes no others."""
    fields: list[tuple[str, Any, None]] = []
    for name, inner in _fields(kind).items():
        if inner is None or (kind is Rule and name in _NO_MATCH):
            fields.append((name, Any, None))
        else:
            strict = _strict(inner)
            fields.append((name, strict | GenericAlias(list, strict) | None, None))
    return msgspec.defstruct(f"_Strict{kind.__name__}", fields, forbid_unknown_fields=True)


@functools.cache
def _fields(kind: type[msgspec.Struct]) -> Mapping[str, type[msgspec.Struct] | None]:
    """JSON name → the struct in it, if there is one."""
    found = {}
    for field in msgspec.structs.fields(kind):
        target = struct_in(field.type)
        found[field.encode_name] = target.kind if target else None
    return found
