"""A lab that runs: its command line, its datastore raw, and packets judged by the oracle."""

import asyncio
import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from unittest.mock import patch

import pytest

from tortie.ctl.main import main
from tortie.datastore.client import Client, Delete, Entry, Operation, Put, Txn
from tortie.datastore.connect import connect, from_environment
from tortie.explain.oracle import Packet, decide
from tortie.kernel import netns, sysctl
from tortie.kernel.conntrack import Conntrack
from tortie.kernel.nft.connection import Nft
from tortie.kernel.rtnl.connection import Rtnl
from tortie.kernel.rtnl.route import Route
from tortie.lab import cluster, description, probe, processes, workloads
from tortie.lab.description import Lab, Workload
from tortie.lab.probe import Port, Probe
from tortie.lib.errors import InvalidInput
from tortie.lib.ip import parse_address
from tortie.model import codec, names
from tortie.model.keys import RESOURCES, Key, ResourceKey, parse_key
from tortie.model.metadata import Resource
from tortie.model.validation import check

T = TypeVar("T")

SOURCE_PORTS = (50000, 60000)
"""From where workloads ask: outside of what random rules name as source ports."""

PORTS = tuple(map(probe.parse_port, ("tcp:80", "tcp:81", "udp:53", "udp:8080", "icmp")))
LISTEN = ("tcp:80", "tcp:443", "udp:53", "udp:8080")

ANSWER_SECONDS = 0.25
"""Longer than any answer takes; what should pass and does not is asked again."""

PATIENCE_SECONDS = 10.0
"""For what may take a moment on a loaded machine; forbidden packets get none."""


class Result(NamedTuple):
    code: int
    out: str
    err: str


class Asked(NamedTuple):
    """One question to the network."""

    source: str
    target: str
    family: int
    port: Port

    def __str__(self) -> str:
        return f"{self.source} → {self.target} {self.port} IPv{self.family}"


