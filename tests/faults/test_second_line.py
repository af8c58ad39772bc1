"""K1 where tables are not owned: whatever workloads send, and others flush, nothing gets by."""

import socket
import subprocess
import time

import pytest
from msgspec.structs import replace
from tests.attacks.arena import HOST4, HOST6, NODE4, NODE6, Arena
from tests.attacks.packets import datagram
from tests.faults.agent import running
from tests.faults.test_third_party import listed, nft, wait_until
from tests.faults.ways import WAYS, Arrived, forbid, sending_everywhere
from tests.netns.dataplane_host import ALLOW_ALL, BRIEF

from tortie.dataplane.driver import unseen_rule
from tortie.desired.endpoint import Bandwidth, Limits
from tortie.desired.kinds import Kind
from tortie.desired.policy import PolicyList

FLUSHES = 60
IN_FLIGHT = 3
"""Packets between one hook and the next, a few µs apart, at the moment of a flush: nobody can
ask about these again. In an hour of nothing but flushes and packets it is one of 100,000."""


def flushed(field: Arena) -> Arrived:
    """Without a pause, while the agent repairs what it can."""
    forbid(field)
    with running(field) as agent, sending_everywhere(field) as arrived:
        wait_until(lambda: arrived.sent > 20, "nothing is sent")
        assert not arrived.by_way, f"policy forbids it: {arrived}"
        before = arrived.sent
        for _ in range(FLUSHES):
            assert nft("flush ruleset") == 0
        wait_until(lambda: arrived.sent > before + 20, "nothing is sent")
        wait_until(lambda: agent.nftables.repairs > 3, "the flushes did not take place")
    return arrived


def test_without_guards_a_flush_opens_every_way(field: Arena) -> None:
    """So the next test's silence is worth something."""
    arrived = flushed(field)
    assert set(arrived.by_way) == WAYS, str(arrived)
    assert min(arrived.by_way.values()) > 10 * IN_FLIGHT, str(arrived)


def test_k1_flushes_without_end_open_no_way_from_a_guarded_workload(guarded: Arena) -> None:
    """To workloads, the host, the outside and other hosts' workloads, in both families."""
    arrived = flushed(guarded)
    assert arrived.by_way.total() <= IN_FLIGHT, str(arrived)
    wait_until(
        lambda: guarded.attacker.pings(guarded.open.ipv4, patience=BRIEF),
        "what is allowed is not repaired",
    )


@pytest.mark.parametrize(
    "damage", ["delete table inet tortie", "flush chain inet tortie raw-prerouting"]
)
def test_nothing_gets_by_however_long_nobody_repairs(guarded: Arena, damage: str) -> None:
    """Not even what policy would allow: who could say so is gone."""
    with sending_everywhere(guarded) as arrived:
        assert nft(damage) == 0
        before = arrived.sent, arrived.by_way.total()
        wait_until(lambda: arrived.sent > before[0] + 100, "nothing is sent")
        for to in (guarded.open.ipv4, guarded.open.ipv6, HOST4, HOST6, NODE4, NODE6):
            assert not guarded.attacker.pings(to, patience=BRIEF)
    assert arrived.by_way.total() - before[1] <= len(WAYS), f"but for what was on its way {arrived}"
    guarded.host.resync()
    for to in (guarded.open.ipv4, guarded.open.ipv6, NODE4, NODE6):
        wait_until(lambda to=to: guarded.attacker.pings(to, patience=BRIEF), f"{to} stays closed")  # type: ignore[misc]


def tagged(field: Arena, packet: bytes, tags: int) -> bytes:
    """A frame with VLAN tags of number 0, which mean nothing: the kernel takes them off."""
    plain = field.frame(packet)
    return plain[:12] + b"\x81\x00\x00\x00" * tags + plain[12:]


