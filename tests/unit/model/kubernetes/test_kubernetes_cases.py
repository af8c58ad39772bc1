"""What Kubernetes' network policies mean, case by case, where implementations have gone wrong.

Cases of one number follow on each other: calc is not started anew, so what changes in between
must take effect.
`CASES` have a number each, and with `ELSEWHERE` all numbers from 1 to 60 stand here once.
"""

from collections.abc import Callable
from typing import NamedTuple

import pytest
from tests.graph.dataplane import FakeDataplane
from tests.unit.model.kubernetes.objects import (
    NODES,
    OUTSIDE,
    OUTSIDE6,
    Cluster,
    cluster,
    expression,
    labels,
    namespace,
    pod,
    policy,
)

from tortie.calc.graph import Graph
from tortie.desired.kinds import Kind
from tortie.model.kubernetes.cluster_policy import cluster_policy, equal_orders
from tortie.model.kubernetes.network_policy import network_policy
from tortie.model.kubernetes.workload import pod_endpoint

Flow = tuple[str, str] | tuple[str, str, str, int] | tuple[str, str, str, int, int]

ELSEWHERE = {
    18: "answers belong to the connection: the kernel's, see tests/netns",
    37: "a packet to oneself does not leave the pod, so no policy is asked",
    44: "connections that are cut: tests/netns, desired.verdict",
    60: "what Calico has and Kubernetes has not: tests/graph/states.py, tests/oracle",
}


class Case(NamedTuple):
    meaning: str
    cluster: Cluster
    allowed: tuple[Flow, ...] = ()
    denied: tuple[Flow, ...] = ()


IN, OUT = ("Ingress",), ("Egress",)
IN_X: Flow = ("y/a", "x/a")
OUT_X: Flow = ("x/a", "y/a")
WITHIN: Flow = ("x/b", "x/a")


def _in(*rules: object) -> Cluster:
    return Cluster(policy(policyTypes=list(IN), ingress=list(rules)))


def _ports(*ports: object) -> Cluster:
    return _in({"ports": list(ports)})


def _from(*peers: object) -> Cluster:
    return _in({"from": list(peers)})


def _block(cidr: str, *excepted: str) -> dict[str, object]:
    return {"ipBlock": {"cidr": cidr, "except": list(excepted)}}


def _with(base: Cluster, change: Callable[[Cluster], None]) -> Cluster:
    changed = base.changed()
    change(changed)
    return changed


def _relabel_pod(base: Cluster) -> None:
    base.pods["y/a"]["metadata"]["labels"]["role"] = "client"


def _relabel_namespace(base: Cluster) -> None:
    base.namespaces["y"]["metadata"]["labels"]["team"] = "red"


def _new_namespace(base: Cluster) -> None:
    base.namespaces["w"] = namespace("w", team="red")
    base.pods["w/a"] = pod("w", "a", 5, "h1")


def _finish(base: Cluster) -> None:
    base.pods["x/old"] = pod("x", "old", 3, "h1", role="client")
    base.pods["x/old"]["status"]["phase"] = "Succeeded"


def _terminate(base: Cluster) -> None:
    base.pods["x/a"]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"


def _host_network(base: Cluster) -> None:
    base.pods["x/host"] = pod("x", "host", 9, "h1")
    base.pods["x/host"]["spec"]["hostNetwork"] = True
    base.pods["x/host"]["status"]["podIPs"] = [{"ip": NODES["h1"]}]


def _without_namespace(base: Cluster) -> None:
    del base.namespaces["x"]


CLIENTS = _from({"namespaceSelector": {}, "podSelector": labels(role="client")})
REDS = _from({"namespaceSelector": labels(team="red")})
CLOSED = policy("closed", policyTypes=list(IN))
DENY = {"action": "Deny", "from": [{"namespaces": {}}]}
ACCEPT = {"action": "Accept", "from": [{"namespaces": {}}]}
PASS = {"action": "Pass", "from": [{"namespaces": {}}]}
BASELINE = cluster(name="base", tier="Baseline", priority=1, ingress=[DENY])
X_ONLY = {"namespaces": labels(team="red")}
OPEN = policy("open", policyTypes=list(IN), ingress=[{}])

