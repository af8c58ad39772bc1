"""`tortie convert`: policies of Kubernetes, and Calico's API v1, as resources for `apply`."""

import json

import pytest
from tests.unit.ctl.shell import Shell

KUBERNETES = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 5432}]}]
"""
FOR_ALL = """\
apiVersion: policy.networking.k8s.io/v1alpha1
kind: AdminNetworkPolicy
metadata: {name: guard}
spec:
  priority: 3
  subject: {namespaces: {}}
  ingress: [{action: Deny, from: [{namespaces: {matchLabels: {team: red}}}]}]
"""
OURS = """\
apiVersion: projectcalico.org/v3
kind: GlobalNetworkSet
metadata: {name: office}
spec: {nets: [10.0.0.0/8]}
"""
BEFORE = """\
- apiVersion: v1
  kind: policy
  metadata: {name: Old}
  spec: {selector: "a == 'b'", ingress: [{action: allow, protocol: tcp, source: {tag: web}}]}
- apiVersion: v1
  kind: ipPool
  metadata: {cidr: 192.168.0.0/16}
  spec: {ipip: {enabled: true}, nat-outgoing: true}
"""


def test_what_is_converted_can_be_applied(tortie: Shell) -> None:
    file = tortie.write("all.yaml", "---\n".join([KUBERNETES, FOR_ALL, OURS]))
    converted = tortie("convert", "-f", file)
    assert (converted.code, converted.err) == (0, "")
    again = tortie.write("again.yaml", converted.out)
    assert tortie("apply", "-f", again).out == "Successfully applied 3 resource(s)\n"
    rule = json.loads(tortie("get", "np", "-n", "shop", "-o", "json").out)["items"][0]["spec"]
    assert rule["ingress"][0]["destination"] == {"ports": [5432]}
    assert tortie("get", "gnp", "-o", "name").out.count("kanp.adminnetworkpolicy.guard") == 1


def test_a_list_of_before_v3_can_be_applied(tortie: Shell) -> None:
    """As `calicoctl get -o yaml` of then wrote it: a list without anything around it."""
    again = tortie.write("again.yaml", tortie("convert", "-f", tortie.write("a", BEFORE)).out)
    assert tortie("apply", "-f", again).out.startswith("Successfully applied 2 resource(s)\n")
    assert tortie("get", "ippool", "-o", "name").out == "ippool/192-168-0-0-16\n"
    policy = json.loads(tortie("get", "gnp", "-o", "json").out)["items"][0]
    assert policy["metadata"]["name"].startswith("old-")
    assert policy["spec"]["ingress"][0]["source"] == {"selector": "web == ''"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("tag: web", "tga: web"), ":4:82: policy: spec.ingress[0].source.tga: field in document"),
        (("selector: \"a == 'b'\"", "selector: 7"), ":4:20: policy: spec.selector: must be text"),
        (("action: allow", "action: permit"), ":1:3: action 'permit' is not one of"),
        (("name: Old", "tier: x"), ":3:13: policy: metadata: name is needed"),
        (("192.168.0.0/16", "192.168.0.0/61"), ":5:3: '192.168.0.0/61' has a prefix length"),
    ],
)
def test_a_mistake_of_before_v3_is_named_with_its_place(
    tortie: Shell, change: tuple[str, str], message: str
) -> None:
    outcome = tortie("convert", "-f", tortie.write("old.yaml", BEFORE.replace(*change)))
    assert (outcome.code, outcome.out) == (1, "")
    assert f"old.yaml{message}" in outcome.err


def test_one_is_no_list(tortie: Shell) -> None:
    file = tortie.write("one.yaml", KUBERNETES.replace(", namespace: shop", ""))
    shown = json.loads(tortie("convert", "-f", file, "-o", "json", "-n", "red").out)
    assert shown["metadata"]["name"] == "knp.default.db"
    assert shown["metadata"]["namespace"] == "red"


def test_what_cannot_be_converted_says_where(tortie: Shell) -> None:
    old = "apiVersion: v1\nkind: felixConfig\nmetadata: {name: a}\n"
    pod = "apiVersion: v1\nkind: Pod\n"
    broken = KUBERNETES.replace("app: db}}", "app: [}}")
    file = tortie.write("bad.yaml", "---\n".join([old, pod, KUBERNETES.replace("name: db, ", "")]))
    outcome = tortie("convert", "-f", file)
    assert (outcome.code, outcome.out) == (1, "")
    lines = outcome.err.splitlines()
    assert len(lines) == 3
    assert "bad.yaml:1:1: felixConfig of v1 cannot be converted" in lines[0]
    assert "bad.yaml:5:1: Pod of v1 cannot be converted" in lines[1]
    assert "bad.yaml:8:1: " in lines[2]
    assert "not YAML" in tortie("convert", "-f", tortie.write("no.yaml", broken)).err
    assert "No resources" in tortie("convert", "-f", tortie.write("empty.yaml", "")).err


def test_validation_may_be_left_out(tortie: Shell) -> None:
    file = tortie.write("odd.yaml", OURS.replace("10.0.0.0/8", "10.0.0.0/99"))
    assert tortie("convert", "-f", file).code == 1
    assert "10.0.0.0/99" in tortie("convert", "-f", file, "--ignore-validation").out
