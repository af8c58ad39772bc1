"""`tortie policy` in a running lab: what it says is what packets do."""

import json
from pathlib import Path

import pytest
from tests.e2e.live import LiveLab

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
