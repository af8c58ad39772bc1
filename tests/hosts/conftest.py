"""Three machines on one segment: a fresh Debian each, as the quickstart begins with."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.hosts.machine import Machine
from tests.hosts.quickstart import PAGE, Step, steps

from tortie.kernel import netns

NAMES = ("h1", "h2", "h3")
SUBNET = "192.0.2.{}"

PATIENCE_SECONDS = 40
"""For what becomes true soon after: sessions, routes, readiness."""


class Segment(NamedTuple):
    """A switch and its hosts' ends, as network namespaces."""

    prefix: str

    def network(self, name: str) -> str:
        return netns.named_path(self.prefix + name)

    def wire(self) -> None:
        netns.create_named(f"{self.prefix}switch")
        self.run("switch", "ip link add br0 type bridge; ip link set br0 up")
        for number, name in enumerate(NAMES, 11):
            self.add(name, number)

    def add(self, name: str, number: int) -> None:
        """A host's cable; `number` is the last byte of its address."""
        netns.create_named(self.prefix + name)
        self.run(
            name,
            f"""ip link set lo up
            ip link add eth0 type veth peer name {name} netns {self.prefix}switch
            ip address add {SUBNET.format(number)}/24 dev eth0
            ip link set eth0 up""",
        )
        self.run("switch", f"ip link set {name} master br0 up")

    def run(self, name: str, script: str) -> None:
        netns.run_in(self.network(name), lambda: subprocess.run(["sh", "-ec", script], check=True))

    def remove(self) -> None:
        for name in netns.list_named():
            if name.startswith(self.prefix):
                netns.delete_named(name)


Machines = Mapping[str, Machine]

TEST_SECONDS = 300
"""The first test pays for three machines and the whole quickstart."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(TEST_SECONDS))


@pytest.fixture(scope="session")
def segment() -> Iterator[Segment]:
    if os.geteuid() != 0:
        pytest.fail("needs root")
    made = Segment(f"thosts{os.getpid()}-")
    try:
        made.wire()
        yield made
    finally:
        made.remove()


@pytest.fixture(scope="session")
def cluster(segment: Segment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    """Three machines, on which the quickstart has been played from its first line to its last."""
    directory = tmp_path_factory.mktemp("machines")
    made: dict[str, Machine] = {}
    try:
        for name in NAMES:
            made[name] = Machine(name, segment.network(name), directory)
            made[name].boot()
            install_program(made[name])
        for step in steps(PAGE.read_text()):
            for name in NAMES if step.host == "every" else (step.host,):
                play(made[name], step)
        yield made
    finally:
        for machine in made.values():
            machine.power_off()


@pytest.fixture
def spare(segment: Segment, tmp_path: Path) -> Iterator[Machine]:
    """A machine on the segment that is not booted yet."""
    segment.add("spare", 14)
    made = Machine("spare", segment.network("spare"), tmp_path)
    try:
        yield made
    finally:
        made.power_off()
        netns.delete_named(f"{segment.prefix}spare")


def play(machine: Machine, step: Step) -> None:
    give_up = time.monotonic() + PATIENCE_SECONDS
    while True:
        done = machine.run("bash", "-ec", step.script)
        said = done.stdout + done.stderr
        if step.expected in said and (step.expected or done.returncode == 0):
            return
        assert step.expected, f"{machine.name}: {step.script}: {said}"
        assert time.monotonic() < give_up, (
            f"{machine.name}: {step.script}: not {step.expected!r} but: {said}\n{machine.log()}"
        )
        time.sleep(1)


def install_program(machine: Machine) -> None:
    """What `pip install` does, of this clone."""
    script = Path(sys.executable).with_name("tortie")
    machine.ok("ln", "-sf", str(script), "/usr/local/bin/tortie")
