"""`tortie policy` in a running lab: what it says is what packets do."""

import json
from pathlib import Path

import pytest
from tests.e2e.live import LiveLab

from tortie.explain.why import find_endpoint

POLICY = """
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: explained, namespace: red}
spec:
  selector: role == 'a'
  types: [Ingress]
  ingress:
    - action: Allow
      protocol: ICMP
      source: {selector: role == 'b', namespaceSelector: all()}
"""


@pytest.fixture
def policy_file(tmp_path: Path) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY)
    return path


def test_impact_says_what_then_happens_and_why_says_it_of_each(
    live: LiveLab, policy_file: Path
) -> None:
    foreseen = live.tortie("policy", "impact", "-f", str(policy_file), "-o", "json")
    assert foreseen.code == 1
    closed = {
        (change["from"], change["to"])
        for change in json.loads(foreseen.out)
        if change["then"] == "Deny" and "ICMP" in ", ".join(change["services"])
    }
    assert any(to == "red/w1" for _, to in closed)
    live.ok("apply", "-f", str(policy_file))
    again = live.tortie("policy", "impact", "-f", str(policy_file))
    assert (again.code, again.out.strip()) == (0, "no packet is treated differently")
    live.check()
    for source in ("blue/w2", "red/w3", "blue/w4", "red/w5"):
        said = live.tortie("policy", "why", source, "red/w1", "icmp", "-o", "json")
        assert said.code == (0 if json.loads(said.out)["verdict"] == "Allow" else 1)
        assert live.reaches(source, "red/w1", "icmp") == (said.code == 0)


SERVED = """
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: to-service, namespace: red}
spec:
  selector: role == 'c'
  types: [Egress]
  egress:
    - action: Allow
      destination: {services: {name: store, namespace: blue}}
"""
SLICE = """
apiVersion: projectcalico.org/v3
kind: KubernetesEndpointSlice
metadata: {name: store-1, namespace: blue}
spec:
  service: store
  endpoints: [{addresses: [ADDRESSES]}]
  ports: [{port: 80}, {port: 8080, protocol: UDP}]
"""
STAGED = """
apiVersion: projectcalico.org/v3
kind: StagedNetworkPolicy
metadata: {name: shut, namespace: red}
spec: {selector: role == 'a', types: [Ingress]}
"""


def verdict(live: LiveLab, source: str, target: str, port: str) -> bool:
    """What `why` says, and what packets do, which must be the same."""
    said = live.tortie("policy", "why", source, target, port.replace(":", "/"))
    assert said.code in (0, 1), said
    assert live.reaches(source, target, port) == (said.code == 0), said.out
    return said.code == 0


def test_a_service_is_closed_until_it_is_known_and_open_where_it_is_served(
    live: LiveLab, tmp_path: Path
) -> None:
    store = live.lab.workload("blue/w4")
    live.apply(SERVED, tmp_path)
    assert not verdict(live, "red/w5", "blue/w4", "tcp:80")
    addresses = ", ".join(f"'{one}'" for one in store.addresses)
    live.apply(SLICE.replace("ADDRESSES", addresses), tmp_path)
    assert verdict(live, "red/w5", "blue/w4", "tcp:80")
    assert verdict(live, "red/w5", "blue/w4", "udp:8080")
    assert not verdict(live, "red/w5", "blue/w4", "tcp:443")
    assert not verdict(live, "red/w5", "blue/w2", "tcp:80")
    live.check()
    live.ok("delete", "kubernetesendpointslice", "store-1", "-n", "blue")
    live.settle()
    assert not verdict(live, "red/w5", "blue/w4", "tcp:80")


def test_what_is_staged_is_said_and_not_done(live: LiveLab, tmp_path: Path) -> None:
    live.apply(STAGED, tmp_path)
    assert verdict(live, "red/w3", "red/w1", "tcp:80")
    said = json.loads(live.tortie("policy", "why", "red/w3", "red/w1", "tcp/80", "-o", "json").out)
    assert (said["verdict"], said["staged"]["verdict"]) == ("Allow", "Deny")
    foreseen = live.tortie("policy", "impact", "--staged", "-o", "json")
    assert foreseen.code == 1
    assert {change["to"] for change in json.loads(foreseen.out)} == {"red/w1"}
    live.apply(STAGED.replace("Staged", ""), tmp_path)
    assert not verdict(live, "red/w3", "red/w1", "tcp:80")


def test_impact_of_a_label_and_of_a_deletion_is_what_then_happens(
    live: LiveLab, policy_file: Path
) -> None:
    with live.restored(endpoints=True):
        _label_and_delete(live, policy_file)


def _label_and_delete(live: LiveLab, policy_file: Path) -> None:
    live.ok("apply", "-f", str(policy_file))
    live.settle()
    assert not verdict(live, "red/w5", "red/w1", "icmp")
    by_label = live.tortie("policy", "impact", "--label", "red/w5", "role=b", "-o", "json")
    opened = {(one["from"], one["to"], one["then"]) for one in json.loads(by_label.out)}
    assert ("red/w5", "red/w1", "Allow") in opened
    key, _ = find_endpoint(live.state(), "red/w5")
    live.ok("label", "workloadendpoint", key.name, "role=b", "--overwrite", "-n", "red")
    live.settle()
    assert verdict(live, "red/w5", "red/w1", "icmp")
    assert not verdict(live, "red/w5", "red/w1", "tcp:80")
    gone = live.tortie("policy", "impact", "--delete", "networkpolicy/red/explained", "-o", "json")
    opening = [one for one in json.loads(gone.out) if (one["to"], one["family"]) == ("red/w1", 4)]
    assert {one["then"] for one in opening} == {"Allow"}
    # Of those that nothing tells apart by now only one is named.
    assert sum(one["fromCount"] for one in opening) == len(live.lab.workloads) - 1
    live.ok("delete", "networkpolicy", "explained", "-n", "red")
    live.settle()
    assert verdict(live, "red/w5", "red/w1", "tcp:80")
    listed = live.tortie("policy", "list", "--for", "red/w5")
    assert (listed.code, "Profile(kns.red)" in listed.out) == (0, True)
