"""What calc tells the hosts means what the reference evaluator says, world after world.

No packet is sent: the objects themselves are read. So many more worlds can be compared than with
packets, and a difference is calc's, not the renderer's.
"""

import os

import pytest
from tests.graph.resources import State
from tests.oracle.clusters import HOSTS, make_packets, make_world, staged_world
from tests.oracle.comparison import cases, differences, explain
from tests.oracle.plain_verdict import DesiredHost

from tortie.explain.oracle import decide
from tortie.explain.staged import enforce_staged

SEEDS_PER_CHUNK = 15
PACKETS = 75
FIRST_SEED = 100_000 + 1_000 * int(os.environ.get("TORTIE_RANDOM", "0"))


@pytest.mark.parametrize("chunk", range(20))
def test_desired_state_means_what_the_reference_says(chunk: int) -> None:
    hosts = [DesiredHost(name) for name in HOSTS]
    state: State = {}
    mismatches = []
    count = 0
    first = FIRST_SEED + chunk * SEEDS_PER_CHUNK
    for seed in range(first, first + SEEDS_PER_CHUNK):
        for case in cases(seed, PACKETS):
            changes = differences(state, case.state)
            state = case.state
            for host in hosts:
                host.update(changes)
            count += len(case.packets)
            for packet, expected in zip(case.packets, case.expected, strict=True):
                allowed = all(host.allows(packet) for host in hosts)
                if allowed != expected:
                    mismatches.append(explain(case, packet, allowed=allowed))
    # With those of `test_passages` more than a hundred thousand in all.
    assert count > SEEDS_PER_CHUNK * 3 * PACKETS * 0.8
    assert not mismatches, f"{len(mismatches)} mismatches, the first:\n{mismatches[0]}"


def test_staged_policies_would_do_what_the_reference_says() -> None:
    """And while they are staged they do nothing."""
    hosts = [DesiredHost(name) for name in HOSTS]
    before: State = {}
    differing = 0
    for seed in range(FIRST_SEED, FIRST_SEED + 40):
        enforced = make_world(seed)
        state = staged_world(enforced, seed)
        for host in hosts:
            host.update(differences(before, state))
        before = state
        then = enforce_staged(state).state
        for packet in make_packets(state, seed, 60):
            now, later = decide(enforced, packet).allowed, decide(then, packet).allowed
            assert all(host.allows(packet) for host in hosts) == now, (seed, packet)
            assert all(host.allows(packet, staged=True) for host in hosts) == later, (seed, packet)
            differing += now != later
    assert differing > 100


def test_worlds_are_neither_all_open_nor_all_closed() -> None:
    """Agreement on what always passes, or never, would prove little."""
    fates = []
    for seed in range(60):
        state = make_world(seed)
        fates += [decide(state, packet).allowed for packet in make_packets(state, seed, 40)]
    assert 0.3 < sum(fates) / len(fates) < 0.7
