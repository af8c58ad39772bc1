"""Taps and interfaces of others, by `tortie workload`, up to frames that a VM would see."""

import fcntl
import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tests.cni.host import Containers, Host, network, running_host
from tests.unit.ctl.test_ctl_libvirt import ABOUT, INTERFACE, guest

from tortie.ctl import workload
from tortie.ctl.complete import candidates
from tortie.kernel.rtnl.connection import Rtnl
from tortie.kernel.rtnl.link import VethPeer
from tortie.kernel.rtnl.tap import create_tap
from tortie.lib.errors import AlreadyExists, InvalidInput, NotFound

TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
MAC = "02:00:00:00:00:07"
ABOUT_HERE = ABOUT.replace("<t:pool name='blue'/>", "")


@pytest.fixture
def host(netns: None, tmp_path: Path) -> Iterator[Host]:
    with running_host(tmp_path) as made:
        yield made


def run(host: Host, *arguments: str) -> None:
    assert workload.main([*arguments, "--socket", str(host.socket)]) == 0


def links() -> dict[str, tuple[bool, bytes]]:
    with Rtnl.open() as rtnl:
        return {link.name: (link.up, link.mac) for link in rtnl.links() if link.name != "lo"}


def test_a_tap_carries_frames_and_goes(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    run(host, "add", "vm", "--tap", "--label", "app=db", "--mac", MAC, "-o", "json")
    [found] = json.loads(capsys.readouterr().out)
    name = found["interface"]
    assert links() == {name: (True, b"\xee" * 6)}
    [endpoint] = host.endpoints().values()
    assert endpoint["metadata"]["labels"]["app"] == "db"
    assert (endpoint["spec"]["mac"], endpoint["spec"]["interfaceName"]) == (MAC, name)
    handle = os.open("/dev/net/tun", os.O_RDWR)
    try:
        fcntl.ioctl(handle, TUNSETIFF, struct.pack("=16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
        address = found["addresses"][0].partition("/")[0]
        subprocess.run(["ip", "route", "add", address, "dev", name], check=True)
        subprocess.run(
            ["ping", "-c1", "-W1", address] if os.path.exists("/bin/ping") else
            ["busybox", "ping", "-c1", "-W1", address], capture_output=True, check=False,
        )  # fmt: skip
        asked = False
        os.set_blocking(handle, False)
        while not asked:
            frame = os.read(handle, 2048)
            asked = frame[6:12] == b"\xee" * 6 and frame[12:14] == b"\x08\x06"
    finally:
        os.close(handle)
    run(host, "list")
    assert f"default/vm   eth0       {name}" in capsys.readouterr().out
    run(host, "remove", "vm")
    assert capsys.readouterr().out == "removed\n"
    assert host.left_overs() == []
    assert links() == {}


def test_an_interface_of_others_stays(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(NotFound, match="no interface calivm7"):
        run(host, "add", "vm", "--interface", "calivm7")
    create_tap("calivm7")
    run(host, "add", "vm", "--interface", "calivm7", "--ipv6")
    run(host, "add", "vm", "--interface", "calivm7", "--ipv6")
    assert links() == {"calivm7": (True, b"\xee" * 6)}
    [endpoint] = host.endpoints().values()
    assert len(endpoint["spec"]["ipNetworks"]) == 2
    run(host, "remove", "vm")
    run(host, "remove", "vm")
    assert capsys.readouterr().out.endswith("removed\nthere was none\n")
    assert list(links()) == ["calivm7"]
    assert host.endpoints() == {}


def test_an_interface_that_is_no_tap_is_not_taken_for_one(host: Host) -> None:
    """It is somebody's: neither changed nor, when the Add is undone, deleted."""
    with Rtnl.open() as rtnl:
        rtnl.create_veth("calivm7", VethPeer(name="far"))
    before = links()
    with pytest.raises(AlreadyExists, match="calivm7 is there already, and is a veth, not a tap"):
        run(host, "add", "vm", "--tap", "calivm7")
    assert links() == before
    assert (host.endpoints(), host.addresses()) == ({}, {})
    run(host, "add", "vm", "--interface", "calivm7")
    run(host, "remove", "vm")
    assert links().keys() == before.keys()


def test_what_is_attached_does_not_become_another_device(host: Host) -> None:
    containers = Containers()
    try:
        run(host, "add", "vm", "--netns", containers.new())
        with pytest.raises(AlreadyExists, match="with device 'veth', not 'tap'; remove it first"):
            run(host, "add", "vm", "--tap")
        run(host, "remove", "vm")
        run(host, "add", "vm", "--tap")
    finally:
        containers.close()


def test_a_namespace(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    containers = Containers()
    try:
        path = containers.new()
        run(host, "add", "web", "-n", "prod", "--netns", path, "--port", "http=tcp:80")
        assert "prod/web" in capsys.readouterr().out
        [endpoint] = host.endpoints().values()
        assert endpoint["spec"]["ports"] == [{"name": "http", "protocol": "TCP", "port": 80}]
        run(host, "remove", "web", "-n", "prod")
        assert host.left_overs() == []
    finally:
        containers.close()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--tap", "eth7"], "must start with"),
        (["--tap", "--label", "nonsense"], "--label"),
        (["--tap", "--port", "http=tcp:x"], "--port"),
        (["--tap", "--mac", "01:00:00:00:00:01"], "mac"),
        (["--tap", "--profile", "No Such"], "profiles is 'No Such'; it must be lower-case"),
        (["--tap", "--address", "10.1.1.1"], "is in no IPPool"),
        (["--netns", "not-there"], "no network namespace"),
    ],
)
def test_bad_input(host: Host, options: list[str], says: str) -> None:
    with pytest.raises((InvalidInput, NotFound), match=says):
        run(host, "add", "vm", *options)
    assert host.left_overs() == []


def test_a_name_that_tap_took(host: Host) -> None:
    with pytest.raises(InvalidInput, match="WORKLOAD comes before --tap"):
        workload.main(["add", "--tap", "vm"])


def test_ways_to_print(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    def printed(*arguments: str) -> str:
        run(host, "list", *arguments)
        return capsys.readouterr().out

    assert [printed("-o", form) for form in ("name", "json", "yaml")] == ["", "[]\n", "[]\n"]
    containers = Containers()
    try:
        path = containers.new()
        host.ok("ADD", network(), "c1", path)
        run(host, "add", "vm", "-n", "prod", "--tap", "calivm1")
        run(host, "add", "vm", "-n", "prod", "--tap", "calivm2", "--endpoint", "eth1")
        capsys.readouterr()
        assert printed("-o", "name") == "default/c1\nprod/vm\n"
        head, container, *machines = [line.split() for line in printed("-o", "wide").splitlines()]
        assert head[-3:] == ["BY", "NETWORK", "NAMESPACE"]
        assert container[-3:] == ["cni", "net1", path]
        assert [(cells[1], cells[2], cells[-3:]) for cells in machines] == [
            ("eth0", "calivm1", ["tortie", "-", "-"]), ("eth1", "calivm2", ["tortie", "-", "-"]),
        ]  # fmt: skip
        assert yaml.safe_load(printed("-o", "yaml")) == json.loads(printed("-o", "json"))
    finally:
        containers.close()


def test_what_a_shell_completes(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    run(host, "add", "vm", "-n", "prod", "--tap")
    run(host, "add", "other", "--tap")
    there = ["workload", "remove", "--socket", str(host.socket)]
    assert candidates(there, "") == ["other"]
    assert candidates([*there, "-n", "prod"], "v") == ["vm"]
    assert candidates([*there, "other"], "") == []
    monkeypatch.setenv("TORTIE_EMBEDDED_PATH", str(host.directory / "datastore.db"))
    assert candidates(["workload", "add", "x", "--tap", "--pool"], "") == ["v4", "v6"]
    assert "projectcalico-default-allow" in candidates(["workload", "add", "--profile"], "proj")
    assert candidates(["workload", "list", "-o"], "w") == ["wide"]


def hook(host: Host, xml: bytes, operation: str, step: str = "begin") -> "tuple[int, str]":
    """As libvirt calls it: `/etc/libvirt/hooks/qemu GUEST OPERATION STEP -`, XML on stdin."""
    done = subprocess.run(
        [sys.executable, "-c", "from tortie.ctl.main import entry; entry()", "workload", "libvirt",
         "--socket", str(host.socket), "web-1", operation, step, "-"],
        input=xml, capture_output=True, check=False,
    )  # fmt: skip
    assert done.stdout == b"", "libvirt takes output of some operations for XML"
    return done.returncode, done.stderr.decode()


def test_libvirt_s_hook(host: Host) -> None:
    second = INTERFACE.replace("calivm1", "calivm2").replace("00:07", "00:08")
    xml = guest(INTERFACE + second, ABOUT_HERE)
    for operation in ("prepare", "start", "started", "reconnect"):
        assert hook(host, xml, operation) == (0, "")
    assert links() == {"calivm1": (True, b"\xee" * 6), "calivm2": (True, b"\xee" * 6)}
    found = host.endpoints()
    assert sorted(found) == ["h1-tortie-web--1-eth0", "h1-tortie-web--1-eth1"]
    first = found["h1-tortie-web--1-eth0"]
    assert first["metadata"]["labels"]["app"] == "web"
    assert "10.65.0.7/32" in first["spec"]["ipNetworks"]
    assert first["spec"]["mac"] == "52:54:00:00:00:07"
    for operation in ("stopped", "release", "release"):
        assert hook(host, xml, operation, "end") == (0, "")
    assert host.left_overs() == []


def test_a_guest_that_cannot_be_attached_does_not_start(host: Host) -> None:
    bad = INTERFACE.replace("calivm1", "calivm2")
    asked = "<t:address dev='calivm2'>10.1.1.1</t:address></t:workload>"
    about = ABOUT_HERE.replace("</t:workload>", asked)
    code, told = hook(host, guest(INTERFACE + bad, about), "prepare")
    assert code != 0
    assert "10.1.1.1 is in no IPPool" in told
    assert host.left_overs() == [], "the first interface, too"
    host.stop()
    code, told = hook(host, guest(), "prepare")
    assert code != 0
    assert "agent" in told
