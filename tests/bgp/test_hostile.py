"""Peers that flap, flood and lie (B5), and others who write routes beside us (B7)."""

import asyncio
import os
import signal
from pathlib import Path

import pytest
from tests.bgp.routers import ROGUE_AS, Rogue
from tests.bgp.site import TestHost, eventually, lacks, site

from tortie.dataplane.driver.route import RouteDriver
from tortie.desired.endpoint import Route as Desired
from tortie.desired.endpoint import RouteType
from tortie.kernel import netns
from tortie.kernel.rtnl.connection import Rtnl
from tortie.kernel.rtnl.route import Kind as RouteKind
from tortie.kernel.rtnl.route import Route
from tortie.lib.errors import AlreadyExists
from tortie.lib.ip import parse_address, parse_network

LIMIT = 100
FLOOD = tuple(f"10.65.{128 + n // 250}.{n % 250}/32" for n in range(500))
LIES = ("0.0.0.0/0", "10.0.0.0/8", "10.64.0.0/15", "10.65.1.0/26", "172.30.0.2/32")
"""The default route, more than the pool, the victim's own block, another host's address."""
STOLEN = "10.65.2.0/26"
"""The block of the victim's neighbour."""
SESSION = "Peer_172_30_0_201"


async def imported(host: TestHost, session: str = SESSION) -> tuple[int, bool]:
    """Routes taken from a session, and whether its limit was reached."""
    lines = [text.strip() for _, text in await host.bird.ask(f"show protocols all {session}")]
    (limit,) = (line for line in lines if line.startswith("Import limit:"))
    counts = [line.split()[1] for line in lines if line.startswith("Routes:")]
    return int(counts[0]) if counts else 0, "[HIT]" in limit


async def since(host: TestHost, session: str) -> str:
    return next(found.since for found in await host.bird.protocols() if found.name == session)


@pytest.mark.timeout(120)
def test_a_peer_that_flaps_and_floods_harms_only_itself(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with site(tmp_path, 2, import_limit=LIMIT) as made:
            one, two = made["h1"], made["h2"]
            await made.meshed()
            rogue = Rogue(made, "h1", (*LIES, STOLEN, *FLOOD))
            peer: dict[str, object] = {"peerIP": rogue.router.ipv4, "asNumber": ROGUE_AS}
            made.put("BGPPeer", "rogue", peer | {"node": "h1"})
            await made.apply()
            mesh = await since(one, "Peer_172_30_0_2"), await since(two, "Peer_172_30_0_1")
            one.spawn("ip", "-4", "monitor", "route", log="monitor")
            two.spawn("ip", "-4", "monitor", "route", log="monitor")
            for _ in range(5):
                rogue.start()
                for _ in range(300):
                    if await imported(one) == (LIMIT, True):
                        break
                    await asyncio.sleep(0.05)
                await asyncio.sleep(0.2)
                assert await imported(one) == (LIMIT, True), "no more than the limit, of 500"
                flooded = [line for line in one.routes().splitlines() if ".201 " in line]
                assert LIMIT - 1 <= len(flooded) <= LIMIT
                assert not {line.split()[0] for line in flooded} & {*LIES, "default", STOLEN}
                assert one.gateway(STOLEN).startswith(f"{STOLEN} via {two.ipv4} ")
                rogue.kill()
            await eventually(lambda: ".201 " not in one.routes(), "what it said went with it")
            assert mesh == (
                await since(one, "Peer_172_30_0_2"),
                await since(two, "Peer_172_30_0_1"),
            )
            # The host's own blocks still find their way to the others through the flood.
            rogue.start()
            await eventually(lambda: two.routes().count("10.65.1") >= 90, "passed on to h2")
            for host, block in ((one, two.block), (two, one.block)):
                log = (host.directory / "monitor").read_text()
                assert "10.65.128." in log, "the monitor saw the flood"
                assert block not in log, "and no change of a block"
            await two.bird.ask("restart Peer_172_30_0_1")
            await eventually(lambda: two.has(one.block), "the block of h1 is not crowded out")

    asyncio.run(scenario())


def test_bird_and_the_agent_leave_one_anothers_routes_alone(tmp_path: Path) -> None:
    """B7: ownership is the protocol number, whoever wrote the route."""

    async def scenario() -> None:
        async with site(tmp_path, 2) as made:
            host = made["h1"]
            await made.meshed()
            gateway = made["h2"].ipv4
            foreign = {
                "10.65.40.0/26": "static",
                "10.65.41.0/26": "boot",
                "10.65.42.0/26": "bird",
                "10.65.43.0/26": "99",
            }
            for destination, protocol in foreign.items():
                host.ip("route", "add", destination, "via", gateway, "proto", protocol)
            # As the agent's own blocks are: only the number tells that it is somebody else's.
            foreign["10.65.47.0/26"] = "99"
            host.ip("route", "add", "blackhole", "10.65.47.0/26", "proto", "99")
            host.ip("route", "add", "10.65.44.0/26", "via", gateway, "proto", "80")

            def there(destination: str, protocol: str) -> bool:
                return bool(host.ip("route", "show", destination, "proto", protocol))

            before = host.routes()
            assert f"{made['h2'].block} " in before, "BIRD's own are among them"
            rtnl = netns.run_in(netns.named_path(host.netns), Rtnl.open)
            with rtnl:
                driver = RouteDriver(rtnl, protocol=80)
                block, old = parse_network(host.block), parse_network("10.65.44.0/26")
                kept = Route(destination=block, kind=RouteKind.BLACKHOLE, protocol=80)
                driver.want(block, kept)
                driver.resync()
                # It wants what others have: they keep it.
                taken, hop = parse_network("10.65.40.0/26"), parse_address(gateway)
                for wanted in (taken, parse_network("10.65.45.0/26")):
                    driver.want(wanted, Route(destination=wanted, gateway=hop, protocol=80))
                refused = driver.apply()
                assert [type(error) for error in refused] == [AlreadyExists]
                assert host.has("10.65.45.0/26", "80")
                assert not host.has(str(old), "80"), "its own that nobody wants is taken away"
                driver.want(parse_network("10.65.45.0/26"), None)
                driver.want(taken, None)
                assert driver.apply() == []
                assert host.routes() == before
                for destination, protocol in foreign.items():
                    assert there(destination, protocol), f"{destination} of {protocol} stays"
            # And BIRD: through a new configuration, a kill -9 and a scan of the kernel.
            host.wants("10.65.46.0/26", Desired(RouteType.LOCAL_BLOCK))
            await made.apply()
            await eventually(lambda: made["h2"].has("10.65.46.0/26"), "the agent's is announced")
            died = host.pid
            os.kill(died, signal.SIGKILL)
            await eventually(lambda: host.pid not in (0, died), "BIRD is back")
            await asyncio.sleep(11)  # the kernel is scanned every 10 s
            for destination, protocol in foreign.items():
                if protocol != "bird":
                    assert there(destination, protocol), f"BIRD leaves {destination} alone"
                    assert lacks(made["h2"], destination), "and does not announce it"
            assert there("10.65.46.0/26", "80")

    asyncio.run(scenario())
