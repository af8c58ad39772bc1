"""Other firewalls: what is said of them is what becomes of packets, and the remedy helps."""

import asyncio
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.netns.dataplane_host import BRIEF, PATIENCE, Host, Workload, hears_tcp, workloads

from tortie.agent.firewall_watch import FirewallWatch
from tortie.ctl.node_checksystem import firewalls
from tortie.dataplane.rules import early
from tortie.kernel.firewall.obstacle import Obstacle, find_obstacles_here
from tortie.kernel.nft.connection import Nft
from tortie.kernel.nft.constants import TableFlag
from tortie.kernel.nft.transaction import Transaction
from tortie.lib.health import Health

pytestmark = pytest.mark.usefixtures("netns")

DOCKER = """
iptables -P FORWARD {policy}
iptables -N DOCKER; iptables -N DOCKER-USER
iptables -N DOCKER-ISOLATION-STAGE-1; iptables -N DOCKER-ISOLATION-STAGE-2
iptables -A FORWARD -j DOCKER-USER
iptables -A FORWARD -j DOCKER-ISOLATION-STAGE-1
iptables -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
iptables -A FORWARD -o docker0 -j DOCKER
iptables -A FORWARD -i docker0 ! -o docker0 -j ACCEPT
iptables -A FORWARD -i docker0 -o docker0 -j ACCEPT
iptables -A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
iptables -A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
iptables -A DOCKER-ISOLATION-STAGE-1 -j RETURN
iptables -A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
iptables -A DOCKER-ISOLATION-STAGE-2 -j RETURN
iptables -A DOCKER-USER -j RETURN
"""
"""What dockerd 20.10 writes; its policy is DROP where forwarding was off when it came."""

UFW = """
{0} -P FORWARD DROP
{0} -N ufw-before-forward; {0} -N ufw-user-forward; {0} -N ufw-after-forward
{0} -N ufw-track-forward; {0} -N ufw-after-logging-forward
{0} -A FORWARD -j ufw-before-forward
{0} -A FORWARD -j ufw-after-forward
{0} -A FORWARD -j ufw-after-logging-forward
{0} -A FORWARD -j ufw-track-forward
{0} -A ufw-before-forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
{0} -A ufw-before-forward -p {1} -j ACCEPT
{0} -A ufw-before-forward -j ufw-user-forward
{0} -A ufw-user-forward -p tcp -m tcp --dport 22 -j ACCEPT
"""

FIREWALLD = """
table inet firewalld {
    chain filter_FORWARD {
        type filter hook forward priority 10; policy accept;
        ct state { established, related } accept
        ct status dnat accept
        iifname "lo" accept
        ip6 daddr { ::/96, 2002::/16 } reject with icmpv6 addr-unreachable
        jump filter_FORWARD_POLICIES
        ct state invalid drop
        reject with icmpx admin-prohibited
    }
    chain filter_FORWARD_POLICIES {
        iifname "eth0" oifname "eth0" jump filter_FWD_public
        iifname "eth0" jump filter_FWD_public
        jump filter_FWD_public
    }
    chain filter_FWD_public {
        jump filter_FWD_public_allow
    }
    chain filter_FWD_public_allow {
        oifname "eth0" accept
    }
}
"""

BY_MAP = """
table inet mine {
    map zones {
        type ifname : verdict
        elements = { "eth0" : jump trusted, "lo" : accept }
    }
    set services {
        type inet_service
        elements = { 80, 443 }
    }
    chain trusted {
        accept
    }
    chain forward {
        type filter hook forward priority 0; policy drop;
        ct state vmap { established : accept, related : accept, invalid : drop }
        iifname vmap @zones
        tcp dport @services accept
        meta l4proto { icmp, icmpv6 } accept
    }
}
"""

