"""`docker run` on our network and on Docker's bridge, on one dockerd, in turn."""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from tests.docker.dockerd import IMAGE, Docker

from benchmarks.labs import lab, memory_mib
from benchmarks.results import Result, latencies

ROUNDS = int(os.environ.get("TORTIE_DOCKER_ROUNDS", "20"))
AT_ONCE = 20
NETWORKS = {"tortie": "ours", "bridge": "theirs"}
"""Two of a user's own: Docker's default bridge has no name resolution, and is faster for it."""


def run() -> Iterator[Result]:
    with tempfile.TemporaryDirectory(prefix="bd") as folder, lab("bench-docker", 1) as made:
        docker = Docker(made, made.hosts[0], Path(folder) / "h1", ())
        try:
            docker.start()
            docker.import_image()
            docker.network("ours")
            docker.ok("network", "create", "theirs")
            yield from _one_at_a_time(docker)
            yield from _at_once(docker)
            resident, _ = memory_mib(docker.service_pid)
            yield Result("tortie docker serve: resident", resident, "MiB")
        finally:
            docker.close()


def _one_at_a_time(docker: Docker) -> Iterator[Result]:
    """A container that ends at once: made, started, stopped and removed."""
    seconds: dict[str, list[float]] = {name: [] for name in NETWORKS}
    for _ in range(ROUNDS):
        for name, network in NETWORKS.items():
            command = ("run", "--rm", "--network", network, IMAGE, "/bin/true")
            seconds[name].append(_timed(partial(docker.ok, *command)))
    for name in NETWORKS:
        yield from latencies(f"docker run --rm, {name}", seconds[name])
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    yield Result("docker run --rm, tortie/bridge", medians["tortie"] / medians["bridge"], "×")


def _at_once(docker: Docker) -> Iterator[Result]:
    found = {}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for name, network in NETWORKS.items():
            start = partial(_start, docker, network)
            started = time.perf_counter()
            list(pool.map(start, range(AT_ONCE)))
            found[name] = time.perf_counter() - started
            docker.ok("rm", "-f", *(f"{network}{number}" for number in range(AT_ONCE)))
            yield Result(f"{AT_ONCE} × docker run -d at once, {name}", found[name], "s")
    yield Result(
        f"{AT_ONCE} × docker run -d at once, tortie/bridge", found["tortie"] / found["bridge"], "×"
    )


def _start(docker: Docker, network: str, number: int) -> None:
    options = ("--network", network, "--stop-signal", "KILL", "--name", f"{network}{number}")
    docker.ok("run", "-d", *options, IMAGE, "/bin/sleep", "600")


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
