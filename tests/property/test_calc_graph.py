"""Any updates, in any order, with flushes anywhere: always what the current state alone says."""

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.graph.dataplane import FakeDataplane
from tests.graph.plain_model import PlainModel
from tests.graph.resources import (
    Entry,
    State,
    affinity,
    endpoint_slice,
    host_endpoint,
    network_set,
    node,
    policy,
    pool,
    profile,
    staged,
    tier,
    workload,
)
from tests.graph.states import HOST

from tortie.calc.graph import Graph
from tortie.model.keys import HandleKey, ResourceKey
from tortie.model.policy import EntityRule, Rule, ServiceAccountMatch, ServiceMatch

hosts = st.sampled_from(["h0", "h1", "h1", "h2", ""])
namespaces = st.sampled_from(["red", "blue"])
names = st.sampled_from(["a", "b", "c"])
paths = st.builds("{}/{}".format, namespaces, names)
labels = st.dictionaries(st.sampled_from("xy"), st.sampled_from("12"), max_size=2)
addresses = st.sampled_from(
    ["10.0.0.1", "10.0.0.2", "10.0.0.65", "10.0.0.66", "10.0.1.1", "fd00::1", "fd00::41"]
)
networks = st.one_of(addresses, st.sampled_from(["10.0.0.0/24", "10.0.0.0/8", "fd00::/64"]))
selectors = st.sampled_from(
    ["all()", "x == '1'", "x == '2'", "has(y)", "!has(y)", "x == '1' && y == '2'", "x != '1'"]
)
namespace_selectors = st.sampled_from(["", "", "all()", "global()", "x == '1'", "!has(y)"])
profile_names = st.sampled_from(["kns.red", "kns.blue", "ksa.red.z", "projectcalico-default-allow"])
protocols = st.sampled_from(["TCP", "UDP"])
orders = st.sampled_from([None, 1.0, 2.0])


def tuples(of: st.SearchStrategy[object], most: int) -> st.SearchStrategy[tuple[object, ...]]:
    return st.lists(of, max_size=most, unique=True).map(tuple)


services = st.builds(
    ServiceMatch, name=st.sampled_from(["a", "b"]), namespace=st.sampled_from(["", "red"])
)
plain_entities = st.builds(
    EntityRule,
    nets=st.sampled_from([(), (), ("10.0.0.0/8",)]),
    selector=st.one_of(st.just(""), selectors),
    not_selector=st.one_of(st.just(""), st.just(""), selectors),
    namespace_selector=namespace_selectors,
    ports=st.sampled_from([(), (), (80,), ("http",), ("http", 80)]),
    not_ports=st.sampled_from([(), (), ("http",)]),
    service_accounts=st.sampled_from([None, None, ServiceAccountMatch(names=("z",))]),
)
entities = st.one_of(
    plain_entities,
    plain_entities,
    plain_entities,
    st.builds(EntityRule, services=services, not_ports=st.sampled_from([(), ("http",)])),
)
rules = st.builds(
    Rule,
    action=st.sampled_from(["Allow", "Deny", "Pass", "Log"]),
    protocol=protocols,
    source=entities,
    destination=entities,
)
rule_lists = st.lists(rules, max_size=2).map(tuple)
ports = st.lists(st.tuples(st.just("http"), protocols, st.sampled_from([80, 81])), max_size=2)
specs = st.fixed_dictionaries(
    {
        "tier": st.sampled_from(["default", "t"]),
        "order": orders,
        "selector": selectors,
        "types": st.sampled_from([(), ("Ingress",), ("Egress",), ("Ingress", "Egress")]),
        "ingress": rule_lists,
        "egress": rule_lists,
    }
)
global_specs = st.builds(
    lambda spec, scope, place: {**spec, "namespace_selector": scope, **place},
    specs,
    namespace_selectors,
    st.sampled_from(
        [{}, {}, {"apply_on_forward": True}, {"do_not_track": True}, {"pre_dnat": True}]
    ),
)

workloads = st.builds(
    lambda path, host, at, **fields: workload(path, host, *at, **fields),
    paths,
    hosts,
    tuples(addresses, 2),
    labels=labels,
    profiles=tuples(profile_names, 3),
    interface=st.sampled_from(["cali1", "cali2", "cali3", ""]),
    ports=ports,
    account=st.sampled_from(["", "z"]),
)
policies = st.one_of(
    st.builds(lambda path, spec: policy(path, **spec), paths, specs),
    st.builds(lambda name, spec: policy(name, **spec), names, global_specs),
)
actions = st.sampled_from(["Set", "Set", "Learn", "Delete", "Ignore"])
staged_policies = st.one_of(
    st.builds(lambda path, action, spec: staged(path, action, **spec), paths, actions, specs),
    st.builds(
        lambda name, action, spec: staged(name, action, **spec), names, actions, global_specs
    ),
    st.builds(
        lambda path, action, label, port: staged(
            path,
            action,
            kubernetes=True,
            podSelector={"matchLabels": {"x": label}},
            ingress=[{"from": [{"podSelector": {}}], "ports": [{"port": port}]}],
        ),
        st.builds("{}/{}".format, namespaces, st.sampled_from(["a", "b"])),
        actions,
        st.sampled_from("12"),
        st.sampled_from([80, "http"]),
    ),
    # What the Kubernetes ones stand in for.
    st.builds(lambda space, spec: policy(f"{space}/knp.default.a", **spec), namespaces, specs),
)
entries: st.SearchStrategy[Entry] = st.one_of(
    staged_policies,
    workloads,
    workloads,
    workloads,
    policies,
    policies,
    st.builds(
        lambda path, nets, labels: network_set(path, *nets, labels=labels),
        st.one_of(paths, names),
        tuples(networks, 2),
        labels,
    ),
    st.builds(
        lambda name, at, **fields: host_endpoint(name, *at, **fields),
        names,
        tuples(addresses, 2),
        labels=labels,
        ports=ports,
        host=hosts,
        interface=st.sampled_from(["", "eth0", "*"]),
        profiles=tuples(profile_names, 2),
    ),
    st.builds(
        lambda path, service, at, ports: endpoint_slice(path, service, *at, ports=ports),
        paths,
        st.sampled_from(["a", "b"]),
        tuples(addresses, 3),
        tuples(st.tuples(protocols, st.sampled_from([80, 81])), 2),
    ),
    st.builds(
        profile,
        profile_names,
        st.dictionaries(st.sampled_from(["x", "pcns.x", "pcns.y"]), st.sampled_from("12")),
        rule_lists,
        rule_lists,
    ),
    st.builds(tier, st.sampled_from(["default", "t"]), orders, st.sampled_from(["Deny", "Pass"])),
    st.builds(
        node,
        hosts.filter(bool),
        st.sampled_from(["", "192.168.0.1/24", "192.168.0.2/24"]),
        st.sampled_from(["", "fd01::1/64"]),
    ),
    st.builds(pool, names, st.sampled_from(["10.0.0.0/24", "10.0.0.0/16", "fd00::/48"])),
    st.builds(
        affinity,
        hosts.filter(bool),
        st.sampled_from(
            ["10.0.0.0/26", "10.0.0.64/26", "10.0.1.0/28", "10.0.0.2/32", "fd00::/122"]
        ),
        st.sampled_from(["confirmed", "confirmed", "pending"]),
    ),
)
LAST = tier("default", 1000000)
"""Put at the end, with a flush."""

