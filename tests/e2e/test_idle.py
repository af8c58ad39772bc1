"""A steady agent sleeps, also while there is a demo next to it."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.e2e.live import command, running_lab

WINDOW_SECONDS = 30.0
SAMPLE_SECONDS = 0.25
REST_SECONDS = 3.0
"""Until BGP, address detection and the first reports have come to rest."""

ALLOWANCE = 1.5
"""The window may begin just before a report and an audit, and end just after the next."""

EMBEDDED_MOMENTS_A_MINUTE = 6
"""Audit and comparison (60 s), report and lease (30 s)."""
ETCD_SWITCHES_A_MINUTE = 60


class Idle(NamedTuple):
    switches: int
    """Voluntary context switches, of all threads."""
    moments: int
    """How many samples saw any: the same cause makes one moment of several switches."""


class Watch(threading.Thread):
    """Counts in the background, so that other things may be tested meanwhile."""

    def __init__(self, agents: dict[str, int]) -> None:
        super().__init__(daemon=True)
        self._agents = agents
        self.found: dict[str, Idle] = {}

    def run(self) -> None:
        time.sleep(REST_SECONDS)
        self.found = _watch(self._agents)


@pytest.fixture(scope="module")
def watch() -> Iterator[Watch]:
    # The embedded datastore is one machine's: other hosts' reports would wake it.
    with (
        running_lab("e2e-ie", hosts=1) as embedded,
        running_lab("e2e-ib", "etcd", "bgp", hosts=3) as etcd,
    ):
        made = (embedded, etcd)
        for live in made:
            for name in ("a", "b", "c"):
                live.add(name, "h1")
            live.settle()
        started = Watch({live.datastore: live.agent_pid("h1") for live in made})
        started.start()
        yield started
        started.join()


@pytest.mark.timeout(120)
def test_the_demo_keeps_its_promises(watch: Watch) -> None:
    result = command("demo", timeout_seconds=100)
    assert result.code == 0, result.out + result.err
    assert "tortie lab up" in result.out


def test_a_steady_agent_sleeps(watch: Watch) -> None:
    watch.join()
    found = watch.found
    print({name: idle._asdict() for name, idle in found.items()})
    minutes = WINDOW_SECONDS / 60
    embedded, etcd = found["embedded"], found["etcd"]
    assert embedded.moments <= EMBEDDED_MOMENTS_A_MINUTE * minutes * ALLOWANCE
    assert etcd.switches <= ETCD_SWITCHES_A_MINUTE * minutes * ALLOWANCE


def _watch(agents: dict[str, int]) -> dict[str, Idle]:
    first = last = {name: _switches(pid) for name, pid in agents.items()}
    moments = dict.fromkeys(agents, 0)
    give_up = time.monotonic() + WINDOW_SECONDS
    while time.monotonic() < give_up:
        time.sleep(SAMPLE_SECONDS)
        now = {name: _switches(pid) for name, pid in agents.items()}
        for name in agents:
            moments[name] += now[name] != last[name]
        last = now
    return {name: Idle(last[name] - first[name], moments[name]) for name in agents}


def _switches(pid: int) -> int:
    total = 0
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        for line in status.read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches:"):
                total += int(line.split()[1])
    return total