class LiveLab:
    def __init__(
        self, name: str, datastore: str, routing: str, hosts: int = 3, *, ipv6: bool = True
    ) -> None:
        self.name = name
        self.datastore = datastore
        self.routing = routing
        self.hosts = hosts
        self.ipv6 = ipv6

    # The command line.

    def up(self) -> None:
        kinds = ["--datastore", self.datastore, "--routing", self.routing]
        kinds += ["--ipv6"] if self.ipv6 else []
        self.lab_ok("up", "--hosts", str(self.hosts), *kinds)

    def down(self) -> None:
        self.lab_ok("down")

    def tortie(self, *arguments: str) -> Result:
        """The command with the settings that `tortie lab env` prints, in this process."""
        return inside(
            *arguments, **({} if arguments[0] == "lab" else cluster.environment(self.lab))
        )

    def ok(self, *arguments: str) -> str:
        result = self.tortie(*arguments)
        assert result.code == 0, (arguments, result)
        return result.out

    def lab_ok(self, *arguments: str) -> str:
        verb = 2 if arguments[0] == "workload" else 1
        return self.ok("lab", *arguments[:verb], "--name", self.name, *arguments[verb:])

    def apply(self, text: str, folder: Path) -> None:
        file = folder / "resources.yaml"
        file.write_text(text)
        self.ok("apply", "-f", str(file))
        self.settle()

    def add(self, name: str, host: str, namespace: str = "red", **labels: str) -> Workload:
        """A workload that answers on `LISTEN`."""
        options = [part for item in labels.items() for part in ("--label", "=".join(item))]
        options += [part for port in LISTEN for part in ("--listen", port)]
        self.lab_ok("workload", "add", name, "--host", host, "-n", namespace, *options)
        workload = self.lab.workload(f"{namespace}/{name}")
        netns.run_in(
            self.path(workload),
            lambda: sysctl.set_global("ipv4/ip_local_port_range", " ".join(map(str, SOURCE_PORTS))),
        )
        self.wait_for_routes([workload])
        return workload

    def remove(self, name: str) -> None:
        self.lab_ok("workload", "rm", name)

    # What there is.

    @property
    def lab(self) -> Lab:
        return description.load(self.name)

    def path(self, workload: Workload) -> str:
        return netns.named_path(self.lab.workload_namespace(workload))

    def in_host(self, host: str, function: Callable[[], T]) -> T:
        return netns.run_in(netns.named_path(self.lab.host_namespace(host)), function)

    def command_in(self, host: str, *argv: str) -> subprocess.CompletedProcess[str]:
        return self.in_host(host, lambda: subprocess.run(argv, capture_output=True, text=True))

    def agent_pid(self, host: str) -> int:
        pid = cluster.agent_pid(self.lab, self.lab.host(host))
        assert pid is not None, f"the agent of {host} does not run"
        return pid

    def stop_agent(self, host: str, number: signal.Signals = signal.SIGKILL) -> None:
        processes.stop([self.agent_pid(host)], number)

    def start_agent(self, host: str) -> None:
        known = self.lab.host(host)
        cluster.wait_ready(self.lab, {known: cluster.start_agent(self.lab, known)})

    def second_agent(self, host: str) -> Result:
        """Start one more where one runs; it should end by itself."""
        directory = self.lab.host_directory(host)
        options = ["--run-directory", str(directory), "--state-directory", str(directory / "state")]
        settings = {**cluster.environment(self.lab), "FELIX_FELIXHOSTNAME": host}
        process = self.in_host(
            host,
            lambda: subprocess.run(
                [sys.executable, "-m", "tortie", "agent", *options],
                capture_output=True,
                text=True,
                env={**os.environ, **settings},
                timeout=30,
            ),
        )
        return Result(process.returncode, process.stdout, process.stderr)

    def interface(self, name: str) -> str:
        workload = self.lab.workload(name)
        return names.interface_name(workload.namespace, workload.name)

    def agent_log(self, host: str) -> str:
        return (self.lab.host_directory(host) / "agent.log").read_text()

    def settle(self) -> None:
        """Return when every host enforces what is stored."""
        cluster.wait_enforced(self.lab)

    def eventually(self, holds: Callable[[], object], what: str) -> None:
        give_up = time.monotonic() + PATIENCE_SECONDS
        while not holds():
            assert time.monotonic() < give_up, what
            time.sleep(0.05)

    def wait_for_routes(self, wanted: Iterable[Workload]) -> None:
        """By BGP it takes a moment until other hosts know of a new block."""
        addresses = [parse_address(text) for one in wanted for text in one.addresses]

        def known(host: str) -> bool:
            routes = [route for route in self.routes(host) if route.destination.length]
            return all(
                any(route.destination.contains(address) for route in routes)
                for address in addresses
            )

        for host in self.lab.hosts:
            self.eventually(partial(known, host.name), f"routes of {host.name}")

    def routes(self, host: str) -> list[Route]:
        def read() -> list[Route]:
            with Rtnl.open() as rtnl:
                return [route for family in (4, 6) for route in rtnl.routes(family)]

        return self.in_host(host, read)

    def kernel_text(self, host: str) -> str:
        """Everything that the host's kernel knows about workloads, as tools print it."""
        commands = (
            ("nft", "list", "ruleset"),
            ("ip", "link"),
            *(("ip", family, *what) for family in ("-4", "-6") for what in _IP_TABLES),
        )
        return "\n".join(self.command_in(host, *command).stdout for command in commands)

    def generation(self, host: str) -> int:
        """Grows with each change of nf_tables by anybody."""

        def read() -> int:
            nft = Nft.open()
            try:
                return asyncio.run(nft.generation())
            finally:
                nft.close()

        return self.in_host(host, read)

    # The datastore, raw.

    def with_client(self, act: Callable[[Client], Coroutine[Any, Any, T]]) -> T:
        async def run() -> T:
            client = await connect(from_environment(cluster.environment(self.lab)))
            try:
                return await act(client)
            finally:
                await client.close()

        return asyncio.run(run())

    def entries(self, prefix: str = "/calico/") -> dict[str, Entry]:
        async def read(client: Client) -> dict[str, Entry]:
            return {entry.key: entry for entry in (await client.list(prefix)).entries}

        return self.with_client(read)

    def write_raw(self, changes: Mapping[str, bytes | None]) -> None:
        """Put, or delete (None), all in one transaction, and wait until it is enforced."""
        operations: list[Operation] = [
            Delete(key) if value is None else Put(key, value) for key, value in changes.items()
        ]

        async def write(client: Client) -> None:
            await client.transact(Txn(success=operations))

        if operations:
            self.with_client(write)
        self.settle()

    @contextlib.contextmanager
    def restored(self, *, endpoints: bool = False) -> Iterator[None]:
        """Put every resource back as it was, at the end.

        Args:
            endpoints: WorkloadEndpoints too, if no workload moved meanwhile: their MAC
                address, which is theirs, is new after a move.
        """
        before = self._resources(endpoints)
        yield
        now = self._resources(endpoints)
        changes: dict[str, bytes | None] = {key: None for key in now if key not in before}
        for key, entry in before.items():
            if key not in now or now[key].value != entry.value:
                changes[key] = entry.value
        self.write_raw(changes)

    def _resources(self, endpoints: bool) -> dict[str, Entry]:
        found = self.entries(RESOURCES)
        return {key: found[key] for key in found if endpoints or "/workloadendpoints/" not in key}

    def state(self) -> dict[Key, object]:
        """What the oracle judges: every stored resource that is valid."""
        state: dict[Key, object] = {}
        for path, entry in self.entries(RESOURCES).items():
            key = parse_key(path)
            if isinstance(key, ResourceKey):
                with contextlib.suppress(InvalidInput):
                    value = codec.decode(key, entry.value)
                    if isinstance(value, Resource):
                        check(value, stored=True)
                    state[key] = value
        return state

    # Packets.

    def expected(self, state: Mapping[Key, object] | None = None) -> dict[Asked, bool]:
        """What the oracle says of every pair, port and family."""
        judged = self.state() if state is None else state
        found = {}
        for asked, packet in self._questions():
            found[asked] = decide(judged, packet).allowed
        return found

    def observed(self, wanted: Sequence[Asked] | None = None) -> dict[Asked, bool]:
        """What real packets find."""
        self.forget_connections()
        asking = [asked for asked, _ in self._questions()] if wanted is None else list(wanted)
        lab = self.lab
        probes = []
        for asked in asking:
            source, target = lab.workload(asked.source), lab.workload(asked.target)
            address = workloads.address_of(target, ipv6=asked.family == 6)
            probes.append(Probe(self.path(source), address, asked.port))
        return dict(zip(asking, probe.run(probes, ANSWER_SECONDS), strict=True))

    def check(self, context: str = "") -> dict[Asked, bool]:
        """The network does exactly what the oracle says; returns that.

        What should pass is asked again for a while, for a slow machine may drop
        it; what should not must never pass.
        """
        expected = self.expected()
        observed = self.observed()
        opened = [asked for asked in expected if observed[asked] and not expected[asked]]
        assert not opened, f"{context}: open, and should not be: {'; '.join(map(str, opened))}"
        missing = [asked for asked in expected if expected[asked] and not observed[asked]]
        give_up = time.monotonic() + PATIENCE_SECONDS
        while missing and time.monotonic() < give_up:
            again = self.observed(missing)
            missing = [asked for asked in missing if not again[asked]]
        assert not missing, f"{context}: closed, and should not be: {'; '.join(map(str, missing))}"
        return expected

    def reaches(self, source: str, target: str, port: str = "tcp:80", family: int = 4) -> bool:
        lab = self.lab
        names = lab.workload(source).full_name, lab.workload(target).full_name
        asked = Asked(*names, family, probe.parse_port(port))
        return self.observed([asked])[asked]

    def forget_connections(self) -> None:
        """Else a port that is used again would pass as a connection that was allowed before."""
        addresses = frozenset(
            parse_address(text) for workload in self.lab.workloads for text in workload.addresses
        )

        def forget() -> None:
            with Conntrack.open() as conntrack:
                conntrack.delete_involving(addresses)

        for host in self.lab.hosts:
            self.in_host(host.name, forget)

    def _questions(self) -> Iterator[tuple[Asked, Packet]]:
        known = self.lab.workloads
        for family in (4, 6):
            for port in PORTS:
                for a in known:
                    for b in known:
                        if a != b:
                            yield (
                                Asked(a.full_name, b.full_name, family, port),
                                _packet(a, b, family, port),
                            )


