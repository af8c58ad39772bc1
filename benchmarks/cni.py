"""Container networks: ADD and DEL against Debian's ptp with host-local, in the same run.

The plugins are started as a runtime starts them, with a real agent in a lab host; the other
side are the plugins of containernetworking-plugins (written in Go), in a namespace of its own.
"""

import asyncio
import contextlib
import json
import os
import random
import resource
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.labs import lab, with_client
from benchmarks.results import Result, latencies
from tortie.attach.client import Client as AttachClient
from tortie.attach.cni.conflist import default_conflist
from tortie.cni import install
from tortie.datastore.client import Client
from tortie.ipam.allocator import Allocator
from tortie.ipam.stored import Stored
from tortie.kernel import netns
from tortie.kernel.rtnl.connection import Rtnl
from tortie.lab import cluster
from tortie.lab.description import Lab
from tortie.model.keys import HandleKey

T = TypeVar("T")

ROUNDS = 60
AT_ONCE = 50
MANY = int(os.environ.get("TORTIE_CNI_MANY", "300"))
ALLOCATIONS = 400
HOSTS = 32
DEBIAN = Path("/usr/lib/cni")


class Network:
    """One configuration, and where its plugins run."""

    def __init__(self, name: str, config: dict[str, Any], bin_dir: Path, path: str) -> None:
        self.name = name
        self._config = json.dumps(config)
        self._type = config["type"]
        self._bin_dir = bin_dir
        self._path = path

    def call(self, command: str, container: str, inside: str) -> str:
        environment = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": inside,
            "CNI_IFNAME": "eth0",
            "CNI_PATH": f"{self._bin_dir}:{DEBIAN}",
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        }
        done = subprocess.run(
            [self._bin_dir / self._type],
            input=self._config,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{self.name} {command}: {done.stdout} {done.stderr}")
        return done.stdout

    def inside(self, work: Callable[[], T]) -> T:
        return netns.run_in(self._path, work)


@contextlib.contextmanager
def containers(count: int) -> Iterator[list[str]]:
    """Paths of namespaces, mounted as runtimes do it."""
    names = [f"tortie.bench-cni-{number}" for number in range(count)]
    with contextlib.ExitStack() as stack:
        for name in names:
            netns.create_named(name)
            stack.callback(netns.delete_named, name)
        yield [netns.named_path(name) for name in names]


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def run() -> Iterator[Result]:
    with tempfile.TemporaryDirectory() as folder, lab("bench-cni", 2) as made:
        ours = _ours(made, Path(folder))
        theirs = _theirs(Path(folder))
        with _namespace("tortie.bench-cni-ptp"):
            yield from _one_at_a_time(ours, theirs)
            agent = cluster.agent_pid(made, made.hosts[0])
            assert agent is not None
            yield from _at_once(ours, theirs, agent)
            yield from _many(theirs, ours)
        yield from _agents_share(made)
    yield from _allocations()


def _ours(made: Lab, folder: Path) -> Network:
    state = made.host_directory("h1")
    places = install.Places(state / "attach.sock", state / "state" / "cni")
    conflist = default_conflist(kubernetes=False, ipv6=False)
    install.install(folder / "bin", None, places, conflist)
    config = {"cniVersion": "1.0.0", "name": "bench", "type": "tortie"}
    path = netns.named_path(made.host_namespace("h1"))
    return Network("tortie", {**config, "ipam": {"type": "tortie-ipam"}}, folder / "bin", path)


def _theirs(folder: Path) -> Network:
    ipam = {"type": "host-local", "subnet": "10.222.0.0/16", "dataDir": str(folder / "ipam")}
    config = {"cniVersion": "1.0.0", "name": "bench", "type": "ptp", "ipam": ipam}
    return Network("ptp", config, DEBIAN, netns.named_path("tortie.bench-cni-ptp"))


@contextlib.contextmanager
def _namespace(name: str) -> Iterator[None]:
    netns.create_named(name)
    try:
        yield
    finally:
        netns.delete_named(name)


def _one_at_a_time(*networks: Network) -> Iterator[Result]:
    took: dict[tuple[str, str], list[float]] = {}
    # A namespace for each, as runtimes do: the kernel still works on the last one's link.
    with containers(ROUNDS * len(networks)) as paths:
        insides = iter(paths)

        def both(network: Network, container: str, inside: str) -> None:
            for command in ("ADD", "DEL"):
                seconds = timed(partial(network.call, command, container, inside))
                took.setdefault((network.name, command), []).append(seconds)

        for number in range(ROUNDS):
            for network in networks:
                network.inside(partial(both, network, f"c{number}", next(insides)))
    targets = {("tortie", "ADD"): "≤ 15, p99 ≤ 30", ("tortie", "DEL"): "≤ 15"}
    for (name, command), seconds in sorted(took.items()):
        target = targets.get((name, command), "")
        yield from latencies(f"{name} {command} one at a time", seconds, target)


def _at_once(ours: Network, theirs: Network, agent: int) -> Iterator[Result]:
    """Times, and the processor time that they took: that a busy machine distorts less."""
    walls: dict[str, float] = {}
    for network in (theirs, ours):

        def all_of_them(command: str, network: Network, paths: Sequence[str]) -> float:
            def one(number: int) -> None:
                network.inside(lambda: network.call(command, f"m{number}", paths[number]))

            with ThreadPoolExecutor(AT_ONCE) as pool:
                return timed(lambda: list(pool.map(one, range(AT_ONCE))))

        with containers(AT_ONCE) as paths:
            spent = _processor_seconds(None), _processor_seconds(agent)
            walls[network.name] = all_of_them("ADD", network, paths)
            plugins = (_processor_seconds(None) - spent[0]) / AT_ONCE
            served = (_processor_seconds(agent) - spent[1]) / AT_ONCE
            removed = all_of_them("DEL", network, paths)
        yield Result(f"{network.name} ADD, {AT_ONCE} at once", walls[network.name], "s", "≤ 1")
        yield Result("… processor time of the plugin's processes, each", plugins * 1000, "ms")
        if network is ours:
            yield Result("… of the agent, each", served * 1000, "ms")
        yield Result(f"{network.name} DEL, {AT_ONCE} at once", removed, "s")
    ratio = walls["tortie"] / walls["ptp"]
    yield Result(f"ADD of {AT_ONCE} at once, tortie / ptp", ratio, "", "≤ 1.2")


def _processor_seconds(pid: int | None) -> float:
    """Of a process; None: of all that this one has started, and that have ended."""
    if pid is None:
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        return ended.ru_utime + ended.ru_stime
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def _agents_share(made: Lab) -> Iterator[Result]:
    """Add and Remove over the socket: no plugin is started."""
    steps: dict[str, list[float]] = {}
    whole = []
    with (
        containers(1) as [inside],
        AttachClient(made.host_directory("h1") / "attach.sock") as agent,
    ):
        for number in range(ROUNDS):
            started = time.perf_counter()
            found = agent.add(
                namespace="default", workload=f"s{number}", netns=inside, container_id=f"s{number}"
            )
            whole.append(time.perf_counter() - started)
            for step, seconds in found["timings"].items():
                steps.setdefault(step, []).append(seconds)
            agent.remove(namespace="default", workload=f"s{number}")
    yield from latencies("agent's Add", whole)
    for step, taken in steps.items():
        yield Result(f"… {step}, p50", sorted(taken)[len(taken) // 2] * 1000, "ms")


def _many(theirs: Network, ours: Network) -> Iterator[Result]:
    """Many on one host, as fast as they come; what ptp takes for as many is beside it."""
    yield from _wave(theirs)
    scale = MANY / 1000
    limits = {"added": f"≤ {20 * scale:g}", "answers": "≤ 1", "gone": f"≤ {15 * scale:g}"}
    yield from _wave(ours, limits)


def _wave(network: Network, limits: Mapping[str, str] = {}) -> Iterator[Result]:
    def one(command: str, paths: Sequence[str], number: int) -> str:
        return network.inside(lambda: network.call(command, f"n{number}", paths[number]))

    def all_of_them(command: str, paths: Sequence[str]) -> list[str]:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(partial(one, command, paths), range(MANY)))

    with containers(MANY) as paths, _listening(paths[-1]):
        started = time.perf_counter()
        answers = all_of_them("ADD", paths)
        added = time.perf_counter() - started
        address = json.loads(answers[-1])["ips"][0]["address"].partition("/")[0]
        answered = timed(lambda: network.inside(lambda: _connect(address)))
        started = time.perf_counter()
        all_of_them("DEL", paths)
        removed = time.perf_counter() - started
        network.inside(_until_gone)
        gone = time.perf_counter() - started
    name = f"{network.name}, {MANY} containers on one host"
    yield Result(f"{name}: there", added, "s", limits.get("added", ""))
    yield Result("… the last answers, after the last ADD", answered, "s", limits.get("answers", ""))
    yield Result(f"{name}: DELs answered", removed, "s")
    yield Result(f"{name}: gone", gone, "s", limits.get("gone", ""))


@contextlib.contextmanager
def _listening(path: str) -> Iterator[None]:
    with netns.open_socket_in(path, socket.AF_INET) as listener:
        listener.bind(("0.0.0.0", 80))
        listener.listen()
        yield


def _connect(address: str) -> None:
    give_up = time.perf_counter() + 10
    while time.perf_counter() < give_up:
        with contextlib.suppress(OSError), socket.create_connection((address, 80), 0.2):
            return
    raise RuntimeError(f"{address} does not answer")


def _until_gone() -> None:
    """No link of a container is left; their namespaces are there still."""
    with Rtnl.open() as rtnl:
        while any(link.name.startswith(("cali", "veth")) for link in rtnl.links()):
            time.sleep(0.05)


def _allocations() -> Iterator[Result]:
    """Addresses a second, on one etcd."""
    with lab("bench-ipam", 1, "etcd") as made:
        started = time.perf_counter()
        with_client(made, lambda client: _allocate(client, ["h1"], ALLOCATIONS, 32))
        yield Result(
            "addresses, one host, 32 at once", ALLOCATIONS / (time.perf_counter() - started), "/s"
        )
        started = time.perf_counter()
        with_client(made, lambda client: _allocate(client, ["h1"], 50, 1))
        yield Result(
            "addresses, one host, one at a time", 50 / (time.perf_counter() - started), "/s"
        )
        started = time.perf_counter()
        names = [f"host{number}" for number in range(HOSTS)]
        with_client(made, lambda client: _allocate(client, names, ALLOCATIONS, HOSTS))
        yield Result(
            f"addresses, {HOSTS} hosts at once", ALLOCATIONS / (time.perf_counter() - started), "/s"
        )


async def _allocate(client: Client, hosts: Sequence[str], count: int, at_once: int) -> None:
    # They keep their views, as agents do, and know that a handle is new, as the attacher does.
    allocators = [Allocator(client, host, unchanged=lambda: 0) for host in hosts]
    limit = asyncio.Semaphore(at_once)
    tag = random.randrange(1 << 32)

    async def one(number: int) -> None:
        async with limit:
            handle = f"b{tag}.{number}"
            new = Stored(HandleKey(handle), None, None)
            await allocators[number % len(allocators)].assign({4}, handle, {}, handle=new)

    await asyncio.gather(*map(one, range(count)))