updates = st.tuples(entries, st.sampled_from(["put", "put", "put", "delete"]), st.booleans())


@settings(max_examples=150, deadline=None)
@given(start=st.lists(entries, max_size=25), history=st.lists(updates, max_size=25))
def test_the_outcome_depends_on_the_state_alone(
    start: Sequence[Entry], history: Sequence[tuple[Entry, str, bool]]
) -> None:
    dataplane = FakeDataplane()
    graph = Graph(HOST, dataplane.emit)
    state: State = {}
    for key, value in start:
        state[key] = value
        graph.on_update(key, value)
    for (key, value), what, flush in [*history, (LAST, "put", True)]:
        if what == "put":
            state[key] = value
        else:
            state.pop(key, None)
        graph.on_update(key, state.get(key))
        if flush:
            graph.flush()
            dataplane.check()
            assert dataplane.objects == PlainModel(HOST, state).objects()


words = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["", "global()", "has(a)", "10.0.0.1", "10.0.0.1/32", "::/0", "TCP", "0", "-1", "\ud800"]
    ),
)
numbers = st.one_of(st.integers(-(2**40), 2**40), words)
junk_entities = st.builds(
    EntityRule,
    nets=tuples(words, 2),
    not_nets=tuples(words, 1),
    selector=words,
    not_selector=words,
    namespace_selector=words,
    ports=tuples(numbers, 2),
    service_accounts=st.none()
    | st.builds(ServiceAccountMatch, names=tuples(words, 2), selector=words),
)
junk_rules = st.builds(
    Rule, action=st.just("Allow"), protocol=st.none() | numbers, source=junk_entities
)
junk: st.SearchStrategy[Entry] = st.one_of(
    st.builds(
        lambda scope, selector, namespaces, rule: policy(
            "p", selector=selector, namespace_selector=namespaces, ingress=(rule,), tier=scope
        ),
        words,
        words,
        words,
        junk_rules,
    ),
    st.builds(
        lambda space, rule: (
            ResourceKey("NetworkPolicy", "p", space),
            policy("n/p", ingress=(rule,))[1],
        ),
        words,
        junk_rules,
    ),
    st.builds(
        lambda at, name, protocol, port, mac: workload(
            "n/w", HOST, at, profiles=(name,), ports=[(name, protocol, port)], interface=mac
        ),
        words,
        words,
        words,
        st.integers(-1, 2**17),
        words,
    ),
    st.builds(lambda net: network_set("n/s", net, labels={net: net}), words),
    st.builds(lambda at: host_endpoint("e", at, labels={}), words),
    st.builds(
        lambda at, protocol, port: endpoint_slice("n/s", at, at, ports=[(protocol, port)]),
        words,
        words,
        st.integers(-1, 2**17),
    ),
    st.builds(node, st.just("h2"), words, words, words),
    st.builds(pool, st.just("p"), words),
    st.builds(lambda rule: profile("kns.n", {}, [rule]), junk_rules),
    st.sampled_from(
        [
            (ResourceKey("Tier", "default"), object()),
            (ResourceKey("StagedNetworkPolicy", "p", "n"), object()),
            (ResourceKey("WorkloadEndpoint", "w", "n"), b"{}"),
            (ResourceKey("Unknown", "w"), "?"),
            (HandleKey("h"), object()),
        ]
    ),
)


@settings(max_examples=200, deadline=None)
@given(history=st.lists(st.tuples(junk, st.booleans()), min_size=1, max_size=15))
def test_junk_counts_as_absent_and_disturbs_nothing(
    history: Sequence[tuple[Entry, bool]],
) -> None:
    dataplane = FakeDataplane()
    graph = Graph(HOST, dataplane.emit)
    usable: State = {}
    for (key, value), flush in history:
        graph.on_update(key, value)
        problems = " ".join(graph.problems.get(key, ()))
        if problems and "matches nothing" not in problems:
            usable.pop(key, None)
        else:
            usable[key] = value
        if flush:
            graph.flush()
            dataplane.check()
            assert dataplane.objects == PlainModel(HOST, usable).objects()
