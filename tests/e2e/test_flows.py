"""What `tortie flows` and the metrics tell of real packets in a running lab."""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from datetime import datetime
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.e2e.live import PATIENCE_SECONDS, LiveLab

from tortie.lab.probe import Port, Probe, parse_port, run

POLICIES = """
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: guard, namespace: red}
spec:
  selector: role == 'a'
  types: [Ingress]
  ingress:
    - action: Allow
      protocol: TCP
      source: {selector: env == 'dev'}
      destination: {ports: [80]}
    - action: Deny
      protocol: TCP
      destination: {ports: [80]}
    - action: Deny
      source: {selector: role == 'b', namespaceSelector: all()}
      protocol: UDP
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: leash}
spec:
  order: 10
  selector: role == 'c'
  types: [Egress]
  egress:
    - action: Deny
      protocol: TCP
      destination: {ports: [81]}
    - action: Deny
      notProtocol: TCP
      destination: {selector: role == 'b'}
    - action: Allow
"""

DENIED = (
    ("blue/w2", "red/w1", "tcp:80", "ingress"),
    ("blue/w2", "red/w1", "udp:53", "ingress"),
    ("red/w3", "red/w1", "tcp:81", "ingress"),
    ("red/w5", "red/w1", "icmp", "ingress"),
    ("red/w5", "red/w3", "tcp:81", "egress"),
    ("red/w5", "blue/w2", "icmp", "egress"),
)
"""Both directions, on one host and across hosts, by a rule and by the end of the tier."""


ON_ONE_DATASTORE = pytest.mark.parametrize("shared_lab", ["embedded-direct"], indirect=True)
"""For what another datastore and other routes cannot change."""


def flows(live: LiveLab, *options: str, after: float = 0.0) -> list[dict[str, Any]]:
    """Those with packets after that moment: tests before this one have asked, too."""
    lines = live.lab_ok("flows", "-o", "json", *options).splitlines()
    found = [json.loads(line) for line in lines]
    return [one for one in found if datetime.fromisoformat(one["end"]).timestamp() >= after]


def eventually_flows(live: LiveLab, *options: str, after: float = 0.0) -> list[dict[str, Any]]:
    """The kernel hands out what it has logged a fifth of a second later."""
    found: list[dict[str, Any]] = []

    def come() -> bool:
        found[:] = flows(live, *options, after=after)
        return bool(found)

    live.eventually(come, f"flows {options}")
    return found


def said_by_why(live: LiveLab, source: str, target: str, port: str, family: int) -> dict[str, Any]:
    """What `tortie policy why` says decides, in the words of a flow."""
    words = [source, target, port.replace(":", "/"), "-o", "json"]
    said = live.tortie("policy", "why", *words, *(["-6"] if family == 6 else []))
    half = next(one for one in json.loads(said.out)["halves"] if one["verdict"] == "Deny")
    tier = half["tiers"][-1]
    if tier["byDefault"]:
        return {"way": half["way"].lower(), "tier": tier["tier"], "policy": "", "rule": None}
    policy = tier["policies"][-1]
    return {
        "way": half["way"].lower(),
        "tier": tier["tier"],
        "policy": policy["policy"],
        "rule": policy["rules"][-1]["rule"],
    }


def staged_by_why(live: LiveLab, family: int) -> dict[str, Any]:
    """What `tortie policy why` says staged policies would make of it, on its way in."""
    words = ["policy", "why", "blue/w2", "red/w1", "tcp/80", "-o", "json"]
    said = json.loads(live.tortie(*words, *(["-6"] if family == 6 else [])).out)
    half = next(one for one in said["staged"]["halves"] if one["way"] == "Ingress")
    policy = half["tiers"][-1]["policies"][-1]
    return {
        "verdict": half["verdict"],
        "tier": half["tiers"][-1]["tier"],
        "policy": policy["policy"],
        "rule": policy["rules"][-1]["rule"],
    }


def configure(live: LiveLab, **settings: Any) -> None:
    """Change settings, and wait until every agent runs with them."""
    patch = json.dumps({"spec": settings})
    before = {
        host.name: live.agent_log(host.name).count("starting anew") for host in live.lab.hosts
    }
    live.ok("patch", "felixconfiguration", "default", "-p", patch)
    for name, count in before.items():
        live.eventually(
            lambda name=name, count=count: (  # type: ignore[misc]
                live.agent_log(name).count("starting anew") > count
            ),
            f"{name} starts anew",
        )
    live.settle()


def test_a_denial_names_the_rule_that_why_names(live: LiveLab, tmp_path: Path) -> None:
    live.apply(POLICIES, tmp_path)
    rules = set()
    for family in (4, 6):
        for source, target, port, direction in DENIED:
            began = time.time() - 0.001
            assert not live.reaches(source, target, port, family)
            wanted = said_by_why(live, source, target, port, family)
            number = parse_port(port).number
            options = ["--verdict", "deny", "--from", source, "--to", target, "--since", "60s"]
            options += ["--port", str(number) if number else ("icmpv6" if family == 6 else "icmp")]
            found_flows = eventually_flows(live, *options, after=began)
            of_family = [one for one in found_flows if one["family"] == family]
            assert len(of_family) == 1, (source, target, port, family, of_family)
            (flow,) = of_family
            decided = flow["decided"]
            found = {
                "way": flow["direction"],
                "tier": decided["tier"],
                "policy": decided["policy"],
                "rule": decided["rule"],
            }
            assert found == wanted
            assert found["way"] == direction
            assert flow["bytes"] >= flow["packets"] * 28 > 0
            rules.add((decided["policy"], decided["rule"]))
    assert len(rules) == 5, "each kind of denial has its own rule, and one has none"


