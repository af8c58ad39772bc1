"""An agent's start in a large cluster: until everything is enforced, and its memory."""

import signal
import time
from collections.abc import Iterator

from benchmarks import labs, population
from benchmarks.results import Result
from tortie.datastore.client import Client
from tortie.lab import cluster, processes

ENDPOINTS, LOCAL, POLICIES = 10_000, 1_000, 1_000


def run() -> Iterator[Result]:
    with labs.lab("bench", 1) as lab:
        (host,) = lab.hosts
        pid = cluster.agent_pid(lab, host)
        assert pid is not None, "the lab is up"
        processes.stop([pid], signal.SIGTERM)

        async def fill(client: Client) -> None:
            await population.write(client, population.endpoints(LOCAL, "h1"))
            await population.write(
                client, population.endpoints(ENDPOINTS - LOCAL, "elsewhere", LOCAL)
            )
            await population.write(client, population.policies(POLICIES))

        labs.with_client(lab, fill)
        size = f"{ENDPOINTS:,} endpoints, {LOCAL:,} of them here, {POLICIES:,} policies"
        for state in ("nothing in the kernel", "all in the kernel"):
            began = time.monotonic()
            pid = cluster.start_agent(lab, host)
            cluster.wait_ready(lab, {host: pid})
            yield Result(f"start, {size}, {state}", time.monotonic() - began, "s")
            resident, peak = labs.memory_mib(pid)
            yield Result(f"memory after it, {state}", resident, "MiB", "≤ 60")
            yield Result(f"memory at its peak, {state}", peak, "MiB")
            processes.stop([pid], signal.SIGTERM)
