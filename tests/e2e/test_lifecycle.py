"""Labs come and go; what is left of a broken one goes too."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.live import inside, need_root

from tortie.kernel import netns
from tortie.lab import description, topology


@pytest.fixture
def name() -> Iterator[str]:
    """Of labs that this test makes: `name` and whatever begins with it and a dash."""
    need_root()
    prefix = f"e2e{os.getpid()}"
    yield prefix
    for left in (prefix, f"{prefix}-b"):
        inside("lab", "down", "--name", left)


def test_labs_side_by_side(name: str) -> None:
    other = f"{name}-b"
    for lab in (name, other):
        assert inside("lab", "up", "--name", lab, "--hosts", "1").code == 0
        added = inside("lab", "workload", "add", "--name", lab, "web", "--host", "h1")
        assert added.code == 0, added
    listed = inside("lab", "list").out.split()
    assert name in listed
    assert other in listed
    down = inside("lab", "down", "--name", name)
    assert (down.code, down.out) == (0, f"lab {name} is gone\n")
    assert _traces(name) == []
    status = inside("lab", "status", "--name", other)
    assert status.code == 0, "the other one is none the worse"
    assert "default/web" in status.out
    assert inside("lab", "down", "--name", other).code == 0
    assert _traces(other) == []


def test_a_name_that_is_taken(name: str) -> None:
    assert inside("lab", "up", "--name", name, "--hosts", "1").code == 0
    before = _traces(name)
    again = inside("lab", "up", "--name", name)
    assert again.code != 0
    assert "already there; choose another --name" in again.err
    assert len(again.err.splitlines()) == 1
    assert _traces(name) == before, "the lab is as it was"
    assert inside("lab", "status", "--name", name).code == 0


@pytest.mark.parametrize("datastore", ["embedded", "etcd"])
@pytest.mark.parametrize("seed", range(2))
def test_down_after_a_crash_in_the_middle_of_up(name: str, datastore: str, seed: int) -> None:
    delay_seconds = random.Random(f"{datastore} {seed}").uniform(0.25, 1.5)
    process = subprocess.Popen(
        [sys.executable, "-m", "tortie", "lab", "up", "--name", name, "--datastore", datastore],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(delay_seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()
    down = inside("lab", "down", "--name", name)
    assert down.code == 0, down
    assert _traces(name) == []
    assert inside("lab", "up", "--name", name, "--hosts", "1").code == 0, "the name is free"


def test_down_of_nothing(name: str) -> None:
    down = inside("lab", "down", "--name", name)
    assert (down.code, down.out) == (0, f"lab {name} was not there\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_up_leaves_nothing(name: str, number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "tortie", "lab", "up", "--name", name],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert "wiring" in process.stderr.readline()
    process.send_signal(number)
    _, err = process.communicate()
    assert process.returncode != 0
    assert "Traceback" not in err
    assert _traces(name) == []


def test_the_demo_leaves_a_lab_of_its_name_alone() -> None:
    description.create(description.plan("demo", 1, "embedded", "direct", ipv6=False))
    try:
        result = inside("demo")
        assert result.code != 0
        assert "remove it first: tortie lab down --name demo" in result.err
        assert description.load("demo").name == "demo"
    finally:
        inside("lab", "down", "--name", "demo")


def _traces(name: str) -> list[str]:
    """Everything of a lab: its namespaces (or the files of them), files and processes."""
    prefix = f"tortie.{name}."
    found = [f"namespace {one}" for one in topology.namespaces(prefix)]
    names = Path(netns.NAMED_DIRECTORY)
    found += [f"file {one}" for one in names.glob(f"{prefix}*") if one.name not in str(found)]
    directory = description.ROOT / name
    found += [f"file {one}" for one in (directory, *directory.rglob("*")) if one.exists()]
    for entry in Path("/proc").iterdir():
        try:
            arguments = (entry / "cmdline").read_bytes().decode(errors="replace")
        except (OSError, UnicodeError):
            continue
        if entry.name.isdigit() and f"{directory}/" in f"{arguments}/".replace("\0", "/"):
            found.append(f"process {entry.name}: {arguments}")
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    found += [f"mount {line}" for line in mounts if prefix in line or f"{directory}" in line]
    return sorted(found)
