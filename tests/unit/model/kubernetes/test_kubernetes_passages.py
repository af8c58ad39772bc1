"""Cases in which it matters where on its way a packet is asked about: services, nodes, node ports.

The numbers are those of `test_kubernetes_cases`. A service's proxy translates destinations before
policy is asked, and sources behind it.
"""

from tests.unit.model.kubernetes.objects import NODES, OUTSIDE, Cluster, labels, policy

from tortie.explain.oracle import Packet
from tortie.explain.passage import Interface, Passage, decide_passage
from tortie.lib.ip import parse_address
from tortie.model.endpoint import WorkloadEndpoint

TCP = 6
SERVICE, BALANCER = "10.96.0.1", "203.0.113.80"
UPLINK = Interface("eth0", (parse_address(NODES["h1"]),))
CLOSED = policy(policyTypes=["Ingress", "Egress"])

Port = tuple[str, int]
"""A pod or an address, and a port."""


def allows(
    cluster: Cluster,
    source: str,
    destination: Port,
    asked_for: Port | None = None,
    *,
    on: str = "h1",
    from_here: bool = False,
) -> bool:
    """Whether host `on` lets the packet by.

    Args:
        destination: behind its translation.
        asked_for: what the source asked for; None: no translation.
        from_here: the host itself is the source.
    """
    state = cluster.state()
    addresses = {name: one["status"]["podIP"] for name, one in cluster.pods.items()}

    def interface(end: str) -> Interface:
        for resource in state.values():
            if (
                isinstance(resource, WorkloadEndpoint)
                and resource.spec.node == on
                and f"{addresses.get(end)}/32" in resource.spec.ip_networks
            ):
                return Interface(resource.spec.interface_name, workload=True)
        return UPLINK

    def packet(to: Port) -> Packet:
        ends = [parse_address(addresses.get(end, end)) for end in (source, to[0])]
        return Packet(ends[0], ends[1], TCP, 40000, to[1])

    came_in = None if from_here else interface(source)
    translated = packet(destination) if asked_for else None
    passage = Passage(
        on, packet(asked_for or destination), came_in, interface(destination[0]), translated
    )
    return decide_passage(state, passage).allowed


def out_of_x(**rule: object) -> Cluster:
    return Cluster(policy(policyTypes=["Egress"], egress=[rule]))


def into(space: str, **rule: object) -> Cluster:
    return Cluster(policy(space=space, policyTypes=["Ingress"], ingress=[rule]))


def block(address: str) -> dict[str, object]:
    return {"ipBlock": {"cidr": f"{address}/32"}}


def test_egress_sees_the_pods_port_behind_a_service() -> None:
    """Case 30."""
    asked = "x/a", ("y/b", 8080), (SERVICE, 80)
    assert not allows(out_of_x(ports=[{"port": 80}]), *asked)
    assert allows(out_of_x(ports=[{"port": 8080}]), *asked)


def test_ingress_sees_the_pods_port_behind_a_service() -> None:
    """Case 31."""
    asked = "x/a", ("y/b", 8080), (SERVICE, 80)
    assert not allows(into("y", ports=[{"port": 80}]), *asked)
    assert allows(into("y", ports=[{"port": 8080}]), *asked)


def test_a_node_reaches_its_own_pods_and_no_other_node_does() -> None:
    """Case 38."""
    assert allows(Cluster(CLOSED), NODES["h1"], ("x/a", 80), from_here=True)
    assert not allows(Cluster(CLOSED), NODES["h2"], ("x/a", 80))


def test_a_node_port_is_asked_about_by_the_client_or_by_the_first_node() -> None:
    """Case 40: the source is translated behind policy, so only another node sees its node."""
    by_client, by_node = (into("x", **{"from": [block(end)]}) for end in (OUTSIDE, NODES["h1"]))
    same_node = OUTSIDE, ("x/a", 80), (NODES["h1"], 30080)
    assert allows(by_client, *same_node)
    assert not allows(by_node, *same_node)
    assert not allows(by_client, NODES["h1"], ("x/b", 80), on="h2")
    assert allows(by_node, NODES["h1"], ("x/b", 80), on="h2")


def test_egress_to_a_load_balancer_is_egress_to_its_pods() -> None:
    """Case 41."""
    asked = "x/a", ("y/b", 80), (BALANCER, 80)
    assert not allows(out_of_x(to=[block(BALANCER)]), *asked)
    pods = {"namespaceSelector": labels(team="blue"), "podSelector": labels(app="b")}
    assert allows(out_of_x(to=[pods]), *asked)
