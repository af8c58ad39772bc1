"""The nodes of calc, wired: updates in, this host's desired state out at each flush.

    on_update ─► validation ─┬─► ip_sets ◄──────────── active_rules
                             ├─► active_policies ──────┘     │
                             ├─► local_endpoints ─► routes   │
                             └─► topology ────────────┘      ▼
                                                  sequencer ─► emit

`host_endpoints` stands beside `local_endpoints`, without routes.

An update only changes what the nodes know; a flush resolves what that means, from endpoints
over rules and sets to routes, and emits it. So a burst of updates costs one resolution, and
nothing is emitted before the first flush, which the caller makes once the first snapshot is in.

Data never makes it raise: an object that does not parse counts as absent, and `problems` says
why. Belongs to the loop task.
"""

from collections import Counter as Tally
from collections.abc import Callable, Mapping
from sys import intern
from types import MappingProxyType
from typing import NamedTuple, TypeVar

from tortie.calc.active_policies import ActivePolicies, ActivePoliciesStatistics, Local
from tortie.calc.active_rules import PROFILE_KIND, ActiveRules, ActiveRulesStatistics
from tortie.calc.endpoint_policy import TierSettings
from tortie.calc.host_endpoints import HostEndpoints
from tortie.calc.ip_sets import IPSets, IPSetStatistics
from tortie.calc.local_endpoints import LocalEndpoints, LocalEndpointStatistics
from tortie.calc.migrations import Migrations, parse_live_migration
from tortie.calc.policy_order import tier_order
from tortie.calc.routes import Routes, RouteStatistics
from tortie.calc.sequencer import Sequencer, SequencerStatistics
from tortie.calc.staged_policies import enforced_policy, parse_staged_policy
from tortie.calc.topology import Topology
from tortie.calc.validation import (
    Member,
    parse_endpoint_slice,
    parse_global_network_set,
    parse_host_endpoint,
    parse_network_set,
    parse_node,
    parse_policy,
    parse_pool,
    parse_profile,
    parse_service_networks,
    parse_workload_endpoint,
)
from tortie.desired.endpoint import EndpointId
from tortie.desired.kinds import Emit
from tortie.desired.policy import PolicyId
from tortie.lib.errors import InvalidInput
from tortie.lib.ip import Network
from tortie.model.bgp_configuration import BGPConfiguration
from tortie.model.endpoint import HostEndpoint, WorkloadEndpoint
from tortie.model.endpoint_slice import KubernetesEndpointSlice
from tortie.model.ipam import BlockAffinity
from tortie.model.keys import AffinityKey, Key, ResourceKey
from tortie.model.live_migration import LiveMigration
from tortie.model.network_set import GlobalNetworkSet, NetworkSet
from tortie.model.node import IPPool, Node
from tortie.model.policy import GlobalNetworkPolicy, NetworkPolicy, Profile, Tier


class ClusterCounts(NamedTuple):
    """What there is in the whole cluster; what is not valid does not count."""

    hosts: int
    workload_endpoints: int
    host_endpoints: int
    policies: int
    profiles: int
    tiers: int


class GraphStatistics(NamedTuple):
    update_count: int
    """Since the start."""
    update_counts: Mapping[str, int]
    """The same by kind of resource."""
    problem_count: int
    host_endpoint_count: int
    """Of this host."""
    endpoints: LocalEndpointStatistics
    policies: ActivePoliciesStatistics
    rules: ActiveRulesStatistics
    sets: IPSetStatistics
    routes: RouteStatistics
    sequencer: SequencerStatistics


_POLICY_TYPES: dict[str, type[NetworkPolicy] | type[GlobalNetworkPolicy]] = {
    "GlobalNetworkPolicy": GlobalNetworkPolicy,
    "NetworkPolicy": NetworkPolicy,
}

_Problems = tuple[str, ...]
_T = TypeVar("_T")


