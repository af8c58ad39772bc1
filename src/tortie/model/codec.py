"""Stored bytes to values and back: v3 resources and IPAM's records, as JSON.

Reading is lenient about what it does not know: unknown fields are ignored, `null` and
`"source":{}` mean absent, old data gets today's defaults. It is strict about what it
does know: a wrong type or value makes the whole object invalid, because an agent that
guessed would open or close the wrong thing. Users' files are judged more strictly, by
`tortie.model.documents`.

Writing keeps what we do not know: fields of the previous document that our structs lack
are carried over, so a newer writer beside us loses nothing.

A policy's name travels in the annotation `projectcalico.org/metadata`, which only the
stored form has. The key stays the identity: for data from before that annotation it may
be `default.web` where the name is `web`.

Source: Calico, libcalico-go/lib/backend/model/resource.go and backend/etcdv3.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, TypeAlias, TypeVar, cast, get_origin, overload

import msgspec

from tortie.lib.errors import InvalidInput
from tortie.lib.ip import parse_network
from tortie.model.catalogue import TYPES
from tortie.model.ipam import Block, BlockAffinity, Handle, IPAMConfig, IPAMHost
from tortie.model.keys import (
    AffinityKey,
    BlockKey,
    HandleKey,
    IPAMConfigKey,
    IPAMHostKey,
    Key,
    ResourceKey,
)
from tortie.model.limits import limits_of
from tortie.model.metadata import API_VERSION, Metadata, Resource
from tortie.model.node import IPPool
from tortie.model.policy import DEFAULT_TIER, NetworkPolicySpec

VALUE_MAX_BYTES = 1536 * 1024
"""What etcd takes in one request by default."""

DEPTH_MAX = 64
"""Objects and lists within one another; the deepest real resource has 10."""

NAME_ANNOTATION = "projectcalico.org/metadata"

POLICY_KINDS = frozenset(
    {
        "NetworkPolicy",
        "GlobalNetworkPolicy",
        "StagedNetworkPolicy",
        "StagedGlobalNetworkPolicy",
    }
)
"""In tiers, and so with their names in an annotation."""

Value: TypeAlias = Resource | Block | BlockAffinity | Handle | IPAMConfig | IPAMHost

R = TypeVar("R", bound=msgspec.Struct)


@overload
def decode(key: ResourceKey, raw: bytes) -> Resource: ...
@overload
def decode(key: BlockKey, raw: bytes) -> Block: ...
@overload
def decode(key: AffinityKey, raw: bytes) -> BlockAffinity: ...
@overload
def decode(key: HandleKey, raw: bytes) -> Handle: ...
@overload
def decode(key: IPAMConfigKey, raw: bytes) -> IPAMConfig: ...
@overload
def decode(key: IPAMHostKey, raw: bytes) -> IPAMHost: ...
@overload
def decode(key: Key, raw: bytes) -> Value: ...


def decode(key: Key, raw: bytes) -> Value:
    """Parse what is stored at `key`.

    Of two fields with one name the last one counts, as everywhere in the field.

    Returns:
        The struct of the key's kind, with today's defaults filled in.

    Raises:
        InvalidInput: naming the key and the JSON path. Not JSON, a wrong type or value,
            too large or too deep, or an object that belongs to another key.
    """
    _check_extent(key, raw)
    if isinstance(key, ResourceKey):
        if key.kind not in TYPES:
            raise InvalidInput(f"{key}: this version cannot read objects of kind {key.kind}")
        return _finish(key, _parse(key, TYPES[key.kind], raw))
    if isinstance(key, BlockKey):
        return _checked_block(key, _parse(key, Block, raw))
    if isinstance(key, AffinityKey):
        return _parse(key, BlockAffinity, raw or b"{}")
    if isinstance(key, HandleKey):
        return _parse(key, Handle, raw)
    if isinstance(key, IPAMConfigKey):
        return _parse(key, IPAMConfig, raw)
    return _parse(key, IPAMHost, raw or b"{}")


def encode(key: Key, value: Value, previous: bytes | None = None) -> bytes:
    """The bytes to store at `key`: compact JSON, fields in Calico's order.

    Args:
        previous: what is stored there now. Its unknown fields survive; entries of a list
            are matched by equality first, then by place in a list of the same length.
    """
    if isinstance(value, Resource) and isinstance(key, ResourceKey):
        value = _as_stored(key, value)
    document = _to_plain(value)
    if previous:
        try:
            before = msgspec.json.decode(previous)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            before = None  # nothing to keep from what nobody can read
        document = _overlay(type(value), document, before)
    return msgspec.json.encode(document)


def name_for_key(key: ResourceKey, annotated: str | None = None) -> str:
    """The name that users see for what is stored at `key`.

    Args:
        annotated: the name that the stored annotation gives, if there is one.
    """
    if key.kind not in POLICY_KINDS:
        return key.name
    stripped = key.name.removeprefix(f"{DEFAULT_TIER}.")
    if annotated is not None:
        return annotated if annotated in (key.name, stripped) else key.name
    return stripped


# --- reading ----------------------------------------------------------------------

_decoders: dict[type[msgspec.Struct], msgspec.json.Decoder[Any]] = {}


def _parse(key: Key, kind: type[R], raw: bytes) -> R:
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.json.Decoder(kind)
    try:
        return cast(R, decoder.decode(raw))
    except msgspec.ValidationError:
        return _parse_go_style(key, kind, raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"{key}: {error}") from error


def _parse_go_style(key: Key, kind: type[R], raw: bytes) -> R:
    """Once more, with what Go reads as "not given" left out: null, and "" for a choice."""
    try:
        plain = _without_nulls(msgspec.json.decode(raw))
        if kind is IPPool and isinstance(spec := plain.get("spec"), dict):
            plain["spec"] = {name: value for name, value in spec.items() if value != ""}
        return msgspec.convert(plain, kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, AttributeError) as error:
        raise InvalidInput(f"{key}: {error}") from error


def _without_nulls(plain: Any) -> Any:
    if isinstance(plain, dict):
        return {name: _without_nulls(v) for name, v in plain.items() if v is not None}
    if isinstance(plain, list):
        return [_without_nulls(item) for item in plain]
    return plain


def _checked_block(key: BlockKey, block: Block) -> Block:
    if parse_network(block.cidr, strict=True) != key.cidr:
        raise InvalidInput(f"{key.path}: holds the block {block.cidr} - at `$.cidr`")
    if len(block.allocations) != key.cidr.size:
        raise InvalidInput(
            f"{key.path}: {len(block.allocations)} entries for {key.cidr.size} addresses"
            " - at `$.allocations`"
        )
    return block


def _finish(key: ResourceKey, resource: Resource) -> Resource:
    _check_identity(key, resource)
    if resource.kind != key.kind or not resource.api_version:
        resource = msgspec.structs.replace(resource, kind=key.kind, api_version=API_VERSION)
    if key.kind in POLICY_KINDS:
        return _finish_policy(key, resource)
    if key.kind == "IPPool":
        return with_pool_defaults(cast(IPPool, resource))
    return resource


def _check_identity(key: ResourceKey, resource: Resource) -> None:
    metadata = resource.metadata
    if resource.kind not in (key.kind, ""):
        raise InvalidInput(f"{key}: holds an object of kind {resource.kind!r} - at `$.kind`")
    if resource.api_version not in (API_VERSION, ""):
        raise InvalidInput(f"{key}: is of {resource.api_version!r} - at `$.apiVersion`")
    if metadata.name != key.name and not _is_known_name(key, metadata):
        raise InvalidInput(f"{key}: is named {metadata.name!r} - at `$.metadata.name`")
    if key.namespace and metadata.namespace != key.namespace:
        raise InvalidInput(
            f"{key}: says namespace {metadata.namespace!r} - at `$.metadata.namespace`"
        )


def _is_known_name(key: ResourceKey, metadata: Metadata) -> bool:
    return key.kind in POLICY_KINDS and metadata.name == name_for_key(key)


def _finish_policy(key: ResourceKey, resource: Resource) -> Resource:
    spec: NetworkPolicySpec = resource.spec  # type: ignore[attr-defined]
    if not spec.tier:
        spec = msgspec.structs.replace(spec, tier=DEFAULT_TIER)
        resource = msgspec.structs.replace(resource, spec=spec)
    metadata = resource.metadata
    text = metadata.annotations.get(NAME_ANNOTATION)
    if text is not None:
        rest = {k: v for k, v in metadata.annotations.items() if k != NAME_ANNOTATION}
        name = name_for_key(key, _annotated_name(text) or key.name)
        metadata = msgspec.structs.replace(metadata, name=name, annotations=rest)
    else:
        name = name_for_key(key) if spec.tier == DEFAULT_TIER else key.name
        if name == metadata.name:
            return resource
        metadata = msgspec.structs.replace(metadata, name=name)
    return msgspec.structs.replace(resource, metadata=metadata)


def _annotated_name(text: str) -> str | None:
    try:
        name = msgspec.json.decode(text).get("name")
    except (msgspec.DecodeError, UnicodeError, AttributeError, RecursionError):
        return None
    return name if isinstance(name, str) else None


def with_pool_defaults(pool: IPPool) -> IPPool:
    """Fill in what older writers left out, by the pool's family."""
    spec = pool.spec
    if spec.block_size and spec.allowed_uses and spec.node_selector:
        return pool
    spec = msgspec.structs.replace(
        spec,
        block_size=spec.block_size or (122 if ":" in spec.cidr else 26),
        allowed_uses=spec.allowed_uses or ("Workload", "Tunnel"),
        node_selector=spec.node_selector or "all()",
    )
    return msgspec.structs.replace(pool, spec=spec)


