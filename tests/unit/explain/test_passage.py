"""What host endpoints do to one packet, by the reference evaluator: case by case."""

from tests.graph.resources import State, host_endpoint, policy, profile, tier, workload

from tortie.explain.oracle import Packet
from tortie.explain.passage import Interface, Passage, decide_passage
from tortie.lib.ip import parse_address
from tortie.model.felix_configuration import (
    FelixConfiguration,
    FelixConfigurationSpec,
    ProtoPort,
)
from tortie.model.keys import ResourceKey
from tortie.model.policy import EntityRule, Rule

TCP = 6
HOST, PEER, POD = map(parse_address, ("192.0.2.1", "203.0.113.5", "10.0.0.1"))
ETH0, ETH1 = Interface("eth0", (HOST,)), Interface("eth1")
CALI = Interface("cali-pod", workload=True)

ALLOW, DENY = (Rule(action="Allow"),), (Rule(action="Deny"),)


def to_port(action: str, port: int) -> tuple[Rule, ...]:
    side = EntityRule(ports=(port,))
    return (Rule(action=action, protocol="TCP", destination=side),)  # type: ignore[arg-type]


def world(*extra: tuple[object, object], interface: str = "eth0") -> State:
    entries = [
        tier("default", 1000000.0),
        profile("kns.red", {}, ALLOW, ALLOW),
        workload("red/pod", "h1", "10.0.0.1"),
        host_endpoint("hep", labels={"role": "host"}, host="h1", interface=interface),
        *extra,
    ]
    return dict(entries)  # type: ignore[arg-type]


def of_hosts(name: str, **spec: object) -> tuple[object, object]:
    return policy(name, selector="role == 'host'", **spec)


def allowed(state: State, passage: Passage) -> bool:
    return decide_passage(state, passage).allowed


def into_host(port: int, interface: Interface = ETH0, source_port: int = 40000) -> Passage:
    return Passage("h1", Packet(PEER, HOST, TCP, source_port, port), interface, None)


def out_of_host(port: int) -> Passage:
    return Passage("h1", Packet(HOST, PEER, TCP, 40000, port), None, ETH0)


def through(port: int = 80) -> Passage:
    """From one of the host's interfaces to another one."""
    return Passage("h1", Packet(PEER, parse_address("198.51.100.7"), TCP, 1, port), ETH0, ETH1)


def to_pod(port: int = 80) -> Passage:
    return Passage("h1", Packet(PEER, POD, TCP, 40000, port), ETH0, CALI)


def settings(**spec: object) -> tuple[ResourceKey, object]:
    spec_made = FelixConfigurationSpec(**spec)  # type: ignore[arg-type]
    return ResourceKey("FelixConfiguration", "default"), FelixConfiguration(spec=spec_made)


def test_a_host_endpoint_without_policy_is_closed_to_the_host_and_open_to_what_passes() -> None:
    state = world()
    assert not allowed(state, into_host(80))
    assert not allowed(state, out_of_host(80))
    assert allowed(state, into_host(80, ETH1))
    assert allowed(state, through())
    assert allowed(state, to_pod())


def test_failsafe_ports_stay_open_both_ways_and_can_be_changed() -> None:
    state = world(of_hosts("shut", ingress=DENY, egress=DENY))
    assert allowed(state, into_host(22))
    assert allowed(state, out_of_host(53)._replace(packet=Packet(HOST, PEER, 17, 40000, 53)))
    assert not allowed(state, into_host(23))
    near = ProtoPort(protocol="tcp", port=23, net="203.0.113.0/24")
    changed = state | dict([settings(failsafe_inbound_host_ports=(near,))])
    assert allowed(changed, into_host(23))
    assert not allowed(changed, into_host(22))
    own = ResourceKey("FelixConfiguration", "node.h1")
    other = changed | {own: settings(failsafe_inbound_host_ports=())[1]}
    assert not allowed(other, into_host(23))


def test_failsafe_ports_are_spared_what_comes_early() -> None:
    early = {"ingress": DENY, "apply_on_forward": True}
    for flag in ("do_not_track", "pre_dnat"):
        state = world(of_hosts("early", **early, **{flag: True}))
        assert allowed(state, into_host(22))
        assert not allowed(state, through())


def test_there_are_no_failsafe_ports_for_what_passes() -> None:
    state = world(of_hosts("shut", apply_on_forward=True, types=("Ingress",)))
    assert not allowed(state, through(22))
    assert not allowed(state, to_pod(22))


def test_answers_to_failsafe_connections_are_spared_untracked_policies_only() -> None:
    untracked = of_hosts("early", ingress=DENY, apply_on_forward=True, do_not_track=True)
    open_to_host = of_hosts("open", ingress=ALLOW)
    assert allowed(world(untracked, open_to_host), into_host(9, source_port=179))
    assert not allowed(world(untracked, open_to_host), into_host(9, source_port=180))


