"""Kubernetes' label selectors as selectors of ours.

Keys and values are checked before they become text, so no tenant's label can reach out of its
place in the selector. Both systems agree on labels that are absent: `NotIn` matches.

Source: Kubernetes, apimachinery/pkg/apis/meta/v1 (LabelSelectorAsSelector); Calico,
libcalico-go/lib/backend/k8s/conversion/conversion.go.
"""

from tortie.lib.errors import InvalidInput
from tortie.model.endpoint import ORCHESTRATOR_LABEL
from tortie.model.kubernetes.fields import Object, objects, sequence, strings, text
from tortie.model.names import is_label_key, is_label_value

PODS = f"{ORCHESTRATOR_LABEL} == 'k8s'"
"""All pods, and neither host endpoints nor network sets."""


def pod_selector(selector: Object | None) -> str:
    """None and an empty one both select every pod; the caller says of which namespaces.

    Raises:
        InvalidInput: an operator, key or value that Kubernetes would not take.
    """
    return " && ".join([PODS, *_terms(selector or {})])


def namespace_selector(selector: Object) -> str:
    """An empty one selects every namespace. Raises as `pod_selector`."""
    return " && ".join(_terms(selector)) or "all()"


def _terms(selector: Object) -> list[str]:
    labels = strings(selector, "matchLabels")
    terms = [f"{_key(key)} == {_quoted(labels[key])}" for key in sorted(labels)]
    return terms + [_expression(term) for term in objects(selector, "matchExpressions")]


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
