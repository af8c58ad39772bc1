"""The cost of a change follows the change, not the size of the cluster."""

from collections.abc import Hashable

import pytest
from tests.graph.resources import (
    Entry,
    affinity,
    allow,
    endpoint_slice,
    policy,
    pool,
    staged,
    tier,
    workload,
)
from tests.graph.states import HOST, to

from tortie.calc.graph import Graph, GraphStatistics
from tortie.desired.kinds import Kind
from tortie.desired.policy import PolicyId
from tortie.model.policy import ServiceMatch

ENDPOINTS, SETS, LOCAL = 2000, 200, 50

Told = list[tuple[Kind, Hashable, object | None]]


def endpoint(number: int, app: str) -> Entry:
    host = HOST if number < LOCAL else f"far-{number // 64}"
    address = f"10.0.{number // 64}.{number % 64}/32"
    return workload(f"n/{number}", host, address, labels={"app": app}, interface=f"cali{number}")


def rule_policy(number: int, source: str, order: float | None = None) -> Entry:
    return policy(
        f"n/{number}",
        order=order,
        selector=f"app == 'a{number}'",
        ingress=(allow(to(selector=f"app == '{source}'")),),
    )


class Cluster:
    def __init__(self) -> None:
        self.told: Told = []
        self.graph = Graph(HOST, lambda *call: self.told.append(call))
        self.put(tier("default", 1.0), pool("p", "10.0.0.0/8"))
        self.put(*(endpoint(number, f"a{number % SETS}") for number in range(ENDPOINTS)))
        self.put(*(rule_policy(number, f"a{number + 1}") for number in range(SETS)))
        self.put(*(affinity(f"far-{n}", f"10.0.{n}.0/26") for n in range(ENDPOINTS // 64 + 1)))
        self.before: GraphStatistics = self.graph.statistics()
        self.told.clear()

    def put(self, *entries: Entry) -> Told:
        self.told.clear()
        self.before = self.graph.statistics()
        for key, value in entries:
            self.graph.on_update(key, value)
        self.graph.flush()
        return list(self.told)

    def spent(self) -> tuple[int, int, int]:
        """Evaluations for sets, for policies, and endpoints resolved, in the last `put`."""
        now, before = self.graph.statistics(), self.before
        return (
            now.sets.evaluation_count - before.sets.evaluation_count,
            now.policies.evaluation_count - before.policies.evaluation_count,
            now.endpoints.resolution_count - before.endpoints.resolution_count,
        )


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def test_a_label_elsewhere_touches_the_sets_it_leaves_and_joins(cluster: Cluster) -> None:
    told = cluster.put(endpoint(1007, "a11"))
    assert sorted(kind for kind, _, _ in told) == [Kind.IP_SET_MEMBER, Kind.IP_SET_MEMBER]
    assert sorted(value is None for _, _, value in told) == [False, True]
    sets, policies, resolved = cluster.spent()
    assert sets <= 3
    assert (policies, resolved) == (0, 0)


def test_a_slice_touches_the_sets_of_its_service(cluster: Cluster) -> None:
    services = [f"s{number}" for number in range(100)]
    cluster.put(*(endpoint_slice(f"n/{name}", name, "10.9.0.1") for name in services))
    wanted = tuple(allow(to(), to(services=ServiceMatch(name=name))) for name in services)
    cluster.put(policy("n/served", selector="app == 'a1'", types=("Egress",), egress=wanted))
    told = cluster.put(endpoint_slice("n/s7", "s7", "10.9.0.1", "10.9.0.2"))
    assert [kind for kind, _, _ in told] == [Kind.IP_SET_MEMBER]
    assert cluster.spent() == (0, 0, 0)
    assert cluster.put(endpoint_slice("n/unused", "unused", "10.9.0.3")) == []


def test_a_label_elsewhere_that_no_set_looks_at_costs_nothing(cluster: Cluster) -> None:
    key, value = workload("n/1500", "far-23", "10.0.23.28/32", labels={"app": "a100", "v": "2"})
    assert cluster.put((key, value)) == []
    assert cluster.spent()[1:] == (0, 0)


def test_an_edit_of_rules_leaves_endpoints_alone(cluster: Cluster) -> None:
    told = cluster.put(rule_policy(3, "a5"))
    assert not {Kind.ENDPOINT, Kind.ROUTE} & {kind for kind, _, _ in told}
    assert [name for kind, name, _ in told if kind is Kind.POLICY] == [
        PolicyId("NetworkPolicy", "3", "n")
    ]
    assert cluster.spent() == (0, 0, 0)


def test_an_order_concerns_the_endpoints_selected(cluster: Cluster) -> None:
    cluster.put(rule_policy(4, "a5", order=7.0))
    assert cluster.spent() == (0, 0, 1)


def test_a_tier_concerns_the_endpoints_with_policies_of_it(cluster: Cluster) -> None:
    cluster.put(tier("unused", 1.0))
    assert cluster.spent() == (0, 0, 0)
    cluster.put(tier("default", 2.0))
    assert cluster.spent() == (0, 0, LOCAL)


def test_a_block_concerns_the_addresses_in_it(cluster: Cluster) -> None:
    told = cluster.put(affinity("elsewhere", "10.0.20.0/26"))
    routes = {name for kind, name, _ in told if kind is Kind.ROUTE}
    assert len(routes) == len(told) == 65  # the block, and what far-20 still has in it


def test_what_is_told_again_costs_no_work_downstream(cluster: Cluster) -> None:
    unchanged = (
        endpoint(7, "a7"),
        rule_policy(8, "a9"),
        tier("default", 1.0),
        staged("n/9", "Delete"),
    )
    cluster.put(unchanged[-1])
    assert cluster.spent() == (0, 0, 1)
    assert cluster.put(*unchanged) == []
    assert cluster.spent() == (0, 0, 0)
