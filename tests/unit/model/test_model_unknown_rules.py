"""What a newer version wrote into a rule never opens anything here."""

import json
from typing import Any

import pytest

from tortie.model import codec
from tortie.model.keys import ResourceKey
from tortie.model.policy import NetworkPolicy, unenforceable
from tortie.model.unknown_rules import close_unknown

KEY = ResourceKey("NetworkPolicy", "p", "ns")
PLAIN = {"action": "Allow", "protocol": "TCP", "source": {"selector": "a"}, "destination": {}}


def closed(*rules: object, way: str = "ingress") -> tuple[NetworkPolicy, tuple[str, ...], bytes]:
    raw = json.dumps(
        {"metadata": {"name": "p", "namespace": "ns"}, "spec": {"newer": 1, way: rules}}
    ).encode()
    policy = codec.decode(KEY, raw)
    assert isinstance(policy, NetworkPolicy)
    return *close_unknown(policy, raw), raw


@pytest.mark.parametrize(
    "unknown",
    [
        {"sourcePortRange": "1:2"},
        {"source": {"asns": [1]}},
        {"destination": {"services": {"name": "a", "cluster": "b"}}},
        {"icmp": {"type": 8, "identifier": 1}, "protocol": "ICMP"},
        {"source": {"serviceAccounts": {"names": ["a"], "audience": "b"}}},
    ],
)
@pytest.mark.parametrize("way", ["ingress", "egress"])
def test_a_match_that_we_do_not_know(unknown: dict[str, Any], way: str) -> None:
    policy, problems, raw = closed(PLAIN, {**PLAIN, **unknown}, PLAIN, way=way)
    assert len(problems) == 1
    assert f"spec.{way}[1]" in problems[0]
    both = [*unenforceable(policy.spec, "Ingress"), *unenforceable(policy.spec, "Egress")]
    assert len(both) == 1, "the one, and no other"
    read = codec.decode(KEY, raw)
    assert (
        codec.encode(KEY, read, raw) == raw
        or json.loads(codec.encode(KEY, read, raw))["spec"][way][1].items() >= unknown.items()
    ), "and nothing of it is lost on the way back"


def test_what_says_nothing_about_packets_is_no_match() -> None:
    annotated = {**PLAIN, "metadata": {"annotations": {"a": "b"}, "newer": 1}}
    null = {**PLAIN, "newMatch": None}
    policy, problems, raw = closed(annotated, null, PLAIN)
    assert problems == ()
    assert policy == codec.decode(KEY, raw)


def test_a_deny_denies_regardless() -> None:
    policy, problems, _ = closed({"action": "Deny", "newMatch": 1})
    assert len(problems) == 1
    assert "denies whatever" in unenforceable(policy.spec, "Ingress")[0]
