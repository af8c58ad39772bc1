"""The four monitors on every host of a lab: verdicts, connections, states, and what is left over.

`World` has of everything that a host is told: policy, a host endpoint, masquerading, a floating
address, bandwidth and rates. What is forbidden is asked for all the time, on new flows, and so is
what is allowed; where a packet has come to is heard behind all hooks.
"""

import contextlib
import json
import os
import re
import socket
import struct
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.attacks.packets import udp
from tests.e2e.live import LiveLab, running_lab
from tests.e2e.traffic import ANSWER_SECONDS, Connection

from tortie.kernel import netns
from tortie.kernel.nft.connection import supports_owner_tables
from tortie.lab import workloads

FLOATING = "198.51.100.5"
OPEN_PORT, CLOSED_PORT = 7000, 9000
PAUSE_SECONDS = 0.005
_MAGIC = b"\x9dlab"
_NUMBER = struct.Struct("!BI")
_QUIET_SECONDS, _PATIENCE_SECONDS = 0.2, 20.0

RESOURCES = f"""
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {{name: floating}}
spec: {{cidr: 198.51.100.0/24, nodeSelector: "!all()"}}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {{name: wall}}
spec: {{selector: role == 'closed', types: [Ingress], ingress: [{{action: Deny}}]}}
---
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {{name: uplink, labels: {{kind: host}}}}
spec: {{node: h2, interfaceName: eth0}}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {{name: door}}
spec:
  selector: kind == 'host'
  types: [Ingress]
  ingress: [{{action: Allow, protocol: UDP, destination: {{ports: [{OPEN_PORT}]}}}}]
"""


class Way(NamedTuple):
    source: str
    """Workload that sends, or a host."""
    to: str
    port: int
    ear: str
    """Where it would be heard."""
    allowed: bool
    seen_from: str = ""
    """Address that it must have there; empty: any."""


class World:
    """Two hosts, `h1` and `h2`; `a` sends."""

    def __init__(self, live: LiveLab, folder: Path) -> None:
        self.live = live
        for name, host, role in (
            ("a", "h1", "open"), ("b", "h1", "closed"), ("e", "h1", "open"),
            ("c", "h2", "closed"), ("d", "h2", "open"),
        ):  # fmt: skip
            live.add(name, host, role=role)
        live.apply(RESOURCES, folder)
        settings = json.loads(live.ok("get", "felixconfiguration", "default", "-o", "json"))
        settings["spec"]["floatingIPs"] = "Enabled"
        live.apply(json.dumps(settings), folder)
        for pool in json.loads(live.ok("get", "ippool", "-o", "json"))["items"]:
            patch = '{"spec": {"natOutgoing": true}}'
            live.ok("patch", "ippool", pool["metadata"]["name"], "-p", patch)
        own = {"internalIP": self._address("d"), "externalIP": FLOATING}
        self._patch("d", {"ipNATs": [own]})
        many = {
            "egressBandwidth": 10**9,
            "ingressBandwidth": 10**9,
            "egressPacketRate": 10**4,
            "egressPacketBurst": 10**4,
        }
        self._patch("a", {"qosControls": many | {"egressMaxConnections": 10**6}})
        live.settle()
        self.ways = list(self._ways())

    def _ways(self) -> Iterator[Way]:
        h1, h2 = (self.live.lab.host(name) for name in ("h1", "h2"))
        for ipv6 in (False, True):
            b, c, d, e = (self._address(name, ipv6=ipv6) for name in "bcde")
            own = (h1.ipv6 if ipv6 else h1.ipv4).address_text
            other = (h2.ipv6 if ipv6 else h2.ipv4).address_text
            yield Way("a", b, CLOSED_PORT, "b", allowed=False)
            yield Way("a", c, CLOSED_PORT, "c", allowed=False)
            yield Way("a", own, CLOSED_PORT, "h1", allowed=False)
            yield Way("a", other, CLOSED_PORT, "h2", allowed=False)
            yield Way("h1", other, CLOSED_PORT, "h2", allowed=False)
            yield Way("a", d, OPEN_PORT, "d", allowed=True)
            yield Way("a", e, OPEN_PORT, "e", allowed=True)
            yield Way("a", other, OPEN_PORT, "h2", allowed=True, seen_from=own)
        yield Way("a", FLOATING, OPEN_PORT, "d", allowed=True)

    def path(self, place: str) -> str:
        """Of a workload's namespace, or a host's."""
        live = self.live
        if any(host.name == place for host in live.lab.hosts):
            return netns.named_path(live.lab.host_namespace(place))
        return live.path(live.lab.workload(f"red/{place}"))

    def _address(self, name: str, *, ipv6: bool = False) -> str:
        workload = self.live.lab.workload(f"red/{name}")
        return workloads.address_of(workload, ipv6=ipv6).address_text

    def _patch(self, name: str, spec: Mapping[str, object]) -> None:
        listed = json.loads(self.live.ok("get", "workloadendpoint", "-n", "red", "-o", "json"))
        (endpoint,) = (
            item["metadata"]["name"]
            for item in listed["items"]
            if f"{self._address(name)}/32" in item["spec"]["ipNetworks"]
        )
        self.live.ok(
            "patch", "workloadendpoint", endpoint, "-n", "red", "-p", json.dumps({"spec": spec})
        )  # fmt: skip