CASES: dict[int, list[Case]] = {
    1: [Case("no policy: all is open", Cluster(), (IN_X, OUT_X))],
    2: [
        Case("no rules: closed, one way", Cluster(CLOSED), (OUT_X,), (IN_X, WITHIN)),
        Case("an empty list is the same", _in(), (OUT_X,), (IN_X, WITHIN)),
    ],
    3: [Case("an empty rule: open", _in({}), (IN_X, (OUTSIDE, "x/a")))],
    4: [
        Case(
            "egress rules without types: both ways",
            Cluster(policy(egress=[{"ports": [{"port": 80}]}])),
            (OUT_X,),
            (IN_X, ("x/a", "y/a", "TCP", 81)),
        )
    ],
    5: [Case("neither types nor egress: ingress alone", Cluster(policy()), (OUT_X,), (IN_X,))],
    6: [
        Case(
            "types decide, whatever rules there are",
            Cluster(policy(policyTypes=list(OUT), ingress=[{"from": [{}]}])),
            (IN_X,),
            (OUT_X,),
        )
    ],
    7: [
        Case(
            "an empty podSelector: the namespace, and no other",
            Cluster(CLOSED),
            (("x/a", "y/a"),),
            (("y/a", "x/a"), ("y/a", "x/b")),
        )
    ],
    8: [Case("no peers: everybody", _in({"from": []}), (IN_X, WITHIN, (OUTSIDE, "x/a")))],
    9: [
        Case("a podSelector alone: this namespace", _from({"podSelector": {}}), (WITHIN,), (IN_X,))
    ],
    10: [
        Case(
            "a namespaceSelector alone: pods everywhere, but only pods",
            _from({"namespaceSelector": {}}),
            (IN_X, WITHIN),
            ((OUTSIDE, "x/a"), (NODES["h2"], "x/a")),
        )
    ],
    11: [
        Case(
            "both in one peer: and",
            _from({"namespaceSelector": labels(team="blue"), "podSelector": labels(app="a")}),
            (IN_X,),
            (("y/b", "x/a"), WITHIN),
        )
    ],
    12: [
        Case(
            "two peers: or",
            _from({"namespaceSelector": labels(team="blue")}, {"podSelector": labels(app="b")}),
            (IN_X, ("y/b", "x/a"), WITHIN),
            (("x/a", "x/a"),),
        )
    ],
    13: [Case("an empty peer names nobody", _from({}), (), (IN_X, WITHIN))],
    14: [
        Case(
            "NotIn is true of what has no such label",
            _from({"podSelector": expression("tier", "NotIn", "front")}),
            (WITHIN,),
            (("x/a", "x/a"),),
        ),
        Case(
            "so is DoesNotExist",
            _from({"podSelector": expression("tier", "DoesNotExist")}),
            (WITHIN,),
            (("x/a", "x/a"),),
        ),
    ],
    15: [Case("In nothing", _from({"podSelector": expression("app", "In")}), (), (WITHIN,))],
    16: [Case("policies add up", Cluster(CLOSED, OPEN), (IN_X, WITHIN))],
    17: [
        Case(
            "out allowed, in not",
            Cluster(CLOSED, policy("out", "y", policyTypes=list(OUT), egress=[{}])),
            (),
            (IN_X,),
        ),
        Case(
            "in allowed, out not",
            Cluster(OPEN, policy("out", "y", policyTypes=list(OUT))),
            (),
            (IN_X,),
        ),
    ],
    19: [
        Case(
            "no ports: all, of every protocol",
            _ports(),
            (IN_X, ("y/a", "x/a", "UDP", 5), ("y/a", "x/a", "ICMP", 0)),
        )
    ],
    20: [
        Case(
            "an empty port: all of TCP",
            _ports({}),
            (("y/a", "x/a", "TCP", 1234),),
            (("y/a", "x/a", "UDP", 1234),),
        )
    ],
    21: [
        Case(
            "an empty port among others: still all of TCP",
            _ports({}, {"port": 80}),
            (IN_X, ("y/a", "x/a", "TCP", 1234)),
        ),
        Case("in any order", _ports({"port": 80}, {}), (IN_X, ("y/a", "x/a", "TCP", 1234))),
    ],
    22: [Case("a port is TCP", _ports({"port": 80}), (IN_X,), (("y/a", "x/a", "UDP", 80),))],
    23: [
        Case(
            "UDP is not TCP",
            _ports({"port": 80, "protocol": "UDP"}),
            (("y/a", "x/a", "UDP", 80),),
            (IN_X,),
        )
    ],
    24: [
        Case(
            "SCTP is matched, and isolates",
            _ports({"port": 80, "protocol": "SCTP"}),
            (("y/a", "x/a", "SCTP", 80),),
            (IN_X, ("y/a", "x/a", "SCTP", 81)),
        )
    ],
    25: [
        Case(
            "endPort is part of the range",
            _ports({"port": 80, "endPort": 82}, {"port": 81, "endPort": 83}),
            tuple(("y/a", "x/a", "TCP", port) for port in (80, 82, 83)),
            (("y/a", "x/a", "TCP", 79), ("y/a", "x/a", "TCP", 84)),
        ),
        Case("endPort alone is nothing", _ports({"endPort": 82}), (), (IN_X,)),
        Case("nor is one behind a name", _ports({"port": "http", "endPort": 90}), (), (IN_X,)),
        Case("nor one before its port", _ports({"port": 90, "endPort": 80}), (), (IN_X,)),
    ],
    26: [
        Case(
            "a named port is each pod's own",
            _ports({"port": "http"}),
            (("y/a", "x/a", "TCP", 80), ("y/a", "x/b", "TCP", 8080)),
            (("y/a", "x/a", "TCP", 8080), ("y/a", "x/b", "TCP", 80)),
        ),
        Case(
            "outwards: that of those selected",
            Cluster(
                policy(
                    space="y",
                    policyTypes=list(OUT),
                    egress=[
                        {
                            "to": [{"namespaceSelector": {}, "podSelector": labels(app="b")}],
                            "ports": [{"port": "http"}],
                        }
                    ],
                )
            ),
            (("y/a", "x/b", "TCP", 8080),),
            (("y/a", "x/b", "TCP", 80), ("y/a", "x/a", "TCP", 80)),
        ),
    ],
    27: [
        Case(
            "a name that a pod does not serve",
            _ports({"port": "dns", "protocol": "UDP"}),
            (("y/a", "x/b", "UDP", 53),),
            (("y/a", "x/a", "UDP", 53),),
        )
    ],
    28: [
        Case(
            "a name that it serves over another protocol",
            _ports({"port": "dns"}),
            (),
            (("y/a", "x/b", "TCP", 53), ("y/a", "x/b", "UDP", 53)),
        )
    ],
    29: [
        Case(
            "outside nobody serves a name",
            Cluster(
                policy(
                    policyTypes=list(OUT),
                    egress=[{"to": [_block("0.0.0.0/0")], "ports": [{"port": "http"}]}],
                )
            ),
            (("x/a", "x/b", "TCP", 8080),),
            (("x/a", OUTSIDE, "TCP", 80), ("x/a", OUTSIDE, "TCP", 8080)),
        )
    ],
    32: [
        Case(
            "a block without its exceptions",
            _from(_block("203.0.113.0/24", "203.0.113.0/28")),
            (("203.0.113.16", "x/a"),),
            ((OUTSIDE, "x/a"),),
        )
    ],
    33: [
        Case(
            "an exception is no denial",
            _from(_block("203.0.113.0/24", "203.0.113.0/28"), _block("203.0.113.9/32")),
            ((OUTSIDE, "x/a"),),
            (("203.0.113.8", "x/a"),),
        )
    ],
    34: [Case("a block may hold pods", _from(_block("10.0.0.3/32")), (IN_X,), (WITHIN,))],
    35: [
        Case(
            "all of IPv4 is none of IPv6",
            _from(_block("0.0.0.0/0")),
            (IN_X, (OUTSIDE, "x/a")),
            (("y/a", "x/a", "TCP", 80, 6), (OUTSIDE6, "x/a", "TCP", 80, 6)),
        )
    ],
    36: [
        Case(
            "a pod is selected in both families, a block is of one",
            _from({"podSelector": {}}, _block("2001:db8::/64")),
            (("x/b", "x/a", "TCP", 80, 6), WITHIN, (OUTSIDE6, "x/a", "TCP", 80, 6)),
            (IN_X, ("y/a", "x/a", "TCP", 80, 6), (OUTSIDE, "x/a")),
        )
    ],
    39: [
        Case(
            "pods on the host's network are no pods to a selector",
            _with(_from({"namespaceSelector": {}, "podSelector": {}}), _host_network),
            (WITHIN,),
            ((NODES["h1"], "x/b"),),
        ),
        Case("their host's address is", _from(_block(NODES["h1"])), ((NODES["h1"], "x/b"),)),
    ],
    42: [
        Case("ICMP is not TCP", _ports({"port": 80}), (IN_X,), (("y/a", "x/a", "ICMP", 0),)),
    ],
    43: [
        Case(
            "echo one way is not the other way",
            Cluster(
                policy("one", podSelector=labels(app="b"), policyTypes=list(IN), ingress=[{}]),
                policy("other", podSelector=labels(app="a"), policyTypes=list(IN)),
            ),
            (("x/a", "x/b", "ICMP", 0), ("x/a", "x/b", "ICMPv6", 0, 6)),
            (("x/b", "x/a", "ICMP", 0), ("x/b", "x/a", "ICMPv6", 0, 6)),
        )
    ],
    45: [
        Case("a pod without the label", CLIENTS, (), (IN_X,)),
        Case("with it", _with(CLIENTS, _relabel_pod), (IN_X,), (("y/b", "x/a"),)),
    ],
    46: [
        Case("a namespace without the label", REDS, (WITHIN,), (IN_X,)),
        Case("with it", _with(REDS, _relabel_namespace), (WITHIN, IN_X, ("y/b", "x/a"))),
    ],
    47: [
        Case("a new namespace", _with(REDS, _new_namespace), (("w/a", "x/a"),), (IN_X,)),
    ],
    48: [
        Case(
            "a finished pod's address is another's by now",
            _with(_from({"podSelector": labels(role="client")}), _finish),
            (),
            (IN_X,),
        )
    ],
    49: [
        Case(
            "a pod that is going is still policed",
            _with(_from({"podSelector": {}}), _terminate),
            (WITHIN, ("x/a", "y/a")),
            (IN_X,),
        )
    ],
    50: [
        Case(
            "a namespace that went before its pods leaves them closed",
            _with(Cluster(), _without_namespace),
            (("y/a", "y/b"),),
            (IN_X, OUT_X),
        )
    ],
    52: [
        Case("the only policy", Cluster(CLOSED), (OUT_X,), (IN_X,)),
        Case("gone: open again", Cluster(), (IN_X, OUT_X)),
    ],
    53: [
        Case("two equal ones", Cluster(policy("twin"), policy("other")), (OUT_X,), (IN_X,)),
        Case("one of them gone", Cluster(policy("twin")), (OUT_X,), (IN_X,)),
    ],
    54: [
        Case(
            "a namespace by its name",
            _from({"namespaceSelector": labels(**{"kubernetes.io/metadata.name": "y"})}),
            (IN_X,),
            (WITHIN,),
        )
    ],
    56: [
        Case("admin denies first", Cluster(cluster(ingress=[DENY]), OPEN), (), (IN_X, WITHIN)),
        Case("admin accepts first", Cluster(cluster(ingress=[ACCEPT]), CLOSED), (IN_X,)),
        Case("pass leads to the policies", Cluster(cluster(ingress=[PASS, DENY]), OPEN), (IN_X,)),
        Case("which may deny", Cluster(cluster(ingress=[PASS]), CLOSED), (OUT_X,), (IN_X,)),
        Case("the baseline, where none isolates", Cluster(BASELINE), (), (IN_X, OUT_X)),
        Case("and not where one does", Cluster(BASELINE, OPEN), (IN_X,), (OUT_X,)),
        Case(
            "lower priorities first",
            Cluster(
                cluster(name="a", priority=20, ingress=[DENY]),
                cluster(name="b", priority=3, ingress=[ACCEPT]),
            ),
            (IN_X,),
        ),
        Case(
            "rules in their order",
            Cluster(cluster(ingress=[ACCEPT, DENY], subject=X_ONLY)),
            (IN_X,),
        ),
        Case(
            "the older kinds",
            Cluster(
                cluster(
                    "AdminNetworkPolicy",
                    subject=X_ONLY,
                    ingress=[
                        {
                            "action": "Allow",
                            "from": [{"namespaces": {}}],
                            "ports": [{"portRange": {"protocol": "TCP", "start": 80, "end": 81}}],
                        },
                    ],
                ),
                cluster("BaselineAdminNetworkPolicy", name="default", ingress=[DENY]),
            ),
            (IN_X,),
            (("y/a", "x/a", "TCP", 82), OUT_X),
        ),
    ],
    57: [
        Case(
            "equal priorities: by name",
            Cluster(
                cluster(name="b", ingress=[DENY]),
                cluster(name="a", ingress=[ACCEPT]),
            ),
            (IN_X,),
        ),
        Case(
            "whichever is told first",
            Cluster(
                cluster(name="a", ingress=[ACCEPT]),
                cluster(name="b", ingress=[DENY]),
            ),
            (IN_X,),
        ),
    ],
    58: [
        Case(
            "a pod on the host's network is nobody's subject",
            _with(Cluster(cluster(ingress=[DENY])), _host_network),
            (("y/a", NODES["h1"]),),
            (IN_X,),
        )
    ],
    59: [
        Case(
            "networks, and ports by name",
            Cluster(
                cluster(
                    subject=X_ONLY,
                    egress=[
                        {
                            "action": "Accept",
                            "to": [{"networks": ["203.0.113.0/24", "2001:db8::/32"]}],
                            "protocols": [{"tcp": {"destinationPort": {"number": 80}}}],
                        },
                        {
                            "action": "Accept",
                            "to": [{"pods": {"podSelector": labels(app="b")}}],
                            "protocols": [{"destinationNamedPort": "dns"}],
                        },
                        {"action": "Deny", "to": [{"networks": ["0.0.0.0/0", "::/0"]}]},
                    ],
                )
            ),
            (("x/a", OUTSIDE), ("x/a", OUTSIDE6, "TCP", 80, 6), ("x/a", "x/b", "UDP", 53)),
            (
                ("x/a", OUTSIDE, "TCP", 81),
                ("x/a", OUTSIDE6, "TCP", 81, 6),
                ("x/a", "x/b", "TCP", 53),
                OUT_X,
            ),
        ),
        Case(
            "what is not known denies if it was to deny",
            Cluster(cluster(egress=[{"action": "Deny", "to": [{"nodes": {}}]}])),
            (),
            (OUT_X,),
        ),
        Case(
            "and accepts nothing if it was to accept",
            Cluster(
                cluster(egress=[{"action": "Accept", "to": [{"nodes": {}}]}]),
                policy(policyTypes=list(OUT)),
            ),
            (IN_X,),
            (OUT_X,),
        ),
    ],
}
REPORTED = (13, 15)
"""All their cases have something that cannot be converted."""

