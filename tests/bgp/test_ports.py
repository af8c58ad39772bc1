"""B8: a workload does not reach BGP on its host."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.live import LiveLab, running_lab

from tortie.kernel import netns
from tortie.lab.probe import Port, Probe, run

PEER = """
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: somebody}
spec: {peerIP: 192.0.2.7, asNumber: 65000}
"""
"""Without any session BIRD does not listen."""


@pytest.fixture
def live() -> Iterator[LiveLab]:
    with running_lab("ports", routing="bgp", hosts=1) as made:
        yield made


@pytest.mark.timeout(120)
def test_a_workload_does_not_reach_bgp_on_its_host(live: LiveLab, tmp_path: Path) -> None:
    workload = live.add("one", "h1")
    host = live.lab.host("h1")
    live.apply(PEER, tmp_path)
    itself = netns.named_path(live.lab.host_namespace("h1"))

    def answers(path: str) -> bool:
        return run([Probe(path, host.ipv4, Port("tcp", 179))], 0.5) == [True]

    def change(action: str) -> None:
        found: dict[str, Any] = json.loads(
            live.ok("get", "felixconfiguration", "default", "-o", "json")
        )
        found["spec"]["defaultEndpointToHostAction"] = action
        file = tmp_path / "settings.json"
        file.write_text(json.dumps(found))
        live.ok("apply", "-f", str(file))

    live.eventually(lambda: answers(itself), "BIRD listens")
    for _ in range(3):
        assert not answers(live.path(workload)), "closed by default"
    change("Accept")
    live.eventually(lambda: answers(live.path(workload)), "open if somebody wants it so")
    change("Drop")
    live.eventually(lambda: not answers(live.path(workload)), "closed again")
