"""Host endpoints and floating addresses from the command line to packets, across hosts."""

import json
import socket
from pathlib import Path

from tests.e2e.live import LiveLab

from tortie.kernel import netns
from tortie.lab.probe import Port, Probe, run
from tortie.lib.ip import Network

ENDPOINT = """
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {{name: uplink, labels: {{kind: host}}}}
spec: {{node: h1, expectedIPs: ["{ipv4}", "{ipv6}"]}}
"""
PINGS = """
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: default.pings}
spec:
  selector: kind == 'host'
  types: [Ingress]
  ingress: [{action: Allow, protocol: ICMP}]
"""
CLOSED = """
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: h1-all, labels: {kind: closed}}
spec: {node: h1, interfaceName: "*"}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: default.closed}
spec:
  selector: kind == 'closed'
  applyOnForward: true
  types: [Ingress]
"""
FLOATING_POOL = """
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: floating}
spec: {cidr: 198.51.100.0/24, nodeSelector: "!all()"}
"""
FLOATING = Network(4, 0xC6336405, 32)


def answers(live: LiveLab, asker: str, target: Network) -> bool:
    """Pings of the asker, a host."""
    lab = live.lab
    path = netns.named_path(lab.host_namespace(asker))
    return run([Probe(path, target, Port("icmp"))])[0]


def test_a_host_endpoint_closes_its_host_and_nothing_else(live: LiveLab, tmp_path: Path) -> None:
    host = live.lab.host("h1")
    expected = live.check("before")
    assert answers(live, "h2", host.ipv4)
    assert answers(live, "h2", host.ipv6)
    live.apply(ENDPOINT.format(ipv4=host.ipv4.address_text, ipv6=host.ipv6.address_text), tmp_path)
    live.eventually(lambda: not answers(live, "h2", host.ipv4), "the host is closed")
    assert not answers(live, "h2", host.ipv6)
    assert live.check("workloads are not concerned") == expected
    live.apply(PINGS, tmp_path)
    live.eventually(lambda: answers(live, "h2", host.ipv4), "policy lets pings in")
    assert not answers(live, "h2", host.ipv6)
    live.ok("delete", "hostendpoint", "uplink")
    live.eventually(lambda: answers(live, "h2", host.ipv6), "it is open again")


def test_a_known_connection_ends_with_what_allowed_it(live: LiveLab, tmp_path: Path) -> None:
    """Between hosts; and the agent, which speaks to its datastore all the while, hears the rest."""
    host = live.lab.host("h1")
    to = host.ipv4.address_text
    paths = [netns.named_path(live.lab.host_namespace(name)) for name in ("h1", "h2")]
    with (
        netns.open_socket_in(paths[0], socket.AF_INET) as listener,
        netns.open_socket_in(paths[1], socket.AF_INET) as client,
    ):
        listener.bind((to, 0))
        listener.listen()
        client.connect(listener.getsockname())
        server, _ = listener.accept()
        with server:
            server.settimeout(0.2)

            def speaks() -> bool:
                client.send(b".")
                try:
                    return bool(server.recv(100))
                except TimeoutError:
                    return False

            assert speaks()
            live.apply(ENDPOINT.format(ipv4=to, ipv6=host.ipv6.address_text), tmp_path)
            live.eventually(lambda: not speaks(), "nothing more of it arrives")
            live.ok("delete", "hostendpoint", "uplink")
            live.eventually(speaks, "what was sent meanwhile arrives when it may")


def test_forward_policy_of_all_interfaces_closes_workloads(live: LiveLab, tmp_path: Path) -> None:
    assert live.reaches("w1", "w3")
    live.apply(CLOSED, tmp_path)
    live.forget_connections()
    assert not live.reaches("w1", "w3"), "across hosts"
    assert not live.reaches("w1", "w2"), "on this host"
    live.ok("delete", "hostendpoint", "h1-all")
    live.eventually(lambda: live.reaches("w1", "w3"), "they are open again")


def test_a_floating_address_leads_to_its_workload_from_everywhere(
    live: LiveLab, tmp_path: Path
) -> None:
    live.apply(FLOATING_POOL, tmp_path)
    endpoint = next(
        item
        for item in json.loads(live.ok("get", "workloadendpoint", "-A", "-o", "json"))["items"]
        if item["spec"]["node"] == "h1" and item["metadata"]["labels"].get("env") == "prod"
    )
    internal = endpoint["spec"]["ipNetworks"][0].partition("/")[0]
    assert ":" not in internal
    nat = {"internalIP": internal, "externalIP": FLOATING.address_text}
    name, namespace = endpoint["metadata"]["name"], endpoint["metadata"]["namespace"]
    patch = json.dumps({"spec": {"ipNATs": [nat]}})
    live.ok("patch", "workloadendpoint", name, "-n", namespace, "-p", patch)
    live.settle()
    assert not answers(live, "h1", FLOATING), "they are off by default"
    settings = json.loads(live.ok("get", "felixconfiguration", "default", "-o", "json"))
    settings["spec"]["floatingIPs"] = "Enabled"
    live.apply(json.dumps(settings), tmp_path)
    live.eventually(lambda: answers(live, "h1", FLOATING), "its own host knows the way")
    live.eventually(lambda: answers(live, "h2", FLOATING), "another host knows it too")
    live.ok("patch", "workloadendpoint", name, "-n", namespace, "-p", '{"spec":{"ipNATs":null}}')
    live.eventually(lambda: not answers(live, "h1", FLOATING), "it leads nowhere")
