"""Requests and new flows between workloads, ours beside others' ways, all in one run.

Labs stand side by side: with our rules; with our rules and thousands of endpoints more; with the
same routes and no rules; as Docker does it by default (a bridge, masquerading out, a published port
in); and over VXLAN. Each round measures every one of them, so that what else the machine does falls
on all; both ends run on one processor, before everything else, as long as a round takes. Ratios
are of one round, and the median of these counts.
"""

import contextlib
import os
import re
import socket
import statistics
import subprocess
import time
from collections.abc import Iterator
from typing import NamedTuple

from benchmarks import labs, population
from benchmarks.results import Result
from benchmarks.traffic import path_of, remove_rules
from tortie.datastore.client import Client
from tortie.kernel import netns
from tortie.lab import cluster, description, processes, workloads
from tortie.lab.description import Lab

ROUNDS = 9
ROUND_TRIPS, NEW_FLOWS = 1500, 300
MANY = 5000
PORT = 9000

Address = tuple[str, int]


class Place(NamedTuple):
    """Whom to ask, and from where."""

    client: str
    """Path of the asking workload's namespace."""
    server: Address


def run() -> Iterator[Result]:
    with contextlib.ExitStack() as stack:
        made = {
            name: stack.enter_context(labs.lab(f"bench-{name}", 2))
            for name in ("rules", "many", "plain", "docker", "vxlan")
        }
        for lab in made.values():
            for name, host in (("a", "h1"), ("b", "h1"), ("c", "h2")):
                listen = (f"udp:{PORT}", f"tcp:{PORT}")
                workloads.add(lab.name, name, host, "default", {}, listen)
            cluster.wait_enforced(lab)
        _fill(made["many"])
        for name in ("plain", "docker", "vxlan"):
            remove_rules(made[name])
        docker_server = _as_docker(made["docker"])
        _over_vxlan(made["vxlan"])
        here = {name: _place(made[name], "b") for name in ("rules", "many", "plain")}
        across = {name: _place(made[name], "c") for name in ("rules", "many", "plain", "vxlan")}
        across["docker"] = _place(made["docker"], "c")._replace(server=docker_server)
        for lab in map(description.load, [one.name for one in made.values()]):
            for pid in processes.inside([lab.workload_namespace(one) for one in lab.workloads]):
                _hurry(pid)
        with _hurried():
            found = [*_compared("one host", here), *_compared("across hosts", across)]
        yield from found


_TARGETS = {
    ("request", "one host", "plain"): "≤ 1.20",
    ("request", "across hosts", "plain"): "≤ 1.30",
    ("new UDP flow", "one host", "plain"): "≤ 1.6",
    ("new UDP flow", "across hosts", "plain"): "≤ 1.6",
    ("new connection", "one host", "plain"): "≤ 1.25",
    ("new connection", "across hosts", "plain"): "≤ 1.25",
    ("request", "across hosts", "docker"): "≤ 0.85",
    ("request", "across hosts", "vxlan"): "≤ 0.95",
}
_WORDS = {
    "plain": "against no rules",
    "docker": "against Docker's default",
    "vxlan": "against VXLAN",
}


def _compared(where: str, places: dict[str, Place]) -> Iterator[Result]:
    for what, measure in (
        ("request", _request_seconds),
        ("new UDP flow", _new_flow_seconds),
        ("new connection", _connect_seconds),
    ):
        rounds = [{name: measure(place) for name, place in places.items()} for _ in range(ROUNDS)]
        ours = statistics.median(one["rules"] for one in rounds)
        yield Result(f"{what}, {where}", ours * 1e6, "µs")
        for other, words in _WORDS.items():
            if other in places:
                ratio = statistics.median(one["rules"] / one[other] for one in rounds)
                target = _TARGETS.get((what, where, other), "")
                yield Result(f"{what}, {where}, {words}", ratio, "×", target)
        ratio = statistics.median(one["many"] / one["rules"] for one in rounds)
        yield Result(f"{what}, {where}, {MANY:,} endpoints against few", ratio, "×", "≤ 1.05")


def _place(lab: Lab, server: str) -> Place:
    lab = description.load(lab.name)
    address = workloads.address_of(lab.workload(server)).address_text
    return Place(path_of(lab, lab.workload("a")), (address, PORT))


def _fill(lab: Lab) -> None:
    async def fill(client: Client) -> None:
        await population.write(client, population.endpoints(MANY, "h1"))

    labs.with_client(lab, fill)
    cluster.wait_enforced(lab)


