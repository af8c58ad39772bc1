"""What BIRD is told, judged by BIRD itself."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tortie.bgp.render import render_bird, router_id, session_name
from tortie.bgp.snapshot import Peer, Snapshot
from tortie.lib.ip import Network, parse_address, parse_network

ONE, TWO, THREE = (parse_address(f"172.30.0.{number}") for number in (1, 2, 3))
ONE6, TWO6 = parse_address("fd00:30::1"), parse_address("fd00:30::2")
POOL, POOL6 = parse_network("10.65.0.0/16"), parse_network("fd65::/64")
BLOCK, BLOCK6 = parse_network("10.65.1.0/26"), parse_network("fd65::40/122")


def host(address: Network, as_number: int, port: int = 179) -> Peer:
    return Peer(address=address, as_number=as_number, port=port)


FULL = Snapshot(
    ipv4=ONE,
    ipv6=ONE6,
    peers=(host(TWO, 64512), host(THREE, 65001, 1179), host(TWO6, 64512)),
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
        Snapshot(ipv4=None, ipv6=ONE6, peers=(host(TWO6, 1),), pools=(POOL6,)),
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
    assert "if net ~ [ 10.65.0.0/16+ ] then accept;\n  if source = RTS_STATIC" not in hidden
    assert "  if false then accept;\n  if source = RTS_STATIC" in hidden


def test_a_router_without_ipv4_has_a_stable_id() -> None:
    assert router_id(FULL) == "172.30.0.1"
    only6 = Snapshot(ipv4=None, ipv6=ONE6)
    assert router_id(only6) == router_id(only6) != "0.0.0.0"


def test_session_names_are_symbols() -> None:
    assert session_name(host(TWO6, 1)) == "Peer_fd00_30__2"
