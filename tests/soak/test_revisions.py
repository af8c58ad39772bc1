"""Upgrade and downgrade between real revisions of this repository, under traffic.

The hosts of a lab go over to an older revision's agent, and back, while everything is asked for
that is forbidden and all connections go on. A clone without history has no other revision; there
`tests/faults/test_versions.py` plays them.
"""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.live import LiveLab
from tests.faults import lab_monitor
from tests.faults.lab_monitor import World
from tests.faults.test_lab_flushes import check

from tortie.lab import cluster, processes

pytestmark = pytest.mark.timeout(300)

REPOSITORY = Path(__file__).parents[2]
BEHIND = (10, 40, 100)
"""Commits behind this one."""


def git(*arguments: str) -> str:
    command = ["git", "-C", str(REPOSITORY), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with lab_monitor.running_world("rev", tmp_path) as made:
        yield made


@pytest.mark.parametrize("behind", BEHIND)
def test_agents_of_another_revision_take_over_and_give_back(
    world: World, tmp_path: Path, behind: int
) -> None:
    if int(git("rev-list", "--count", "--first-parent", "HEAD")) <= behind:
        pytest.skip("a clone without that much history")
    older = tmp_path / "older"
    git("worktree", "add", "--detach", str(older), f"HEAD~{behind}")
    try:
        live = world.live
        with (
            lab_monitor.connections(world) as connections,
            lab_monitor.verdicts(world) as found,
        ):
            for host in ("h1", "h2"):
                live.stop_agent(host, signal.SIGTERM)
                pid = start(live, host, older)
                assert str(older) in Path(f"/proc/{pid}/environ").read_text(), "it is the older one"
            for host in ("h1", "h2"):
                live.stop_agent(host, signal.SIGKILL)
                live.start_agent(host)
        check(found)
        for name, connection in connections.items():
            assert not connection.stop().problem, f"{name}: {connection.stop()}"
    finally:
        git("worktree", "remove", "--force", str(older))


def start(live: LiveLab, host: str, source: Path) -> int:
    """As the lab does, with that revision's source; returns when it enforces."""
    lab, known = live.lab, live.lab.host(host)
    directory = lab.host_directory(host)
    options = ["--run-directory", str(directory), "--state-directory", str(directory / "state")]
    pid = processes.start(
        lab.host_namespace(host),
        [sys.executable, "-m", "tortie", "agent", *options],
        directory / "agent.log",
        environment={
            **cluster.environment(lab),
            "FELIX_FELIXHOSTNAME": host,
            "PYTHONPATH": str(source / "src"),
        },
    )
    cluster.wait_ready(lab, {known: pid})
    return pid
