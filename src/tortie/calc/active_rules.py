"""Which policies and profiles the dataplane must have, and the sets that they rest on.

A policy is wanted by the local endpoints that it selects, a profile by those that name it. A
profile that nobody has stored, or that cannot be used, is stood in for by one that denies: an
endpoint that names it must not be open. The built-in profile is never stored.

What is known of a policy that nobody here wants is only kept; it is worked out when it is wanted.
"""

from typing import NamedTuple

from tortie.calc.ip_sets import IPSets
from tortie.calc.sequencer import Sequencer
from tortie.calc.validation import ActivePolicy, HostInterface, KeptRules, Workload
from tortie.desired.kinds import Kind
from tortie.desired.policy import Policy, PolicyId, Rule
from tortie.model.policy import DEFAULT_ALLOW_PROFILE

PROFILE_KIND = "Profile"

_DENY = (Rule("Deny"),)
_ALLOW = (Rule("Allow"),)
DENY_ALL = ActivePolicy(Policy(_DENY, _DENY), {})
ALLOW_ALL = ActivePolicy(Policy(_ALLOW, _ALLOW), {})


class ActiveRulesStatistics(NamedTuple):
    known_count: int
    active_count: int


class ActiveRules:
    """Changes are noted as they come and take effect in `resolve`."""

    def __init__(self, sequencer: Sequencer, ip_sets: IPSets) -> None:
        self._sequencer = sequencer
        self._ip_sets = ip_sets
        self._known: dict[PolicyId, KeptRules] = {}
        self._want_counts: dict[PolicyId, int] = {}
        self._active: dict[PolicyId, _Active] = {}
        self._changed: dict[PolicyId, None] = {}

    def on_rules(self, policy: PolicyId, rules: KeptRules | None) -> None:
        """What a policy or profile says; None: it is absent."""
        if rules is None:
            self._known.pop(policy, None)
        else:
            self._known[policy] = rules
        self._changed[policy] = None

    def profile_count(self) -> int:
        """Of the whole cluster."""
        return sum(one.kind == PROFILE_KIND for one in self._known)

    def want(self, policy: PolicyId) -> None:
        """One more local endpoint needs it."""
        count = self._want_counts.get(policy, 0)
        self._want_counts[policy] = count + 1
        if not count:
            self._changed[policy] = None

    def unwant(self, policy: PolicyId) -> None:
        """One less local endpoint needs it."""
        count = self._want_counts[policy]
        if count > 1:
            self._want_counts[policy] = count - 1
        else:
            del self._want_counts[policy]
            self._changed[policy] = None

    def resolve(self) -> None:
        """Bring what is active in line with what is wanted, at the cost of what changed."""
        changed, self._changed = self._changed, {}
        for policy in changed:
            source = self._wanted(policy)
            before = self._active.get(policy)
            if source is not (before.source if before else None):
                self._swap(policy, before, source)
        self._ip_sets.prune()

    def statistics(self) -> ActiveRulesStatistics:
        return ActiveRulesStatistics(len(self._known), len(self._active))

    def _wanted(self, policy: PolicyId) -> KeptRules | ActivePolicy | None:
        if policy not in self._want_counts:
            return None
        if policy.kind == PROFILE_KIND and policy.name == DEFAULT_ALLOW_PROFILE:
            return ALLOW_ALL
        return self._known.get(policy, DENY_ALL)

    def _swap(
        self, policy: PolicyId, before: "_Active | None", source: KeptRules | ActivePolicy | None
    ) -> None:
        after = source.active() if isinstance(source, KeptRules) else source
        for set_id, spec in after.sets.items() if after else ():
            self._ip_sets.acquire(set_id, spec)
        for set_id in before.set_ids if before else ():
            self._ip_sets.release(set_id)
        if source and after:
            self._active[policy] = _Active(source, tuple(after.sets))
        else:
            del self._active[policy]
        kind = Kind.STAGED_POLICY if policy.staged else Kind.POLICY
        self._sequencer.put(kind, policy, after.policy if after else None)


class _Active(NamedTuple):
    """What was told of a policy: the sequencer remembers it, so here is only what it came from."""

    source: KeptRules | ActivePolicy
    set_ids: tuple[str, ...]


def profiles_of(endpoint: Workload | HostInterface | None) -> tuple[PolicyId, ...]:
    """In the endpoint's order, each once."""
    names = dict.fromkeys(endpoint.profiles) if endpoint else ()
    return tuple(PolicyId(PROFILE_KIND, name) for name in names)
