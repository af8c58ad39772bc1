"""Links beyond what the fake knows, compared with what ip(8) says."""

import array
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tortie.kernel import netns as namespaces
from tortie.kernel.netlink import NETLINK_ROUTE
from tortie.kernel.rtnl import link
from tortie.kernel.rtnl.address import Address
from tortie.kernel.rtnl.connection import Rtnl
from tortie.kernel.rtnl.link import LinkChange, VethPeer, mac_text, parse_mac
from tortie.kernel.rtnl.tap import create_tap
from tortie.lib.errors import AlreadyExists, InvalidInput, KernelRefused, NotFound
from tortie.lib.ip import parse_address

pytestmark = pytest.mark.usefixtures("netns")

MAC = parse_mac("02:00:00:00:aa:01")


@pytest.fixture
def rtnl(netns: None) -> Iterator[Rtnl]:
    with Rtnl.open() as opened:
        yield opened


@pytest.fixture
def space() -> Iterator[int]:
    handle = namespaces.create_anonymous()
    yield handle
    os.close(handle)


def ip_json(*words: str) -> Any:
    shown = subprocess.run(["ip", "-j", *words], check=True, capture_output=True)
    return json.loads(shown.stdout or b"[]")


def generated(rtnl: Rtnl, index: int) -> list[Address]:
    return rtnl.addresses(6, interface=index)


def test_links_agree_with_ip(rtnl: Rtnl) -> None:
    bridge = rtnl.create_bridge("br0", mac=MAC, mtu=1400, group=3)
    made = rtnl.create_veth("cali1", VethPeer(name="far1"), mac=b"\xee" * 6, mtu=1300, group=12)
    rtnl.change_link(made.index, LinkChange(master=bridge.index, up=True))

    shown = {entry["ifname"]: entry for entry in ip_json("-d", "link")}
    assert {entry.name for entry in rtnl.links()} == set(shown)
    for entry in rtnl.links():
        theirs = shown[entry.name]
        assert entry.index == theirs["ifindex"]
        assert mac_text(entry.mac) == theirs["address"]
        assert entry.mtu == theirs["mtu"]
        assert entry.up == ("UP" in theirs["flags"])
        assert entry.carrier == ("LOWER_UP" in theirs["flags"])
        assert entry.kind == theirs.get("linkinfo", {}).get("info_kind", "")
        assert (entry.operstate == 6) == (theirs["operstate"] == "UP")
        assert str(entry.group) == theirs["group"].replace("default", "0")
    assert shown["cali1"]["master"] == "br0"
    assert rtnl.link("cali1").master == bridge.index
    assert rtnl.link("cali1").peer == shown["far1"]["ifindex"]

    rtnl.change_link(made.index, LinkChange(master=0))
    assert rtnl.link("cali1").master == 0


def test_a_peer_is_born_in_its_namespace(rtnl: Rtnl, space: int) -> None:
    made = rtnl.create_veth("cali1", VethPeer(name="eth0", namespace=space, mac=MAC, mtu=1400))

    assert [entry.name for entry in rtnl.links()] == ["lo", "cali1"]
    assert made.peer_netns_id is not None
    with namespaces.run_in(space, Rtnl.open) as inside:
        far = inside.link("eth0")
        assert (far.mac, far.mtu, far.index) == (MAC, 1400, made.peer)
        inside.change_link(far.index, LinkChange(up=True))
        assert inside.link("eth0").up
    rtnl.change_link(made.index, LinkChange(up=True))
    assert rtnl.link("cali1").carrier


def test_equal_names_in_two_namespaces_do_not_mix(rtnl: Rtnl, space: int) -> None:
    """The trap of `if_nametoindex`: it answers for the caller's namespace."""
    rtnl.create_veth("spare", VethPeer(name="spare2"))
    rtnl.create_veth("eth0", VethPeer(name="eth0", namespace=space))
    with namespaces.run_in(space, Rtnl.open) as inside:
        far = inside.link("eth0")
        assert far.index != socket.if_nametoindex("eth0")
        inside.change_link(far.index, LinkChange(mtu=1234))
    assert rtnl.link("eth0").mtu == 1500


def test_move_and_rename_in_one_step(rtnl: Rtnl, space: int) -> None:
    made = rtnl.create_veth("cali1", VethPeer(name="tmp1"))
    far = rtnl.link("tmp1").index
    rtnl.change_link(far, LinkChange(namespace=space, name="eth0"))
    with namespaces.run_in(space, Rtnl.open) as inside:
        assert [entry.name for entry in inside.links()] == ["lo", "eth0"]
    assert rtnl.link(made.index).peer_netns_id is not None


def test_a_socket_from_another_process_configures_its_namespace(rtnl: Rtnl, space: int) -> None:
    """As the agent does it: a helper opens the socket inside and passes it on."""
    made = rtnl.create_veth("cali1", VethPeer(name="eth0", namespace=space))
    rtnl.change_link(made.index, LinkChange(up=True))
    here, there = socket.socketpair()
    opened = namespaces.open_socket_in(space, socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE)
    with here, there, opened:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [opened.fileno()]))]
        there.sendmsg([b"x"], rights)
        _, ancillary, _, _ = here.recvmsg(1, socket.CMSG_SPACE(4))
    (descriptor,) = array.array("i", ancillary[0][2])

    with Rtnl.adopt(descriptor) as inside:
        far = inside.link("eth0").index
        inside.add_address(Address(interface=far, address=parse_address("10.65.0.1"), length=32))
        inside.change_link(far, LinkChange(up=True))
        assert [a.address for a in inside.addresses(4)] == [parse_address("10.65.0.1")]
        with pytest.raises(NotFound):
            inside.link("cali1")
    assert rtnl.link("cali1").carrier
    assert [a.address for a in rtnl.addresses(4)] == [parse_address("127.0.0.1")]