@contextlib.contextmanager
def running_world(prefix: str, folder: Path) -> Iterator[World]:
    """In a lab of its own, whose agents own their tables.

    Args:
        prefix: of the lab's name.
    """
    if not supports_owner_tables():
        pytest.skip("this kernel has no owner tables (before 6.9)")
    with running_lab(prefix, hosts=2) as live:
        yield World(live, folder)


class Verdicts:
    """How many packets were sent each way, and how many arrived."""

    def __init__(self, ways: list[Way]) -> None:
        self._ways = ways
        self.sent = 0
        self.arrived: Counter[Way] = Counter()
        self.strange: list[str] = []
        """Arrived where they should, and from where they should not."""

    def leaks(self) -> dict[Way, int]:
        return {way: count for way, count in self.arrived.items() if not way.allowed}

    def lost(self) -> dict[Way, int]:
        return {way: self.sent - self.arrived[way] for way in self._ways if way.allowed}


@contextlib.contextmanager
def verdicts(world: World) -> Iterator[Verdicts]:
    found, stop = Verdicts(world.ways), threading.Event()
    with contextlib.ExitStack() as stack:
        talker = threading.Thread(target=_talk, args=(world, found, stop, stack))
        talker.start()
        try:
            give_up = time.monotonic() + _PATIENCE_SECONDS
            while found.sent < 20:
                assert time.monotonic() < give_up, "nothing is sent"
                time.sleep(0.01)
            yield found
        finally:
            stop.set()
            talker.join()


def _talk(
    world: World, found: Verdicts, stop: threading.Event, stack: contextlib.ExitStack
) -> None:
    ways = world.ways
    mouths = {
        (place, family): stack.enter_context(_raw(world.path(place), family))
        for place in {way.source for way in ways}
        for family in (socket.AF_INET, socket.AF_INET6)
    }
    ears = [
        (place, stack.enter_context(ear))
        for place in sorted({way.ear for way in ways})
        for ear in _ears(world.path(place), is_host=place in ("h1", "h2"))
    ]
    own = {
        (place, family): _source(world.path(place), way.to, family)
        for way in ways
        for place, family in [(way.source, _family(way.to))]
    }
    while not stop.is_set():
        for number, way in enumerate(ways):
            family = _family(way.to)
            payload = _MAGIC + _NUMBER.pack(number, found.sent)
            ports = (1024 + found.sent % 64000, way.port)
            packet = udp(own[way.source, family], way.to, payload, ports=ports)
            with contextlib.suppress(PermissionError):  # its own host's hooks dropped it
                mouths[way.source, family].sendto(packet, (way.to, 0))
        found.sent += 1
        _listen(ears, found, ways)
        time.sleep(PAUSE_SECONDS)
    quiet_since, give_up = time.monotonic(), time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() - quiet_since < _QUIET_SECONDS and time.monotonic() < give_up:
        if _listen(ears, found, ways):
            quiet_since = time.monotonic()
        time.sleep(_QUIET_SECONDS / 10)


