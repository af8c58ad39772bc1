"""What all tests share.

Random tests are the same ones each time, so that a run repeats; `make soak`
looks further: it sets TORTIE_RANDOM to the number of the round, and gives seeds.
tests/soak is for it alone.

Tests that race with real daemons, timers and other processes get two more tries,
because a busy machine can make a healthy one late. It is shown as `R`: one
that needs it more than rarely has a bug, or waits for the wrong thing. Pure
tests get none.
"""

import os
from pathlib import Path

import pytest
from hypothesis import settings

WITH_REAL_DAEMONS = {
    "attacks", "bgp", "cli", "cni", "datastore", "dhcp", "docker", "e2e", "faults", "hosts", "kube",
    "netns", "openstack",
}  # fmt: skip

collect_ignore = [] if os.environ.get("TORTIE_RANDOM") else ["soak"]

settings.register_profile("repeatable", derandomize=True)
if not os.environ.get("TORTIE_RANDOM"):
    settings.load_profile("repeatable")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.relative_to(here).parts[0] in WITH_REAL_DAEMONS:
            item.add_marker(pytest.mark.flaky(reruns=2, reruns_delay=1))