def test_only_rtnetlink_sockets_are_adopted() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for other in (socket.socket(), socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)):
        with pytest.raises(InvalidInput):
            Rtnl.adopt(other.detach())
    assert len(os.listdir("/proc/self/fd")) == before


def test_no_address_is_generated_when_told_so(rtnl: Rtnl) -> None:
    with_none = rtnl.create_veth("cali1", VethPeer(name="far1"))
    with_one = rtnl.link("far1")
    rtnl.stop_address_generation(with_none.index)
    for index in (with_none.index, with_one.index):
        rtnl.change_link(index, LinkChange(up=True))
    deadline = time.monotonic() + 5
    while not generated(rtnl, with_one.index) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert generated(rtnl, with_one.index)
    assert generated(rtnl, with_none.index) == []
    shown = ip_json("-d", "link", "show", "dev", "cali1")
    assert shown[0]["inet6_addr_gen_mode"] == "none"


def test_delete_one(rtnl: Rtnl) -> None:
    rtnl.create_veth("cali1", VethPeer(name="far1"))
    rtnl.delete_link("far1")
    assert [entry.name for entry in rtnl.links()] == ["lo"]
    with pytest.raises(NotFound):
        rtnl.delete_link("cali1")


def test_deleting_many_is_one_wait(rtnl: Rtnl) -> None:
    foreign = rtnl.create_veth("foreign", VethPeer(name="foreign2"), group=77)
    indexes = [rtnl.create_veth(f"c{i}", VethPeer(name=f"d{i}")).index for i in range(50)]
    started = time.monotonic()
    rtnl.delete_links(indexes)
    seconds = time.monotonic() - started
    assert {entry.name for entry in rtnl.links()} == {"lo", "foreign", "foreign2"}
    assert rtnl.link(foreign.index).group == 77
    assert seconds < 50 * 0.018, "one by one it takes 22 ms for each"


def test_delete_group_spares_group_0(rtnl: Rtnl) -> None:
    with pytest.raises(InvalidInput):
        rtnl.delete_group(0)
    rtnl.delete_group(424242)
    assert rtnl.links()


def test_many_changes_at_once_each_on_its_own(rtnl: Rtnl) -> None:
    made = rtnl.create_veth("cali1", VethPeer(name="far1"))
    outcomes = rtnl.run(
        [
            link.no_generated_address(made.index),
            link.change(made.index, LinkChange(mtu=1280)),
            link.change(999, LinkChange(up=True)),
            link.change(made.index, LinkChange(up=True)),
        ]
    )
    assert [outcome is None for outcome in outcomes] == [True, True, False, True]
    assert "change link 999" in str(outcomes[2])
    assert (rtnl.link("cali1").mtu, rtnl.link("cali1").up) == (1280, True)
    assert rtnl.run([]) == []


def test_the_kernels_reason_is_in_the_error(rtnl: Rtnl) -> None:
    made = rtnl.create_veth("cali1", VethPeer(name="far1"))
    with pytest.raises(KernelRefused, match="mtu"):
        rtnl.change_link(made.index, LinkChange(mtu=10))


def test_a_thousand_links_are_listed_whole(rtnl: Rtnl) -> None:
    rtnl.run([link.create_veth(f"c{i}", VethPeer(name=f"d{i}")) for i in range(500)])
    assert len({entry.index for entry in rtnl.links()}) == 1001


@pytest.mark.skipif(not os.path.exists("/dev/net/tun"), reason="this kernel has no TUN/TAP")
def test_a_tap_persists_and_is_deleted_like_any_link(rtnl: Rtnl) -> None:
    create_tap("tap0", owner=os.getuid())
    made = rtnl.link("tap0")
    assert (made.kind, made.up) == ("tun", False)
    shown = ip_json("-d", "link", "show", "dev", "tap0")[0]["linkinfo"]["info_data"]
    assert (shown["type"], shown["persist"]) == ("tap", True)
    assert shown["user"] in ("root", 0)
    with pytest.raises(AlreadyExists):
        create_tap("tap0")
    rtnl.delete_link(made.index)
    assert [entry.name for entry in rtnl.links()] == ["lo"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "02:00:00:00:00",
        "02-00-00-00-00-01",
        "0x:00:00:00:00:01",
        "2:0:0:0:0:1",
        "02:00:00:00:00:01:02",
        " 2:00:00:00:00:01",
    ],
)
def test_what_is_no_mac_address(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_mac(text)


def test_a_short_mac_is_refused(rtnl: Rtnl) -> None:
    with pytest.raises(InvalidInput):
        rtnl.create_veth("cali1", VethPeer(name="far1"), mac=b"\x02")
