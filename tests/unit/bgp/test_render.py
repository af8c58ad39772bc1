"""What BIRD is told, judged by BIRD itself."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tortie.bgp.render import render_bird, router_id, session_name
from tortie.bgp.snapshot import Peer, Snapshot, mesh_peers
from tortie.desired.endpoint import Host
from tortie.lib.ip import parse_address, parse_network

ONE, TWO, THREE = (parse_address(f"172.30.0.{number}") for number in (1, 2, 3))
ONE6, TWO6 = parse_address("fd00:30::1"), parse_address("fd00:30::2")
POOL, POOL6 = parse_network("10.65.0.0/16"), parse_network("fd65::/64")
BLOCK, BLOCK6 = parse_network("10.65.1.0/26"), parse_network("fd65::40/122")

FULL = Snapshot(
    ipv4=ONE,
    ipv6=ONE6,
    peers=(Peer(TWO, 64512), Peer(THREE, 65001, 1179), Peer(TWO6, 64512)),
    pools=(POOL, POOL6),
    exported_pools=(POOL, POOL6),
    own_blocks=(BLOCK, BLOCK6),
)


def accepted(text: str, directory: Path) -> bool:
    bird = shutil.which("bird", path="/usr/sbin:/usr/bin")
    assert bird, "BIRD 2 is missing: apt-get install bird2"
    path = directory / "bird.conf"
    path.write_text(text)
    checked = subprocess.run([bird, "-p", "-c", path], capture_output=True, text=True)
    return checked.returncode == 0


@pytest.mark.parametrize(
    "snapshot",
    [
        FULL,
        Snapshot(ipv4=ONE, ipv6=None),
        Snapshot(ipv4=None, ipv6=ONE6, peers=(Peer(TWO6, 1),), pools=(POOL6,)),
        Snapshot(ipv4=None, ipv6=None),
        Snapshot(ipv4=ONE, ipv6=None, own_blocks=(TWO,), pools=(POOL,)),
    ],
    ids=["full", "alone", "ipv6 only", "no address", "single addresses as blocks"],
)
def test_bird_accepts_what_is_rendered(snapshot: Snapshot, tmp_path: Path) -> None:
    assert accepted(render_bird(snapshot), tmp_path)


def test_the_check_can_fail(tmp_path: Path) -> None:
    assert not accepted(render_bird(FULL) + "protocol nonsense;", tmp_path)


def test_blocks_are_announced_whole_and_only_from_exported_pools() -> None:
    text = render_bird(FULL)
    assert "if net ~ [ 10.65.1.0/26{27,32} ] then reject;" in text
    assert "if net ~ [ fd65::40/122{123,128} ] then reject;" in text
    hidden = render_bird(Snapshot(ipv4=ONE, ipv6=None, pools=(POOL,)))
    assert "if source != RTS_DEVICE && false then accept;" in hidden


def test_a_router_without_ipv4_has_a_stable_id() -> None:
    assert router_id(FULL) == "172.30.0.1"
    only6 = Snapshot(ipv4=None, ipv6=ONE6)
    assert router_id(only6) == router_id(only6) != "0.0.0.0"


def test_session_names_are_symbols() -> None:
    assert session_name(Peer(TWO6, 1)) == "Mesh_fd00_30__2"


def test_the_mesh_is_every_other_host_in_each_shared_family() -> None:
    hosts = {
        "h1": Host(ipv4=ONE, ipv6=ONE6),
        "h2": Host(ipv4=TWO, ipv6=TWO6, as_number=65002),
        "h3": Host(ipv4=THREE),
        "h4": Host(),
    }
    assert mesh_peers("h1", hosts, 64512) == (
        Peer(TWO, 65002),
        Peer(THREE, 64512),
        Peer(TWO6, 65002),
    )
    assert mesh_peers("h3", hosts, 64512) == (Peer(ONE, 64512), Peer(TWO, 65002))
    assert mesh_peers("stranger", hosts, 64512) == ()