@ON_ONE_DATASTORE
def test_what_is_dropped_without_asking_policy_says_why(live: LiveLab) -> None:
    host = live.lab.host("h1").ipv4
    assert not run([Probe(live.path(live.lab.workload("red/w1")), host, Port("icmp"))])[0]
    to = host.address_text
    (flow,) = eventually_flows(live, "--from", "red/w1", "--to", to, "--since", "30s")
    assert flow["decided"]["reason"] == "endpoint-to-host action"
    assert (flow["decided"]["tier"], flow["decided"]["policy"]) == ("", "")


HOST_POLICY = """
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: h1-all, labels: {host: h1}}
spec: {node: h1, interfaceName: "*"}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: host-guard}
spec:
  selector: host == 'h1'
  types: [Ingress, Egress]
  ingress:
    - {action: Deny, protocol: TCP, destination: {ports: [4444]}}
    - {action: Allow}
  egress:
    - {action: Allow, notProtocol: TCP}
    - {action: Deny, protocol: TCP, destination: {ports: [4445]}}
    - {action: Allow}
"""


@pytest.mark.parametrize("family", [4, 6])
def test_a_denial_of_a_host_endpoint_names_the_rule_that_why_names(
    live: LiveLab, tmp_path: Path, family: int
) -> None:
    live.apply(HOST_POLICY, tmp_path)
    hosts = {host.name: host.ipv4 if family == 4 else host.ipv6 for host in live.lab.hosts}
    asked = (("h2", "h1", 4444, "ingress", 0), ("h1", "h2", 4445, "egress", 1))
    for source, target, port, direction, rule in asked:
        near, far = hosts[source], hosts[target]
        assert near is not None
        assert far is not None
        live.in_host(source, partial(send_syn, far.address_text, port))
        ends = (near.address_text, far.address_text)
        options = ("--verdict", "deny", "--from", ends[0], "--to", ends[1], "--port", str(port))
        (flow,) = eventually_flows(live, *options)
        found = flow["decided"]
        assert (flow["host"], flow["direction"]) == ("h1", direction)
        assert (found["policy"], found["rule"]) == ("GlobalNetworkPolicy(host-guard)", rule)
        wanted = said_by_why(live, *ends, f"tcp:{port}", 0)
        assert wanted == {"way": direction} | {
            key: found[key] for key in ("tier", "policy", "rule")
        }


def send_syn(to: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET) as sock:
        sock.settimeout(0.3)
        with pytest.raises(OSError):  # nothing comes back, or the host may not send
            sock.connect((to, port))


@ON_ONE_DATASTORE
def test_what_is_allowed_and_what_is_staged(live: LiveLab, tmp_path: Path) -> None:
    began = time.time() - 0.001
    assert live.reaches("blue/w2", "red/w1", "tcp:80")
    time.sleep(0.5)
    assert not flows(live, "--verdict", "allow", after=began), "only denials, unless asked for"
    began = time.time() - 0.001
    configure(live, flowLogsLocalReporter="Enabled")
    try:
        staged = POLICIES.replace("kind: ", "kind: Staged").replace("role == 'a'", "all()")
        live.apply(staged, tmp_path)
        options = ("--verdict", "allow", "--from", "blue/w2", "--to", "red/w1", "--port", "tcp/80")
        found: list[dict[str, Any]] = []

        def are_answered() -> bool:
            # What ends before its first packet was read may be counted without its answer.
            for family in (4, 6):
                assert live.reaches("blue/w2", "red/w1", "tcp:80", family)
            found[:] = flows(live, *options, after=began)
            return [bool(one.get("answeredPackets")) for one in found] == [True] * 4

        try:
            live.eventually(are_answered, "both halves in both families, with what was answered")
        except AssertionError as error:
            raise AssertionError(f"{error}: {found}") from None
        for flow in flows(live, *options, after=began):
            assert flow["decided"]["policy"] == f"Profile(kns.{_namespace(flow)})"
            assert flow["packets"] >= 2
            assert flow["bytes"] > flow["packets"] * 28
            if flow["direction"] == "ingress":
                assert flow["staged"]["verdict"] == "Deny"
                assert flow["staged"]["policy"] == "StagedNetworkPolicy(red/guard)"
                assert flow["staged"]["rule"] == 1
                assert staged_by_why(live, flow["family"]).items() <= flow["staged"].items()
        shown = live.lab_ok("flows", *options)
        assert "Deny: default: StagedNetworkPolicy(red/guard) ingress[1]" in shown
    finally:
        configure(live, flowLogsLocalReporter="Disabled")


