"""What a selector is, whatever way it was written: canonical text, ids, and what it demands.

Everything here works on nodes. In particular the scoping of a tenant's selector to a namespace
puts a node beside the tenant's node; gluing texts together would let `all() || x == 'y'` out.
"""

import base64
import hashlib
from collections.abc import Mapping
from enum import Enum
from typing import Final, Literal, TypeAlias

from tortie.selector.syntax import (
    All,
    Both,
    Contains,
    Either,
    EndsWith,
    Equals,
    Global,
    Has,
    In,
    Node,
    Not,
    NotEquals,
    NotIn,
    StartsWith,
    parse,
)

NAMESPACE_LABEL = "projectcalico.org/namespace"
"""On every namespaced endpoint and network set, put there by us and not by its owner."""


class _Present(Enum):
    ANY = "any value"


ANY_VALUE: Final = _Present.ANY
"""The label must be present; its value is not restricted to a list."""

Restriction: TypeAlias = frozenset[str] | Literal[_Present.ANY]
"""Values one of which the label must have (none: nothing can match), or `ANY_VALUE`."""

_STRING_WORDS: dict[type, str] = {
    Equals: "==",
    NotEquals: "!=",
    Contains: "contains",
    StartsWith: "starts with",
    EndsWith: "ends with",
}


def canonical(node: Node) -> str:
    """The one text for this node: `parse(canonical(node), GENEROUS) == node` for parsed nodes.

    Sets are sorted (by code point, which is also the order of their UTF-8 bytes) and strings
    are in double quotes unless they hold one. It may be longer than `FOREIGN` lets a text be.

    Source: Calico, libcalico-go/lib/selector/parser/ast.go.
    """
    match node:
        case All():
            return "all()"
        case Global():
            return "global()"
        case Has():
            return f"has({node.label})"
        case Equals() | NotEquals() | Contains() | StartsWith() | EndsWith():
            return f"{node.label} {_STRING_WORDS[type(node)]} {_quoted(node.value)}"
        case In():
            return f"{node.label} in {_set_text(node.values)}"
        case NotIn():
            return f"{node.label} not in {_set_text(node.values)}"
        case Not():
            return f"!{canonical(node.term)}"
        case Both():
            return f"({' && '.join(map(canonical, node.terms))})"
        case Either():
            return f"({' || '.join(map(canonical, node.terms))})"
    raise _unknown(node)


def selector_id(selector: str | Node) -> str:
    """The id of what the selector selects: 40 characters, the same on every host.

    Equal to Calico's, except where Calico keeps a double negation (`!(!x)` is `x` here).

    Raises:
        SelectorSyntax: a text that does not parse.

    Source: Calico, libcalico-go/lib/hash/hash.go.
    """
    node = parse(selector) if isinstance(selector, str) else selector
    digest = hashlib.sha224(b"s:" + canonical(node).encode()).digest()
    return "s:" + base64.urlsafe_b64encode(digest).decode().rstrip("=")


def conjunction(*nodes: Node) -> Node:
    """All of these at once; `all()` adds nothing, and no node at all is `all()`."""
    terms = tuple(node for node in nodes if not isinstance(node, All))
    if not terms:
        return All()
    return terms[0] if len(terms) == 1 else Both(terms)


def in_namespace(node: Node, namespace: str) -> Node:
    """What `node` selects within one namespace, and nothing outside it, whatever `node` is."""
    return conjunction(Equals(NAMESPACE_LABEL, namespace), node)


def with_prefix(node: Node, prefix: str) -> Node:
    """The same selector over labels whose names begin with `prefix`.

    A namespaceSelector, say, is about the namespace's labels, which endpoints inherit as `pcns.…`.
    """
    match node:
        case Has():
            return Has(prefix + node.label)
        case Equals() | NotEquals() | Contains() | StartsWith() | EndsWith():
            return type(node)(prefix + node.label, node.value)
        case In() | NotIn():
            return type(node)(prefix + node.label, node.values)
        case Not():
            return Not(with_prefix(node.term, prefix))
        case Both() | Either():
            return type(node)(tuple(with_prefix(term, prefix) for term in node.terms))
        case All() | Global():
            return node
    raise _unknown(node)


def uses_global(node: Node) -> bool:
    """Does `global()` occur anywhere in it? It may only stand alone, in a namespaceSelector."""
    match node:
        case Global():
            return True
        case Not():
            return uses_global(node.term)
        case Both() | Either():
            return any(map(uses_global, node.terms))
    return False


def labels_named(node: Node) -> frozenset[str]:
    """Every label it looks at: a change of any other label cannot change whether it matches."""
    match node:
        case All() | Global():
            return frozenset()
        case Not():
            return labels_named(node.term)
        case Both() | Either():
            return frozenset[str]().union(*map(labels_named, node.terms))
        case (Has() | Equals() | NotEquals() | In() | NotIn()) | (
            Contains() | StartsWith() | EndsWith()
        ):
            return frozenset([node.label])
    raise _unknown(node)


def required(node: Node) -> Mapping[str, Restriction]:
    """What labels must look like for the node to match; necessary, not sufficient.

    A label that is not named here is not restricted in a way that an index of label values
    could use. An empty set means that nothing can match.
    """
    return _required(node, negated=False)


def _required(node: Node, negated: bool) -> dict[str, Restriction]:
    match node:
        case Not():
            return _required(node.term, not negated)
        case Both() | Either():
            # De Morgan: a negated disjunction demands the opposite of every term.
            every = isinstance(node, Both) != negated
            terms = [_required(term, negated) for term in node.terms]
            return _demanded_together(terms) if every else _demanded_by_each(terms)
        case Equals() if not negated:
            return {node.label: frozenset([node.value])}
        case NotEquals() if negated:
            return {node.label: frozenset([node.value])}
        case In() if not negated:
            return {node.label: node.values}
        case NotIn() if negated:
            return {node.label: node.values}
        case Has() | Contains() | StartsWith() | EndsWith() if not negated:
            return {node.label: ANY_VALUE}
    return {}


def _demanded_together(terms: list[dict[str, Restriction]]) -> dict[str, Restriction]:
    by_label: dict[str, list[Restriction]] = {}
    for term in terms:
        for label, restriction in term.items():
            by_label.setdefault(label, []).append(restriction)
    return {label: _intersection(several) for label, several in by_label.items()}


def _demanded_by_each(terms: list[dict[str, Restriction]]) -> dict[str, Restriction]:
    everywhere = terms[0].keys() if terms else ()
    return {
        label: _union([term[label] for term in terms])
        for label in everywhere
        if all(label in term for term in terms)
    }


def _intersection(restrictions: list[Restriction]) -> Restriction:
    sets = [values for values in restrictions if values is not ANY_VALUE]
    return sets[0].intersection(*sets[1:]) if sets else ANY_VALUE


def _union(restrictions: list[Restriction]) -> Restriction:
    sets = [values for values in restrictions if values is not ANY_VALUE]
    return frozenset[str]().union(*sets) if len(sets) == len(restrictions) else ANY_VALUE


def _set_text(values: frozenset[str]) -> str:
    return f"{{{', '.join(map(_quoted, sorted(values)))}}}"


def _quoted(value: str) -> str:
    quote = "'" if '"' in value else '"'
    assert quote not in value  # the grammar has no such string, so no node may hold one
    return f"{quote}{value}{quote}"


def _unknown(node: Node) -> TypeError:
    return TypeError(f"{type(node).__name__} is not a selector node")