_NOT_STRUCTURE = bytes(set(range(256)) - set(b'[]{}"'))
_ONE_BRACKET = bytes.maketrans(b"[]", b"{}")
_STRUCTURE = re.compile(rb'"(?:[^"\\]|\\.)*"?|[\[{]|[\]}]', re.DOTALL)


def _check_extent(key: Key, raw: bytes) -> None:
    if len(raw) > VALUE_MAX_BYTES:
        raise InvalidInput(f"{key}: {len(raw)} bytes, more than {VALUE_MAX_BYTES}")
    if raw.count(b"{") + raw.count(b"[") > DEPTH_MAX and depth(raw) > DEPTH_MAX:
        raise InvalidInput(f"{key}: nested deeper than {DEPTH_MAX}")


def depth(raw: bytes) -> int:
    """How deep objects and lists of a JSON text lie in one another; exact or too large.

    Peels one level a turn with calls that run in C: a full block costs 10 µs, a walk over
    its tokens 200.
    """
    if b"\\" in raw:
        return _exact_depth(raw)
    rest = raw.translate(_ONE_BRACKET, _NOT_STRUCTURE).replace(b'""', b"")
    for level in range(DEPTH_MAX + 1):
        if not rest:
            return level
        peeled = rest.replace(b"{}", b"")
        if len(peeled) == len(rest):
            break  # brackets inside strings, or no JSON at all
        rest = peeled.replace(b'""', b"")
    return _exact_depth(raw)


