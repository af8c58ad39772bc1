"""What objects of the API become; what cannot be stored as it is never allows more for it."""

from typing import Any

import pytest

from tortie.kube import kinds
from tortie.lib.errors import InvalidInput
from tortie.model.limits import SELECTOR_MAX_CHARACTERS
from tortie.model.policy import RULES_MAX, NetworkPolicy, NetworkPolicySpec
from tortie.model.validation import check, with_defaults
from tortie.selector.syntax import parse

K8S = {"projectcalico.org/orchestrator": "k8s"}


def made(spec: Any) -> tuple[NetworkPolicySpec, tuple[str, ...]]:
    """Of a NetworkPolicy with that spec: what is stored, and what is told."""
    policy = {"metadata": {"name": "p", "namespace": "red"}, "spec": spec}
    found = kinds.convert(kinds.NETWORK_POLICIES, policy)
    assert isinstance(found.resource, NetworkPolicy)
    assert (found.resource.metadata.name, found.resource.metadata.namespace) == (
        "knp.default.p",
        "red",
    )
    complete = with_defaults(found.resource)
    check(complete)
    return found.resource.spec, found.problems


ALLOW_ALL: dict[str, Any] = {"ingress": [{}], "egress": [{}]}
OPERATOR = {"key": "app", "operator": "Like", "values": ["w*"]}
MANY = [f"{number:060}" for number in range(100)]


@pytest.mark.parametrize(
    "selector",
    [
        {"matchLabels": {"tier": "db"}, "matchExpressions": [OPERATOR]},
        {"matchLabels": {"tier": "db", "app": "(a"}},
        {"matchLabels": {"tier": "db", "app": 7}},
        {
            "matchLabels": {"tier": "db"},
            "matchExpressions": [{"key": "app", "operator": "In", "values": MANY}],
        },
        {"matchLabels": {"tier": "db"}, "matchExpressions": "x"},
    ],
    ids=["operator", "value", "type", "longer than is stored", "no list"],
)
def test_pods_of_a_selector_that_cannot_be_read_are_isolated(selector: dict[str, Any]) -> None:
    spec, problems = made({"podSelector": selector} | ALLOW_ALL)
    assert parse(spec.selector).matches({**K8S, "tier": "db", "app": "other"})
    assert not parse(spec.selector).matches({**K8S, "tier": "web"}), "the rest of it still counts"
    assert not parse(spec.selector).matches({"tier": "db"}), "a host endpoint is no pod"
    assert (spec.ingress, spec.egress) == ((), ()), "or others than those meant would be reachable"
    assert spec.types == ("Ingress", "Egress")
    (problem,) = problems
    assert "nothing is allowed to any pod with" in problem


def test_a_selector_that_is_none_isolates_the_namespace() -> None:
    spec, problems = made({"podSelector": "everybody", "policyTypes": ["Egress"]})
    assert parse(spec.selector).matches(K8S)
    assert (spec.types, spec.egress) == (("Egress",), ())
    assert problems


@pytest.mark.parametrize(
    "spec", [{"policyTypes": ["Sideways"]}, {"ingress": "open"}, {"egress": [1], "ingress": [{}]}]
)
def test_rules_that_cannot_be_read_isolate(spec: dict[str, Any]) -> None:
    wanted, problems = made({"podSelector": {"matchLabels": {"a": "b"}}} | spec)
    assert parse(wanted.selector).matches({**K8S, "a": "b"})
    assert not parse(wanted.selector).matches(K8S)
    assert "Ingress" in wanted.types
    assert (wanted.ingress, wanted.egress) == ((), ())
    assert problems


def test_what_is_no_spec_isolates_the_namespace() -> None:
    wanted, problems = made("everything")
    assert parse(wanted.selector).matches(K8S)
    assert (wanted.types, wanted.ingress) == (("Ingress",), ())
    assert problems


def test_without_a_name_there_is_nothing_to_store() -> None:
    with pytest.raises(InvalidInput, match="namespace"):
        kinds.convert(kinds.NETWORK_POLICIES, {"metadata": {"name": "p"}, "spec": {}})


def test_rules_beyond_those_that_are_stored_are_left_out() -> None:
    peers = [{"podSelector": {"matchLabels": {"n": str(number)}}} for number in range(1100)]
    spec, problems = made({"podSelector": {}, "ingress": [{"from": peers}]})
    assert len(spec.ingress) == RULES_MAX
    assert "n == '0'" in spec.ingress[0].source.selector
    (problem,) = problems
    assert "becomes 1100 rules" in problem


def test_a_rule_that_is_too_long_is_left_out_alone() -> None:
    long = {"matchExpressions": [{"key": "app", "operator": "In", "values": MANY}]}
    short = {"matchLabels": {"app": "web"}}
    rules = [{"from": [{"podSelector": one}]} for one in (long, short)]
    spec, problems = made({"podSelector": {}, "ingress": rules})
    (rule,) = spec.ingress
    assert parse(rule.source.selector).matches({**K8S, "app": "web"})
    assert str(SELECTOR_MAX_CHARACTERS) in problems[0]