class Graph:
    """
    Args:
        host: this host's name, as endpoints and affinities give it.
        emit: called at each flush for each object that changed, references after what they
            refer to, removals last.
        floating_addresses: see `validation.parse_workload_endpoint`.
    """

    def __init__(self, host: str, emit: Emit, *, floating_addresses: bool = False) -> None:
        self._host = host
        self._floating_addresses = floating_addresses
        self._sequencer = Sequencer(emit)
        self._ip_sets = IPSets(self._sequencer)
        self._rules = ActiveRules(self._sequencer, self._ip_sets)
        self._migrations = Migrations()
        self._routes = Routes(
            host, self._sequencer, self._ip_sets.member, self._migrations.is_target
        )
        self._topology = Topology(self._sequencer, self._routes)
        self._endpoints = LocalEndpoints(self._sequencer, self._rules, self._routes)
        self._host_endpoints = HostEndpoints(self._sequencer, self._rules)
        self._policies = ActivePolicies(self._rules, self._on_lists_changed)
        self._problems: dict[Key, _Problems] = {}
        self._update_counts: Tally[str] = Tally()
        self._handlers: dict[str, Callable[[ResourceKey, object | None], _Problems]] = {
            "BGPConfiguration": self._on_bgp_configuration,
            "GlobalNetworkPolicy": self._on_policy,
            "GlobalNetworkSet": self._on_global_network_set,
            "HostEndpoint": self._on_host_endpoint,
            "IPPool": self._on_pool,
            "KubernetesEndpointSlice": self._on_endpoint_slice,
            "LiveMigration": self._on_live_migration,
            "NetworkPolicy": self._on_policy,
            "NetworkSet": self._on_network_set,
            "Node": self._on_node,
            "Profile": self._on_profile,
            "StagedGlobalNetworkPolicy": self._on_staged_policy,
            "StagedKubernetesNetworkPolicy": self._on_staged_policy,
            "StagedNetworkPolicy": self._on_staged_policy,
            "Tier": self._on_tier,
            "WorkloadEndpoint": self._on_workload_endpoint,
        }

    def on_update(self, key: Key, value: object | None) -> None:
        """What the datastore now holds at `key`; None: nothing. Keys of no concern are fine."""
        is_affinity = isinstance(key, AffinityKey)
        self._update_counts["BlockAffinity" if is_affinity else getattr(key, "kind", "")] += 1
        if isinstance(key, AffinityKey):
            self._on_affinity(key, value)
        elif isinstance(key, ResourceKey) and (handler := self._handlers.get(key.kind)):
            try:
                problems = handler(key, value)
            except InvalidInput as error:
                handler(key, None)
                problems = (str(error),)
            if problems:
                self._problems[key] = problems
            else:
                self._problems.pop(key, None)

    def flush(self) -> None:
        """Resolve what has changed since the last time, and emit it."""
        self._endpoints.resolve(self._policies)
        self._host_endpoints.resolve(self._policies)
        self._rules.resolve()
        self._routes.resolve()
        self._sequencer.flush()

    def endpoint_at(self, address: Network) -> EndpointId | None:
        """The workload endpoint that has the address, on whichever host."""
        return self._routes.endpoint_at(address)

    @property
    def problems(self) -> Mapping[Key, tuple[str, ...]]:
        """Why an object counts as absent, or which of its rules cannot be enforced as written."""
        return MappingProxyType(self._problems)

    def statistics(self) -> GraphStatistics:
        return GraphStatistics(
            update_count=self._update_counts.total(),
            update_counts=dict(self._update_counts),
            host_endpoint_count=len(self._host_endpoints),
            problem_count=len(self._problems),
            endpoints=self._endpoints.statistics(),
            policies=self._policies.statistics(),
            rules=self._rules.statistics(),
            sets=self._ip_sets.statistics(),
            routes=self._routes.statistics(),
            sequencer=self._sequencer.statistics(),
        )

    def cluster(self) -> ClusterCounts:
        """Costs a look at each endpoint."""
        endpoints, host_endpoints = self._ip_sets.endpoint_counts()
        policies = self._policies.statistics()
        return ClusterCounts(
            hosts=self._routes.statistics().host_count,
            workload_endpoints=endpoints,
            host_endpoints=host_endpoints,
            policies=policies.enforced_count,
            profiles=self._rules.profile_count(),
            tiers=policies.tier_count,
        )

    def _on_lists_changed(self, endpoint: Local) -> None:
        if isinstance(endpoint, EndpointId):
            self._endpoints.on_lists_changed(endpoint)
        else:
            self._host_endpoints.on_lists_changed(endpoint)

    # Each handler parses first and changes nothing if that fails.

    def _on_workload_endpoint(self, key: ResourceKey, value: object | None) -> _Problems:
        workload = None
        if value is not None:
            resource = _typed(value, WorkloadEndpoint)
            workload = parse_workload_endpoint(
                key, resource, floating_addresses=self._floating_addresses
            )
        endpoint = EndpointId(intern(key.namespace), key.name)
        local = workload if workload and workload.host == self._host else None
        before = self._elsewhere(endpoint)
        self._ip_sets.on_item(endpoint, workload.labelled if workload else None)
        self._endpoints.on_endpoint(endpoint, local)
        self._policies.on_endpoint(endpoint, local.labelled if local else None)
        self._routes.on_endpoint_elsewhere(endpoint, before, self._elsewhere(endpoint))
        return ()

    def _on_live_migration(self, key: ResourceKey, value: object | None) -> _Problems:
        target = None
        if value is not None:
            target = parse_live_migration(_typed(value, LiveMigration))
        for endpoint in self._migrations.on_migration(key, target):
            self._routes.on_role_changed(endpoint)
        return ()

    def _elsewhere(self, endpoint: EndpointId) -> Member | None:
        """What is known of an endpoint of another host; None: it is here, or nowhere."""
        member = self._ip_sets.member(endpoint)
        return member if member and member.host != self._host else None

    def _on_host_endpoint(self, key: ResourceKey, value: object | None) -> _Problems:
        endpoint = None
        if value is not None:
            endpoint = parse_host_endpoint(_typed(value, HostEndpoint))
        local = endpoint if endpoint and endpoint.host == self._host else None
        self._ip_sets.on_item(key, endpoint.labelled if endpoint else None)
        self._host_endpoints.on_endpoint(key.name, local)
        self._policies.on_endpoint(key.name, local.labelled if local else None)
        return ()

    def _on_network_set(self, key: ResourceKey, value: object | None) -> _Problems:
        labelled = None
        if value is not None:
            labelled = parse_network_set(key, _typed(value, NetworkSet))
        self._ip_sets.on_item(key, labelled)
        return ()

    def _on_global_network_set(self, key: ResourceKey, value: object | None) -> _Problems:
        labelled = None
        if value is not None:
            labelled = parse_global_network_set(_typed(value, GlobalNetworkSet))
        self._ip_sets.on_item(key, labelled)
        return ()

    def _on_endpoint_slice(self, key: ResourceKey, value: object | None) -> _Problems:
        served = None
        if value is not None:
            served = parse_endpoint_slice(key, _typed(value, KubernetesEndpointSlice))
        self._ip_sets.on_slice(key, served)
        return ()

    def _on_policy(self, key: ResourceKey, value: object | None) -> _Problems:
        parsed = None
        policy = PolicyId(key.kind, key.name, key.namespace)
        if isinstance(value, _POLICY_TYPES[key.kind]):
            parsed = parse_policy(policy, value.spec)
        elif value is not None:
            raise InvalidInput(f"a {type(value).__name__} where a {key.kind} belongs")
        self._policies.on_policy(policy, parsed)
        return parsed.problems if parsed else ()

    def _on_staged_policy(self, key: ResourceKey, value: object | None) -> _Problems:
        staged = parse_staged_policy(key, value) if value is not None else None
        policy = PolicyId(key.kind, key.name, key.namespace)
        self._policies.on_replacement(enforced_policy(policy), policy, staged is not None)
        self._policies.on_policy(policy, staged.parsed if staged else None)
        return staged.problems if staged else ()

    def _on_profile(self, key: ResourceKey, value: object | None) -> _Problems:
        parsed = parse_profile(_typed(value, Profile)) if value is not None else None
        labels = parsed.labels if parsed else {}
        self._ip_sets.on_profile_labels(key.name, labels)
        self._policies.on_profile_labels(key.name, labels)
        self._rules.on_rules(PolicyId(PROFILE_KIND, key.name), parsed.rules if parsed else None)
        return parsed.problems if parsed else ()

    def _on_tier(self, key: ResourceKey, value: object | None) -> _Problems:
        settings = None
        if value is not None:
            spec = _typed(value, Tier).spec
            settings = TierSettings(tier_order(key.name, spec.order), spec.default_action)
        self._policies.on_tier(key.name, settings)
        return ()

    def _on_node(self, key: ResourceKey, value: object | None) -> _Problems:
        host = parse_node(_typed(value, Node)) if value is not None else None
        self._topology.on_host(key.name, host)
        return ()

    def _on_bgp_configuration(self, key: ResourceKey, value: object | None) -> _Problems:
        if key.name == "default":  # hosts' own name no networks of services
            found = parse_service_networks(_typed(value, BGPConfiguration)) if value else None
            self._topology.on_service_networks(found or frozenset())
        return ()

    def _on_pool(self, key: ResourceKey, value: object | None) -> _Problems:
        pool = parse_pool(_typed(value, IPPool)) if value is not None else None
        self._topology.on_pool(key.name, pool)
        return ()

    def _on_affinity(self, key: AffinityKey, value: object | None) -> None:
        if key.virtual:
            return
        confirmed = (
            isinstance(value, BlockAffinity) and value.state == "confirmed" and not value.deleted
        )
        self._routes.on_affinity(key.cidr, intern(key.host), confirmed)


def _typed(value: object, expected: type[_T]) -> _T:
    if not isinstance(value, expected):
        raise InvalidInput(f"a {type(value).__name__} where a {expected.__name__} belongs")
    return value