def test_what_comes_early_and_allows_spares_only_that_host_endpoints_lists() -> None:
    for flag in ("do_not_track", "pre_dnat"):
        early = of_hosts("early", ingress=ALLOW, apply_on_forward=True, **{flag: True})
        later = of_hosts("later", ingress=DENY, egress=DENY, apply_on_forward=True)
        state = world(early, later)
        assert allowed(state, into_host(80))
        assert allowed(state, through())
        of_pod = policy("red/closed", ingress=DENY)
        assert allowed(state, to_pod())
        assert not allowed(state | dict([of_pod]), to_pod())
        other = host_endpoint("out", labels={"role": "host"}, host="h1", interface="eth1")
        assert not allowed(state | dict([other]), through())


def test_before_the_normal_policies_the_end_of_a_tier_passes() -> None:
    for flag in ("do_not_track", "pre_dnat"):
        rules = to_port("Allow", 81)
        early = of_hosts("early", ingress=rules, apply_on_forward=True, **{flag: True})
        assert allowed(world(early, of_hosts("later", ingress=ALLOW)), into_host(80))


def test_pre_dnat_sees_the_destination_as_it_was() -> None:
    early = of_hosts("early", ingress=to_port("Deny", 8080), apply_on_forward=True, pre_dnat=True)
    before = Packet(PEER, HOST, TCP, 40000, 8080)
    passage = to_pod(80)._replace(packet=before, translated=Packet(PEER, POD, TCP, 40000, 80))
    assert not allowed(world(early), passage)
    assert allowed(world(early), passage._replace(packet=before._replace(destination_port=80)))


def test_one_for_all_interfaces_has_no_untracked_policy_and_is_not_for_lo() -> None:
    early = of_hosts("early", ingress=DENY, apply_on_forward=True, do_not_track=True)
    state = world(early, of_hosts("open", ingress=ALLOW), interface="*")
    assert allowed(state, into_host(80))
    assert not allowed(world(early, of_hosts("open", ingress=ALLOW)), into_host(80))
    assert not allowed(world(interface="*"), into_host(80))
    assert allowed(world(interface="*"), into_host(80, Interface("lo", (HOST,))))


def test_one_for_all_interfaces_is_asked_what_workloads_send_and_get() -> None:
    host, pod = Packet(POD, HOST, TCP, 40000, 80), Packet(POD, PEER, TCP, 40000, 80)
    to_host, out = Passage("h1", host, CALI, None), Passage("h1", pod, CALI, ETH1)
    accepting = settings(default_endpoint_to_host_action="Accept")
    assert allowed(world(accepting, interface="*"), to_host), "normal policy has no say"
    early = of_hosts("early", ingress=DENY, apply_on_forward=True, pre_dnat=True)
    for passage in (to_host, out):
        assert not allowed(world(accepting, early, interface="*"), passage)
        assert allowed(world(accepting, early), passage)
    waving = of_hosts("early", ingress=ALLOW, apply_on_forward=True, pre_dnat=True)
    assert not allowed(world(waving, interface="*"), to_host), "the action is still asked"
    shut = of_hosts("shut", ingress=DENY, apply_on_forward=True)
    assert not allowed(world(shut, interface="*"), out)
    assert allowed(world(shut, waving, interface="*"), out)
    assert not allowed(world(waving, policy("red/mute", egress=DENY), interface="*"), out)
    last = of_hosts("last", egress=DENY, apply_on_forward=True, types=("Egress",))
    assert not allowed(world(last, interface="*"), to_pod())
    assert allowed(world(last, interface="*"), Passage("h1", host, None, CALI))


def test_from_a_workload_to_the_host() -> None:
    passage = Passage("h1", Packet(POD, HOST, TCP, 40000, 80), CALI, None)
    assert not allowed(world(), passage)
    accepting = settings(default_endpoint_to_host_action="Accept")
    assert allowed(world(accepting), passage)
    assert not allowed(world(accepting, policy("red/mute", egress=DENY)), passage)
    nobody = passage._replace(came_in=Interface("cali-gone", workload=True))
    assert not allowed(world(accepting), nobody)


def test_the_host_reaches_its_workloads_whatever_their_policy() -> None:
    passage = Passage("h1", Packet(HOST, POD, TCP, 40000, 80), None, CALI)
    assert allowed(world(policy("red/closed", ingress=DENY)), passage)


def test_profiles_of_a_host_endpoint_decide_about_the_host_only() -> None:
    opened = host_endpoint(
        "hep", labels={}, host="h1", interface="eth0", profiles=("projectcalico-default-allow",)
    )
    assert allowed(world(opened), into_host(80))
    missing = host_endpoint("hep", labels={}, host="h1", interface="eth0", profiles=("nobody",))
    assert not allowed(world(missing), into_host(80))
    assert allowed(world(missing), through())