@contextlib.contextmanager
def running_lab(
    prefix: str,
    datastore: str = "embedded",
    routing: str = "direct",
    *,
    hosts: int,
    ipv6: bool = True,
) -> Iterator[LiveLab]:
    """One that is there until the end.

    Args:
        prefix: of its name, before this process' number.
    """
    need_root()
    live = LiveLab(f"{prefix}{os.getpid()}", datastore, routing, hosts, ipv6=ipv6)
    live.up()
    try:
        yield live
    finally:
        live.down()


_IP_TABLES = (("route", "show", "table", "all"), ("neigh",), ("neigh", "show", "proxy"))
_PROTOCOLS = {"tcp": 6, "udp": 17}


def _packet(a: Workload, b: Workload, family: int, port: Port) -> Packet:
    source = workloads.address_of(a, ipv6=family == 6)
    target = workloads.address_of(b, ipv6=family == 6)
    if port.protocol == "icmp":
        number, kind = (1, 8) if family == 4 else (58, 128)
        return Packet(source, target, number, icmp_type=kind, icmp_code=0)
    return Packet(source, target, _PROTOCOLS[port.protocol], SOURCE_PORTS[0], port.number)


def inside(*arguments: str, **environment: str) -> Result:
    """The command in this process, which saves half a second."""
    out, err = io.StringIO(), io.StringIO()
    with (
        patch.dict(os.environ, environment),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        code = main(arguments)
    return Result(code, out.getvalue(), err.getvalue())


def command(*arguments: str, timeout_seconds: float = 50.0, **environment: str) -> Result:
    """The command as a process of its own, as users start it."""
    process = subprocess.run(
        [sys.executable, "-m", "tortie", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=timeout_seconds,
        check=False,
    )
    return Result(process.returncode, process.stdout, process.stderr)


def need_root() -> None:
    if os.geteuid() != 0:
        pytest.fail("needs root: a lab is made of network namespaces")
