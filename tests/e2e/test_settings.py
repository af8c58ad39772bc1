"""Stored settings change: the agent starts itself anew, and no packet is lost of it."""

import json
import socket
import subprocess
from functools import partial
from pathlib import Path
from typing import Any
from urllib.request import urlopen

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
    _change_spec(live, folder, "felixconfiguration", settings)


def _change_spec(live: LiveLab, folder: Path, kind: str, fields: dict[str, Any]) -> None:
    found = live.tortie("get", kind, "default", "-o", "json")
    new: dict[str, Any] = {
        "apiVersion": "projectcalico.org/v3",
        "kind": kind,
        "metadata": {"name": "default"},
    }
    resource = json.loads(found.out) if found.code == 0 else new
    resource.setdefault("spec", {}).update(fields)
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


DENY = """
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: no-telnet}
spec:
  order: 1
  selector: role == 'c'
  ingress:
  - {action: Deny, protocol: TCP, destination: {ports: [23]}}
  - {action: Allow}
---
apiVersion: projectcalico.org/v3
kind: StagedGlobalNetworkPolicy
metadata: {name: all-welcome}
spec:
  order: 0
  selector: role == 'c'
  ingress:
  - {action: Allow}
"""


@pytest.mark.timeout(90)
def test_who_is_denied_is_told_and_is_denied_all_the_same(live: LiveLab, tmp_path: Path) -> None:
    """`nftablesFilterDenyAction`: by packets, by `policy why`, by the flows of the host."""
    one, five = live.lab.workload("w1"), live.lab.workload("w5")
    to = five.addresses[0].partition("/")[0]
    live.apply(DENY, tmp_path)

    def refused() -> bool:
        with netns.open_socket_in(live.path(one), socket.AF_INET, socket.SOCK_STREAM) as here:
            here.settimeout(0.5)
            try:
                here.connect((to, 23))
            except TimeoutError:
                return False
            except ConnectionRefusedError:
                return True
            return False

    def told() -> list[dict[str, Any]]:
        found = map(json.loads, live.lab_ok("flows", "-o", "json").splitlines())
        return [
            flow
            for flow in found
            if flow["destination"] == "red/w5" and "no-telnet" in flow["decided"].get("policy", "")
        ]

    assert not refused(), "silence"
    live.eventually(told, "the flow")
    assert all(flow["staged"]["verdict"] == "Allow" for flow in told())
    _change(
        live,
        tmp_path,
        nftablesFilterDenyAction="Reject",
        flowLogsPolicyEvaluationMode="None",
    )
    live.eventually(refused, "an answer")
    why = live.tortie("policy", "why", "red/w1", "red/w5", "tcp/23")
    assert "no-telnet" in why.out, why
    assert "Deny" in why.out

    live.eventually(told, "the flow, again")
    assert {flow["verdict"] for flow in told()} == {"Deny"}
    assert not any("staged" in flow for flow in told()), "nothing staged is judged"
    _change(live, tmp_path, nftablesFilterDenyAction="Drop")
    live.eventually(lambda: not refused(), "silence again")


@pytest.mark.timeout(90)
def test_networks_of_services_are_followed_without_a_restart(live: LiveLab, tmp_path: Path) -> None:
    restarts = live.agent_log("h1").count(RESTARTED)

    def chains() -> str:
        listed = live.command_in("h1", "nft", "list", "table", "inet", "tortie").stdout
        return "".join(part for part in ("10.96.0.0/12", "service-loops") if part in listed)

    assert chains() == ""
    _change_spec(live, tmp_path, "bgpconfiguration", {"serviceClusterIPs": [{"cidr": NETWORK}]})
    live.eventually(lambda: chains() == NETWORK + "service-loops", "packets for services end here")
    _change_spec(live, tmp_path, "bgpconfiguration", {"serviceClusterIPs": []})
    live.eventually(lambda: chains() == "", "and no longer")
    assert live.agent_log("h1").count(RESTARTED) == restarts


NETWORK = "10.96.0.0/12"


@pytest.mark.timeout(90)
def test_settings_that_are_not_about_packets(live: LiveLab, tmp_path: Path) -> None:
    """What the agent serves, reports and compares."""
    _change(
        live,
        tmp_path,
        prometheusMetricsEnabled=True,
        prometheusMetricsPort=9191,
        prometheusGoMetricsEnabled=False,
        prometheusProcessMetricsEnabled=False,
        openstackRegion="north",
        reportingInterval="1s",
        reportingTTL="6s",
        endpointReportingEnabled=True,
        nftablesRefreshInterval="1s",
        healthPort=9199,
        deviceRouteProtocol=180,
    )

    def serves(url: str) -> str:
        def ask() -> str:
            with urlopen(f"http://localhost:{url}", timeout=1) as answer:
                text: bytes = answer.read()
            return text.decode()

        try:
            return live.in_host("h1", ask)
        except OSError:
            return ""

    live.eventually(lambda: serves("9191/metrics"), "metrics, where they are to be")
    metrics = serves("9191/metrics")
    assert "felix_" in metrics
    assert not any(line.startswith(("python_", "process_")) for line in metrics.splitlines())
    live.eventually(lambda: "loop: live, ready" in serves("9199/readiness"), "health, likewise")
    assert serves("9099/readiness") == "", "there no longer"

    def reports() -> dict[str, bytes]:
        found = live.entries("/calico/felix/v2/region-north/host/h1/")
        return {key: entry.value for key, entry in found.items()}

    live.eventually(reports, "reports, of this region")
    live.eventually(lambda: any("/workload/" in key for key in reports()), "of endpoints, too")
    before = reports()["/calico/felix/v2/region-north/host/h1/status"]
    live.eventually(
        lambda: reports()["/calico/felix/v2/region-north/host/h1/status"] != before, "each second"
    )

    def blocks() -> set[str]:
        shown = live.command_in("h1", "ip", "route", "show", "type", "blackhole").stdout
        return {line.split()[1] for line in shown.splitlines()}

    # By its number the agent knows its routes: they got the new one, all.
    protocols = {route.protocol for route in live.routes("h1")}
    assert (80 in protocols, 180 in protocols) == (False, True)
    own = blocks()
    assert own
    for block in own:
        live.command_in("h1", "ip", "route", "del", "blackhole", block)
    live.eventually(lambda: blocks() == own, "what somebody took away is back")
