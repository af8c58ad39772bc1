"""Single settings, each judged by what a kernel or a peer then has."""

import asyncio
import subprocess
from functools import partial
from pathlib import Path

import pytest
from tests.bgp.routers import as_path, attribute
from tests.bgp.site import POOL, TestHost, eventually, lacks, run, site, write_secret
from tests.bgp.test_fabric import with_gobgp

from tortie.desired.endpoint import Pool
from tortie.desired.kinds import Kind


def test_port_and_bind_mode(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with site(tmp_path, 2) as made:
            settings: dict[str, object] = {"listenPort": 1179, "bindMode": "NodeIP"}
            made.put("BGPConfiguration", "default", settings)
            made.put("BGPConfiguration", "node.h2", {"listenPort": 1180})
            await made.apply()
            await made.meshed()
            listening = made["h1"].execute("ss", "-Hltn").split()
            assert "172.30.0.1:1179" in listening
            assert "[fd00:30::1]:1179" in listening
            assert not [word for word in listening if word.endswith(":179")]
            assert "172.30.0.2:1180" in made["h2"].execute("ss", "-Hltn").split()

    asyncio.run(scenario())


def test_what_bgp_may_not_export_stays(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with site(tmp_path, 2) as made:
            await made.meshed()
            made.each(lambda m: m.on_update(Kind.POOL, POOL, Pool(export=False)))
            await made.apply()
            await eventually(partial(lacks, made["h1"], "10.65.2.0/26"), "withdrawn")
            assert made["h1"].has("fd65::2:0/122")

    asyncio.run(scenario())


def test_several_hosts_with_one_address_share_its_traffic(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with site(tmp_path, 3) as made:
            await made.meshed()
            for name in ("h2", "h3"):
                made[name].ip("route", "add", "blackhole", "10.65.50.0/26", "proto", "80")
            await eventually(lambda: made["h1"].routes().count("nexthop via") == 2, "two ways")

    asyncio.run(scenario())


def test_a_moved_workload_is_followed(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with site(tmp_path, 3) as made:
            await made.meshed()
            made["h2"].add_workload("10.65.1.9")
            await eventually(lambda: "172.30.0.2" in made["h1"].gateway("10.65.1.9"), "there")
            made["h3"].add_workload("10.65.1.9")
            made["h2"].ip("route", "del", "10.65.1.9/32")
            took = await eventually(
                lambda: "172.30.0.3" in made["h1"].gateway("10.65.1.9"), "moved", step=0.005
            )
            assert took < 2.0

    asyncio.run(scenario())


def test_the_way_to_a_peer_beyond_a_gateway(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with site(tmp_path, 1) as made:
            peer = {"peerIP": "198.51.100.1", "asNumber": 65000, "reachableBy": "172.30.0.77"}
            made.put("BGPPeer", "far", peer)
            await made.apply()
            await eventually(partial(made["h1"].has, "198.51.100.1"), "its route")
            assert "via 172.30.0.77" in made["h1"].gateway("198.51.100.1")

    asyncio.run(scenario())


def test_local_as_number(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with site(tmp_path, 1) as made:
            switch = await with_gobgp(made, host_as=64999, localASNumber=64999)
            await eventually(lambda: bool(switch.received()), "a session")
            (path,) = switch.received()["10.65.1.0/26"]
            assert as_path(path)[0] == 64999

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("mode", "hop"), [("Auto", "172.30.0.2"), ("Self", "172.30.0.1"), ("Keep", "172.30.0.2")]
)
def test_next_hop_modes(tmp_path: Path, mode: str, hop: str) -> None:
    """A route of h2's, passed on by h1 because a filter says so."""

    async def scenario() -> None:
        async with site(tmp_path, 2) as made:
            accept: dict[str, object] = {"exportV4": [{"action": "Accept"}]}
            made.put("BGPFilter", "all", accept)
            switch = await with_gobgp(made, node="h1", nextHopMode=mode, filters=["all"])
            await made.meshed()
            await eventually(lambda: "10.65.2.0/26" in switch.received(), "passed on")
            (path,) = switch.received()["10.65.2.0/26"]
            assert attribute(path, 3)["nexthop"] == hop

    asyncio.run(scenario())


def test_as_numbers_of_our_own_in_a_path(tmp_path: Path) -> None:
    """Two clusters with one AS number, joined by a switch."""

    async def scenario() -> None:
        async with site(tmp_path, 1) as made:
            switch = await with_gobgp(made)
            hop = ["nexthop", switch.router.ipv4]
            switch.inject("10.65.80.0/26", *hop, "aspath", "64512")
            switch.inject("10.65.81.0/26", *hop)
            await eventually(partial(made["h1"].has, "10.65.81.0/26"), "the other one")
            assert lacks(made["h1"], "10.65.80.0/26"), "a loop"
            peer = {"peerIP": switch.router.ipv4, "asNumber": 64700}
            password = {"secretKeyRef": {"name": "bgp", "key": "tor"}}
            more = {"password": password, "numAllowedLocalASNumbers": 1}
            made.put("BGPPeer", "go4", peer | more)
            await made.apply()
            await eventually(partial(made["h1"].has, "10.65.80.0/26"), "allowed")

    asyncio.run(scenario())


def test_the_configuration_is_nobody_elses_to_read(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with site(tmp_path, 1) as made:
            path = made["h1"].run_directory / "bird.conf"
            mode = subprocess.run(["stat", "-c", "%a", path], capture_output=True, text=True)
            assert mode.stdout.strip() == "600"

    asyncio.run(scenario())


def test_bfd_between_hosts(tmp_path: Path) -> None:
    """A silent cut is noticed long before the hold time of 90 seconds."""

    async def scenario() -> None:
        async with site(tmp_path, 2) as made:
            annotations = {"bgp.tortie.io/bfd": "Enabled"}
            made.put("BGPConfiguration", "default", {}, annotations=annotations)
            await made.apply()
            await made.meshed()
            for _ in range(200):
                answer = await made["h1"].bird.ask("show bfd sessions")
                if sum(" Up " in text for _, text in answer) == 2:
                    break
                await asyncio.sleep(0.05)
            else:
                raise AssertionError(answer)
            run("ip", "-n", made.fabric, "link", "set", "p2", "nomaster")
            took = await eventually(partial(lacks, made["h1"], "10.65.2.0/26"), "gone", 10.0)
            assert took < 5.0

    asyncio.run(scenario())


async def said(host: TestHost, command: str) -> list[str]:
    return [text.strip() for _, text in await host.bird.ask(command)]


def test_ignored_interfaces_have_no_say(tmp_path: Path) -> None:
    """Their networks are not known to BIRD: no way to a next hop, and nothing to announce."""

    async def scenario() -> None:
        async with site(tmp_path, 2) as made:
            one = made["h1"]
            one.ip("link", "add", "dum0", "type", "veth", "peer", "name", "dum1")
            one.ip("link", "set", "dum1", "up")
            one.ip("addr", "add", "10.65.99.1/24", "dev", "dum0")
            one.ip("link", "set", "dum0", "up")
            await made.meshed()

            async def networks() -> set[str]:
                lines = await said(one, "show route protocol direct1")
                return {line.split()[0] for line in lines if "/" in line.partition(" ")[0]}

            assert {"10.65.99.0/24", "172.30.0.0/24", "fd00:30::/64"} <= await networks()
            made.put("BGPConfiguration", "default", {"ignoredInterfaces": ["dum*"]})
            await made.apply()
            assert "10.65.99.0/24" not in await networks()
            assert "172.30.0.0/24" in await networks()
            # The node's own replaces it; without eth0 the other host is nowhere.
            made.put("BGPConfiguration", "node.h1", {"ignoredInterfaces": ["eth0"]})
            await made.apply()
            assert "10.65.99.0/24" in await networks()
            assert "172.30.0.0/24" not in await networks()
            block = made["h2"].block
            await eventually(
                lambda: " via 172.30.0.2 " not in one.gateway(block), "no way to h2's block"
            )
            assert made["h2"].has(one.block), "that is one host's matter"
            made.put("BGPConfiguration", "node.h1", None)
            await made.apply()
            await eventually(lambda: " via 172.30.0.2 " in one.gateway(block), "there again")
            assert lacks(made["h2"], "10.65.99.0/24"), "what is attached is not announced,"
            rule = {"action": "Accept", "matchOperator": "Equal", "cidr": "10.65.99.0/24"}
            made.put("BGPFilter", "out", {"exportV4": [rule]})
            peer = {"peerIP": made["h2"].ipv4, "asNumber": 64512, "node": "h1", "filters": ["out"]}
            made.put("BGPPeer", "h2", peer)
            made.put("BGPConfiguration", "default", {})
            await made.apply()
            await eventually(lambda: made["h2"].has("10.65.99.0/24"), "but where a filter says so")
            made.put("BGPConfiguration", "default", {"ignoredInterfaces": ["dum*"]})
            await made.apply()
            await eventually(lambda: lacks(made["h2"], "10.65.99.0/24"), "and it is not ignored")

    asyncio.run(scenario())


def test_a_password_for_the_mesh(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with site(tmp_path, 2) as made:
            password = write_secret(made, "one for all")
            made.put("BGPConfiguration", "default", {"nodeMeshPassword": password})
            await made.apply()
            await made.meshed()
            one, two = made["h1"], made["h2"]
            sessions = {"Peer_172_30_0_2", "Peer_fd00_30__2"}
            assert await one.established() == sessions
            write_secret(made, "another")
            await one.manager.apply()
            for _ in range(4):
                await asyncio.sleep(1)
                assert await one.established() == set(), "only one of them has the new one"
            await two.manager.apply()
            for _ in range(200):
                if await one.established() == sessions:
                    break
                await asyncio.sleep(0.1)
            await made.meshed()
            assert await one.established() == sessions

    asyncio.run(scenario())


def test_time_between_keepalives(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with site(tmp_path, 2) as made:
            peer = {"peerIP": made["h2"].ipv4, "asNumber": 64512, "node": "h1"}
            made.put("BGPPeer", "quick", peer | {"keepaliveTime": "4s"})
            await made.apply()
            await made.meshed()
            lines = await said(made["h1"], "show protocols all Peer_172_30_0_2")
            timers = {
                line.split()[0]: line.rpartition("/")[2] for line in lines if "timer:" in line
            }
            assert timers == {"Hold": "12", "Keepalive": "4"}
            lines = await said(made["h2"], "show protocols all Peer_172_30_0_1")
            assert any(line.startswith("Hold timer:") and line.endswith("/12") for line in lines)

    asyncio.run(scenario())
