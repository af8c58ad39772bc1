"""The assembled graph through named states, in every order and grouping we can think of."""

import itertools
import random
from collections.abc import Callable, Iterator

import pytest
from msgspec.structs import replace
from tests.graph.dataplane import FakeDataplane, Objects
from tests.graph.describe import describe
from tests.graph.resources import State, allow, host_endpoint, node, policy, pool, tier, workload
from tests.graph.states import HOST, STATES, Named

from tortie.calc.graph import Graph
from tortie.desired.kinds import Kind
from tortie.lib.ip import parse_address
from tortie.model.endpoint import IPNAT, WorkloadEndpoint
from tortie.model.keys import Key
from tortie.model.policy import EntityRule

Update = tuple[Key, object | None]
Step = tuple[list[Update], State]
"""Updates, and the state that they lead to."""


def from_scratch(state: State) -> Objects:
    dataplane = FakeDataplane()
    graph = Graph(HOST, dataplane.emit)
    for key, value in state.items():
        graph.on_update(key, value)
    graph.flush()
    dataplane.check()
    return dataplane.objects


def told(text: str) -> list[str]:
    """The lines of an expectation; a line that begins in lower case but no word goes on."""
    words = (
        "set",
        "policy",
        "endpoint",
        "route",
        "pool",
        "host",
        "host-endpoint",
        "staged",
        "services",
    )
    lines: list[str] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        if line.split()[0] in words:
            lines.append(line)
        else:
            lines[-1] += f" {line}"
    return sorted(lines)


@pytest.mark.parametrize("named", STATES.values(), ids=STATES.keys())
def test_a_state_gives_what_it_must(named: Named) -> None:
    described = describe(from_scratch(named.state), named.sets)
    assert [line.rstrip() for line in described] == told(named.expected)


def changes(before: State, after: State) -> list[Update]:
    gone: list[Update] = [(key, None) for key in before if key not in after]
    return gone + [(key, value) for key, value in after.items() if before.get(key) != value]


def steps(states: list[State]) -> list[Step]:
    result: list[Step] = []
    before: State = {}
    for after in states:
        result.append((changes(before, after), after))
        before = after
    return result


def as_is(states: list[State]) -> list[Step]:
    return steps(states)


def keys_reversed(states: list[State]) -> list[Step]:
    return [(updates[::-1], state) for updates, state in steps(states)]


def states_reversed(states: list[State]) -> list[Step]:
    return steps(states[::-1])


def empties_inserted(states: list[State]) -> list[Step]:
    return steps([each for state in states for each in (state, {})])


def squashed(states: list[State]) -> list[Step]:
    """Everything at once: what was in between must leave no trace."""
    everything = [update for updates, _ in steps(states) for update in updates]
    return [(everything, states[-1])]


def split(states: list[State]) -> list[Step]:
    """Each update is a step."""
    result: list[Step] = []
    current: State = {}
    for updates, _ in steps(states):
        for key, value in updates:
            current = {k: v for k, v in current.items() if k != key}
            if value is not None:
                current[key] = value
            result.append(([(key, value)], current))
    return result


def repeated(states: list[State]) -> list[Step]:
    """Every object is told again at every step, as a full compare does."""
    return [(updates + list(state.items()), state) for updates, state in steps(states)]


def shuffled(states: list[State]) -> list[Step]:
    chance = random.Random(1)
    result = steps(chance.sample(states, len(states)))
    for updates, _ in result:
        chance.shuffle(updates)
    return result


EXPANDERS: list[Callable[[list[State]], list[Step]]] = [
    as_is,
    keys_reversed,
    states_reversed,
    empties_inserted,
    squashed,
    split,
    repeated,
    shuffled,
]


def flush_at_each_step(graph: Graph, updates: list[Update]) -> Iterator[None]:
    for key, value in updates:
        graph.on_update(key, value)
    yield


def flush_at_each_update(graph: Graph, updates: list[Update]) -> Iterator[None]:
    for key, value in updates:
        graph.on_update(key, value)
        yield
    yield


def flush_now_and_then(graph: Graph, updates: list[Update]) -> Iterator[None]:
    for position, (key, value) in enumerate(updates):
        graph.on_update(key, value)
        if position % 3 == 2:
            yield
    yield


FLUSHES = [flush_at_each_step, flush_at_each_update, flush_now_and_then]


@pytest.mark.parametrize("flushes", FLUSHES)
@pytest.mark.parametrize("expand", EXPANDERS)
def test_getting_there_by_any_way_is_the_same(
    expand: Callable[[list[State]], list[Step]],
    flushes: Callable[[Graph, list[Update]], Iterator[None]],
) -> None:
    dataplane = FakeDataplane()
    graph = Graph(HOST, dataplane.emit)
    for updates, state in expand([named.state for named in STATES.values()]):
        for _ in flushes(graph, updates):
            graph.flush()
            dataplane.check()
        assert dataplane.objects == from_scratch(state)


@pytest.mark.parametrize("named", STATES.values(), ids=STATES.keys())
def test_a_restart_tells_the_same_whatever_comes_first(named: Named) -> None:
    expected = from_scratch(named.state)
    chance = random.Random(2)
    for _ in range(5):
        entries = chance.sample(list(named.state.items()), len(named.state))
        assert from_scratch(dict(entries)) == expected


def test_nothing_is_told_before_the_first_flush() -> None:
    dataplane = FakeDataplane()
    graph = Graph(HOST, dataplane.emit)
    for named in STATES.values():
        for key, value in named.state.items():
            graph.on_update(key, value)
    assert dataplane.calls == []


