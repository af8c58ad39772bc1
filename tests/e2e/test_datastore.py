"""The datastore goes away and comes back; what is in it is not always valid; what is told back."""

import json
import signal
from pathlib import Path

import pytest
from tests.e2e.live import LiveLab

from tortie.lab import cluster, processes
from tortie.model.keys import RESOURCES

GUARD = """
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: default.guard}
spec:
  selector: role == 'c'
  types: [Ingress]
  ingress:
  - {action: Allow, source: {selector: role == 'b'}}
"""
OPEN = GUARD.replace("role == 'b'", "all()")


def test_enforcement_stands_without_the_datastore(live: LiveLab, tmp_path: Path) -> None:
    if live.datastore != "etcd":
        return  # a file does not go away
    live.apply(GUARD, tmp_path)
    expected = live.check("before")
    (pid,) = processes.inside([live.lab.fabric_namespace])
    agents = [live.agent_pid(host.name) for host in live.lab.hosts]
    processes.stop([pid], signal.SIGKILL)
    assert live.observed() == expected, "while etcd is dead"
    cluster.start_etcd(live.lab)
    live.eventually(lambda: live.tortie("get", "nodes").code == 0, "etcd is back")
    live.apply(OPEN, tmp_path)
    assert live.check("etcd is back, with a change") != expected
    assert [live.agent_pid(host.name) for host in live.lab.hosts] == agents


def test_while_it_is_not_ready_agents_keep_what_they_have(live: LiveLab, tmp_path: Path) -> None:
    """Also one that starts then; afterwards they take up what came meanwhile, without a restart."""

    def held() -> bool:
        told = [cluster.ask_agent(live.lab, host, "/readiness") for host in live.lab.hosts]
        return all(status == 503 and "datastore is not ready" in text for status, text in told)

    live.apply(GUARD, tmp_path)
    expected = live.check("before")
    live.ok("datastore", "migrate", "lock")
    try:
        live.eventually(held, "agents hold")
        live.stop_agent("h3")
        generations = {host.name: live.generation(host.name) for host in live.lab.hosts}
        (tmp_path / "open.yaml").write_text(OPEN)
        live.ok("apply", "-f", str(tmp_path / "open.yaml"))
        cluster.start_agent(live.lab, live.lab.host("h3"))
        live.eventually(held, "the new agent holds, too")
        assert live.observed() == expected, "what is stored now would be more"
        assert {host.name: live.generation(host.name) for host in live.lab.hosts} == generations
        agents = [live.agent_pid(host.name) for host in live.lab.hosts]
        refused = live.tortie(
            "lab", "workload", "add", "early", "--host", "h1", "--name", live.name
        )
        assert refused.code != 0
        assert "datastore is not ready" in refused.err
    finally:
        live.ok("datastore", "migrate", "unlock")
    live.settle()
    assert live.check("ready again") != expected
    assert [live.agent_pid(host.name) for host in live.lab.hosts] == agents