def _exact_depth(raw: bytes) -> int:
    deepest = level = 0
    for token in _STRUCTURE.finditer(raw):
        if token[0] in b"[{":
            level += 1
            deepest = max(deepest, level)
        elif token[0] in b"]}":
            level -= 1
    return deepest


# --- writing ----------------------------------------------------------------------


class _Field(NamedTuple):
    attribute: str
    name: str
    """In JSON."""
    omit: Callable[[Any], bool]


_fields: dict[type[msgspec.Struct], tuple[_Field, ...]] = {}


_OPTIONAL_IN_BLOCK = frozenset({"affinity_claim_time", "strictAffinity"})
"""The rest of a block is always written, whatever its value."""


_ALWAYS = frozenset({"kind", "apiVersion", "metadata", "spec"})
"""The frame of a resource."""


def _is_none(value: Any) -> bool:
    return value is None


def _is_empty(value: Any) -> bool:
    """Go's `omitempty` and `omitzero`: "" 0 false [] {} and structs with nothing in them."""
    return not value or (isinstance(value, msgspec.Struct) and not _to_plain(value))


def _never(value: Any) -> bool:
    return False


def _fields_of(kind: type[msgspec.Struct]) -> tuple[_Field, ...]:
    known = _fields.get(kind)
    if known is None:
        known = _fields[kind] = tuple(
            _Field(field.name, field.encode_name, _rule_of(kind, field))
            for field in msgspec.structs.fields(kind)
        )
    return known


def _rule_of(kind: type[msgspec.Struct], field: msgspec.structs.FieldInfo) -> Callable[[Any], bool]:
    """When to leave a field out: where nothing there reads back as the same value."""
    if kind is Block and field.encode_name in _OPTIONAL_IN_BLOCK:
        return _is_empty
    is_sparse = kind.__struct_config__.omit_defaults and not field.required
    if not is_sparse or (issubclass(kind, Resource) and field.encode_name in _ALWAYS):
        return _never
    if field.default is None:
        return _is_none
    limits = limits_of(field.type)
    if limits.written or limits.present or limits.required:
        return _never
    has_default = field.default is not msgspec.NODEFAULT
    return _is_empty if not has_default or _is_empty(field.default) else _never


