"""Sessions to switches of other makes: what they receive, and what is taken from them."""

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.bgp.routers import FRR, FRR_AS, GOBGP_AS, PASSWORD, GoBGP, as_path, communities
from tests.bgp.site import Site, eventually, lacks, run, site, write_secret


async def with_gobgp(made: Site, ttl: int = 8, host_as: int = 64512, **more: Any) -> GoBGP:
    switch = GoBGP(made, ttl=ttl, host_as=host_as)
    await switch.ready()
    peer = {"peerIP": switch.router.ipv4, "asNumber": GOBGP_AS, **more}
    made.put("BGPPeer", "go4", peer | {"password": write_secret(made, PASSWORD)})
    made.put("BGPPeer", "go6", peer | {"peerIP": switch.router.ipv6})
    await made.apply()
    return switch


ADVERTISED: dict[str, object] = {
    "communities": [{"name": "blocks", "value": "64512:100"}],
    "prefixAdvertisements": [
        {"cidr": "10.65.0.0/16", "communities": ["blocks", "64512:7:8"]},
        {"cidr": "fd65::/48", "communities": ["64512:6"]},
    ],
    "serviceClusterIPs": [{"cidr": "10.96.0.0/12"}, {"cidr": "10.97.0.1/32"}],
    "serviceLoadBalancerIPs": [{"cidr": "fd96::/112"}],
}