def _listen(ears: list[tuple[str, socket.socket]], found: Verdicts, ways: list[Way]) -> int:
    heard = 0
    for place, ear in ears:
        while True:
            try:
                data, sender = ear.recvfrom(2048)
            except BlockingIOError:
                break
            at = data.find(_MAGIC)
            is_own = ear.family == socket.AF_PACKET and sender[2] == socket.PACKET_OUTGOING
            if at < 0 or is_own:
                continue
            number, _ = _NUMBER.unpack_from(data, at + len(_MAGIC))
            way = ways[number]
            if place == way.ear:
                heard += 1
                found.arrived[way] += 1
                if way.seen_from and sender[0] != way.seen_from:
                    found.strange.append(f"{way} came from {sender[0]}")
    return heard


def _raw(path: str, family: socket.AddressFamily) -> socket.socket:
    """Sends UDP with any port; and in a host hears all that gets past its hooks."""
    made = netns.open_socket_in(path, family, socket.SOCK_RAW, socket.IPPROTO_UDP)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    made.setblocking(False)
    return made


def _ears(path: str, *, is_host: bool) -> list[socket.socket]:
    if is_host:
        return [_raw(path, family) for family in (socket.AF_INET, socket.AF_INET6)]
    every = 0x0003  # ETH_P_ALL
    wire = netns.open_socket_in(path, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(every))
    wire.bind(("eth0", every))
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    wire.setblocking(False)
    return [wire]


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _source(path: str, to: str, family: socket.AddressFamily) -> str:
    """The address that the kernel there would send from: the checksum counts it."""
    with netns.open_socket_in(path, family, socket.SOCK_DGRAM) as asking:
        asking.connect((to, 9))
        found: str = asking.getsockname()[0]
        return found


@contextlib.contextmanager
def connections(world: World) -> Iterator[dict[str, Connection]]:
    """Across hosts, on one host, and by the floating address; and out of the cluster they are
    the other host's own, masqueraded."""
    ends = {
        "across hosts": world._address("d"),
        "on one host": world._address("e"),
        "IPv6": world._address("d", ipv6=True),
        "floating": FLOATING,
    }
    with contextlib.ExitStack() as stack:
        made = {}
        for name, to in ends.items():
            sock = stack.enter_context(netns.open_socket_in(world.path("a"), _family(to)))
            sock.settimeout(ANSWER_SECONDS)
            sock.connect((to, 80))
            made[name] = Connection(sock)
        try:
            yield made
        finally:
            for connection in made.values():
                connection.stop()


_STATES = (
    "nft -s list ruleset",
    *(f"ip {family} {what}" for family in ("-4", "-6") for what in (
        "rule", "route show table all", "neigh show nud permanent", "neigh show proxy",
    )),
    "tc qdisc show",
)  # fmt: skip


_PASSING = re.compile(r"^\s*elements = \{[^}]*\btimeout\b[^}]*\}$", re.MULTILINE)
"""Elements that packets make, and that go by themselves."""


def lasting(said: str) -> list[str]:
    """The words of it, sorted, without what packets made."""
    return sorted(_PASSING.sub("", said).split())


def states(world: World) -> dict[str, list[str]]:
    """Of every host, what its kernel holds, by the command that says so: words, sorted."""
    found = {}
    for host in world.live.lab.hosts:
        for command in _STATES:
            said = world.live.command_in(host.name, *command.split()).stdout
            found[f"{host.name}: {command}"] = lasting(said)
    return found


def census(world: World) -> dict[str, Counter[str]]:
    """Of every host's agent, descriptors by kind, and threads."""
    found = {}
    for host in world.live.lab.hosts:
        pid = world.live.agent_pid(host.name)
        kinds: Counter[str] = Counter()
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                kinds[os.readlink(descriptor).partition(":")[0]] += 1
        kinds["threads"] = len(list(Path(f"/proc/{pid}/task").iterdir()))
        found[host.name] = kinds
    return found


@contextlib.contextmanager
def flushing(world: World) -> Iterator[dict[str, Path]]:
    """`while true; do nft flush ruleset; done` on every host: files with a line for each."""
    loop = "while true; do nft flush ruleset && echo flushed || exit 1; done"
    logs, running = {}, []
    for host in world.live.lab.hosts:
        log = world.live.lab.directory / f"flushes-{host.name}"
        with log.open("w") as output:
            running.append(
                world.live.in_host(
                    host.name,
                    lambda output=output: subprocess.Popen(["sh", "-c", loop], stdout=output),  # type: ignore[misc]
                )
            )
        logs[host.name] = log
    try:
        yield logs
        assert all(process.poll() is None for process in running), "a flush was refused"
    finally:
        for process in running:
            process.kill()
            process.wait()
