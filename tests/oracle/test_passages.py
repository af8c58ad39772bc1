"""What calc tells a host about its host endpoints means what the reference evaluator says.

As `test_desired`, for packets on their ways through one host: to it, from it, and passing by.
"""

import os
from typing import Any

import pytest
from msgspec.structs import replace
from tests.oracle import plain_verdict
from tests.oracle.comparison import differences
from tests.oracle.host_worlds import host_world, passages
from tests.oracle.mutants import put, wrap
from tests.oracle.plain_verdict import DesiredHost

from tortie.calc import active_policies, graph, host_endpoints, validation
from tortie.desired import passage
from tortie.desired.endpoint import Endpoint
from tortie.explain.passage import decide_passage, settings_of
from tortie.model.keys import Key

HOST = "h1"
SEEDS_PER_CHUNK = 50
PACKETS = 100
FIRST_SEED = 200_000 + 1_000 * int(os.environ.get("TORTIE_RANDOM", "0"))


@pytest.mark.parametrize("chunk", range(10))
def test_desired_state_means_what_the_reference_says(chunk: int) -> None:
    host = DesiredHost(HOST)
    before: dict[Key, object] = {}
    first = FIRST_SEED + chunk * SEEDS_PER_CHUNK
    for seed in range(first, first + SEEDS_PER_CHUNK):
        state = host_world(seed)
        host.update(differences(before, state))
        assert not host.graph.problems
        before = state
        settings = settings_of(state, HOST)
        for one in passages(state, HOST, seed, PACKETS):
            decision = decide_passage(state, one)
            passed = host.passes(one, settings)
            assert passed == decision.allowed, (seed, one, decision)


def test_every_place_allows_and_denies() -> None:
    """Agreement on what never happens would prove nothing."""
    said = set()
    fates = []
    for seed in range(120):
        state = host_world(seed)
        for one in passages(state, HOST, seed, 40):
            decision = decide_passage(state, one)
            fates.append(decision.allowed)
            said |= {(step.place, step.way, step.action) for step in decision.steps}
    wanted = {
        (place, way, action)
        for place in ("normal", "forward", "untracked")
        for way in ("Ingress", "Egress")
        for action in ("Allow", "Deny", "Pass")
    } | {("pre-DNAT", "Ingress", action) for action in ("Allow", "Deny", "Pass")}
    assert said == wanted
    assert 0.4 < sum(fates) / len(fates) < 0.8


def first_noticed(seeds: range) -> int | None:
    """The first world in which some packet's fate is not what the reference says."""
    host = DesiredHost(HOST)
    before: dict[Key, object] = {}
    for seed in seeds:
        state = host_world(seed)
        host.update(differences(before, state))
        before = state
        settings = settings_of(state, HOST)
        for one in passages(state, HOST, seed, 40):
            if host.passes(one, settings) != decide_passage(state, one).allowed:
                return seed
    return None


def _highest(interface: str, addresses: Any, endpoints: Any) -> str | None:
    fitting = [name for name, one in endpoints.items() if one.interface in (interface, "*")]
    return max(fitting, default=None)


MUTANTS = {
    "every policy is a normal one": put(validation, "_place", lambda _: "normal"),
    "every policy applies on forward": wrap(
        graph, "parse_policy", lambda original, *of: replace(original(*of), on_forward=True)
    ),
    "no policy applies on forward": wrap(
        graph, "parse_policy", lambda original, *of: replace(original(*of), on_forward=False)
    ),
    "tiers end early, too": wrap(
        active_policies,
        "policy_list",
        lambda original, *of, open_ended: original(*of, open_ended=False),
    ),
    "host endpoints of other hosts count": wrap(
        graph, "parse_host_endpoint", lambda original, one: replace(original(one), host=HOST)
    ),
    "host endpoints have no profiles": put(host_endpoints, "profiles_of", lambda _: ()),
    "the last host endpoint holds the interface": put(plain_verdict, "host_endpoint_for", _highest),
    "failsafe ports are not known": put(passage, "is_failsafe", lambda *_: False),
    "nothing is asked early": put(passage, "_early", lambda *_: None),
    "what is allowed early is allowed for good": wrap(
        passage,
        "_workload_lets_by",
        lambda original, end, way, *of: (
            (isinstance(end, Endpoint) and way == "ingress") or original(end, way, *of)
        ),
    ),
    "all interfaces' host endpoint is not asked about workloads": wrap(
        passage,
        "_asked_about_passing",
        lambda original, end, of: original(end, of._replace(for_all=None)),
    ),
    "the host may send anything": put(passage, "_leaves_host", lambda *_: True),
    "lists ask for what is translated": wrap(
        passage,
        "passes",
        lambda original, asked, *of: original(
            asked._replace(packet=asked.translated or asked.packet), *of
        ),
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_packets_notice_the_mutant(name: str) -> None:
    with pytest.MonkeyPatch.context() as patcher:
        MUTANTS[name](patcher)
        assert first_noticed(range(150)) is not None


def test_without_a_mutant_nothing_is_noticed() -> None:
    assert first_noticed(range(60)) is None
