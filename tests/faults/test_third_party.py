"""K1, K2, K22, K23: others flush, delete, insert, switch off."""

import re
import subprocess
import time
from collections.abc import Callable

import pytest
from tests.attacks.arena import Arena
from tests.faults.agent import running
from tests.faults.monitor import Seen, monitored
from tests.netns.dataplane_host import BRIEF

from tortie.dataplane.rules.names import SOURCES
from tortie.dataplane.settings import Settings
from tortie.desired.policy import PolicyList
from tortie.kernel.nft.connection import Nft, supports_owner_tables

FLUSHES, REPAIRED_FLUSHES = 40, 20
PATIENCE_SECONDS = 30.0
"""Nothing here looks for damage but what the kernel tells of it: no audit runs."""

TABLES = ("inet tortie", "arp tortie")


def nft(*script: str) -> int:
    return subprocess.run(["nft", *script], stderr=subprocess.DEVNULL, check=False).returncode


def whole(field: Arena) -> list[str]:
    return field.host.ruleset(*TABLES)


def wait_until(holds: Callable[[], bool], what: str = "never repaired") -> None:
    give_up = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < give_up, what
        time.sleep(0.001)


def test_the_monitor_sees_a_leak(field: Arena) -> None:
    """Before its silence is believed."""
    with monitored(field) as seen:
        nft("delete table inet tortie")
        wait_until(lambda: seen.leaked > 5, "it sees no leak")
    assert seen.leaked > 5, str(seen)
    assert seen.heartbeats > 5
    assert seen.broken is None


def test_k1_flush_of_owned_tables(owned: Arena) -> None:
    """0 leaks, 0 broken connections, nothing to repair."""
    before = whole(owned)
    with running(owned, owned=True), monitored(owned) as seen:
        for _ in range(FLUSHES):
            assert nft("flush ruleset") == 0
    assert "witness" not in _all_tables(), "the flushes took place: what is not owned is gone"
    assert whole(owned) == before
    assert seen.leaked == 0, str(seen)
    assert seen.delivered >= seen.allowed - 5, str(seen)
    assert seen.broken is None


def _all_tables() -> str:
    return subprocess.run(["nft", "list", "tables"], capture_output=True, text=True).stdout


def flush_again_and_again(field: Arena) -> Seen:
    """Each flush when the one before is repaired and the connection has gone on."""
    with running(field) as agent, monitored(field) as seen:
        for done in range(REPAIRED_FLUSHES):
            nft("flush ruleset")
            wait_until(lambda done=done: agent.nftables.repairs > done)  # type: ignore[misc]
            beats, delivered = seen.heartbeats, seen.delivered
            wait_until(
                lambda beats=beats, delivered=delivered: (  # type: ignore[misc]
                    seen.heartbeats > beats and seen.delivered > delivered
                ),
                "what is allowed goes on after each repair",
            )
        assert agent.nftables.repairs >= REPAIRED_FLUSHES, "the flushes took place"
    assert seen.broken is None, "an established connection lives on"
    return seen


def test_k1_flush_of_tables_that_are_not_owned(field: Arena) -> None:
    """Repaired as the kernel tells of it. `benchmarks repair` measures how long that takes."""
    before = whole(field)
    seen = flush_again_and_again(field)
    assert whole(field) == before
    assert seen.leaked, "without a second line, a flush is a hole as wide as the repair"


def test_k1_flush_of_tables_that_are_not_owned_behind_guarded_links(guarded: Arena) -> None:
    """The same hole in the tables, and nothing gets through it to a workload."""
    before = whole(guarded)
    seen = flush_again_and_again(guarded)
    assert whole(guarded) == before
    assert seen.leaked == 0, str(seen)


