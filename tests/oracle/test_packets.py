"""What two hosts' kernels do with a packet is what the reference evaluator says of it."""

from collections.abc import Iterator

import pytest
from tests.oracle.comparison import Case, cases, explain
from tests.oracle.network import TwoHosts

PACKETS = 150
SEEDS_PER_CHUNK = 6
CHUNKS = 11
SEEDS = range(CHUNKS * SEEDS_PER_CHUNK)
SENT = 20_000
"""What is promised of a run: on one host, and from one to the other."""


@pytest.fixture(scope="module")
def network() -> Iterator[TwoHosts]:
    made = TwoHosts()
    yield made
    made.close()


@pytest.fixture(scope="module")
def sent() -> Iterator[list[int]]:
    """How many packets each chunk sent."""
    counts: list[int] = []
    yield counts
    if len(counts) == CHUNKS:
        assert sum(counts) >= SENT, sum(counts)


def mismatches(network: TwoHosts, case: Case) -> list[str]:
    """Enforce the case's state, try its packets, and say where that differs."""
    network.enforce(case.state)
    arrived = network.probe_all(case.packets, case.expected)
    return [
        explain(case, packet, allowed=here)
        for packet, expected, here in zip(case.packets, case.expected, arrived, strict=True)
        if here != expected
    ]


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_packets_meet_the_fate_that_the_reference_says(
    network: TwoHosts, chunk: int, sent: list[int]
) -> None:
    """One history of 18 states, written into the kernel change by change."""
    first = chunk * SEEDS_PER_CHUNK
    count = 0
    for seed in range(first, first + SEEDS_PER_CHUNK):
        for case in cases(seed, PACKETS):
            count += len(case.packets)
            found = mismatches(network, case)
            assert not found, (
                f"{len(found)} of {len(case.packets)} packets, the first:\n{found[0]}\n"
                f"{network.ruleset()}"
            )
    sent.append(count)
