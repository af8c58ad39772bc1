"""Matches of export filters, as the peers hear them."""

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.bgp.site import eventually, site
from tests.bgp.test_fabric import with_gobgp

OWN, OWN_ADDRESS = "10.65.1.0/26", "10.65.3.9/32"
THEIRS, THEIR_ADDRESS = "10.65.2.0/26", "10.65.4.9/32"
ATTACHED = "172.30.0.0/24"
ALL = {OWN, OWN_ADDRESS, THEIRS, THEIR_ADDRESS, ATTACHED}
RULES: list[tuple[dict[str, Any], set[str]]] = [
    ({"matchOperator": "Equal", "cidr": OWN}, {OWN}),
    ({"matchOperator": "NotEqual", "cidr": OWN}, ALL - {OWN}),
    ({"matchOperator": "In", "cidr": "10.65.2.0/23"}, {THEIRS, OWN_ADDRESS}),
    ({"matchOperator": "NotIn", "cidr": "10.65.2.0/23"}, {OWN, THEIR_ADDRESS, ATTACHED}),
    (
        {"matchOperator": "In", "cidr": "10.65.0.0/16", "prefixLength": {"min": 27}},
        {OWN_ADDRESS, THEIR_ADDRESS},
    ),
    (
        {"matchOperator": "In", "cidr": "10.65.0.0/16", "prefixLength": {"max": 26}},
        {OWN, THEIRS},
    ),
    ({"interface": "cali*"}, {OWN_ADDRESS}),
    ({"interface": "eth0"}, {THEIRS, THEIR_ADDRESS, ATTACHED}),
    ({"peerType": "iBGP"}, set()),
    ({"peerType": "eBGP"}, ALL),
    ({"source": "RemotePeers"}, {THEIRS, THEIR_ADDRESS}),
    ({"priority": 1024, "source": "RemotePeers"}, {THEIRS, THEIR_ADDRESS}),
    ({"priority": 512}, set()),
    ({"communities": {"values": ["65000:1"]}}, set()),
]
"""What a rule matches of what one host could give; without a filter it is only its own."""

REST: dict[str, Any] = {"action": "Reject"}


@pytest.mark.timeout(120)
def test_matches_on_what_is_given(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with site(tmp_path, 2) as made:
            made.put("BGPFilter", "out", {"exportV4": [REST]})
            switch = await with_gobgp(made, filters=["out"], node="h1")
            made["h1"].add_workload("10.65.3.9")
            made["h2"].add_workload("10.65.4.9")
            await made.meshed()
            await eventually(lambda: made["h1"].has("10.65.4.9"), "h1 has all")
            for rule, expected in [RULES[-5], *RULES]:
                made.put("BGPFilter", "out", {"exportV4": [rule | {"action": "Accept"}, REST]})
                await made.apply()
                holds = partial(lambda wanted: set(switch.received()) == wanted, expected)
                await eventually(holds, f"{rule} gives {expected}", 15.0)

    asyncio.run(scenario())


@pytest.mark.parametrize(("peer_type", "is_set"), [("iBGP", True), ("eBGP", False)])
def test_a_priority_is_given_to_another_host(tmp_path: Path, peer_type: str, is_set: bool) -> None:
    async def scenario() -> None:
        async with site(tmp_path, 2) as made:
            rule = {
                "action": "Accept",
                "peerType": peer_type,
                "operations": [{"setPriority": {"value": 77}}],
            }
            made.put("BGPFilter", "out", {"exportV4": [rule]})
            peer = {"peerIP": made["h2"].ipv4, "asNumber": 64512, "node": "h1", "filters": ["out"]}
            made.put("BGPPeer", "h2", peer)
            await made.apply()
            await made.meshed()
            shown = await made["h2"].bird.ask(f"show route all for {made['h1'].block}")
            value = 77 if is_set else 1024
            assert f"\tBGP.local_pref: {2**31 - 1 - value}" in [text for _, text in shown]

    asyncio.run(scenario())
