"""What runs because of a test is found, with the test that started it."""

import os
import signal
import subprocess

from tests import leftovers


def test_a_process_is_known_by_its_environment() -> None:
    """Also when whoever started it is gone."""
    script = "sleep 60 >/dev/null 2>&1 & echo $!"
    started = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    orphan = int(started.stdout)
    try:
        what = leftovers.started_by_tests()[orphan]
    finally:
        os.kill(orphan, signal.SIGKILL)
    assert what.startswith("sleep 60 (started in tests/unit/test_leftovers.py::test_a_process_is_")


def test_a_child_is_known_by_its_parent() -> None:
    with subprocess.Popen(["sleep", "60"], env={}) as child:
        try:
            assert child.pid in leftovers.started_by_tests()
        finally:
            child.kill()
    assert child.pid not in leftovers.started_by_tests()
    assert os.getpid() not in leftovers.started_by_tests()
