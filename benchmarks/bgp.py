"""BGP at scale: rendering, BIRD's check and reconfiguration, convergence, memory."""

import asyncio
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from tests.bgp.site import AGENT, eventually, site

from benchmarks.labs import memory_mib
from benchmarks.results import Result
from tortie.bgp.bird import Bird
from tortie.bgp.render import render_bird
from tortie.bgp.snapshot import Peer, Snapshot
from tortie.desired.endpoint import Route, RouteType
from tortie.desired.kinds import Kind
from tortie.lib.ip import Network, parse_network

SIZES = (500, 5000)
POOL = parse_network("10.0.0.0/8")
FIRST_BLOCK = parse_network("10.64.0.0/26")
FIRST_SPREAD = parse_network("10.65.32.0/28")
FIRST_PEER = parse_network("127.1.0.0/32")

T = TypeVar("T")


def snapshot(peers: int, blocks: int) -> Snapshot:
    return Snapshot(
        ipv4=parse_network("127.0.0.1"),
        ipv6=None,
        listen_port=17900,
        peers=tuple(
            Peer(address=Network(4, FIRST_PEER.value + n, 32), as_number=64512, port=17900)
            for n in range(1, peers + 1)
        ),
        pools=(POOL,),
        exported_pools=(POOL,),
        own_blocks=tuple(Network(4, FIRST_BLOCK.value + n * 64, 26) for n in range(blocks)),
    )


def timed(act: Callable[[], T]) -> tuple[float, T]:
    began = time.perf_counter()
    result = act()
    return (time.perf_counter() - began) * 1000, result


def rendering() -> Iterator[Result]:
    for peers, blocks in [(n, 10) for n in SIZES] + [(10, n) for n in SIZES]:
        made = snapshot(peers, blocks)
        cost, text = timed(lambda made=made: render_bird(made))  # type: ignore[misc]
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "bird.conf"
            path.write_text(text)
            check, _ = timed(
                lambda path=path: subprocess.run(["bird", "-p", "-c", path], check=True)  # type: ignore[misc]
            )
        size = f"{peers:,} peers, {blocks:,} blocks"
        yield Result(f"render, {size}", cost, "ms")
        yield Result(f"BIRD's check of it, {size}", check, "ms")


async def reconfiguration() -> list[Result]:
    """One block more, on a running BIRD whose peers do not answer."""
    found = []
    for peers, blocks in [(n, 10) for n in SIZES] + [(10, n) for n in SIZES]:
        with tempfile.TemporaryDirectory(dir="/run") as directory:
            bird = Bird(Path(directory) / "b")
            await bird.configure(render_bird(snapshot(peers, blocks)))
            pid = int((Path(directory) / "b" / "bird.pid").read_text())
            began = time.perf_counter()
            await bird.configure(render_bird(snapshot(peers, blocks + 1)))
            cost = (time.perf_counter() - began) * 1000
            size = f"{peers:,} peers, {blocks:,} blocks"
            found.append(Result(f"reconfigure, {size}", cost, "ms"))
            found.append(Result(f"BIRD's memory, {size}", memory_mib(pid)[0], "MiB"))
            await bird.close()
            os.kill(pid, signal.SIGKILL)
    return found


async def mesh(hosts: int) -> Result:
    """From nothing to every block at every host, over sessions of both families."""
    with tempfile.TemporaryDirectory() as directory:
        async with site(Path(directory), hosts) as made:
            seconds = await made.meshed(120.0)
    return Result(f"mesh of {hosts} hosts, every block at every host", seconds, "s")


async def reflector(hosts: int, blocks: int) -> list[Result]:
    """Two clients of one reflector, the first with the blocks of `hosts` hosts."""
    with tempfile.TemporaryDirectory() as directory:
        async with site(Path(directory), 3) as made:
            made.put("BGPConfiguration", "default", {"nodeToNodeMeshEnabled": False})
            made.put("BGPPeer", "rr", {"peerSelector": "has(rr)"})
            made.put_node("h1", {"rr": ""}, routeReflectorClusterID="244.0.0.1")
            await made.apply()
            await made.meshed()
            count = hosts * blocks
            first = FIRST_SPREAD.value
            routes = [
                f"route add blackhole {Network(4, first + n * 16, 28)} proto {AGENT}"
                for n in range(count)
            ]
            for network in (Network(4, first + n * 16, 28) for n in range(count)):
                made["h2"].manager.on_update(Kind.ROUTE, network, Route(RouteType.LOCAL_BLOCK))
            await made.apply()
            began = time.perf_counter()
            subprocess.run(
                ["ip", "-n", made["h2"].netns, "-batch", "-"],
                input="\n".join(routes),
                text=True,
                check=True,
            )
            written = time.perf_counter() - began
            await eventually(
                lambda: made["h3"].routes().count("/28 ") == count, "all of them", 60.0
            )
            took = time.perf_counter() - began
            memory, _ = memory_mib(made["h1"].pid)
    return [
        Result(f"{count:,} routes through a reflector, written", written, "s"),
        Result(f"{count:,} routes through a reflector, first to last", took, "s"),
        Result("the reflector's memory", memory, "MiB"),
    ]


def run() -> Iterator[Result]:
    yield from rendering()
    yield from asyncio.run(reconfiguration())
    yield asyncio.run(mesh(20))
    yield from asyncio.run(reflector(200, 10))