def _namespace(flow: dict[str, Any]) -> str:
    end: str = flow["source"] if flow["direction"] == "egress" else flow["destination"]
    return end.partition("/")[0]


@ON_ONE_DATASTORE
def test_following_tells_each_denial_as_it_happens(live: LiveLab, tmp_path: Path) -> None:
    live.apply(POLICIES, tmp_path)
    words = ["lab", "flows", "--name", live.name, "-f", "-o", "json", "--verdict", "deny"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tortie", *words, "--since", "0s"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    lines: SimpleQueue[str] = SimpleQueue()
    with process.stdout as output:

        def read() -> None:
            for line in output:
                lines.put(line)

        reader = threading.Thread(target=read)
        reader.start()
        try:
            told = told_of(live, lines, "blue/w2", "red/w1", "tcp:80", 6)
            assert told["destination"] == "red/w1"
            told = told_of(live, lines, "red/w5", "red/w3", "tcp:81", 4)
            assert told["direction"] == "egress"
            assert told["decided"]["policy"] == "GlobalNetworkPolicy(leash)"
            process.send_signal(signal.SIGINT)
            assert process.wait(10) in (0, 130)
        finally:
            process.kill()
            process.wait()
            reader.join()


def told_of(
    live: LiveLab, lines: "SimpleQueue[str]", source: str, target: str, port: str, family: int
) -> dict[str, Any]:
    """Have it denied until somebody hears of it: the follower may not listen yet."""
    give_up = time.monotonic() + 3 * PATIENCE_SECONDS
    others = []
    while time.monotonic() < give_up:
        assert not live.reaches(source, target, port, family)
        with contextlib.suppress(Empty):
            while True:
                told: dict[str, Any] = json.loads(lines.get(timeout=0.5))
                if (told["source"], told["destination"], told["family"]) == (
                    source,
                    target,
                    family,
                ):
                    return told
                others.append(told)
    pytest.fail(f"nothing was told of it, but {others}")


def scrape(live: LiveLab, host: str, path: str = "/metrics") -> str:
    def ask() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:9091{path}", timeout=5) as answer:
            text: bytes = answer.read()
            return text.decode()

    return live.in_host(host, ask)


def values(text: str, name: str, **labels: str) -> Iterable[float]:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                yield sample.value


@ON_ONE_DATASTORE
def test_metrics_count_what_rules_decide(live: LiveLab, tmp_path: Path) -> None:
    live.apply(POLICIES, tmp_path)
    configure(live, prometheusMetricsEnabled=True)
    try:
        guard = {"policy": "NetworkPolicy(red/guard)", "direction": "ingress", "action": "Deny"}

        def denied(rule: str) -> float:
            return sum(values(scrape(live, "h1"), "tortie_rule_packets_total", rule=rule, **guard))

        before = denied("1")
        assert not live.reaches("blue/w2", "red/w1", "tcp:80")
        assert not live.reaches("blue/w2", "red/w1", "tcp:80", 6)
        counted = denied("1")
        assert counted >= before + 2
        # The rule moves down one place: its counter goes with it, and stays through a crash.
        first = "    - action: Allow\n      protocol: TCP\n      source: {selector: env == 'dev'}"
        more = "    - action: Allow\n      protocol: 99\n"
        live.apply(POLICIES.replace(first, more + first), tmp_path)
        assert denied("2") == counted
        live.stop_agent("h1")
        live.start_agent("h1")
        assert denied("2") == counted
        text = scrape(live, "h1")
        assert list(values(text, "felix_cluster_num_workload_endpoints")) == [5]
        assert list(values(text, "felix_active_local_endpoints")) == [2]
        assert list(values(text, "felix_cluster_num_hosts")) == [3]
        assert list(values(text, "felix_cluster_num_policies")) == [2]
        assert list(values(text, "felix_resync_state")) == [3]
        assert list(values(text, "tortie_endpoints", state="up")) == [2]
        assert sum(values(text, "tortie_endpoint_sent_packets_total", endpoint="red/w1")) > 0
        live.apply(POLICIES, tmp_path)
        text = scrape(live, "h1")
        assert sum(values(text, "tortie_enforcement_seconds_count")) >= 1
        assert 0 < sum(values(text, "tortie_enforcement_seconds_sum")) < 10
        with pytest.raises(urllib.error.HTTPError, match="404"):
            scrape(live, "h1", "/debug/pprof")
        address = live.lab.host("h1").ipv4
        reached = live.command_in(
            "h1", "curl", "-sm2", f"http://{address.address_text}:9091/metrics"
        )
        assert reached.returncode, "on loopback only"
    finally:
        configure(live, prometheusMetricsEnabled=False)


@ON_ONE_DATASTORE
def test_no_agent_is_said_and_the_others_answer(live: LiveLab) -> None:
    live.stop_agent("h2", signal.SIGTERM)
    try:
        result = live.tortie("lab", "flows", "--name", live.name)
        assert result.code == 1
        assert "h2: no agent answers at " in result.err
        assert "VERDICT" in result.out
    finally:
        live.start_agent("h2")
