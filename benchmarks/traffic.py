"""Packets between two workloads, against the same routes without any rules.

Two labs stand side by side, one with our rules, one whose tables were taken
away; rounds alternate between them, and ratios are of rounds next to each other.
"""

import asyncio
import os
import socket
import statistics
import time
from collections.abc import Iterator

from benchmarks import labs
from benchmarks.results import Result
from tortie.dataplane.driver.nftables import ARP, INET
from tortie.kernel import netns
from tortie.kernel.nft.connection import Nft
from tortie.kernel.nft.transaction import Transaction
from tortie.lab import cluster, description, processes, workloads
from tortie.lab.description import Lab, Workload

ROUNDS = 7
ROUND_TRIPS = 3000
STREAM_SECONDS = 0.5
PORT = 9000


def run() -> Iterator[Result]:
    with labs.lab("bench-rules", 2) as ruled, labs.lab("bench-plain", 2) as plain:
        for lab in (ruled, plain):
            for name, host in (("a", "h1"), ("b", "h1"), ("c", "h2")):
                listen = (f"udp:{PORT}",)
                workloads.add(lab.name, name, host, "default", {}, listen)
            cluster.wait_enforced(lab)
        remove_rules(plain)
        for path, to in (("one host", "b"), ("across hosts", "c")):
            with_rules, without = [], []
            for _ in range(ROUNDS):
                with_rules.append(round_trip_seconds(ruled.name, to))
                without.append(round_trip_seconds(plain.name, to))
            ratios = [a / b for a, b in zip(with_rules, without, strict=True)]
            yield Result(f"request latency, {path}", statistics.median(with_rules) * 1e6, "µs")
            target = "≤ 1.20" if path == "one host" else "≤ 1.30"
            name = f"request latency, {path}, against no rules"
            yield Result(name, statistics.median(ratios), "×", target)
            rates = [(_throughput(ruled.name, to), _throughput(plain.name, to)) for _ in range(5)]
            yield Result(
                f"throughput, {path}", statistics.median(rate for rate, _ in rates), "Gbit/s"
            )
            yield Result(
                f"throughput, {path}, against no rules",
                statistics.median(rate / other for rate, other in rates),
                "×",
            )


def remove_rules(lab: Lab) -> None:
    """Stop agents and keepers; then nobody owns the tables, and they can go. Routes stay."""

    async def delete() -> None:
        nft = Nft.open()
        change = Transaction()
        for table in (INET, ARP):
            change.delete_table(table)
        await nft.commit(change)
        nft.close()

    for host in lab.hosts:
        namespace = lab.host_namespace(host.name)
        processes.stop(processes.inside([namespace]))
        netns.run_in(netns.named_path(namespace), lambda: asyncio.run(delete()))


def path_of(lab: Lab, workload: Workload) -> str:
    return netns.named_path(lab.workload_namespace(workload))


def round_trip_seconds(name: str, to: str) -> float:
    """The median of many, one datagram there and back at a time."""
    lab = description.load(name)
    target = lab.workload(to)
    with netns.open_socket_in(
        path_of(lab, lab.workload("a")), socket.AF_INET, socket.SOCK_DGRAM
    ) as sock:
        sock.settimeout(2)
        sock.connect((workloads.address_of(target).address_text, PORT))
        found = []
        for _ in range(ROUND_TRIPS):
            began = time.perf_counter()
            sock.send(b"x")
            sock.recv(16)
            found.append(time.perf_counter() - began)
    return statistics.median(found)


def _throughput(name: str, to: str) -> float:
    """Gbit/s of one TCP stream, received by a process of its own."""
    lab = description.load(name)
    target = lab.workload(to)
    address = workloads.address_of(target).address_text
    listener = netns.open_socket_in(path_of(lab, target), socket.AF_INET, socket.SOCK_STREAM)
    with listener:
        listener.bind((address, 0))
        listener.listen(1)
        pid = os.fork()
        if pid == 0:
            _receive(listener)
        with netns.open_socket_in(
            path_of(lab, lab.workload("a")), socket.AF_INET, socket.SOCK_STREAM
        ) as sock:
            sock.connect((address, listener.getsockname()[1]))
            payload = bytes(1 << 18)
            sent = 0
            began = time.perf_counter()
            while time.perf_counter() - began < STREAM_SECONDS:
                sent += sock.send(payload)
            seconds = time.perf_counter() - began
        os.waitpid(pid, 0)
    return sent * 8 / seconds / 1e9


def _receive(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    buffer = bytearray(1 << 20)
    while connection.recv_into(buffer):
        pass
    os._exit(0)