def _to_plain(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        plain = {}
        for attribute, name, omit in _fields_of(type(value)):
            item = getattr(value, attribute)
            if not omit(item):
                plain[name] = _to_plain(item)
        return plain
    if isinstance(value, (tuple, list)):
        return [_to_plain(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)  # as Go writes it: 100, not 100.0
    return value


def to_plain(resource: Resource) -> dict[str, Any]:
    """The resource as dicts and lists, in the order of the API, for printing."""
    plain: dict[str, Any] = _to_plain(resource)
    return plain


def _as_stored(key: ResourceKey, resource: Resource) -> Resource:
    annotations = resource.metadata.annotations
    name = resource.metadata.name
    if key.kind in POLICY_KINDS:
        # Compact JSON in a string; the name's syntax needs no escapes, but who knows.
        text = msgspec.json.encode({"name": name}).decode()
        annotations = {**annotations, NAME_ANNOTATION: text}
    metadata = msgspec.structs.replace(
        resource.metadata, name=key.name, resource_version="", annotations=annotations
    )
    return msgspec.structs.replace(
        resource, kind=key.kind, api_version=API_VERSION, metadata=metadata
    )


def _overlay(kind: Any, document: Any, before: Any) -> Any:
    """`document`, plus the fields of `before` that the struct `kind` does not have."""
    if not isinstance(document, dict) or not isinstance(before, dict):
        return document
    types = _field_types(kind)
    merged = {
        name: _overlay_field(types.get(name), value, before.get(name))
        for name, value in document.items()
    }
    merged |= {name: value for name, value in before.items() if name not in types}
    for name, old in before.items():
        target = types.get(name)
        if target is None or target.optional or name in document:
            continue
        # Nothing that we know of is in it, so it was left out.
        if unknown := _overlay(target.kind, {}, old):
            merged[name] = unknown
    return merged


def _overlay_field(target: "Target | None", value: Any, before: Any) -> Any:
    if target is None:
        return value
    if not target.many:
        return _overlay(target.kind, value, before)
    if not isinstance(value, list) or not isinstance(before, list):
        return value
    return _overlay_list(target.kind, value, before)


def _overlay_list(kind: type[msgspec.Struct], value: list[Any], before: list[Any]) -> list[Any]:
    spare: list[Any] = list(before)
    known = [_known_part(kind, old) for old in before]
    matched: list[Any] = [None] * len(value)
    for place, item in enumerate(value):
        if item in known:
            index = known.index(item)
            matched[place], known[index], spare[index] = spare[index], None, None
    if len(value) == len(before):
        matched = [old or left for old, left in zip(matched, spare, strict=True)]
    return [_overlay(kind, item, old) for item, old in zip(value, matched, strict=True)]


def _known_part(kind: type[msgspec.Struct], plain: Any) -> Any:
    try:
        return _to_plain(msgspec.convert(plain, kind))
    except msgspec.ValidationError:
        return None


class Target(NamedTuple):
    """A field whose values are structs, so that unknown fields can hide inside."""

    kind: type[msgspec.Struct]
    many: bool
    optional: bool
    """Absent means something else than empty."""


_types: dict[type[msgspec.Struct], dict[str, Target | None]] = {}


def _field_types(kind: type[msgspec.Struct]) -> Mapping[str, Target | None]:
    known = _types.get(kind)
    if known is None:
        known = _types[kind] = {
            field.encode_name: struct_in(field.type) for field in msgspec.structs.fields(kind)
        }
    return known


def struct_in(annotation: Any) -> Target | None:
    """The struct that a field's annotation holds, as itself, `| None` or in a tuple."""
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        return Target(annotation, many=False, optional=False)
    if get_origin(annotation) is Annotated:
        return struct_in(annotation.__origin__)
    arguments: Sequence[Any] = getattr(annotation, "__args__", ())
    for argument in arguments:
        if found := struct_in(argument):
            many = getattr(annotation, "__origin__", None) is tuple
            return Target(found.kind, found.many or many, optional=True)
    return None