def test_invalid_objects_count_as_absent_and_disturb_nothing(live: LiveLab, tmp_path: Path) -> None:
    live.apply(GUARD, tmp_path)
    expected = live.check("before")
    agents = [live.agent_pid(host.name) for host in live.lab.hosts]
    policies = f"{RESOURCES}globalnetworkpolicies/"
    allow = {"action": "Allow"}

    def policy(name: str, **spec: object) -> bytes:
        whole = {"tier": "default", "types": ["Ingress"], "ingress": [allow], **spec}
        return json.dumps(
            {
                "apiVersion": "projectcalico.org/v3",
                "kind": "GlobalNetworkPolicy",
                "metadata": {"name": name},
                "spec": whole,
            }
        ).encode()

    broken: dict[str, bytes | None] = {
        f"{policies}default.truncated": policy("default.truncated")[:-9],
        f"{policies}default.wrong": policy("default.wrong", order="early"),
        f"{policies}default.nan": policy("default.nan", order=float("nan")),
        f"{policies}default.selector": policy("default.selector", selector="role == "),
        f"{policies}default.rule": policy("default.rule", ingress=[{"action": "Perhaps"}]),
        f"{policies}default.net": policy(
            "default.net", ingress=[{**allow, "source": {"nets": ["10.0.0.0/99"]}}]
        ),
        f"{policies}default.other": policy("default.name"),
        f"{policies}default.empty": b"",
        f"{policies}default.bytes": b"\xff\xfe\x00",
        f"{policies}default.list": b"[]",
        f"{RESOURCES}workloadendpoints/red/h3-tortie-ghost-eth0": b'{"kind":"WorkloadEndpoint"',
        f"{RESOURCES}ippools/none": b'{"spec":{"cidr":"no net"}}',
        f"{RESOURCES}nodes/h9": b"null",
        f"{RESOURCES}unicorns/one": b"{}",
    }
    live.write_raw(broken)
    assert live.check("with invalid objects") == expected
    log = live.agent_log("h3")
    for key in broken:
        name = key.rpartition("/")[2]
        if name != "one":  # of a kind that nobody knows: not ours
            lines = [line for line in log.splitlines() if name in line and "absent" in line]
            assert len(lines) == 1, (name, lines)
    listed = live.tortie("get", "globalnetworkpolicies")
    assert "default.guard" in listed.out, listed

    # What was valid and is not any more does not live on.
    live.write_raw({f"{policies}default.guard": b'{"kind":"GlobalNetworkPolicy"}'})
    assert live.check("the guard is invalid") != expected
    closed = policy("default.guard", selector="role == 'c'", ingress=[])
    live.write_raw({f"{policies}default.guard": closed})
    assert not live.reaches("w3", "w5")
    assert [live.agent_pid(host.name) for host in live.lab.hosts] == agents


def test_a_rule_that_says_more_than_we_know_allows_nothing(live: LiveLab) -> None:
    """D15: what a newer version wrote is closed, not wider; beside it nothing changes."""

    def guard(*ingress: object) -> dict[str, bytes | None]:
        spec = {"tier": "default", "selector": "role == 'c'", "types": ["Ingress"]}
        whole = {"metadata": {"name": "default.guard"}, "spec": {**spec, "ingress": ingress}}
        text = json.dumps({"kind": "GlobalNetworkPolicy", **whole}).encode()
        return {f"{RESOURCES}globalnetworkpolicies/default.guard": text}

    allow, newer = {"action": "Allow"}, {"action": "Allow", "source": {"asns": [1]}}
    live.write_raw(guard(allow))
    assert live.reaches("w3", "w5")
    live.write_raw(guard(newer))
    assert not live.reaches("w3", "w5")
    assert "fields that are not known: source.asns" in live.agent_log("h3")
    live.write_raw(guard({**newer, "action": "Deny"}, allow))
    assert not live.reaches("w3", "w5")
    live.write_raw(guard(newer, allow))
    assert live.reaches("w3", "w5")


def test_the_agents_say_that_they_live(live: LiveLab) -> None:
    for host in live.lab.hosts:
        stored = live.entries(f"/calico/felix/v2/no-region/host/{host.name}/")
        by_name = {key.rpartition("/")[2]: entry for key, entry in stored.items()}
        assert by_name["status"].lease
        assert not by_name["last_reported_status"].lease
        told = json.loads(by_name["status"].value)
        assert told.keys() == {"time", "uptime", "first_update"}


