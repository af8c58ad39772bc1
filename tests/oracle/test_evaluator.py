"""The rules that we send, walked on paper, mean what the reference evaluator says; and mistakes of
the renderer show.

A hundred thousand verdicts where `test_packets` has tens of thousands with real packets; each
round of `make soak` takes as many others.
"""

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
from tests.oracle.alterations import alter, deciding
from tests.oracle.clusters import THEMES, theme_of
from tests.oracle.comparison import CHANGES, Case, cases, explain
from tests.oracle.mutants import MUTANTS, Mutant
from tests.oracle.paper import PaperHosts, without_sysctls

from tortie.dataplane.driver.nftables import INET

PACKETS = 300
SEEDS_PER_CHUNK = 10
CHUNKS = 13
FIRST_SEED = 200_000 + 1_000 * int(os.environ.get("TORTIE_RANDOM", "0"))
VERDICTS = 100_000
MUTANT_SEEDS, MUTANT_PACKETS = range(66), 150
"""Those of `test_packets`, so that one run works them out once."""


@pytest.fixture(autouse=True)
def on_paper(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without_sysctls(monkeypatch, tmp_path)


@pytest.fixture(scope="module")
def asked() -> Iterator[list[int]]:
    """How many packets each chunk had; all together they must be what is promised."""
    counts: list[int] = []
    yield counts
    if len(counts) == CHUNKS:
        assert sum(counts) >= VERDICTS, sum(counts)


def wrong(hosts: PaperHosts, case: Case) -> list[int]:
    """The packets whose fate is not the one that the reference says."""
    hosts.enforce(case.state)
    pairs = zip(case.packets, case.expected, strict=True)
    return [
        index for index, (packet, expected) in enumerate(pairs) if hosts.arrives(packet) != expected
    ]


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_what_is_sent_means_what_the_reference_says(chunk: int, asked: list[int]) -> None:
    """One history of 30 states, written change by change."""
    hosts = PaperHosts()
    first = FIRST_SEED + chunk * SEEDS_PER_CHUNK
    count = 0
    for seed in range(first, first + SEEDS_PER_CHUNK):
        for case in cases(seed, PACKETS):
            count += len(case.packets)
            for index in wrong(hosts, case):
                packet = case.packets[index]
                where, walked = hosts.walk(packet)
                text = explain(case, packet, allowed=not case.expected[index])
                pytest.fail(f"{text}\nended: {where or 'arrived'}\n" + "\n".join(walked))
    assert count > PACKETS * SEEDS_PER_CHUNK * (CHANGES + 1) * 0.8
    asked.append(count)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_walk_notices_the_mutant(
    mutant: Mutant, record_property: Callable[[str, object], None]
) -> None:
    """In worlds that the sound code passes; `test_packets` says so with real packets."""
    seeds = sorted(MUTANT_SEEDS, key=lambda seed: theme_of(seed) != mutant.theme)
    with pytest.MonkeyPatch.context() as patcher:
        mutant.patch(patcher)
        hosts = PaperHosts()
        for seed in seeds:
            for case in cases(seed, MUTANT_PACKETS):
                if found := wrong(hosts, case):
                    record_property("noticed", f"{case.name}, {len(found)} packets")
                    return
    pytest.fail(f"{mutant.name}: no packet of {len(seeds)} histories noticed")


ALTERED_SEEDS, ALTERATIONS = range(len(THEMES)), 6
"""Alterations of each state."""
NOTICED_AT_LEAST = 0.65
"""The others change nothing for these packets: a rule behind which another says the same."""


def test_random_mistakes_in_what_is_sent_show(
    record_property: Callable[[str, object], None],
) -> None:
    """One rule that decided something is changed, and the same packets are walked again."""
    random = Random(FIRST_SEED)
    hosts = PaperHosts()
    noticed, survived = 0, []
    for case in (case for seed in ALTERED_SEEDS for case in cases(seed, MUTANT_PACKETS)):
        hosts.enforce(case.state)
        pairs = list(zip(case.packets, case.expected, strict=True))
        for name, host in hosts.hosts.items():
            rules = asyncio.run(host.nft.rules(INET))
            walks = (hosts.walk(packet)[1] for packet in case.packets)
            decided = [rule for walked in walks for rule in deciding(name, walked, rules)]
            sound = host.rules
            for rule in random.sample(decided, min(len(decided), ALTERATIONS // 2)):
                host.rules, how = alter(random, host, rule)
                if any(hosts.arrives(packet) != expected for packet, expected in pairs):
                    noticed += 1
                else:
                    survived.append(how)
            host.rules = sound
    share = noticed / (noticed + len(survived))
    record_property("noticed", f"{noticed} of {noticed + len(survived)}")
    assert noticed > 100
    assert share >= NOTICED_AT_LEAST, "\n".join(survived)
