"""The comparison by packets notices every mistake of `mutants`, and nothing without one."""

from collections.abc import Callable, Iterator

import pytest
from tests.oracle.clusters import theme_of
from tests.oracle.comparison import Case, cases, explain
from tests.oracle.mutants import MUTANTS, Mutant
from tests.oracle.network import TwoHosts
from tests.oracle.test_packets import PACKETS, SEEDS

WAIT_SECONDS = 0.15
"""Less than elsewhere: whatever is late here is asked again of the sound code."""


@pytest.fixture(scope="module")
def network() -> Iterator[TwoHosts]:
    made = TwoHosts()
    yield made
    made.close()


def wrong(network: TwoHosts, case: Case) -> list[int]:
    """The packets whose fate is not the one that the reference says."""
    network.enforce(case.state)
    arrived = network.probe_all(case.packets, case.expected, WAIT_SECONDS)
    pairs = zip(case.expected, arrived, strict=True)
    return [index for index, (expected, here) in enumerate(pairs) if expected != here]


def first_noticed(network: TwoHosts, mutant: Mutant) -> tuple[Case, list[int]] | None:
    """In the worlds of `test_packets`, which passes them all without mutation."""
    seeds = sorted(SEEDS, key=lambda seed: theme_of(seed) != mutant.theme)
    with pytest.MonkeyPatch.context() as patcher:
        mutant.patch(patcher)
        network.restart()
        for seed in seeds:
            for case in cases(seed, PACKETS):
                if found := wrong(network, case):
                    return case, found
    return None


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_packets_notice_the_mutant(
    network: TwoHosts, mutant: Mutant, record_property: Callable[[str, object], None]
) -> None:
    noticed = first_noticed(network, mutant)
    assert noticed, f"{mutant.name}: no packet of {len(SEEDS)} histories noticed"
    case, found = noticed
    record_property("noticed", f"{case.name}, {len(found)} of {len(case.packets)} packets")
    network.restart()
    still = wrong(network, case)
    assert not still, explain(case, case.packets[still[0]], allowed=not case.expected[still[0]])


def test_mutants_have_names_of_their_own() -> None:
    names = [mutant.name for mutant in MUTANTS]
    assert len(set(names)) == len(names) >= 20
