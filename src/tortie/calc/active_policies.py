"""Which policies select which local endpoints, and in what order they then decide.

Its index holds the selectors of all policies and the labels of the local endpoints only, so a
change elsewhere in the cluster never gets here. Endpoints whose lists may have changed are told
onwards; what they have become is asked for with `lists`.

A staged policy stands in for the enforced one of its name. It selects and refers like any other,
but appears only among what an endpoint would have if all that is staged were enforced; and there
the one that it stands in for does not.
"""

from collections.abc import Callable
from typing import NamedTuple

from tortie.calc.active_rules import ActiveRules
from tortie.calc.claims import Claims
from tortie.calc.endpoint_policy import TierSettings, policy_list
from tortie.calc.validation import Labelled, ParsedPolicy, Place
from tortie.desired.endpoint import EndpointId
from tortie.desired.policy import PolicyId, PolicyList
from tortie.selector.index import LabelIndex

Local = EndpointId | str
"""A workload endpoint of this host, or the name of a host endpoint of this host."""


class Selecting(NamedTuple):
    """The policies that select an endpoint, for either direction."""

    enforced: frozenset[PolicyId]
    staged: frozenset[PolicyId]
    """What they would be if all that is staged were enforced."""

    @property
    def differ(self) -> bool:
        return self.enforced != self.staged


class ActivePoliciesStatistics(NamedTuple):
    policy_count: int
    """In the whole cluster, staged ones too."""
    enforced_count: int
    """Without those."""
    tier_count: int
    evaluation_count: int
    """Selectors matched against labels, since the start."""


class ActivePolicies:
    """
    Args:
        on_lists_changed: called with each endpoint whose lists may have changed.
    """

    def __init__(self, rules: ActiveRules, on_lists_changed: Callable[[Local], None]) -> None:
        self._rules = rules
        self._on_lists_changed = on_lists_changed
        self._tiers: dict[str, TierSettings] = {}
        self._policies: dict[PolicyId, ParsedPolicy] = {}
        self._policies_by_tier: dict[str, dict[PolicyId, None]] = {}
        self._replacements: Claims[PolicyId, PolicyId] = Claims()
        """Enforced policy (it need not exist) → the staged ones that stand in for it."""
        self._index: LabelIndex[PolicyId, Local] = LabelIndex(
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
        """Add or replace a policy; None: it is gone."""
        before = self._policies.get(policy)
        if before == parsed:
            return
        self._file(policy, before, parsed)
        if parsed is None:
            self._index.remove_selector(policy)
            self._rules.on_rules(policy, None)
            return
        self._rules.on_rules(policy, parsed.rules)
        if before is not None and _place(before) != _place(parsed):
            self._tell_endpoints_of(policy)
        self._index.set_selector(policy, parsed.selector)

    def on_replacement(self, enforced: PolicyId, staged: PolicyId, present: bool) -> None:
        """A staged policy stands in for an enforced one, or does so no more."""
        if present == (staged in self._replacements.claimants(enforced)):
            return
        if present:
            self._replacements.add(enforced, staged)
        else:
            self._replacements.discard(enforced, staged)
        self._tell_endpoints_of(enforced)

    def on_endpoint(self, endpoint: Local, labelled: Labelled | None) -> None:
        """Add or replace a local endpoint; None: it is gone, or lives elsewhere now."""
        if labelled is None:
            self._index.remove_item(endpoint)
        else:
            self._index.set_item(endpoint, labelled.labels, labelled.parents)

    def on_profile_labels(self, profile: str, labels: dict[str, str]) -> None:
        self._index.set_parent(profile, labels)

    def policies_of(self, endpoint: Local) -> Selecting:
        """Those that select it."""
        selecting = self._index.selectors_matching(endpoint)
        enforced = frozenset(policy for policy in selecting if not policy.staged)
        if not len(self._replacements):
            return Selecting(enforced, enforced)
        return Selecting(enforced, frozenset(p for p in selecting if p not in self._replacements))

    def lists(
        self,
        policies: frozenset[PolicyId],
        profiles: tuple[PolicyId, ...],
        *,
        place: Place = "normal",
        forward: bool = False,
    ) -> tuple[PolicyList, PolicyList]:
        """Ingress and egress of an endpoint that these policies select.

        Args:
            place: only those that act there.
            forward: only those that are also for what passes through the host.
        """
        parsed = [
            policy
            for policy in map(self._policies.__getitem__, policies)
            if policy.place == place and (policy.on_forward or not forward)
        ]
        open_ended = place != "normal"
        return (
            policy_list("Ingress", parsed, self._tiers, profiles, open_ended=open_ended),
            policy_list("Egress", parsed, self._tiers, profiles, open_ended=open_ended),
        )

    def statistics(self) -> ActivePoliciesStatistics:
        evaluation_count = self._index.statistics().evaluation_count
        enforced_count = sum(not policy.staged for policy in self._policies)
        return ActivePoliciesStatistics(
            len(self._policies), enforced_count, len(self._tiers), evaluation_count
        )

    def _on_match_started(self, policy: PolicyId, endpoint: Local) -> None:
        self._rules.want(policy)
        self._on_lists_changed(endpoint)

    def _on_match_stopped(self, policy: PolicyId, endpoint: Local) -> None:
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
    return (
        policy.tier,
        policy.order,
        policy.directions,
        policy.passes,
        policy.place,
        policy.on_forward,
    )