@pytest.mark.parametrize("tags", [0, 1, 2])
def test_vlan_tags_do_not_get_by_the_marker(guarded: Arena, tags: int) -> None:
    """With two of them the protocol is known behind the marker only."""
    ear = socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_UDP)

    def arrives(payload: bytes) -> bool:
        packet = datagram(guarded.attacker.ipv4.address_text, HOST4, payload)
        guarded.wire.send(tagged(guarded, packet, tags))
        give_up = time.monotonic() + 0.2
        while time.monotonic() < give_up:
            try:
                if payload in ear.recv(2048):
                    return True
            except BlockingIOError:
                time.sleep(0.01)
        return False

    with ear:
        nft("delete table inet tortie")
        assert not arrives(b"with the second line")
        subprocess.run(["ip", "rule", "del", "priority", "0", "blackhole"], check=True)
        wait_until(lambda: arrives(b"without it"), "nothing would arrive anyhow")


def test_what_goes_through_a_bucket_stays_marked(guarded: Arena) -> None:
    """Bandwidth of what a workload sends is a detour through another link."""
    rest = PolicyList(profiles=(ALLOW_ALL,))
    limits = Limits(egress_bandwidth=Bandwidth(10**9, 10**9))
    limited = replace(guarded.attacker.endpoint(rest, rest), limits=limits)
    guarded.host.update(Kind.ENDPOINT, guarded.attacker.id, limited)
    guarded.host.resync()
    assert "ifb" in listed("ip", "-d", "link", "show", "type", "ifb")
    wait_until(lambda: guarded.attacker.pings(NODE4, patience=BRIEF), "the detour leads nowhere")
    nft("delete table inet tortie")
    assert not guarded.attacker.pings(NODE4, patience=BRIEF)
    assert not guarded.attacker.pings(NODE6, patience=BRIEF)


def order(family: str) -> list[str]:
    return [line.split(":\t")[1].strip() for line in listed("ip", family, "rule").splitlines()]


@pytest.mark.parametrize("family", ["-4", "-6"])
def test_our_routing_rule_comes_first_and_those_of_others_stay(guarded: Arena, family: str) -> None:
    """Whatever others do to the rules, and this host's addresses are looked up all the time."""
    ours = "from all fwmark 0xfff70000/0xffff0000 blackhole proto 80"
    local = "from all lookup local"
    assert order(family)[:2] == [ours, local]
    for theirs in (["priority", "0", "fwmark", "7", "lookup", "99"], ["iif", "lo", "lookup", "98"]):
        subprocess.run(["ip", family, "rule", "add", *theirs], check=True)
    for damage in (
        ["del", "priority", "0", "blackhole"],
        ["add", "priority", "0", "lookup", "local"],
        ["flush"],  # all but those of priority 0
    ):
        subprocess.run(["ip", family, "rule", *damage], check=True)
        kept = [one for one in order(family) if "lookup 9" in one]
        guarded.host.resync()
        found = order(family)
        assert [one for one in found if "lookup 9" in one] == kept
        assert found.index(ours) < found.index(local)
        assert found.count(ours) == 1
        to = HOST4 if family == "-4" else HOST6
        assert "local" in listed("ip", family, "route", "get", to)
    guarded.host.resync()
    assert order(family) == found, "and nothing is done twice"


def test_a_rule_that_others_take_away_is_put_back_at_once(guarded: Arena) -> None:
    """On the kernel's word; the audit would take up to a minute."""
    with running(guarded) as agent:
        wait_until(lambda: agent.statistics[0] > 0)
        for family in ("-4", "-6"):
            before = order(family)
            subprocess.run(["ip", family, "rule", "del", "priority", "0", "blackhole"], check=True)
            wait_until(lambda family=family, before=before: order(family) == before)  # type: ignore[misc]


def test_a_host_that_is_given_up_keeps_no_rule(guarded: Arena) -> None:
    before = [order(family)[1:] for family in ("-4", "-6")]
    unseen_rule.remove(guarded.host.rtnl, guarded.host.settings.route_protocol)
    assert [order(family) for family in ("-4", "-6")] == before
