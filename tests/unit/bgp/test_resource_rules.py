"""What is wrong with a BGPPeer or a BGPFilter, rule by rule."""

from typing import Any

import msgspec
import pytest

from tortie.model.catalogue import TYPES
from tortie.model.validation import validate
from tortie.model.validation.bgp import parse_peer_ip

PEER = {"peerIP": "10.0.0.9", "asNumber": 65000}
ACCEPT, REJECT = {"action": "Accept"}, {"action": "Reject"}


def paths(kind: str, spec: dict[str, Any]) -> list[str]:
    document = {"kind": kind, "metadata": {"name": "n"}, "spec": spec}
    return [problem.path for problem in validate(msgspec.convert(document, TYPES[kind]))]


@pytest.mark.parametrize(
    ("spec", "wrong"),
    [
        (PEER, []),
        ({"peerSelector": "has(rr)"}, []),
        ({"localWorkloadSelector": "all()", "asNumber": 65000}, []),
        (PEER | {"peerIP": "[fd00::1]:1179", "reachableBy": "fd00::2"}, []),
        (PEER | {"node": "a", "nodeSelector": "all()"}, ["spec.nodeSelector"]),
        ({"peerIP": "10.0.0.9", "peerSelector": "all()"}, ["spec.peerSelector"]),
        ({"peerSelector": "all()", "asNumber": 1}, ["spec.asNumber"]),
        ({"localWorkloadSelector": "all()"}, ["spec.asNumber"]),
        (PEER | {"localWorkloadSelector": "all()"}, ["spec.peerIP"]),
        ({"peerSelector": "all()", "reachableBy": "10.0.0.1"}, ["spec.reachableBy"]),
        (PEER | {"reachableBy": "fd00::1"}, ["spec.reachableBy"]),
        (PEER | {"keepOriginalNextHop": True, "nextHopMode": "Self"}, ["spec.keepOriginalNextHop"]),
        (PEER | {"peerSelector": "((("}, ["spec.peerSelector", "spec.asNumber"]),
    ],
)
def test_peers(spec: dict[str, Any], wrong: list[str]) -> None:
    assert set(wrong) <= set(paths("BGPPeer", spec))
    assert bool(wrong) == bool(paths("BGPPeer", spec))


@pytest.mark.parametrize(
    ("rule", "wrong"),
    [
        (ACCEPT, ""),
        (REJECT | {"cidr": "10.0.0.0/8", "matchOperator": "In"}, ""),
        (REJECT | {"cidr": "10.0.0.0/8"}, "matchOperator"),
        (REJECT | {"matchOperator": "In"}, "cidr"),
        (REJECT | {"cidr": "fd00::/8", "matchOperator": "In"}, "cidr"),
        (ACCEPT | {"prefixLength": {"min": 8}}, "prefixLength"),
        (REJECT | {"operations": [{"addCommunity": {"value": "1:1"}}]}, "operations"),
        (ACCEPT | {"operations": [{}]}, "operations[0]"),
        (ACCEPT | {"communities": {"values": ["1:1", "1:2"]}}, "communities.values"),
        (ACCEPT | {"communities": {"values": ["65536:1"]}}, "communities.values[0]"),
        (ACCEPT | {"priority": 2**31 - 1}, "priority"),
        (ACCEPT | {"interface": 'x"; }'}, "interface"),
        ({}, "action"),
    ],
)
def test_rules_of_filters(rule: dict[str, Any], wrong: str) -> None:
    found = paths("BGPFilter", {"exportV4": [rule]})
    assert bool(wrong) == bool(found)
    if wrong:
        assert f"spec.exportV4[0].{wrong}" in found


@pytest.mark.parametrize(
    ("text", "address", "port"),
    [
        ("10.0.0.1", "10.0.0.1", 0),
        ("10.0.0.1:1179", "10.0.0.1", 1179),
        ("fd00::1", "fd00::1", 0),
        ("[fd00::1]:179", "fd00::1", 179),
    ],
)
def test_addresses_with_ports(text: str, address: str, port: int) -> None:
    parsed, found = parse_peer_ip(text)
    assert (parsed.address_text, found) == (address, port)
