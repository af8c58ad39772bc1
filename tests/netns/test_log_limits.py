"""What is logged is limited: for all together, and so that one workload uses up nobody else's."""

import os
import re
import select
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing

import pytest
from tests.netns.dataplane_host import Host, Workload, tier

from tortie.dataplane.rules import seen
from tortie.dataplane.settings import Settings
from tortie.desired.policy import PolicyList
from tortie.kernel.nflog import Nflog, Packet

pytestmark = pytest.mark.usefixtures("netns")

FLOOD = 4 * seen.LOGGED_AT_ONCE


@pytest.fixture
def host(netns: None) -> Iterator[Host]:
    made = Host(Settings(host="h1", log_denied=True))
    made.allow_all_profile()
    yield made
    made.close()


@pytest.fixture
def three(host: Host) -> Iterator[list[Workload]]:
    """Two that may send nothing, and one that is open."""
    made = [Workload(number, host.rtnl) for number in (1, 2, 3)]
    nothing = PolicyList((tier(host.policy("nothing")),))
    for one in made[:2]:
        host.endpoint(one, egress=nothing)
    host.endpoint(made[2])
    host.apply()
    yield made
    for one in made:
        os.close(one.namespace)


def flood(sender: Workload, to: Workload, count: int) -> None:
    with closing(sender.socket(4, socket.SOCK_DGRAM)) as made:
        for number in range(count):
            made.sendto(b"x", (to.ipv4.address_text, 1 + number % 60_000))


def logged(log: Nflog) -> list[Packet]:
    found: list[Packet] = []
    while True:
        more = log.read()
        if not more:
            return found
        found += more


def of(packets: list[Packet], host: Host, workload: Workload) -> int:
    index = host.rtnl.link(workload.interface).index
    return sum(packet.in_link == index for packet in packets)


def test_a_workload_uses_up_its_own_limit_alone(host: Host, three: list[Workload]) -> None:
    noisy, quiet, target = three
    with Nflog.open(seen.GROUP) as log:
        flood(noisy, target, FLOOD)
        flood(quiet, target, 5)
        # What the kernel holds back comes with what follows, or after a moment.
        found = settled(log)
        assert of(found, host, quiet) == 5, "every one, whatever the other does"
        own = of(found, host, noisy)
        assert seen.LOGGED_AT_ONCE_OF_ONE <= own < seen.LOGGED_AT_ONCE


def settled(log: Nflog) -> list[Packet]:
    """All that has been logged: the kernel sends it on within a fifth of a second."""
    found: list[Packet] = []
    poll = select.poll()
    poll.register(log.fileno(), select.POLLIN)
    while poll.poll(1_000):
        found += logged(log)
    return found


def test_what_packets_leave_in_the_sets_is_no_difference(host: Host, three: list[Workload]) -> None:
    """Neither an audit nor a new agent writes anything because of them."""
    noisy, _, target = three
    flood(noisy, target, 3)
    listed = "".join(host.ruleset())
    assert "denied-egress-limits" in listed
    assert f'"{noisy.interface}" timeout' in listed or f'"{noisy.interface}" limit' in listed
    before = host.generation()
    host.resync()
    assert host.dataplane.in_sync
    assert host.generation() == before


def test_nft_lists_them_so_that_it_can_read_them_again(host: Host, three: list[Workload]) -> None:
    table = ["nft", "list", "table", "inet", "tortie"]
    listed = subprocess.run(table, check=True, capture_output=True, text=True).stdout
    assert "update @denied-egress-limits { iifname" in listed
    parts = [
        re.search(rf"\t{what} {{\n.*?\n\t}}", listed, re.DOTALL)
        for what in ("set denied-egress-limits", "chain denied-egress")
    ]
    again = "\n".join(part[0] for part in parts if part is not None)
    script = f"table inet again {{\n{again}\n}}"
    subprocess.run(["nft", "-f", "-"], input=script, check=True, text=True)
