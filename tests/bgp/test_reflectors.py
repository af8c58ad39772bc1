"""Route reflectors instead of a mesh, and the way from one to the other under traffic."""

import asyncio
import os
import signal
from functools import partial
from pathlib import Path

from tests.bgp.site import Site, eventually, lost, sessions, site

OFF: dict[str, object] = {"nodeToNodeMeshEnabled": False}
PEERS: dict[str, object] = {"nodeSelector": "all()", "peerSelector": "has(route-reflector)"}


def make_reflector(made: Site, name: str) -> None:
    """One write of the node: the label that selects it, and its own cluster id."""
    cluster = made[name].ipv4
    made.put_node(name, {"route-reflector": ""}, routeReflectorClusterID=cluster)


def test_two_reflectors_with_ten_clients(tmp_path: Path) -> None:
    """All routes through two reflectors; B6: one of them dies and nothing is lost."""

    async def scenario() -> None:
        async with site(tmp_path, 12) as made:
            made.put("BGPConfiguration", "default", OFF)
            made.put("BGPPeer", "reflectors", PEERS)
            for name in ("h1", "h2"):
                make_reflector(made, name)
            await made.apply()
            await made.meshed()
            await sessions(made, "h3", 4)
            await sessions(made, "h1", 22)
            assert "via 172.30.0.12 " in made["h3"].gateway("10.65.12.0/26"), "not via a reflector"
            one = made["h3"].add_workload("10.65.3.2")
            made["h12"].add_workload("10.65.12.2").answers()
            sender = one.sends("10.65.12.2", 3.0)
            await made["h1"].manager.close()
            os.kill(made["h1"].pid, signal.SIGKILL)
            assert await asyncio.to_thread(lost, sender) == 0

    asyncio.run(scenario())


def test_from_mesh_to_reflectors_without_losing_a_packet(tmp_path: Path) -> None:
    """The order of `tortie bgp plan --apply`; no session between two nodes ever restarts."""

    async def scenario() -> None:
        async with site(tmp_path, 5) as made:
            await made.meshed()
            workloads = {
                name: made[name].add_workload(f"10.65.{made[name].ordinal}.2")
                for name in made.hosts
            }
            for workload in workloads.values():
                workload.answers()
            await sessions(made, "h1", 8)
            since = {p.name: p.since for p in await made["h1"].bird.protocols()}
            senders = [
                workloads["h3"].sends("10.65.4.2", 6.0),  # client to client
                workloads["h3"].sends("10.65.1.2", 6.0),  # client to reflector
                workloads["h2"].sends("10.65.5.2", 6.0),  # reflector to client
                workloads["h1"].sends("10.65.2.2", 6.0),  # between reflectors
            ]
            await asyncio.sleep(0.3)
            made.put("BGPPeer", "reflectors", PEERS)
            await made.apply()
            for name in ("h1", "h2"):
                make_reflector(made, name)
                await made.apply()
            await asyncio.sleep(1.5)
            made.put("BGPConfiguration", "default", OFF)
            await made.apply()
            await sessions(made, "h3", 4)
            assert {p.name: p.since for p in await made["h1"].bird.protocols()} == since
            for sender in senders:
                assert await asyncio.to_thread(lost, sender) == 0
            await made.meshed()

    asyncio.run(scenario())


def test_one_cluster_id_for_two_reflectors(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with site(tmp_path, 4) as made:
            made.put("BGPConfiguration", "default", OFF)
            made.put("BGPPeer", "reflectors", PEERS)
            for name in ("h1", "h2"):
                made.put_node(name, {"route-reflector": ""}, routeReflectorClusterID="244.0.0.1")
            await made.apply()
            await made.meshed()
            text = (made["h1"].run_directory / "bird.conf").read_text()
            assert text.count("rr cluster id 244.0.0.1;") == 2, "a template for each family"

    asyncio.run(scenario())


def test_a_workload_that_peers_with_its_host(tmp_path: Path) -> None:
    """Its routes are taken only as far as a filter allows, and every host hears of them."""

    async def scenario() -> None:
        async with site(tmp_path, 2) as made:
            workload = made["h1"].add_workload("10.65.1.7")
            made.put(
                "BGPFilter",
                "service",
                {
                    "importV4": [
                        {"action": "Accept", "matchOperator": "In", "cidr": "10.65.200.0/24"}
                    ]
                },
            )
            made.put(
                "BGPPeer",
                "router",
                {"localWorkloadSelector": "all()", "asNumber": 65111, "filters": ["service"]},
            )
            endpoint: dict[str, object] = {
                "node": "h1",
                "ipNetworks": ["10.65.1.7/32"],
                "interfaceName": "cali0",
            }
            made.put("WorkloadEndpoint", "router", endpoint)
            await made.apply()
            await made.meshed()
            configuration = tmp_path / "workload.conf"
            configuration.write_text(WORKLOAD)
            made["h1"].site.processes.append(
                workload.daemon("bird", "-f", "-c", str(configuration), "-s", f"{tmp_path}/w.ctl")
            )
            for name in ("h1", "h2"):
                await eventually(partial(made[name].has, "10.65.200.0/26"), "the service")
                assert not made[name].has("10.65.77.0/26")
            assert "via 172.30.0.1" in made["h2"].gateway("10.65.200.0/26")

    asyncio.run(scenario())


WORKLOAD = """
router id 10.65.1.7;
protocol device {}
protocol static { ipv4; route 10.65.200.0/26 blackhole; route 10.65.77.0/26 blackhole; }
protocol bgp host {
  local 10.65.1.7 as 65111; neighbor 172.30.0.1 as 64512; multihop;
  connect delay time 1; connect retry time 1;
  ipv4 { import all; export all; };
}
"""
