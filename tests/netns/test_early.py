"""The early ruleset: what workloads can do between boot and the agent's first word."""

import asyncio
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.netns.dataplane_host import (
    BRIEF,
    PATIENCE,
    Host,
    Workload,
    hears,
    pings,
    wait_until_local,
    workloads,
)

from tortie.agent.config import Local, resolve
from tortie.agent.early import Outcome, close_workloads, interface_prefix
from tortie.agent.ownership import obtain
from tortie.agent.remembered import FILE, remember
from tortie.ctl.main import main
from tortie.kernel.netlink_socket import NetlinkSocket
from tortie.kernel.netns import run_in
from tortie.kernel.nft.connection import Nft, supports_owner_tables
from tortie.kernel.nft.objects import Table
from tortie.kernel.rtnl.link import VethPeer
from tortie.lib.errors import AlreadyExists
from tortie.lib.ip import parse_address

FAMILIES = [4, 6]


@pytest.fixture
def host(netns: None) -> Iterator[Host]:
    """Routes by hand, as if the agent had run before."""
    made = Host(owned=supports_owner_tables())
    made.allow_all_profile()
    subprocess.run(
        ["sysctl", "-q", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"], check=True
    )
    yield made
    made.close()


@pytest.fixture
def pair(host: Host) -> Iterator[tuple[Workload, Workload]]:
    with workloads(host, 2) as made:
        for one in made:
            subprocess.run(["sysctl", "-q", f"net.ipv4.conf.{one.interface}.proxy_arp=1"])
            ipv4, ipv6 = one.ipv4.address_text, one.ipv6.address_text
            script = f"""ip route add {ipv4} dev {one.interface}
                ip -6 route add {ipv6} dev {one.interface}
                ip -6 addr add fe80::1/64 dev {one.interface} nodad
                ip -6 neigh add {ipv6} lladdr {one.mac} dev {one.interface}
                ip neigh add {ipv4} lladdr {one.mac} dev {one.interface}"""
            subprocess.run(["sh", "-ec", script], check=True)
        yield made[0], made[1]


def close(directory: Path, prefix: str = "cali") -> Outcome:
    return asyncio.run(close_workloads(directory, prefix))


def tables() -> str:
    return subprocess.run(
        ["nft", "list", "tables"], capture_output=True, text=True, check=True
    ).stdout


def reaches_host(sender: Workload, family: int, *, patience: float = PATIENCE) -> bool:
    """Whether a datagram from a workload gets to a socket of this host."""
    address = {4: "10.65.255.1", 6: "fd00:65::ff"}[family]
    kind = {4: socket.AF_INET, 6: socket.AF_INET6}[family]
    subprocess.run(["ip", "address", "replace", address, "dev", "lo"], check=True)
    if family == 6:
        wait_until_local(parse_address(address))
    with socket.socket(kind, socket.SOCK_DGRAM) as server:
        server.settimeout(patience)
        server.bind((address, 7))
        with sender.socket(family, socket.SOCK_DGRAM) as client:
            client.sendto(b"hello", (address, 7))
            try:
                return server.recv(16) == b"hello"
            except TimeoutError:
                return False


@pytest.mark.parametrize("family", FAMILIES)
def test_l9_nothing_passes_until_the_dataplane_is_there(
    run_directory: Path, host: Host, pair: tuple[Workload, Workload], family: int
) -> None:
    a, b = pair
    assert hears(a, b, 80, family)
    assert reaches_host(a, family)
    assert pings(a.address(family))
    assert close(run_directory) is Outcome.CLOSED
    assert not hears(a, b, 80, family, patience=BRIEF)
    assert not reaches_host(a, family, patience=BRIEF)
    assert not pings(a.address(family), patience=BRIEF)
    # The agent has the keeper's socket; here the kernel's own word on it must do.
    with_socket = obtain(run_directory)
    host.nft.close()
    host.nft = Nft(NetlinkSocket.adopt(with_socket.netlink.detach()))
    host.restart()
    host.allow_all_profile()
    for one in pair:
        host.endpoint(one)
    assert "early" in tables()
    host.apply()
    assert "early" not in tables()
    assert hears(a, b, 80, family)
    with_socket.close()


@pytest.mark.parametrize("closed", [False, True])
def test_arp_is_silent_too(
    run_directory: Path, host: Host, pair: tuple[Workload, Workload], closed: bool
) -> None:
    a, _ = pair
    subprocess.run(["ip", "address", "add", "10.65.255.9", "dev", a.interface], check=True)
    a.run("ip route add 10.65.255.9 dev eth0")
    if closed:
        close(run_directory)
    with a.socket(4, socket.SOCK_DGRAM) as client:
        client.sendto(b"who are you", ("10.65.255.9", 7))
    time.sleep(BRIEF)
    known = run_in(
        a.namespace,
        lambda: subprocess.run(["ip", "neigh", "show", "10.65.255.9"], capture_output=True).stdout,
    )
    assert (b"lladdr" in known) == (not closed)


def test_other_interfaces_are_left_alone(run_directory: Path, host: Host) -> None:
    with workloads(host, 1) as (other,):
        host.rtnl.create_veth("eth9", VethPeer(name="peer9", namespace=other.namespace))
        subprocess.run(["ip", "address", "add", "192.0.2.1/24", "dev", "eth9"], check=True)
        subprocess.run(["ip", "link", "set", "eth9", "up"], check=True)
        other.run("ip addr add 192.0.2.2/24 dev peer9; ip link set peer9 up")
        close(run_directory)
        assert pings("192.0.2.2")


def test_rules_in_force_stay_as_they_are(
    run_directory: Path, host: Host, pair: tuple[Workload, Workload]
) -> None:
    a, b = pair
    for one in pair:
        host.endpoint(one)
    host.apply()
    before = tables()
    assert close(run_directory) is Outcome.ENFORCED
    assert tables() == before
    assert hears(a, b, 80)


def test_it_may_be_done_again_with_another_prefix(run_directory: Path, netns: None) -> None:
    close(run_directory, "cali")
    close(run_directory, "tap")
    listed = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True).stdout
    assert '"tap*"' in listed
    assert '"cali*"' not in listed


