"""Hosts in network namespaces on one segment, each with a BIRD that the real manager drives.

What the agent would do to the kernel (blackhole routes of blocks, routes to
workloads) is done here with `ip`; all else is the product's own code.
"""

import asyncio
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec

from tortie.bgp.bird import Bird
from tortie.bgp.manager import BGPManager
from tortie.bgp.snapshot import IMPORT_LIMIT
from tortie.calc.validation import parse_node
from tortie.desired.endpoint import Pool, Route, RouteType
from tortie.desired.kinds import Kind
from tortie.lib.errors import Unavailable
from tortie.lib.ip import parse_network
from tortie.model.catalogue import TYPES
from tortie.model.keys import ResourceKey
from tortie.model.node import Node

POOL, POOL6 = parse_network("10.65.0.0/16"), parse_network("fd65::/48")
AGENT = "80"
TRAFFIC = str(Path(__file__).with_name("traffic.py"))
_serial = itertools.count()


def run(*command: str, check: bool = True) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(command)}: {done.stderr}{done.stdout}")
    return done.stdout


def batch(lines: list[str]) -> None:
    """Many `ip` commands for the price of one."""
    done = subprocess.run(
        ["ip", "-batch", "-"], input="\n".join(lines), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


async def eventually(
    true: Callable[[], bool], what: str, seconds: float = 20.0, step: float = 0.05
) -> float:
    """Wait until it is true; returns how long that took."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds, f"not within {seconds} s: {what}"
        await asyncio.sleep(step)
    return time.monotonic() - began


class Namespace:
    """A network namespace with one interface on the segment."""

    def __init__(self, site: "Site", name: str, ordinal: int) -> None:
        self.site = site
        self.name = name
        self.ordinal = ordinal
        self.netns = f"{site.prefix}{name}"
        self.ipv4 = f"172.30.0.{ordinal}"
        self.ipv6 = f"fd00:30::{ordinal:x}"
        self.directory = site.directory / name
        self.directory.mkdir()
        batch(
            [
                f"netns add {self.netns}",
                f"link add eth0 netns {self.netns} type veth peer name p{ordinal} "
                f"netns {site.fabric}",
            ]
        )
        run("ip", "-n", site.fabric, "link", "set", f"p{ordinal}", "master", "br0", "up")
        for words in (
            "link set lo up",
            f"addr add {self.ipv4}/24 dev eth0",
            f"addr add {self.ipv6}/64 dev eth0 nodad",
            "link set eth0 up",
        ):
            self.ip(*words.split())
        self.execute(
            *["sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"],
            *["net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.eth0.rp_filter=0"],
        )

    def ip(self, *words: str, check: bool = True) -> str:
        return run("ip", "-n", self.netns, *words, check=check)

    def execute(self, *command: str, check: bool = True) -> str:
        return run("ip", "netns", "exec", self.netns, *command, check=check)

    def spawn(self, *command: str, log: str) -> "subprocess.Popen[bytes]":
        with (self.directory / log).open("wb") as file:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self.netns, *command],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.site.processes.append(process)
        return process

    def routes(self, family: int = 4, protocol: str = "bird") -> str:
        return self.ip(f"-{family}", "route", "show", "proto", protocol)

    def has(self, destination: str, protocol: str = "bird") -> bool:
        family = 6 if ":" in destination else 4
        return f"{destination} " in self.routes(family, protocol)

    def gateway(self, destination: str) -> str:
        for line in self.routes(6 if ":" in destination else 4).splitlines():
            if line.startswith(f"{destination} "):
                return line
        return ""


class TestHost(Namespace):
    """A node of the cluster, with BIRD and its manager."""

    __test__ = False

    def __init__(self, site: "Site", name: str, ordinal: int) -> None:
        super().__init__(site, name, ordinal)
        script = self.directory / "bird"
        script.write_text(f'#!/bin/sh\nexec ip netns exec {self.netns} /usr/sbin/bird "$@"\n')
        script.chmod(0o755)
        self.run_directory = Path(f"/run/{site.prefix}{name}")
        self.bird = Bird(self.run_directory, str(script))
        self.manager = BGPManager(
            name,
            self.bird,
            route_protocol=80,
            secrets=site.directory,
            import_limit=site.import_limit,
        )
        self.wants(f"10.65.{ordinal}.0/26", Route(RouteType.LOCAL_BLOCK))
        self.wants(f"fd65::{ordinal:x}:0/122", Route(RouteType.LOCAL_BLOCK))

    @property
    def block(self) -> str:
        return f"10.65.{self.ordinal}.0/26"

    @property
    def block6(self) -> str:
        return f"fd65::{self.ordinal:x}:0/122"

    def wants(self, destination: str, route: Route | None) -> None:
        """As the agent: tell BGP, and put a block into the kernel."""
        network = parse_network(destination)
        self.manager.on_update(Kind.ROUTE, network, route)
        if route is None or route.type is RouteType.LOCAL_BLOCK:
            verb = "add" if route else "del"
            words = ["route", verb, "blackhole", str(network), "proto", AGENT]
            self.ip(f"-{network.family}", *words)

    def add_workload(self, address: str, interface: str = "cali0") -> "Workload":
        return Workload(self, address, interface)

    @property
    def pid(self) -> int:
        """0 while it does not run."""
        try:
            # Empty while BIRD writes it.
            return int((self.run_directory / "bird.pid").read_text() or 0)
        except FileNotFoundError:
            return 0

    async def established(self) -> set[str]:
        try:
            found = await self.bird.protocols()
        except Unavailable:
            return set()
        return {p.name for p in found if p.protocol == "BGP" and p.info.startswith("Established")}


class Workload:
    """A container's namespace behind an interface of a host."""

    def __init__(self, host: TestHost, address: str, interface: str) -> None:
        self.host, self.address, self.interface = host, address, interface
        self.netns = f"{host.netns}-{interface}"
        mac = "ee:ee:ee:ee:ee:ee"
        batch(
            [
                f"netns add {self.netns}",
                f"link add {interface} netns {host.netns} address {mac} type veth "
                f"peer name eth0 netns {self.netns}",
            ]
        )
        host.site.namespaces.append(self.netns)
        host.ip("link", "set", interface, "up")
        host.execute("sysctl", "-qw", f"net.ipv4.conf.{interface}.rp_filter=0")
        host.ip("route", "add", f"{address}/32", "dev", interface, "proto", AGENT)
        for words in (
            "link set lo up",
            f"addr add {address}/32 dev eth0",
            "link set eth0 up",
            "route add 169.254.1.1 dev eth0",
            "route add default via 169.254.1.1",
            f"neigh replace 169.254.1.1 lladdr {mac} dev eth0 nud permanent",
        ):
            run("ip", "-n", self.netns, *words.split())

    def execute(self, *words: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            ["ip", "netns", "exec", self.netns, sys.executable, "-S", TRAFFIC, *words],
            stdout=subprocess.PIPE,
            text=True,
        )

    def daemon(self, *command: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            ["ip", "netns", "exec", self.netns, *command],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def answers(self) -> None:
        """Answer whatever comes; ends with the namespace."""
        process = self.execute("echo", self.address)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"

    def sends(self, to: str, seconds: float) -> "subprocess.Popen[str]":
        return self.execute("send", to, str(seconds))


def lost(sender: "subprocess.Popen[str]") -> int:
    """Wait for the sender to end; packets without an answer."""
    out, _ = sender.communicate(timeout=60)
    sent, missing = map(int, out.split()[:2])
    assert sent > 100
    return missing


class Site:
    def __init__(self, directory: Path, import_limit: int = IMPORT_LIMIT) -> None:
        self.import_limit = import_limit
        self.prefix = f"tbgp{os.getpid()}n{next(_serial)}-"
        self.directory = directory
        self.fabric = f"{self.prefix}fab"
        self.hosts: dict[str, TestHost] = {}
        self.namespaces: list[str] = [self.fabric]
        self.directories: list[Path] = []
        """To be removed at the end, beside those of the hosts."""
        self.processes: list[subprocess.Popen[bytes]] = []
        run("ip", "netns", "add", self.fabric)
        run("ip", "-n", self.fabric, "link", "add", "br0", "type", "bridge")
        run("ip", "-n", self.fabric, "link", "set", "br0", "up")

    def __getitem__(self, name: str) -> TestHost:
        return self.hosts[name]

    def add_hosts(self, count: int) -> None:
        for ordinal in range(1, count + 1):
            name = f"h{ordinal}"
            self.hosts[name] = TestHost(self, name, ordinal)
            self.namespaces.append(self.hosts[name].netns)
        for network in (POOL, POOL6):
            self.each(lambda m, n=network: m.on_update(Kind.POOL, n, Pool()))  # type: ignore[misc]
        for name in self.hosts:
            self.put_node(name)

    def add_router(self, name: str, ordinal: int) -> Namespace:
        router = Namespace(self, name, ordinal)
        self.namespaces.append(router.netns)
        return router

    def each(self, act: Callable[[BGPManager], None]) -> None:
        for host in self.hosts.values():
            act(host.manager)

    def put_node(self, name: str, labels: dict[str, str] | None = None, **bgp: object) -> None:
        """A node as the datastore has it; `bgp` are fields of `spec.bgp`."""
        host = self.hosts[name]
        spec: dict[str, object] = {
            "bgp": {"ipv4Address": f"{host.ipv4}/24", "ipv6Address": f"{host.ipv6}/64", **bgp}
        }
        self.put("Node", name, spec, labels=labels)

    def put(
        self,
        kind: str,
        name: str,
        spec: dict[str, object] | None,
        labels: dict[str, str] | None = None,
        annotations: dict[str, str] | None = None,
    ) -> None:
        """What the datastore holds now reaches every manager; None: it is gone."""
        key = ResourceKey(kind, name)
        value = None
        if spec is not None:
            metadata = {"name": name, "labels": labels or {}, "annotations": annotations or {}}
            document = {"kind": kind, "metadata": metadata, "spec": spec}
            value = msgspec.convert(document, TYPES[kind])
        for host in self.hosts.values():
            host.manager.on_resource(key, value)
            if kind == "Node":
                desired = parse_node(value) if isinstance(value, Node) else None
                host.manager.on_update(Kind.HOST, name, desired)

    async def apply(self) -> None:
        await asyncio.gather(*(host.manager.apply() for host in self.hosts.values()))

    async def meshed(self, seconds: float = 20.0) -> float:
        """Wait until each host has the blocks of all others in its kernel, both families."""
        hosts = self.hosts.values()

        def there() -> bool:
            for host in hosts:
                for family in (4, 6):
                    routes = host.routes(family)
                    for other in hosts:
                        block = other.block if family == 4 else other.block6
                        if other is not host and f"{block} " not in routes:
                            return False
            return True

        return await eventually(there, "blocks of all hosts everywhere", seconds)

    async def close(self) -> None:
        for host in self.hosts.values():
            await host.manager.close()
            with suppress(ProcessLookupError):
                if host.pid:
                    os.kill(host.pid, signal.SIGKILL)
            shutil.rmtree(host.run_directory, ignore_errors=True)
        for process in self.processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for directory in self.directories:
            shutil.rmtree(directory, ignore_errors=True)
        for namespace in self.namespaces:
            for pid in run("ip", "netns", "pids", namespace, check=False).split():
                os.kill(int(pid), signal.SIGKILL)
            run("ip", "netns", "del", namespace, check=False)


@asynccontextmanager
async def site(
    directory: Path, hosts: int, import_limit: int = IMPORT_LIMIT
) -> AsyncIterator[Site]:
    made = Site(directory, import_limit)
    try:
        made.add_hosts(hosts)
        await made.apply()
        yield made
    finally:
        await made.close()


def lacks(host: Namespace, destination: str) -> bool:
    return not host.has(destination)


def write_secret(site: Site, text: str) -> dict[str, object]:
    """A password file that every host reads; returns the field of a BGPPeer."""
    path = site.directory / "bgp" / "tor"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o600)
    return {"secretKeyRef": {"name": "bgp", "key": "tor"}}


async def sessions(made: Site, name: str, count: int) -> None:
    """Wait until the host has so many sessions, in both families together."""
    for _ in range(200):
        if len(await made[name].established()) == count:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{name} has {sorted(await made[name].established())}")
