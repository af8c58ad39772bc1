"""This host's workload endpoints as the dataplane needs them.

Two endpoints may claim one address or one interface, by mistake or in malice. The lowest
`EndpointId` of the claimants holds it, whoever came first. An endpoint that does not hold all
that it claims, or has no interface, is closed: it keeps an entry, without addresses and with
empty lists, and names its interface only if it holds that.
"""

from collections.abc import Iterator
from typing import NamedTuple

from tortie.calc.active_policies import ActivePolicies
from tortie.calc.active_rules import ActiveRules, profiles_of
from tortie.calc.claims import Claims
from tortie.calc.routes import Routes
from tortie.calc.sequencer import Sequencer
from tortie.calc.validation import Workload
from tortie.desired.endpoint import Endpoint, EndpointId
from tortie.desired.kinds import Kind
from tortie.desired.policy import PolicyId, PolicyList
from tortie.lib.ip import Network

_Lists = tuple[PolicyList, PolicyList]
_Shared = dict[tuple[frozenset[PolicyId], tuple[PolicyId, ...]], _Lists]
"""By policies and profiles."""


class LocalEndpointStatistics(NamedTuple):
    endpoint_count: int
    resolution_count: int
    """How often what an endpoint needs was worked out, since the start."""


class LocalEndpoints:
    """Changes are noted as they come and take effect in `resolve`."""

    def __init__(self, sequencer: Sequencer, rules: ActiveRules, routes: Routes) -> None:
        self._sequencer = sequencer
        self._rules = rules
        self._routes = routes
        self._workloads: dict[EndpointId, Workload] = {}
        self._claims: Claims[str | Network, EndpointId] = Claims()
        self._changed: dict[EndpointId, None] = {}
        self._resolution_count = 0

    def on_endpoint(self, endpoint: EndpointId, workload: Workload | None) -> None:
        """Add or replace a local endpoint; None: it is gone, or lives elsewhere now."""
        before = self._workloads.get(endpoint)
        if before == workload:
            return
        for thing in _claimed(before):
            self._claims.discard(thing, endpoint)
            self._changed.update(dict.fromkeys(self._claims.claimants(thing)))
        for thing in _claimed(workload):
            self._claims.add(thing, endpoint)
            self._changed.update(dict.fromkeys(self._claims.claimants(thing)))
        for profile in profiles_of(workload):
            self._rules.want(profile)
        for profile in profiles_of(before):
            self._rules.unwant(profile)
        if workload is None:
            del self._workloads[endpoint]
        else:
            self._workloads[endpoint] = workload
        self._changed[endpoint] = None

    def on_lists_changed(self, endpoint: EndpointId) -> None:
        """Its policies may have changed, or their order."""
        self._changed[endpoint] = None

    def resolve(self, policies: ActivePolicies) -> None:
        """Work out what changed; replicas share their lists."""
        changed, self._changed = self._changed, {}
        self._resolution_count += len(changed)
        shared: _Shared = {}
        for endpoint in changed:
            workload = self._workloads.get(endpoint)
            if workload is None or not self._is_open(endpoint, workload):
                self._routes.on_local_endpoint(endpoint, "", ())
                closed = self._closed(endpoint, workload) if workload else None
                self._sequencer.put(Kind.ENDPOINT, endpoint, closed)
                self._sequencer.put(Kind.STAGED_ENDPOINT, endpoint, None)
                continue
            self._routes.on_local_endpoint(endpoint, workload.interface, workload.destinations)
            selecting, staged = policies.policies_of(endpoint), None
            now = _open(workload, selecting.enforced, policies, shared)
            if selecting.differ:
                staged = _open(workload, selecting.staged, policies, shared)
            self._sequencer.put(Kind.ENDPOINT, endpoint, now)
            self._sequencer.put(Kind.STAGED_ENDPOINT, endpoint, staged)

    def statistics(self) -> LocalEndpointStatistics:
        return LocalEndpointStatistics(len(self._workloads), self._resolution_count)

    def _is_open(self, endpoint: EndpointId, workload: Workload) -> bool:
        return bool(workload.interface) and all(
            self._claims.holder(thing) == endpoint for thing in _claimed(workload)
        )

    def _closed(self, endpoint: EndpointId, workload: Workload) -> Endpoint:
        holds_interface = self._claims.holder(workload.interface) == endpoint
        return Endpoint(workload.interface if holds_interface else "", (), workload.mac)


def _open(
    workload: Workload, selecting: frozenset[PolicyId], policies: ActivePolicies, shared: _Shared
) -> Endpoint:
    key = selecting, profiles_of(workload)
    if key not in shared:
        shared[key] = policies.lists(*key)
    ingress, egress = shared[key]
    return Endpoint(
        workload.interface,
        workload.networks,
        workload.mac,
        ingress,
        egress,
        workload.floating,
        workload.limits,
        workload.sources,
        workload.dhcp,
    )


def _claimed(workload: Workload | None) -> Iterator[str | Network]:
    if workload is None:
        return
    if workload.interface:
        yield workload.interface
    yield from workload.networks