def test_a_policy_may_come_to_act_elsewhere() -> None:
    endpoint = host_endpoint("eth0", labels={"x": "1"}, host=HOST, interface="eth0")
    places: list[dict[str, bool]] = [
        {},
        {"apply_on_forward": True},
        {"apply_on_forward": True, "do_not_track": True},
        {"apply_on_forward": True, "pre_dnat": True},
    ]
    dataplane = FakeDataplane()
    graph = Graph(HOST, dataplane.emit)
    graph.on_update(*endpoint)
    for before, after in itertools.permutations(places, 2):
        for place in (before, after):
            entry = policy("p", selector="has(x)", types=("Ingress",), **place)
            graph.on_update(*entry)
            graph.flush()
            dataplane.check()
            assert dataplane.objects == from_scratch(dict([endpoint, entry]))


def test_going_away_and_coming_back_between_flushes_is_not_told() -> None:
    state = STATES["network sets, host endpoints and namespaces"].state
    dataplane = FakeDataplane()
    graph = Graph(HOST, dataplane.emit)
    for key, value in state.items():
        graph.on_update(key, value)
    graph.flush()
    dataplane.check()
    for key in state:
        graph.on_update(key, None)
    for key, value in reversed(state.items()):
        graph.on_update(key, value)
    graph.flush()
    assert dataplane.calls == []


def test_problems_say_what_is_wrong_while_it_is() -> None:
    state = STATES["what does not parse is absent"].state
    graph = Graph(HOST, FakeDataplane().emit)
    for key, value in state.items():
        graph.on_update(key, value)
    problems = {str(key): "; ".join(texts) for key, texts in graph.problems.items()}
    assert set(problems) == {
        "Profile(kns.shop)",
        "WorkloadEndpoint(shop/db)",
        "GlobalNetworkPolicy(bad-selector)",
        "GlobalNetworkPolicy(global-selector)",
        "GlobalNetworkPolicy(bad-port)",
        "GlobalNetworkPolicy(bad-protocol)",
        "GlobalNetworkPolicy(bad-match)",
        "GlobalNetworkSet(s)",
        "HostEndpoint(e)",
        "IPPool(p)",
        "Node(h2)",
    }
    assert "rule 1" in problems["Profile(kns.shop)"]
    assert "nonsense" in problems["Profile(kns.shop)"]
    assert "column 5" in problems["GlobalNetworkPolicy(bad-selector)"]
    for key in state:
        graph.on_update(key, None)
    assert not graph.problems


def test_what_is_not_enforced_as_written_is_reported() -> None:
    state = STATES["what cannot be enforced never widens"].state
    graph = Graph(HOST, FakeDataplane().emit)
    for key, value in state.items():
        graph.on_update(key, value)
    [texts] = graph.problems.values()
    assert [text.split(":")[0] for text in texts] == ["ingress rule 1", "ingress rule 2"]


def test_statistics_count_what_is_there() -> None:
    graph = Graph(HOST, FakeDataplane().emit)
    for key, value in STATES["routes"].state.items():
        graph.on_update(key, value)
    graph.flush()
    statistics = graph.statistics()
    assert statistics.endpoints.endpoint_count == 2
    assert statistics.sets.item_count == 7
    assert statistics.routes.block_count == 8
    assert statistics.routes.remote_count == 6
    assert statistics.sequencer.pending_count == 0


def test_a_floating_address_leads_to_its_host_and_is_in_no_set() -> None:
    """Here and elsewhere, as far as a pool has it."""
    key, endpoint = workload("shop/web", HOST, "10.0.0.1", labels={"app": "web"})
    assert isinstance(endpoint, WorkloadEndpoint)
    nat = IPNAT(internal_ip="10.0.0.1", external_ip="10.9.0.9")
    endpoint = replace(endpoint, spec=replace(endpoint.spec, ip_nats=(nat,)))
    other_key, other = workload("shop/other", "h2", "10.0.1.1", labels={"app": "web"})
    assert isinstance(other, WorkloadEndpoint)
    far = IPNAT(internal_ip="10.0.1.1", external_ip="10.9.0.8")
    other = replace(other, spec=replace(other.spec, ip_nats=(far,)))
    entries = [
        (key, endpoint),
        (other_key, other),
        node("h2", "192.0.2.2/24"),
        pool("floating", "10.9.0.0/24"),
        tier("default", 1000000.0),
        policy("p", selector="all()", ingress=(allow(EntityRule(selector="app == 'web'")),)),
    ]
    for enabled in (False, True):
        dataplane = FakeDataplane()
        graph = Graph(HOST, dataplane.emit, floating_addresses=enabled)
        for entry_key, value in entries:
            graph.on_update(entry_key, value)
        graph.flush()
        dataplane.check()
        routes = dataplane.of(Kind.ROUTE)
        here, there = (parse_address(text) for text in ("10.9.0.9", "10.9.0.8"))
        members = {one for _, one in dataplane.of(Kind.IP_SET_MEMBER)}
        assert members
        assert not members & {here, there}
        if not enabled:
            assert not routes.keys() & {here, there}
            continue
        assert routes[here].interface == "cali-web"
        assert routes[here].borrowed
        assert routes[there].host == "h2"
        graph.on_update(key, None)
        graph.on_update(other_key, None)
        graph.flush()
        dataplane.check()
        assert not dataplane.of(Kind.ROUTE).keys() & {here, there}
