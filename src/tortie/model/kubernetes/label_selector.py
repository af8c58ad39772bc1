"""Kubernetes' label selectors as selectors of ours.

Keys and values are checked before they become text, so no tenant's label can reach out of its
place in the selector. Both systems agree on labels that are absent: `NotIn` matches.

Source: Kubernetes, apimachinery/pkg/apis/meta/v1 (LabelSelectorAsSelector); Calico,
libcalico-go/lib/backend/k8s/conversion/conversion.go.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from tortie.lib.errors import InvalidInput
from tortie.model.endpoint import ORCHESTRATOR_LABEL
from tortie.model.kubernetes.fields import Object, objects, sequence, strings, text
from tortie.model.limits import SELECTOR_MAX_CHARACTERS
from tortie.model.names import is_label_key, is_label_value

PODS = f"{ORCHESTRATOR_LABEL} == 'k8s'"
"""All pods, and neither host endpoints nor network sets."""

_AND = " && "


def pod_selector(selector: Object | None) -> str:
    """None and an empty one both select every pod; the caller says of which namespaces.

    Raises:
        InvalidInput: an operator, key or value that Kubernetes would not take.
    """
    return _AND.join([PODS, *_terms(selector or {})])


def widest_pod_selector(selector: object) -> str:
    """What `pod_selector` would say, without each part that it cannot say.

    All parts must hold, so that without one of them more pods are selected, and never fewer.
    """
    terms, left = [PODS], SELECTOR_MAX_CHARACTERS - len(PODS)
    for term in _readable_terms(selector):
        left -= len(term) + len(_AND)
        if left < 0:
            break
        terms.append(term)
    return _AND.join(terms)


def namespace_selector(selector: Object) -> str:
    """An empty one selects every namespace. Raises as `pod_selector`."""
    return _AND.join(_terms(selector)) or "all()"


def _terms(selector: Object) -> list[str]:
    labels = strings(selector, "matchLabels")
    terms = [_label(key, labels[key]) for key in sorted(labels)]
    return terms + [_expression(term) for term in objects(selector, "matchExpressions")]


def _readable_terms(selector: object) -> Iterator[str]:
    if not isinstance(selector, Mapping):
        return
    labels, expressions = selector.get("matchLabels"), selector.get("matchExpressions")
    parts: list[Callable[[], str]] = []
    if isinstance(labels, Mapping):
        parts += [partial(_label, *label) for label in sorted(labels.items())]
    if isinstance(expressions, list | tuple):
        parts += [partial(_expression, one) for one in expressions if isinstance(one, Mapping)]
    for part in parts:
        with contextlib.suppress(InvalidInput):
            yield part()


def _label(key: str, value: object) -> str:
    return f"{_key(key)} == {_quoted(value)}"


def _expression(term: Object) -> str:
    key, operator = _key(text(term, "key")), text(term, "operator")
    values = sequence(term, "values")
    if operator in ("In", "NotIn"):
        if not values:
            raise InvalidInput(f"operator {operator} needs values")
        word = "in" if operator == "In" else "not in"
        return f"{key} {word} {{{', '.join(map(_quoted, values))}}}"
    if operator in ("Exists", "DoesNotExist"):
        if values:
            raise InvalidInput(f"operator {operator} takes no values")
        return f"has({key})" if operator == "Exists" else f"!has({key})"
    raise InvalidInput(f"{operator!r} is not an operator of label selectors")


def _key(key: str) -> str:
    if not is_label_key(key):
        raise InvalidInput(f"{key!r} is not a label's key")
    return key


def _quoted(value: object) -> str:
    if not isinstance(value, str) or not is_label_value(value):
        raise InvalidInput(f"{value!r} is not a label's value")
    return f"'{value}'"
