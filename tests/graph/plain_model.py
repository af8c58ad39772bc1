"""Desired state by brute force: every object looked at for every question, nothing remembered.

It shares the parsing with calc (`validation`, `rule_scanner`, which have tests of their own), but
none of its bookkeeping, so that agreement says something about that.
"""

from collections.abc import Iterator
from typing import Literal

from tests.graph.dataplane import Objects
from tests.graph.resources import State

from tortie.calc import validation
from tortie.calc.rule_scanner import SetSpec
from tortie.calc.staged_policies import enforced_policy, parse_staged_policy
from tortie.calc.validation import ActivePolicy, Labelled, ParsedPolicy, Workload
from tortie.desired.endpoint import Endpoint, EndpointId, Host, Route, RouteType
from tortie.desired.host_endpoint import HostEndpoint as DesiredHostEndpoint
from tortie.desired.kinds import Kind
from tortie.desired.policy import (
    AddressPort,
    IPSetType,
    Policy,
    PolicyId,
    PolicyList,
    Rule,
    TierPolicies,
)
from tortie.lib.ip import Network
from tortie.model.endpoint import HostEndpoint, WorkloadEndpoint
from tortie.model.endpoint_slice import KubernetesEndpointSlice
from tortie.model.ipam import BlockAffinity
from tortie.model.keys import AffinityKey, ResourceKey
from tortie.model.metadata import Resource
from tortie.model.network_set import GlobalNetworkSet, NetworkSet
from tortie.model.node import IPPool, Node
from tortie.model.policy import (
    Direction,
    GlobalNetworkPolicy,
    NetworkPolicy,
    Profile,
    Tier,
)


