"""Workloads' interfaces of several prefixes: containers' and virtual machines' on one host."""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.netns.dataplane_host import BRIEF, Host, Workload, hears

from tortie.agent.early import Outcome, close_workloads
from tortie.agent.removal import workload_links
from tortie.dataplane.settings import Settings
from tortie.desired.host_endpoint import HostEndpoint
from tortie.desired.kinds import Kind
from tortie.desired.policy import PolicyList

pytestmark = pytest.mark.usefixtures("netns")

FAMILIES = (4, 6)


@pytest.fixture
def host(netns: None) -> Iterator[Host]:
    made = Host(
        Settings(host="h1", interface_prefixes=("cali", "tap"), endpoint_to_host_action="Drop")
    )
    made.allow_all_profile()
    yield made
    made.close()


@pytest.fixture
def pair(host: Host) -> Iterator[tuple[Workload, Workload]]:
    """A container and a machine."""
    made = Workload(1, host.rtnl), Workload(2, host.rtnl, prefix="tap")
    yield made
    for one in made:
        os.close(one.namespace)


@pytest.mark.parametrize("family", FAMILIES)
def test_they_speak_to_each_other_where_policy_lets_them(
    host: Host, pair: tuple[Workload, Workload], family: int
) -> None:
    a, b = pair
    host.endpoint(a)
    host.apply()
    subprocess.run(["ip", "route", "add", str(b.ipv4), "dev", b.interface], check=True)
    subprocess.run(["ip", "-6", "route", "add", str(b.ipv6), "dev", b.interface], check=True)
    assert not hears(a, b, 80, family, patience=BRIEF), "without an endpoint it is closed"
    assert not hears(b, a, 80, family, patience=BRIEF)
    subprocess.run(["ip", "route", "flush", "dev", b.interface], check=True)
    subprocess.run(["ip", "-6", "route", "del", str(b.ipv6), "dev", b.interface], check=True)
    host.endpoint(b)
    host.apply()
    assert hears(a, b, 80, family, patience=5)
    assert hears(b, a, 80, family, patience=5)
    host.endpoint(b, ingress=PolicyList())
    host.apply()
    assert not hears(a, b, 80, family, patience=BRIEF)
    host.endpoint(b, egress=PolicyList())
    host.apply()
    assert not hears(b, a, 80, family, patience=BRIEF)


def test_each_is_held_to_its_own_addresses(host: Host, pair: tuple[Workload, Workload]) -> None:
    a, b = pair
    for one in pair:
        host.endpoint(one)
    host.apply()
    b.run("ip addr add 10.65.0.9/32 dev lo")
    assert not hears(b, a, 80, source="10.65.0.9", patience=BRIEF)
    assert (
        b.arp_is_answered(sender="10.65.0.2", mac=b.mac, target="192.0.2.1", patience=2 * BRIEF)
        is False
    )
    subprocess.run(["ip", "addr", "add", "192.0.2.1/32", "dev", "lo"], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    assert b.arp_is_answered(sender="10.65.0.2", mac=b.mac, target="192.0.2.1")
    assert not b.arp_is_answered(
        sender="10.65.0.1", mac=b.mac, target="192.0.2.1", patience=2 * BRIEF
    )
    assert host.sysctl(f"net.ipv4.conf.{b.interface}.rp_filter") == "1"
    assert not b.pings("192.0.2.1", patience=BRIEF), "nor is this host open to it"


def test_neither_is_the_hosts_own(host: Host, pair: tuple[Workload, Workload]) -> None:
    a, b = pair
    for one in pair:
        host.endpoint(one)
    host.update(Kind.HOST_ENDPOINT, "all", HostEndpoint("*"))
    host.update(Kind.HOST_ENDPOINT, "tap", HostEndpoint("tap2"))
    host.apply()
    assert hears(a, b, 80, patience=5)
    assert hears(b, a, 80, patience=5)
    assert host.dataplane.host_endpoint_statuses().keys() == {"all"}


def test_both_are_closed_at_boot(
    host: Host, pair: tuple[Workload, Workload], run_directory: Path
) -> None:
    subprocess.run(["sysctl", "-qw", "net.ipv4.ip_forward=1"], check=True)
    a, b = pair
    for one in pair:
        subprocess.run(["ip", "route", "add", str(one.ipv4), "dev", one.interface], check=True)
        subprocess.run(["sysctl", "-qw", f"net.ipv4.conf.{one.interface}.proxy_arp=1"], check=True)
    assert hears(a, b, 80, patience=5), "nobody closes them"
    assert asyncio.run(close_workloads(run_directory, "cali,tap")) is Outcome.CLOSED
    assert not hears(a, b, 80, patience=BRIEF)
    assert not hears(b, a, 80, patience=BRIEF)
    found = {link.name for link in workload_links("cali,tap")}
    assert found == {a.interface, b.interface}
