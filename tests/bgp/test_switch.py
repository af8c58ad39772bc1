"""Routing moves from the agents to BIRD and back while packets flow, with everything real."""

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from tests.bgp.site import TRAFFIC
from tests.e2e.live import LiveLab, running_lab

from tortie.agent.handover import BIRD_PROTOCOL
from tortie.kernel import netns

SWITCH = """
apiVersion: projectcalico.org/v3
kind: FelixConfiguration
metadata: {name: default}
spec:
  {programClusterRoutes: %s, healthEnabled: true, healthPort: 9099, ipv6Support: true,
  ipv4NormalRoutePriority: %d, ipv6NormalRoutePriority: %d}
---
apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {name: default}
spec: {programClusterRoutes: %s}
"""
BY_BGP = SWITCH % ("Disabled", 1024, 1024, "Enabled")
"""The metric that BIRD's routes had if it were not always higher than the agent's."""
OTHER_METRIC = SWITCH % ("Disabled", 3000, 1200, "Enabled")
DIRECT = SWITCH % ("Enabled", 2000, 1500, "Disabled")

NODE_STATUS = """
apiVersion: projectcalico.org/v3
kind: CalicoNodeStatus
metadata: {name: h1}
spec: {node: h1, classes: [Agent, BGP, Routes], updatePeriodSeconds: 1}
"""


def reported(live: LiveLab) -> tuple[str, int, int]:
    """State of BIRD, established sessions of IPv4 and IPv6."""
    found = json.loads(live.ok("get", "caliconodestatus", "h1", "-o", "json")).get("status", {})
    bgp = found.get("bgp", {})
    return (
        found.get("agent", {}).get("birdV4", {}).get("state", ""),
        bgp.get("numberEstablishedV4", 0),
        bgp.get("numberEstablishedV6", 0),
    )


@pytest.fixture
def live() -> Iterator[LiveLab]:
    with running_lab("switch", hosts=2) as made:
        yield made


@pytest.mark.timeout(150)
def test_direct_to_bgp_and_back_without_losing_a_packet(live: LiveLab, tmp_path: Path) -> None:
    one, two = live.add("one", "h1"), live.add("two", "h2")
    target = [address.partition("/")[0] for address in two.addresses]

    def protocols(host: str) -> set[int]:
        return {route.protocol for route in live.routes(host) if route.gateway is not None}

    def metrics(host: str) -> set[tuple[int, int, int]]:
        """Protocol, family, metric; 0 for 1024 in IPv6."""
        return {
            (route.protocol, route.destination.family, route.metric)
            for route in live.routes(host)
            if route.protocol in (80, BIRD_PROTOCOL)
        }

    def metrics_are(host: str, wanted: set[tuple[int, int, int]]) -> bool:
        return metrics(host) == wanted

    def start(where: str, *words: str) -> "subprocess.Popen[str]":
        return netns.run_in(
            where,
            lambda: subprocess.Popen(
                [sys.executable, "-S", TRAFFIC, *words], stdout=subprocess.PIPE, text=True
            ),
        )

    def check(sender: "subprocess.Popen[str]") -> None:
        out, _ = sender.communicate(timeout=60)
        sent, missing, *when = out.split()
        assert int(sent) > 300, "or little was tried, also on a busy machine"
        assert int(missing) == 0, f"lost at seconds {when}"

    servers = [start(live.path(two), "echo", address) for address in target]
    try:
        for server in servers:
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
        assert protocols("h1") == {80}
        assert metrics("h1") == {(80, 4, 0), (80, 6, 0)}
        senders = [start(live.path(one), "send", address, "12") for address in target]
        live.apply(BY_BGP, tmp_path)
        live.eventually(lambda: protocols("h1") == {BIRD_PROTOCOL}, "BIRD's routes alone")
        live.eventually(lambda: protocols("h2") == {BIRD_PROTOCOL}, "on both hosts")
        by_bgp = {(80, 4, 1024), (80, 6, 0), (BIRD_PROTOCOL, 4, 1025), (BIRD_PROTOCOL, 6, 1025)}
        for host in ("h1", "h2"):
            live.eventually(partial(metrics_are, host, by_bgp), "metrics with BIRD")
        plan = ["bgp", "plan", "--route-reflectors", "1"]
        assert "Nothing was changed" in live.ok(*plan)
        hasty = live.tortie(*plan, "--apply", "--settle-seconds", "0")
        assert hasty.code != 0
        assert "the mesh stays" in hasty.err
        assert '"nodeToNodeMeshEnabled": false' not in live.ok("get", "bgpconfig", "-o", "json")
        said = live.ok(*plan, "--apply", "--settle-seconds", "30")
        assert "Route reflectors: h1" in said
        assert "done: 3" in said
        assert "bgp-plan" not in live.ok("get", "caliconodestatus", "-o", "json")
        live.settle()
        assert '"nodeToNodeMeshEnabled": false' in live.ok("get", "bgpconfig", "-o", "json")
        for sender in senders:
            check(sender)
        live.apply(OTHER_METRIC, tmp_path)
        other = {(80, 4, 3000), (80, 6, 1200), (BIRD_PROTOCOL, 4, 3001), (BIRD_PROTOCOL, 6, 1201)}
        for host in ("h1", "h2"):
            live.eventually(partial(metrics_are, host, other), "none of a former one is left")
        live.apply(NODE_STATUS, tmp_path)
        live.eventually(lambda: reported(live) == ("Ready", 1, 1), "CalicoNodeStatus is current")
        senders = [start(live.path(one), "send", address, "21") for address in target]
        live.apply(DIRECT, tmp_path)
        live.eventually(lambda: 80 in protocols("h1"), "the agent's routes are back")
        for sender in senders:
            check(sender)
        live.eventually(lambda: protocols("h1") == {80}, "BIRD's routes are gone")
        live.eventually(lambda: protocols("h2") == {80}, "on both hosts")
        for host in ("h1", "h2"):
            assert metrics(host) == {(80, 4, 2000), (80, 6, 1500)}
    finally:
        for server in servers:
            server.kill()
            server.wait()