def listed(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def filters(interface: str) -> str:
    ways = ("ingress", "egress")
    return "".join(listed("tc", "filter", "show", "dev", interface, way) for way in ways)


def test_guards_alone_let_nothing_through(guarded: Arena) -> None:
    """However long nobody repairs: IP of both families is dropped, the ARP of the host passes."""
    with monitored(guarded) as seen:
        nft("delete table inet tortie")
        time.sleep(0.2)
        assert not guarded.attacker.pings(guarded.open.ipv4, patience=BRIEF)
        assert not guarded.attacker.pings(guarded.open.ipv6, patience=BRIEF)
        wait_until(
            lambda: guarded.attacker.arp_is_answered(
                sender=guarded.attacker.ipv4.address_text,
                mac=guarded.attacker.mac,
                target=guarded.open.ipv4.address_text,
                patience=BRIEF,
            ),
            "its gateway does not answer ARP",
        )
        guarded.host.resync()
    assert seen.leaked == 0, str(seen)
    for to in (guarded.open.ipv4, guarded.open.ipv6):
        wait_until(lambda to=to: guarded.attacker.pings(to, patience=BRIEF), f"{to} stays closed")  # type: ignore[misc]


def test_an_agent_without_guards_takes_away_those_of_one_with(guarded: Arena) -> None:
    """A newer kernel's agent, or another setting: no link may wait for a mark that nobody sets."""
    guarded.host.settings = Settings(host="h1")
    guarded.host.restart()
    _tell_again(guarded)
    with monitored(guarded) as seen:
        guarded.host.apply()
        assert not guarded.host.dataplane.statistics().pending
        wait_until(
            lambda: guarded.attacker.pings(guarded.open.ipv4, patience=BRIEF), "it stays closed"
        )
    left = filters(guarded.attacker.interface) + listed("ip", "rule") + listed("ip", "-6", "rule")
    assert "bpf" not in left, left
    assert "blackhole" not in left, left
    assert seen.broken is None
    assert seen.leaked == 0, str(seen)


def test_owned_tables_follow_tables_that_were_not(field: Arena) -> None:
    """And the other way: no table can change that, so it is replaced, in one transaction."""
    if not supports_owner_tables():
        pytest.skip("this kernel has no owner tables (before 6.9)")
    with monitored(field) as seen:
        for owned in (True, False, True):
            field.host._owned = owned
            field.host.restart()
            _tell_again(field)
            field.host.resync()
            before = whole(field)
            nft("insert rule inet tortie forward-to accept")
            assert (whole(field) == before) == owned
            field.host.resync()
            assert whole(field) == before
    assert seen.broken is None
    assert seen.delivered >= seen.allowed - 5, str(seen)


DAMAGE = {
    "a base chain's rules": "flush chain inet tortie forward-to",
    "all rules": "flush table inet tortie",
    "an accept first": "insert rule inet tortie forward-to accept",
    "an accept in the middle": "insert rule inet tortie to-workload accept",
    "a source more": f'add element inet tortie {SOURCES[4]} {{ "cali1" . 10.65.0.9 }}',
    "the arp table": "delete table arp tortie",
    "an arp rule": "flush chain arp tortie input",
    "dormant": "add table inet tortie { flags dormant ; }",
    "a chain's policy": "add chain inet tortie forward-to { policy drop ; }",
    "a chain more": "add chain inet tortie evil",
    "a base chain of theirs": (
        "add chain inet tortie evil { type filter hook forward priority -200 ; }"
    ),
    "the table": "delete table inet tortie",
}


@pytest.mark.parametrize("what", DAMAGE)
def test_k2_damage_is_repaired(field: Arena, what: str) -> None:
    before = whole(field)
    command = DAMAGE[what]
    with running(field) as agent:
        # The first turn reads everything; after it the agent only listens.
        wait_until(lambda: agent.statistics[0] > 0)
        commits = agent.nftables.commits
        assert nft(command) == 0, command
        wait_until(lambda: agent.nftables.commits > commits)
        wait_until(lambda: whole(field) == before)


@pytest.mark.parametrize("what", DAMAGE)
def test_k2_owned_tables_cannot_be_damaged(owned: Arena, what: str) -> None:
    before = whole(owned)
    command = DAMAGE[what]
    nft(command)
    assert whole(owned) == before
    if what != "all rules":  # nft 1.0.6 passes over what it may not flush
        assert nft(command) != 0


def test_k2_an_orphaned_table_is_adopted_and_repaired(owned: Arena) -> None:
    """The window after everything of ours was killed, the keeper too."""
    before = whole(owned)
    owned.host.nft.close()
    assert nft("insert rule inet tortie forward-to accept") == 0, "it is anyone's now"
    assert whole(owned) != before
    owned.host.nft = Nft.open()
    owned.host.restart()
    _tell_again(owned)
    owned.host.apply()
    assert whole(owned) == before
    assert nft("insert rule inet tortie forward-to accept") != 0, "and ours again"


def _tell_again(field: Arena) -> None:
    field.host.allow_all_profile()
    field.host.endpoint(field.attacker)
    field.host.endpoint(field.open)
    field.host.endpoint(field.guarded, ingress=PolicyList())


SYSCTLS = {
    "ipv4/ip_forward": "0",
    "ipv6/conf/all/forwarding": "0",
    "ipv4/conf/cali1/rp_filter": "0",
    "ipv4/conf/cali1/route_localnet": "1",
    "ipv4/conf/cali1/proxy_arp": "0",
    "ipv4/conf/cali1/accept_source_route": "1",
    "ipv4/conf/cali1/accept_redirects": "1",
    "ipv4/conf/cali1/send_redirects": "1",
    "ipv6/conf/cali1/accept_ra": "2",
    "ipv6/conf/cali1/accept_redirects": "1",
}


def test_k22_sysctls_are_put_back_by_the_audit(field: Arena) -> None:
    def read(path: str) -> str:
        with open(f"/proc/sys/net/{path}") as file:
            return file.read().strip()

    before = {path: read(path) for path in SYSCTLS}
    with running(field) as agent:
        for path, value in SYSCTLS.items():
            assert before[path] != value
            with open(f"/proc/sys/net/{path}", "w") as file:
                file.write(value)
        assert {path: read(path) for path in SYSCTLS} == SYSCTLS, "the fault is there"
        agent.audit()
        wait_until(lambda: {path: read(path) for path in SYSCTLS} == before)


FOREIGN = r"""
table ip nat {
    chain DOCKER {
    }
    chain PREROUTING {
        type nat hook prerouting priority -100; policy accept;
        fib daddr type local counter packets 7 bytes 420 jump DOCKER
    }
    chain POSTROUTING {
        type nat hook postrouting priority 100; policy accept;
        ip saddr 172.17.0.0/16 oifname != "docker0" counter masquerade
    }
}
table ip filter {
    chain ufw-user-forward {
    }
    chain FORWARD {
        type filter hook forward priority 0; policy accept;
        counter jump ufw-user-forward
    }
    chain ts-forward {
        iifname "tailscale0*" meta mark set mark and 0xff00ffff xor 0x40000
        ip saddr 100.64.0.0/10 oifname "tailscale0" counter drop comment "a ' and a \\ and a #"
    }
}
table inet firewalld {
    set zone_drop {
        type ipv4_addr
        flags interval,timeout
        timeout 1d
        elements = { 198.51.100.0/24 timeout 23h }
    }
    map zones {
        type ifname : verdict
        elements = { "lo" : accept }
    }
    chain filter_FORWARD {
        type filter hook forward priority 10; policy accept;
        ct state { established, related } accept
        iifname vmap @zones
    }
}
table bridge odd {
    chain forwarding {
    }
}
table inet calico {
    comment "not ours, though it could be"
    chain cali-fw {
    }
}
table netdev early {
    chain x {
        type filter hook ingress device "lo" priority 0; policy accept;
    }
}
"""


def foreign() -> str:
    """Everything but our tables and the tests', handles included."""
    listed = subprocess.run(
        ["nft", "-a", "-s", "list", "ruleset"], capture_output=True, text=True, check=True
    ).stdout
    tables = re.split(r"^(?=table )", listed, flags=re.MULTILINE)
    ours = ("table inet tortie ", "table arp tortie ", "table inet witness", "table arp witness")
    # What expires in is the time of day.
    return "".join(
        re.sub(r" expires \S+", "", table) for table in tables if not table.startswith(ours)
    )


def test_k23_tables_of_others_are_as_they_were(field: Arena) -> None:
    """Through everything that we do: changes, damage and its repair, replacement, restart."""
    loaded = subprocess.run(["nft", "-f", "-"], input=FOREIGN, text=True, capture_output=True)
    assert loaded.returncode == 0, loaded.stderr
    before = foreign()
    assert before.count("table ") == 6
    with running(field) as agent:
        agent.call(lambda: field.host.remove(field.guarded))
        nft("flush table inet tortie")
        wait_until(lambda: agent.nftables.repairs > 0)
        nft("delete table inet tortie")
        wait_until(lambda: bool(field.host.ruleset("inet tortie")))
        agent.audit()
    field.host.restart()
    _tell_again(field)
    field.host.resync()
    assert foreign() == before
