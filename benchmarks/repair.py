"""Where tables are not owned: from the commit of others that deletes ours to that which repairs.

So long are host endpoints open, and workloads cut off, as on a kernel before 6.9. An agent in a
lab is told to do as there.
"""

import asyncio
import os
import time
from collections.abc import Iterator
from functools import partial
from unittest.mock import patch

from benchmarks import labs, population
from benchmarks.results import Result, latencies
from tortie.agent.wiring import OWNED_TABLES_ENVIRONMENT
from tortie.kernel import netns
from tortie.kernel.nft.connection import Nft
from tortie.kernel.nft.constants import Family
from tortie.kernel.nft.objects import TableName
from tortie.kernel.nft.transaction import Transaction
from tortie.lab import cluster
from tortie.lab.description import Lab

SIZES = (10, 100, 1000)
COUNT = 200
PATIENCE_SECONDS = 30.0
_TABLES = (TableName(Family.INET, "tortie"), TableName(Family.ARP, "tortie"))


def run() -> Iterator[Result]:
    with (
        patch.dict(os.environ, {OWNED_TABLES_ENVIRONMENT: "never"}),
        labs.lab("bench-repair", 1) as lab,
    ):
        present = 0
        for size in SIZES:
            added = population.endpoints(size - present, "h1", present)
            labs.with_client(lab, partial(population.write, operations=added))
            present = size
            cluster.wait_enforced(lab)
            yield from latencies(
                f"tables deleted by others → repaired, {size} endpoints",
                _measure(lab, max(20, COUNT * 10 // size)),
                "p99 ≤ 5",
            )


def _measure(lab: Lab, count: int) -> list[float]:
    path = netns.named_path(lab.host_namespace("h1"))
    return netns.run_in(path, lambda: asyncio.run(_delete_again_and_again(count)))


async def _delete_again_and_again(count: int) -> list[float]:
    nft = Nft.open()
    found = []
    try:
        for _ in range(count):
            flush = Transaction()
            for name in _TABLES:
                flush.delete_table(name)
            before = await nft.generation()
            await nft.commit(flush)
            began = time.perf_counter()
            while await nft.generation() < before + 2:  # each commit is one
                if time.perf_counter() - began > PATIENCE_SECONDS:
                    raise TimeoutError("the agent does not repair its tables")
                time.sleep(0.0001)
            found.append(time.perf_counter() - began)
            time.sleep(0.05)
    finally:
        nft.close()
    return found