def test_a_firewall_that_flushes_at_boot_opens_nothing(run_directory: Path, netns: None) -> None:
    close(run_directory)
    subprocess.run(["nft", "flush", "ruleset"], check=False)
    assert ("tortie-early" in tables()) == supports_owner_tables()


def test_an_agent_that_runs_is_left_in_charge(
    run_directory: Path, netns: None, capsys: pytest.CaptureFixture[str]
) -> None:
    holding = obtain(run_directory)
    with pytest.raises(AlreadyExists):
        close(run_directory)
    assert main(["node", "close", "--run-directory", str(run_directory)]) == 0
    assert "an agent runs here" in capsys.readouterr().out
    assert tables() == ""
    holding.close()


def test_tables_of_a_living_stranger_are_named_and_left(
    run_directory: Path,
    host: Host,
    pair: tuple[Workload, Workload],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Workloads stay closed: somebody who lives wants them so."""
    if not supports_owner_tables():
        pytest.fail("needs a kernel with owned tables, Linux 6.9")
    close(run_directory)
    host.endpoint(pair[0])
    host.apply()
    assert "tortie-early" in tables()
    assert "inet tortie-early belongs to another living process" in caplog.text


@pytest.mark.usefixtures("netns")
def test_the_command(
    run_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    felix = tmp_path / "felix.cfg"
    felix.write_text("[global]\nInterfacePrefix = tap\n")
    words = ["--run-directory", str(run_directory), "--state-directory", str(tmp_path)]
    assert main(["node", "close", "--forward", *words, "--felix-config", str(felix)]) == 0
    assert capsys.readouterr().out.startswith("interfaces tap* are closed")
    for key in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
        assert subprocess.run(["sysctl", "-n", key], capture_output=True).stdout == b"1\n"


@pytest.mark.usefixtures("netns")
def test_a_lost_race_with_the_agent_changes_nothing(
    run_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is decided on one ruleset is never done to another."""

    class Race(Nft):
        async def tables(self) -> list[Table]:
            found = await super().tables()
            subprocess.run(["nft", "add", "table", "inet", "tortie"], check=True)
            return found

    monkeypatch.setattr("tortie.agent.early.Nft", Race)
    assert close(run_directory) is Outcome.ENFORCED
    assert "tortie-early" not in tables()


def test_which_prefix(tmp_path: Path) -> None:
    nothing = Local({}, {}, "")
    assert interface_prefix(nothing, tmp_path) == "cali"
    remember(resolve(Local({"interfaceprefix": "tap"}, {}, "")), tmp_path)
    assert interface_prefix(nothing, tmp_path) == "tap"
    assert interface_prefix(Local({"interfaceprefix": "gw"}, {}, ""), tmp_path) == "gw"
    for damaged in ("", "{}", '{"interfacePrefix": "x\\" } #", "routeProtocol": 80}'):
        (tmp_path / FILE).write_text(damaged)
        assert interface_prefix(nothing, tmp_path) == "cali"
