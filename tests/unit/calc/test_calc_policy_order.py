"""Order of tiers and policies, and what follows from it for one direction of an endpoint."""

import itertools

import pytest
from tests.graph.resources import allow, policy

from tortie.calc.endpoint_policy import TierSettings, missing_tier, policy_list
from tortie.calc.policy_order import policy_order, tier_order
from tortie.calc.validation import ParsedPolicy, parse_policy
from tortie.desired.policy import PolicyId, PolicyList, TierPolicies
from tortie.model.keys import ResourceKey
from tortie.model.policy import GlobalNetworkPolicy, NetworkPolicy, Rule

PROFILES = (PolicyId("Profile", "b"), PolicyId("Profile", "a"))
DENY, PASS = "Deny", "Pass"


def test_tiers_by_order_then_name_then_those_without_an_order() -> None:
    expected = [
        tier_order("z", -1.0),
        tier_order("a", 0.0),
        tier_order("b", 0.5),
        tier_order("c", 0.5),
        tier_order("x", None),
        tier_order("y", None),
        missing_tier("a").order,
    ]
    for shuffled in itertools.permutations(expected):
        assert sorted(shuffled) == expected


def test_policies_by_order_then_kind_name_and_namespace() -> None:
    expected = [
        policy_order(PolicyId("NetworkPolicy", "z", "z"), -3.0),
        policy_order(PolicyId("GlobalNetworkPolicy", "b"), 1.0),
        policy_order(PolicyId("NetworkPolicy", "a", "z"), 1.0),
        policy_order(PolicyId("NetworkPolicy", "b", "a"), 1.0),
        policy_order(PolicyId("NetworkPolicy", "b", "b"), 1.0),
        policy_order(PolicyId("GlobalNetworkPolicy", "a"), None),
    ]
    for shuffled in itertools.permutations(expected):
        assert sorted(shuffled) == expected


def parsed(path: str, **spec: object) -> ParsedPolicy:
    key, value = policy(path, **spec)
    assert isinstance(key, ResourceKey)
    assert isinstance(value, NetworkPolicy | GlobalNetworkPolicy)
    return parse_policy(PolicyId(key.kind, key.name, key.namespace), value.spec)


def settings(name: str, order: float | None, action: str) -> TierSettings:
    return TierSettings(tier_order(name, order), action)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("first", "last", "passes", "reaches_profiles"),
    [
        (DENY, DENY, (), False),
        (PASS, DENY, (), False),
        (DENY, PASS, (), True),
        (DENY, DENY, ("last",), True),
        (DENY, DENY, ("first",), False),
        (DENY, DENY, ("last egress",), False),
        (PASS, DENY, ("first", "last"), True),
    ],
)
def test_profiles_only_where_a_packet_can_get_that_far(
    first: str, last: str, passes: tuple[str, ...], reaches_profiles: bool
) -> None:
    tiers = {"first": settings("first", 1.0, first), "last": settings("last", 2.0, last)}
    both = ("Ingress", "Egress")
    pass_rule = (Rule(action="Pass"),)
    policies = [
        parsed("y", tier="last", types=both, ingress=pass_rule * ("last" in passes)),
        parsed("x", tier="first", types=both, ingress=pass_rule * ("first" in passes)),
        parsed("z", tier="last", types=both, egress=pass_rule * ("last egress" in passes)),
    ]
    assert policy_list("Ingress", policies, tiers, PROFILES) == PolicyList(
        (
            TierPolicies("first", first, (PolicyId("GlobalNetworkPolicy", "x"),)),  # type: ignore[arg-type]
            TierPolicies(
                "last",
                last,  # type: ignore[arg-type]
                (PolicyId("GlobalNetworkPolicy", "y"), PolicyId("GlobalNetworkPolicy", "z")),
            ),
        ),
        PROFILES if reaches_profiles else (),
    )


def test_without_a_policy_for_the_direction_profiles_decide() -> None:
    egress_only = [parsed("x", types=("Egress",), egress=(allow(),))]
    assert policy_list("Ingress", egress_only, {}, PROFILES) == PolicyList((), PROFILES)


def test_a_missing_tier_comes_last_and_denies() -> None:
    tiers = {"there": settings("there", None, PASS)}
    policies = [parsed("x", tier="absent"), parsed("y", tier="there")]
    result = policy_list("Ingress", policies, tiers, PROFILES)
    assert [(tier.name, tier.default_action) for tier in result.tiers] == [
        ("there", PASS),
        ("absent", DENY),
    ]
    assert result.profiles == ()