PASSAGES = (30, 31, 38, 40, 41)
"""In `test_kubernetes_passages`."""

MORE = {
    51: "test_narrowing_is_one_change",
    55: "test_many_peers_and_ports_make_few_rules",
}


def test_every_case_stands_here_once() -> None:
    numbers = [*CASES, *ELSEWHERE, *PASSAGES, *MORE]
    assert sorted(numbers) == list(range(1, 61))
    assert all(name in globals() for name in MORE.values())


@pytest.mark.parametrize(
    ("number", "case"),
    [(number, case) for number, cases in CASES.items() for case in cases],
    ids=lambda value: value.meaning if isinstance(value, Case) else str(value),
)
def test_case(number: int, case: Case) -> None:
    assert [flow for flow in case.allowed if not case.cluster.allows(*flow)] == []
    assert [flow for flow in case.denied if case.cluster.allows(*flow)] == []
    if number in REPORTED:
        assert case.cluster.problems


def test_equal_priorities_are_told() -> None:
    """Case 57."""
    policies = [
        cluster(name="b", ingress=[DENY]),
        cluster(name="a", ingress=[ACCEPT]),
        cluster(name="out", egress=[]),
        cluster(name="other", priority=11, ingress=[DENY]),
        cluster(name="base", tier="Baseline", ingress=[DENY]),
    ]
    resources = [found.resource for found in map(cluster_policy, policies)]
    assert equal_orders([one for one in resources if one.metadata.name.endswith((".a", ".b"))]) == (
        "kcnp.admin.a and kcnp.admin.b have the same order 10 in tier kube-admin: where both "
        "select an endpoint, they are asked in this order",
    )
    [text] = equal_orders(resources)
    assert text.startswith("kcnp.admin.a and kcnp.admin.b and kcnp.admin.out have")