NFT = {"firewalld": FIREWALLD, "by map": BY_MAP}
OPEN = {
    "docker, forwarding first": (DOCKER.format(policy="ACCEPT"), ""),
    "a policy that is not at forward": ("iptables -P INPUT DROP", ""),
    "a new connection is let in": (
        "iptables -P FORWARD DROP\niptables -A FORWARD -m conntrack --ctstate NEW,ESTABLISHED "
        "-j ACCEPT",
        "",
    ),
    "by network": ("iptables -P FORWARD DROP\niptables -A FORWARD -s 10.0.0.0/8 -j ACCEPT", ""),
    "by set of interfaces": (
        "",
        """table ip mine {
            set ours { type ifname; elements = { "cali1", "cali2" } }
            chain forward {
                type filter hook forward priority 0; policy drop;
                iifname @ours accept
            }
        }""",
    ),
    "asleep": (
        "",
        """table ip mine {
            flags dormant
            chain forward { type filter hook forward priority 0; policy drop; }
        }""",
    ),
    "by mark": (
        "",
        """table ip mine {
            chain forward {
                type filter hook forward priority 0; policy drop;
                meta mark and 0x1 == 0x0 accept
            }
        }""",
    ),
}
CLOSED = {
    "docker, forwarding second": (DOCKER.format(policy="DROP"), ""),
    "docker of the old iptables": (
        DOCKER.format(policy="DROP").replace("iptables ", "iptables-legacy "),
        "",
    ),
    "ufw": (UFW.format("iptables", "icmp") + UFW.format("ip6tables", "icmpv6"), ""),
    "ufw of the old iptables": (UFW.format("iptables-legacy", "icmp"), ""),
    "IPv6 alone": (UFW.format("ip6tables-legacy", "icmpv6"), ""),
    "firewalld": ("", FIREWALLD),
    "by map": ("", BY_MAP),
    "all rejected": ("iptables -A FORWARD -m comment --comment no -j REJECT", ""),
}
"""Commands for a shell, and a script for nft."""


@contextmanager
def pair() -> Iterator[tuple[Workload, Workload]]:
    """Two workloads that may talk, as far as we are concerned."""
    host = Host()
    with workloads(host, 2) as (one, other):
        host.allow_all_profile()
        for each in (one, other):
            host.endpoint(each)
        host.apply()
        assert talk(one, other, PATIENCE) == {4: True, 6: True}
        yield one, other
    host.close()


def talk(one: Workload, other: Workload, patience: float = BRIEF) -> dict[int, bool]:
    found = {}
    for family in (4, 6):
        try:
            found[family] = hears_tcp(one, other, 7777, family, patience=patience)
        except OSError:  # somebody rejects
            found[family] = False
    return found


def put(shell: str, script: str) -> None:
    subprocess.run(["sh", "-ec", shell], check=True, stderr=subprocess.DEVNULL)
    if script:
        subprocess.run(["nft", "-f", "-"], input=script, text=True, check=True)


def obstacles() -> list[Obstacle]:
    return asyncio.run(find_obstacles_here("cali"))


def foreign() -> str:
    """Everybody's rules but ours, without what they counted."""
    listed = subprocess.run(
        ["nft", "-s", "list", "ruleset"], capture_output=True, text=True, check=True
    ).stdout
    return "table ".join(
        one for one in listed.split("table ") if not one.startswith(("inet tortie", "arp tortie"))
    )


@pytest.mark.parametrize("name", CLOSED)
def test_what_drops_is_named_and_the_remedy_helps(name: str) -> None:
    with pair() as (one, other):
        put(*CLOSED[name])
        before = foreign()
        assert False in talk(one, other).values(), "it drops"
        found = obstacles()
        assert found
        assert foreign() == before, "looking changes nothing"
        for obstacle in found:
            for command in obstacle.remedy:
                subprocess.run(["sh", "-ec", command], check=True, stderr=subprocess.DEVNULL)
        assert talk(one, other, PATIENCE) == {4: True, 6: True}
        assert obstacles() == []


@pytest.mark.parametrize("name", OPEN)
def test_what_lets_through_is_not_named(name: str) -> None:
    with pair() as (one, other):
        put(*OPEN[name])
        assert talk(one, other, PATIENCE) == {4: True, 6: True}
        assert obstacles() == []