class PlainModel:
    """One state; ask `objects`."""

    def __init__(self, host: str, state: State) -> None:
        self.host = host
        self.workloads: dict[EndpointId, Workload] = {}
        self.interfaces: dict[str, validation.HostInterface] = {}
        self.labelled: list[Labelled] = []
        self.slices: list[validation.Served] = []
        self.replaced: set[PolicyId] = set()
        self.policies: dict[PolicyId, ParsedPolicy] = {}
        self.profiles: dict[str, validation.ParsedProfile] = {}
        self.tiers: dict[str, Tier] = {}
        self.hosts: dict[str, Host] = {}
        self.pools: dict[str, validation.ParsedPool] = {}
        self.blocks: dict[Network, str] = {}
        for key, value in state.items():
            if isinstance(key, ResourceKey):
                self._read(key, value)
            elif isinstance(key, AffinityKey) and value == BlockAffinity(state="confirmed"):
                self.blocks[key.cidr] = min(key.host, self.blocks.get(key.cidr, key.host))
        self.local = {e: w for e, w in self.workloads.items() if w.host == host}
        self.labelled += [workload.labelled for workload in self.workloads.values()]

    def objects(self) -> Objects:
        objects: Objects = {}
        for name in sorted(self.pools, reverse=True):  # the first by name is written last
            objects[Kind.POOL, self.pools[name].network] = self.pools[name].pool
        for name, host in self.hosts.items():
            objects[Kind.HOST, name] = host
        for policy, active in self._active().items():
            objects[Kind.STAGED_POLICY if policy.staged else Kind.POLICY, policy] = active.policy
            for set_id, spec in active.sets.items():
                objects[Kind.IP_SET, set_id] = spec.type
                for member in self._members(spec):
                    objects[Kind.IP_SET_MEMBER, (set_id, member)] = True
        for endpoint in self.local:
            now, then = self._endpoint(endpoint), self._endpoint(endpoint, staged=True)
            objects[Kind.ENDPOINT, endpoint] = now
            if now != then:
                objects[Kind.STAGED_ENDPOINT, endpoint] = then
        for name in self.interfaces:
            now_host = self._host_endpoint(name, staged=False)
            then_host = self._host_endpoint(name, staged=True)
            objects[Kind.HOST_ENDPOINT, name] = now_host
            if now_host != then_host:
                objects[Kind.STAGED_ENDPOINT, name] = then_host
        for destination in {
            *self.blocks,
            *(n for w in self.workloads.values() for n in w.networks),
        }:
            if route := self._route(destination):
                objects[Kind.ROUTE, destination] = route
        return objects

    def _read(self, key: ResourceKey, value: object) -> None:
        match value:
            case WorkloadEndpoint():
                workload = validation.parse_workload_endpoint(key, value)
                self.workloads[EndpointId(key.namespace, key.name)] = workload
            case HostEndpoint():
                interface = validation.parse_host_endpoint(value)
                self.labelled.append(interface.labelled)
                if interface.host == self.host:
                    self.interfaces[key.name] = interface
            case KubernetesEndpointSlice():
                self.slices.append(validation.parse_endpoint_slice(key, value))
            case NetworkSet():
                self.labelled.append(validation.parse_network_set(key, value))
            case GlobalNetworkSet():
                self.labelled.append(validation.parse_global_network_set(value))
            case NetworkPolicy() | GlobalNetworkPolicy():
                policy = PolicyId(key.kind, key.name, key.namespace)
                self.policies[policy] = validation.parse_policy(policy, value.spec)
            case Resource() if key.kind.startswith("Staged"):
                policy = PolicyId(key.kind, key.name, key.namespace)
                if staged := parse_staged_policy(key, value):
                    self.replaced.add(enforced_policy(policy))
                    if staged.parsed:
                        self.policies[policy] = staged.parsed
            case Profile():
                self.profiles[key.name] = validation.parse_profile(value)
            case Tier():
                self.tiers[key.name] = value
            case Node():
                self.hosts[key.name] = validation.parse_node(value)
            case IPPool():
                self.pools[key.name] = validation.parse_pool(value)

    def _labels(self, labelled: Labelled) -> dict[str, str]:
        labels: dict[str, str] = {}
        for parent in reversed(labelled.parents):
            if profile := self.profiles.get(parent):
                labels |= profile.labels
        return labels | labelled.labels

    def _selecting(self, labelled: Labelled) -> dict[PolicyId, ParsedPolicy]:
        labels = self._labels(labelled)
        return {p: parsed for p, parsed in self.policies.items() if parsed.selector.matches(labels)}

    def _applying(self, labelled: Labelled, *, staged: bool) -> list[ParsedPolicy]:
        selecting = self._selecting(labelled)
        if staged:
            return [parsed for p, parsed in selecting.items() if p not in self.replaced]
        return [parsed for p, parsed in selecting.items() if not p.staged]

    def _active(self) -> dict[PolicyId, ActivePolicy]:
        active = {}
        here: list[Workload | validation.HostInterface] = []
        here += self.local.values()
        here += self.interfaces.values()
        for local in here:
            for policy, parsed in self._selecting(local.labelled).items():
                active[policy] = parsed.rules.active()
            for name in local.profiles:
                active[PolicyId("Profile", name)] = self._profile(name)
        return active

    def _profile(self, name: str) -> ActivePolicy:
        if name == "projectcalico-default-allow":
            return ActivePolicy(Policy((Rule("Allow"),), (Rule("Allow"),)), {})
        if name in self.profiles:
            return self.profiles[name].rules.active()
        return ActivePolicy(Policy((Rule("Deny"),), (Rule("Deny"),)), {})

    def _members(self, spec: SetSpec) -> Iterator[Network | AddressPort]:
        for served in self.slices:
            if served.service == spec.service:
                networks = served.member.networks
                if spec.type is IPSetType.NET:
                    yield from networks
                for port in served.member.ports if spec.type is not IPSetType.NET else ():
                    yield from (AddressPort(n, port.protocol, port.port) for n in networks)
        for labelled in self.labelled:
            if spec.selector is None or not spec.selector.matches(self._labels(labelled)):
                continue
            if spec.type is IPSetType.NET:
                yield from labelled.member.networks
            else:
                for port in labelled.member.ports:
                    if (port.name, port.protocol) == (spec.port_name, spec.protocol):
                        for network in labelled.member.networks:
                            yield AddressPort(network, port.protocol, port.port)

    def _endpoint(self, endpoint: EndpointId, *, staged: bool = False) -> Endpoint:
        workload = self.local[endpoint]
        lower = [other for e, other in self.local.items() if e < endpoint]
        interface_taken = any(other.interface == workload.interface for other in lower)
        address_taken = any(set(other.networks) & set(workload.networks) for other in lower)
        if interface_taken or address_taken or not workload.interface:
            return Endpoint("" if interface_taken else workload.interface, (), workload.mac)
        applying = self._applying(workload.labelled, staged=staged)
        return Endpoint(
            workload.interface,
            workload.networks,
            workload.mac,
            self._list("Ingress", applying, workload.profiles),
            self._list("Egress", applying, workload.profiles),
        )

    def _host_endpoint(self, name: str, *, staged: bool) -> DesiredHostEndpoint:
        interface = self.interfaces[name]
        applying = self._applying(interface.labelled, staged=staged)
        normal = [one for one in applying if one.place == "normal"]
        forward = [one for one in normal if one.on_forward]
        untracked = [one for one in applying if one.place == "untracked"]
        pre_dnat = [one for one in applying if one.place == "pre-dnat"]
        return DesiredHostEndpoint(
            interface.interface,
            () if interface.interface else interface.networks,
            self._list("Ingress", normal, interface.profiles),
            self._list("Egress", normal, interface.profiles),
            self._list("Ingress", forward, ()),
            self._list("Egress", forward, ()),
            self._list("Ingress", untracked, (), end="Pass"),
            self._list("Egress", untracked, (), end="Pass"),
            self._list("Ingress", pre_dnat, (), end="Pass"),
        )

    def _list(
        self,
        direction: Direction,
        policies: list[ParsedPolicy],
        profile_names: tuple[str, ...],
        end: Literal["Pass"] | None = None,
    ) -> PolicyList:
        applying = [parsed for parsed in policies if direction in parsed.directions]
        profiles = tuple(PolicyId("Profile", name) for name in profile_names)
        names = sorted({parsed.tier for parsed in applying}, key=self._tier_order)
        tiers = []
        for name in names:
            members = [parsed for parsed in applying if parsed.tier == name]
            stored = self.tiers.get(name)
            action = end or (stored.spec.default_action if stored else "Deny")
            members.sort(key=lambda parsed: (parsed.order, parsed.policy))
            ids = tuple(parsed.policy for parsed in members)
            tiers.append(TierPolicies(name, action, ids))
            leaves = action == "Pass" or any(direction in parsed.passes for parsed in members)
        return PolicyList(tuple(tiers), profiles if not tiers or leaves else ())

    def _tier_order(self, name: str) -> tuple[bool, float, str]:
        stored = self.tiers.get(name)
        order = stored.spec.order if stored else None
        return stored is None, float("inf") if order is None else order, name

    def _route(self, destination: Network) -> Route | None:
        around = [block for block in self.blocks if block.contains(destination)]
        owner = self.blocks[max(around, key=lambda block: block.length)] if around else ""
        for endpoint in self.local:
            entry = self._endpoint(endpoint)
            if destination in entry.networks:
                return Route(RouteType.LOCAL_WORKLOAD, entry.interface, owner != self.host)
        claimants = [
            (endpoint, workload.host)
            for endpoint, workload in self.workloads.items()
            if endpoint not in self.local and destination in workload.networks
        ]
        if claimants and min(claimants)[1] not in ("", owner):
            return self._via(min(claimants)[1], destination)
        if destination not in self.blocks:
            return None
        if owner == self.host:
            return Route(RouteType.LOCAL_BLOCK)
        return self._via(owner, destination)

    def _via(self, host: str, destination: Network) -> Route | None:
        if not any(pool.network.contains(destination) for pool in self.pools.values()):
            return None
        address = self.hosts.get(host, Host())
        gateway = address.ipv4 if destination.family == 4 else address.ipv6
        return Route(RouteType.REMOTE, host=host, gateway=gateway)
