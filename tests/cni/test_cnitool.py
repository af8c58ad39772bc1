"""cnitool, the specification's own runtime, with the configuration that we install.

`scripts/cnitool` builds it from Debian's sources when the machine has none yet.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest
from tests.cni.host import Containers, Host

from tortie.attach.cni.conflist import default_conflist
from tortie.cni import install
from tortie.kernel import netns as kernel_netns
from tortie.kernel.rtnl.connection import Rtnl

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def program() -> str:
    built = subprocess.run(
        [REPOSITORY / "scripts" / "cnitool"], check=True, stdout=subprocess.PIPE, text=True
    )
    return built.stdout.strip()


class Runtime:
    def __init__(self, program: str, host: Host) -> None:
        self._program = program
        self._host = host
        self._conf_dir = host.directory / "net.d"
        # What libcni remembers of a network lies outside of the test's directory.
        self.network = f"tortie-{os.getpid()}"
        document = json.loads(default_conflist(kubernetes=False, ipv6=True))
        conflist = json.dumps({**document, "name": self.network}).encode()
        places = install.Places(host.socket, host.directory / "spool")
        self._conf_dir.mkdir()
        install.install(host.bin_dir, self._conf_dir, places, conflist)

    def __call__(self, verb: str, netns: str, **more: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "CNI_PATH": str(self._host.bin_dir),
            "NETCONFPATH": str(self._conf_dir),
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            **more,
        }
        return subprocess.run(
            [self._program, verb, self.network, netns],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip


def test_cnitool_adds_checks_and_removes(program: str, host: Host, containers: Containers) -> None:
    cnitool = Runtime(program, host)
    path = containers.new()
    # Without a port of the host: portmap 1.1 looks for it under IPv6 too when it checks.
    wanted = json.dumps(
        {
            "ips": ["10.65.0.77"],
            "bandwidth": {"ingressRate": 8_000_000, "ingressBurst": 8_000_000},
        }
    )
    added = cnitool("add", path, CAP_ARGS=wanted)
    assert added.returncode == 0, added.stderr
    ips = [one["address"] for one in json.loads(added.stdout)["ips"]]
    assert ips[0] == "10.65.0.77/32"
    assert ips[1].startswith("fd00:65::")

    def addresses() -> set[str]:
        with Rtnl.open() as rtnl:
            link = rtnl.link("eth0")
            return {f"{one.address}" for one in rtnl.addresses(interface=link.index)}

    assert set(ips) <= kernel_netns.run_in(path, addresses)
    checked = cnitool("check", path, CAP_ARGS=wanted)
    assert checked.returncode == 0, checked.stderr

    def take_down() -> None:
        with Rtnl.open() as rtnl:
            rtnl.delete_address(rtnl.addresses(4, interface=rtnl.link("eth0").index)[0])

    kernel_netns.run_in(path, take_down)
    checked = cnitool("check", path, CAP_ARGS=wanted)
    assert (checked.returncode, "lacks address 10.65.0.77" in checked.stderr) == (1, True)

    taken = cnitool("add", containers.new(), CAP_ARGS=json.dumps({"ips": ["10.65.0.77"]}))
    assert (taken.returncode, "10.65.0.77" in taken.stderr) == (1, True)
    for _ in range(2):
        removed = cnitool("del", path, CAP_ARGS=wanted)
        assert removed.returncode == 0, removed.stderr
    assert host.left_overs() == []
