"""Stored settings change: the agent starts itself anew, and no packet is lost of it."""

import json
import socket
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.live import LiveLab
from tests.e2e.traffic import connection

from tortie.kernel import netns
from tortie.lab.probe import Port, Probe, run

RESTARTED = "settings changed; starting anew"


def test_settings_change_without_a_break(live: LiveLab, tmp_path: Path) -> None:
    expected = live.check("before")
    pids = [live.agent_pid(host.name) for host in live.lab.hosts]
    assert not _reaches_host(live), "by default workloads do not reach their host"
    with connection(live, "w1", "w5") as traffic:
        _change(live, tmp_path, defaultEndpointToHostAction="Accept", logSeverityScreen="Debug")
        live.eventually(lambda: _reaches_host(live), "the host answers its workload")
        live.settle()
        assert live.check("with other settings") == expected
        assert " DEBUG " in live.agent_log("h1").rpartition(RESTARTED)[2]
        _change(live, tmp_path, defaultEndpointToHostAction="Drop", logSeverityScreen="Info")
        live.eventually(lambda: not _reaches_host(live), "the host is closed again")
        live.settle()
        seen = traffic.stop()
    assert seen.problem == ""
    assert live.check("and back") == expected
    assert [live.agent_pid(host.name) for host in live.lab.hosts] == pids, "in place"
    for host in live.lab.hosts:
        assert RESTARTED in live.agent_log(host.name)


def _change(live: LiveLab, folder: Path, **settings: Any) -> None:
    resource = json.loads(live.ok("get", "felixconfiguration", "default", "-o", "json"))
    resource["spec"].update(settings)
    file = folder / "settings.json"
    file.write_text(json.dumps(resource))
    live.ok("apply", "-f", str(file))


def _reaches_host(live: LiveLab) -> bool:
    lab = live.lab
    path = netns.named_path(lab.workload_namespace(lab.workload("w1")))
    return run([Probe(path, lab.host("h1").ipv4, Port("icmp"))])[0]


@pytest.mark.timeout(90)
def test_other_sources_where_the_hosts_let_workloads_have_them(
    live: LiveLab, tmp_path: Path
) -> None:
    """What the CNI annotation stores in an endpoint counts when the setting says so, and no longer
    than that."""
    source = live.lab.workload("w1")
    target = live.add("other", "h1")
    own, to = source.addresses[0].partition("/")[0], target.addresses[0].partition("/")[0]
    used = "203.0.113.7"
    items = json.loads(live.ok("get", "workloadendpoint", "-A", "-o", "json"))["items"]
    (endpoint,) = (one for one in items if any(own in net for net in one["spec"]["ipNetworks"]))
    file = tmp_path / "endpoint.json"

    def may_send_from(*prefixes: str) -> None:
        endpoint["spec"]["allowSpoofedSourcePrefixes"] = prefixes
        endpoint["metadata"].pop("resourceVersion", None)
        file.write_text(json.dumps(endpoint))
        live.ok("apply", "-f", str(file))
        live.settle()

    def gets_there(address: str) -> bool:
        """A datagram from this address, to a neighbour on the same host."""
        with (
            netns.open_socket_in(live.path(target), socket.AF_INET, socket.SOCK_DGRAM) as there,
            netns.open_socket_in(live.path(source), socket.AF_INET, socket.SOCK_DGRAM) as here,
        ):
            there.settimeout(0.3)
            there.bind((to, 9999))
            here.bind((address, 0))
            here.sendto(b"x", (to, 9999))
            try:
                return there.recv(8) == b"x"
            except TimeoutError:
                return False

    def own_too(verb: str) -> None:
        """Its own kernel sends from these; or (`del`) no longer."""
        for address in (used, "198.51.100.7"):
            argv = ["ip", "addr", verb, f"{address}/32", "dev", "lo"]
            netns.run_in(live.path(source), partial(subprocess.run, argv, check=True))

    may_send_from("203.0.113.0/24")
    own_too("add")
    try:
        live.eventually(lambda: gets_there(own), "its own address")
        assert not gets_there(used), "the setting does not let it"
        _change(live, tmp_path, workloadSourceSpoofing="Any")
        live.eventually(lambda: gets_there(used), "now it does")
        assert not gets_there("198.51.100.7"), "that prefix alone"
        _change(live, tmp_path, workloadSourceSpoofing="Disabled")
        live.eventually(lambda: not gets_there(used), "and no longer")
        live.eventually(lambda: gets_there(own), "its own stays")
    finally:
        own_too("del")
        may_send_from()
        live.remove("other")
