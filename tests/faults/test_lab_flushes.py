"""K1, K2, K3 on real hosts: whatever others do, and whoever is killed, for as long as it takes.

`TORTIE_FLUSH_SECONDS` makes it longer; `make soak` does.
"""

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.live import running_lab
from tests.faults import lab_monitor
from tests.faults.lab_monitor import World

from tortie.agent import wiring

SECONDS = float(os.environ.get("TORTIE_FLUSH_SECONDS", "3"))
KILLS = max(2, int(SECONDS / 10))
LOST = 0.05
"""Of what is allowed, at most: a busy machine's sockets overflow. Forbidden is forbidden."""

pytestmark = pytest.mark.timeout(120 + 5 * SECONDS)

DAMAGE = (
    "delete table inet tortie",
    "delete table arp tortie",
    "insert rule inet tortie forward-to accept",
    "insert rule inet tortie host-input accept",
    "delete chain inet tortie postrouting",
    "flush map inet tortie floating4",
    "flush set inet tortie masquerade4",
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with lab_monitor.running_world("fls", tmp_path_factory.mktemp("world")) as made:
        yield made


def check(found: lab_monitor.Verdicts) -> None:
    assert not found.leaks(), found.leaks()
    assert not found.strange, found.strange[:3]
    too_many = {way: lost for way, lost in found.lost().items() if lost > LOST * found.sent}
    assert not too_many, f"lost of {found.sent}: {too_many}"


def test_the_monitors_see_what_there_is_to_see(world: World) -> None:
    """What is forbidden to reach others is so by policy alone; without it, it arrives."""
    with lab_monitor.verdicts(world) as found:
        time.sleep(0.2)
    check(found)
    with world.live.restored():
        world.live.ok("delete", "globalnetworkpolicy", "wall")
        world.live.ok("delete", "hostendpoint", "uplink")
        world.live.settle()
        with lab_monitor.verdicts(world) as found:
            time.sleep(0.2)
    ways = {way for way in world.ways if not way.allowed and way.ear != "h1"}
    assert set(found.leaks()) == ways, found.leaks()


def test_flushes_without_end_on_every_host(world: World) -> None:
    before, held = lab_monitor.states(world), lab_monitor.census(world)
    with (
        lab_monitor.connections(world) as connections,
        lab_monitor.verdicts(world) as found,
        lab_monitor.flushing(world) as flushes,
    ):
        time.sleep(SECONDS)
    for host, log in flushes.items():
        assert len(log.read_text().splitlines()) > 20 * SECONDS, f"{host} was hardly flushed"
    check(found)
    for name, connection in connections.items():
        seen = connection.stop()
        assert not seen.problem, f"{name}: {seen}"
        assert seen.echoes > 10, f"{name}: {seen}"
    assert lab_monitor.states(world) == before
    for host, kinds in lab_monitor.census(world).items():
        assert not kinds - held[host], f"{host} holds more"


def test_agents_killed_at_any_moment_while_others_damage_what_they_can(
    world: World, tmp_path: Path
) -> None:
    """In the middle of an apply, of a start; and nobody but the keeper is there meanwhile."""
    live, rng = world.live, random.Random(int(os.environ.get("TORTIE_RANDOM", "0")))
    before = lab_monitor.states(world)
    policy = tmp_path / "churn.yaml"
    with (
        lab_monitor.connections(world) as connections,
        lab_monitor.verdicts(world) as found,
        lab_monitor.flushing(world),
    ):
        for number in range(KILLS):
            host = f"h{number % 2 + 1}"
            policy.write_text(CHURN % number)
            live.ok("apply", "-f", str(policy))
            time.sleep(rng.uniform(0, 0.02))
            live.stop_agent(host, signal.SIGKILL)
            for damage in DAMAGE:
                assert live.command_in(host, "nft", *damage.split()).returncode != 0, damage
            live.start_agent(host)
    live.ok("delete", "globalnetworkpolicy", "churn")
    live.settle()
    check(found)
    for name, connection in connections.items():
        assert not connection.stop().problem, f"{name}: {connection.stop()}"
    assert lab_monitor.states(world) == before


CHURN = """apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: churn}
spec:
  selector: role == 'open'
  order: %d
  types: [Ingress]
  ingress: [{action: Pass}]
"""


def test_agents_without_owned_tables_repair_all_of_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As on an older kernel: nothing forbidden gets to a workload while agents repair, again and
    again, and in the end every rule, map and set is back, of whatever it was."""
    monkeypatch.setenv(wiring.OWNED_TABLES_ENVIRONMENT, "never")
    with running_lab("uno", hosts=2) as live:
        other = World(live, tmp_path)
        before = lab_monitor.states(other)
        assert not any("owner" in words for words in before.values())
        with lab_monitor.connections(other) as connections, lab_monitor.verdicts(other) as found:
            for host in ("h1", "h2"):
                for damage in ("flush ruleset", *DAMAGE, "flush ruleset"):
                    live.command_in(host, "nft", *damage.split())
                    live.eventually(lambda: lab_monitor.states(other) == before, damage)
        ends = {way.ear for way in found.leaks()}
        # The sender's half takes an action that not every kernel has: `test_second_line.py`.
        assert not ends - {"h1", "h2"}, found.leaks()
        for name, connection in connections.items():
            assert not connection.stop().problem, f"{name}: {connection.stop()}"
        for host in ("h1", "h2"):
            assert "repaired" in live.agent_log(host), "the damage was felt"
