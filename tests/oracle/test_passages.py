"""What calc tells a host about its host endpoints means what the reference evaluator says.

As `test_desired`, for packets on their ways through one host: to it, from it, and passing by.
"""

import os

import pytest
from tests.oracle.comparison import differences
from tests.oracle.host_worlds import host_world, passages
from tests.oracle.plain_verdict import DesiredHost

from tortie.explain.passage import decide_passage, settings_of
from tortie.model.keys import Key

HOST = "h1"
SEEDS_PER_CHUNK = 125
PACKETS = 100
FIRST_SEED = 200_000 + 1_000 * int(os.environ.get("TORTIE_RANDOM", "0"))


@pytest.mark.parametrize("chunk", range(4))
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
        for passage in passages(state, HOST, seed, PACKETS):
            decision = decide_passage(state, passage)
            passed = host.passes(passage, settings)
            assert passed == decision.allowed, (seed, passage, decision)


def test_every_place_allows_and_denies() -> None:
    """Agreement on what never happens would prove nothing."""
    said = set()
    fates = []
    for seed in range(120):
        state = host_world(seed)
        for passage in passages(state, HOST, seed, 40):
            decision = decide_passage(state, passage)
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