def test_gobgp_hears_blocks_and_services_from_their_own_hosts_only(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with site(tmp_path, 2) as made:
            made.put("BGPConfiguration", "default", ADVERTISED)
            switch = await with_gobgp(made)
            await made.meshed()
            await eventually(lambda: len(switch.received()) == 3, "two blocks and the services")
            await eventually(lambda: len(switch.received(6)) == 3, "the same in IPv6")
            await eventually(
                lambda: len(switch.received()["10.96.0.0/12"]) == 2, "the services from both hosts"
            )
            received = switch.received()
            (path,) = received["10.65.1.0/26"]
            assert as_path(path) == [64512]
            assert communities(path) == ["64512:100", "64512:7:8"]
            (path6,) = switch.received(6)["fd65::2:0/122"]
            assert communities(path6) == ["64512:6"]
            # A workload inside a block changes nothing; the switch's own is not taken.
            switch.inject("203.0.113.0/24", "nexthop", switch.router.ipv4)
            switch.inject("10.65.1.0/26", "nexthop", switch.router.ipv4)
            switch.inject("10.65.77.0/26", "nexthop", switch.router.ipv4)
            await eventually(
                lambda: made["h1"].has("10.65.77.0/26"), "what lies in a pool is taken"
            )
            assert lacks(made["h1"], "203.0.113.0/24"), "what does not is not"
            assert lacks(made["h1"], "10.65.1.0/26"), "and never a block of our own"

    asyncio.run(scenario())


def test_a_wrong_password_opens_no_session(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with site(tmp_path, 1) as made:
            switch = await with_gobgp(made)
            await eventually(lambda: len(switch.received()) == 1, "the right one")
            path = made.directory / "bgp" / "tor"
            path.write_text("wrong")
            await made.apply()
            await eventually(lambda: not switch.received(), "the wrong one")
            path.unlink()
            await made.apply()
            assert set(made["h1"].manager.problems) == {"go4"}
            assert "Peer_172_30_0_200" not in {p.name for p in await made["h1"].bird.protocols()}

    asyncio.run(scenario())


def test_frr_with_password_bfd_and_several_paths(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with site(tmp_path, 2) as made:
            switch = FRR(made)
            await switch.start()
            password = write_secret(made, PASSWORD.replace(" ", ""))
            peer: dict[str, object] = {"asNumber": FRR_AS, "password": password}
            for name, address in (("tor4", switch.router.ipv4), ("tor6", switch.router.ipv6)):
                annotations = {"bgp.tortie.io/bfd": "Enabled"}
                made.put("BGPPeer", name, peer | {"peerIP": address}, annotations=annotations)
            made.put("BGPConfiguration", "default", ADVERTISED)
            await made.apply()
            await eventually(lambda: len(switch.routes()) == 3, "FRR hears")
            await eventually(lambda: len(switch.routes(6)) == 3, "FRR hears IPv6")
            await eventually(lambda: len(switch.routes()["10.96.0.0/12"]) == 2, "both hosts' paths")
            detail = switch.ask("show bgp ipv4 unicast 10.65.1.0/26")
            assert "64512:100" in detail
            assert "64512:7:8" in detail
            await eventually(
                lambda: switch.ask("show bfd peers brief").count(" up ") == 4, "BFD is up"
            )
            # Silence: only BFD can notice it so soon; the hold time is 9 seconds.
            made_at = made["h2"]
            await eventually(
                lambda: "proto bgp" in switch.router.ip("route", "show", "10.65.2.0/26"), "FIB"
            )
            run("ip", "-n", made.fabric, "link", "set", f"p{made_at.ordinal}", "nomaster")
            gone = await eventually(
                lambda: "10.65.2.0/26" not in switch.routes(), "withdrawn by BFD", 6.0
            )
            assert gone < 5.0

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("ttl", "hops", "is_up"), [(255, 1, True), (253, 3, True), (253, 1, False)]
)
def test_ttl_security(tmp_path: Path, ttl: int, hops: int, is_up: bool) -> None:
    """A sender with TTL 253 counts as three hops away."""

    async def scenario() -> None:
        async with site(tmp_path, 1) as made:
            switch = await with_gobgp(made, ttl=ttl, ttlSecurity=hops)
            if is_up:
                await eventually(lambda: bool(switch.received()), "the session is up")
            else:
                await asyncio.sleep(3)
                assert not switch.received()

    asyncio.run(scenario())


RULES: list[tuple[dict[str, Any], set[str]]] = [
    ({"matchOperator": "Equal", "cidr": "10.65.1.0/24"}, {"10.65.1.0/24"}),
    ({"matchOperator": "NotEqual", "cidr": "10.65.1.0/24"}, {"10.65.1.64/26", "10.65.2.0/24"}),
    ({"matchOperator": "In", "cidr": "10.65.1.0/24"}, {"10.65.1.0/24", "10.65.1.64/26"}),
    ({"matchOperator": "NotIn", "cidr": "10.65.1.0/24"}, {"10.65.2.0/24"}),
    (
        {"matchOperator": "In", "cidr": "10.65.0.0/16", "prefixLength": {"min": 25, "max": 26}},
        {"10.65.1.64/26"},
    ),
    (
        {"matchOperator": "In", "cidr": "10.65.0.0/16", "prefixLength": {"max": 24}},
        {"10.65.1.0/24", "10.65.2.0/24"},
    ),
    (
        {"matchOperator": "NotIn", "cidr": "10.65.0.0/16", "prefixLength": {"min": 26}},
        {"10.65.1.0/24", "10.65.2.0/24"},
    ),
    ({"communities": {"values": ["65000:1"]}}, {"10.65.1.0/24"}),
    ({"communities": {"values": ["65000:2:3"]}}, {"10.65.2.0/24"}),
    ({"asPathPrefix": [GOBGP_AS, 65007]}, {"10.65.1.64/26"}),
    ({"asPathPrefix": [65007]}, set()),
    ({"peerType": "eBGP"}, {"10.65.1.0/24", "10.65.1.64/26", "10.65.2.0/24"}),
    ({"peerType": "iBGP"}, set()),
    ({"source": "RemotePeers"}, {"10.65.1.0/24", "10.65.1.64/26", "10.65.2.0/24"}),
    ({"interface": "eth*"}, {"10.65.1.0/24", "10.65.1.64/26", "10.65.2.0/24"}),
    ({"interface": "eth1"}, set()),
    ({"priority": 1024}, {"10.65.1.0/24", "10.65.1.64/26", "10.65.2.0/24"}),
    ({"priority": 512}, set()),
    (
        {"matchOperator": "In", "cidr": "10.65.1.0/24", "communities": {"values": ["65000:1"]}},
        {"10.65.1.0/24"},
    ),
]
"""What a rule matches of three routes that a switch sends."""

REST: dict[str, Any] = {"action": "Reject"}


def test_filters_on_what_is_taken(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with site(tmp_path, 1) as made:
            host = made["h1"]
            host.wants(host.block, None)
            made.put("BGPFilter", "f", {"importV4": [REST]})
            switch = await with_gobgp(made, filters=["f"])
            hop = ["nexthop", switch.router.ipv4]
            switch.inject("10.65.1.0/24", *hop, "community", "65000:1")
            switch.inject("10.65.1.64/26", *hop, "aspath", "65007")
            switch.inject("10.65.2.0/24", *hop, "large-community", "65000:2:3")

            def taken() -> set[str]:
                lines = host.routes().splitlines()
                return {line.split()[0] for line in lines}

            for rule, expected in [*RULES[4:5], *RULES]:
                made.put("BGPFilter", "f", {"importV4": [rule | {"action": "Accept"}, REST]})
                await made.apply()
                holds = partial(lambda wanted: taken() == wanted, expected)
                await eventually(holds, f"{rule} takes {expected}", 10.0, 0.02)
            # The last one: a rejected route and the rest by the pools.
            made.put("BGPFilter", "f", {"importV4": [RULES[0][0] | REST]})
            await made.apply()
            await eventually(lambda: taken() == {"10.65.1.64/26", "10.65.2.0/24"}, "rejected")
            priority = {"action": "Accept", "operations": [{"setPriority": {"value": 77}}]}
            made.put("BGPFilter", "f", {"importV4": [priority]})
            await made.apply()
            await eventually(lambda: len(taken()) == 3, "all again")
            shown = [text for _, text in await host.bird.ask("show route all for 10.65.1.0/24")]
            assert f"\tBGP.local_pref: {2**31 - 1 - 77}" in shown
            assert any("(200)" in line for line in shown), "better than normal: preferred"
            assert host.routes().count("metric 1024") == 3
            made.put("BGPFilter", "f", None)
            await made.apply()
            await eventually(lambda: taken() == set(), "a missing filter closes")

    asyncio.run(scenario())


def test_filters_on_what_is_given(tmp_path: Path) -> None:
    """Every operation, and matches that make sense only here, as a switch hears them."""

    async def scenario() -> None:
        async with site(tmp_path, 2) as made:
            rules: list[dict[str, Any]] = [
                {"action": "Reject", "matchOperator": "Equal", "cidr": "10.65.2.0/26"},
                {
                    "action": "Accept",
                    "matchOperator": "In",
                    "cidr": "10.65.1.0/24",
                    "operations": [
                        {"addCommunity": {"value": "65001:5"}},
                        {"addCommunity": {"value": "65001:4200000000:6"}},
                        {"prependASPath": {"prefix": [65010, 65011]}},
                    ],
                },
                {
                    "action": "Accept",
                    "source": "RemotePeers",
                    "matchOperator": "Equal",
                    "cidr": "10.65.3.9/32",
                },
            ]
            made.put("BGPFilter", "out", {"exportV4": rules, "exportV6": [REST]})
            switch = await with_gobgp(made, filters=["out"], node="h1")
            await made.meshed()
            made["h2"].add_workload("10.65.3.9")
            await eventually(lambda: set(switch.received()) == {"10.65.1.0/26", "10.65.3.9/32"}, "")
            (path,) = switch.received()["10.65.1.0/26"]
            assert as_path(path) == [64512, 65010, 65011]
            assert communities(path) == ["65001:5", "65001:4200000000:6"]
            assert not switch.received(6)

    asyncio.run(scenario())


def test_a_flood_is_not_taken_in(tmp_path: Path) -> None:
    """B5: nothing outside of the pools, whoever sends it."""

    async def scenario() -> None:
        async with site(tmp_path, 1) as made:
            switch = await with_gobgp(made)
            refused = ("0.0.0.0/0", "10.0.0.0/8", "10.65.0.0/15", "172.30.0.1/32", made["h1"].block)
            for prefix in refused:
                switch.inject(prefix, "nexthop", switch.router.ipv4)
            switch.inject("10.65.9.0/26", "nexthop", switch.router.ipv4)
            await eventually(lambda: made["h1"].has("10.65.9.0/26"), "the pool's")
            assert len(made["h1"].routes().splitlines()) == 1
            known = await made["h1"].bird.ask("show route protocol Peer_172_30_0_200")
            assert [text.split()[0] for _, text in known if "/" in text] == ["10.65.9.0/26"]
            text = (made["h1"].run_directory / "bird.conf").read_text()
            assert text.count("import limit 100000 action block;") == 2

    asyncio.run(scenario())
