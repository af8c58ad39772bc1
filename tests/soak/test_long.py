"""K5 and K10 at full length: ten minutes stopped, five minutes of five thousand policies flapping.

`TORTIE_SOAK_SECONDS` makes both shorter.
"""

import os
import signal
import time
from pathlib import Path

import pytest
from tests.attacks.arena import Arena
from tests.e2e.live import running_lab
from tests.faults.agent import running
from tests.faults.monitor import converged, monitored
from tests.faults.test_agent import ISOLATE_B, OPEN_B
from tests.netns.dataplane_host import ALLOW_ALL, BRIEF, hears, tier

from tortie.desired.policy import PolicyId, PolicyList, Rule

STOPPED_SECONDS = int(os.environ.get("TORTIE_SOAK_SECONDS", "600"))
FLAPPING_SECONDS = int(os.environ.get("TORTIE_SOAK_SECONDS", "300"))
POLICIES, FLAPS_PER_SECOND = 5000, 200
PAIR = ("red/a", "red/b")
CONVERGED_SECONDS = 2.0
GROWTH_MIB = 30

pytestmark = pytest.mark.timeout(1200)


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def test_k10_five_thousand_policies_flap(field: Arena) -> None:
    """What is written follows, memory does not grow, and 2 s after the last change all is as it
    should be."""
    ids: list[PolicyId] = []
    for number in range(POLICIES):
        ids.append(field.host.policy(f"flap-{number}", ingress=(Rule("Deny"),)))
    lists = PolicyList((tier(*ids[:50], default="Pass"),), profiles=(ALLOW_ALL,))
    field.host.endpoint(field.open, ingress=lists)
    field.host.endpoint(field.guarded, ingress=PolicyList((tier(*ids[50:]),)))
    field.host.apply()
    flaps = 0
    with running(field) as agent, monitored(field) as seen:
        began, before = time.monotonic(), 0.0
        while (passed := time.monotonic() - began) < FLAPPING_SECONDS:
            name, action = f"flap-{flaps % POLICIES}", "Deny" if flaps // POLICIES % 2 else "Pass"
            agent.call(
                lambda name=name, action=action: field.host.policy(name, ingress=(Rule(action),))  # type: ignore[misc]
            )
            flaps += 1
            if passed > FLAPPING_SECONDS / 5 and not before:
                before = resident_mib()
            time.sleep(max(0.0, flaps / FLAPS_PER_SECOND - passed))
        last = time.monotonic()
        while not field.host.dataplane.in_sync:
            assert time.monotonic() - last < CONVERGED_SECONDS
            time.sleep(0.005)
        assert resident_mib() - before < GROWTH_MIB, "memory is flat"
        assert agent.statistics[1] == 0, "no apply failed"
    assert flaps > FLAPPING_SECONDS * 5, "it did flap"
    assert seen.leaked == 0, str(seen)
    converged(field)
    assert not hears(field.attacker, field.guarded, 9500, patience=BRIEF)


def test_k5_ten_minutes_stopped(tmp_path: Path) -> None:
    """The last state stands all the time; then it catches up at once, and nothing stale is
    written."""
    with running_lab("lng", hosts=1) as lab:
        lab.add("a", "h1", role="a")
        lab.add("b", "h1", role="b")
        lab.apply(ISOLATE_B, tmp_path)
        pid = lab.agent_pid("h1")
        os.kill(pid, signal.SIGSTOP)
        try:
            file = tmp_path / "changed.yaml"
            file.write_text(OPEN_B)
            lab.ok("apply", "-f", str(file))
            give_up = time.monotonic() + STOPPED_SECONDS
            while time.monotonic() < give_up:
                assert not lab.reaches(*PAIR), "what was decided last is enforced"
                time.sleep(min(10, STOPPED_SECONDS / 3))
        finally:
            os.kill(pid, signal.SIGCONT)
        lab.settle()
        assert lab.reaches(*PAIR), "and now the newest"
        assert lab.agent_pid("h1") == pid