def test_what_is_closed_before_the_agent_is_no_obstacle() -> None:
    """The early table is ours too, and gives way by itself."""
    change = Transaction()
    early.add_early_tables(change, ("cali",), TableFlag(0))
    put("", str(change))
    assert obstacles() == []


def test_a_table_with_an_odd_name_is_shown_harmlessly() -> None:
    put(
        "",
        """table ip a-b_c {
            chain d { type filter hook forward priority 0; policy drop; }
        }""",
    )
    (found,) = obstacles()
    assert found.remedy == (
        "nft insert rule ip a-b_c d iifname '\"cali*\"' accept",
        "nft insert rule ip a-b_c d oifname '\"cali*\"' accept",
    )
    assert str(found).startswith("chain d of table ip a-b_c (policy drop) drops workloads' traffic")


@contextmanager
def dockerd(directory: Path) -> Iterator[None]:
    """The real one, in this thread's network namespace, with its default bridge and rules."""
    script = f"""mount -t tmpfs tmpfs /run
        exec dockerd --data-root {directory}/root --exec-root {directory}/exec \
        --host unix://{directory}/docker.sock --pidfile {directory}/docker.pid \
        --storage-driver vfs --userland-proxy=false"""
    with directory.joinpath("log").open("wb") as log:
        daemon = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script],
            stdout=log,
            stderr=log,
        )
    try:
        give_up = time.monotonic() + 20
        while b"API listen" not in directory.joinpath("log").read_bytes():
            assert daemon.poll() is None, directory.joinpath("log").read_text()
            assert time.monotonic() < give_up, directory.joinpath("log").read_text()
            time.sleep(0.1)
        yield
    finally:
        daemon.terminate()
        daemon.wait()


@pytest.mark.parametrize("forwarding_first", [False, True], ids=["off first", "on first"])
def test_docker_with_its_defaults(tmp_path: Path, forwarding_first: bool) -> None:
    """Where Docker finds forwarding off it switches it on, and drops what is not its own."""
    forwarding = Path("/proc/sys/net/ipv4/ip_forward")
    forwarding.write_text("1" if forwarding_first else "0")
    with dockerd(tmp_path):
        listed = subprocess.run(["iptables", "-S"], capture_output=True, text=True, check=True)
        assert "-A FORWARD -j DOCKER-USER" in listed.stdout, "its rules are there"
        assert ("-P FORWARD DROP" in listed.stdout) is not forwarding_first
        found = obstacles()
        if not forwarding_first:
            assert [one.chain for one in found] == [
                "chain FORWARD of table ip filter (policy drop)"
            ]
            assert all("-I DOCKER-USER " in command for command in found[0].remedy)
            for command in found[0].remedy:
                subprocess.run(["sh", "-ec", command], check=True)
        assert obstacles() == []
        with pair() as (one, other):
            assert talk(one, other, PATIENCE) == {4: True, 6: True}


def test_readiness_and_checksystem_say_it(caplog: pytest.LogCaptureFixture) -> None:
    """And take it back when it is over; the log has it once."""
    health = Health()
    watch = FirewallWatch(("cali",), health.reporter("other firewalls"), ipv6=True)
    nft = Nft.open()
    put("iptables -P FORWARD DROP", "")
    for _ in range(2):
        asyncio.run(watch.check(nft))
    (report,) = health.reports()
    assert not report.ready
    assert report.detail == (
        "chain FORWARD of table ip filter (policy drop) drops workloads' traffic; add: "
        "iptables -I FORWARD -i cali+ -j ACCEPT; iptables -I FORWARD -o cali+ -j ACCEPT"
    )
    assert len(caplog.records) == 1
    (check,) = firewalls()
    assert check.is_good is False
    assert check.remedy in report.detail
    put("iptables -P FORWARD ACCEPT", "")
    asyncio.run(watch.check(nft))
    assert health.ready
    assert [one.is_good for one in firewalls()] == [True]
    nft.close()