def _hurry(pid: int) -> None:
    """On the last processor, before everything else that wants it."""
    os.sched_setaffinity(pid, {max(os.sched_getaffinity(pid))})
    os.sched_setscheduler(pid, os.SCHED_FIFO, os.sched_param(10))


@contextlib.contextmanager
def _hurried() -> Iterator[None]:
    before = os.sched_getaffinity(0)
    _hurry(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        os.sched_setaffinity(0, before)


# What others do, on the routes of a lab without rules.


def _in_host(lab: Lab, host: str, script: str) -> str:
    command = ["ip", "netns", "exec", lab.host_namespace(host), "sh", "-ec", script]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _as_docker(lab: Lab) -> Address:
    """A bridge for workloads, NAT between hosts; returns the published address of `c`."""
    lab = description.load(lab.name)
    server = workloads.address_of(lab.workload("c")).address_text
    for host in ("h1", "h2"):
        routes = _in_host(lab, host, "ip route")
        found = re.findall(r"^(\S+) dev (cali\S+)", routes, re.MULTILINE)
        moves = "\n".join(
            f"ip link set {interface} master docker0; ip route replace {address} dev docker0"
            for address, interface in found
        )
        _in_host(
            lab,
            host,
            f"""ip link add docker0 type bridge
            ip link set docker0 address ee:ee:ee:ee:ee:ee up
            {moves}
            iptables -P FORWARD DROP
            iptables -N DOCKER; iptables -N DOCKER-USER; iptables -N DOCKER-ISOLATION-STAGE-1
            iptables -A FORWARD -j DOCKER-USER
            iptables -A FORWARD -j DOCKER-ISOLATION-STAGE-1
            iptables -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
            iptables -A FORWARD -o docker0 -j DOCKER
            iptables -A FORWARD -i docker0 ! -o docker0 -j ACCEPT
            iptables -A FORWARD -i docker0 -o docker0 -j ACCEPT
            iptables -t nat -A POSTROUTING -s 10.0.0.0/8 ! -o docker0 -j MASQUERADE""",
        )
    for protocol in ("tcp", "udp"):
        _in_host(
            lab,
            "h2",
            f"""iptables -t nat -A PREROUTING ! -i docker0 -p {protocol} --dport {PORT} \\
                -j DNAT --to-destination {server}:{PORT}
            iptables -A DOCKER -d {server}/32 ! -i docker0 -o docker0 -p {protocol} \\
                --dport {PORT} -j ACCEPT""",
        )
    return lab.host("h2").ipv4.address_text, PORT


def _over_vxlan(lab: Lab) -> None:
    lab = description.load(lab.name)
    for number, (host, other) in enumerate((("h1", "h2"), ("h2", "h1")), start=1):
        routes = _in_host(lab, host, "ip route")
        blocks = re.findall(r"^(\S+) via \S+ dev eth0", routes, re.MULTILINE)
        assert blocks, "no route to the other host"
        moves = "\n".join(f"ip route replace {one} via 192.0.2.{3 - number}" for one in blocks)
        remote = lab.host(other).ipv4.address_text
        _in_host(
            lab,
            host,
            f"""ip link add vx0 type vxlan id 77 dstport 4789 remote {remote} dev eth0
            ip addr add 192.0.2.{number}/24 dev vx0
            ip link set vx0 up
            {moves}""",
        )


# Asking.


def _request_seconds(place: Place) -> float:
    """The median of many, one datagram there and back at a time, on one flow."""
    with _socket(place, socket.SOCK_DGRAM) as client:
        client.connect(place.server)
        return statistics.median(_ask(client) for _ in range(ROUND_TRIPS))


def _new_flow_seconds(place: Place) -> float:
    """The same, each on a flow of its own; the socket is there before."""

    def once() -> float:
        with _socket(place, socket.SOCK_DGRAM) as client:
            client.connect(place.server)
            return _ask(client)

    return statistics.median(once() for _ in range(NEW_FLOWS))


def _connect_seconds(place: Place) -> float:
    def once() -> float:
        with _socket(place, socket.SOCK_STREAM) as client:
            began = time.perf_counter()
            client.connect(place.server)
            return time.perf_counter() - began

    return statistics.median(once() for _ in range(NEW_FLOWS))


def _ask(client: socket.socket) -> float:
    began = time.perf_counter()
    client.send(b"x")
    client.recv(16)
    return time.perf_counter() - began


def _socket(place: Place, kind: socket.SocketKind) -> socket.socket:
    made = netns.open_socket_in(place.client, socket.AF_INET, kind)
    made.settimeout(2)
    return made