def test_what_is_not_known_is_reported() -> None:
    asked = CASES[59][1].cluster
    asked.state()
    assert "nodes" in " ".join(asked.problems)


def test_narrowing_is_one_change() -> None:
    """Case 51: in between there is no moment without the policy, and none without rules."""
    dataplane = FakeDataplane()
    graph = Graph("h1", dataplane.emit)
    for key, value in _ports({"port": 80}, {"port": 81}).state().items():
        graph.on_update(key, value)
    graph.flush()
    dataplane.check()
    key, narrower, _ = network_policy(_ports({"port": 80}).policies[0])
    graph.on_update(key, narrower)
    graph.flush()
    [(kind, name, value)] = dataplane.calls
    assert kind is Kind.POLICY
    assert str(name) == "NetworkPolicy(x/knp.default.p)"
    assert value is not None


def test_many_peers_and_ports_make_few_rules() -> None:
    """Case 55: as many as there are selectors and protocols, not peers times ports."""
    blocks = [_block(f"10.{number}.0.0/16") for number in range(200)]
    pods = [{"podSelector": labels(app=f"a{number}")} for number in range(100)]
    ports = [{"port": number} for number in range(1, 51)]
    wide = network_policy(policy(ingress=[{"from": blocks + pods, "ports": ports}])).resource
    assert len(wide.spec.ingress) == 101


def test_a_pod_of_the_host_network_is_no_endpoint() -> None:
    base = Cluster()
    _host_network(base)
    assert pod_endpoint(base.pods["x/host"]) is None
