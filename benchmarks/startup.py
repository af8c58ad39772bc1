"""An agent's start on a full host and in a large cluster: until everything is enforced.

Elapsed time is what counts; processor time says what it would be with nothing beside it. The
endpoints' interfaces do not exist, so there are no routes to them.
"""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import labs, population
from benchmarks.results import Result
from tortie.datastore.client import Client
from tortie.lab import cluster, processes

_TICKS_PER_SECOND = 100

POLICIES = 1_000
FULL = 5_000
"""Endpoints here, and nowhere else."""
LOCAL, CLUSTER = 1_000, 10_000


def run() -> Iterator[Result]:
    yield from _starts(FULL, FULL, "")
    yield from _starts(LOCAL, CLUSTER, "≤ 60")


def _starts(local: int, endpoints: int, memory_target: str) -> Iterator[Result]:
    with labs.lab("bench", 1) as lab:
        (host,) = lab.hosts
        pid = cluster.agent_pid(lab, host)
        assert pid is not None, "the lab is up"
        processes.stop([pid], signal.SIGTERM)

        async def fill(client: Client) -> None:
            await population.write(client, population.endpoints(local, "h1"))
            await population.write(
                client, population.endpoints(endpoints - local, "elsewhere", local)
            )
            await population.write(client, population.policies(POLICIES))

        labs.with_client(lab, fill)
        size = f"{endpoints:,} endpoints, {local:,} of them here, {POLICIES:,} policies"
        for state, target in (("nothing in the kernel", "≤ 2.5"), ("all in the kernel", "≤ 1")):
            began = time.monotonic()
            pid = cluster.start_agent(lab, host)
            cluster.wait_ready(lab, {host: pid})
            title = f"start, {size}, {state}"
            yield Result(title, time.monotonic() - began, "s", target if local == FULL else "")
            yield Result(f"{title}, processor", _processor_seconds(pid), "s")
            resident, peak = labs.memory_mib(pid)
            yield Result(f"memory after it, {state}", resident, "MiB", memory_target)
            yield Result(f"memory at its peak, {state}", peak, "MiB")
            processes.stop([pid], signal.SIGTERM)


def _processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND
