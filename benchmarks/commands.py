"""What the command line costs: processor time of a fresh process, and of one that writes a lot.

Processor time, for whoever waits at a shell shares the machine; against a bare interpreter's,
for machines differ. The smallest of several runs: noise only adds.
"""

import asyncio
import contextlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import population
from benchmarks.results import Result
from tortie.datastore.client import Client
from tortie.datastore.connect import connect, from_environment

RUNS = 9
ENDPOINTS, POLICIES = 200, 1_000
FORMATS = ("ps", "wide", "name", "json", "yaml", "jsonpath={.items[*].metadata.name}")


def run() -> Iterator[Result]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        bare = cpu_ms({}, sys.executable, "-c", "pass")
        yield Result("bare interpreter", bare, "ms")
        embedded = {"DATASTORE_TYPE": "embedded", "TORTIE_EMBEDDED_PATH": str(path / "store.db")}
        help_ms = tortie_ms(embedded, "--help")
        yield Result("tortie --help", help_ms, "ms", "≤ 35 ms")
        yield Result("the same in bare interpreters", help_ms / bare, "x", "≤ 3")
        with etcd(path) as etcd_environment:
            for name, environment in (("embedded", embedded), ("etcd", etcd_environment)):
                asyncio.run(fill(environment))
                for form in FORMATS:
                    words = ("get", "wep", "-A", "-o", form)
                    shown = f"get of {ENDPOINTS} endpoints, {name}, -o {form.partition('=')[0]}"
                    yield Result(shown, tortie_ms(environment, *words), "ms", "≤ 100 ms")
                yield from apply(path, name, environment)


def cpu_ms(environment: dict[str, str], *argv: str) -> float:
    """Of the cheapest of `RUNS` runs."""
    found = []
    for _ in range(RUNS):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            argv, check=True, stdout=subprocess.DEVNULL, env={**os.environ, **environment}
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
        found.append((user + system) * 1000)
    return min(found)


def tortie_ms(environment: dict[str, str], *words: str) -> float:
    return cpu_ms(environment, sys.executable, "-m", "tortie", *words)


@contextlib.contextmanager
def etcd(folder: Path) -> Iterator[dict[str, str]]:
    from tests.datastore.etcd_server import EtcdServer

    server = EtcdServer(folder / "etcd").start()
    try:
        yield {"DATASTORE_TYPE": "etcdv3", "ETCD_ENDPOINTS": server.endpoint}
    finally:
        server.kill()


async def fill(environment: dict[str, str]) -> None:
    client: Client = await connect(from_environment(environment), create=True)
    await population.write(client, population.endpoints(ENDPOINTS, "h1"))
    await client.close()


def apply(folder: Path, name: str, environment: dict[str, str]) -> Iterator[Result]:
    """New ones, then the same again, then each of them changed."""
    file = folder / "policies.yaml"
    for what, order in (("new", 1), ("unchanged", 1), ("changed", 2)):
        file.write_text("---\n".join(policy(number, order) for number in range(POLICIES)))
        began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-m", "tortie", "apply", "-f", str(file)],
            check=True, capture_output=True, env={**os.environ, **environment},
        )  # fmt: skip
        took = time.monotonic() - began
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        shown = f"apply of {POLICIES:,} policies, {what}, {name}"
        yield Result(shown, took, "s", "≤ 3 s")
        yield Result(f"{shown}, processor time", cpu, "s")


def policy(number: int, order: int) -> str:
    rules = "".join(
        f"    - action: Allow\n      protocol: TCP\n"
        f"      source: {{selector: app == 'app-{(number + step) % 500}'}}\n"
        f"      destination: {{ports: [{8000 + step}]}}\n"
        for step in range(5)
    )
    return (
        "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\n"
        f"metadata: {{name: bench-{number}, namespace: bench}}\n"
        f"spec:\n  order: {order}\n  selector: app == 'app-{number % 500}'\n  ingress:\n{rules}"
    )
