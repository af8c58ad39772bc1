"""A dataplane that holds what it is told and refuses what a real one could not do in that order."""

from collections.abc import Hashable
from typing import Any

from msgspec.structs import astuple

from tortie.desired.endpoint import Endpoint, EndpointId, Route, RouteType
from tortie.desired.host_endpoint import HostEndpoint
from tortie.desired.kinds import Kind
from tortie.desired.policy import AddressPort, IPSetType, Policy, PolicyId, PolicyList
from tortie.lib.ip import Network

Objects = dict[tuple[Kind, Hashable], object]


class FakeDataplane:
    """Asserts at each call that every reference resolves; `check` asserts what holds at rest."""

    def __init__(self) -> None:
        self.objects: Objects = {}
        self.calls: list[tuple[Kind, Hashable, object | None]] = []
        """Since the last `check`."""

    def emit(self, kind: Kind, name: Hashable, value: object | None) -> None:
        assert (kind, name) not in [call[:2] for call in self.calls[-3:]], "told twice"
        self.calls.append((kind, name, value))
        if value is None:
            assert (kind, name) in self.objects, f"removed though never told: {kind} {name}"
            del self.objects[kind, name]
            self._assert_unreferenced(kind, name)
            return
        assert self.objects.get((kind, name)) != value, f"told though unchanged: {kind} {name}"
        self.objects[kind, name] = value
        self._assert_resolves(kind, name, value)

    def of(self, kind: Kind) -> dict[Any, Any]:
        return {name: value for (of, name), value in self.objects.items() if of is kind}

    def check(self) -> None:
        """What must hold after a flush."""
        told = [call[:2] for call in self.calls]
        assert len(told) == len(set(told)), "an object was told twice in one flush"
        kinds = [kind for kind, _, value in self.calls if value is not None]
        assert kinds == sorted(kinds), "additions out of order"
        gone = [kind for kind, _, value in self.calls if value is None]
        assert gone == sorted(gone, reverse=True), "removals out of order"
        assert all(v is None for _, _, v in self.calls[len(kinds) :]), "an addition after removals"
        self.calls.clear()
        self._assert_nothing_idle()
        self._assert_nothing_shared()

    def _assert_resolves(self, kind: Kind, name: Any, value: Any) -> None:
        match kind:
            case Kind.IP_SET_MEMBER:
                set_id, member = name
                expected = {IPSetType.NET: Network, IPSetType.ADDRESS_PORT: AddressPort}
                assert isinstance(member, expected[self.of(Kind.IP_SET)[set_id]])
            case Kind.POLICY | Kind.STAGED_POLICY:
                assert name.staged == (kind is Kind.STAGED_POLICY)
                nets, ports = _set_ids(value)
                assert {self.objects.get((Kind.IP_SET, s)) for s in nets} <= {IPSetType.NET}
                assert {self.objects.get((Kind.IP_SET, s)) for s in ports} <= {
                    IPSetType.ADDRESS_PORT
                }
            case Kind.ENDPOINT | Kind.HOST_ENDPOINT | Kind.STAGED_ENDPOINT:
                for policy in _policies(value):
                    of = Kind.STAGED_POLICY if policy.staged else Kind.POLICY
                    assert kind is Kind.STAGED_ENDPOINT or not policy.staged
                    assert (of, policy) in self.objects, f"{name} before {policy}"
            case Kind.ROUTE:
                self._assert_route(name, value)

    def _assert_route(self, destination: Network, route: Route) -> None:
        if route.type is RouteType.LOCAL_WORKLOAD:
            there = [e for e in self.of(Kind.ENDPOINT).values() if e.interface == route.interface]
            assert any(
                destination in (*endpoint.networks, *(one.external for one in endpoint.floating))
                for endpoint in there
            )

    def _assert_unreferenced(self, kind: Kind, name: Any) -> None:
        if kind is Kind.IP_SET:
            assert not [set_id for set_id, _ in self.of(Kind.IP_SET_MEMBER) if set_id == name]
            for policy in self._all_policies():
                assert name not in {*_set_ids(policy)[0], *_set_ids(policy)[1]}
        elif kind in (Kind.POLICY, Kind.STAGED_POLICY):
            for of in (Kind.ENDPOINT, Kind.HOST_ENDPOINT, Kind.STAGED_ENDPOINT):
                for endpoint in self.of(of).values():
                    assert name not in _policies(endpoint)

    def _assert_nothing_idle(self) -> None:
        referenced: set[str] = set()
        for policy in self._all_policies():
            referenced.update(*_set_ids(policy))
        assert self.of(Kind.IP_SET).keys() == referenced

    def _all_policies(self) -> list[Policy]:
        return [*self.of(Kind.POLICY).values(), *self.of(Kind.STAGED_POLICY).values()]

    def _assert_nothing_shared(self) -> None:
        endpoints: dict[EndpointId, Endpoint] = self.of(Kind.ENDPOINT)
        interfaces = [e.interface for e in endpoints.values() if e.interface]
        addresses = [network for e in endpoints.values() for network in e.networks]
        assert len(interfaces) == len(set(interfaces))
        assert len(addresses) == len(set(addresses))
        for endpoint in endpoints.values():
            assert endpoint.interface or not endpoint.networks
            for tier in (*endpoint.ingress.tiers, *endpoint.egress.tiers):
                assert tier.policies


def _set_ids(policy: Policy) -> tuple[set[str], set[str]]:
    sides = [s for r in (*policy.ingress, *policy.egress) for s in (r.source, r.destination)]
    nets = {set_id for side in sides for set_id in (*side.sets, *side.not_sets)}
    ports = {set_id for side in sides for set_id in (*side.named_ports, *side.not_named_ports)}
    return nets, ports


def _policies(endpoint: Endpoint | HostEndpoint) -> set[PolicyId]:
    fields = astuple(endpoint)
    lists = [field for field in fields if isinstance(field, PolicyList)]
    return {
        policy
        for policy_list in lists
        for policies in (*(tier.policies for tier in policy_list.tiers), policy_list.profiles)
        for policy in policies
    }
