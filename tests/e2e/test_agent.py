"""The agent dies, stops and comes back, while traffic goes on."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.e2e.live import LiveLab
from tests.e2e.traffic import connection

from tortie.attach.client import Client as AttachClient
from tortie.attach.helper import CAPABILITIES
from tortie.kernel.capabilities import Capability, of_process
from tortie.lab import processes
from tortie.lib.errors import TortieError

HOST = "h3"
"""Of w5, which the policy guards."""

GUARD = """
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: default.guard}
spec:
  selector: role == 'c'
  types: [Ingress]
  ingress:
  - {action: Allow, source: {selector: ROLE}}
"""
FROM_B = GUARD.replace("ROLE", "role == 'b'")
FROM_A = GUARD.replace("ROLE", "role == 'a'")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_l15_enforcement_and_connections_outlive_the_agent(
    live: LiveLab, tmp_path: Path, number: signal.Signals
) -> None:
    live.apply(FROM_B, tmp_path)
    expected = live.check("with the agent")
    assert set(expected.values()) == {True, False}
    with connection(live, "w3", "w5") as traffic:
        before = live.generation(HOST), live.routes(HOST)
        live.stop_agent(HOST, number)
        observed = live.observed()
        assert observed == expected, "without the agent"
        live.start_agent(HOST)
        assert (live.generation(HOST), live.routes(HOST)) == before, "nothing to change"
        seen = traffic.stop()
    assert seen.problem == ""
    assert seen.echoes > 10
    assert live.check("with the new agent") == expected


def test_a_change_that_the_agent_missed_is_enforced_by_the_next(
    live: LiveLab, tmp_path: Path
) -> None:
    live.apply(FROM_B, tmp_path)
    live.check("before")
    with connection(live, "w1", "w3") as traffic:
        live.stop_agent(HOST)
        (tmp_path / "a.yaml").write_text(FROM_A)
        live.ok("apply", "-f", str(tmp_path / "a.yaml"))
        live.start_agent(HOST)
        live.settle()
        live.check("after")
        assert live.reaches("w4", "w5")
        assert not live.reaches("w3", "w5")
        assert traffic.stop().problem == ""


def test_a_flushed_ruleset_opens_nothing(live: LiveLab, tmp_path: Path) -> None:
    live.apply(FROM_B, tmp_path)
    expected = live.check("before")
    for host in live.lab.hosts:
        live.command_in(host.name, "nft", "flush", "ruleset")
    assert live.observed() == expected
    # And with nobody there who could repair it.
    live.stop_agent(HOST)
    live.command_in(HOST, "nft", "flush", "ruleset")
    assert live.observed() == expected
    live.start_agent(HOST)
    assert live.check("after") == expected


def test_l21_a_second_agent_is_refused(live: LiveLab) -> None:
    pid = live.agent_pid(HOST)
    directory = live.lab.host_directory(HOST)
    second = live.second_agent(HOST)
    assert second.code != 0
    assert f"another agent (process {pid}) runs on this host" in second.err.splitlines()[-1]
    assert live.agent_pid(HOST) == pid
    assert (directory / "agent.pid").read_text().strip() == str(pid)
    live.check("the first one goes on")


def test_the_lab_starts_an_agent_anew(live: LiveLab, tmp_path: Path) -> None:
    live.apply(FROM_B, tmp_path)
    before = live.agent_pid(HOST)
    for options in ((), ("--kill",)):
        said = live.lab_ok("restart", HOST, *options)
        after = live.agent_pid(HOST)
        assert str(after) in said
        assert after != before
        before = after
    # Without one, it is started.
    live.stop_agent(HOST)
    live.lab_ok("restart", HOST)
    live.check("the new one enforces")


def test_the_doctor_of_a_lab_host(live: LiveLab) -> None:
    """There is no systemd here; all else is as on a real host."""
    tortie = [sys.executable, "-m", "tortie"]
    inside = [*tortie, "doctor", "-o", "json", "--environment-file", "/nonexistent"]
    words = [*tortie, "lab", "exec", "--name", live.name, HOST, "--", *inside]
    found = json.loads(subprocess.run(words, capture_output=True, text=True).stdout)
    states = {one["name"]: one["state"] for one in found["checks"]}
    assert found["problems"] == 0
    assert states["units"] == "unknown"
    for name in ("policy in force", "agent", "readiness", "node", "BGP sessions", "clocks"):
        assert states[name] == "good", (name, found)


def test_the_agent_has_given_up_what_it_does_not_need(live: LiveLab) -> None:
    """Also what it gave up to its helper, which does nothing else."""
    assert of_process(live.agent_pid(HOST)) == {Capability.NET_ADMIN}
    assert of_process(helper_pid(live)) == set(CAPABILITIES)


def test_an_agent_without_its_helper_starts_anew(live: LiveLab) -> None:
    """It could bring no container in any more."""
    live.lab_ok("restart", HOST)
    former = helper_pid(live)
    os.kill(former, signal.SIGKILL)

    def is_back() -> bool:
        with contextlib.suppress(ValueError, TortieError):  # none, or two for a moment
            attach = live.lab.host_directory(HOST) / "attach.sock"
            with AttachClient(attach) as client:
                client.list()
            return helper_pid(live) != former
        return False

    live.eventually(is_back, "an agent with another helper")
    live.add("late", HOST, role="c")
    live.remove("late")


def helper_pid(live: LiveLab) -> int:
    [pid] = (
        pid
        for pid in processes.inside([live.lab.host_namespace(HOST)])
        if Path(f"/proc/{pid}/comm").read_text() == "tortie-netns\n"
    )
    return pid