@pytest.mark.timeout(90)
def test_endpoint_status_is_told_where_asked_for(live: LiveLab, tmp_path: Path) -> None:
    prefix = "/calico/felix/v2/no-region/host/h2/workload/"
    key = f"{prefix}tortie/red%2fguest/endpoint/eth0"
    assert live.entries(prefix) == {}
    stale = f"{prefix}tortie/red%2fnobody/endpoint/eth0"
    live.write_raw({stale: b'{"status":"up"}'})
    resource = json.loads(live.ok("get", "felixconfiguration", "default", "-o", "json"))
    resource["spec"].update(endpointReportingEnabled=True, endpointReportingDelay="100ms")
    file = tmp_path / "settings.json"
    file.write_text(json.dumps(resource))
    live.ok("apply", "-f", str(file))
    live.eventually(
        lambda: (
            {path.rpartition("/workload/")[2] for path in live.entries(prefix)}
            == {"tortie/red%2fw3/endpoint/eth0", "tortie/blue%2fw4/endpoint/eth0"}
        ),
        "the endpoints of h2, and not the stale one",
    )
    live.add("guest", "h2")
    try:
        live.eventually(lambda: key in live.entries(prefix), "the new endpoint is told")
        assert json.loads(live.entries(prefix)[key].value) == {"status": "up"}
        interface = live.interface("guest")
        live.command_in("h2", "ip", "link", "set", interface, "down")
        live.eventually(
            lambda: json.loads(live.entries(prefix)[key].value) == {"status": "down"}, "it is down"
        )
        live.command_in("h2", "ip", "link", "set", interface, "up")
        live.eventually(
            lambda: json.loads(live.entries(prefix)[key].value) == {"status": "up"}, "up again"
        )
    finally:
        live.remove("guest")
    live.eventually(lambda: key not in live.entries(prefix), "gone with its endpoint")
    wrong = "/calico/resources/v3/projectcalico.org/workloadendpoints/red/h2-tortie-bad-eth0"
    live.write_raw(
        {wrong: b'{"metadata":{"name":"h2-tortie-bad-eth0","namespace":"red"},"spec":7}'}
    )
    bad = f"{prefix}tortie/red%2fbad/endpoint/eth0"
    live.eventually(lambda: bad in live.entries(prefix), "one that nobody can read is told")
    assert json.loads(live.entries(prefix)[bad].value) == {"status": "error"}
    live.write_raw({wrong: None})
    live.eventually(lambda: bad not in live.entries(prefix), "and that it is gone")
    _host_endpoints_are_told(live, tmp_path)
    live.write_raw(dict.fromkeys(live.entries(prefix)))


def _host_endpoints_are_told(live: LiveLab, tmp_path: Path) -> None:
    prefix = "/calico/felix/v1/host/h2/endpoint/"

    def told() -> dict[str, object]:
        return {
            path.removeprefix(prefix): json.loads(entry.value)["status"]
            for path, entry in live.entries(prefix).items()
        }

    live.command_in("h2", "ip", "link", "add", "told0", "type", "veth", "peer", "told1")
    file = tmp_path / "host-endpoints.json"
    try:
        made = [
            {
                "apiVersion": "projectcalico.org/v3",
                "kind": "HostEndpoint",
                "metadata": {"name": f"h2-{interface}"},
                "spec": {"node": "h2", "interfaceName": interface},
            }
            for interface in ("told0", "nowhere")
        ]
        live.command_in("h2", "ip", "link", "set", "told0", "up")
        live.command_in("h2", "ip", "link", "set", "told1", "up")
        for one in made:
            file.write_text(json.dumps(one))
            live.ok("apply", "-f", str(file))
        wanted = {"h2-told0": "up", "h2-nowhere": "error"}
        live.eventually(lambda: told() == wanted, "each has its status")
        assert not any(entry.lease for entry in live.entries(prefix).values())
        live.command_in("h2", "ip", "link", "set", "told1", "down")
        live.eventually(lambda: told()["h2-told0"] == "down", "without a carrier it is down")
        live.ok("delete", "hostendpoint", "h2-told0")
        live.eventually(lambda: told() == {"h2-nowhere": "error"}, "gone with its endpoint")
    finally:
        live.command_in("h2", "ip", "link", "del", "told0")
    live.ok("delete", "hostendpoint", "h2-nowhere")
    live.eventually(lambda: not told(), "and the other one")
