"""Which policies select which local endpoints, and in what order they then decide.

Its index holds the selectors of all policies and the labels of the local endpoints only, so a
change elsewhere in the cluster never gets here. Endpoints whose lists may have changed are told
onwards; what they have become is asked for with `lists`.
"""

from collections.abc import Callable
from typing import NamedTuple

from tortie.calc.active_rules import ActiveRules
from tortie.calc.endpoint_policy import TierSettings, policy_list
from tortie.calc.validation import Labelled, ParsedPolicy
from tortie.desired.endpoint import EndpointId
from tortie.desired.policy import PolicyId, PolicyList
from tortie.selector.index import LabelIndex


class ActivePoliciesStatistics(NamedTuple):
    policy_count: int
    """In the whole cluster, for workload endpoints."""
    tier_count: int
    evaluation_count: int
    """Selectors matched against labels, since the start."""


class ActivePolicies:
    """
    Args:
        on_lists_changed: called with each endpoint whose lists may have changed.
    """

    def __init__(self, rules: ActiveRules, on_lists_changed: Callable[[EndpointId], None]) -> None:
        self._rules = rules
        self._on_lists_changed = on_lists_changed
        self._tiers: dict[str, TierSettings] = {}
        self._policies: dict[PolicyId, ParsedPolicy] = {}
        self._policies_by_tier: dict[str, dict[PolicyId, None]] = {}
        self._index: LabelIndex[PolicyId, EndpointId] = LabelIndex(
            self._on_match_started, self._on_match_stopped
        )

    def on_tier(self, name: str, settings: TierSettings | None) -> None:
        if self._tiers.get(name) == settings:
            return
        if settings is None:
            del self._tiers[name]
        else:
            self._tiers[name] = settings
        for policy in self._policies_by_tier.get(name, ()):
            self._tell_endpoints_of(policy)

    def on_policy(self, policy: PolicyId, parsed: ParsedPolicy | None) -> None:
        """Add or replace a policy; None: it is gone, or not for workload endpoints."""
        before = self._policies.get(policy)
        if before == parsed:
            return
        self._file(policy, before, parsed)
        if parsed is None:
            self._index.remove_selector(policy)
            self._rules.on_rules(policy, None)
            return
        self._rules.on_rules(policy, parsed.active)
        if before is not None and _place(before) != _place(parsed):
            self._tell_endpoints_of(policy)
        self._index.set_selector(policy, parsed.selector)

    def on_endpoint(self, endpoint: EndpointId, labelled: Labelled | None) -> None:
        """Add or replace a local endpoint; None: it is gone, or lives elsewhere now."""
        if labelled is None:
            self._index.remove_item(endpoint)
        else:
            self._index.set_item(endpoint, labelled.labels, labelled.parents)

    def on_profile_labels(self, profile: str, labels: dict[str, str]) -> None:
        self._index.set_parent(profile, labels)

    def policies_of(self, endpoint: EndpointId) -> frozenset[PolicyId]:
        """Those that select it, for either direction."""
        return frozenset(self._index.selectors_matching(endpoint))

    def lists(
        self, policies: frozenset[PolicyId], profiles: tuple[PolicyId, ...]
    ) -> tuple[PolicyList, PolicyList]:
        """Ingress and egress of an endpoint that these policies select."""
        parsed = [self._policies[policy] for policy in policies]
        return (
            policy_list("Ingress", parsed, self._tiers, profiles),
            policy_list("Egress", parsed, self._tiers, profiles),
        )

    def statistics(self) -> ActivePoliciesStatistics:
        evaluation_count = self._index.statistics().evaluation_count
        return ActivePoliciesStatistics(len(self._policies), len(self._tiers), evaluation_count)

    def _on_match_started(self, policy: PolicyId, endpoint: EndpointId) -> None:
        self._rules.want(policy)
        self._on_lists_changed(endpoint)

    def _on_match_stopped(self, policy: PolicyId, endpoint: EndpointId) -> None:
        self._rules.unwant(policy)
        self._on_lists_changed(endpoint)

    def _tell_endpoints_of(self, policy: PolicyId) -> None:
        for endpoint in self._index.items_matching(policy):
            self._on_lists_changed(endpoint)

    def _file(
        self, policy: PolicyId, before: ParsedPolicy | None, after: ParsedPolicy | None
    ) -> None:
        if before is not None:
            siblings = self._policies_by_tier[before.tier]
            del siblings[policy]
            if not siblings:
                del self._policies_by_tier[before.tier]
        if after is None:
            self._policies.pop(policy, None)
        else:
            self._policies[policy] = after
            self._policies_by_tier.setdefault(after.tier, {})[policy] = None


def _place(policy: ParsedPolicy) -> tuple[object, ...]:
    """What of a policy the lists depend on; its rules are not among it."""
    return policy.tier, policy.order, policy.directions, policy.passes
