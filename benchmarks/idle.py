"""What an agent does while nothing that concerns it changes, with five thousand endpoints.

Five minutes; TORTIE_IDLE_SECONDS=3600 makes it the whole hour. A wake-up is a moment (a quarter
of a second) in which any thread went from sleep to work; context switches are those of all
threads. Endpoints' interfaces do not exist, so the kernel has all of their tables and no packets.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks import labs, population
from benchmarks.results import Result
from tortie.datastore.client import Client
from tortie.lab import cluster
from tortie.lab.description import Datastore

ENDPOINTS, POLICIES = 5_000, 500
SECONDS = float(os.environ.get("TORTIE_IDLE_SECONDS", "300"))
SAMPLE_SECONDS = 0.25
SETTLED_SECONDS = 20.0
"""Without work for so long: all that was written has arrived and is done."""


class Use(NamedTuple):
    switches: int
    cpu_seconds: float


def run() -> Iterator[Result]:
    yield from _measure("embedded", ("≤ 6", ""))
    yield from _measure("etcd", ("", "≤ 60"))


def _measure(datastore: Datastore, targets: tuple[str, str]) -> Iterator[Result]:
    with labs.lab("idle", 1, datastore) as lab:
        (host,) = lab.hosts

        async def fill(client: Client) -> None:
            await population.write(client, population.policies(POLICIES))
            await population.write(client, population.endpoints(ENDPOINTS, host.name))

        labs.with_client(lab, fill)
        pid = cluster.agent_pid(lab, host)
        assert pid is not None
        _settle(pid)
        first = last = _use(pid)
        moments, began = 0, time.monotonic()
        while time.monotonic() - began < SECONDS:
            time.sleep(SAMPLE_SECONDS)
            now = _use(pid)
            moments += now.switches != last.switches
            last = now
        minutes = (time.monotonic() - began) / 60
        title = f"idle on {datastore}, {ENDPOINTS:,} endpoints here"
        yield Result(f"{title}: wake-ups", moments / minutes, "/min", targets[0])
        switches = (last.switches - first.switches) / minutes
        yield Result(f"{title}: context switches", switches, "/min", targets[1])
        cpu = (last.cpu_seconds - first.cpu_seconds) / minutes
        yield Result(f"{title}: CPU time", cpu * 1000, "ms/min")


def _settle(pid: int) -> None:
    calm, before = 0.0, _use(pid).cpu_seconds
    while calm < SETTLED_SECONDS:
        time.sleep(2)
        now = _use(pid).cpu_seconds
        calm = calm + 2 if now - before < 0.1 else 0.0
        before = now


def _use(pid: int) -> Use:
    switches = 0
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        for line in status.read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches:"):
                switches += int(line.split()[1])
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    return Use(switches, ticks / os.sysconf("SC_CLK_TCK"))
