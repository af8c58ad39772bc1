"""What all tests share.

Random tests are the same ones each time, so that a run repeats; `make soak`
looks further: it sets TORTIE_RANDOM to the number of the round, and gives seeds.
tests/soak is for it alone.

Tests that race with real daemons, timers and other processes get one more try,
because a busy machine can make a healthy one late. It is shown as `R`: one
that needs it more than rarely has a bug, or waits for the wrong thing. Pure
tests get none.

A run that leaves a process, a namespace, a lab or a cgroup behind fails, and says
which test made it. One that is told to stop ends through every fixture.
"""

import os
import signal
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, settings
from tests import leftovers

from tortie.lab import cluster

WITH_REAL_DAEMONS = {
    "attacks", "bgp", "cli", "cni", "datastore", "dhcp", "docker", "e2e", "faults", "hosts", "kube",
    "netns", "openstack",
}  # fmt: skip

collect_ignore = [] if os.environ.get("TORTIE_RANDOM") else ["soak"]

# How long an example takes says how busy the machine is; where it matters, a test says so.
settings.register_profile(
    "repeatable",
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
if not os.environ.get("TORTIE_RANDOM"):
    settings.load_profile("repeatable")

_before = leftovers.names()
_left: list[str] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.relative_to(here).parts[0] in WITH_REAL_DAEMONS:
            item.add_marker(pytest.mark.flaky(reruns=1, reruns_delay=1))


def pytest_sessionstart() -> None:
    leftovers.mark()
    _end_tidily_when_told_to_stop()


def _end_tidily_when_told_to_stop() -> None:
    run = os.getpid()

    def stop(number: int, _: object) -> None:
        if os.getpid() == run:
            pytest.exit(f"told to stop by {signal.Signals(number).name}", 128 + number)
        # A child that a test has forked: as if nobody had asked to be told.
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        # A run in the background ignores it; what it starts is to heed it all the same.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, stop)
    # `tortie lab up`, run in this process, would have it end as a command does.
    patch.object(cluster, "clean_up_when_stopped").start()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    _left.extend(leftovers.end(_before))
    if _left and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _left:
        terminalreporter.section("left behind by tests", red=True)
        for line in _left:
            terminalreporter.line(line)
