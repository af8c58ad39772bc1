"""Meshes, and what happens to them, with real BIRDs and real traffic."""

import asyncio
import os
import signal
from functools import partial
from pathlib import Path

import pytest
from tests.bgp.site import eventually, lacks, lost, sessions, site

from tortie.bgp.bird import Bird
from tortie.desired.endpoint import Route, RouteType
from tortie.lib.errors import InvalidInput, Unavailable


@pytest.mark.parametrize("count", [3, 10])
def test_a_mesh_brings_every_block_to_every_host(tmp_path: Path, count: int) -> None:
    async def scenario() -> None:
        async with site(tmp_path, count) as made:
            await made.meshed()
            first = made["h1"]
            await sessions(made, "h1", 2 * (count - 1))
            assert "via 172.30.0.2" in first.gateway("10.65.2.0/26")
            assert "via fd00:30::2" in first.gateway("fd65::2:0/122")

    asyncio.run(scenario())


def test_kill_9_loses_no_packet(tmp_path: Path) -> None:
    """B1: routes stay in the kernel and at the peers; BIRD comes back by itself."""

    async def scenario() -> None:
        async with site(tmp_path, 3) as made:
            await made.meshed()
            one = made["h1"].add_workload("10.65.1.2")
            made["h2"].add_workload("10.65.2.2").answers()
            sender = one.sends("10.65.2.2", 5.0)
            await asyncio.sleep(0.5)
            killed = made["h2"].pid
            os.kill(killed, signal.SIGKILL)
            await eventually(lambda: made["h2"].pid not in (0, killed), "BIRD comes back")
            for _ in range(100):
                if len(await made["h2"].established()) == 4:
                    break
                await asyncio.sleep(0.05)
            assert len(await made["h2"].established()) == 4
            assert lost(sender) == 0

    asyncio.run(scenario())


def test_a_borrowed_address_is_announced_alone(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with site(tmp_path, 3) as made:
            await made.meshed()
            made["h1"].add_workload("10.65.1.2")
            made["h2"].add_workload("10.65.1.9", "cali1")
            made["h2"].wants("10.65.1.9/32", Route(RouteType.LOCAL_WORKLOAD, "cali1", True))
            for name in ("h1", "h3"):
                await eventually(partial(made[name].has, "10.65.1.9"), "the borrowed address")
                assert "via 172.30.0.2" in made[name].gateway("10.65.1.9")
            assert not made["h3"].has("10.65.1.2"), "one within its host's block is not"
            made["h2"].ip("route", "del", "10.65.1.9/32")
            await eventually(lambda: not made["h3"].has("10.65.1.9"), "it goes")

    asyncio.run(scenario())


def test_a_removed_node_is_forgotten(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with site(tmp_path, 3) as made:
            await made.meshed()
            made.put("Node", "h3", None)
            await made.apply()
            for name in ("h1", "h2"):
                await eventually(partial(lacks, made[name], "10.65.3.0/26"), "its routes go")
                assert made[name].has("fd65::1:0/122") or name == "h1"
                await sessions(made, name, 2)

    asyncio.run(scenario())


def test_a_refused_configuration_leaves_the_last_good_one(tmp_path: Path) -> None:
    """B3."""

    async def scenario() -> None:
        async with site(tmp_path, 3) as made:
            await made.meshed()
            host = made["h1"]
            good = (host.run_directory / "bird.conf").read_text()
            with pytest.raises(InvalidInput, match="refuses"):
                await host.bird.configure(good[: len(good) // 2])
            assert (host.run_directory / "bird.conf").read_text() == good
            await sessions(made, "h1", 4)
            assert not await host.bird.configure(good)

    asyncio.run(scenario())


def test_routes_to_other_hosts_are_not_announced(tmp_path: Path) -> None:
    """While routing moves from the agent to BIRD, both have routes."""

    async def scenario() -> None:
        async with site(tmp_path, 3) as made:
            await made.meshed()
            via = ["via", "172.30.0.2", "proto", "80"]
            made["h1"].ip("route", "add", "10.65.2.0/26", *via)
            made["h1"].ip("route", "add", "10.65.99.0/26", *via)
            via6 = ["via", "fd00:30::2", "proto", "80"]
            made["h1"].ip("-6", "route", "add", "fd65::2:0/122", *via6)
            made["h1"].add_workload("10.65.2.9")
            await eventually(partial(made["h3"].has, "10.65.2.9"), "a borrowed address is")
            assert not made["h3"].has("10.65.99.0/26")
            assert "via 172.30.0.2" in made["h3"].gateway("10.65.2.0/26")
            assert made["h1"].has("10.65.2.0/26"), "and stand beside BIRD's"
            assert made["h1"].has("fd65::2:0/122")

    asyncio.run(scenario())


def test_graceful_restart_by_hand_and_retirement(tmp_path: Path) -> None:
    """An upgrade of BIRD loses nothing; retiring it takes its routes along."""

    async def scenario() -> None:
        async with site(tmp_path, 2) as made:
            await made.meshed()
            one = made["h1"].add_workload("10.65.1.2")
            made["h2"].add_workload("10.65.2.2").answers()
            sender = one.sends("10.65.2.2", 4.0)
            await asyncio.sleep(0.3)
            before = made["h2"].pid
            await made["h2"].bird.ask("graceful restart")
            await eventually(
                lambda: made["h2"].pid not in (0, before), "the manager starts it again"
            )
            await eventually(partial(made["h1"].has, "10.65.2.0/26"), "it is announced")
            assert await asyncio.to_thread(lost, sender) == 0
            await made["h1"].bird.retire()
            assert not made["h1"].routes(4)
            assert not made["h1"].routes(6)
            await eventually(partial(lacks, made["h2"], "10.65.1.0/26"), "withdrawn")
            await made["h1"].bird.retire()

    asyncio.run(scenario())


def test_a_bird_that_somebody_else_starts(tmp_path: Path) -> None:
    """As under systemd: the agent writes the configuration and drives it, no more."""

    async def scenario() -> None:
        async with site(tmp_path, 1) as made:
            host = made["h1"]
            text = (host.run_directory / "bird.conf").read_text()
            directory = Path(f"/run/{made.prefix}unit")
            made.directories.append(directory)
            bird = Bird(directory, starts=False)
            with pytest.raises(Unavailable, match="start its unit"):
                await bird.configure(text)
            files = ["-c", "bird.conf", "-s", "bird.ctl", "-P", "bird.pid"]
            words = [w if w.startswith("-") else str(directory / w) for w in files]
            other = made.add_router("other", 9)
            process = other.spawn("bird", "-f", *words, log="bird.log")
            await eventually((directory / "bird.ctl").exists, "it runs")
            assert not await bird.configure(text)
            assert await bird.configure(text + "protocol static another { ipv4; }\n")
            assert "another" in {found.name for found in await bird.protocols()}
            # The next one begins with what the peers still have.
            assert (directory / "start.env").read_text() == "RECOVER=-R\n"
            process.kill()
            process.wait()
            await asyncio.sleep(0.3)
            with pytest.raises(Unavailable):
                await bird.protocols()
            await bird.close()
            # And ends for good, though somebody else started it.
            (directory / "bird.ctl").unlink()
            process = other.spawn("bird", "-f", *words, "-R", log="bird.log")
            await eventually((directory / "bird.ctl").exists, "it runs again")
            await bird.retire()
            process.wait(10)
            assert not {"bird.conf", "start.env"} & {path.name for path in directory.iterdir()}

    asyncio.run(scenario())
