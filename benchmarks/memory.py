"""A whole agent's memory, by how many endpoints the cluster has elsewhere."""

import signal
import time
from collections.abc import Iterator

from benchmarks import labs, population
from benchmarks.results import Result
from tortie.datastore.client import Client
from tortie.lab import cluster, processes

SIZES = {10_000: "≤ 60", 100_000: "≤ 120"}
PER_HOST = 100
POLICIES = 500


def run() -> Iterator[Result]:
    """Endpoints with labels of few values, and nothing of theirs on this host."""
    with labs.lab("memory", 1) as lab:
        (host,) = lab.hosts
        written = 0

        async def fill(client: Client) -> None:
            if not written:
                await population.write(client, population.policies(POLICIES))
            for first in range(written, size, PER_HOST):
                some = population.endpoints(PER_HOST, f"elsewhere-{first // PER_HOST}", first)
                await population.write(client, some)

        for size, target in SIZES.items():
            pid = cluster.agent_pid(lab, host)
            assert pid is not None
            processes.stop([pid], signal.SIGTERM)
            labs.with_client(lab, fill)
            written = size
            began = time.monotonic()
            pid = cluster.start_agent(lab, host)
            cluster.wait_ready(lab, {host: pid})
            yield Result(
                f"agent's start, {size:,} endpoints elsewhere", time.monotonic() - began, "s"
            )
            resident, peak = labs.memory_mib(pid)
            yield Result(f"agent's memory, {size:,} endpoints elsewhere", resident, "MiB", target)
            yield Result(f"agent's memory at its peak, {size:,} endpoints", peak, "MiB")
