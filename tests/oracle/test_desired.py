"""What calc tells the hosts means what the reference evaluator says, world after world.

No packet is sent: the objects themselves are read. So many more worlds can be compared than with
packets, and a difference is calc's, not the renderer's.
"""

import pytest
from tests.graph.resources import State
from tests.oracle.clusters import HOSTS, make_packets, make_world
from tests.oracle.comparison import cases, differences, explain
from tests.oracle.plain_verdict import DesiredHost

from tortie.explain.oracle import decide

SEEDS_PER_CHUNK = 30
PACKETS = 75


@pytest.mark.parametrize("chunk", range(10))
def test_desired_state_means_what_the_reference_says(chunk: int) -> None:
    hosts = [DesiredHost(name) for name in HOSTS]
    state: State = {}
    mismatches = []
    first = 100_000 + chunk * SEEDS_PER_CHUNK
    for seed in range(first, first + SEEDS_PER_CHUNK):
        for case in cases(seed, PACKETS):
            changes = differences(state, case.state)
            state = case.state
            for host in hosts:
                host.update(changes)
            for packet, expected in zip(case.packets, case.expected, strict=True):
                allowed = all(host.allows(packet) for host in hosts)
                if allowed != expected:
                    mismatches.append(explain(case, packet, allowed=allowed))
    assert not mismatches, f"{len(mismatches)} mismatches, the first:\n{mismatches[0]}"


def test_worlds_are_neither_all_open_nor_all_closed() -> None:
    """Agreement on what always passes, or never, would prove little."""
    fates = []
    for seed in range(60):
        state = make_world(seed)
        fates += [decide(state, packet).allowed for packet in make_packets(state, seed, 40)]
    assert 0.3 < sum(fates) / len(fates) < 0.7
