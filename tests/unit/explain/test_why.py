"""Explanations against the reference evaluator, on random worlds, and as people read them."""

import pytest
from tests.oracle.clusters import make_packets, make_world, staged_world
from tests.oracle.host_worlds import host_world, passages

from tortie.ctl.policy import parse_packet
from tortie.ctl.policy_text import explanation_text
from tortie.explain.matching import rule_matches
from tortie.explain.mismatch import mismatches
from tortie.explain.oracle import State, decide
from tortie.explain.passage import decide_passage, host_endpoint_of, host_with
from tortie.explain.staged import enforce_staged
from tortie.explain.why import explain, find_endpoint, resolve
from tortie.lib.errors import InvalidInput, NotFound
from tortie.lib.ip import parse_address
from tortie.model.endpoint import WorkloadEndpoint, WorkloadEndpointSpec
from tortie.model.keys import ResourceKey
from tortie.model.metadata import Metadata
from tortie.model.policy import (
    EntityRule,
    GlobalNetworkPolicy,
    NetworkPolicy,
    NetworkPolicySpec,
    Rule,
    Tier,
)


@pytest.mark.parametrize("seed", range(40))
def test_explanations_agree_with_the_reference(seed: int) -> None:
    state = make_world(seed)
    for packet in make_packets(state, seed, 40):
        found, expected = explain(state, packet), decide(state, packet)
        assert found.allowed == expected.allowed
        deciding = [
            (half.way, policy.name, policy.action)
            for half in found.halves
            for tier in half.tiers
            for policy in tier.policies
            if policy.action
        ]
        named = [
            (step.way, step.policy.removesuffix(", which is missing"), step.action)
            for step in expected.steps
            if step.policy
        ]
        # After a denied egress the reference goes on with ingress, and so do we.
        assert deciding == named


@pytest.mark.parametrize("seed", range(20))
def test_a_rule_matches_exactly_if_there_is_no_reason_against_it(seed: int) -> None:
    state = make_world(seed)
    policies = [
        (key, policy)
        for key, policy in state.items()
        if isinstance(policy, NetworkPolicy | GlobalNetworkPolicy)
    ]
    for packet in make_packets(state, seed, 20):
        for key, policy in policies:
            assert isinstance(key, ResourceKey)
            for rule in (*policy.spec.ingress, *policy.spec.egress):
                matches = rule_matches(state, rule, packet, key.namespace)
                assert matches == (not mismatches(state, rule, packet, key.namespace))


def endpoint(name: str, address: str, **labels: str) -> tuple[ResourceKey, WorkloadEndpoint]:
    spec = WorkloadEndpointSpec(
        orchestrator="k8s", node="h1", pod=name, endpoint="eth0", ip_networks=(f"{address}/32",)
    )
    full = f"h1-k8s-{name}-eth0"
    metadata = Metadata(name=full, namespace="default", labels=labels)
    return ResourceKey("WorkloadEndpoint", full, "default"), WorkloadEndpoint(
        kind="WorkloadEndpoint", metadata=metadata, spec=spec
    )


@pytest.fixture
def shop() -> State:
    policy = NetworkPolicy(
        kind="NetworkPolicy",
        metadata=Metadata(name="db", namespace="default"),
        spec=NetworkPolicySpec(
            selector="role == 'db'",
            types=("Ingress",),
            ingress=(
                Rule(
                    action="Allow",
                    protocol="TCP",
                    source=EntityRule(selector="role == 'api'"),
                    destination=EntityRule(ports=(5432,)),
                ),
            ),
        ),
    )
    return dict(
        [
            endpoint("web", "10.0.0.1", role="web"),
            endpoint("db", "10.0.0.2", role="db"),
            (ResourceKey("NetworkPolicy", "db", "default"), policy),
            (ResourceKey("Tier", "default"), Tier(kind="Tier")),
        ]
    )


def test_a_denial_names_what_differs_and_a_fix_that_works(shop: State) -> None:
    source, destination = resolve(shop, "default/web", None), resolve(shop, "db", None)
    packet = parse_packet(source, destination, "tcp/5432", 50000)
    found = explain(shop, packet)
    text = explanation_text(shop, found)
    assert "VERDICT  DENY" in text
    assert "source.selector: \"role == 'api'\": default/web (10.0.0.1) has role=web" in text
    assert "set label role=api on default/web" in found.fixes[0]
    key, web = endpoint("web", "10.0.0.1", role="api")
    assert not explain(shop, packet).allowed
    # Doing as it says opens this half (egress has no policy and no profile, so it denies).
    mended = explain({**shop, key: web}, packet)
    assert [half.allowed for half in mended.halves] == [False, True]


def test_names_that_do_not_resolve(shop: State) -> None:
    with pytest.raises(NotFound, match="no workload endpoint default/nobody"):
        find_endpoint(shop, "default/nobody")
    with pytest.raises(NotFound, match="has no IPv6 address"):
        resolve(shop, "web", 6)
    with pytest.raises(InvalidInput, match="not an IP address"):
        resolve(shop, "10.0.0.999", None)


@pytest.mark.parametrize("text", ["tcp", "tcp/0", "tcp/80/1", "tcp/x", "quic/1", "udp/65536", ""])
def test_ports_that_are_none(text: str) -> None:
    a, b = parse_address("10.0.0.1"), parse_address("10.0.0.2")
    with pytest.raises(InvalidInput):
        parse_packet(a, b, text, 1)


def test_what_is_said_of_another_protocol(shop: State) -> None:
    packet = parse_packet(parse_address("10.0.0.1"), parse_address("10.0.0.2"), "icmp", 1)
    assert "protocol: is TCP, the packet is ICMP" in explanation_text(shop, explain(shop, packet))


@pytest.mark.parametrize("seed", range(15))
def test_what_is_staged_would_do_what_the_reference_says(seed: int) -> None:
    state = staged_world(make_world(seed), seed)
    then = enforce_staged(state).state
    for packet in make_packets(state, seed, 30):
        found = explain(state, packet)
        assert found.allowed == decide(state, packet).allowed
        assert found.staged_allowed == decide(then, packet).allowed


def test_hosts_fare_as_the_reference_says() -> None:
    """Where what the datastore tells of a host's interfaces is enough to find its host endpoint."""
    asked = fates = 0
    for seed in range(150):
        state = host_world(seed)
        for one in passages(state, "h1", seed, 100):
            if one.translated or one.came_in is None or one.came_in.workload or one.goes_out:
                continue
            here = host_with(state, one.packet.destination)
            if here is None or here.host != "h1":
                continue
            endpoint = host_endpoint_of(state, here.host, here.interface)
            if endpoint is None or endpoint != host_endpoint_of(state, "h1", one.came_in):
                continue
            ingress = explain(state, one.packet).halves[-1]
            assert ingress.allowed == decide_passage(state, one).allowed, (seed, one)
            asked += 1
            fates += ingress.allowed
    assert asked > 150
    assert 0.2 < fates / asked < 0.9
